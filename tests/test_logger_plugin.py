"""The terminal output of real Snakemake runs of a workflow of a few lines, by the logger plugin."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SNAKEFILE = f"""
from conffusion.config import load_config
from conffusion.pipeline.plan import Plan
from conffusion.pipeline.records import job_name

PLAN = Plan(load_config("{ROOT}/config.yaml"))
logger.info("", extra={{"conffusion_plan": PLAN}})


onstart:
    jobs = [job_name(job.log[0], job.rule.name) for job in workflow.dag.needrun_jobs() if job.log]
    logger.info("", extra={{"conffusion_jobs": jobs}})
    logger.warning("mind this")


rule all:
    input: expand("{{task}}.txt", task=["inpainting", "super_resolution"]),

rule draw:
    output: "{{task}}.txt",
    log: "results/default/logs/{{task}}/draw.log",
    script: "draw.py"

rule sleep:
    output: "slept.txt",
    log: "results/default/logs/sleep.log",
    script: "sleep.py"

rule fail:
    output: "failed.txt",
    log: "results/default/logs/fail.log",
    script: "fail.py"

rule kill:
    output: "killed.txt",
    log: "results/default/logs/kill.log",
    script: "kill.py"
"""
SCRIPTS = {
    "draw.py": """
        import logging
        logging.getLogger("conffusion.x").info("said to the log")
        logging.getLogger("conffusion.x").warning("few images")
        open(snakemake.output[0], "w").close()
    """,
    "sleep.py": "    import time; open('slept.started', 'w').close(); time.sleep(60)",
    "fail.py": "    from conffusion.errors import DataError\n    raise DataError('x.png: is damaged')",
    "kill.py": "    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    for name, body in SCRIPTS.items():
        block = "\n".join(f"    {line.strip()}" for line in body.strip().splitlines())
        head = "from conffusion.pipeline.job import run_job\nwith run_job(snakemake):\n"
        (tmp_path / name).write_text(f"{head}{block}\n")
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", *arguments, "--cores", "1", "--logger", "conffusion"]


def snakemake(folder: Path, *arguments: str, code: int = 0) -> str:
    """Output and errors together, which is what a person sees."""
    done = subprocess.run(
        command(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    assert "\033" not in done.stdout and "\r" not in done.stdout
    return done.stdout


def test_a_line_per_finished_job_and_warnings_of_jobs(folder: Path) -> None:
    lines = [re.sub(r"^\d\d:\d\d:\d\d  ", "", line).strip() for line in snakemake(folder).splitlines()]
    assert lines[0] == "2 jobs to run; results in results/default, what jobs say in results/default/logs"
    assert lines[1] == "warning: mind this"
    assert {lines[2], lines[4]} == {f"draw/{task}: few images" for task in ("inpainting", "super_resolution")}
    assert re.fullmatch(r"1/2  draw/\w+ +\d+s  about \d+s left", lines[3])
    assert re.fullmatch(r"2/2  draw/\w+ +\d+s", lines[5])
    assert re.fullmatch(r"done: 2 jobs in \d+s", lines[6]) and len(lines) == 7
    assert "said to the log" in (folder / "results/default/logs/inpainting/draw.log").read_text()
    assert snakemake(folder).startswith("Nothing to be done")


def test_a_dry_run_counts_the_jobs_of_each_rule(folder: Path) -> None:
    lines = snakemake(folder, "--dry-run").splitlines()
    assert "draw         2" in lines and "total        3" in lines and len(lines) < 12
    assert "reason: Missing output files: inpainting.txt" in snakemake(folder, "--dry-run", "--verbose")


def test_quiet_leaves_warnings(folder: Path) -> None:
    lines = snakemake(folder, "--quiet").splitlines()
    assert [line for line in lines if "few images" not in line] == ["warning: mind this"]


def test_verbose_brings_the_output_of_snakemake_itself(folder: Path) -> None:
    text = snakemake(folder, "--verbose")
    assert "reason: Missing output files: inpainting.txt" in text and "Building DAG of jobs" in text
    assert "1/2  draw" not in text and re.search(r"^done: 2 jobs in \d+s$", text, flags=re.MULTILINE)


def test_a_failure_is_told_once_with_the_end_of_its_log(folder: Path) -> None:
    text = snakemake(folder, "failed.txt", code=1)
    log = "results/default/logs/fail.log"
    assert re.search(rf"FAILED: fail after \d+s; the end of {log}:\n    [\d:]+ DataError: x.png: is damaged\n", text)
    assert f"1 of 1 job failed, 0 finished and kept:\n    fail: {log}\n" in text and "same command again" in text
    assert text.count("is damaged") == 1 and "Traceback" not in text and len(text.splitlines()) < 12


def test_a_killed_job_is_said_to_be_killed(folder: Path) -> None:
    text = snakemake(folder, "killed.txt", "--retries", "1", code=1)
    said = "a job was ended by SIGKILL: someone stopped it, or the machine ran out of memory"
    assert text.count(said) == text.count("results/default/logs/kill.log is empty") == 2
    assert text.count("It is tried again") == 1 and "1 of 1 job failed" in text and len(text.splitlines()) < 12


def test_what_snakemake_refuses_is_shown(folder: Path) -> None:
    assert "nothing.md" in snakemake(folder, "nothing.md", code=1)
    assert "draw" in snakemake(folder, "--list")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_answered_in_one_sentence(folder: Path, number: int) -> None:
    child = subprocess.Popen(
        command("slept.txt"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, number, signal.SIG_DFL),
    )  # fmt: skip  (a shell in the background lets its processes ignore SIGINT)
    try:
        until = time.monotonic() + 60
        while not (folder / "slept.started").exists() and time.monotonic() < until:
            time.sleep(0.1)
        os.killpg(child.pid, number)
        text, _ = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode != 0
    first, last = [line for line in text.splitlines() if "mind this" not in line]
    assert first.startswith("1 job to run")
    assert last.endswith("interrupted: 0 of 1 job finished and kept; the same command goes on from there")
    assert "Traceback" not in text and "Error" not in text
