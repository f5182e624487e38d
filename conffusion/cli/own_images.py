"""Commands for people's own images: package, predict, calibrate, evaluate."""

import argparse
from typing import TYPE_CHECKING, Any

from conffusion.cli.models import MODEL, open_package, place_in_run
from conffusion.cli.options import add_licence, licence_text, show_progress
from conffusion.core.choices import (
    BATCH_SIZE,
    DEFAULT_ALPHA,
    DEFAULT_DELTA,
    DEFAULT_SCALING,
    FINITE_SAMPLE_BOUNDS,
    PLAIN_FAMILIES,
    RECOMMENDED_BOUND,
)
from conffusion.errors import ConfigError

if TYPE_CHECKING:
    from conffusion.core.labelled_bounds import LabelledBounds
    from conffusion.inference.predictor import Predictor
    from conffusion.inference.reader import Reader


def add(commands: Any) -> None:
    """Add the commands."""
    _add_package(commands)
    _add_predict(commands)
    _add_calibrate(commands)
    _add_evaluate(commands)


def _add_package(commands: Any) -> None:
    purpose = "put a calibrated method of a run into one portable file"
    command = commands.add_parser("package", help=purpose, description=purpose)
    command.add_argument("model", help="results/<run>/<task>/<method>[/<protocol>]")
    command.add_argument("--output", required=True, help="file to write, ending in .conffusion")
    command.add_argument("--name", default="", help="name of the model (default: run, task and method)")
    add_licence(command)
    command.set_defaults(run=_package)


def _add_predict(commands: Any) -> None:
    purpose = "restore images with a lower and an upper bound for every pixel"
    command = commands.add_parser("predict", help=purpose, description=purpose)
    command.add_argument("model", help=MODEL)
    command.add_argument("images", nargs="+", help="images (PNG, TIFF, JPEG, PGM, zarr) and folders of them")
    command.add_argument(
        "--output", required=True, help="folder for the predictions; images predicted there already are skipped"
    )
    _add_groups(command)
    _add_reading(command)
    _add_computing(command)
    command.set_defaults(run=_predict)


def _add_calibrate(commands: Any) -> None:
    purpose = "find the scale at which the risk is controlled on your own images"
    command = commands.add_parser(
        "calibrate",
        help=purpose,
        description=purpose + ", from a model and pairs (corrupted image, truth), or from bounds and truths as arrays.",
    )
    _add_pairs(command)
    _add_level(command)
    command.add_argument(
        "--output", required=True, help="folder for model.conffusion, calibration.json, curve, verdict"
    )
    command.add_argument(
        "--description",
        default="",
        help="description of the images, for the model card (default: where they come from)",
    )
    add_licence(command)
    _add_reading(command)
    _add_computing(command)
    command.set_defaults(run=_calibrate)


def _add_evaluate(commands: Any) -> None:
    purpose = "check the guarantee on images with known truth that took no part in the calibration"
    command = commands.add_parser("evaluate", help=purpose, description=purpose)
    _add_pairs(command)
    command.add_argument("--alpha", type=float, help="risk level of the guarantee, for arrays; a model has its own")
    command.add_argument(
        "--lambda-hat", type=float, help="scale to apply to arrays first (default: none, they are calibrated already)"
    )
    command.add_argument("--output", required=True, help="folder for predictions, metrics.json and the verdict")
    _add_reading(command)
    _add_computing(command)
    command.set_defaults(run=_evaluate)


