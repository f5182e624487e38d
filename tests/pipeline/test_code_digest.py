"""Code digests: blind to words and layout, sharp for anything that computes, and derived from what scripts use."""

import shutil
from pathlib import Path

import pytest

from conffusion.pipeline.code_digest import PACKAGE, CodeIndex, code_versions, write_code_versions

SCRIPTS = Path(__file__).parents[2] / "workflow_scripts"

CODE = '''
"""Module."""
import math

RATE = 0.5  # per step


class Line:
    """A line."""

    slope: float = 1.0
    turn: float = math.pi

    def at(self, x):
        """Height at x."""
        return self.slope * x + RATE


def area(side):
    return side**2
'''


def digest_of(code: str, folder: Path) -> str:
    """Digest of a script that uses one function and one class of a package with this code."""
    package = folder / "conffusion"
    package.mkdir(exist_ok=True)
    (package / "module.py").write_text(code)
    script = folder / "script.py"
    script.write_text("from conffusion.module import Line, area\n\nprint(area(2), Line().at(1))\n")
    return CodeIndex(package).digest(script)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Module."""', '"""Another text, and\n\na longer one."""'),
        ('"""Module."""', ""),
        ('    """A line."""\n', ""),
        ('        """Height at x."""', '        # Height at x.'),
        ("  # per step", "  # per year, or per day"),
        ("RATE = 0.5", "RATE    =    (0.5)"),
        ("    return side**2", "\n\n    return (\n        side ** 2\n    )"),
    ],
)  # fmt: skip
def test_words_and_layout_do_not_count(old: str, new: str, tmp_path: Path) -> None:
    assert CODE.count(old) == 1
    assert digest_of(CODE.replace(old, new), tmp_path) == digest_of(CODE, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.5", "RATE = 0.6"),
        ("slope: float = 1.0", "slope: float = 2.0"),
        ("self.slope * x + RATE", "self.slope * x - RATE"),
        ("side**2", "side**3"),
        ("def area(side)", "def area(side=1)"),
        ("import math", "import cmath as math"),
        ("    return side**2", '    text = """Not a docstring."""\n    return side**2'),
    ],
)
def test_anything_that_computes_counts(old: str, new: str, tmp_path: Path) -> None:
    assert CODE.count(old) == 1
    assert digest_of(CODE.replace(old, new), tmp_path) != digest_of(CODE, tmp_path)


def test_code_that_nothing_uses_does_not_count(tmp_path: Path) -> None:
    more = CODE + "\n\ndef unused():\n    return area(3)\n"
    assert digest_of(more, tmp_path) == digest_of(CODE, tmp_path)
    assert digest_of(more.replace("area(3)", "area(4)"), tmp_path) == digest_of(CODE, tmp_path)


# ---- what scripts reach

# Some modules that a rule's numbers surely depend on, and some that they surely do not.
REACHED = {
    "split_images": ({"data/splits.py", "core/randomness.py"}, {"methods/protocols.py", "core/device.py"}),
    "prepare_images": ({"tasks/inpainting.py", "tasks/super_resolution.py", "demo/render.py"}, {"models/unet.py"}),
    "import_prior": ({"models/official.py", "models/unet.py", "models/checkpoint.py"}, {"training/loop.py"}),
    "train_prior": ({"training/loop.py", "training/pretrain.py", "core/device.py"}, {"calibration/search.py"}),
    "sample_variants": (
        {"sampling/samplers.py", "sampling/noise.py", "models/unet.py", "store/writer.py"},
        {"calibration/search.py", "training/loop.py"},
    ),
    "extract_bounds": ({"bounds.py", "pipeline/stages/bounds.py"}, {"calibration/search.py", "models/unet.py"}),
    "finetune_method": (
        {"training/loop.py", "losses.py", "methods/competition.py", "calibration/search.py", "methods/one_pass.py"},
        {"evaluation/drift.py", "report/tables.py"},
    ),
    "predict_bounds": ({"methods/one_pass.py", "models/unet.py", "bounds.py", "core/device.py"}, {"training/loop.py"}),
    "trace_candidates": ({"methods/one_pass.py", "evaluation/validity.py"}, {"training/loop.py"}),
    "calibrate_method": (
        {"calibration/search.py", "calibration/learned.py", "calibration/betting.py"},
        {"models/unet.py", "training/loop.py", "evaluation/drift.py"},
    ),
    "evaluate_method": ({"metrics.py", "evaluation/drift.py", "evaluation/diagnostics.py"}, {"models/unet.py"}),
    "assess_validity": ({"evaluation/validity.py", "calibration/betting.py"}, {"models/unet.py"}),
    "measure_solvers": ({"evaluation/scores.py", "bounds.py"}, {"models/unet.py"}),
    "tabulate_task": ({"report/tables.py"}, {"models/unet.py", "training/loop.py"}),
    "save_config": (set(), {"models/unet.py", "calibration/search.py"}),
}


@pytest.fixture(scope="module")
def index() -> CodeIndex:
    return CodeIndex()


@pytest.mark.parametrize("rule", REACHED)
def test_script_reaches_the_code_behind_its_numbers_and_no_other(rule: str, index: CodeIndex) -> None:
    modules = index.modules(SCRIPTS / f"{rule}.py")
    needed, foreign = REACHED[rule]
    assert needed <= modules
    assert not foreign & modules
    assert not {"errors.py", "core/progress.py", "store/files.py", "pipeline/plan.py"} & modules


def test_names_are_followed_through_modules_packages_and_aliases(tmp_path: Path) -> None:
    package = tmp_path / "conffusion"
    (package / "room").mkdir(parents=True)
    (package / "room" / "__init__.py").write_text("from conffusion.room.inner import shown\n")
    (package / "room" / "inner.py").write_text(
        "from conffusion import other as o\n\ndef shown():\n    return o.deep()\n"
    )
    (package / "other.py").write_text("def deep():\n    return LIMIT\n\n\nLIMIT = 1\nUNUSED = 2\n")
    script = tmp_path / "script.py"
    script.write_text("def late():\n    from conffusion.room import shown as show\n    return show()\n\nlate()\n")
    before = CodeIndex(package).digest(script)
    assert CodeIndex(package).modules(script) == {"room/inner.py", "other.py"}
    (package / "other.py").write_text("def deep():\n    return LIMIT\n\n\nLIMIT = 1\nUNUSED = 3\n")
    assert CodeIndex(package).digest(script) == before
    (package / "other.py").write_text("def deep():\n    return LIMIT\n\n\nLIMIT = 2\nUNUSED = 2\n")
    assert CodeIndex(package).digest(script) != before


# ---- digests of rules, on a copy of the package


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package at a place where it may be edited."""
    package = tmp_path / "conffusion"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("conffusion.pipeline.code_digest.PACKAGE", package)
    return package


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def all_digests() -> dict[str, str]:
    return code_versions(SCRIPTS, "no/record.json", keep=False)


