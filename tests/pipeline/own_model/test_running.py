"""Snakemake as a child: real runs of a workflow of a few lines."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conffusion.errors import ConffusionError
from conffusion.pipeline.own_model.running import run_workflow

SNAKEFILE = """
rule good:
    output: "results/{run}/good.txt"
    shell: "echo made >> {output}"

rule bad:
    output: "results/{run}/bad.txt"
    log: "results/{run}/logs/bad.log"
    script: "bad.py"

rule slow:
    output: "results/{run}/slow.txt"
    shell: "sleep 300 && touch {output}"
"""
BAD = """
from conffusion.errors import DataError
from conffusion.pipeline.job import run_job

with run_job(snakemake):
    raise DataError("x.png: is damaged")
"""


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "mine.yaml").write_text("key: 1\n")
    return tmp_path


def run(workflow: Path, target: str) -> None:
    run_workflow(workflow, "mine", [f"results/mine/{target}"], workflow / "mine.yaml", 1)


def test_files_are_made_once_and_the_workflow_is_heard(workflow: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "conffusion")
    run(workflow, "good.txt")
    said = [record.message for record in caplog.records if record.name.endswith("own_model.running")]
    log = workflow / "results/mine/logs/snakemake.log"
    assert said == log.read_text().splitlines() and any("good.txt" in line for line in said)
    run(workflow, "good.txt")
    assert (workflow / "results/mine/good.txt").read_text() == "made\n"


def test_a_failed_job_is_told_in_its_own_words(workflow: Path) -> None:
    with pytest.raises(ConffusionError, match=r"bad failed: (DataError: )?x.png: is damaged\nits log: .*logs/bad.log"):
        run(workflow, "bad.txt")


def test_what_snakemake_refuses_is_shown(workflow: Path) -> None:
    with pytest.raises(ConffusionError, match=r"(?s)the workflow stopped:.*nothing.txt.*all of it: .*snakemake.log"):
        run(workflow, "nothing.txt")


def processes_in(folder: Path) -> list[str]:
    """Command lines of processes whose working folder this is."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").resolve() == folder and (entry / "stat").read_text().split()[2] != "Z":
                found.append((entry / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc to find processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_processes_and_leaves_no_lock(workflow: Path, number: int) -> None:
    code = (
        "import signal, sys; from pathlib import Path; "
        "from conffusion.pipeline.own_model.running import run_workflow as run; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell in the background ignores it
    )
    code += "folder = Path(sys.argv[1]); run(folder, 'mine', ['results/mine/slow.txt'], folder / 'mine.yaml', 1)"
    front = subprocess.Popen([sys.executable, "-c", code, str(workflow)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any("sleep" in command for command in processes_in(workflow)):
        assert time.monotonic() < deadline and front.poll() is None
        time.sleep(0.2)
    os.kill(front.pid, number)
    assert "KeyboardInterrupt" in front.communicate(timeout=60)[1]
    assert not processes_in(workflow)
    assert not (workflow / "results/mine/slow.txt").exists()
    run(workflow, "good.txt")  # not locked


def test_a_lock_is_explained(workflow: Path) -> None:
    slow = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "results/mine/slow.txt", "--cores", "1"], cwd=workflow,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        while not list(workflow.glob(".snakemake/locks/*")):
            assert slow.poll() is None
            time.sleep(0.2)
        with pytest.raises(ConffusionError, match=r"another run works in it, or was killed there.*--unlock"):
            run(workflow, "slow.txt")
    finally:
        os.killpg(slow.pid, signal.SIGKILL)
        slow.wait()
