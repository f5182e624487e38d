"""One fine-tuning run in memory: the predictor, its data, and how a checkpoint of it scores under a protocol."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from conffusion.config.schema import FinetuningSettings, MethodTuning
from conffusion.core.arrays import to_pm1
from conffusion.core.device import Device
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.core.randomness import keyed_generator
from conffusion.data.splits import groups_of
from conffusion.errors import ConfigError, StoreError
from conffusion.methods.competition import Competition, Score, score_checkpoint
from conffusion.methods.models import PredictorSpec
from conffusion.methods.predictor import BoundPredictor
from conffusion.methods.protocols import get_protocol, official_grid
from conffusion.models.networks import load_prior
from conffusion.pipeline.settings import FinetuningStage
from conffusion.pipeline.stages.prediction import predict_store
from conffusion.store import SealedStore, open_store, read_array
from conffusion.tasks import DegradedImages, build_task
from conffusion.training.finetune import RECORD_EVERY, BoundFitting, TrainingSet, smallest_part, validation_steps
from conffusion.training.loop import Optimisation, Training, seed_everything
from conffusion.training.objectives import OBJECTIVES, Objective, Sharpening
from conffusion.training.parallel import ALONE, Processes
from conffusion.training.priors import architecture_of
from conffusion.training.state import StateFolder

PATIENT_PROTOCOL = "guaranteed"  # early stopping waits for better checkpoints of this one


def seed_of(settings: FinetuningStage, purpose: str) -> int:
    """Seed of one purpose of a replicate: "finetune" for initialisation, data order and noise."""
    return int(keyed_generator(purpose, settings.seed, settings.method.name, settings.replicate).integers(2**31))


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

    @property
    def files(self) -> list[Path]:
        """All files."""
        return [self.prior, self.splits, *self.images.values(), *filter(None, [self.sampled_bounds])]


@dataclass(frozen=True)
class _Phase:
    """A part of a fine-tuning run; its steps count from 1.

    Attributes:
        problem: What is minimised.
        settings: Optimiser settings; a phase starts with fresh moments and a fresh average.
        stops: Steps after which a checkpoint competes.
        seed: Data order, noise and mirroring follow from it.
    """

    problem: BoundFitting
    settings: Optimisation
    stops: list[int]
    seed: int


def candidate_steps(tuned: MethodTuning, shared: FinetuningSettings) -> list[int]:
    """Steps of a fine-tuning run after which a checkpoint competes, those of the sharpening at the end included."""
    fitting = validation_steps(tuned.n_steps, shared.validate_every, first=shared.validate_first_step)
    sharpening = validation_steps(shared.sharpening.n_steps, shared.validate_every)
    return [*fitting, *(tuned.n_steps + step for step in sharpening)]


class FinetuningRun:
    """A predictor that is being fine-tuned.

    Attributes:
        task: Name of the task.
        spec: What rebuilds the predictor.
        predictor: The network being fitted.
        losses: Records {step, loss} so far; those of the sharpening also say so under "phase".
        competition: The checkpoints that competed so far.

    Raises:
        CheckpointError: If the prior does not fit the configured architecture.
        ConfigError: If there are too many processes for a batch.
        StoreError: If a store is incomplete.
    """

    def __init__(
        self, job: FinetuningStage, inputs: FinetuningInputs, device: Device, processes: Processes = ALONE
    ) -> None:
        seed_everything(seed_of(job, "finetune"))
        self._job, self._device, self._processes = job, device, processes
        self._stores = {split: open_store(path) for split, path in inputs.images.items()}
        self._images = {split: _validation_images(store, inputs.splits) for split, store in self._stores.items()}
        self.task = str(self._stores["finetune"].attributes["task"])
        architecture = architecture_of(job.prior)
        self.spec = PredictorSpec(
            architecture, job.tuned.prediction_time, build_task(self.task).has_mask, job.finetuning.maps_timestep
        )
        self.predictor = self.spec.build(load_prior(inputs.prior, architecture) if job.method.pretrained else None)
        device.place(self.predictor)
        self._data = _training_set(job, self._stores["finetune"], inputs.sampled_bounds, self.predictor, device)
        self.losses: list[dict[str, Any]] = []
        self.competition = Competition()
        _check_parts(job.finetuning.batch_size, processes.n, smallest_part(self.predictor))
        if not processes.is_first:  # the networks are the same by now; dropout need not be
            torch.manual_seed(seed_of(job, "finetune") + processes.rank)

    def run(self, validate: Callable[[int], Mapping[str, Score]], states: StateFolder | None = None) -> None:
        """Fine-tune, going on from the latest state if there is one.

        Args:
            validate: Called with the step, in the first process alone; may call `score` and save the predictor. Returns
                the scores of the checkpoint by protocol, that of "guaranteed" among them.
            states: Where full states of the run are kept; None: nowhere.
        """
        phases = {"fitting": self._fitting, "sharpening": self._sharpening}
        if not self._job.finetuning.sharpening.n_steps:
            del phases["sharpening"]
        start = self._latest(states)
        if start is not None:
            self.losses, self.competition = start["earlier_losses"], Competition.of_rows(start["scores"])
        for name in list(phases)[list(phases).index(start["phase"]) if start else 0 :]:
            self._run_phase(name, phases[name](), validate, states, start)
            start = None

    def _run_phase(
        self,
        name: str,
        phase: _Phase,
        validate: Callable[[int], Mapping[str, Score]],
        states: StateFolder | None,
        start: Mapping[str, Any] | None,
    ) -> None:
        """One phase, whose steps go on counting from those before it."""
        before = int(self.losses[-1]["step"]) if self.losses else 0
        training = Training(phase.problem, phase.settings, phase.seed, processes=self._processes)
        if start is not None:
            training.restore(start)
        for step in training.run("fine-tuning", RECORD_EVERY, phase.stops):
            if step in phase.stops:
                if self._processes.is_first:
                    with training.averaged():
                        self.competition.scores[before + step] = dict(validate(before + step))
                if self._processes.first_decides(self._patience_is_over(before)):
                    break
            if states is not None and self._processes.first_decides(states.is_due()):
                state = {
                    "phase": name, "earlier_losses": self.losses, "scores": self.competition.rows(), **training.state(),
                }  # fmt: skip
                if self._processes.is_first:
                    states.save(before + step, state)
        named = {} if name == "fitting" else {"phase": name}
        self.losses += [{**record, "step": before + int(record["step"]), **named} for record in training.losses]

    def _patience_is_over(self, before: int) -> bool:
        """Whether as many checkpoints of a phase, which began after a step, as the patience were no better."""
        patience = self._job.finetuning.patience
        return (
            patience is not None
            and self._processes.is_first
            and self.competition.n_without_improvement(PATIENT_PROTOCOL, before) >= patience
        )

    def _latest(self, states: StateFolder | None) -> dict[str, Any] | None:
        """The state to go on from; the first process tidies up before the others look."""
        if states is None:
            return None
        start = states.latest() if self._processes.is_first else None
        self._processes.first_decides(True)
        return start if self._processes.is_first else states.latest(tidy=False)

    def _fitting(self) -> _Phase:
        """What the method is: its own loss on its own targets."""
        shared, tuned = self._job.finetuning, self._job.tuned
        settings = Optimisation(
            tuned.n_steps, shared.batch_size, tuned.learning_rate, shared.ema,
            constant_rate=shared.learning_rate_schedule == "constant", shuffled=shared.shuffle,
            micro_batch=shared.micro_batch_size,
        )  # fmt: skip
        stops = validation_steps(tuned.n_steps, shared.validate_every, first=shared.validate_first_step)
        problem = self._problem(self._data, OBJECTIVES[str(self._job.method.loss)])
        return _Phase(problem, settings, stops, seed_of(self._job, "finetune"))

    def _sharpening(self) -> _Phase:
        """Width at the risk level, on the truth, whatever the method was fitted to."""
        shared, own = self._job.finetuning, self._job.finetuning.sharpening
        truth = self._device.tensor(to_pm1(read_array(self._stores["finetune"]["target"])))
        settings = Optimisation(
            own.n_steps, shared.batch_size, own.learning_rate_factor * self._job.tuned.learning_rate, shared.ema,
            shuffled=shared.shuffle, final_share=0.0, micro_batch=shared.micro_batch_size,
        )  # fmt: skip
        sharpening = Sharpening(self._job.calibration.alpha, self._processes)
        problem = self._problem(replace(self._data, lower=truth, upper=truth), sharpening)
        stops = validation_steps(own.n_steps, shared.validate_every)
        return _Phase(problem, settings, stops, seed_of(self._job, "sharpen"))

    def _problem(self, data: TrainingSet, objective: Objective) -> BoundFitting:
        return BoundFitting(self.predictor, data, objective, self._job.calibration.alpha / 2, self._device)

    def score(self, protocol: str, step: int) -> Score:
        """How the predictor does after `step` steps on the split where checkpoints of this protocol compete."""
        rules = get_protocol(protocol, official_quirks=self._job.official_quirks)
        store = self._stores[rules.selected_on]
        quirk = rules.quirk(step, calibrating=True)
        lower, upper, _ = predict_store(self.predictor, store, self._job.seed, self._device, quirk)
        grid = official_grid(self.task, self._job.method)
        images = replace(self._images[rules.selected_on], lower=lower, upper=upper)
        return score_checkpoint(rules, images, self._job.calibration, grid)


def _check_parts(batch_size: int, n_processes: int, smallest: int) -> None:
    if batch_size // n_processes < smallest:
        raise ConfigError(
            f"finetuning.processes = {n_processes}: each process needs at least {smallest} image(s) of a batch, and "
            f"finetuning.batch_size is {batch_size}; choose fewer processes"
        )


def _validation_images(store: SealedStore, splits: Path) -> LabelledBounds:
    """Truth, mask and groups of a split; the bounds are those of the checkpoint that competes on it."""
    target = read_array(store["target"])
    return LabelledBounds(target, target, target, read_array(store["mask"]), groups_of(splits, store.image_ids))


def _training_set(
    job: FinetuningStage, store: SealedStore, sampled_bounds: Path | None, predictor: BoundPredictor, device: Device
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
        noise = device.tensor(DegradedImages.of_store(store, job.seed).noise(predictor.noise_purpose))
    return TrainingSet(
        device.tensor(condition),
        device.tensor(read_array(store["mask"])),
        device.tensor(lower),
        device.tensor(upper),
        noise,
        getattr(predictor.network, "n_classes", 0),
        job.finetuning.horizontal_flip,
    )
