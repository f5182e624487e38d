import numpy as np
import pytest

from conffusion.calibration import calibrate, random_group_order
from conffusion.calibration.rules import Level, get_rule
from conffusion.calibration.units import group_index
from conffusion.errors import DataError, ShapeError

ALPHA, DELTA, N_GROUPS = 0.1, 0.1, 200
SIZES, SHARES = np.array([1, 2, 5, 20]), np.array([0.4, 0.3, 0.2, 0.1])
LOSSES = np.array([0.2, 0.1, 0.03, 0.01])  # large groups are easy
LOSSES *= 1.02 * ALPHA / (SHARES @ LOSSES)  # the mean over groups exceeds alpha


def test_groups_stand_together_and_images_keep_their_order() -> None:
    groups = np.array(list("banabcanaab"))
    order = random_group_order(groups)
    assert sorted(order) == list(range(len(groups)))
    taken = groups[order]
    assert (taken[1:] != taken[:-1]).sum() == len(set(groups)) - 1
    assert all((np.diff(order[taken == label]) > 0).all() for label in set(groups))
    assert (random_group_order(groups) == order).all()
    firsts = {taken[0] for seed in range(50) for taken in [groups[random_group_order(groups, seed)]]}
    assert firsts == set(groups)


def test_missing_labels_are_named() -> None:
    with pytest.raises(DataError, match="image 1 is missing"):
        random_group_order(["a", None])
    with pytest.raises(ShapeError, match="groups has shape"):
        random_group_order(np.zeros((2, 2)))


def violation_rate(ucb: str, *, by_group: bool, n_draws: int = 300) -> float:
    """How often a risk above alpha passes, where images are shuffled, and then sorted by random groups or not."""
    generator, rule = np.random.default_rng(0), get_rule(ucb)
    passed = 0
    for _ in range(n_draws):
        kind = generator.choice(len(SIZES), N_GROUPS, p=SHARES)
        losses = LOSSES[kind] * generator.uniform(0.5, 1.5, N_GROUPS)
        images = generator.permutation(np.repeat(np.arange(N_GROUPS), SIZES[kind]))
        if by_group:
            images = images[random_group_order(images)]
        group = group_index(images, len(images))
        in_order = losses[images[np.unique(group, return_index=True)[1]]]
        passed += bool(rule.passes(in_order[:, None], Level(ALPHA, DELTA, N_GROUPS))[0])
    return passed / n_draws


@pytest.mark.parametrize("ucb", ["wsr", "star"])
def test_order_of_groups_must_not_depend_on_their_sizes(ucb: str) -> None:
    assert violation_rate(ucb, by_group=True) <= DELTA + 2 * np.sqrt(DELTA * (1 - DELTA) / 300)
    assert violation_rate(ucb, by_group=False) > 0.5  # large groups come first in shuffled images


def test_order_changes_nothing_but_the_order_of_bets() -> None:
    generator = np.random.default_rng(0)
    target = generator.random((90, 1, 4, 4))
    bounds = target - 0.1 * generator.random(target.shape), target + 0.1 * generator.random(target.shape)
    groups = generator.integers(0, 40, 90)
    order = random_group_order(groups)
    for ucb in ("hoeffding_bentkus", "empirical_bernstein"):
        expected = calibrate(*bounds, target, alpha=0.5, delta=0.1, groups=groups, ucb=ucb)
        found = calibrate(
            *(array[order] for array in bounds), target[order], alpha=0.5, delta=0.1, groups=groups[order], ucb=ucb
        )
        assert found.lambda_hat == expected.lambda_hat
