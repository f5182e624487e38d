"""Whether a configuration can run: checks beyond the types and ranges of its keys, made before the first job."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from conffusion.calibration import calibrate
from conffusion.config.schema import RULE_FILLED, CalibrationSettings, Config
from conffusion.core.arrays import FloatArray
from conffusion.data.splits import has_groups
from conffusion.errors import CalibrationError, ConfigError
from conffusion.methods.registry import get_method
from conffusion.pipeline.plan import Plan, method_of
from conffusion.tasks import build_task


def checked_plan(config: Config) -> Plan:
    """Plan of a configuration after checks that need more than types and ranges.

    Raises:
        ConfigError: If a method, task, tuned setting, prior file or folder is unknown or missing; names the key.
    """
    plan = Plan(config)
    for name in config.methods:
        method = get_method(name)
        if method.network not in (None, "task") and method.network not in config.networks:
            raise ConfigError(f"networks.{method.network}: is missing; the method {name!r} needs it")
    for task, settings in config.tasks.items():
        for side in {plan.image_size(task, method_run) for method_run in ["", *plan.method_runs]}:
            build_task(task, **settings.degradation).apply(_ramp(side), ["trial"], config.seed, _ramp)
        _check_tuned(plan, task)
    _check_priors(plan)
    _check_training(plan)
    _check_splits(config)
    _check_sampling(plan)
    _check_calibration_sizes(config)
    _check_files(plan)
    return plan


def _ramp(side: int) -> FloatArray:
    """An image to try the settings of a task on: from black to white."""
    return np.broadcast_to(np.linspace(0, 1, side, dtype=np.float32), (1, 3, side, side)).copy()


def _check_tuned(plan: Plan, task: str) -> None:
    for method_run in plan.trained_method_runs:
        method = method_of(method_run).name
        if method not in plan.config.finetuning.tuned.get(task, {}):
            raise ConfigError(f"finetuning.tuned.{task}.{method}: is missing; copy the settings of another task")


def _check_priors(plan: Plan) -> None:
    """Every prior fits its role: the task that it restores, or none; diffusion or classification; the images' size."""
    config = plan.config
    for task, settings in config.tasks.items():
        _check_prior_task(plan, f"tasks.{task}.prior", settings.prior, task)
    for role, name in config.networks.items():
        _check_prior_task(plan, f"networks.{role}", name, None)
        if (config.priors[name].schedule is None) != (role != "generic"):
            wanted = (
                "a diffusion network (one with a schedule)" if role == "generic" else "an encoder (without a schedule)"
            )
            raise ConfigError(f"networks.{role} = {name!r}: must be {wanted}")
    for task in plan.tasks:
        for method_run in plan.method_runs:
            _check_prior_size(plan, task, method_run)


def _check_prior_task(plan: Plan, key: str, name: str, task: str | None) -> None:
    own = plan.config.priors[name].task
    if own != task:
        wanted = f"a prior whose `task` is {task}" if task else "a prior without a task"
        raise ConfigError(f"{key} = {name!r}: restores {own or 'no task'}, but {wanted} is needed here")


def _check_prior_size(plan: Plan, task: str, method_run: str) -> None:
    name, size = plan.prior_name(task, method_run), plan.image_size(task, method_run)
    made_for = plan.config.priors[name].options.get("image_size", size)
    if made_for != size:
        raise ConfigError(
            f"priors.{name}.options.image_size = {made_for}: but its images have {size} pixels a side; set image_size: "
            f"{made_for}, or options.image_size: {size} and priors_dir: null, which trains this network in the run"
        )


def _check_training(plan: Plan) -> None:
    for name in plan.used_priors:
        prior = plan.config.priors[name]
        on_own_images = prior.training and prior.training.images == "dataset" and not prior.checkpoint
        if plan.config.priors_dir is None and on_own_images and prior.task not in plan.config.tasks:
            raise ConfigError(
                f"priors.{name}.training.images = 'dataset': only a prior of a configured task can be trained on the "
                "run's own images; take faces or photos"
            )


def _check_splits(config: Config) -> None:
    sizes = config.dataset.splits.model_dump().values()
    shares = [size for size in sizes if size < 1]
    if shares and len(shares) < len(sizes):
        raise ConfigError("dataset.splits: give whole numbers for all splits, or shares below 1 for all")
    if sum(shares) > 1 + 1e-9:
        raise ConfigError(f"dataset.splits: the shares add up to {sum(shares):g}, more than 1")
    if shares and config.dataset.name == "faces":
        raise ConfigError("dataset.splits: faces are unlimited, so give whole numbers of images instead of shares")


