"""Commands for people's own images: package, predict, calibrate, evaluate."""

import argparse
from typing import TYPE_CHECKING, Any

from conffusion.cli.models import MODEL, open_package, place_in_run
from conffusion.cli.options import add_licence, licence_text, show_progress
from conffusion.errors import ConfigError

if TYPE_CHECKING:
    from conffusion.inference.inputs import Inputs
    from conffusion.inference.predictor import Predictor


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
    _add_promise(command)
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
        "--scaling",
        default="interval",
        choices=("multiplicative", "additive", "interval"),
        help="set family of arrays (default: interval)",
    )
    _add_groups(command)


def _add_groups(command: argparse.ArgumentParser) -> None:
    group = command.add_mutually_exclusive_group()
    group.add_argument("--group-pattern", help="regular expression on file names; its part in brackets is the group")
    group.add_argument("--group-csv", help="table with columns file, group; for arrays a column group, in their order")


def _add_promise(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--alpha", type=float, default=0.1, help="risk level: share of pixel values that may lie outside (default: 0.1)"
    )
    command.add_argument(
        "--delta",
        type=float,
        default=0.1,
        help="error level: probability with which the guarantee may fail (default: 0.1)",
    )
    command.add_argument(
        "--ucb",
        default="star",
        help="bound: star, wsr, hoeffding_bentkus, ...; see docs/guarantee.md (default: %(default)s)",
    )


def _add_reading(command: argparse.ArgumentParser) -> None:
    command.add_argument("--mask", help="inpainting: an image, or a folder of images; white marks what is missing")
    command.add_argument(
        "--max-pixels", type=int, default=100_000_000, help="refuse larger images (default: 100 million)"
    )
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
    command.add_argument("--batch-size", type=int, default=64, help="tiles per network call (default: 64)")
    command.add_argument("--threads", type=int, help="CPU threads (default: as many as there are cores)")
    command.add_argument("--no-pictures", action="store_true", help="only the results: no overview, no heat map")


def _package(options: argparse.Namespace) -> str:
    from conffusion.inference.card import promise_in_words
    from conffusion.inference.from_run import package_run
    from conffusion.inference.model_file import write_package

    package = package_run(*place_in_run(options.model), name=options.name)
    sha256 = write_package(package, options.output, licence_text(options))
    return f"{options.output}: {package.record.name} (sha256 of its weights {sha256})\n{promise_in_words(package)}"


def _predict(options: argparse.Namespace) -> str:
    from conffusion.inference.predicting import predict_images

    show_progress()
    predictor = _predictor(options)
    inputs = _inputs(options, predictor, options.images, [])
    summary = predict_images(predictor, inputs, options.output, pictures=not options.no_pictures)
    drift = summary["drift"]
    lines = [
        f"{summary['n_images']} images in {options.output} ({summary['n_predicted_now']} predicted now)",
        summary["promise"],
        f"mean interval size {summary['interval_size_mean']:.4f}; drift check p = {drift['p_value']:.3g}",
    ]
    lines += [f"{count} of the images: {warning}" for warning, count in summary["kinds_of_warnings"].items()]
    lines += [f"WARNING: {warning}" for warning in summary["warnings"]]
    if drift["warning"]:
        lines.append(f"WARNING: {drift['warning']}")
    return "\n".join([*lines, f"look at them: conffusion view {options.output}"])


def _calibrate(options: argparse.Namespace) -> str:
    from conffusion.inference.calibrating import Promise, calibrate_arrays, calibrate_package

    show_progress()
    promise = Promise(options.alpha, options.delta, options.ucb)
    if _has_arrays(options):
        arrays, groups = _arrays(options)
        return calibrate_arrays(arrays, promise, options.output, scaling=options.scaling, groups=groups)
    predictor = _predictor(options)
    inputs = _inputs(options, predictor, options.images, _needed_targets(options))
    description = options.description or f"pairs from {', '.join(map(str, options.targets))}"
    return calibrate_package(
        predictor, inputs, promise, options.output, description=description, licence=licence_text(options)
    )


def _evaluate(options: argparse.Namespace) -> str:
    from conffusion.inference.evaluating import evaluate_arrays, evaluate_package

    show_progress()
    if _has_arrays(options):
        if options.alpha is None:
            raise ConfigError("--alpha is missing: the risk level that the arrays' intervals promise")
        arrays, groups = _arrays(options)
        scale = {"scaling": options.scaling, "lambda_hat": options.lambda_hat}
        return evaluate_arrays(arrays, options.alpha, options.output, groups=groups, **scale)
    predictor = _predictor(options)
    inputs = _inputs(options, predictor, options.images, _needed_targets(options))
    return evaluate_package(predictor, inputs, options.output, pictures=not options.no_pictures)


def _predictor(options: argparse.Namespace) -> "Predictor":
    from conffusion.inference.predictor import Predictor

    if options.model is None:
        raise ConfigError(f"give a model ({MODEL}), or --lower, --upper and --target")
    return Predictor(open_package(options.model), options.device, options.batch_size, options.threads)


def _inputs(options: argparse.Namespace, predictor: "Predictor", images: list[str], targets: list[str]) -> "Inputs":
    from conffusion.inference.inputs import InputOptions, gather

    given = options.value_range
    value_range = (given[0], given[1]) if given else predictor.package.record.calibrated_on.value_range
    reading = InputOptions(
        masks=options.mask,
        max_pixels=options.max_pixels,
        value_range=value_range,
        group_pattern=getattr(options, "group_pattern", None),
        group_csv=getattr(options, "group_csv", None),
    )
    return gather(predictor.task, predictor.package.record.seed, images, targets, reading, predictor.tile_size)


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


def _arrays(options: argparse.Namespace) -> tuple[Any, Any]:
    from conffusion.inference.arrays import read_arrays, read_groups

    if options.group_pattern is not None:
        raise ConfigError("--group-pattern: arrays have no file names; give --group-csv with a column group")
    arrays = read_arrays(options.lower, options.upper, options.target, options.mask)
    groups = None if options.group_csv is None else read_groups(options.group_csv, arrays.lower.shape[0])
    return arrays, groups
