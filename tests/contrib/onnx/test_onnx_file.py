"""ONNX files: onnxruntime gives the bounds of the package, whatever the batch and the size; the rest is refused."""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conffusion import Predictor
from conffusion.bounds import sort_bounds
from conffusion.cli import main
from conffusion.contrib.onnx import export_onnx
from conffusion.core.device import select_device
from conffusion.errors import ExportError
from conffusion.inference.backends import OnePassBackend, open_backend
from conffusion.inference.model_file import write_package
from conffusion.inference.package import Package
from conffusion.methods.models import load_predictor, save_predictor
from conffusion.tasks import DegradedImages
from tests import synthetic_families
from tests.inference.small_package import small_package
from tests.methods.small_specs import SIDE, SPECS

TOLERANCE = 1e-4
Arrays = dict[str, Any]


def package_of(folder: Path, family: str, **options: Any) -> Package:
    """A small package with another set family, and with weights that are not 0 in the heads."""
    package = small_package(folder, **options)
    record = package.record
    (path,) = folder.glob("*.safetensors")
    predictor, _ = load_predictor(path)
    torch.manual_seed(0)
    for parameter in predictor.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    save_predictor(path, predictor, SPECS[options.get("kind", "sr3")], {"step": 1})
    changes = {
        "family": synthetic_families.family(family, (3, SIDE, SIDE)).to_dict(),
        "calibration": {**record.calibration, "scaling": family, "lambda_hat": 0.02 if family == "additive" else 1.1},
    }
    return dataclasses.replace(package, record=record.model_copy(update=changes), weights=path.read_bytes())


def session_of(path: Path) -> tuple[Any, Arrays]:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session, json.loads(session.get_modelmeta().custom_metadata_map["conffusion"])


def inputs_and_bounds(package: Package, n_images: int, height: int, width: int) -> tuple[Arrays, Arrays]:
    """What the graph is fed, and what the package's own code makes of it."""
    condition = np.random.default_rng(height).random((n_images, 3, height, width), dtype=np.float32)
    mask = np.ones((n_images, 1, height, width), np.uint8)
    if package.task.has_mask:
        mask[:] = 0
        mask[..., 3 : height // 2, 5:-2] = 1
    everywhere = np.broadcast_to(mask, condition.shape).copy()
    ids = [str(number) for number in range(n_images)]
    seen = np.where(everywhere == 1, np.float32(0.5), condition) if package.task.has_mask else condition
    source = open_backend(package, select_device("cpu", "float32", 1), 1)
    assert isinstance(source, OnePassBackend)
    images = DegradedImages(package.task, package.record.seed, ids, seen, everywhere)
    raw = source.bounds(images)
    lower, upper = sort_bounds(raw.lower, raw.upper)[:2] if package.record.sorts_bounds else (raw.lower, raw.upper)
    bounds = dict(zip(("lower", "upper"), package.calibration.apply(lower, upper), strict=True))
    point = package.method.has_point_head
    bounds["estimate"] = raw.point if point else (bounds["lower"] + bounds["upper"]) / 2
    if package.task.has_mask:
        bounds = {name: np.where(everywhere == 1, array, condition) for name, array in bounds.items()}
    n_classes = getattr(source.predictor.network, "n_classes", 0)
    feeds = {
        "condition": condition,
        "mask": mask.astype(np.float32),
        "noise": images.noise(source.predictor.noise_purpose),
        "labels": images.classes(max(n_classes, 1)),
    }
    return feeds, bounds


def check(session: Any, about: Arrays, package: Package, *size: int) -> Arrays:
    feeds, expected = inputs_and_bounds(package, *size)
    outputs = [output.name for output in session.get_outputs()]
    found = dict(zip(outputs, session.run(outputs, {name: feeds[name] for name in about["inputs"]}), strict=True))
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].min() >= 0 and found[name].max() <= 1
        np.testing.assert_allclose(found[name], array, atol=TOLERANCE, err_msg=name)
    for end in ("lower", "upper"):
        np.testing.assert_array_equal(found[f"{end}_unclipped"].clip(0, 1), found[end])
    return {**feeds, **found}


