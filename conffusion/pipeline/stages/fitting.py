"""One fine-tuning run in memory: the predictor, its data, and how a checkpoint of it scores under a protocol."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from conffusion.config.schema import CalibrationSettings, FinetuningSettings, MethodTuning, PriorSettings
from conffusion.core.arrays import to_pm1
from conffusion.core.device import Device
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.core.randomness import keyed_generator
from conffusion.data.splits import groups_of
from conffusion.errors import ConfigError, StoreError
from conffusion.methods.competition import Score, score_checkpoint
from conffusion.methods.models import PredictorSpec
from conffusion.methods.predictor import BoundPredictor
from conffusion.methods.protocols import get_protocol, official_grid
from conffusion.methods.random_inputs import image_noise
from conffusion.methods.registry import Method
from conffusion.models.networks import load_prior
from conffusion.pipeline.stages.prediction import predict_store
from conffusion.store import SealedStore, open_store, read_array
from conffusion.tasks import build_task
from conffusion.training.finetune import TrainingSet, finetune, smallest_batch, validation_steps
from conffusion.training.loop import Optimisation, Resumption, seed_everything
from conffusion.training.objectives import OBJECTIVES, Objective, Sharpening
from conffusion.training.parallel import ALONE, Processes
from conffusion.training.priors import architecture_of
from conffusion.training.state import StateFolder

PATIENT_PROTOCOL = "guaranteed"  # early stopping waits for better checkpoints of this one


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
        official_quirks: Whether checkpoints of the protocol "paper" compete with the quirks of the official code.
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


@dataclass
class Competition:
    """The course of a fine-tuning run so far.

    Attributes:
        losses: Records {step, loss}; those of the sharpening also say so under "phase".
        scores: By step and protocol, how each checkpoint did, in the order of the steps.
    """

    losses: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[int, dict[str, Score]] = field(default_factory=dict)

    def best(self, protocol: str) -> tuple[Score, int]:
        """The first of the narrowest checkpoints of a protocol, and its step."""
        best: tuple[Score, int] | None = None
        for step, scores in self.scores.items():
            if scores[protocol].beats(best[0] if best else None):
                best = scores[protocol], step
        if best is None:
            raise ValueError("no checkpoint has competed")
        return best

    def state(self) -> dict[str, Any]:
        """In plain values."""
        scores = [[step, {name: asdict(score) for name, score in of.items()}] for step, of in self.scores.items()]
        return {"losses": self.losses, "scores": scores}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Competition":
        """What `state` gave."""
        scores = {step: {name: Score(**score) for name, score in of.items()} for step, of in state["scores"]}
        return cls([dict(record) for record in state["losses"]], scores)


@dataclass(frozen=True)
class _Phase:
    """A part of a fine-tuning run; its steps count from 1.

    Attributes:
        name: "fitting" or "sharpening".
        data: Images, and what bounds are fitted to.
        objective: What is minimised.
        settings: Optimiser settings; a phase starts with fresh moments and a fresh average.
        stops: Steps after which a checkpoint competes.
        seed: Data order, noise and mirroring follow from it.
    """

    name: str
    data: TrainingSet
    objective: Objective
    settings: Optimisation
    stops: list[int]
    seed: int

    @property
    def after_step(self) -> Callable[[], None]:
        """Called after every step."""
        return self.objective.settle if isinstance(self.objective, Sharpening) else lambda: None


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
        ConfigError: If there are too many processes for a batch.
        StoreError: If a store is incomplete.
    """

    def __init__(
        self, job: FinetuningJob, inputs: FinetuningInputs, device: Device, processes: Processes = ALONE
    ) -> None:
        seed_everything(job.run_seed)
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
        _check_parts(job.finetuning.batch_size, processes.n, smallest_batch(self.predictor))
        if not processes.is_first:  # the networks are the same by now; dropout need not be
            torch.manual_seed(job.run_seed + processes.rank)

    def run(self, validate: Callable[[int], Mapping[str, Score]], states: StateFolder | None = None) -> Competition:
        """Fine-tune, going on from the latest state if there is one.

        Args:
            validate: Called with the step, in the first process alone; may call `score` and save the predictor. Returns
                the scores of the checkpoint by protocol, that of "guaranteed" among them.
            states: Where full states of the run are kept; None: nowhere.
        """
        start = self._latest(states)
        competition = Competition.restored(start["competition"]) if start else Competition()
        before = start["before"] if start else 0
        makers = [self._fitting, self._sharpening] if self._job.finetuning.sharpening.n_steps else [self._fitting]
        for number, make in enumerate(makers):
            if start is not None and number < start["phase"]:
                continue
            resumed = start if start is not None and number == start["phase"] else None
            records = self._run(make(), number, before, competition, validate, states, resumed)
            competition.losses += records
            before = int(records[-1]["step"])
        return competition

    def _latest(self, states: StateFolder | None) -> dict[str, Any] | None:
        """The state to go on from; the first process tidies up before the others look."""
        if states is None:
            return None
        start = states.latest() if self._processes.is_first else None
        self._processes.first_decides(True)
        return start if self._processes.is_first else states.latest(tidy=False)

    def _run(
        self,
        phase: _Phase,
        number: int,
        before: int,
        competition: Competition,
        validate: Callable[[int], Mapping[str, Score]],
        states: StateFolder | None,
        start: Mapping[str, Any] | None,
    ) -> list[dict[str, Any]]:
        """One phase, after so many steps of others, from which its own go on counting; its records of the loss."""
        n_waited = start["n_waited"] if start else 0
        if start and isinstance(phase.objective, Sharpening):
            phase.objective.restore(start["objective"])

        def on_validation(step: int) -> bool:
            nonlocal n_waited
            best = competition.best(PATIENT_PROTOCOL)[0] if competition.scores else None
            competition.scores[before + step] = dict(validate(before + step))
            n_waited = 0 if competition.scores[before + step][PATIENT_PROTOCOL].beats(best) else n_waited + 1
            return n_waited == self._job.finetuning.patience

        def save(loop: Mapping[str, Any]) -> None:
            if states is None or not self._processes.is_first:
                return
            objective = phase.objective.state() if isinstance(phase.objective, Sharpening) else {}
            content = {
                "phase": number, "before": before, "n_waited": n_waited, "loop": loop, "objective": objective,
                "competition": competition.state(),
            }  # fmt: skip
            states.save(before + loop["trainer"]["step"], content)

        is_due = states.is_due if states else lambda: False
        records = finetune(
            self.predictor, phase.data, phase.objective, self._job.calibration.alpha / 2, phase.settings, self._device,
            seed=phase.seed, stops=phase.stops, on_validation=on_validation, after_step=phase.after_step,
            resumption=Resumption(start["loop"] if start else None, is_due, save), processes=self._processes,
        )  # fmt: skip
        named = {} if number == 0 else {"phase": phase.name}
        return [{**record, "step": before + int(record["step"]), **named} for record in records]

    def _fitting(self) -> _Phase:
        """What the method is: its own loss on its own targets."""
        shared, tuned = self._job.finetuning, self._job.tuned
        settings = Optimisation(
            tuned.n_steps, shared.batch_size, tuned.learning_rate, shared.ema,
            constant_rate=shared.learning_rate_schedule == "constant", shuffled=shared.shuffle,
            micro_batch=shared.micro_batch_size,
        )  # fmt: skip
        stops = validation_steps(tuned.n_steps, shared.validate_every, first=shared.validate_first_step)
        objective = OBJECTIVES[str(self._job.method.loss)]
        return _Phase("fitting", self._data, objective, settings, stops, self._job.run_seed)

    def _sharpening(self) -> _Phase:
        """Width at the risk level, on the truth, whatever the method was fitted to."""
        shared, own = self._job.finetuning, self._job.finetuning.sharpening
        truth = self._device.tensor(to_pm1(read_array(self._stores["finetune"]["target"])))
        sharpening = Sharpening(self._job.calibration.alpha, self._processes)
        settings = Optimisation(
            own.n_steps, shared.batch_size, own.learning_rate_factor * self._job.tuned.learning_rate, shared.ema,
            shuffled=shared.shuffle, final_share=0.0, micro_batch=shared.micro_batch_size,
        )  # fmt: skip
        return _Phase(
            "sharpening", replace(self._data, lower=truth, upper=truth), sharpening, settings,
            validation_steps(own.n_steps, shared.validate_every), self._job.seed_of("sharpen"),
        )  # fmt: skip

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
    job: FinetuningJob, store: SealedStore, sampled_bounds: Path | None, predictor: BoundPredictor, device: Device
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
        noise = device.tensor(image_noise(predictor.noise_purpose, job.seed, task, store.image_ids, shape))
    return TrainingSet(
        device.tensor(condition),
        device.tensor(read_array(store["mask"])),
        device.tensor(lower),
        device.tensor(upper),
        noise,
        getattr(predictor.network, "n_classes", 0),
        job.finetuning.horizontal_flip,
    )
