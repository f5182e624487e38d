"""What a run will cost: forward passes, hours, disk and memory of every stage, from the real code timed here."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conffusion.config.schema import Config
from conffusion.core.device import Device, select_device
from conffusion.methods.models import PredictorSpec
from conffusion.methods.one_pass import predict_bounds
from conffusion.methods.predictor import BoundPredictor
from conffusion.models.networks import Architecture
from conffusion.models.schedules import noise_schedule
from conffusion.pipeline.plan import POOL, PROTOCOL_NAMES, SPLITS, Plan, method_of
from conffusion.pipeline.stages.fitting import candidate_steps
from conffusion.sampling import ChainSampler, Solver
from conffusion.tasks import DegradedImages, build_task
from conffusion.training import loop
from conffusion.training.finetune import BoundFitting, TrainingSet
from conffusion.training.loop import Optimisation, Problem
from conffusion.training.objectives import pinball
from conffusion.training.pretrain import Classification, NoisePrediction, PretrainingImages
from conffusion.training.priors import architecture_of

GIB = 2**30
JOB_START = 4.0  # seconds in which a job loads the libraries
_STORED_BYTES: Mapping[str, int] = MappingProxyType({"uint8": 1, "float16": 2, "float32": 4})
_TRIAL_SECONDS = 3.0  # a batch that takes less is followed by a larger one, up to the configured size
_GROWTH = 4  # how many times larger
_TRIAL_STEPS = 3  # steps of a timed sampling or fine-tuning run
_TRIAL_BATCH = 64  # stands for a batch size that is still to be measured
_ADAM_COPIES = 4  # weights, gradients, and two moments of Adam


@dataclass(frozen=True)
class StageCost:
    """One line of the estimate.

    Attributes:
        stage: Name of the rule.
        task: Name of the task.
        method: Name of the method, "all" where jobs serve all.
        jobs: Number of jobs.
        forward_passes: Network calls on single images, those of training steps included.
        hours: Device hours of all jobs together.
        longest_job_hours: The longest of them.
        disk_gib: Files that it writes, before compression; temporary ones too.
        memory_gib: Device memory of a job, at least: what its weights, gradients and activations take.
    """

    stage: str
    task: str
    method: str
    jobs: int
    forward_passes: int
    hours: float
    longest_job_hours: float
    disk_gib: float
    memory_gib: float


class Estimate:
    """The costs of a run on this machine's device.

    Args:
        config: The configuration; the files it names are not needed.
        n_images: Images of each split, needed only where the configuration gives shares.
    """

    def __init__(self, config: Config, n_images: Mapping[str, int] | None = None) -> None:
        self._config, self._plan = config, Plan(config)
        self._sizes = dict(n_images or config.dataset.splits.model_dump())
        self._times: dict[tuple[str, str, int], float] = {}

    @cached_property
    def device(self) -> Device:
        """Device and precision that jobs will have."""
        return select_device(self._config.device, self._config.precision, self._config.threads)

    def costs(self) -> list[StageCost]:
        """Every stage that costs more than seconds, in the order of the workflow."""
        lines = [self._training(name) for name in self._plan.used_priors if self._is_trained(name)]
        for task in self._plan.tasks:
            lines.append(self._images(task))
            methods = [method_of(method_run) for method_run in self._plan.method_runs]
            if any(method.is_sampled or method.target == "sampled_bounds" for method in methods):
                lines.append(self._sampling(task))
            for method_run in self._plan.trained_method_runs:
                lines += [
                    self._finetuning(task, method_run),
                    self._prediction(task, method_run),
                    self._tracing(task, method_run),
                ]
        return lines

    def _is_trained(self, prior: str) -> bool:
        settings = self._config.priors[prior]
        return bool(self._config.priors_dir is None and settings.training and not settings.checkpoint)

    def _training(self, name: str) -> StageCost:
        prior = self._config.priors[name]
        training, architecture = prior.training, self._architecture(name)
        if training is None:
            raise ValueError(f"{name}: is not trained in the run")
        side, passes = prior.image_size or self._config.image_size, training.n_steps * training.batch_size
        network, schedule = self.device.place(architecture.build_prior()), architecture.build_schedule()
        is_classified = schedule is None or bool(architecture.options.get("class_cond"))

        def train(n_images: int) -> None:
            grey = np.full((n_images, 3, side, side), 128, np.uint8)
            labels = np.zeros(n_images, np.int64) if is_classified else None
            images = PretrainingImages(grey, grey if prior.task else None, labels)
            problem: Problem[Any] = Classification(network, images, self.device)
            if schedule is not None:
                problem = NoisePrediction(network, architecture.kind, images, schedule, self.device)
            loop.train(problem, Optimisation(_TRIAL_STEPS, n_images, 1e-9, training.ema))

        seconds = passes * self._seconds_per_item(train, training.batch_size, smallest=2) / _TRIAL_STEPS + JOB_START
        weights, hours = self._weights_gib(network), seconds / 3600
        memory = weights * (_ADAM_COPIES + (training.ema > 0))
        return StageCost("train_prior", prior.task or "all", name, 1, passes, hours, hours, weights / 2, memory)

    def _n(self, *splits: str) -> int:
        return int(sum(self._sizes[split] for split in splits))

    def _values(self, task: str, method_run: str = "") -> int:
        """Pixel values of one image."""
        return 3 * self._plan.image_size(task, method_run) ** 2

    def _images(self, task: str) -> StageCost:
        bytes_per_value = 4 + 4 + 1  # target, condition, mask
        disk = self._n(*SPLITS) * self._values(task) * bytes_per_value / GIB
        seconds = len(SPLITS) * JOB_START
        return StageCost("prepare_images", task, "all", len(SPLITS), 0, seconds / 3600, seconds / 4 / 3600, disk, 0.0)

    def _sampling(self, task: str) -> StageCost:
        sampling, architecture = self._config.sampling, self._architecture(self._config.tasks[task].prior)
        schedule = architecture.build_schedule()
        steps = Solver(sampling.solver, sampling.n_steps).n_calls(schedule) if schedule else sampling.n_steps
        passes = self._n(*SPLITS) * sampling.n_variants * steps
        jobs = sum(self._plan.n_shards(split) for split in SPLITS)
        seconds = passes * self._seconds_per_sampling_pass(task, architecture) + jobs * JOB_START
        disk = self._n(*SPLITS) * sampling.n_variants * self._values(task) * _STORED_BYTES[sampling.dtype] / GIB
        memory = self._weights_gib(architecture.build_prior())
        return StageCost(
            "sample_variants", task, "dm_sb", jobs, passes, seconds / 3600, seconds / jobs / 3600, disk, memory
        )

    def _finetuning(self, task: str, method_run: str) -> StageCost:
        shared, tuned = self._config.finetuning, self._config.finetuning.tuned[task][method_of(method_run).name]
        stops = len(candidate_steps(tuned, shared))
        scored = stops * self._n("selection", "calibration")
        trained = (tuned.n_steps + shared.sharpening.n_steps) * shared.batch_size
        seconds = trained * self._seconds_per_trained_image(task, method_run) + JOB_START
        seconds += scored * self._seconds_per_predicted_image(task, method_run)
        weights = self._weights_gib(self._spec(task, method_run).architecture.build_with_bounds(None))
        hours = seconds / 3600
        memory = weights * (_ADAM_COPIES + (shared.ema > 0)) + self._activations_gib(task, method_run)
        disk = weights * stops  # the chosen ones are second names of competing ones
        return StageCost("finetune_method", task, method_run, 1, trained + scored, hours, hours, disk, memory)

    def _prediction(self, task: str, method_run: str) -> StageCost:
        passes = len(PROTOCOL_NAMES) * self._n("selection", *POOL)
        return self._one_pass_cost(
            "predict_bounds", task, method_run, passes, passes * self._values(task, method_run) * 8 / GIB
        )

    def _tracing(self, task: str, method_run: str) -> StageCost:
        shared, tuned = self._config.finetuning, self._config.finetuning.tuned[task][method_of(method_run).name]
        passes = len(candidate_steps(tuned, shared)) * self._n(*POOL)
        return self._one_pass_cost("trace_candidates", task, method_run, passes, 0.0)

    def _one_pass_cost(self, stage: str, task: str, method_run: str, passes: int, disk: float) -> StageCost:
        hours = (passes * self._seconds_per_predicted_image(task, method_run) + JOB_START) / 3600
        memory = self._weights_gib(self._spec(task, method_run).architecture.build_with_bounds(None))
        return StageCost(stage, task, method_run, 1, passes, hours, hours, disk, memory)

    def _architecture(self, prior: str) -> Architecture:
        return architecture_of(self._config.priors[prior])

    def _spec(self, task: str, method_run: str) -> PredictorSpec:
        tuned = self._config.finetuning.tuned[task][method_of(method_run).name]
        architecture = self._architecture(self._plan.prior_name(task, method_run))
        return PredictorSpec(
            architecture, tuned.prediction_time, build_task(task).has_mask, self._config.finetuning.maps_timestep
        )

    def _weights_gib(self, network: torch.nn.Module) -> float:
        return sum(parameter.numel() for parameter in network.parameters()) * 4 / GIB

    # ---- the real code, timed on noise

    def _seconds_per_sampling_pass(self, task: str, architecture: Architecture) -> float:
        """One network call on one variant, its share of noise and solver included."""
        side, sampling = self._plan.image_size(task), self._config.sampling
        network = self.device.place(architecture.build_prior())
        schedule = noise_schedule(**{**(architecture.schedule or {}), "n_timesteps": _TRIAL_STEPS})
        solver = Solver(sampling.solver, _TRIAL_STEPS, sampling.shared_start)
        image, mask = np.full((1, 3, side, side), 0.5, np.float32), np.ones((1, 3, side, side), np.uint8)
        images = DegradedImages(build_task(task), 0, ("trial",), image, mask)
        sampler = ChainSampler(network, schedule, images, solver, sampling.dtype, self.device)

        def draw(n_variants: int) -> None:
            sampler.launch([(0, variant) for variant in range(n_variants)])()

        batch_size = sampling.batch_size or _TRIAL_BATCH
        return self._seconds_per_item(draw, batch_size) / _TRIAL_STEPS

    def _seconds_per_predicted_image(self, task: str, method_run: str) -> float:
        def measure() -> float:
            predictor = self._predictor(task, method_run)

            def predict(n_images: int) -> None:
                shape = (n_images, 3, *2 * (self._plan.image_size(task, method_run),))
                ids = [f"trial-{k}" for k in range(n_images)]
                condition, mask = np.full(shape, 0.5, np.float32), np.ones(shape, np.uint8)
                images = DegradedImages(build_task(task), 0, ids, condition, mask)
                predict_bounds(predictor, images, self.device)

            return self._seconds_per_item(predict, 100)

        return self._remembered("predict", task, method_run, measure)

    def _seconds_per_trained_image(self, task: str, method_run: str) -> float:
        def measure() -> float:
            predictor = self._predictor(task, method_run)
            batch_size = self._config.finetuning.batch_size

            def train(n_images: int) -> None:
                optimisation = Optimisation(_TRIAL_STEPS, n_images, 1e-9, self._config.finetuning.ema)
                data = self._noise_images(task, method_run, n_images, predictor)
                loop.train(BoundFitting(predictor, data, pinball, 0.05, self.device), optimisation)

            return self._seconds_per_item(train, batch_size, smallest=2) / _TRIAL_STEPS  # batch norm wants two

        return self._remembered("train", task, method_run, measure)

    def _activations_gib(self, task: str, method_run: str) -> float:
        """What the backward pass of a whole batch keeps, counted on two images."""

        def measure() -> float:
            predictor = self._predictor(task, method_run)
            data = self._noise_images(task, method_run, 2, predictor)
            labels = torch.zeros(2, dtype=torch.long, device=self.device.torch_device) if data.n_classes else None
            sizes: dict[int, int] = {}

            def keep(tensor: Tensor) -> Tensor:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            own = {parameter.untyped_storage().data_ptr() for parameter in predictor.parameters()}
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), self.device.autocast():
                predictor.train()(data.condition, data.mask, torch.zeros_like(data.condition), labels)
            return sum(size for place, size in sizes.items() if place not in own) / 2 / GIB

        return self._remembered("keep", task, method_run, measure) * self._config.finetuning.batch_size

    def _noise_images(self, task: str, method_run: str, n_images: int, predictor: BoundPredictor) -> TrainingSet:
        side = self._plan.image_size(task, method_run)
        noise = torch.rand(n_images, 3, side, side, device=self.device.torch_device) * 2 - 1
        n_classes = getattr(predictor.network, "n_classes", 0)
        return TrainingSet(noise, torch.ones_like(noise), noise, noise, None, n_classes)

    def _predictor(self, task: str, method_run: str) -> BoundPredictor:
        predictor = self._spec(task, method_run).build(None)
        self.device.place(predictor)
        return predictor

    def _remembered(self, what: str, task: str, method_run: str, measure: Callable[[], float]) -> float:
        """A measurement, made once for every network and size of images."""
        key = (what, self._plan.prior_name(task, method_run), self._plan.image_size(task, method_run))
        if key not in self._times:
            self._times[key] = measure()
        return self._times[key]

    def _seconds_per_item(self, work: Callable[[int], None], batch_size: int, smallest: int = 1) -> float:
        """Seconds per item in batches as large as asked for, or as a trial has time for."""
        n_items = smallest
        self._seconds(work, n_items)  # warm-up
        seconds = self._seconds(work, n_items)
        while n_items < batch_size and seconds < _TRIAL_SECONDS:
            n_items = min(batch_size, _GROWTH * n_items)
            seconds = self._seconds(work, n_items)
        return min(seconds, self._seconds(work, n_items)) / n_items  # in the first, kernels are chosen by shape

    def _seconds(self, work: Callable[[int], None], n_items: int) -> float:
        self._wait()
        start = time.perf_counter()
        work(n_items)
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.torch_device.type == "cuda":
            torch.cuda.synchronize()


def estimate_text(config: Config, n_images: Mapping[str, int] | None = None) -> str:
    """The estimate as a table, with totals."""
    estimate = Estimate(config, n_images)
    costs = estimate.costs()
    precision = "bfloat16" if estimate.device.bfloat16 else "float32"
    lines = [
        f"run {config.run}, on this machine: {_device_name(estimate.device)}, {precision}",
        "",
        f"{'stage':<17}{'task':<18}{'method':<16}{'jobs':>6}{'passes':>13}{'hours':>10}{'longest job':>13}"
        f"{'disk GiB':>10}{'memory GiB':>12}",
    ]
    for cost in costs:
        lines.append(
            f"{cost.stage:<17}{cost.task:<18}{cost.method:<16}{cost.jobs:>6,}{cost.forward_passes:>13,}"
            f"{cost.hours:>10.3g}{_duration(cost.longest_job_hours):>13}{cost.disk_gib:>10.2f}{cost.memory_gib:>12.2f}"
        )
    jobs, passes = sum(cost.jobs for cost in costs), sum(cost.forward_passes for cost in costs)
    hours, disk = sum(cost.hours for cost in costs), sum(cost.disk_gib for cost in costs)
    return "\n".join([
        *lines,
        "",
        f"in all: {jobs:,} jobs, {passes:,} forward passes, {hours:.3g} device hours, at most {disk:.1f} GiB on disk, "
        f"at least {max(cost.memory_gib for cost in costs):.1f} GiB of memory in the largest job",
        "Divide the hours by the number of jobs that run at a time. Memory is what weights, gradients, Adam and kept "
        "activations take.",
    ])  # fmt: skip


def _device_name(device: Device) -> str:
    if device.torch_device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} thread(s) a job"


def _duration(hours: float) -> str:
    minutes = hours * 60
    return f"{minutes * 60:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"
