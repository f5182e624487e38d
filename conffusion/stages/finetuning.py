"""Fine-tuning one method on one task; the best checkpoint of each protocol is kept, and every candidate."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from conffusion.arrays import to_pm1
from conffusion.compute import Compute
from conffusion.config.schema import CalibrationSettings, FinetuningSettings, MethodTuning, PriorSettings
from conffusion.errors import StoreError
from conffusion.methods.competition import Score, ValidationImages, score_checkpoint
from conffusion.methods.models import PredictorSpec, save_predictor
from conffusion.methods.predictor import BoundPredictor
from conffusion.methods.protocols import PROTOCOLS
from conffusion.methods.random_inputs import image_noise
from conffusion.methods.registry import Method
from conffusion.models.networks import load_prior
from conffusion.randomness import keyed_generator
from conffusion.stages.images import groups_of
from conffusion.stages.prediction import predict_store
from conffusion.store import SealedStore, atomic_path, open_store, read_array
from conffusion.tasks import build_task
from conffusion.training.finetune import TrainingSet, finetune
from conffusion.training.loop import Optimisation
from conffusion.training.objectives import OBJECTIVES
from conffusion.training.priors import architecture_of

LOGGER = logging.getLogger(__name__)


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
    """

    method: Method
    replicate: int
    prior: PriorSettings
    tuned: MethodTuning
    finetuning: FinetuningSettings
    calibration: CalibrationSettings
    seed: int

    @property
    def run_seed(self) -> int:
        """Seed of initialisation, data order and noise of this replicate."""
        keys = ("finetune", self.seed, self.method.name, self.replicate)
        return int(keyed_generator(*keys).integers(2**31))


@dataclass(frozen=True)
class FinetuningFiles:
    """Where a fine-tuning run reads and writes.

    Attributes:
        prior: Checkpoint of the prior.
        splits: splits.csv.
        images: Image stores of the splits finetune, selection and calibration.
        sampled_bounds: DM_SB's bounds of the split finetune, for methods that are fitted to them.
        models: The best checkpoint of each protocol, to write.
        candidates: Folder of all checkpoints that competed, to write.
        curve: Loss and validation scores by step (CSV), to write.
    """

    prior: Path
    splits: Path
    images: Mapping[str, Path]
    sampled_bounds: Path | None
    models: Mapping[str, Path]
    candidates: Path
    curve: Path


def finetune_method(job: FinetuningJob, files: FinetuningFiles, compute: Compute) -> None:
    """Fit one method; keep the best checkpoint of each protocol, every candidate, and the curve.

    Raises:
        CheckpointError: If the prior does not fit the configured architecture.
        StoreError: If an image store is incomplete.
    """
    torch.manual_seed(job.run_seed)
    stores = {split: open_store(path) for split, path in files.images.items()}
    task = str(stores["finetune"].attributes["task"])
    has_holes = build_task(task).known_outside
    architecture = architecture_of(job.prior)
    spec = PredictorSpec(architecture, job.tuned.prediction_time, has_holes)
    predictor = spec.build(load_prior(files.prior, architecture) if job.method.pretrained else None)
    compute.place(predictor)
    recorder = _Recorder(job, files, spec, predictor, stores, compute)
    data = _training_set(job, stores["finetune"], files.sampled_bounds, predictor, compute)
    settings = Optimisation(job.tuned.n_steps, job.finetuning.batch_size, job.tuned.learning_rate, job.finetuning.ema)
    with atomic_path(files.candidates) as recorder.folder:
        losses = finetune(
            predictor,
            data,
            OBJECTIVES[str(job.method.loss)],
            job.calibration.alpha / 2,
            settings,
            compute,
            seed=job.run_seed,
            n_validations=job.finetuning.n_validations,
            on_validation=recorder.validate,
        )
    recorder.finish(losses)


class _Recorder:
    """Saves every candidate, scores it under both protocols, and copies the winners at the end."""

    def __init__(
        self,
        job: FinetuningJob,
        files: FinetuningFiles,
        spec: PredictorSpec,
        predictor: BoundPredictor,
        stores: Mapping[str, SealedStore],
        compute: Compute,
    ) -> None:
        self._job, self._files, self._spec, self._predictor = job, files, spec, predictor
        self._stores, self._compute = stores, compute
        self._images = {name: _validation_images(stores[p.selected_on], files.splits) for name, p in PROTOCOLS.items()}
        self._best: dict[str, tuple[Score, int]] = {}
        self._rows: list[dict[str, object]] = []
        self.folder = files.candidates

    def validate(self, step: int) -> None:
        """Save the checkpoint of this step and let it compete."""
        for name, protocol in PROTOCOLS.items():
            lower, upper, _ = predict_store(
                self._predictor, self._stores[protocol.selected_on], self._job.seed, self._compute
            )
            score = score_checkpoint(protocol, lower, upper, self._images[name], self._job.calibration)
            best = self._best.get(name)
            if score.beats(best[0] if best else None):
                self._best[name] = (score, step)
            LOGGER.info("step %d, %s: size %.4f at lambda_hat %.4f", step, name, score.interval_size, score.lambda_hat)
            self._rows.append(
                {
                    "step": step,
                    "protocol": name,
                    "lambda_hat": score.lambda_hat,
                    "risk": score.risk,
                    "interval_size": score.interval_size,
                }
            )
        self._save(self.folder / candidate_name(step), step)

    def finish(self, losses: list[dict[str, float]]) -> None:
        """Copy each protocol's winner to its place and write the curve."""
        for name, (_, step) in self._best.items():
            with atomic_path(self._files.models[name]) as temporary:
                temporary.write_bytes((self._files.candidates / candidate_name(step)).read_bytes())
        with atomic_path(self._files.curve) as temporary:
            pd.concat([pd.DataFrame(losses), pd.DataFrame(self._rows)]).to_csv(temporary, index=False)

    def _save(self, path: Path, step: int) -> None:
        job = self._job
        save_predictor(
            path,
            self._predictor,
            self._spec,
            {
                "method": job.method.name,
                "task": str(self._stores["finetune"].attributes["task"]),
                "replicate": job.replicate,
                "step": step,
                "seed": job.seed,
                **job.tuned.model_dump(),
            },
        )


def candidate_name(step: int) -> str:
    """File name of the checkpoint of a step; names sort by step."""
    return f"step-{step:07d}.safetensors"


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
    )
