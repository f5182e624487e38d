"""Package files: what comes back, and what is refused."""

import hashlib
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conffusion.errors import ConfigError, PackageError
from conffusion.inference.model_file import read_package, write_package
from conffusion.inference.package import Package
from tests.inference.small_package import small_package


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return small_package(tmp_path)


@pytest.fixture
def file(package: Package, tmp_path: Path) -> Path:
    write_package(package, tmp_path / "m.conffusion", "Apache-2.0")
    return tmp_path / "m.conffusion"


def rewrite(file: Path, changes: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file) as archive:
        files: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in (files | changes).items():
            if content is not None:
                archive.writestr(name, content)


def test_what_is_written_comes_back(package: Package, file: Path) -> None:
    read = read_package(file)
    assert read.record == package.record and read.weights == package.weights
    assert read.calibration.lambda_hat == package.calibration.lambda_hat
    np.testing.assert_array_equal(read.evidence.losses, package.evidence.losses)
    np.testing.assert_array_equal(read.evidence.features, package.evidence.features)
    assert read.evidence.groups is None


def test_the_same_model_makes_the_same_file(package: Package, file: Path, tmp_path: Path) -> None:
    write_package(package, tmp_path / "again.conffusion", "Apache-2.0")
    assert (tmp_path / "again.conffusion").read_bytes() == file.read_bytes()


def test_the_checksum_returned_is_that_of_the_weights(package: Package, tmp_path: Path) -> None:
    sha256 = write_package(package, tmp_path / "m.conffusion", "")
    assert sha256 == hashlib.sha256(package.weights).hexdigest() == package.weights_sha256


def test_the_card_tells_the_guarantee(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        card = archive.read("MODEL_CARD.md").decode()
    assert "With probability at least 80 % over the draw of the 30 calibration images" in card
    assert "at most 20 % of the true pixel values" in card


@pytest.mark.parametrize("name", ["model.safetensors", "evidence.safetensors", "MODEL_CARD.md"])
def test_an_altered_file_is_noticed(file: Path, name: str) -> None:
    with zipfile.ZipFile(file) as archive:
        content = bytearray(archive.read(name))
    content[-1] ^= 1
    rewrite(file, {name: bytes(content)})
    with pytest.raises(PackageError, match=f"{name} does not match its checksum"):
        read_package(file)


def test_a_truncated_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(PackageError, match=r"m\.conffusion: cannot be read as a package"):
        read_package(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"nothing\.conffusion: cannot be read"):
        read_package(tmp_path / "nothing.conffusion")


def test_foreign_members_are_refused(file: Path) -> None:
    rewrite(file, {"../evil.py": b"print()"})
    with pytest.raises(PackageError, match=r"holds '\.\./evil\.py'"):
        read_package(file)


def test_compressed_packages_are_refused_so_that_nothing_can_explode(file: Path) -> None:
    rewrite(file, {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(PackageError, match="is compressed"):
        read_package(file)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code was run')",)


@pytest.mark.parametrize("name", ["model.safetensors", "evidence.safetensors"])
def test_pickles_are_never_loaded(file: Path, name: str) -> None:
    content = pickle.dumps(Evil())
    with zipfile.ZipFile(file) as archive:
        values = json.loads(archive.read("package.json"))
    values["sha256"][name] = hashlib.sha256(content).hexdigest()
    rewrite(file, {name: content, "package.json": json.dumps(values).encode()})
    from conffusion import Predictor

    with pytest.raises(PackageError):
        Predictor.from_package(file, device="cpu")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 3, "format 3, which this version cannot read"),
        ("task", "juggling", "damaged or of a newer version"),
        ("method", "magic", "method 'magic' is unknown"),
        ("image_size", 0, r"package\.json is damaged"),
        ("surplus", 1, r"package\.json is damaged"),
        ("image_size", 100_000, r"package\.json is damaged"),
        ("calibration", {}, r"package\.json is damaged"),
    ],
)
def test_senseless_records_are_refused(file: Path, key: str, value: object, message: str) -> None:
    with zipfile.ZipFile(file) as archive:
        values = json.loads(archive.read("package.json"))
    values["record"][key] = value
    rewrite(file, {"package.json": json.dumps(values).encode()})
    with pytest.raises(PackageError, match=message):
        read_package(file)


def test_packages_of_format_1_are_read(tmp_path: Path) -> None:
    package = small_package(tmp_path, method="dm_sb")
    write_package(package, tmp_path / "m.conffusion", "")
    with zipfile.ZipFile(tmp_path / "m.conffusion") as archive:
        values = json.loads(archive.read("package.json"))
    values["record"]["format"] = 1
    values["record"]["sampling"]["storage"] = values["record"]["sampling"].pop("dtype")
    values["record"]["calibration"]["n"] = values["record"]["calibration"].pop("n_bound")
    rewrite(tmp_path / "m.conffusion", {"package.json": json.dumps(values).encode()})
    read = read_package(tmp_path / "m.conffusion")
    assert read.record.sampling == package.record.sampling and read.calibration == package.calibration


def test_names_must_end_in_the_suffix(package: Package, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="must end in .conffusion"):
        write_package(package, tmp_path / "m.zip", "")


def test_code_that_a_package_names_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(image, generator): return image\n")
    package = small_package(tmp_path, "denoising", "n_conffusion", "sr3")
    record = {"task": "custom", "degradation": {"function": f"{tmp_path}/evil.py:f"}}
    package = replace(package, record=package.record.model_copy(update=record))
    write_package(package, tmp_path / "evil.conffusion", "none")
    task = read_package(tmp_path / "evil.conffusion").task
    with pytest.raises(ConfigError, match="packages carry no code"):
        task.apply(np.zeros((1, 3, 4, 4)), ["a"], 0)
    assert not (tmp_path / "ran").exists()
