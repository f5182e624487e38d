"""A run of the stages on a few small portraits, file by file as the workflow would call them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from conffusion.config.schema import (
    CalibrationSettings,
    DatasetSettings,
    FinetuningSettings,
    MethodTuning,
    PriorSettings,
    SamplingSettings,
)
from conffusion.core.device import Device
from conffusion.methods.protocols import get_protocol
from conffusion.methods.registry import get_method
from conffusion.pipeline.settings import FinetuningStage, ImageStage, PredictionStage, SamplingStage, SplitStage
from conffusion.pipeline.stages.bounds import extract_bounds
from conffusion.pipeline.stages.calibration import CalibrationFiles, calibrate_method
from conffusion.pipeline.stages.evaluation import EvaluationFiles, evaluate_method
from conffusion.pipeline.stages.finetuning import FinetuningInputs, FinetuningOutputs, finetune_method
from conffusion.pipeline.stages.images import prepare_images, split_images
from conffusion.pipeline.stages.prediction import predict_method_bounds, trace_candidates
from conffusion.pipeline.stages.sampling import sample_variants
from conffusion.training.priors import PriorJob, write_prior
from conffusion.training.state import StateFolder
from tests.methods.small_specs import SIDE, SPECS

CPU = Device(torch.device("cpu"), bfloat16=False)
SEED = 11
SIZES = {"finetune": 20, "selection": 16, "calibration": 24, "test": 12}
DEGRADATION: dict[str, dict[str, Any]] = {"super_resolution": {"factor": 4}, "inpainting": {"hole": 0.5}}
KINDS = {"super_resolution": "sr3", "inpainting": "palette"}  # the task's own network
PROTOCOLS = ("paper", "guaranteed")
SCHEDULE = {"linear_start": 1e-4, "linear_end": 0.02, "cosine_s": 0.008, "respacing": None}
CALIBRATION = CalibrationSettings(alpha=0.3, delta=0.3, ucb="wsr", families=["multiplicative"])
SAMPLING = SamplingSettings(
    solver="dpmpp_2m_sde", n_steps=3, n_variants=4, shared_start=False, batch_size=16, images_per_shard=8,
    shards_per_share=2, dtype="uint8", adaptive_stopping={"precision": None, "round": 2}, compile=False,
    variants_url=None,
)  # fmt: skip
FINETUNING = FinetuningSettings(
    batch_size=8, micro_batch_size=None, learning_rate_schedule="cosine", ema=0.9, shuffle=True, horizontal_flip=True,
    validate_every=2, validate_first_step=False, patience=None, processes=1, checkpoint_every_minutes=10,
    keep_candidates=True,
    maps_timestep=True,
    sharpening={"n_steps": 0, "learning_rate_factor": 0.3}, tuned={},
)  # fmt: skip
TUNED = MethodTuning(learning_rate=1e-3, prediction_time=0.3, n_steps=4)


def faces(**sizes: int) -> DatasetSettings:
    folder = {
        "path": None, "pattern": "**/*", "fit": "crop", "tile_size": None, "max_tiles_per_image": None,
        "group_pattern": None, "group_csv": None, "value_range": None,
    }  # fmt: skip
    splits = {**SIZES, **sizes}
    return DatasetSettings(name="faces", splits=splits, faces={"population": "shifted"}, folder=folder)


def prior_settings(task: str, **changes: Any) -> PriorSettings:
    architecture = SPECS[KINDS[task]].architecture
    values = {
        "network": architecture.network, "options": dict(architecture.options),
        "schedule": {**SCHEDULE, **(architecture.schedule or {})}, "task": task,
        "training": {
            "images": "faces", "n_images": 16, "n_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "ema": 0.9,
        },
    }  # fmt: skip
    return PriorSettings(**{**values, **changes})


@dataclass(frozen=True)
class SmallRun:
    """Paths of a run and the calls that fill them; every stage reads only what earlier ones wrote."""

    root: Path
    task: str

    @property
    def splits(self) -> Path:
        return self.root / "splits.csv"

    @property
    def prior(self) -> Path:
        return self.root / f"{self.task}.safetensors"

    @property
    def candidates(self) -> Path:
        return self.root / self.task / "n_conffusion" / "candidates"

    def images(self, split: str) -> Path:
        return self.root / self.task / "images" / f"{split}.json"

    def shard(self, split: str, k: int) -> Path:
        return self.root / self.task / "variants" / split / f"shard-{k}.json"

    def method_run(self, method: str, protocol: str) -> Path:
        return self.root / self.task / method / protocol

    def bounds(self, method: str, protocol: str, split: str) -> Path:
        return self.method_run(method, protocol) / "bounds" / f"{split}.json"

    def model(self, protocol: str) -> Path:
        return self.method_run("n_conffusion", protocol) / "model.safetensors"

    def prepare(self) -> None:
        split_images(self.split_stage(), self.splits)
        for split in SIZES:
            prepare_images(self.image_stage(), splits=self.splits, split=split, output=self.images(split))

    @staticmethod
    def split_stage(dataset: DatasetSettings | None = None, seed: int = SEED) -> SplitStage:
        return SplitStage(dataset or faces(), SIDE, seed, CALIBRATION)

    def image_stage(self) -> ImageStage:
        return ImageStage(faces(), SIDE, SEED, self.task, DEGRADATION[self.task], "bicubic", SIDE)

    def train_prior(self) -> None:
        job = PriorJob("own", prior_settings(self.task), DEGRADATION[self.task], SIDE, SEED)
        write_prior(job, CPU, output=self.prior)

    def sampling_stage(self, sampling: SamplingSettings = SAMPLING, **changes: Any) -> SamplingStage:
        values = {
            "prior": prior_settings(self.task), "sampling": sampling, "quantile": CALIBRATION.alpha / 2, "seed": SEED,
            "precision": "float32",
        }  # fmt: skip
        return SamplingStage(**{**values, **changes})

    def sample(self, split: str, k: int, n_shards: int, sampling: SamplingSettings = SAMPLING) -> None:
        sample_variants(
            self.sampling_stage(sampling), CPU, checkpoint=self.prior, images=self.images(split), shard=(k, n_shards),
            output=self.shard(split, k),
        )  # fmt: skip

    def extract(self, split: str, n_shards: int) -> None:
        shards = [self.shard(split, k) for k in range(n_shards)]
        outputs = {protocol: self.bounds("dm_sb", protocol, split) for protocol in PROTOCOLS}
        extract_bounds(CALIBRATION.alpha, shards=shards, outputs=outputs)

    def finetuning_inputs(self, sampled_bounds: Path | None = None) -> FinetuningInputs:
        images = {split: self.images(split) for split in ("finetune", "selection", "calibration")}
        return FinetuningInputs(self.prior, self.splits, images, sampled_bounds)

    def finetuning_job(self, method: str = "n_conffusion", **changes: Any) -> FinetuningStage:
        values: dict[str, Any] = {
            "method": get_method(method), "replicate": 0, "prior": prior_settings(self.task), "tuned": TUNED,
            "finetuning": FINETUNING, "calibration": CALIBRATION, "seed": SEED,
        }  # fmt: skip
        return FinetuningStage(**{**values, **changes})

    def outputs(self) -> FinetuningOutputs:
        models = {protocol: self.model(protocol) for protocol in PROTOCOLS}
        return FinetuningOutputs(models, self.candidates, self.candidates.parent / "training.csv")

    def states(self, minutes: float = 10) -> StateFolder:
        return StateFolder(self.root / "state" / self.task, "digest", minutes)

    def finetune(self, job: FinetuningStage | None = None, sampled_bounds: Path | None = None) -> None:
        inputs = self.finetuning_inputs(sampled_bounds)
        finetune_method(job or self.finetuning_job(), inputs, self.outputs(), self.states(), CPU)

    def predict(self, protocol: str) -> None:
        splits = ("selection", "calibration", "test")
        predict_method_bounds(
            get_protocol(protocol), PredictionStage(SEED), CPU, model=self.model(protocol),
            images=[self.images(split) for split in splits],
            outputs=[self.bounds("n_conffusion", protocol, split) for split in splits],
        )  # fmt: skip

    def trace(self) -> Path:
        curves = self.candidates.parent / "curves"
        images = [self.images(split) for split in ("calibration", "test")]
        trace_candidates(SEED, CPU, candidates=self.candidates, images=images, splits=self.splits, output=curves)
        return curves

    def calibrate(self, method: str, protocol: str, settings: CalibrationSettings = CALIBRATION) -> None:
        files = CalibrationFiles(
            self.bounds(method, protocol, "calibration"), self.images("calibration"), self.splits,
            self.method_run(method, protocol) / "calibration.json", self.chosen_on(method, protocol),
        )  # fmt: skip
        calibrate_method(settings, protocol, SEED, files)

    def chosen_on(self, method: str, protocol: str) -> tuple[Path, Path]:
        return self.bounds(method, protocol, "selection"), self.images("selection")

    def evaluate(self, method: str, protocol: str) -> None:
        evaluate_method(method, 0, protocol, self.evaluation_files(method, protocol))

    def evaluation_files(self, method: str, protocol: str) -> EvaluationFiles:
        method_run, pool = self.method_run(method, protocol), ("calibration", "test")
        return EvaluationFiles(
            calibration=method_run / "calibration.json",
            bounds={split: self.bounds(method, protocol, split) for split in pool},
            images={split: self.images(split) for split in pool},
            splits=self.splits,
            metrics=method_run / "metrics.json",
            per_image=method_run / "per_image.csv",
            curve=method_run / "curve.csv",
            positions=method_run / "positions.npz",
            pool=method_run / "pool.npz",
        )
