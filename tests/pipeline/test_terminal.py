"""Lines of a run in the terminal, with a clock that the tests set."""

import json
import os
import re
import socket
from dataclasses import asdict
from pathlib import Path

import pytest

from conffusion.core.progress import Reading
from conffusion.pipeline.records import JobRecord
from conffusion.pipeline.terminal import TerminalLog
from tests.pipeline.configs import plan

FINETUNING = [f"finetune_method/inpainting-{method}" for method in ("dm_sba", "n_conffusion", "g_conffusion")]


class Run:
    """A run of some jobs in an empty folder; `text` drops the time of day."""

    def __init__(self, *names: str) -> None:
        self.now = 1_000_000.0
        self.log = TerminalLog(plan(run="try"), names, clock=lambda: self.now)
        self.ids = {name: number for number, name in enumerate(names, 1)}

    def job(self, name: str, seconds: float) -> str:
        self.log.started(self.ids[name], name)
        self.now += seconds
        return self.text(self.log.finished(self.ids[name]))

    def text(self, lines: list[str]) -> str:
        return "\n".join(re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in lines)

    def record(self, name: str, done: int, elapsed: float) -> None:
        reading = Reading("fine-tuning", done, 400, "steps", elapsed)
        record = JobRecord(
            name, "x.log", socket.gethostname(), os.getpid(), self.now - elapsed, self.now, progress=reading
        )
        path = Path("results/try/jobs") / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(record)))


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_first_line_says_how_many_jobs_and_where() -> None:
    assert Run("split_images", *FINETUNING).log.opening() == [
        "4 jobs to run; results in results/try, what jobs say in results/try/logs"
    ]


def test_finished_jobs_are_counted_and_tell_the_time_left() -> None:
    run = Run(*FINETUNING)
    assert run.job(FINETUNING[0], 40) == "1/3  finetune_method/inpainting-dm_sba           40s  about 1m20s left"
    assert run.job(FINETUNING[1], 40) == "2/3  finetune_method/inpainting-n_conffusion     40s  about 40s left"
    assert run.job(FINETUNING[2], 40) == "3/3  finetune_method/inpainting-g_conffusion     40s"
    assert run.log.closing() == ["done: 3 jobs in 2m00s"]


def test_jobs_that_run_side_by_side_share_the_time_left() -> None:
    run = Run(*FINETUNING, "finetune_method/super_resolution-dm_sba")
    for name in FINETUNING:
        run.log.started(run.ids[name], name)
    run.now += 40
    run.log.finished(1)
    # Of 3 jobs at a time each takes 40 s: two end at any moment, the last has not begun.
    assert run.text(run.log.finished(2)).endswith("about 40s left")


def test_before_long_jobs_are_timed_there_is_no_estimate_then_a_lower_limit() -> None:
    run = Run(
        "prepare_images/inpainting-images-test",
        "prepare_images/inpainting-images-finetune",
        *FINETUNING[:2],
        "write_report",
    )
    assert run.job("prepare_images/inpainting-images-test", 5).rstrip().endswith("  5s")
    run.job("prepare_images/inpainting-images-finetune", 5)
    assert run.job(FINETUNING[0], 60).endswith("at least 1m00s left")  # the report has not been timed


def test_times_of_an_earlier_run_count_until_there_are_new_ones() -> None:
    folder = Path("results/try/benchmarks/finetune_method")
    folder.mkdir(parents=True)
    for name in FINETUNING:
        (folder / f"{name.partition('/')[2]}.tsv").write_text("s\n100\n")
    run = Run("split_images", *FINETUNING)
    assert run.job("split_images", 5).endswith("about 5m00s left")
    assert run.job(FINETUNING[0], 10).endswith("about 20s left")


def test_long_jobs_show_their_progress_at_a_readable_rate() -> None:
    run = Run(*FINETUNING)
    run.log.started(2, FINETUNING[1])
    run.record(FINETUNING[1], 40, 20)
    run.now += 29
    assert run.log.progress() == []
    run.now += 1
    (line,) = run.log.progress()
    assert "finetune_method/inpainting-n_conffusion: fine-tuning: 40/400 steps (10 %)" in line and "3m00s left" in line
    assert run.log.progress() == []
    times = 0
    for _ in range(7200):
        run.now += 1
        times += len(run.log.progress())
    assert 20 < times < 50  # in two hours


def test_progress_of_an_earlier_attempt_is_not_shown() -> None:
    run = Run(*FINETUNING)
    run.now -= 100
    run.record(FINETUNING[0], 40, 20)
    run.now += 100
    run.log.started(1, FINETUNING[0])
    run.now += 60
    assert run.log.progress() == []


def test_of_many_jobs_a_few_are_shown_at_a_time() -> None:
    names = [f"finetune_method/inpainting-n_conffusion-r{k}" for k in range(20)]
    run = Run(*names)
    for name in names:
        run.log.started(run.ids[name], name)
    run.now += 60
    for name in names:
        run.record(name, 40, 20)
    assert len(run.log.progress()) == 4


def test_a_failure_names_the_job_its_log_and_what_to_do() -> None:
    log = Path("results/try/logs/inpainting/finetune_method/dm_sba.log")
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {k}\n\n" for k in range(20)) + "ConfigError: alpha = 2 is wrong\n")
    run = Run(*FINETUNING)
    run.job(FINETUNING[1], 5)
    run.log.started(1, FINETUNING[0])
    run.now += 12
    text = run.text(run.log.failed(1, FINETUNING[0], [str(log)]))
    assert f"FAILED: {FINETUNING[0]} after 12s; the end of {log}:\n" in text
    assert text.endswith("line 19\n    ConfigError: alpha = 2 is wrong") and "line 15" not in text
    assert run.log.has_failed
    end = "\n".join(run.log.closing())
    assert "1 of 3 jobs failed, 1 finished and kept" in end and f"{FINETUNING[0]}: {log}" in end
    assert "run the same command again" in end


def test_a_failed_job_that_is_repeated_with_success_is_forgotten() -> None:
    run = Run(FINETUNING[0])
    run.log.started(1, FINETUNING[0])
    assert "is empty" in run.log.failed(1, FINETUNING[0], ["results/try/logs/x.log"])[0]
    run.job(FINETUNING[0], 5)
    assert not run.log.has_failed and run.log.closing() == ["done: 1 job in 5s"]


def test_an_interrupt_says_that_the_same_command_goes_on() -> None:
    run = Run(*FINETUNING)
    run.job(FINETUNING[0], 5)
    (line,) = run.log.interrupted()
    assert line.endswith("interrupted: 1 of 3 jobs finished and kept; the same command goes on from there")


def test_targets_are_not_counted() -> None:
    run = Run(*FINETUNING)
    run.log.started(9, "all")
    assert run.log.finished(9) == []


@pytest.mark.parametrize(("last", "is_reported"), [("write_report", True), ("tabulate_claims", False)])
def test_results_are_shown_after_the_report_alone(last: str, is_reported: bool) -> None:
    run = Run("save_config", last)
    run.job("save_config", 1)
    assert not run.log.is_reported
    run.job(last, 1)
    assert run.log.is_reported == is_reported
