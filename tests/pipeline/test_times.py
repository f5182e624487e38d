"""Times of jobs: means by stage and task, and what they say about the jobs that are left."""

from pathlib import Path

import pytest

from conffusion.pipeline.planned import PlannedJob
from conffusion.pipeline.times import StageTimes, measured, time_left


def finetuning(task: str, steps: float) -> PlannedJob:
    return PlannedJob("finetune_method", f"{task}-n_conffusion", Path("training.csv"), task, "", steps, "steps")


def test_a_job_takes_the_time_of_its_stage_and_task_by_work() -> None:
    times = StageTimes()
    times.add(finetuning("inpainting", 100), 50.0)
    times.add(finetuning("inpainting", 300), 350.0)
    assert times.of(finetuning("inpainting", 10)) == pytest.approx(10.0)


def test_a_task_without_times_takes_those_of_the_other_tasks() -> None:
    times = StageTimes()
    times.add(finetuning("inpainting", 100), 50.0)
    assert times.of(finetuning("super_resolution", 10)) == pytest.approx(5.0)
    times.add(finetuning("super_resolution", 10), 30.0)
    assert times.of(finetuning("super_resolution", 10)) == pytest.approx(30.0)
    assert times.of(PlannedJob("split_images", "", Path("splits.csv"))) is None


def test_everything_that_shows_results_is_one_stage() -> None:
    times = StageTimes()
    times.add(PlannedJob("plot_bounds", "", Path("figures/bounds.png")), 4.0)
    assert times.of(PlannedJob("write_report", "", Path("report.html"))) == 4.0


@pytest.mark.parametrize(
    ("seconds", "concurrency", "expected"),
    [([10, 20, 30], 2.0, 30.0), ([10, 20, 60], 2.0, 60.0), ([10, 20], 0.5, 30.0), ([], 1.0, 0.0)],
)
def test_jobs_together_take_no_less_than_the_longest(seconds: list[float], concurrency: float, expected: float) -> None:
    assert time_left(seconds, concurrency) == expected


def test_benchmark_files_are_read_where_they_are_whole(tmp_path: Path) -> None:
    jobs = [PlannedJob("plot_training", task, Path("x.png"), task) for task in ("a", "b", "c")]
    folder = tmp_path / "benchmarks" / "plot_training"
    folder.mkdir(parents=True)
    (folder / "a.tsv").write_text("s\th:m:s\n2.5\t0:00:02\n")
    (folder / "b.tsv").write_text("s\th:m:s\n")
    assert measured(tmp_path, jobs) == [(jobs[0], 2.5)]
