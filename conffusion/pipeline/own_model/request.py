"""What `conffusion finetune` is asked for, and the configuration overlay that asks the workflow for it."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conffusion.config import merge
from conffusion.config.schema import Config
from conffusion.errors import ConfigError
from conffusion.methods.registry import get_method
from conffusion.store import write_text
from conffusion.tasks import pinned_settings

PRIOR_STEPS = 5  # of a prior that is trained in the run, for each step of fine-tuning
_MOST_VALIDATIONS = 10
_MOST_THREADS = 8  # that small networks have use for; there is one network, so jobs have few others beside them
_TEMPLATES = {"inpainting": "palette_faces"}  # whose settings a task's own prior takes; all others:
_TEMPLATE = "sr3_faces"
_SETTINGS_OF = "super_resolution"  # whose learning rates and prediction times a task without its own takes
_DIGEST = "# sha256 of the lines above: "


@dataclass(frozen=True)
class Request:
    """What the user wants.

    Attributes:
        images: Folder or archive of clean images.
        task: Name of the task.
        degradation: Its settings.
        output: Package to write.
        name: What to call the model.
        method: Name of the method; None: the one that suits the task and what is shipped.
        image_size: Side of the images that the network will know, pixels.
        fit: "tile", "crop" or "resize": how images become squares of that side.
        tile_size: Side of a tile in pixels of the image; None: `image_size`.
        max_tiles: Tiles of one image, at most.
        group_pattern: Regular expression on file names whose part in brackets is the group.
        group_csv: Table with the columns file and group.
        value_range: Sample values that stand for 0 and 1; None: by the type of the samples.
        alpha: Risk level.
        delta: Error level.
        steps: Steps of fine-tuning; None: the default.
        device: "auto", "cpu" or "cuda".
        cores: CPU cores to use.
    """

    images: Path
    task: str
    degradation: dict[str, Any]
    output: Path
    name: str = ""
    method: str | None = None
    image_size: int = 32
    fit: str = "tile"
    tile_size: int | None = None
    max_tiles: int | None = 16
    group_pattern: str | None = None
    group_csv: Path | None = None
    value_range: tuple[float, float] | None = None
    alpha: float = 0.1
    delta: float = 0.1
    steps: int | None = None
    device: str = "auto"
    cores: int = 1

    @property
    def run(self) -> str:
        """Name of the run: results/<run>."""
        return "own-" + (re.sub(r"[^A-Za-z0-9_.-]+", "-", self.output.stem).strip("-.") or "model")

    @property
    def settings_file(self) -> Path:
        """Where the overlay goes: beside the package."""
        return self.output.with_suffix(".yaml")


def method_of_request(request: Request, base: Config) -> str:
    """The method that is asked for, or else N-Conffusion where its network is shipped or has to be trained anyway.

    G-Conffusion starts from a network that fits any task, so it is taken where the task has none of its own.

    Raises:
        ConfigError: If the method's network is shipped for images of another size.
    """
    side = request.image_size
    if request.method is None:
        needs_training = shipped_prior(request, base, "n_conffusion") is None
        return "g_conffusion" if needs_training and shipped_prior(request, base, "g_conffusion") else "n_conffusion"
    method = get_method(request.method)
    if method.network != "task" and shipped_prior(request, base, request.method) is None:
        prior = base.networks[str(method.network)]
        raise ConfigError(
            f"--method {request.method}: starts from {prior}, which knows images of "
            f"{base.priors[prior].options['image_size']} pixels a side; with --image-size {side} take n_conffusion, "
            "whose network is then trained on your images"
        )
    return request.method


def shipped_prior(request: Request, base: Config, method: str) -> str | None:
    """Name of the shipped network that a method starts from; None: there is none for this task and size."""
    role = get_method(method).network
    if role == "task" and request.task not in base.tasks:
        return None
    name = base.tasks[request.task].prior if role == "task" else base.networks[str(role)]
    made_for = base.priors[name].options.get("image_size", request.image_size)
    return name if made_for == request.image_size else None


def overlay_of(request: Request, base: Config, method: str, splits: dict[str, float]) -> dict[str, Any]:
    """What is laid over config.yaml; paths are absolute.

    Args:
        request: What the user wants.
        base: config.yaml alone.
        method: As `method_of_request`.
        splits: Share of the groups of every split.
    """
    trains_prior = shipped_prior(request, base, method) is None
    tuned = _tuned(request, base, method)
    task: dict[str, Any] = {"degradation": request.degradation, "resample": "bicubic"}
    overlay = {
        "run": request.run,
        "device": request.device,
        "threads": min(request.cores, _MOST_THREADS),
        "image_size": request.image_size,
        "dataset": {"name": "folder", "splits": splits, "folder": _folder(request)},
        "tasks": {**dict.fromkeys(base.tasks), request.task: task},
        "methods": [method],
        "finetuning": {
            "validate_every": max(base.finetuning.validate_every, tuned["n_steps"] // _MOST_VALIDATIONS),
            "tuned": {request.task: {method: tuned}},
        },
        "calibration": {"alpha": request.alpha, "delta": request.delta},
    }
    if request.task not in base.tasks or trains_prior:
        prior = f"{request.task}_own"
        task["prior"] = prior
        overlay["priors"] = {prior: _own_prior(request, base, PRIOR_STEPS * tuned["n_steps"])}
    if trains_prior:
        overlay["priors_dir"] = None
    return overlay


def planned_config(overlay: dict[str, Any], base_values: dict[str, Any], workflow: Path) -> dict[str, Any]:
    """The merged configuration, with the shipped networks found from any working folder."""
    merged = merge(base_values, overlay)
    if merged.get("priors_dir"):
        merged["priors_dir"] = str(workflow / merged["priors_dir"])
    return merged


def write_overlay(path: Path, overlay: dict[str, Any]) -> None:
    """Write the overlay as YAML that people may keep and edit; a file that they edited is not touched.

    Raises:
        ConfigError: If the file was written by somebody else, or edited since, and says something else.
    """
    text = (
        "# Written by `conffusion finetune`; laid over config.yaml, where every key is explained.\n"
        "# To set more, edit a copy of it and run, in the folder of the workflow:\n"
        "#   snakemake report --cores 2 --configfile THE_COPY.yaml\n"
        f"{yaml.safe_dump(overlay, sort_keys=False)}"
    )
    if path.exists():
        current = path.read_text(encoding="utf-8", errors="replace")
        written, _, digest = current.rpartition(_DIGEST)  # without a digest, `written` is empty
        if digest.strip() != _sha256(written) and current != text:
            raise ConfigError(
                f"{path}: was edited, or not written by this command, so it is not overwritten. Remove or rename it, "
                f"or run the workflow with it: snakemake report --cores 2 --configfile {path}"
            )
    write_text(path, f"{text}{_DIGEST}{_sha256(text)}\n")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _folder(request: Request) -> dict[str, Any]:
    tiles = request.fit == "tile"
    return {
        "path": str(request.images.resolve()),
        "fit": request.fit,
        "tile_size": request.tile_size,
        "max_tiles_per_image": request.max_tiles if tiles else None,
        "group_pattern": request.group_pattern,
        "group_csv": None if request.group_csv is None else str(request.group_csv.resolve()),
        "value_range": None if request.value_range is None else list(request.value_range),
    }


def _tuned(request: Request, base: Config, method: str) -> dict[str, Any]:
    searched = base.finetuning.tuned
    settings = searched.get(request.task, {}).get(method) or searched[_SETTINGS_OF][method]
    return {**settings.model_dump(), **({} if request.steps is None else {"n_steps": request.steps})}


def _own_prior(request: Request, base: Config, n_steps: int) -> dict[str, Any]:
    """A small network for the task, trained on the images of the split finetune."""
    template = base.priors[_TEMPLATES.get(request.task, _TEMPLATE)]
    widths = "channel_mults" if template.network == "palette" else "channel_multiplier"
    n_doublings = max(0, (request.image_size // 32).bit_length() - 1)
    multipliers = [1, 2, 2] + [4] * n_doublings  # down to about 4x4 at 32 pixels, one level more for each doubling
    multiple = template.options["patch_size"] << (len(multipliers) - 1)
    if request.image_size % multiple:
        raise ConfigError(
            f"--image-size {request.image_size}: must be a multiple of {multiple} for a network of its own"
        )
    options = {**template.options, "image_size": request.image_size, widths: multipliers}
    settings = template.model_dump(exclude={"image_size", "checkpoint", "source"})
    training = {**(settings["training"] or {}), "images": "dataset", "n_steps": n_steps}
    return {**settings, "options": options, "task": request.task, "training": training}


def checked_degradation(task: str, degradation: dict[str, Any]) -> dict[str, Any]:
    """Settings with an absolute path of the user's function, which is surely there.

    Raises:
        ConfigError: If its file cannot be read.
    """
    if "function" not in degradation:
        return degradation
    path, _, name = str(degradation["function"]).rpartition(":")
    pinned_settings(task, degradation)
    return {**degradation, "function": f"{Path(path).resolve()}:{name}"}
