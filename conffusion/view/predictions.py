"""Folders of predictions, as `conffusion predict` and `conffusion evaluate` write them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from conffusion.core.arrays import FloatArray
from conffusion.errors import DataError, StoreError
from conffusion.images.image import MAX_PIXELS, open_images
from conffusion.inference import RECORD, SUMMARY, TABLE
from conffusion.methods.registry import METHODS
from conffusion.store import read_json
from conffusion.tasks import TASKS, build_task
from conffusion.view.gallery import Gallery, Prediction, Side, ViewedImage

_GUARANTEE = (  # the same for all images of a folder
    "protocol",
    "alpha",
    "delta",
    "lambda_hat",
    "unit",
    "n",
    "n_images",
)
_KEYS = (*_GUARANTEE, "interval_size_mean", "shape")
_N_NAMED = 3


def is_predictions(path: str | Path) -> bool:
    """Whether a folder holds predictions, complete or not."""
    folder = Path(path)
    return (folder / TABLE).is_file() or (folder / SUMMARY).is_file() or any(folder.rglob(RECORD))


def open_predictions(paths: Sequence[str | Path]) -> Gallery:
    """The images of a folder of predictions, or of several folders that hold predictions of the same images.

    Args:
        paths: The folders, the one to start with first.
    Raises:
        DataError: If no image is complete, the folders have none in common, or an image has different sizes.
        StoreError: If a record is damaged.
    """
    folders = [_Folder.of(Path(path)) for path in paths]
    names = sorted(set.intersection(*(set(folder.records) for folder in folders)))
    if not names:
        raise DataError(
            f"{', '.join(str(folder.path) for folder in folders)}: have no image in common; predict the same images,"
            " given by the same folder, with each method"
        )
    shapes = [_shape(folders, name) for name in names]
    n_channels = max(channels for channels, _, _ in shapes)
    records = [folder.records[names[0]] for folder in folders]
    bytes_each = 1 if all(record.get("bit_depth", 8) == 8 for record in records) else 2
    return Gallery(
        title=_title(folders, records[0]),
        sides=tuple(_sides(folders, records)),
        shapes=tuple((height, width) for _, height, width in shapes),
        bytes_per_pixel=n_channels * (bytes_each * (3 * len(folders) + 1) + 1),
        images=partial(_images, folders, names),
        notes=tuple(_notes(folders, names)),
    )


@dataclass(frozen=True)
class _Folder:
    """A folder of predictions.

    Attributes:
        path: Where it is.
        records: interval.json of each complete image, by its folder below `path`.
        incomplete: Folders that hold bounds but no interval.json.
        summary: summary.json, or None where the prediction is not finished.
    """

    path: Path
    records: Mapping[str, Mapping[str, Any]]
    incomplete: tuple[str, ...]
    summary: Mapping[str, Any] | None

    @classmethod
    def of(cls, path: Path) -> "_Folder":
        records = {file.parent.relative_to(path).as_posix(): _record(file) for file in path.rglob(RECORD)}
        begun = {file.parent.relative_to(path).as_posix() for file in path.rglob("lower.*")}
        incomplete = tuple(sorted(begun - set(records)))
        if not records:
            about = f"; {len(incomplete)} images are incomplete" if incomplete else ""
            raise DataError(
                f"{path}: holds no complete prediction (no {RECORD}){about}; run `conffusion predict` again"
            )
        _check_one_model(path, records)
        summary = path / SUMMARY
        return cls(path, records, incomplete, read_json(summary) if summary.is_file() else None)


def _record(file: Path) -> Mapping[str, Any]:
    record = read_json(file)
    missing = [key for key in _KEYS if key not in record]
    if missing:
        raise StoreError(f"{file}: lacks {', '.join(missing)}; delete this folder and run `conffusion predict` again")
    return record


def _check_one_model(path: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    first, *others = records
    for other in others:
        for key in ("method", *_GUARANTEE):
            one, two = records[first].get(key), records[other].get(key)
            if one != two:
                raise DataError(
                    f"{path}: holds predictions of different models ({key} is {one} for {first} and {two} for {other});"
                    " write those of each model into a folder of their own"
                )


def _shape(folders: Sequence[_Folder], name: str) -> tuple[int, int, int]:
    shapes = {tuple(folder.records[name]["shape"]) for folder in folders}
    if len(shapes) > 1:
        found = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes))
        raise DataError(f"{name}: has the shapes {found} in the folders to compare; predict the same image with each")
    channels, height, width = shapes.pop()
    return channels, height, width


def _title(folders: Sequence[_Folder], record: Mapping[str, Any]) -> str:
    task = str(record.get("task"))
    names = " and ".join(folder.path.resolve().name for folder in folders)
    return f"predictions {names}" + (f", {build_task(task).label}" if task in TASKS else "")


def _sides(folders: Sequence[_Folder], records: Sequence[Mapping[str, Any]]) -> Iterator[Side]:
    """One method for each folder; where labels are equal, the folders' names are added."""
    methods = [str(record.get("method") or "intervals") for record in records]
    labels = [METHODS[method].label if method in METHODS else method for method in methods]
    for folder, record, label in zip(folders, records, labels, strict=True):
        drift = (folder.summary or {}).get("drift") or {}
        warnings = [drift["warning"]] if drift.get("warning") else []
        warnings += _common_warnings(folder)
        if folder.summary is None:
            warnings.append(f"{folder.path.name}: the prediction is not finished; run the same command again.")
        yield Side(
            label=label if labels.count(label) == 1 else f"{label} ({folder.path.resolve().name})",
            protocol=str(record["protocol"]),
            alpha=record["alpha"],
            delta=record["delta"],
            lambda_hat=record["lambda_hat"],
            unit=record["unit"],
            n=record["n"],
            n_images=record["n_images"],
            estimate=str(record.get("estimate", "midpoint")),
            drift_p_value=drift.get("p_value"),
            warnings=tuple(warnings),
        )


