"""One fine-tuning run in memory: the predictor, its data, and how a checkpoint of it scores under a protocol."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from conffusion.arrays import to_pm1
from conffusion.compute import Compute
from conffusion.config.schema import CalibrationSettings, FinetuningSettings, MethodTuning, PriorSettings
from conffusion.errors import StoreError
from conffusion.methods.competition import Score, ValidationImages, score_checkpoint
from conffusion.methods.models import PredictorSpec
from conffusion.methods.predictor import BoundPredictor
from conffusion.methods.protocols import get_protocol, official_grid
from conffusion.methods.random_inputs import image_noise
from conffusion.methods.registry import Method
from conffusion.models.networks import load_prior
from conffusion.randomness import keyed_generator
from conffusion.stages.images import groups_of
from conffusion.stages.prediction import predict_store
from conffusion.store import SealedStore, open_store, read_array
from conffusion.tasks import build_task
from conffusion.training.finetune import TrainingSet, finetune, validation_steps
from conffusion.training.loop import Optimisation
from conffusion.training.objectives import OBJECTIVES, Objective, Sharpening
from conffusion.training.priors import architecture_of


@dataclass(frozen=True)
class FinetuningJob:
    """Everything that decides what a fine-tuning run computes.

    Attributes:
        method: The system to fit.
        replicate: 0, 1, ...: another seed for each.
        prior: The prior whose architecture, and weights if the method is pretrained, are used.
        tuned: Learning rate, prediction time and steps of this task and method.
        finetuning: Settings that all methods share.
        calibration: alpha, delta and the bound under which checkpoints compete.
        seed: The run's seed.
        official_quirks: Whether checkpoints of the protocol "paper" compete with the accidents of the official code.
    """

    method: Method
    replicate: int
    prior: PriorSettings
    tuned: MethodTuning
    finetuning: FinetuningSettings
    calibration: CalibrationSettings
    seed: int
    official_quirks: bool = False

    @property
    def run_seed(self) -> int:
        """Seed of initialisation, data order and noise of this replicate."""
        return self.seed_of("finetune")

    def seed_of(self, purpose: str) -> int:
        """Seed of one purpose of this replicate."""
        return int(keyed_generator(purpose, self.seed, self.method.name, self.replicate).integers(2**31))


@dataclass(frozen=True)
class FinetuningInputs:
    """What a fine-tuning run reads.

    Attributes:
        prior: Checkpoint of the prior.
        splits: splits.csv.
        images: Image stores by split: finetune, and those on which checkpoints are scored.
        sampled_bounds: DM_SB's bounds of the split finetune, for methods that are fitted to them.
    """

    prior: Path
    splits: Path
    images: Mapping[str, Path]
    sampled_bounds: Path | None


@dataclass(frozen=True)
class _Phase:
    """A part of a fine-tuning run; its steps count from 1.

    Attributes:
        data: Images, and what bounds are fitted to.
        objective: What is minimised.
        settings: Optimiser settings; a phase starts with fresh moments and a fresh average.
        stops: Steps after which a checkpoint competes.
        seed: Data order, noise and mirroring follow from it.
        after_step: Called after every step.
    """

    data: TrainingSet
    objective: Objective
    settings: Optimisation
    stops: list[int]
    seed: int
    after_step: Callable[[], None] = lambda: None


def candidate_steps(tuned: MethodTuning, shared: FinetuningSettings) -> list[int]:
    """Steps of a fine-tuning run after which a checkpoint competes, those of the sharpening at the end included."""
    fitting = validation_steps(tuned.n_steps, shared.validate_every, first=shared.validate_first_step)
    sharpening = validation_steps(shared.sharpening.n_steps, shared.validate_every)
    return [*fitting, *(tuned.n_steps + step for step in sharpening)]


class Fit:
    """A predictor ready to be fine-tuned.

    Attributes:
        task: Name of the task.
        spec: What rebuilds the predictor.
        predictor: The network being fitted.

    Raises:
        CheckpointError: If the prior does not fit the configured architecture.
        StoreError: If a store is incomplete.
    """

    def __init__(self, job: FinetuningJob, inputs: FinetuningInputs, compute: Compute) -> None:
        torch.manual_seed(job.run_seed)
        self._job, self._compute = job, compute
        self._stores = {split: open_store(path) for split, path in inputs.images.items()}
        self._images = {split: _validation_images(store, inputs.splits) for split, store in self._stores.items()}
        self.task = str(self._stores["finetune"].attributes["task"])
        architecture = architecture_of(job.prior)
        self.spec = PredictorSpec(
            architecture, job.tuned.prediction_time, build_task(self.task).known_outside, job.finetuning.maps_timestep
        )
        self.predictor = self.spec.build(load_prior(inputs.prior, architecture) if job.method.pretrained else None)
        compute.place(self.predictor)
        self._data = _training_set(job, self._stores["finetune"], inputs.sampled_bounds, self.predictor, compute)

    def run(self, on_validation: Callable[[int], None]) -> list[dict[str, float]]:
        """Fine-tune; `on_validation(step)` may call `score` and save the predictor. Returns the loss records."""
        records = self._run(self._fitting(), 0, on_validation)
        if self._job.finetuning.sharpening.n_steps:
            records += self._run(self._sharpening(), self._job.tuned.n_steps, on_validation)
        return records

    def _run(self, phase: _Phase, before: int, on_validation: Callable[[int], None]) -> list[dict[str, float]]:
        """One phase, after so many steps of others, from which its own go on counting."""
        records = finetune(
            self.predictor, phase.data, phase.objective, self._job.calibration.alpha / 2, phase.settings, self._compute,
            seed=phase.seed, stops=phase.stops, on_validation=lambda step: on_validation(before + step),
            after_step=phase.after_step,
        )  # fmt: skip
        return [{**record, "step": before + record["step"]} for record in records]

    def _fitting(self) -> _Phase:
        """What the method is: its own loss on its own targets."""
        shared, tuned = self._job.finetuning, self._job.tuned
        settings = Optimisation(
            tuned.n_steps, shared.batch_size, tuned.learning_rate, shared.ema,
            constant_rate=shared.learning_rate_schedule == "constant", shuffled=shared.shuffle,
        )  # fmt: skip
        stops = validation_steps(tuned.n_steps, shared.validate_every, first=shared.validate_first_step)
        return _Phase(self._data, OBJECTIVES[str(self._job.method.loss)], settings, stops, self._job.run_seed)

    def _sharpening(self) -> _Phase:
        """Width at the risk level, on the truth, whatever the method was fitted to."""
        shared, own = self._job.finetuning, self._job.finetuning.sharpening
        truth = self._compute.tensor(to_pm1(read_array(self._stores["finetune"]["target"])))
        sharpening = Sharpening(self._job.calibration.alpha)
        settings = Optimisation(
            own.n_steps, shared.batch_size, own.learning_rate_factor * self._job.tuned.learning_rate, shared.ema,
            shuffled=shared.shuffle, final_share=0.0,
        )  # fmt: skip
        return _Phase(
            replace(self._data, lower=truth, upper=truth), sharpening, settings,
            validation_steps(own.n_steps, shared.validate_every), self._job.seed_of("sharpen"), sharpening.settle,
        )  # fmt: skip

    def score(self, protocol: str, step: int) -> Score:
        """How the predictor does after `step` steps on the split where checkpoints of this protocol compete."""
        rules = get_protocol(protocol, official_quirks=self._job.official_quirks)
        store, images = self._stores[rules.selected_on], self._images[rules.selected_on]
        accident = rules.accident(step, calibrating=True)
        lower, upper, _ = predict_store(self.predictor, store, self._job.seed, self._compute, accident)
        grid = official_grid(self.task, self._job.method)
        return score_checkpoint(rules, lower, upper, images, self._job.calibration, grid)


def _validation_images(store: SealedStore, splits: Path) -> ValidationImages:
    return ValidationImages(read_array(store["target"]), read_array(store["mask"]), groups_of(splits, store.image_ids))


def _training_set(
    job: FinetuningJob, store: SealedStore, sampled_bounds: Path | None, predictor: BoundPredictor, compute: Compute
) -> TrainingSet:
    condition = to_pm1(read_array(store["condition"]))
    lower = upper = to_pm1(read_array(store["target"]))
    noise = None
    if job.method.target == "sampled_bounds":
        if sampled_bounds is None:
            raise StoreError(f"{job.method.name}: needs the sampled bounds of the split finetune")
        bounds = open_store(sampled_bounds)
        if bounds.image_ids != store.image_ids:
            raise StoreError(f"{bounds.path}: holds other images than {store.path}; rerun the rule extract_bounds")
        lower, upper = to_pm1(read_array(bounds["lower"])), to_pm1(read_array(bounds["upper"]))
        shape = condition.shape[1:]
        task = str(store.attributes["task"])
        noise = compute.tensor(image_noise(predictor.noise_purpose, job.seed, task, store.image_ids, shape))
    return TrainingSet(
        compute.tensor(condition),
        compute.tensor(read_array(store["mask"])),
        compute.tensor(lower),
        compute.tensor(upper),
        noise,
        getattr(predictor.network, "n_classes", 0),
        job.finetuning.mirror,
    )
