"""Progress lines: right numbers, right unit, not too many."""

import logging

import pytest

from conffusion.core.progress import Progress, Reading, format_duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.4, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (200, "3m20s"),
        (3599.6, "1h00m"),
        (7320, "2h02m"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def run(caplog: pytest.LogCaptureFixture, n_items: int, seconds_each: float, **options: object) -> list[str]:
    """Lines logged while items finish at an even pace."""
    clock = Clock()
    progress = Progress("sampling inpainting/test", n_items, unit="variants", clock=clock, **options)
    with caplog.at_level(logging.INFO, logger="conffusion"):
        for _ in range(n_items):
            clock.now += seconds_each
            progress.update()
    return [record.message for record in caplog.records]


def test_line_tells_share_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    lines = run(caplog, 100, 2.0, interval=50)
    assert lines[0] == ("sampling inpainting/test: 25/100 variants (25 %), 0.5 variants/s, 50s elapsed, 2m30s left")
    assert lines[-1].endswith("100/100 variants (100 %), 0.5 variants/s, 3m20s elapsed, 0s left")
    assert len(lines) == 4


def test_lines_keep_their_distance_and_the_last_is_never_missing(caplog: pytest.LogCaptureFixture) -> None:
    assert len(run(caplog, 1250, 0.01)) == 3  # after 5 s, after 10 s, and at the end
    caplog.clear()
    assert len(run(caplog, 3, 0.001)) == 1


def test_many_items_at_once_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = Progress("a", 10, clock=clock)
    clock.now += 6
    with caplog.at_level(logging.INFO, logger="conffusion"):
        progress.update(4)
    assert caplog.records[0].message == "a: 4/10 items (40 %), 0.7 items/s, 6s elapsed, 9s left"


def test_nothing_done_in_no_time_does_not_divide_by_zero() -> None:
    assert str(Progress("a", 0, clock=Clock()).reading(0)) == "a: 0/0 items (0 %), 0.0 items/s, 0s elapsed, 0s left"


def test_part_of_larger_work_is_silent_unless_it_takes_long(caplog: pytest.LogCaptureFixture) -> None:
    assert run(caplog, 3, 1.0, part=True) == []
    lines = run(caplog, 3, 4.0, part=True)
    assert [line.split(" ")[2] for line in lines] == ["2/3", "3/3"]
    assert [record.progress for record in caplog.records] == [None, None]  # type: ignore[attr-defined]


def test_handlers_get_numbers(caplog: pytest.LogCaptureFixture) -> None:
    run(caplog, 4, 5.0)
    reading = caplog.records[0].progress  # type: ignore[attr-defined]
    assert reading == Reading("sampling inpainting/test", 1, 4, "variants", 5.0)
    assert (reading.rate, reading.left, reading.percent) == (0.2, pytest.approx(15), 25)
