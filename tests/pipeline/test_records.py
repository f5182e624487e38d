"""Records of jobs: written by real jobs, left behind by killed ones, and never in the way."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from conffusion.core.progress import Progress
from conffusion.pipeline import records
from conffusion.pipeline.records import gpus_held, read_records, recorded
from tests.pipeline.test_job import PRELUDE, run_script

RUN = Path("results/try")
LOG = f"{RUN}/logs/inpainting/calibrate_method/resnext.log"
NAME = "calibrate_method/inpainting-resnext"
LONG_JOB = """
from conffusion.core.progress import Progress
progress = Progress("counting", 10, unit="images", interval=0)
with run_job(calibration_job()):
    progress.update(4)
    print("running", flush=True)
    time.sleep(120)
"""


def script(body: str) -> str:
    """A script of the job whose log is LOG; it is heard of often."""
    lines = [
        "import os, time",
        "from conffusion.pipeline import records",
        "records.BEAT_SECONDS = 0.05",
        f"LOG = {LOG!r}",
        "os.makedirs(os.path.dirname(LOG), exist_ok=True)",
        "def calibration_job(resources=None):",
        "    digest = RuleSettings(Plan(CONFIG))('calibrate_method').digest",
        "    return snakemake_of(resources, LOG, 'calibrate_method', digest)",
    ]
    return "\n".join([*lines, textwrap.dedent(body)])


@pytest.fixture
def running(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A job in its own process, 40 % done."""
    job = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script(LONG_JOB)], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_ID": "4711"},
    )  # fmt: skip
    assert job.stdout is not None and job.stdout.readline() == "running\n"
    yield job
    job.kill()
    job.wait()


def eventually(found: Callable[[], bool]) -> bool:
    """Whether something comes true within ten seconds."""
    end = time.monotonic() + 10
    while not found() and time.monotonic() < end:
        time.sleep(0.02)
    return found()


def test_running_job_says_where_it_is_and_how_far(running: "subprocess.Popen[str]", tmp_path: Path) -> None:
    run = tmp_path / RUN
    assert eventually(lambda: any(record.progress for record in read_records(run)))
    (record,) = read_records(run)
    assert (record.name, record.rule, record.state) == (NAME, "calibrate_method", "running")
    assert (record.host, record.pid, record.slurm_job) == (socket.gethostname(), running.pid, "4711")
    assert record.log == f"logs/{LOG.partition('/logs/')[2]}" and record.gpus == ()
    assert record.progress is not None
    assert (record.progress.done, record.progress.total, record.progress.unit) == (4, 10, "images")
    assert not record.has_died(time.time())
    assert eventually(lambda: read_records(run)[0].beat > record.beat)  # it goes on being heard of


