"""What a configuration asks for: names, files, shards, memory."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from conffusion.config.schema import RULE_FILLED, Config
from conffusion.core.layout import RunLayout
from conffusion.data.splits import SPLITS
from conffusion.methods.registry import METHODS, Method, get_method
from conffusion.pipeline.network_size import network_size
from conffusion.tasks import TASKS

POOL = ("calibration", "test")  # what bounds are evaluated on
PROTOCOL_NAMES = ("paper", "guaranteed")

# Memory of a job in MB: the libraries, float32 copies of the images that it holds at a time, copies of the weights.
_LIBRARIES_MB = 2500
_IMAGE_COPIES = {
    "prepare_images": 5, "sample_variants": 2, "extract_bounds": 6, "finetune_method": 8, "predict_bounds": 6,
    "trace_candidates": 12, "calibrate_method": 6, "evaluate_method": 12, "plot": 4,
}  # fmt: skip
_STREAMED = ("prepare_images", "extract_bounds", "predict_bounds")  # hold at most so many MB of images at a time:
_BLOCK_MB = 256
# Weights, gradients and Adam's two moments, and what was read from the file; see also `_AVERAGE_COPIES`.
_WEIGHT_COPIES = {
    "import_prior": 4, "train_prior": 5, "sample_variants": 3, "finetune_method": 5, "predict_bounds": 3,
    "trace_candidates": 3,
}  # fmt: skip
_AVERAGE_COPIES = 2  # the average, and the weights put aside while it is validated
_RENDERED_COPIES = 4  # of the images that a prior is trained on, in 8 bits
_MB_PER_VALUE = 4e-6  # float32


@dataclass(frozen=True)
class Plan:
    """Resolves names of the configuration; `checked_plan` refuses what cannot run."""

    config: Config

    @property
    def run(self) -> str:
        """Results folder of the run."""
        return str(self.layout.folder)

    @property
    def layout(self) -> RunLayout:
        """Where its files are."""
        return RunLayout.of(self.config.run)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return list(self.config.tasks)

    @property
    def method_runs(self) -> list[str]:
        """Methods in the order of the registry, trained ones once per replicate: n_conffusion, n_conffusion-r1, ..."""
        names = [name for name in METHODS if name in self.config.methods]
        return [method_run for name in names for method_run in self.replicates(name)]

    @property
    def trained_method_runs(self) -> list[str]:
        """Method runs that have a network of their own."""
        return [method_run for method_run in self.method_runs if not method_of(method_run).is_sampled]

    @property
    def first_method_runs(self) -> list[str]:
        """Every method once, in the order of the registry."""
        return [method_run for method_run in self.method_runs if replicate_of(method_run) == 0]

    def replicates(self, method: str) -> list[str]:
        """Runs of one method."""
        n_replicates = 1 if get_method(method).is_sampled else self.config.replicates
        return [method, *(f"{method}-r{k}" for k in range(1, n_replicates))]

    @property
    def shown_method_runs(self) -> list[str]:
        """Method runs whose intervals are shown image by image: DM_SB and N-Conffusion, or whatever there is."""
        shown = [method_run for method_run in self.first_method_runs if method_run in ("dm_sb", "n_conffusion")]
        return shown or self.first_method_runs[:1]

    def compared(self, method_run: str) -> tuple[str, ...]:
        """Splits on whose bounds every calibration bound and set family is compared: the pool, of those shown."""
        return POOL if method_run in self.shown_method_runs else ()

    @property
    def tables(self) -> list[str]:
        """Names of the tables, verdicts first."""
        pretraining = ["pretraining"] if "g_conffusion" in self.config.methods else []
        return ["claims", *self.tasks, "validity", *pretraining, "speed"]

    @property
    def figures(self) -> list[str]:
        """Names of the figures, in the order of the report."""
        names = [f"methods_{task}" for task in self.tasks]
        names += [f"examples_{task}_{method_run}" for task in self.tasks for method_run in self.shown_method_runs]
        names += ["stratified_risk", "position_risk", "size_risk"]
        names += [f"risk_curve_{task}_{protocol}" for task in self.tasks for protocol in PROTOCOL_NAMES]
        names += ["validity", "bounds", *(f"training_{task}" for task in self.tasks if self.trained_method_runs)]
        return names

    @property
    def published(self) -> list[str]:
        """Small result files, below the run's folder, that `snakemake publish` copies: all but images and bounds."""
        here = RunLayout(Path())
        files = [here.config, here.splits, here.report]
        files += [*map(here.table, self.tables), *map(here.figure, self.figures)]
        for task in self.tasks:
            for method_run in self.method_runs:
                for results in (here.results(task, method_run, protocol) for protocol in PROTOCOL_NAMES):
                    files += [results.calibration, results.metrics]
                    files += [results.model] if method_run in self.trained_method_runs else []
        return [file.as_posix() for file in files]

    def n_shards(self, split: str) -> int:
        """Sampling jobs of a split."""
        size = getattr(self.config.dataset.splits, split)
        if size < 1:
            return self.config.sampling.shards_per_share
        return math.ceil(size / self.config.sampling.images_per_shard)

    def shards(self, task: str, split: str) -> list[str]:
        """Manifests of the variant stores of a task and split."""
        n_shards = self.n_shards(split)
        return [str(self.layout.variants(task, split, k, n_shards)) for k in range(n_shards)]

    @property
    def studied_solvers(self) -> list[tuple[str, int]]:
        """Solvers and numbers of steps that `snakemake solver_study` compares, the configured one among them."""
        own = (self.config.sampling.solver, self.config.sampling.n_steps)
        listed = [(name, steps) for name, every in self.config.solver_study.solvers.items() for steps in every]
        return list(dict.fromkeys([*listed, own]))

    def studied_variants(self, solver: str, n_steps: int) -> int:
        """Variants of each image drawn for the study."""
        study = self.config.solver_study
        is_reference = (solver, n_steps) == (study.reference.solver, study.reference.n_steps)
        return study.reference.n_variants if is_reference else max(study.n_variants)

    def prior_name(self, task: str, method_run: str) -> str:
        """The prior that a method uses on a task."""
        role = method_of(method_run).network
        if role in (None, "task"):
            return self.config.tasks[task].prior
        return self.config.networks[str(role)]

    def prior_path(self, name: str) -> str:
        """Checkpoint of a prior: a shipped one, or one that the run trains or converts from an official file."""
        own = self.layout.prior(name)
        shipped = None if self.config.priors[name].checkpoint else self.config.priors_dir
        return str(Path(shipped) / own.name if shipped else own)

    @property
    def used_priors(self) -> list[str]:
        """Names of the priors that some method uses on some task."""
        return sorted({self.prior_name(task, method_run) for task in self.tasks for method_run in self.method_runs})

    @property
    def imported_priors(self) -> list[str]:
        """Names of the priors that come from an official file."""
        return [name for name, prior in self.config.priors.items() if prior.checkpoint]

    @property
    def trained_priors(self) -> list[str]:
        """Names of the priors that `snakemake priors` trains."""
        return [name for name, prior in self.config.priors.items() if prior.training and not prior.checkpoint]

    @property
    def prior_images(self) -> dict[str, int]:
        """Images that the training of a prior sees, by its name: steps times batch size."""
        trainings = {name: self.config.priors[name].training for name in self.trained_priors}
        return {name: one.n_steps * one.batch_size for name, one in trainings.items() if one}

    def image_size(self, task: str, method_run: str = "") -> int:
        """Side of the images that a method sees: its network's own, else that of the task's network, else the run's."""
        priors = self.config.priors
        own = priors[self.prior_name(task, method_run)].image_size if method_run else None
        return own or priors[self.config.tasks[task].prior].image_size or self.config.image_size

    @property
    def largest_image_size(self) -> int:
        """Side of the largest images of the run."""
        return max(self.image_size(task, method_run) for task in self.tasks for method_run in ["", *self.method_runs])

    def images(self, task: str, split: str, method_run: str = "") -> str:
        """Manifest of the images that a method sees; those of a size other than the task's have their own folder."""
        size = self.image_size(task, method_run)
        folder = "images" if size == self.image_size(task) else f"images-{size}"
        return str(self.layout.images(task, split, folder))

    def side_in(self, task: str, folder: str) -> int:
        """Side of the images of a task in one of its folders, as in the path that `images` gives."""
        return int(folder.removeprefix("images-")) if "-" in folder else self.image_size(task)

    def memory_mb(self, stage: str, task: str, method_run: str = "") -> int:
        """Memory to reserve for a job of a task: small at the default scale, gigabytes at the paper's."""
        config, sizes = self.config, self.config.dataset.splits.model_dump()
        n_images = max(sizes.values()) if min(sizes.values()) >= 1 else 2000
        pixels_mb = 3 * self.image_size(task, method_run) ** 2 * _MB_PER_VALUE
        held_mb = min(n_images * pixels_mb, _BLOCK_MB) if stage in _STREAMED else n_images * pixels_mb
        needed = _IMAGE_COPIES.get(stage, 0) * held_mb
        if stage == "sample_variants":
            shard_mb = config.sampling.images_per_shard * config.sampling.n_variants * pixels_mb
            needed += min(shard_mb, 3 * _BLOCK_MB)  # a zarr shard that fills, one that is written, images being drawn
        if stage in _WEIGHT_COPIES:
            fit = (config.finetuning.batch_size, config.finetuning.ema) if stage == "finetune_method" else (0, 0.0)
            needed += self._network_mb(
                stage, self.prior_name(task, method_run), self.image_size(task, method_run), *fit
            )
        return _rounded_mb(needed)

    def prior_memory_mb(self, stage: str, name: str) -> int:
        """Memory to reserve for a job that converts or trains a prior."""
        prior, needed = self.config.priors[name], 0.0
        side, training = prior.image_size or self.config.image_size, prior.training
        if stage == "train_prior" and training is not None:
            needed = _RENDERED_COPIES * training.n_images * 3 * side**2 / 1e6
        fit = (training.batch_size, training.ema) if stage == "train_prior" and training else (0, 0.0)
        return _rounded_mb(needed + self._network_mb(stage, name, side, *fit))

    def _network_mb(self, stage: str, prior: str, side: int, batch_size: int, ema: float) -> float:
        """Copies of the weights and, where there is no GPU for them, the values kept for the gradient of a batch."""
        size = network_size(self.config.priors[prior], side)
        copies = _WEIGHT_COPIES[stage] + (_AVERAGE_COPIES if ema else 0)
        n_kept = batch_size * size.n_kept if self.config.device != "cuda" else 0
        return (copies * size.n_parameters + n_kept) * _MB_PER_VALUE

    def training_images(self, name: str) -> list[str]:
        """Manifest of the images that a prior is trained on, where they are the run's own."""
        training, task = self.config.priors[name].training, self.config.priors[name].task
        if training is None or training.images != "dataset":
            return []
        return [self.images(task or self.tasks[0], "finetune")]


def _rounded_mb(needed: float) -> int:
    """With the libraries, in steps of 500 MB."""
    return math.ceil((_LIBRARIES_MB + needed) / 500) * 500


def method_of(method_run: str) -> Method:
    """Method of an method_run such as "resnext" or "resnext-r2"."""
    return get_method(method_run.partition("-r")[0])


def replicate_of(method_run: str) -> int:
    """Replicate number of an method_run, 0 for the first."""
    return int(method_run.partition("-r")[2] or 0)


def folders_of(files: Iterable[str]) -> list[Path]:
    """Folder of each file: results/<run>/<task>/<method_run>/<protocol> of its metrics.json."""
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


__all__ = [
    "POOL",
    "PROTOCOL_NAMES",
    "SPLITS",
    "Plan",
    "config_text",
    "method_of",
    "official_files",
    "replicate_of",
]
