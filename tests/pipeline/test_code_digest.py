"""Code digests: blind to words and layout, sharp for anything that computes, and listed for all that a stage uses."""

import shutil
from pathlib import Path

import pytest

from conffusion.pipeline import code_digest as module
from conffusion.pipeline.code_digest import STAGE_CODE, code_digest, code_versions, stage_digest, write_code_versions
from tests.pipeline.reachable import PACKAGE, ROOT, modules_behind

CODE = '''
"""Module."""
import math

RATE = 0.5  # per step


class Line:
    """A line."""

    slope: float = 1.0

    def at(self, x):
        """Height at x."""
        return self.slope * x + RATE


def area(side):
    return side**2
'''


def digest_of(code: str, folder: Path) -> str:
    file = folder / f"module{len(list(folder.iterdir()))}.py"
    file.write_text(code)
    return code_digest(file)


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


@pytest.mark.parametrize("stage", list(STAGE_CODE))
def test_listed_files_exist_once(stage: str) -> None:
    entries = STAGE_CODE[stage]
    assert len(set(entries)) == len(entries)
    for entry in entries:
        path = PACKAGE / entry
        assert path.is_file() or any(path.rglob("*.py")), entry


# ---- everything that a stage uses is listed, for it or for a stage before it

BEFORE = {
    "prepare_images": ("split_images",),
    "sample_variants": ("prepare_images",),
    "extract_bounds": ("sample_variants",),
    "finetune_method": ("prepare_images",),
    "predict_bounds": ("finetune_method",),
    "trace_candidates": ("finetune_method",),
    "calibrate_method": ("predict_bounds", "extract_bounds"),
    "evaluate_method": ("calibrate_method",),
    "assess_validity": ("evaluate_method", "trace_candidates"),
}
# Cannot change a number: messages, files as such, the plan (whose choices are parameters), the configuration's types.
NEUTRAL = (
    "errors.py",
    "progress.py",
    "store/cache.py",
    "store/files.py",
    "store/bucket.py",
    "store/manifest.py",
    "store/places.py",
    "store/recording.py",
    "models/hints.py",
    "data/named.py",
    "workflow/",
    "config/",
)
# The fit of set families: checkpoints compete under a plain one.
FAMILIES = tuple(
    f"calibration/{name}.py"
    for name in (
        "families",
        "features",
        "fitting",
        "krcps",
        "learned",
        "shortfall",
        "promises",
        "promise_parts",
        "learn_then_test",
    )
)
# Mentioned but not run: types, and methods of classes of which only data are read.
NOT_RUN = {
    "split_images": (
        "arrays.py",
        "compute.py",
        "calibration/",
        "methods/",
        "tasks/",
        "metrics.py",
        "bounds.py",
    ),  # a check
    "prepare_images": ("compute.py",),
    "finetune_method": FAMILIES,
    "predict_bounds": FAMILIES,
    "extract_bounds": ("calibration/", "metrics.py", "methods/quirks.py"),
    "evaluate_method": ("methods/registry.py",),
    "assess_validity": ("methods/registry.py",),
}


def listed(stage: str) -> set[str]:
    return {*STAGE_CODE[stage]}.union(*(listed(earlier) for earlier in BEFORE.get(stage, ())))


def is_among(module_name: str, entries: set[str]) -> bool:
    return any(module_name == entry or module_name.startswith(entry.rstrip("/") + "/") for entry in entries)


@pytest.mark.parametrize(
    "stage",
    [stage for stage in STAGE_CODE if (ROOT / "workflow_scripts" / f"{stage}.py").exists()],
)
def test_all_code_behind_a_stage_is_listed(stage: str) -> None:
    behind = modules_behind(ROOT / "workflow_scripts" / f"{stage}.py")
    assert "stages/" in str(behind) or stage == "train_prior"
    known = {*listed(stage), *NEUTRAL, *NOT_RUN.get(stage, ())}
    assert sorted(name for name in behind if not is_among(name, known)) == []


# ---- digests of stages, on a copy of the package


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package at a place where it may be edited."""
    package = tmp_path / "conffusion"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", package)
    return package


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    code_digest.cache_clear()


def all_digests() -> dict[str, str]:
    return {stage: stage_digest(stage) for stage in STAGE_CODE}


def changed_stages(before: dict[str, str]) -> set[str]:
    return {stage for stage, digest in all_digests().items() if digest != before[stage]}


def test_edit_concerns_the_stages_that_list_the_file(copied: Path) -> None:
    before = all_digests()
    edit(copied / "models" / "schedules.py", "MAX_BETA = 0.999", "MAX_BETA = 0.99")
    users = {stage for stage, entries in STAGE_CODE.items() if "models/schedules.py" in entries}
    assert changed_stages(before) == users
    assert {"sample_variants", "finetune_method"} <= users
    assert not {"split_images", "calibrate_method", "report"} & users


def test_new_file_in_a_listed_folder_counts(copied: Path) -> None:
    before = all_digests()
    (copied / "data" / "more.py").write_text("X = 1\n")
    assert "split_images" in changed_stages(before)


def test_docstring_edit_concerns_no_stage(copied: Path) -> None:
    before = all_digests()
    edit(copied / "models" / "schedules.py", '"""Noise schedules of', '"""Schedules of noise of')
    assert changed_stages(before) == set()


def test_versions_follow_the_code(copied: Path, tmp_path: Path) -> None:
    record = tmp_path / "code.json"
    before = code_versions(record, keep=False)
    assert before == all_digests()
    write_code_versions(record, before)
    edit(copied / "models" / "schedules.py", "MAX_BETA = 0.999", "MAX_BETA = 0.99")
    assert code_versions(record, keep=False) == all_digests() != before


def test_older_results_can_be_kept_with_a_warning(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = tmp_path / "code.json"
    assert code_versions(record, keep=True) == all_digests()  # nothing older is known
    before = all_digests()
    older = {**before, "a_stage_of_yore": "0"}
    del older["report"]
    write_code_versions(record, older)
    edit(copied / "models" / "schedules.py", "MAX_BETA = 0.999", "MAX_BETA = 0.99")
    assert code_versions(record, keep=True) == before
    (warning,) = [entry.message for entry in caplog.records if entry.levelname == "WARNING"]
    assert "ignore_code_changes" in warning
    assert "sample_variants" in warning and "split_images" not in warning


def test_nothing_is_said_while_the_code_is_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = tmp_path / "code.json"
    write_code_versions(record, all_digests())
    assert code_versions(record, keep=True) == all_digests()
    assert caplog.records == []