def _check_sampling(plan: Plan) -> None:
    for name, task in plan.config.tasks.items():
        schedule = plan.config.priors[task.prior].schedule
        if schedule is not None and plan.config.sampling.n_steps > schedule.n_timesteps:
            raise ConfigError(
                f"sampling.n_steps = {plan.config.sampling.n_steps}: the schedule of priors.{task.prior} ({name}) has "
                f"only {schedule.n_timesteps} steps"
            )


def _check_calibration_sizes(config: Config) -> None:
    """Refuse splits that could not calibrate even intervals that never miss; shares are known once images are dealt."""
    sizes = config.dataset.splits.model_dump()
    check_split_sizes({split: size for split, size in sizes.items() if size >= 1}, "images", config.calibration)


def check_split_sizes(sizes: Mapping[str, int], units: str, settings: CalibrationSettings) -> None:
    """Refuse splits too small for alpha and delta.

    Args:
        sizes: Images, or groups where the images have groups, of the splits; only those that calibrate are looked at.
        units: "images" or "groups", for the message.
        settings: alpha, delta and the bound.
    Raises:
        ConfigError: Naming the split and how many would be needed.
    """
    for split in ("selection", "calibration"):
        if split not in sizes:
            continue
        error = _shortage(int(sizes[split]), settings)
        if error is not None:
            reason = str(error).replace("images", units)
            raise ConfigError(
                f"dataset.splits.{split}: has {sizes[split]} {units}, too few for calibration.alpha and delta: "
                f"{reason}. Give this split a larger number or share, or raise alpha or delta"
            )


def units_needed(settings: CalibrationSettings) -> int:
    """Images or groups that a split must have at least to calibrate intervals that never miss."""
    low, high = 0, 1
    while _shortage(high, settings) is not None:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _shortage(middle, settings) is None else (middle, high)
    return high


def _shortage(n_units: int, settings: CalibrationSettings) -> CalibrationError | None:
    """Why so many units cannot calibrate even intervals that never miss; None if they can."""
    shape = (n_units, 1, 1, 2)
    perfect = np.zeros(shape), np.ones(shape), np.full(shape, 0.5)
    try:
        calibrate(*perfect, alpha=settings.alpha, delta=settings.delta, ucb=settings.ucb)
    except CalibrationError as error:
        return error
    return None


def check_dealt(splits: pd.DataFrame, settings: CalibrationSettings) -> dict[str, tuple[int, int]]:
    """Refuse dealt images that are too few to calibrate, now that their groups are known.

    Args:
        splits: As splits.csv: columns image_id, group and split.
        settings: alpha, delta and the bound.
    Returns:
        Images and groups of every split.
    Raises:
        ConfigError: As `check_split_sizes`.
    """
    counts = {str(split): (len(rows), rows["group"].nunique()) for split, rows in splits.groupby("split", sort=False)}
    grouped = has_groups(splits)
    units = {split: n_groups if grouped else n_images for split, (n_images, n_groups) in counts.items()}
    check_split_sizes(units, "groups" if grouped else "images", settings)
    return counts


def _check_files(plan: Plan) -> None:
    """Name everything that is missing in one message."""
    config, missing = plan.config, []
    path = Path(str(config.dataset.folder.path))
    if config.dataset.name == "folder" and not path.exists():
        missing.append(f"dataset.folder.path = {str(path)!r}: no such folder or archive of images")
    for name in plan.used_priors:
        missing += _lacking_prior(plan, name)
    if len(missing) == 1:
        raise ConfigError(missing[0])
    if missing:
        raise ConfigError("some files are missing:\n- " + "\n- ".join(missing))


def _lacking_prior(plan: Plan, name: str) -> list[str]:
    """What is missing for a prior, if anything is."""
    config, prior = plan.config, plan.config.priors[name]
    if prior.checkpoint == RULE_FILLED:
        return []
    if prior.checkpoint:
        where = f"; it should be {prior.source}" if prior.source else ""
        found = Path(prior.checkpoint).is_file()
        return [] if found else [f"priors.{name}.checkpoint = {prior.checkpoint!r}: no such file{where}"]
    if config.priors_dir is None:
        where = f": {prior.source}" if prior.source else ""
        needs = f"priors.{name}: set `checkpoint` to its file{where}, or say under `training` how to train it"
        return [] if prior.training else [needs]
    if Path(plan.prior_path(name)).is_file():
        return []
    return [
        f"priors_dir = {config.priors_dir!r}: lacks {name}.safetensors; name the folder that has it, set "
        f"priors.{name}.checkpoint to an official file, or set priors_dir: null to train it in the run"
    ]
