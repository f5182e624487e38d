from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conffusion.errors import DataError
from conffusion.report.bootstrap import (
    group_weights,
    image_statistics,
    percentile_interval,
    replicate_weights,
    resample_methods,
)
from conffusion.report.figures.risk import clustered_mean
from conffusion.report.results import load_results
from tests.report.tree import Numbers, steady, write_numbers


def test_group_weights_draw_as_many_groups_as_there_are() -> None:
    weights = group_weights(7, 50, seed=3)
    assert weights.shape == (51, 7)
    np.testing.assert_array_equal(weights[0], 1)
    np.testing.assert_array_equal(weights.sum(axis=1), 7)
    np.testing.assert_array_equal(weights, group_weights(7, 50, seed=3))


def test_one_group_cannot_be_resampled() -> None:
    weights = group_weights(1, 5, seed=0)
    assert weights[0, 0] == 1 and np.isnan(weights[1:]).all()


def test_replicate_weights_are_shares() -> None:
    np.testing.assert_array_equal(replicate_weights(1, 4, [0, 1]), np.ones((5, 1)))
    weights = replicate_weights(3, 400, [0, 1])
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights.mean(axis=0), 1 / 3, atol=0.05)


def test_statistics_on_the_test_images_themselves(tmp_path: Path) -> None:
    risk, size = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5, 0.9])
    numbers = Numbers(risk, size, groups=["b", "a", "b"], strata=np.array([0.05, 0.1, 0.2, 0.15]))
    (result,) = load_results([write_numbers(tmp_path, numbers)])
    statistics = image_statistics(result.per_image, np.array([[1.0, 1.0], [2.0, 0.0]]))  # groups a, b
    np.testing.assert_allclose(statistics["risk"], [0.2, 0.2])
    np.testing.assert_allclose(statistics["size"], [0.6, 0.5])
    np.testing.assert_allclose(statistics["spread"], [0.15, 0.15])


def test_empty_quartiles_are_left_out(tmp_path: Path) -> None:
    """Where most intervals are equally wide, some quartiles hold no pixel."""
    (result,) = load_results([write_numbers(tmp_path, Numbers(np.full(4, 0.1), np.full(4, 0.9)))])
    table = result.per_image.assign(misses_3=0, pixels_3=0, misses_4=0, pixels_4=0)
    np.testing.assert_allclose(image_statistics(table, np.ones((1, 4)))["spread"], [0.02])


def interval_width(tmp_path: Path, groups: list[str]) -> float:
    size = np.repeat(np.random.default_rng(1).normal(0.3, 0.05, 40), 4)
    folder = write_numbers(tmp_path, Numbers(np.full(160, 0.1), size, groups=groups))
    draws = resample_methods(load_results([folder]), 1000, seed=0)["n_conffusion"]
    low, high = percentile_interval(draws.size)
    assert low < draws.size[0] < high
    return high - low


def test_groups_are_resampled_whole(tmp_path: Path) -> None:
    """Four identical images per group carry the information of one: the interval is twice as wide."""
    grouped = interval_width(tmp_path / "grouped", [f"person-{k // 4}" for k in range(160)])
    naive = interval_width(tmp_path / "naive", [str(k) for k in range(160)])
    assert grouped / naive == pytest.approx(2, rel=0.15)
    assert grouped == pytest.approx(2 * 1.96 * 0.05 / 40**0.5, rel=0.25)


def test_clustered_mean_agrees_with_the_bootstrap(tmp_path: Path) -> None:
    size = np.random.default_rng(0).normal(0.3, 0.05, 60)
    groups = [f"g{min(k // 3, 12)}" for k in range(60)]  # unequal sizes
    (result,) = load_results([write_numbers(tmp_path, Numbers(np.full(60, 0.1), size, groups=groups))])
    draws = resample_methods([result], 4000, seed=0)["n_conffusion"].size
    mean, error = clustered_mean(result.per_image, "interval_size")
    assert mean == pytest.approx(draws[0]) and error == pytest.approx(draws[1:].std(), rel=0.15)
    one_group = pd.DataFrame({"group": ["a", "a"], "risk": [0.1, 0.2]})
    assert np.isnan(clustered_mean(one_group, "risk")[1])


def test_methods_are_paired(tmp_path: Path) -> None:
    size = steady(0.3, 50, noise=0.1)
    folders = [
        write_numbers(tmp_path, Numbers(steady(0.1, 50), size, method="adm_uq")),
        write_numbers(tmp_path, Numbers(steady(0.1, 50), 0.9 * size, method="resnext")),
    ]
    draws = resample_methods(load_results(folders), 200, seed=0)
    np.testing.assert_allclose(draws["resnext"].size / draws["adm_uq"].size, 0.9)


def test_replicates_are_averaged_and_resampled(tmp_path: Path) -> None:
    folders = [
        write_numbers(tmp_path, Numbers(steady(0.1, 20), steady(size, 20), replicate=k))
        for k, size in enumerate((0.2, 0.3, 0.4))
    ]
    draws = resample_methods(load_results(folders), 500, seed=0)["n_conffusion"].size
    assert draws[0] == pytest.approx(0.3)
    assert draws.min() == pytest.approx(0.2) and draws.max() == pytest.approx(0.4)


def test_other_images_are_refused(tmp_path: Path) -> None:
    folders = [
        write_numbers(tmp_path, Numbers(steady(0.1, n), steady(0.2, n), method=method))
        for n, method in ((20, "adm_uq"), (21, "resnext"))
    ]
    with pytest.raises(DataError, match="different images or groups"):
        resample_methods(load_results(folders), 10, seed=0)
