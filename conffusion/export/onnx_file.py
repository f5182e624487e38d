"""ONNX files of calibrated predictors: the graph, what it promises and takes, and a check that it is right."""

import json
import logging
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
from conffusion.arrays import FloatArray
from conffusion.bounds import sort_bounds
from conffusion.calibration.krcps import PixelGroups
from conffusion.errors import ExportError
from conffusion.export.graph import COLOURS, ExportedBounds, ExportedPredictor
from conffusion.packages import Package
from conffusion.packages.card import promise_in_words
from conffusion.store.files import atomic_path

SUFFIX = ".onnx"
METADATA_KEY = "conffusion"
TOLERANCE = 1e-4  # largest difference of a bound between onnxruntime and the package, in units of the [0, 1] range
OPSET = 20
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
    _needed("onnxscript")
    if len(package.weights) > _MOST_BYTES:
        raise ExportError(f"{package.record.name}: has more than 2 GB of weights, which no single ONNX file can hold")
    predictor = ExportedPredictor(package)
    metadata = describe(package, predictor)
    model = _trace(predictor, None if _free_size(package) else package.record.image_size)
    model.producer_name, model.producer_version = "conffusion", __version__
    model.doc_string = f"{package.record.name}. {metadata['promise']}"
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata, sort_keys=True, allow_nan=False)})
    difference = _largest_difference(onnxruntime, model.SerializeToString(), package, predictor)
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{package.record.name}: onnxruntime {onnxruntime.__version__} differs from the model by {difference:.2g}, "
            f"more than {TOLERANCE:g}; nothing was written. Calibrating anew with a plain family (multiplicative, "
            "additive or interval) leaves less to differ"
        )
    with atomic_path(path) as temporary:
        onnx.save(model, str(temporary))
    return Exported(metadata, difference)


def describe(package: Package, predictor: ExportedPredictor) -> dict[str, Any]:
    """The metadata of a file, plain values: the model and its promise, and how the graph is used."""
    record, calibration = package.record, package.calibration
    hole = np.argwhere(package.task.mask((1, 1, record.image_size, record.image_size))[0, 0])
    (top, left), (bottom, right) = hole.min(axis=0).tolist(), (hole.max(axis=0) + 1).tolist()
    return {
        "format": 1,
        "version": __version__,
        "name": record.name,
        "task": record.task,
        "degradation": record.degradation,
        "factor": package.task.factor,
        "method": record.method,
        "protocol": record.protocol,
        "alpha": calibration.alpha,
        "delta": calibration.delta,
        "lambda_hat": calibration.lambda_hat,
        "unit": calibration.unit,
        "n": calibration.n,
        "n_images": calibration.n_images,
        "family": package.family.name,
        "promise": promise_in_words(package),
        "calibrated_on": record.calibrated_on.model_dump(mode="json"),
        "calibrated_in": "bfloat16" if record.bfloat16 else "float32",
        "model_sha256": package.weights_sha256,
        "tile_size": record.image_size,
        "overlap": record.overlap,
        "size_multiple": predictor.size_multiple,
        "any_size": _free_size(package),
        "hole": {"top": top, "left": left, "bottom": bottom, "right": right} if predictor.has_mask else None,
        "n_classes": predictor.n_classes,
        "estimate": "point_head" if predictor.has_point_head else "midpoint",
        "inputs": {name: _INPUTS[name] for name in predictor.inputs},
        "outputs": dict(_OUTPUTS),
    }


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a file that `export_onnx` wrote.

    Raises:
        ExportError: If the file is missing or was written by something else, or onnx is not installed.
    """
    onnx = _needed("onnx")
    try:
        model = onnx.load(str(path))
    except Exception as error:  # of many kinds, whatever is wrong with the file
        raise ExportError(f"{path}: cannot be read as an ONNX file ({error})") from error
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if not texts:
        raise ExportError(f"{path}: was not written by `conffusion export`")
    content: dict[str, Any] = json.loads(texts[0])
    return content


_IMAGES = "(n, 3, height, width) float32"
_INPUTS: Mapping[str, str] = {
    "condition": f"{_IMAGES} in [0, 1]: the corrupted image; for super-resolution already enlarged by `factor` "
    "(bicubic); grey images repeated in three channels; height and width multiples of `size_multiple`",
    "mask": "(n, 1, height, width) float32: 1 where pixels are missing, 0 where they are known; holes no larger than "
    "`hole`, which was the hole of the training in an image of `tile_size`",
    "noise": f"{_IMAGES}, standard normal, independent for each image; fixed for an image if its bounds shall not change",
    "labels": "(n,) int64, uniform over 0 .. `n_classes` - 1, independent for each image",
}
_OUTPUTS: Mapping[str, str] = {
    "lower": f"{_IMAGES} in [0, 1]: calibrated lower bound; known pixels as given",
    "upper": f"{_IMAGES} in [0, 1]: calibrated upper bound; known pixels as given",
    "estimate": f"{_IMAGES} in [0, 1]: see `estimate`",
    "lower_unclipped": f"{_IMAGES}: to be blended where tiles overlap, then clipped to [0, 1]",
    "upper_unclipped": f"{_IMAGES}: likewise",
}


def _needed(library: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(library)
    except ImportError as error:
        raise ExportError(f'exporting needs {library}: run pip install "conffusion[onnx]"') from error


def _free_size(package: Package) -> bool:
    """Whether the graph takes images of other sizes than the tile's."""
    return not isinstance(package.family.shape, PixelGroups)


