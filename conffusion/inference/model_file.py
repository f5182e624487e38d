"""Package files: a zip of plain files, none compressed, each with its checksum. Reading one runs no code."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from conffusion.errors import ConfigError, PackageError, StoreError
from conffusion.inference.evidence import Evidence
from conffusion.inference.package import Package, PackageRecord
from conffusion.methods.registry import METHODS
from conffusion.store.files import atomic_path

SUFFIX = ".conffusion"
RECORD, WEIGHTS, EVIDENCE, CARD, LICENCE = (
    "package.json", "model.safetensors", "evidence.safetensors", "MODEL_CARD.md", "LICENSE"
)  # fmt: skip
_NEEDED = (RECORD, WEIGHTS, EVIDENCE)
_MOST_RECORD_BYTES = 64 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # in place of the time of writing, so that the same model makes the same file


def write_package(package: Package, path: str | Path, licence: str) -> str:
    """Write a package; the file appears only when it is complete.

    Args:
        package: What to write.
        path: File ending in `.conffusion`.
        licence: Text of the licence under which the weights are passed on.
    Returns:
        SHA-256 of the weights.
    Raises:
        PackageError: If the name ends otherwise.
        StoreError: If the disk refuses.
    """
    if Path(path).suffix != SUFFIX:
        raise PackageError(f"{path}: the name of a package must end in {SUFFIX}")
    files = {
        WEIGHTS: package.weights,
        EVIDENCE: save(package.evidence.arrays()),
        CARD: model_card(package).encode(),
        LICENCE: licence.encode(),
    }
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    content = {"record": package.record.model_dump(mode="json"), "sha256": checksums}
    files[RECORD] = json.dumps(content, indent=1, sort_keys=True).encode()
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in (RECORD, CARD, LICENCE, EVIDENCE, WEIGHTS):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), files[name])
    return checksums[WEIGHTS]


def model_card(package: Package) -> str:
    """Markdown for people, from the facts in the package alone."""
    record, calibration = package.record, package.calibration
    settings = ", ".join(f"{key} {value}" for key, value in record.degradation.items()) or "no settings"
    facts = [
        ("Task", f"{package.task.label} ({settings})"),
        ("Method", f"{package.method.label}, protocol `{record.protocol}`"),
        ("Network", f"knows images of {record.image_size}x{record.image_size} pixels; larger ones are tiled"),
        ("Calibrated on", f"{record.calibrated_on.description}; {record.calibrated_on.sizes} pixels"),
        ("Units behind the guarantee", f"{calibration.n} ({calibration.unit}s), {calibration.n_images} images"),
        ("Risk on them", f"{calibration.risk:.4f}, upper bound {calibration.risk_ucb:.4f} by `{calibration.ucb}`"),
        ("Scale", f"lambda_hat = {calibration.lambda_hat:.6g}, set family `{calibration.scaling}`"),
        ("Weights", f"SHA-256 `{package.weights_sha256}`"),
        ("Made by", f"conffusion {record.version}"),
        *((str(key).replace("_", " ").capitalize(), str(value)) for key, value in record.provenance.items()),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in facts)
    return f"""# {record.name}

{package.guarantee}

| | |
| --- | --- |
{table}

## What this does not say

- Nothing about a single pixel or a single image: the share is a mean over pixels and images.
- Nothing about images unlike those that calibrated it: other cameras, subjects, degradations or sizes. `conffusion
  predict` tests each folder for such a drift and warns, but a test that finds nothing proves nothing.
- For your own images, calibrate on pairs of your own: `conffusion calibrate`.
"""


def read_package(path: str | Path) -> Package:
    """Read a package, checking every file against its checksum.

    Nothing in it is executed or unpickled, and nothing is decompressed, so that a file from elsewhere can do no harm.

    Raises:
        PackageError: If the file is missing, damaged, of a newer format, or no package.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = _members(path, archive)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # encrypted members raise RuntimeError
        raise PackageError(
            f"{path}: cannot be read as a package ({error}); make it with `conffusion package`"
        ) from error
    record, checksums = _record(path, files.pop(RECORD))
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != checksums.get(name):
            raise PackageError(f"{path}: {name} does not match its checksum; fetch the package again")
    package = Package(record, files[WEIGHTS], _evidence(path, files[EVIDENCE]))
    _check(path, package)
    return package


def _members(path: str | Path, archive: zipfile.ZipFile) -> dict[str, bytes]:
    known = (*_NEEDED, CARD, LICENCE)
    names = archive.namelist()
    odd = [name for name in names if name not in known or names.count(name) > 1]
    lacking = [name for name in _NEEDED if name not in names]
    if odd or lacking:
        what = f"holds {odd[0]!r}" if odd else f"lacks {lacking[0]!r}"
        raise PackageError(f"{path}: {what}, so it is no package of conffusion")
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise PackageError(f"{path}: is compressed, which packages never are; it was packed by something else")
    if archive.getinfo(RECORD).file_size > _MOST_RECORD_BYTES:
        raise PackageError(f"{path}: {RECORD} is larger than {_MOST_RECORD_BYTES >> 20} MB; it is no package")
    return {name: archive.read(name) for name in names}


def _record(path: str | Path, content: bytes) -> tuple[PackageRecord, Mapping[str, str]]:
    try:
        values = json.loads(content)
        written = values["record"].get("format")
        if written == 1:
            values["record"] = _from_format_1(values["record"])
        elif written != PackageRecord.model_fields["format"].default:
            raise PackageError(f"{path}: has format {written}, which this version cannot read: update conffusion")
        return PackageRecord(**values["record"]), dict(values["sha256"])
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PackageError(f"{path}: {RECORD} is damaged ({error}); fetch the package again") from error


def _from_format_1(record: dict[str, Any]) -> dict[str, Any]:
    """A record of conffusion 0.1.0 in today's format."""
    sampling = record["sampling"]
    if sampling is not None:
        sampling = {**sampling, "dtype": sampling["storage"]}
        del sampling["storage"]
    return {**record, "format": 2, "sampling": sampling}


def _check(path: str | Path, package: Package) -> None:
    """Names and settings that must make sense before anything is predicted."""
    if package.record.method not in METHODS:
        raise PackageError(f"{path}: the method {package.record.method!r} is unknown: update conffusion")
    try:
        _ = package.task, package.calibration.family
    except (ConfigError, StoreError, TypeError, KeyError, ValueError) as error:
        raise PackageError(f"{path}: {RECORD} is damaged or of a newer version ({error})") from error


def _evidence(path: str | Path, content: bytes) -> Evidence:
    try:
        return Evidence.from_arrays(load(content))
    except (SafetensorError, ValueError) as error:
        raise PackageError(f"{path}: {EVIDENCE} is damaged ({error}); fetch the package again") from error