def _common_warnings(folder: _Folder) -> list[str]:
    """What was said about every image."""
    first, *others = (list(record.get("warnings", ())) for record in folder.records.values())
    return [warning for warning in first if all(warning in other for other in others)]


def _notes(folders: Sequence[_Folder], names: Sequence[str]) -> Iterator[str]:
    for folder in folders:
        others = len(folder.records) - len(names)
        if others:
            yield f"{others:,} images of {folder.path.name} are not shown: the other folders do not have them."
        if folder.incomplete:
            named = ", ".join(folder.incomplete[:_N_NAMED]) + (", …" if len(folder.incomplete) > _N_NAMED else "")
            yield f"{len(folder.incomplete):,} incomplete images of {folder.path.name} are not shown: {named}."


def _images(folders: Sequence[_Folder], names: Sequence[str]) -> Iterator[ViewedImage]:
    for name in names:
        folder, record = folders[0].path / name, folders[0].records[name]
        mask, target = _find(folder, record, "mask"), _find(folder, record, "target")
        given = folder / record.get("files", {}).get("input", "input.png")
        shape = tuple(record["shape"])
        yield ViewedImage(
            name=name if name != "." else folder.resolve().name,
            predictions=tuple(_prediction(folder, name) for folder in folders),
            given=_given(given, shape) if given.is_file() else None,
            target=None if target is None else _pixels(target, shape, record.get("value_range")),
            mask=None if mask is None else _pixels(mask, (1, *shape[1:]))[0] > 0.5,
        )


def _prediction(folder: _Folder, name: str) -> Prediction:
    record, shape = folder.records[name], tuple(folder.records[name]["shape"])
    lower, upper = (_needed(folder.path / name, record, part) for part in ("lower", "upper"))
    estimate = _find(folder.path / name, record, "estimate")
    value_range = record.get("value_range")
    return Prediction(
        lower=_pixels(lower, shape, value_range),
        upper=_pixels(upper, shape, value_range),
        estimate=None if estimate is None else _pixels(estimate, shape, value_range),
        risk=record.get("risk"),
        size_mean=record["interval_size_mean"],
        drift_p_value=record.get("drift_p_value"),
        warnings=tuple(record.get("warnings", ())),
    )


def _needed(folder: Path, record: Mapping[str, Any], part: str) -> Path:
    path = _find(folder, record, part)
    if path is None:
        raise DataError(f"{folder}: the image `{part}` is missing; run `conffusion predict` again")
    return path


def _find(folder: Path, record: Mapping[str, Any], part: str) -> Path | None:
    """A file of a prediction: what the record says, else whatever has its name; None where there is none."""
    named = record.get("files", {}).get(part)
    if named is not None:
        if not isinstance(named, str) or Path(named).name != named:
            raise DataError(f"{folder}: names the file {named!r} outside its folder; predict again")
        return folder / named
    return next(iter(sorted(folder.glob(f"{part}.*"))), None)


def _pixels(path: Path, shape: tuple[int, ...], value_range: Sequence[float] | None = None) -> FloatArray:
    """(C, H, W) float32 in [0, 1].

    Raises:
        DataError: If the file is missing, damaged or of another size.
    """
    limits = None if value_range is None else (value_range[0], value_range[1])
    pixels = open_images(path, max_pixels=max(MAX_PIXELS, shape[1] * shape[2]), value_range=limits)[0].pixels
    if pixels.shape != shape:
        found, wanted = ("x".join(map(str, size)) for size in (pixels.shape, shape))
        raise DataError(f"{path}: has {found} values but {RECORD} says {wanted}; run `conffusion predict` again")
    return pixels


def _given(path: Path, shape: tuple[int, ...]) -> FloatArray:
    """The 8-bit picture of what was given; one channel where it is grey."""
    pixels = open_images(path, max_pixels=max(MAX_PIXELS, shape[1] * shape[2]))[0].pixels
    if pixels.shape[1:] != shape[1:]:
        raise DataError(f"{path}: is not of the size that {RECORD} says; run `conffusion predict` again")
    return pixels
