"""Rooms import only from the rooms below them: the contract stands in pyproject.toml, `[tool.importlinter]`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TORCH_FREE = ("calibration", "config", "evaluation.diagnostics", "evaluation.drift", "metrics")


def test_import_contract_is_kept() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([linter, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_calibration_side_does_not_load_torch() -> None:
    imports = ", ".join(f"conffusion.{room}" for room in TORCH_FREE)
    code = f"import sys, {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    "module",
    ["methods.protocols", "pipeline.stages.evaluation", "pipeline.stages.bounds", "report.html", "pipeline.checks"],
)
def test_jobs_that_need_no_network_start_without_torch(module: str) -> None:
    """Half of the jobs of a run; torch takes two seconds to load."""
    code = f"import sys, conffusion.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