def test_killed_job_is_recognised_by_its_process_and_elsewhere_by_its_silence(
    running: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    (record,) = read_records(tmp_path / RUN)
    assert record.state == "running" and record.has_died(record.beat)
    elsewhere = replace(record, host="another")
    assert not elsewhere.has_died(record.beat + records.SILENT_SECONDS - 1)
    assert elsewhere.has_died(record.beat + records.SILENT_SECONDS + 1)


def test_failed_job_leaves_its_message_and_a_later_success_removes_it(tmp_path: Path) -> None:
    body = "with run_job(calibration_job()):\n    "
    assert run_script(tmp_path, script(body + "raise StoreError('a.zarr: is truncated')")).returncode == 1
    (record,) = read_records(tmp_path / RUN)
    assert (record.state, record.message) == ("failed", "StoreError: a.zarr: is truncated")
    assert not record.has_died(record.beat + 1e6)
    assert run_script(tmp_path, script(body + "pass")).returncode == 0
    assert read_records(tmp_path / RUN) == [] and gpus_held(tmp_path / RUN) == {NAME: 0}
    files = [path for path in (tmp_path / RUN / "jobs").rglob("*") if path.is_file()]
    assert files == [tmp_path / RUN / "jobs" / "done" / f"{NAME}.json"]


@pytest.mark.parametrize("raised", ["KeyboardInterrupt()", "SystemExit(3)", "1 / 0"])
def test_whatever_ends_a_job_is_recorded(raised: str, tmp_path: Path) -> None:
    raising = raised if raised.startswith("1") else f"raise {raised}"
    assert run_script(tmp_path, script(f"with run_job(calibration_job()):\n    {raising}")).returncode != 0
    (record,) = read_records(tmp_path / RUN)
    assert record.state == "failed" and record.message.split(":")[0] in raised.replace("1 / 0", "ZeroDivisionError")


def test_gpus_of_a_job_are_recorded(tmp_path: Path) -> None:
    job = """
    import os, tempfile
    tempfile.tempdir = "."
    os.environ["CUDA_VISIBLE_DEVICES"] = "4,6"
    os.environ.pop("SLURM_JOB_ID", None)
    with run_job(calibration_job({"gpu": 1})):
        assert records.read_records("results/try")[0].gpus == ("4",)
    """
    done = run_script(tmp_path, script(job))
    assert done.returncode == 0, done.stderr
    assert gpus_held(tmp_path / RUN) == {NAME: 1}


def test_job_that_waits_for_a_gpu_says_so(tmp_path: Path) -> None:
    with recorded(tmp_path / LOG, "calibrate_method", wants_gpu=True):
        assert [record.gpus for record in read_records(tmp_path / RUN)] == [None]


def test_job_needs_no_record(tmp_path: Path) -> None:
    """A folder that takes no files: the job runs on and ends well."""
    (tmp_path / RUN).mkdir(parents=True)
    (tmp_path / RUN / "jobs").write_text("in the way")
    done = run_script(tmp_path, script("with run_job(calibration_job()):\n    time.sleep(0.2)"))
    assert (done.returncode, done.stderr) == (0, "")


def test_full_disk_leaves_no_half_record(tmp_path: Path) -> None:
    """/dev/full stands for it: writing there fails with ENOSPC."""
    temporary = tmp_path / RUN / "jobs" / "calibrate_method" / f".inpainting-resnext.json.{os.getpid()}.tmp"
    temporary.parent.mkdir(parents=True)
    temporary.symlink_to("/dev/full")
    with recorded(tmp_path / LOG, "calibrate_method"):
        assert read_records(tmp_path / RUN) == [] and not temporary.is_symlink()


def test_damaged_record_is_left_out(tmp_path: Path) -> None:
    with recorded(tmp_path / LOG, "calibrate_method"):
        folder = tmp_path / RUN / "jobs"
        (folder / "calibrate_method" / "other.json").write_text('{"name": "calibr')
        (folder / "split_images.json").write_text(json.dumps({"unknown": 1, "progress": None, "gpus": []}))
        assert [record.name for record in read_records(tmp_path / RUN)] == [NAME]


@pytest.mark.parametrize(
    ("log", "rule", "name"),
    [
        ("split_images.log", "split_images", "split_images"),
        ("plot_examples/inpainting-dm_sb.log", "plot_examples", "plot_examples/inpainting-dm_sb"),
        ("inpainting/prepare_images/images-64-test.log", "prepare_images", "prepare_images/inpainting-images-64-test"),
    ],
)
def test_records_are_named_as_benchmark_files(log: str, rule: str, name: str, tmp_path: Path) -> None:
    with recorded(tmp_path / RUN / "logs" / log, rule):
        assert [record.name for record in read_records(tmp_path / RUN)] == [name]


def test_progress_reaches_the_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="conffusion"), recorded(tmp_path / LOG, "calibrate_method") as recorder:
        Progress("a", 2).update(2)
        recorder.write()
        (record,) = read_records(tmp_path / RUN)
    assert record.progress is not None and (record.progress.label, record.progress.done) == ("a", 2)
