"""`conffusion export`: a model for other runtimes."""

import argparse
from typing import Any

from conffusion.cli.models import MODEL, open_package


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "write a one-pass model with its scale as an ONNX file, for onnxruntime and others"
    command = commands.add_parser("export", help=purpose, description=purpose)
    command.add_argument("model", help=MODEL)
    command.add_argument("--format", choices=("onnx",), default="onnx", help="format of the file (default: onnx)")
    command.add_argument("--output", required=True, help="file to write, ending in .onnx")
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> str:
    from conffusion.contrib.onnx import export_onnx

    exported = export_onnx(open_package(options.model), options.output)
    about = exported.metadata
    scale = f"lambda_hat = {about['lambda_hat']:.6g} of the set family {about['family']!r}"
    lines = [
        f"{options.output}: {about['name']}, with {scale} inside",
        about["guarantee"],
        f"onnxruntime differs from the model by at most {exported.largest_difference:.2g} on made-up images",
        *(f"input  {name}: {text}" for name, text in about["inputs"].items()),
        *(f"output {name}: {text}" for name, text in about["outputs"].items()),
    ]
    if about["calibrated_in"] != "float32":
        lines.append(
            f"NOTE: the model was calibrated in {about['calibrated_in']} and the file computes in float32, so its "
            "bounds differ by that rounding; for a guarantee about this very file, calibrate in float32"
        )
    return "\n".join(lines)
