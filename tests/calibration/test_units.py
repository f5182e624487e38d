import numpy as np
import pytest

from conffusion.calibration.risk_bounds import Level, get_bound
from conffusion.calibration.units import group_index
from conffusion.errors import DataError, ShapeError
from tests.calibration_in_order import calibrate

ALPHA, DELTA, N_GROUPS = 0.1, 0.1, 200
SIZES, SHARES = np.array([1, 2, 5, 20]), np.array([0.4, 0.3, 0.2, 0.1])
LOSSES = np.array([0.2, 0.1, 0.03, 0.01])  # large groups are easy
LOSSES *= 1.02 * ALPHA / (SHARES @ LOSSES)  # the mean over groups exceeds alpha


def test_groups_of_one_size_keep_the_order_of_their_first_images() -> None:
    assert group_index(list("bbaacc"), 6).tolist() == [0, 0, 1, 1, 2, 2]


def test_groups_of_different_sizes_come_in_an_order_of_their_labels_alone() -> None:
    groups = np.array(list("banabcanaab"))
    index = group_index(groups, len(groups))
    numbers = {label: set(index[groups == label]) for label in set(groups)}
    assert sorted(number for (number,) in numbers.values()) == [0, 1, 2, 3]
    shuffled = np.random.default_rng(0).permutation(groups)
    assert {label: set(group_index(shuffled, len(groups))[shuffled == label]) for label in set(groups)} == numbers


def test_missing_labels_are_named() -> None:
    with pytest.raises(DataError, match="image 1 is missing"):
        group_index(["a", None], 2)
    with pytest.raises(ShapeError, match="groups has shape"):
        group_index(np.zeros((2, 2)), 2)


def violation_rate(ucb: str, *, by_group: bool, n_draws: int = 300) -> float:
    """How often a risk above alpha passes, groups as `group_index` orders them or as they appear in shuffled images."""
    generator, bound = np.random.default_rng(0), get_bound(ucb)
    passed = 0
    for _ in range(n_draws):
        kind = generator.choice(len(SIZES), N_GROUPS, p=SHARES)
        losses = LOSSES[kind] * generator.uniform(0.5, 1.5, N_GROUPS)
        images = generator.permutation(np.repeat(np.arange(N_GROUPS), SIZES[kind]))
        kinds, firsts = np.unique(images, return_index=True)
        order = np.argsort(firsts)  # of first appearance
        if by_group:
            order = np.argsort(group_index(images, len(images))[firsts])
        in_order = losses[kinds[order]]
        passed += bool(bound.passes(in_order[:, None], Level(ALPHA, DELTA, N_GROUPS))[0])
    return passed / n_draws


@pytest.mark.parametrize("ucb", ["wsr", "star"])
def test_order_of_groups_must_not_depend_on_their_sizes(ucb: str) -> None:
    assert violation_rate(ucb, by_group=True) <= DELTA + 2 * np.sqrt(DELTA * (1 - DELTA) / 300)
    assert violation_rate(ucb, by_group=False) > 0.5  # large groups come first in shuffled images


def test_order_of_images_does_not_matter_where_groups_differ_in_size() -> None:
    generator = np.random.default_rng(0)
    target = generator.random((90, 1, 4, 4))
    bounds = target - 0.1 * generator.random(target.shape), target + 0.1 * generator.random(target.shape)
    groups = generator.integers(0, 40, 90)
    order = generator.permutation(90)
    for ucb in ("star", "wsr", "hoeffding_bentkus"):
        expected = calibrate(*bounds, target, alpha=0.5, delta=0.1, groups=groups, ucb=ucb)
        found = calibrate(
            *(array[order] for array in bounds), target[order], alpha=0.5, delta=0.1, groups=groups[order], ucb=ucb
        )
        assert found.lambda_hat == expected.lambda_hat
        assert found.risk_ucb == pytest.approx(expected.risk_ucb, abs=1e-12)
