"""What a configuration asks for: names, files, shards, and the settings that each stage depends on."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from conffusion.arrays import FloatArray
from conffusion.calibration import calibrate
from conffusion.config.schema import RULE_FILLED, Config
from conffusion.data.splits import SPLITS
from conffusion.errors import CalibrationError, ConfigError
from conffusion.methods.registry import METHODS, Method, get_method
from conffusion.tasks import TASKS, build_task

POOL = ("calibration", "test")  # what bounds are evaluated on
PROTOCOL_NAMES = ("paper", "guaranteed")


@dataclass(frozen=True)
class Plan:
    """Resolves names of the configuration; `checked` refuses what cannot run."""

    config: Config

    @property
    def run(self) -> str:
        """Results folder of the run."""
        return f"results/{self.config.run}"

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return list(self.config.tasks)

    @property
    def arms(self) -> list[str]:
        """Methods in the order of the registry, trained ones once per replicate: n_conffusion, n_conffusion-r1, ..."""
        names = [name for name in METHODS if name in self.config.methods]
        return [arm for name in names for arm in self.replicates(name)]

    @property
    def trained_arms(self) -> list[str]:
        """Arms that have a network of their own."""
        return [arm for arm in self.arms if not method_of(arm).is_sampled]

    @property
    def first_arms(self) -> list[str]:
        """Every method once, in the order of the registry."""
        return [arm for arm in self.arms if replicate_of(arm) == 0]

    def replicates(self, method: str) -> list[str]:
        """Arms of one method."""
        n_replicates = 1 if get_method(method).is_sampled else self.config.replicates
        return [method, *(f"{method}-r{k}" for k in range(1, n_replicates))]

    @property
    def shown_arms(self) -> list[str]:
        """Arms whose intervals are shown image by image: DM_SB and N-Conffusion, or whatever there is."""
        shown = [arm for arm in self.first_arms if arm in ("dm_sb", "n_conffusion")]
        return shown or self.first_arms[:1]

    @property
    def tables(self) -> list[str]:
        """Names of the tables, verdicts first."""
        pretraining = ["pretraining"] if "g_conffusion" in self.config.methods else []
        return ["claims", *self.tasks, "validity", *pretraining, "speed", "speed_rules"]

    @property
    def figures(self) -> list[str]:
        """Names of the figures, in the order of the report."""
        names = [f"methods_{task}" for task in self.tasks]
        names += [f"examples_{task}_{arm}" for task in self.tasks for arm in self.shown_arms]
        names += ["stratified_risk", "size_risk"]
        names += [f"risk_curve_{task}_{protocol}" for task in self.tasks for protocol in PROTOCOL_NAMES]
        names += ["validity", *(f"training_{task}" for task in self.tasks if self.trained_arms)]
        return names

    def n_shards(self, split: str) -> int:
        """Sampling jobs of a split."""
        size = getattr(self.config.dataset.splits, split)
        if size < 1:
            return self.config.sampling.shards_per_share
        return math.ceil(size / self.config.sampling.images_per_shard)

    def shards(self, task: str, split: str) -> list[str]:
        """Manifests of the variant stores of a task and split."""
        n_shards = self.n_shards(split)
        return [f"{self.run}/{task}/variants/{split}/shard-{k:05d}-of-{n_shards:05d}.json" for k in range(n_shards)]

    def prior_name(self, task: str, arm: str) -> str:
        """The prior that a method uses on a task."""
        role = method_of(arm).network
        if role in (None, "task"):
            return self.config.tasks[task].prior
        return self.config.networks[str(role)]

    def prior_path(self, name: str) -> str:
        """Checkpoint of a prior: a shipped one, or one that the run trains or converts from an official file."""
        shipped = None if self.config.priors[name].checkpoint else self.config.priors_dir
        return f"{shipped or self.run + '/priors'}/{name}.safetensors"

    @property
    def used_priors(self) -> list[str]:
        """Names of the priors that some method uses on some task."""
        return sorted({self.prior_name(task, arm) for task in self.tasks for arm in self.arms})

    @property
    def imported_priors(self) -> list[str]:
        """Names of the priors that come from an official file."""
        return [name for name, prior in self.config.priors.items() if prior.checkpoint]

    @property
    def trained_priors(self) -> list[str]:
        """Names of the priors that `snakemake priors` trains."""
        return [name for name, prior in self.config.priors.items() if prior.training and not prior.checkpoint]

    def image_size(self, task: str, arm: str = "") -> int:
        """Side of the images that a method sees: its network's own, else that of the task's network, else the run's."""
        priors = self.config.priors
        own = priors[self.prior_name(task, arm)].image_size if arm else None
        return own or priors[self.config.tasks[task].prior].image_size or self.config.image_size

    @property
    def largest_image_size(self) -> int:
        """Side of the largest images of the run."""
        return max(self.image_size(task, arm) for task in self.tasks for arm in ["", *self.arms])

    def images(self, task: str, split: str, arm: str = "") -> str:
        """Manifest of the images that a method sees; those of a size other than the task's have their own folder."""
        size = self.image_size(task, arm)
        folder = "images" if size == self.image_size(task) else f"images-{size}"
        return f"{self.run}/{task}/{folder}/{split}.json"

    def image_settings(self, task: str, folder: str) -> dict[str, Any]:
        """What the images of a task in one of its folders depend on; `folder` as in the path that `images` gives."""
        settings = self.config.tasks[task]
        return {
            **self.settings("split_images"),
            "task": task,
            "degradation": dict(settings.degradation),
            "resample": settings.resample,
            "side": int(folder.removeprefix("images-")) if "-" in folder else self.image_size(task),
        }

    def settings(self, stage: str, task: str = "", arm: str = "") -> dict[str, Any]:
        """What the numbers of a stage depend on, as plain values; a change reruns the stage.

        Args:
            stage: Name of the rule.
            task: Task of the job, where it has one.
            arm: Method, with its replicate, of the job, where it has one.
        """
        config = self.config.model_dump()
        shared, quirks = {"seed": self.config.seed}, {"official_quirks": self.config.official_quirks}
        if stage == "split_images":
            return {**shared, "dataset": config["dataset"], "image_size": self.largest_image_size}
        if stage == "sample_variants":
            prior = config["priors"][self.config.tasks[task].prior]
            return {**shared, "prior": prior, "sampling": config["sampling"], "precision": self.config.precision}
        if stage == "sample_priors":
            priors = {name: config["priors"][name] for name in self.used_priors if config["priors"][name]["schedule"]}
            return {**shared, "priors": priors, "sampling": config["sampling"], "precision": self.config.precision}
        if stage == "finetune_method":
            return {**shared, **quirks, **self._finetuning(task, arm), "precision": self.config.precision}
        if stage == "try_settings":
            finetuning = {**self._finetuning(task, arm), "tuned": None}
            return {**shared, **quirks, **finetuning, "tuning": config["tuning"], "precision": self.config.precision}
        if stage == "predict_bounds":
            return {**shared, **quirks, "precision": self.config.precision}
        if stage == "trace_candidates":
            return {**shared, "precision": self.config.precision}
        if stage == "extract_bounds":
            return {"alpha": self.config.calibration.alpha}
        if stage == "calibrate_method":
            return {**quirks, "calibration": config["calibration"]}
        if stage == "assess_validity":
            return {**shared, "calibration": config["calibration"], "validity": config["validity"]}
        raise ValueError(f"{stage}: is not a stage with settings")

    def prior_settings(self, name: str) -> dict[str, Any]:
        """What the training of one prior depends on."""
        prior = self.config.priors[name]
        degradation = self.config.tasks[prior.task].degradation if prior.task in self.config.tasks else {}
        return {
            "seed": self.config.seed,
            "name": name,
            "prior": prior.model_dump(),
            "degradation": degradation,
            "image_size": prior.image_size or self.config.image_size,
            "precision": self.config.precision,
        }

    def import_settings(self, name: str) -> dict[str, Any]:
        """What the conversion of an official file depends on."""
        prior = self.config.priors[name]
        return {"prior": prior.model_dump(exclude={"training", "task", "image_size"}), "name": name}

    def training_images(self, name: str) -> list[str]:
        """Manifest of the images that a prior is trained on, where they are the run's own."""
        training, task = self.config.priors[name].training, self.config.priors[name].task
        if training is None or training.images != "dataset":
            return []
        return [self.images(task or self.tasks[0], "finetune")]

    def _finetuning(self, task: str, arm: str) -> dict[str, Any]:
        config = self.config.model_dump()
        finetuning = config["finetuning"]
        tuned = finetuning["tuned"][task][method_of(arm).name]
        return {
            "method": method_of(arm).name,
            "replicate": replicate_of(arm),
            "prior": config["priors"][self.prior_name(task, arm)],
            "tuned": tuned,
            "finetuning": {**finetuning, "tuned": {}},
            "calibration": config["calibration"],
        }


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
        for side in {plan.image_size(task, arm) for arm in ["", *plan.arms]}:
            build_task(task, **settings.degradation).apply(_black(side), ["trial"], config.seed, _black)
        _check_tuned(plan, task)
    _check_splits(config)
    _check_sampling(plan)
    _check_calibration_sizes(config)
    _check_files(plan)
    return plan


