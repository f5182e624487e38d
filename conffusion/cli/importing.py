"""`conffusion import-checkpoint`: official checkpoints as safetensors."""

import argparse
from pathlib import Path
from typing import Any

from conffusion.cli.options import add_configfile
from conffusion.config import load_config
from conffusion.config.schema import Config, PriorSettings
from conffusion.errors import ConfigError


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "convert an official checkpoint to safetensors, with configuration and source checksum inside"
    command = commands.add_parser("import-checkpoint", help=purpose, description=purpose)
    command.add_argument("checkpoint", help="the official file: *_gen.pth, 200_Network.pth, 128x128_diffusion.pt, ...")
    command.add_argument("output", help="file to write, ending in .safetensors")
    command.add_argument(
        "--prior",
        required=True,
        help="entry under `priors` of the network, for example sr3_celebahq",
    )
    command.add_argument(
        "--finetuned", metavar="TASK/METHOD", help="the file is a fine-tuned network with bound heads, for example "
        "super_resolution/n_conffusion; the prediction time is that of finetuning.tuned",
    )  # fmt: skip
    command.add_argument("--options", help="its options file, which holds lambda_hat: best_network_opt.pth")
    add_configfile(command)
    command.set_defaults(run=_import_checkpoint)


def _import_checkpoint(options: argparse.Namespace) -> str:
    from conffusion.pipeline.stages.importing import import_finetuned, import_prior

    config = load_config("config.yaml", *options.configfile)
    if options.prior not in config.priors:
        raise ConfigError(f"--prior {options.prior}: is not one of {', '.join(config.priors)}")
    if Path(options.output).suffix != ".safetensors":
        raise ConfigError(f"{options.output}: must end in .safetensors")
    prior = config.priors[options.prior].model_copy(update={"checkpoint": options.checkpoint})
    if options.finetuned is None:
        record = import_prior(options.prior, prior, options.output)
    else:
        spec = _predictor_spec(config, prior, options.finetuned)
        record = import_finetuned(options.prior, prior, spec, options.options, options.output)
    scale = f", lambda_hat {record['lambda_hat']:.6g}" if "lambda_hat" in record else ""
    if options.finetuned is not None:
        scale += (
            f"; read at prediction time {spec.prediction_time:g}, maps_timestep {spec.maps_timestep} (official "
            "networks need those of config/paper.yaml: give it with --configfile)"
        )
    source = record["source"]
    return f"{options.output}: {options.prior}, from {source['file']} (sha256 {source.get('sha256')}){scale}"


def _predictor_spec(config: Config, prior: PriorSettings, finetuned: str) -> Any:
    from conffusion.methods.models import PredictorSpec
    from conffusion.tasks import build_task
    from conffusion.training.priors import architecture_of

    task, _, method = finetuned.partition("/")
    tuned = config.finetuning.tuned.get(task, {}).get(method)
    if tuned is None:
        raise ConfigError(f"--finetuned {finetuned}: finetuning.tuned has no {task}.{method}; give TASK/METHOD")
    maps_timestep = config.finetuning.maps_timestep
    return PredictorSpec(architecture_of(prior), tuned.prediction_time, build_task(task).has_mask, maps_timestep)
