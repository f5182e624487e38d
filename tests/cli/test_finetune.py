"""`conffusion finetune`: the plan, the settings file and the refusals; complete runs are system tests."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from conffusion.cli import main
from conffusion.config import load_config
from conffusion.inference.model_file import read_package
from conffusion.inference.predictor import Predictor

ROOT = Path(__file__).parents[2]
WORKFLOW_PARTS = ("Snakefile", "rules", "workflow_scripts", "config", "config.yaml", "profiles", "envs", "priors")
DEGRADATIONS = """
import numpy as np


def haze(image, generator):
    return np.clip(0.7 * image + 0.3 * generator.random(), 0, 1)


def restless(image, generator):
    return np.random.default_rng().random(image.shape)


def wrong(image, generator):
    return image[0]
"""


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty smooth photographs of 40x48 pixels, two of each person."""
    folder, generator = tmp_path_factory.mktemp("own") / "clean images", np.random.default_rng(0)
    folder.mkdir()
    for k in range(60):
        coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"person{k // 2:02d}_{k % 2}.png")
    (folder.parent / "mine.py").write_text(DEGRADATIONS)
    return folder


@pytest.fixture
def finetune(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command with a weak guarantee, from a folder that is not that of the workflow."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, images: Path = clean, output: str = "m.conffusion") -> int:
        changed = [argument for argument in arguments if argument in ("--alpha", "--delta")]
        levels = [] if changed else ["--alpha", "0.2", "--delta", "0.2"]
        return main(
            ["finetune", str(images), "--output", output, "--device", "cpu", "--cores", "1", *levels, *arguments]
        )

    return call


def test_plan_says_what_will_happen_and_runs_nothing(
    finetune: Callable[..., int], clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--task", "super_resolution", "--steps", "30", "--plan-only", "--alpha", "0.225", "--delta", "0.2"]
    assert finetune(*arguments) == 0
    plan = capsys.readouterr().out
    for part in (
        "Plan: super-resolution (factor 4) with N-Conffusion", "60 images, 32x32 pixels", "finetune    24 images",
        "calibration 15 images",
        "sr3, from the shipped sr3_faces", "30 steps of 32 images", "whole images (up to 48x40",
        "With probability at least 80 % over the draw of the calibration images, at most 22.5 % of",
        "m.yaml", "results/own-m", "m.conffusion",
        "time          about ", "GiB free", "nothing was run",
    ):  # fmt: skip
        assert part in plan
    assert not Path("m.conffusion").exists() and not (ROOT / "results/own-m").exists()
    config = load_config(ROOT / "config.yaml", "m.yaml")
    assert (config.run, config.methods, list(config.tasks)) == ("own-m", ["n_conffusion"], ["super_resolution"])
    assert config.dataset.folder.path == str(clean)
    assert (config.calibration.alpha, config.calibration.delta) == (0.225, 0.2)
    assert config.finetuning.tuned["super_resolution"]["n_conffusion"].n_steps == 30


def test_plan_guarantees_for_groups_where_images_have_groups(
    finetune: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--task", "super_resolution", "--plan-only", "--alpha", "0.3", "--delta", "0.25"]
    assert finetune(*arguments, "--group-pattern", "(person[0-9]+)") == 0
    assert "With probability at least 75 % over the draw of the calibration groups" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "super_resolution", "--sigma", "0.1"], "--sigma belongs to --task denoising"),
        (["--task", "super_resolution", "--factor", "5"], "factor = 5 does not divide the image size 32x32"),
        (["--task", "inpainting", "--hole", "1.5"], "hole = 1.5 must lie between 0 and 1"),
        (["--task", "denoising", "--alpha", "1.5", "--delta", "0.1"], "--alpha 1.5: must lie between 0 and 1"),
        (["--task", "denoising", "--steps", "0"], "--steps 0: must be at least 1"),
        (["--task", "denoising", "--alpha", "0.1", "--delta", "0.1"],
         "60 images are too few .* need 22 each, and about 82"),
        (["--task", "denoising", "--alpha", "0.1", "--delta", "0.2", "--group-pattern", "(person[0-9]+)"],
         "30 groups .60 images. are too few"),
        (["--task", "denoising", "--group-pattern", "(patient)"], "finds no group in 'person00_0.png'"),
        (["--task", "denoising", "--method", "g_conffusion", "--image-size", "40"], "adm_photos, which knows .* 32"),
        (["--task", "denoising", "--image-size", "36"], "--image-size 36: must be a multiple of 8"),
        (["--task", "denoising", "--image-size", "64"], "person00_0.png: .*40.*64"),
        (["--task", "denoising", "--workflow", "."], "--workflow .: holds no Snakefile"),
        (["--degradation", "mine.py"], "must be a Python file and a name in it"),
        (["--degradation", "nowhere.py:haze"], "nowhere.py cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_once(
    finetune: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert finetune(*arguments, "--yes") == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not list(Path().iterdir())


def write_stacks(folder: Path, n_files: int = 40, n_pages: int = 3) -> Path:
    """Stacks of 12 bits in 16, packed with LZW."""
    folder.mkdir()
    for k in range(n_files):
        pages = np.random.default_rng(k).integers(0, 4096, (n_pages, 40, 48), dtype=np.uint16)
        tifffile.imwrite(folder / f"{k:02d}.tif", pages, photometric="minisblack", compression="lzw")
    return folder


def test_plan_of_stacks_of_12_bits(
    finetune: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every page counts, pages of a file stay together, and what `predict` warns of stands in the plan."""
    stacks = write_stacks(tmp_path / "stacks")
    arguments = ["--task", "super_resolution", "--plan-only", "--fit", "crop"]
    assert finetune(*arguments, images=stacks) == 0
    plan = capsys.readouterr().out
    assert "images        120 images in 40 groups" in plan
    assert re.search(r"note +values of \d+ of the images looked at: 16-bit values .*--value-range 0 4095", plan)
    assert finetune(*arguments, "--value-range", "0", "4095", images=stacks) == 0
    assert "4095" not in capsys.readouterr().out
    assert load_config(ROOT / "config.yaml", "m.yaml").dataset.folder.value_range == (0, 4095)
    assert finetune(*arguments, "--value-range", "9", "9", images=stacks) == 1
    assert "--value-range 9 9: expected two numbers, LOW below HIGH" in capsys.readouterr().err
    assert finetune(*arguments, "--value-range", "0", "1000", images=stacks) == 1
    assert "choose a range that holds them" in capsys.readouterr().err


def test_results_below_the_folder_are_no_photographs(
    finetune: Callable[..., int], clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = shutil.copytree(clean, tmp_path / "photos")
    for name in ("lower", "upper", "size"):
        (photos / "restored" / "a").mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / "person00_0.png", photos / "restored" / "a" / f"{name}.png")
    (photos / "restored" / "a" / "interval.json").write_text("{}")
    assert finetune("--task", "super_resolution", "--plan-only", images=photos) == 0
    assert "images        60 images" in capsys.readouterr().out


def test_bad_places_are_refused(
    finetune: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for options, message in (
        ({"output": "m.zip"}, "--output m.zip: must end in .conffusion"),
        ({"output": "none/m.conffusion"}, "there is no folder none"),
        ({"images": tmp_path / "absent"}, "absent: no such folder or archive"),
        ({"images": tmp_path}, "no images match"),
    ):
        assert finetune("--task", "denoising", "--yes", **options) == 1
        assert message in capsys.readouterr().err


def test_without_a_terminal_nobody_is_asked(finetune: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune("--task", "denoising") == 1
    assert "there is no terminal to ask on: add --yes" in capsys.readouterr().err


def test_whoever_does_not_say_yes_gets_nothing(
    finetune: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "")
    assert finetune("--task", "denoising") == 0
    out = capsys.readouterr().out
    assert "with G-Conffusion" in out and "adm, from the shipped adm_photos" in out
    assert "nothing was run; m.yaml holds the settings" in out and not Path("m.conffusion").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("restless", "corrupts the same image differently with the same generator"),
        ("wrong", r"returned shape \(32, 32\)"),
        ("absent", "has no function 'absent'"),
    ],
)
def test_faulty_functions_are_refused(
    finetune: Callable[..., int], clean: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert finetune("--degradation", f"{clean.parent}/mine.py:{name}", "--yes") == 1
    assert re.search(message, capsys.readouterr().err)


def test_edited_settings_are_not_overwritten(
    finetune: Callable[..., int], clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from conffusion.pipeline.own_model.planning import prepare
    from conffusion.pipeline.own_model.request import Request, write_overlay

    request = Request(clean, "denoising", {"sigma": 0.1}, Path("m.conffusion"), alpha=0.2, delta=0.2)
    overlay = prepare(request, ROOT).overlay
    write_overlay(Path("m.yaml"), overlay)
    write_overlay(Path("m.yaml"), {**overlay, "seed": 3})  # its own work may be replaced
    assert yaml.safe_load(Path("m.yaml").read_text())["seed"] == 3
    edited = Path("m.yaml").read_text().replace("seed: 3", "seed: 4")
    Path("m.yaml").write_text(edited)
    assert finetune("--task", "denoising", "--yes") == 1
    assert "m.yaml: was edited, or not written by this command" in capsys.readouterr().err
    assert Path("m.yaml").read_text() == edited


def photographs(folder: Path) -> list[str]:
    """Grey noise-free files to predict on, one larger than a tile."""
    folder.mkdir()
    for name, size in (("small", (8, 8)), ("wide", (20, 12))):
        Image.fromarray(np.full((*size[::-1], 3), 90, np.uint8)).save(folder / f"{name}.png")
    return [str(folder)]


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """A copy of the workflow to run in."""
    for part in WORKFLOW_PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        (tmp_path / "clone").mkdir(exist_ok=True)
        copy(ROOT / part, tmp_path / "clone" / part)
    return tmp_path / "clone"


@pytest.mark.system
def test_from_clean_images_to_predictions(
    finetune: Callable[..., int], workflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--task", "super_resolution", "--steps", "4", "--yes", "--workflow", str(workflow)]
    arguments += ["--group-pattern", "(person[0-9]+)_", "--name", "Persons"]
    assert finetune(*arguments, "--alpha", "0.3", "--delta", "0.3") == 0
    text = capsys.readouterr().out
    assert (
        "m.conffusion: done" in text and "conffusion predict m.conffusion" in text and "true pixel values lie" in text
    )
    package = read_package("m.conffusion")
    assert package.record.name == "Persons" and package.calibration.unit == "group"
    assert (package.record.calibrated_on.smallest, package.record.calibrated_on.largest) == ((40, 48), (40, 48))
    assert main(["predict", "m.conffusion", *photographs(Path("new")), "--output", "restored", "--device", "cpu"]) == 0
    assert Image.open("restored/wide/lower.png").size == (80, 48)

    written = (workflow / "results/own-m/super_resolution/n_conffusion/training.csv").stat().st_mtime_ns
    assert finetune(*arguments, "--alpha", "0.3", "--delta", "0.3") == 0  # nothing is trained again
    assert (workflow / "results/own-m/super_resolution/n_conffusion/training.csv").stat().st_mtime_ns == written


@pytest.mark.system
def test_from_stacks_with_a_value_range(
    finetune: Callable[..., int], workflow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stacks = write_stacks(tmp_path / "stacks", n_pages=2)
    arguments = ["--task", "super_resolution", "--steps", "4", "--yes", "--workflow", str(workflow)]
    assert finetune(*arguments, "--value-range", "0", "4095", "--alpha", "0.3", "--delta", "0.3", images=stacks) == 0
    assert "WARNING" not in capsys.readouterr().out
    record = read_package("m.conffusion").record
    assert record.calibrated_on.value_range == (0, 4095) and record.calibration.unit == "group"
    assert main(["predict", "m.conffusion", str(stacks / "00.tif"), "--output", "restored", "--device", "cpu"]) == 0
    assert "--value-range" not in capsys.readouterr().out  # the model knows it
    assert tifffile.imread("restored/00/0001/upper.tif").max() <= 4095


@pytest.mark.system
def test_from_a_function_of_the_users(
    finetune: Callable[..., int], workflow: Path, clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = clean.parent / "mine.py"
    arguments = ["--degradation", f"{file}:haze", "--steps", "4", "--fit", "crop", "--yes", "--workflow", str(workflow)]
    assert finetune(*arguments) == 0
    assert "custom restoration" in (text := capsys.readouterr().out) and "G-Conffusion" in text
    package = read_package("m.conffusion")
    assert package.record.degradation == {} and "mine.py:haze" in package.record.provenance["corrupted_by"]
    interval = Predictor(package, "cpu")(np.full((3, 32, 32), 0.5, np.float32))
    assert (interval.lower <= interval.upper).all()

    truths = ["--targets", str(clean), "--output", "judged", "--device", "cpu"]
    assert main(["evaluate", "m.conffusion", *truths]) == 1  # a package carries no code
    assert "give pairs of corrupted images and truths" in capsys.readouterr().err

    stored = workflow / "results/own-m/custom/images/test.json"
    before = stored.stat().st_mtime_ns
    file.write_text(DEGRADATIONS.replace("0.7 * image", "0.6 * image"))
    assert finetune(*arguments) == 0  # another function: images are corrupted anew
    assert stored.stat().st_mtime_ns > before
