"""ONNX files of calibrated predictors: the graph, what it guarantees and takes, and a check that it is right."""

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conffusion import __version__
from conffusion.bounds import sort_bounds
from conffusion.contrib.onnx.families import PLAIN_REMEDY
from conffusion.contrib.onnx.graph import COLOURS, ExportedBounds, ExportedPredictor
from conffusion.contrib.onnx.metadata import METADATA_KEY, describe, takes_any_size
from conffusion.core.arrays import FloatArray
from conffusion.errors import ExportError
from conffusion.inference.package import Package
from conffusion.store.files import atomic_path

SUFFIX = ".onnx"
TOLERANCE = 1e-4  # largest difference of a bound between onnxruntime and the package, in units of the [0, 1] range
OPSET = 17  # of 2022, which all runtimes know
_MOST_BYTES = (1 << 31) - (16 << 20)  # of weights in one ONNX file: its format ends at 2 GiB
_SEED = 0

Feeds = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        metadata: As in the file.
        largest_difference: Of any bound between onnxruntime and the package, on made-up images of two sizes.
    """

    metadata: Mapping[str, Any]
    largest_difference: float


def export_onnx(package: Package, path: str | Path) -> Exported:
    """Write a one-pass predictor, its set family and lambda_hat as one ONNX file; it appears only when it was checked.

    The graph is a pure function in float32. Its inputs and outputs are those of `ExportedPredictor.forward` and
    `ExportedBounds`; `metadata` says which of the inputs this model has. Batch, height and width are dynamic (for
    "pixel_groups", whose groups are positions, only the batch). Large images are tiled outside the graph.

    Args:
        package: The model, of a one-pass method.
        path: File ending in `.onnx`.
    Raises:
        ExportError: If the method samples, a needed library is missing, the weights exceed 2 GB, the name ends
            otherwise, or onnxruntime does not reproduce the bounds within 1e-4.
        StoreError: If the disk refuses.
    """
    if Path(path).suffix != SUFFIX:
        raise ExportError(f"{path}: the name of the file must end in {SUFFIX}")
    onnx, onnxruntime = _needed("onnx"), _needed("onnxruntime")
    if len(package.weights) > _MOST_BYTES:
        raise ExportError(f"{package.record.name}: has more than 2 GB of weights, which no single ONNX file can hold")
    predictor = ExportedPredictor(package)
    metadata = describe(package, predictor)
    model = _bare_model(onnx, package, predictor)
    model.producer_name, model.producer_version = "conffusion", __version__
    model.doc_string = f"{package.record.name}. {metadata['guarantee']}"
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata, allow_nan=False)})
    difference = _largest_difference(onnxruntime, model.SerializeToString(), package, predictor)
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{package.record.name}: onnxruntime {onnxruntime.__version__} differs from the model by {difference:.2g}, "
            f"more than {TOLERANCE:g}; nothing was written. With a plain set family less can differ: {PLAIN_REMEDY}"
        )
    with atomic_path(path) as temporary:
        onnx.save(model, str(temporary))
    return Exported(metadata, difference)


def _needed(library: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(library)
    except ImportError as error:
        raise ExportError(f'exporting needs {library}: run pip install "conffusion[onnx]"') from error


def _trace(predictor: ExportedPredictor, side: int | None, path: Path) -> None:
    """Write the bare graph; for images of one size where `side` is given.

    By torch's exporter that traces (`dynamo=False`): it takes a second where the newer one takes half a minute, and
    needs no further library. A trace fixes what Python decides from a size; `_largest_difference` looks at other sizes.
    """
    multiple = predictor.size_multiple
    example = _tensors(_example(predictor, 2, side or 3 * multiple, side or 2 * multiple))
    images = {0: "n"} if side else {0: "n", 2: "height", 3: "width"}
    names = *predictor.inputs, *ExportedBounds._fields
    with _quiet():
        torch.onnx.export(
            predictor,
            (example["condition"], example.get("mask"), example.get("noise"), example.get("labels")),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(predictor.inputs),
            output_names=list(ExportedBounds._fields),
            dynamic_axes={name: {0: "n"} if name == "labels" else images for name in names},
        )


def _bare_model(onnx: ModuleType, package: Package, predictor: ExportedPredictor) -> Any:
    """The graph without metadata."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        _trace(predictor, None if takes_any_size(package) else package.record.image_size, file)
        return onnx.load(str(file))


def _example(predictor: ExportedPredictor, n_images: int, height: int, width: int) -> Feeds:
    """Made-up inputs."""
    generator = np.random.default_rng(_SEED)
    shape = n_images, COLOURS, height, width
    mask = np.zeros((n_images, 1, height, width), np.float32)
    mask[..., height // 4 : -(height // 4) or None, width // 4 : -(width // 4) or None] = 1
    everything: Feeds = {
        "condition": generator.random(shape, dtype=np.float32),
        "mask": mask,
        "noise": generator.standard_normal(shape, dtype=np.float32),
        "labels": generator.integers(max(predictor.n_classes, 1), size=n_images),
    }
    return {name: everything[name] for name in predictor.inputs}


def _tensors(feeds: Feeds) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(array) for name, array in feeds.items()}


def _largest_difference(onnxruntime: ModuleType, model: bytes, package: Package, predictor: ExportedPredictor) -> float:
    """Of any bound of made-up images of other sizes than traced, from what the package's own code makes of them."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    side, multiple = package.record.image_size, predictor.size_multiple
    sizes = [(1, side, side)] + ([(3, 2 * multiple, 4 * multiple)] if takes_any_size(package) else [])
    differences = []
    for size in sizes:
        feeds = _example(predictor, *size)
        found = session.run(["lower", "upper"], feeds)
        for mine, theirs in zip(found, _reference(package, predictor, feeds), strict=True):
            differences.append(float(np.abs(mine - theirs).max()))
    return max(differences)


def _reference(package: Package, predictor: ExportedPredictor, feeds: Feeds) -> tuple[FloatArray, FloatArray]:
    """Calibrated bounds from the network's output."""
    tensors = _tensors(feeds)
    with torch.inference_mode():
        raw = predictor.raw(tensors["condition"], tensors.get("mask"), tensors.get("noise"), tensors.get("labels"))
    _, lower, upper = (bound.numpy() for bound in raw)
    if package.record.sorts_bounds:
        lower, upper, _ = sort_bounds(lower, upper)
    low, high = package.calibration.apply(lower, upper)
    if predictor.has_mask:
        low, high = (np.where(feeds["mask"] == 1, end, feeds["condition"]) for end in (low, high))
    return low, high


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its age, and on sizes that Python decides from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
