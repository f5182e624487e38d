"""Priors: written from settings alone, with the record that makes them usable and repeatable."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from conffusion.config.schema import PriorSettings
from conffusion.core.device import Device
from conffusion.models.checkpoint import load_checkpoint
from conffusion.models.networks import load_prior, load_weights
from conffusion.models.unet import UNet
from conffusion.store import write_store
from conffusion.tasks.inpainting import centre_mask
from conffusion.training.priors import PriorJob, architecture_of, write_prior
from tests.methods.small_specs import SIDE, SPECS

CPU = Device(torch.device("cpu"), bfloat16=False)
SCHEDULE = {"linear_start": 1e-4, "linear_end": 0.02, "cosine_s": 0.008, "respacing": None}
TASKS = {
    "sr3": ("super_resolution", "faces"),
    "palette": ("inpainting", "faces"),
    "adm": (None, "photos"),
    "resnext": (None, "photos"),
}
N_PHOTOS = 9  # classes of the bundled photographs


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield


def settings(kind: str, **changes: Any) -> PriorSettings:
    architecture = SPECS[kind].architecture
    options = dict(architecture.options)
    for key in ("num_classes", "n_classes"):
        if key in options:
            options[key] = N_PHOTOS
    task, images = TASKS[kind]
    schedule = {**SCHEDULE, **architecture.schedule} if architecture.schedule else None
    training = {"images": images, "n_images": 16, "n_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "ema": 0.9}
    return PriorSettings(
        network=architecture.network, options=options, schedule=schedule, task=task, training={**training, **changes}
    )


def written(folder: Path, kind: str, name: str = "prior", seed: int = 1, **changes: Any) -> Path:
    path = folder / f"{name}.safetensors"
    prior = settings(kind, **changes)
    write_prior(PriorJob(name, prior, {}, SIDE, seed), CPU, output=path)
    return path


@pytest.mark.parametrize("kind", list(SPECS))
def test_prior_loads_into_its_architecture_and_tells_how_it_was_made(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind)
    architecture = architecture_of(settings(kind))
    load_weights(architecture.build_prior(), load_prior(path, architecture))
    record = load_checkpoint(path)[1]
    assert record["architecture"] == architecture.record()
    training = record["training"]
    assert {key: training[key] for key in ("n_images", "n_steps", "batch_size")} == {
        "n_images": 16, "n_steps": 2, "batch_size": 4,
    }  # fmt: skip
    assert [entry["step"] for entry in training["losses"]] == [2]


def test_prior_is_stored_in_half_precision(tmp_path: Path) -> None:
    with safe_open(written(tmp_path, "sr3"), framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}


def test_same_settings_give_the_same_weights_and_another_name_or_seed_others(tmp_path: Path) -> None:
    def weights(**choices: Any) -> dict[str, torch.Tensor]:
        return load_checkpoint(written(tmp_path, "sr3", **choices))[0]

    first, again = weights(), weights()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    for other in (weights(name="other"), weights(seed=2), weights(n_steps=3)):
        assert any(not torch.equal(value, other[name]) for name, value in first.items())


def holes_seen(folder: Path, hole: float, images: Path | None) -> torch.Tensor:
    """(N, H, W) masks of the holes that the network of an inpainting prior is shown in training."""
    seen: list[torch.Tensor] = []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, UNet):
            condition, noised = inputs[0].split(3, dim=1)
            seen.append((condition != noised).any(dim=1))

    with torch.nn.modules.module.register_module_forward_pre_hook(look):
        job = PriorJob("prior", settings("palette", n_steps=40), {"hole": hole}, SIDE, 1)
        write_prior(job, CPU, output=folder / "prior.safetensors", images=images)
    return torch.cat(seen)


@pytest.mark.parametrize("own_images", [False, True])
@pytest.mark.parametrize("hole", [0.25, 0.75])
def test_network_is_shown_holes_of_the_configured_size(hole: float, own_images: bool, tmp_path: Path) -> None:
    """Half of them are the task's own; the sides of the others are 80 to 120 % of its sides."""
    images = None
    if own_images:
        images = tmp_path / "finetune.json"
        target = np.random.default_rng(0).random((16, 3, SIDE, SIDE), dtype=np.float32)
        write_store(images, {"target": target}, [str(k) for k in range(16)], {})
    holes = holes_seen(tmp_path, hole, images)
    own = torch.as_tensor(centre_mask(SIDE, SIDE, hole=hole)) > 0
    assert 0.35 < float((holes == own).flatten(1).all(1).float().mean()) < 0.65
    for sides in (holes.any(2).sum(1), holes.any(1).sum(1)):
        assert sides.min() == round(0.8 * hole * SIDE) and sides.max() == min(round(1.2 * hole * SIDE), SIDE)