def _add_pairs(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", nargs="?", help=MODEL + "; left out with arrays")
    command.add_argument(
        "--images", nargs="+", default=[], help="corrupted images (default: made from the truths by the task)"
    )
    command.add_argument("--targets", nargs="+", default=[], help="true images, with the names of the corrupted ones")
    for name, what in (("lower", "lower bounds"), ("upper", "upper bounds"), ("target", "truths")):
        command.add_argument(
            f"--{name}", help=f"{what} of any method: .npy, zarr or TIFF stack, (N, C, H, W) in [0, 1]"
        )
    command.add_argument(
        "--scaling", default=DEFAULT_SCALING, choices=PLAIN_FAMILIES, help="set family of arrays (default: %(default)s)"
    )
    _add_groups(command)


def _add_groups(command: argparse.ArgumentParser) -> None:
    group = command.add_mutually_exclusive_group()
    group.add_argument("--group-pattern", help="regular expression on file names; its part in brackets is the group")
    group.add_argument("--group-csv", help="table with columns file, group; for arrays a column group, in their order")


def _add_level(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--alpha",
        type=float,
        default=DEFAULT_ALPHA,
        help="risk level: share of pixel values that may lie outside (default: %(default)s)",
    )
    command.add_argument(
        "--delta",
        type=float,
        default=DEFAULT_DELTA,
        help="error level: probability with which the guarantee may fail (default: %(default)s)",
    )
    command.add_argument(
        "--ucb", help=f"bound: {', '.join(FINITE_SAMPLE_BOUNDS)} (docs/guarantee.md; default: {RECOMMENDED_BOUND})"
    )


def _add_reading(command: argparse.ArgumentParser) -> None:
    command.add_argument("--mask", help="inpainting: an image, or a folder of images; white marks what is missing")
    command.add_argument("--max-pixels", type=int, help="refuse larger images (default: 100 million)")
    command.add_argument(
        "--value-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="sample values that stand for black and white (default: as the model was calibrated)",
    )


def _add_computing(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute (default: auto)"
    )
    command.add_argument(
        "--batch-size", type=int, default=BATCH_SIZE, help="tiles per network call (default: %(default)s)"
    )
    command.add_argument("--threads", type=int, help="CPU threads (default: as many as there are cores)")
    command.add_argument("--no-pictures", action="store_true", help="only the results: no overview, no heat map")


def _package(options: argparse.Namespace) -> str:
    from conffusion.inference.from_run import package_run
    from conffusion.inference.model_file import write_package

    package = package_run(*place_in_run(options.model), name=options.name)
    sha256 = write_package(package, options.output, licence_text(options))
    return f"{options.output}: {package.record.name} (sha256 of its weights {sha256})\n{package.guarantee}"


def _predict(options: argparse.Namespace) -> str:
    from conffusion.inference.commands import predict_images, warning_lines

    show_progress()
    predictor = _predictor(options)
    reader = _reader(options, predictor, options.images, [])
    summary = predict_images(predictor, reader, options.output, pictures=not options.no_pictures)
    drift = summary["drift"]
    lines = [
        f"{summary['n_images']} images in {options.output} ({summary['n_predicted_now']} predicted now)",
        summary["guarantee"],
        f"mean interval size {summary['interval_size_mean']:.4f}; drift check p = {drift['p_value']:.3g}",
    ]
    common = [*summary["warnings"], *([drift["warning"]] if drift["warning"] else [])]
    lines += warning_lines(summary["kinds_of_warnings"], common)
    return "\n".join([*lines, f"look at them: conffusion view {options.output}"])


def _calibrate(options: argparse.Namespace) -> str:
    from conffusion.calibration import CalibrationOptions
    from conffusion.inference.commands import calibrate_arrays, calibrate_package

    show_progress()
    asked = CalibrationOptions(options.alpha, options.delta, options.scaling, options.ucb)
    if _has_arrays(options):
        return calibrate_arrays(_arrays(options), asked, options.output)
    predictor = _predictor(options)
    reader = _reader(options, predictor, options.images, _needed_targets(options))
    description = options.description or f"pairs from {', '.join(map(str, options.targets))}"
    return calibrate_package(
        predictor, reader, asked, options.output, description=description, licence=licence_text(options)
    )


def _evaluate(options: argparse.Namespace) -> str:
    from conffusion.inference.commands import evaluate_arrays, evaluate_package

    show_progress()
    if _has_arrays(options):
        if options.alpha is None:
            raise ConfigError("--alpha is missing: the risk level that the arrays' intervals guarantee")
        scale = {"scaling": options.scaling, "lambda_hat": options.lambda_hat}
        return evaluate_arrays(_arrays(options), options.alpha, options.output, **scale)
    predictor = _predictor(options)
    reader = _reader(options, predictor, options.images, _needed_targets(options))
    return evaluate_package(predictor, reader, options.output, pictures=not options.no_pictures)


def _predictor(options: argparse.Namespace) -> "Predictor":
    from conffusion.inference.predictor import Predictor

    if options.model is None:
        raise ConfigError(f"give a model ({MODEL}), or --lower, --upper and --target")
    return Predictor(open_package(options.model), options.device, options.batch_size, options.threads)


def _reader(options: argparse.Namespace, predictor: "Predictor", images: list[str], targets: list[str]) -> "Reader":
    from conffusion.images.image import MAX_PIXELS
    from conffusion.inference.reader import ReadingOptions, open_reader

    given = options.value_range
    value_range = (given[0], given[1]) if given else predictor.package.record.calibrated_on.value_range
    reading = ReadingOptions(
        masks=options.mask,
        max_pixels=MAX_PIXELS if options.max_pixels is None else options.max_pixels,
        value_range=value_range,
        group_pattern=options.group_pattern,
        group_csv=options.group_csv,
    )
    return open_reader(predictor.package, images, targets, reading)


def _needed_targets(options: argparse.Namespace) -> list[str]:
    if not options.targets:
        raise ConfigError("--targets is missing: files or folders of true images")
    return list(options.targets)


def _has_arrays(options: argparse.Namespace) -> bool:
    given = [name for name in ("lower", "upper", "target") if getattr(options, name) is not None]
    if given and len(given) < 3:
        raise ConfigError(f"--{given[0]} needs the other two of --lower, --upper and --target")
    if given and options.model is not None:
        raise ConfigError(f"{options.model}: a model and arrays; give one of them")
    return bool(given)


def _arrays(options: argparse.Namespace) -> "LabelledBounds":
    from conffusion.inference.arrays import read_arrays

    if options.group_pattern is not None:
        raise ConfigError("--group-pattern: arrays have no file names; give --group-csv with a column group")
    return read_arrays(options.lower, options.upper, options.target, options.mask, options.group_csv)
