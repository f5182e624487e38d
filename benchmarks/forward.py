"""Time of one forward pass of the full-size SR3, Palette and ADM networks, beside the official code.

Run from the root of the repository: `.venv/bin/python -m benchmarks.forward --official PATH --output forward.json`.
Both sides have the same weights and input, and their outputs are compared: the exit status is 1 if they differ.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.common import (
    Measurement,
    Record,
    Side,
    common_options,
    measure,
    network_of_fixture,
    positive,
    precision_of,
    report,
    set_tf32,
)
from conffusion.core.device import Device, select_device
from conffusion.models import UNet
from tests import conformance

KINDS = ("sr3", "palette", "adm")
LEVELS = {"sr3": 0.73, "palette": 0.41, "adm": 3}  # the `level` that each kind of network is told
CLASS_LABEL = 207
# Of the fixtures' tolerances, which hold for CPUs and the default memory layout: in channels-last layout the CPU group
# norm of torch adds up whole planes in a row and loses a digit; GPUs differ as much.
TOLERANCE_FACTOR = 10
BFLOAT16_DEVIATION_FACTOR = 2  # of the official network's own deviation from float32


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the networks asked for; 1 if outputs differ by more than the tolerance."""
    options = _parse(arguments)
    set_tf32(False)  # float32 means float32, so that outputs can be compared
    device = select_device(options.device, threads=options.threads).torch_device
    rows = [row for kind in options.networks for row in _rows(kind, options, device)]
    report("forward", options, device, rows)
    wrong = [row for row in rows if options.official and not row["max_difference"] <= row["tolerance"]]
    for row in wrong:
        print(f"{row['network']}, {row['precision']}: the outputs differ", file=sys.stderr)
    return 1 if wrong else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_options("One forward pass of our networks beside the official ones.")
    parser.add_argument("--networks", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--size", type=positive, help="side of the input in pixels (default: each network's own)")
    parser.add_argument("--batch", type=positive, default=1, help="images per pass (default: 1)")
    return parser.parse_args(arguments)


def _rows(kind: str, options: argparse.Namespace, device: torch.device) -> list[Record]:
    """One row per precision that the hardware has."""
    fixture = f"{kind}/{'small_net' if options.small else 'full_net'}"
    ours = network_of_fixture(fixture)
    size = options.size or ours.config["image_size"]
    inputs = _inputs(ours, options.batch, size, device)
    official = options.official.unet(ours).to(device) if options.official else None
    precisions = [Device(device, False)]
    if select_device(options.device, "auto", options.threads).bfloat16:
        precisions.append(Device(device, True))
    sides = [side for device in precisions for side in _sides(ours, official, inputs, device)]
    outputs = {side.name: side.call().float() for side in sides}
    measurements = measure(sides, device, options.rounds)
    rows = []
    for device in precisions:
        precision = precision_of(device)
        row = {"network": kind, "pixels": size, "batch": options.batch, "precision": precision}
        rows.append({**row, **_times(precision, measurements), **_differences(precision, outputs, fixture)})
    return rows


def _inputs(network: UNet, n_images: int, size: int, device: torch.device) -> tuple[Tensor, ...]:
    """Normal noise, a noise level in the form the official network of this kind takes, and labels if it has classes."""
    x = torch.randn(n_images, network.in_channels, size, size, generator=torch.Generator().manual_seed(0))
    shape = (n_images,) if network.kind == "adm" else (n_images, 1)
    inputs = [x, torch.full(shape, LEVELS[network.kind])]
    if network.n_classes:
        inputs.append(torch.full((n_images,), CLASS_LABEL % network.n_classes))
    return tuple(part.to(device) for part in inputs)


def _sides(ours: UNet, official: nn.Module | None, inputs: tuple[Tensor, ...], device: Device) -> list[Side]:
    """Our network as the package runs it, then the official one in the same precision."""
    precision, n_images = precision_of(device), len(inputs[0])
    sides = [Side(f"ours {precision}", partial(_pass, device.place(ours), inputs, device), n_images)]
    if official is not None:
        sides.append(Side(f"official {precision}", partial(_pass, official, inputs, device), n_images, official=True))
    return sides


def _pass(network: nn.Module, inputs: tuple[Tensor, ...], device: Device) -> Tensor:
    with torch.inference_mode(), device.autocast():
        output: Tensor = network(*inputs)
    return output


def _times(precision: str, measurements: dict[str, Measurement]) -> Record:
    """Milliseconds per image, and ours over official: in the same precision, and over the official float32."""
    ours = measurements[f"ours {precision}"]
    official, single = measurements.get(f"official {precision}"), measurements.get("official float32")
    return {
        "ours_ms": 1e3 * ours.median,
        "official_ms": 1e3 * official.median if official else None,
        "ratio": ours.ratio_to(official) if official else None,
        "ratio_to_official_float32": ours.ratio_to(single) if single else None,
        "peak_mib": ours.peak_mib,
        "official_peak_mib": official.peak_mib if official else None,
    }


def _differences(precision: str, outputs: dict[str, Tensor], fixture: str) -> Record:
    """Largest difference of our output from the official float32 one, and how much is allowed.

    In float32 that is a multiple of the fixture's tolerance; in bfloat16, of what the official network itself deviates.
    """
    if "official float32" not in outputs:
        return {"max_difference": None, "tolerance": None}
    truth = outputs["official float32"]
    if precision == "bfloat16":
        tolerance = BFLOAT16_DEVIATION_FACTOR * _largest(outputs["official bfloat16"] - truth)
    else:
        tolerance = TOLERANCE_FACTOR * conformance.load(fixture)[0]["tolerance"]["atol"]
    return {"max_difference": _largest(outputs[f"ours {precision}"] - truth), "tolerance": tolerance}


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())


if __name__ == "__main__":
    sys.exit(main())