def _black(side: int) -> FloatArray:
    """An image to try the settings of a task on."""
    return np.zeros((1, 3, side, side), dtype=np.float32)


def method_of(arm: str) -> Method:
    """Method of an arm such as "resnext" or "resnext-r2"."""
    return get_method(arm.partition("-r")[0])


def replicate_of(arm: str) -> int:
    """Replicate number of an arm, 0 for the first."""
    return int(arm.partition("-r")[2] or 0)


def folders_of(files: Iterable[str]) -> list[Path]:
    """Folder of each file: results/<run>/<task>/<arm>/<protocol> of its metrics.json."""
    return [Path(file).parent for file in files]


def heading(file: str) -> str:
    """Heading of a table or figure from its file name: "risk curve, super_resolution, paper"."""
    words = Path(file).stem
    for name in (*METHODS, *TASKS, *PROTOCOL_NAMES):
        words = words.replace(f"_{name}", f", {name}")
    return words


def official_files(config: Config, name: str) -> list[str]:
    """The official file of a prior, as an input; none where the weights are made by a rule."""
    checkpoint = config.priors[name].checkpoint
    return [checkpoint] if checkpoint and checkpoint != RULE_FILLED else []


def config_text(config: Config) -> str:
    """The merged configuration as YAML."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


def _check_tuned(plan: Plan, task: str) -> None:
    for arm in plan.trained_arms:
        method = method_of(arm).name
        if method not in plan.config.finetuning.tuned.get(task, {}):
            raise ConfigError(f"finetuning.tuned.{task}.{method}: is missing; copy the settings of another task")


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
    """Refuse splits that could not calibrate even intervals that never miss."""
    settings = config.calibration
    for split in ("selection", "calibration"):
        size = getattr(config.dataset.splits, split)
        if size < 1:  # a share: the number of groups is not known yet
            continue
        shape = (size, 1, 1, 2)
        perfect = np.zeros(shape), np.ones(shape), np.full(shape, 0.5)
        try:
            calibrate(*perfect, alpha=settings.alpha, delta=settings.delta, ucb=settings.ucb)
        except CalibrationError as error:
            raise ConfigError(
                f"dataset.splits.{split} = {size}: too few for calibration.alpha and delta: {error}"
            ) from None


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


__all__ = [
    "POOL",
    "PROTOCOL_NAMES",
    "SPLITS",
    "Plan",
    "checked_plan",
    "config_text",
    "method_of",
    "official_files",
    "replicate_of",
]