def _trace(predictor: ExportedPredictor, side: int | None) -> Any:
    """The ONNX model; of images of one size where `side` is given."""
    example = _example(predictor, 2, *((side, side) if side else _other_size(predictor)))
    with _quiet():
        program = torch.export.export(
            predictor, (), _tensors(example), dynamic_shapes=_dynamic_shapes(predictor, side is None), strict=False
        )
        exported = torch.onnx.export(
            program,
            (),
            kwargs=_tensors(example),
            dynamo=True,
            opset_version=OPSET,
            input_names=predictor.inputs,
            output_names=ExportedBounds._fields,
            verbose=False,
        )
    model = exported.model_proto  # type: ignore[union-attr]
    for value in (*model.graph.input, *model.graph.output):
        sizes = value.type.tensor_type.shape.dim
        for position, name in {0: "n", **({2: "height", 3: "width"} if side is None else {})}.items():
            if position < len(sizes):
                sizes[position].dim_param = name
    return model


def _dynamic_shapes(predictor: ExportedPredictor, free_size: bool) -> dict[str, dict[int, Any]]:
    """Which sizes of the inputs may vary: the batch, and multiples of what the network needs."""
    images = {0: torch.export.Dim("n", min=1)}
    sizes = {
        2: predictor.size_multiple * torch.export.Dim("rows", min=1),
        3: predictor.size_multiple * torch.export.Dim("columns", min=1),
    }
    return {name: images | (sizes if free_size and name != "labels" else {}) for name in predictor.inputs}


def _other_size(predictor: ExportedPredictor) -> tuple[int, int]:
    """A small size that is not square."""
    return 3 * predictor.size_multiple, 2 * predictor.size_multiple


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
    """Of any bound of made-up images from what the package's own NumPy code makes of the network's output."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    side = package.record.image_size
    sizes = [(1, side, side)] + ([(3, *_other_size(predictor))] if _free_size(package) else [])
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
        raw = predictor.raw(*(tensors.get(name) for name in ("condition", "mask", "noise", "labels")))
    _, lower, upper = (bound.numpy() for bound in raw)
    if package.record.sorts_bounds:
        lower, upper, _ = sort_bounds(lower, upper)
    known = np.zeros((1, 1, 1, 1), bool) if predictor.has_mask is False else feeds["mask"] == 0
    low, high = (np.where(known, feeds["condition"], end) for end in package.calibration.apply(lower, upper))
    return low, high


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on libraries that no model here uses, and on its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