def changed_rules(before: dict[str, str]) -> set[str]:
    return {rule for rule, digest in all_digests().items() if digest != before[rule]}


def test_every_script_has_a_digest() -> None:
    assert set(all_digests()) == {script.stem for script in SCRIPTS.glob("*.py")}


def test_edit_concerns_the_rules_that_use_the_code(copied: Path) -> None:
    before = all_digests()
    edit(copied / "models" / "schedules.py", "MAX_BETA = 0.999", "MAX_BETA = 0.99")
    changed = changed_rules(before)
    assert {"sample_variants", "finetune_method", "predict_bounds", "train_prior"} <= changed
    assert not {"split_images", "prepare_images", "calibrate_method", "evaluate_method", "tabulate_task"} & changed


def test_edit_of_words_concerns_no_rule(copied: Path) -> None:
    before = all_digests()
    edit(copied / "models" / "schedules.py", '"""Noise schedules of', '"""Schedules of noise of')
    edit(copied / "errors.py", "class ConffusionError(Exception):", "class ConffusionError(Exception):\n    x = 1")
    assert changed_rules(before) == set()


def test_a_further_method_concerns_no_rule(copied: Path) -> None:
    """The row of a method is a setting of its own jobs."""
    before = all_digests()
    edit(copied / "methods" / "registry.py", "METHODS", "NAMES = ()\nMETHODS")
    assert changed_rules(before) == set()


def test_versions_follow_the_code_unless_older_results_are_kept(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = tmp_path / "code.json"
    before = all_digests()
    assert code_versions(SCRIPTS, record, keep=True) == before  # nothing older is known
    write_code_versions(record, {**before, "a_former_rule": "0"})
    assert code_versions(SCRIPTS, record, keep=True) == before
    assert caplog.records == []
    edit(copied / "models" / "schedules.py", "MAX_BETA = 0.999", "MAX_BETA = 0.99")
    assert code_versions(SCRIPTS, record, keep=False) == all_digests() != before
    assert code_versions(SCRIPTS, record, keep=True) == before
    (warning,) = [entry.message for entry in caplog.records if entry.levelname == "WARNING"]
    assert "ignore_code_changes" in warning
    assert "sample_variants" in warning and "split_images" not in warning