@pytest.fixture(scope="module")
def filling(tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, Path]:
    """A model with mask, noise and learned family, exported as users do."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    folder = tmp_path_factory.mktemp("exported")
    package = package_of(folder, "learned", task="inpainting", kind="palette")
    write_package(package, folder / "model.conffusion", "none")
    output = folder / "new" / "model.onnx"
    assert main(["export", str(folder / "model.conffusion"), "--format", "onnx", "--output", str(output)]) == 0
    assert [path.name for path in output.parent.iterdir()] == ["model.onnx"]
    return package, output


@pytest.mark.parametrize("size", [(2, 12, 8), (1, SIDE, SIDE), (5, 24, 36), (3, 8, 8)])
def test_bounds_are_those_of_the_package(filling: tuple[Package, Path], size: tuple[int, int, int]) -> None:
    package, path = filling
    session, about = session_of(path)
    seen = check(session, about, package, *size)
    known = np.broadcast_to(seen["mask"] == 0, seen["condition"].shape)
    for name in ("lower", "upper", "estimate"):
        np.testing.assert_array_equal(seen[name][known], seen["condition"][known])
    assert (seen["upper"] - seen["lower"])[~known].mean() > 0.01


def test_what_stands_in_the_hole_has_no_effect(filling: tuple[Package, Path]) -> None:
    package, path = filling
    session, about = session_of(path)
    feeds, _ = inputs_and_bounds(package, 1, SIDE, SIDE)
    feeds = {name: feeds[name] for name in about["inputs"]}
    other = {**feeds, "condition": np.where(feeds["mask"] == 1, np.float32(0.9), feeds["condition"])}
    np.testing.assert_array_equal(session.run(["lower"], feeds)[0], session.run(["lower"], other)[0])


def test_metadata_says_what_is_guaranteed_and_what_goes_in(filling: tuple[Package, Path]) -> None:
    package, path = filling
    session, about = session_of(path)
    calibration = package.calibration
    expected = {
        "task": "inpainting", "factor": 1, "family": "learned", "alpha": 0.2, "delta": 0.2, "unit": "image", "n": 30,
        "lambda_hat": calibration.lambda_hat, "model_sha256": package.weights_sha256, "tile_size": SIDE,
        "size_multiple": 4, "n_classes": 0, "guarantee": str(package.guarantee), "any_size": True,
        "hole": {"top": 4, "left": 4, "bottom": 12, "right": 12},
    }  # fmt: skip
    assert {key: about[key] for key in expected} == expected
    assert [value.name for value in session.get_inputs()] == list(about["inputs"]) == ["condition", "mask", "noise"]
    assert session.get_inputs()[0].shape == ["n", 3, "height", "width"]
    assert [value.name for value in session.get_outputs()] == list(about["outputs"])
    assert str(package.guarantee) in session.get_modelmeta().description


@pytest.mark.parametrize(
    ("task", "method", "kind", "family"),
    [
        ("super_resolution", "n_conffusion", "sr3", "multiplicative"),
        ("super_resolution", "g_conffusion", "adm", "learned"),
        ("inpainting", "adm_uq", "adm", "additive"),
        ("inpainting", "resnext", "resnext", "interval"),
        ("super_resolution", "resnext", "resnext", "pixel_groups"),
    ],
)
def test_every_kind_of_network_and_family(tmp_path: Path, task: str, method: str, kind: str, family: str) -> None:
    package = package_of(tmp_path, family, task=task, method=method, kind=kind)
    exported = export_onnx(package, tmp_path / "model.onnx")
    assert exported.largest_difference <= TOLERANCE
    session, about = session_of(tmp_path / "model.onnx")
    assert ("labels" in about["inputs"]) == (kind == "adm") and about["estimate"] == (
        "point_head" if method == "adm_uq" else "midpoint"
    )
    multiple = about["size_multiple"]
    assert about["any_size"] == (family != "pixel_groups")
    for size in [(2, SIDE, SIDE), (1, SIDE, SIDE), *([(3, multiple, 3 * multiple)] if about["any_size"] else [])]:
        seen = check(session, about, package, *size)
    cut = {name: seen[name] if name == "labels" else seen[name][..., : multiple - 2] for name in about["inputs"]}
    with pytest.raises(Exception, match="Reshape|invalid dimensions"):  # not a multiple, or not the one size
        session.run(["lower"], cut)


def test_crossing_bounds_stay_as_they_are_where_the_protocol_leaves_them(tmp_path: Path) -> None:
    package = package_of(tmp_path, "multiplicative")
    package = dataclasses.replace(package, record=package.record.model_copy(update={"sorts_bounds": False}))
    export_onnx(package, tmp_path / "model.onnx")
    found = check(*session_of(tmp_path / "model.onnx"), package, 2, SIDE, SIDE)
    assert (found["upper"] < found["lower"]).any()


def test_tiles_are_put_together_as_the_predictor_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the lines of docs/deployment.md."""
    package = package_of(tmp_path, "learned")
    export_onnx(package, tmp_path / "faces.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[3] / "docs" / "deployment.md"
    (lines,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names: Arrays = {}
    exec(lines, names)
    interval = Predictor(package, device="cpu")(pixels.transpose(2, 0, 1).astype(np.float32) / 255)
    assert len(names["tiles"]) > 4
    np.testing.assert_allclose(names["lower"], interval.lower, atol=TOLERANCE)
    np.testing.assert_allclose(names["upper"], interval.upper, atol=TOLERANCE)


def test_sampled_methods_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    write_package(small_package(tmp_path, method="dm_sb"), tmp_path / "model.conffusion", "none")
    assert main(["export", str(tmp_path / "model.conffusion"), "--output", str(tmp_path / "model.onnx")]) == 1
    message = capsys.readouterr().err
    assert "DM_SB draws variants" in message and "n_conffusion" in message
    assert not (tmp_path / "model.onnx").exists()


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"model\.pt: the name of the file must end in \.onnx"):
        export_onnx(small_package(tmp_path), tmp_path / "model.pt")


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == library else sys)
    with pytest.raises(ExportError, match=rf'needs {library}: run pip install "conffusion\[onnx\]"'):
        export_onnx(small_package(tmp_path), tmp_path / "model.onnx")
