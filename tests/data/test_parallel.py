import logging
import threading

import pytest

from conffusion.data.parallel import N_FILES_WITH_PROGRESS, map_files


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_results_stand_in_order_whatever_the_number_of_threads(workers: int) -> None:
    assert map_files(lambda k: k * k, range(50), workers=workers, label="squaring") == [k * k for k in range(50)]
    assert map_files(str, [], workers=workers, label="nothing") == []


def test_calls_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=60)
    assert sorted(map_files(lambda _: meeting.wait(), range(3), workers=3, label="meeting")) == [0, 1, 2]


@pytest.mark.parametrize("workers", [1, 4])
def test_the_first_failure_in_order_is_raised(workers: int) -> None:
    def refuse_odd(k: int) -> None:
        if k % 2:
            raise ValueError(f"{k} is odd")

    with pytest.raises(ValueError, match="^1 is odd$"):
        map_files(refuse_odd, range(40), workers=workers, label="refusing")


@pytest.mark.parametrize("n_files", [N_FILES_WITH_PROGRESS - 1, N_FILES_WITH_PROGRESS])
def test_progress_is_shown_for_many_files_only(caplog: pytest.LogCaptureFixture, n_files: int) -> None:
    with caplog.at_level(logging.INFO, logger="conffusion"):
        map_files(str, range(n_files), workers=2, label="naming")
    assert [record.message[:28] for record in caplog.records] == ["naming: 300/300 files (100 %"] * (n_files >= 300)
