"""What every scripted rule does around its work: typed settings, a log, clear errors, exit codes."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PRELUDE = """
from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, ResourceList, Wildcards
from snakemake.script import Snakemake

from conffusion.config import load_config
from conffusion.errors import CalibrationError, StoreError
from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import Plan
from conffusion.pipeline.rule_settings import RuleSettings

CONFIG = load_config("CONFIG_FILE")
DIGEST = RuleSettings(Plan(CONFIG))("predict_bounds").digest


def snakemake_of(resources=None, log="job.log", rule="predict_bounds", digest=DIGEST, **changes):
    config = {**CONFIG.model_dump(), **changes}
    return Snakemake(
        InputFiles(fromdict={"images": "images.json"}), OutputFiles(fromdict={"table": "table.csv"}),
        Params(fromdict={"settings": digest, "code": "0"}), Wildcards(fromdict={"task": "inpainting"}), 2,
        ResourceList(fromdict=resources or {}), Log([log] if log else []), config, rule, None,
    )

"""
PRELUDE = PRELUDE.replace("CONFIG_FILE", str(Path(__file__).parents[2] / "config.yaml"))


def run_script(folder: Path, body: str) -> "subprocess.CompletedProcess[str]":
    """Run a workflow script the way Snakemake does: its own process, with Snakemake's own object."""
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(body)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


def test_job_sees_its_settings_and_declared_files(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        from conffusion.pipeline.settings import PredictionStage
        with run_job(snakemake_of(threads=7)) as job:
            assert job.settings == PredictionStage(CONFIG.seed, CONFIG.precision, CONFIG.official_quirks)
            assert (job.input.images, job.output.table) == ("images.json", "table.csv")
            assert job.wildcards.task == "inpainting"
            assert (job.device_name, job.threads) == ("cpu", 2)
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_settings_other_than_those_of_the_rule_are_refused(tmp_path: Path) -> None:
    done = run_script(tmp_path, "with run_job(snakemake_of(seed=CONFIG.seed + 1)):\n    raise AssertionError")
    assert done.returncode == 1
    assert "ConfigError: what this job depends on has changed since Snakemake" in (tmp_path / "job.log").read_text()


def test_torch_is_imported_only_when_a_network_is_needed(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import sys
        with run_job(snakemake_of()) as job:
            assert "torch" not in sys.modules
            device = job.device()
            import torch
            assert device.torch_device == torch.device("cpu") and torch.get_num_threads() == 2
        """,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        ('CalibrationError("12 images: 37 are needed")', "CalibrationError: 12 images: 37 are needed"),
        ('StoreError("a.zarr: is truncated")', "StoreError: a.zarr: is truncated"),
        ('OSError(28, "No space left on device")', "OSError: [Errno 28] No space left on device"),
        ('MemoryError("too large")', "MemoryError: too large"),
    ],
)
def test_error_that_a_user_can_mend_is_one_clear_line(raised: str, line: str, tmp_path: Path) -> None:
    done = run_script(tmp_path, f"with run_job(snakemake_of()):\n    raise {raised}")
    assert done.returncode == 1
    assert done.stderr == ""  # Snakemake's process shows the end of the log
    log = (tmp_path / "job.log").read_text()
    assert line in log and len(log.splitlines()) == 1 and "Traceback" not in log


def test_error_of_a_job_without_a_log_file_is_shown(tmp_path: Path) -> None:
    done = run_script(tmp_path, "with run_job(snakemake_of(log=None)):\n    raise StoreError('a.zarr: is truncated')")
    assert done.returncode == 1
    assert "predict_bounds: StoreError: a.zarr: is truncated" in done.stderr and "Traceback" not in done.stderr


def test_interrupted_job_ends_without_a_traceback(tmp_path: Path) -> None:
    done = run_script(tmp_path, "with run_job(snakemake_of()):\n    raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (130, "")
    assert "interrupted" in (tmp_path / "job.log").read_text()


def test_lost_gpu_is_one_clear_line(tmp_path: Path) -> None:
    text = "CUDA error: unspecified launch failure\\nCUDA kernel errors might be reported later"
    body = f"import torch\nwith run_job(snakemake_of()):\n    raise torch.AcceleratorError('{text}')"
    done = run_script(tmp_path, body)
    assert done.returncode == 1
    log = (tmp_path / "job.log").read_text()
    assert len(log.splitlines()) == 1
    assert "the GPU failed (CUDA error: unspecified launch failure)" in log
    assert "run the same command again" in log and "CUDA_VISIBLE_DEVICES" in log


def test_failed_assertion_on_the_gpu_is_a_fault_of_the_program(tmp_path: Path) -> None:
    raised = "RuntimeError('CUDA error: device-side assert triggered')"
    done = run_script(tmp_path, f"with run_job(snakemake_of()):\n    raise {raised}")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_error_of_the_program_shows_where_it_happened(tmp_path: Path) -> None:
    done = run_script(tmp_path, "with run_job(snakemake_of()):\n    1 / 0")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr


def test_error_of_the_program_stands_in_the_log_too(tmp_path: Path) -> None:
    run_script(tmp_path, "with run_job(snakemake_of()):\n    1 / 0")
    assert "ZeroDivisionError" in (tmp_path / "job.log").read_text()


def test_log_holds_messages_and_warnings_of_this_run_alone(tmp_path: Path) -> None:
    (tmp_path / "job.log").write_text("of an earlier run\n")
    done = run_script(
        tmp_path,
        """
        import warnings
        from conffusion.core.progress import Progress
        with run_job(snakemake_of()):
            Progress("fine-tuning", 1, unit="steps").update()
            warnings.warn("mind this")
        """,
    )
    assert done.returncode == 0
    log = (tmp_path / "job.log").read_text()
    assert "fine-tuning: 1/1 steps (100 %)" in log
    assert "mind this" in log
    assert "earlier" not in log
    assert "predict_bounds: " in done.stderr and "mind this" in done.stderr  # the terminal sees warnings, and the job
    assert "fine-tuning" not in done.stderr


def test_job_without_a_log_file_runs(tmp_path: Path) -> None:
    done = run_script(
        tmp_path, "with run_job(snakemake_of(log=None)) as job:\n    assert job.settings.seed == CONFIG.seed"
    )
    assert done.returncode == 0, done.stderr


def test_gpu_is_claimed_for_the_job_and_given_back(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import os, tempfile
        tempfile.tempdir = "."
        os.environ["CUDA_VISIBLE_DEVICES"] = "4,6"
        os.environ.pop("SLURM_JOB_ID", None)
        from conffusion.pipeline.gpu import claim_gpus
        with run_job(snakemake_of(resources={"gpu": 1})) as job:
            assert job.device_name == "cuda" and os.environ["CUDA_VISIBLE_DEVICES"] == "4"
        claim_gpus()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"
        """,
    )
    assert done.returncode == 0, done.stderr
