"""Checkpoints compete by the size of their calibrated intervals; the uncontrolled lose."""

import math
from dataclasses import replace

import numpy as np
import pytest

from conffusion.config.schema import CalibrationSettings
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.methods.competition import Competition, Score, score_checkpoint
from conffusion.methods.protocols import PROTOCOLS
from tests import conformance

SETTINGS = CalibrationSettings(alpha=0.2, delta=0.1, ucb="wsr", families=["multiplicative"])
LOWER, UPPER, TARGET = conformance.synthetic_bounds(5, 80, 3, 6, 6, 0.7)
MASK = np.ones(TARGET.shape, dtype=np.uint8)
IMAGES = LabelledBounds(LOWER, UPPER, TARGET, MASK)
NARROW, WIDE, INFEASIBLE = Score(1.1, 0.1, 0.2), Score(1.0, 0.05, 0.3), Score(math.nan, math.nan, math.inf)


def test_narrower_beats_wider_and_feasible_beats_infeasible() -> None:
    assert NARROW.beats(WIDE) and not WIDE.beats(NARROW)
    assert WIDE.beats(INFEASIBLE) and not INFEASIBLE.beats(WIDE)


def test_any_checkpoint_beats_none_so_that_a_run_never_ends_empty_handed() -> None:
    assert INFEASIBLE.beats(None) and WIDE.beats(None)


def test_the_earlier_of_two_equals_stays() -> None:
    assert not NARROW.beats(NARROW)
    assert INFEASIBLE.beats(INFEASIBLE)  # the later of two that control nothing: it has learned for longer


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_score_is_the_calibrated_size_of_the_evaluated_pixels(protocol: str) -> None:
    mask = MASK.copy()
    mask[..., :2, :] = 0
    score = score_checkpoint(PROTOCOLS[protocol], replace(IMAGES, mask=mask), SETTINGS)
    lower, upper = np.clip(LOWER / score.lambda_hat, 0, 1), np.clip(UPPER * score.lambda_hat, 0, 1)
    assert score.interval_size == pytest.approx(float((upper - lower)[mask == 1].mean()), rel=1e-5)
    missed = (TARGET < lower) | (TARGET > upper)
    assert score.risk == pytest.approx(float(missed[mask == 1].mean()), abs=2 / mask.sum())
    assert score.risk < SETTINGS.alpha


def test_blurred_bounds_lose_against_sharp_ones() -> None:
    sharp = score_checkpoint(PROTOCOLS["guaranteed"], IMAGES, SETTINGS)
    wider = replace(IMAGES, lower=LOWER * 0.7, upper=np.minimum(UPPER * 1.3, 1))
    blurred = score_checkpoint(PROTOCOLS["guaranteed"], wider, SETTINGS)
    assert sharp.beats(blurred) and not blurred.beats(sharp)


def test_bounds_that_no_scale_corrects_are_infeasible() -> None:
    """A zero lower and a zero upper bound stay zero under multiplicative scaling."""
    nothing = replace(IMAGES, lower=np.zeros_like(LOWER), upper=np.zeros_like(LOWER))
    score = score_checkpoint(PROTOCOLS["guaranteed"], nothing, SETTINGS)
    assert score.interval_size == math.inf
    assert math.isnan(score.lambda_hat) and math.isnan(score.risk)


def test_only_the_guaranteed_protocol_sorts_crossed_bounds() -> None:
    swapped = np.arange(80) % 10 == 0  # every tenth image has its bounds the wrong way round
    crossed_lower, crossed_upper = LOWER.copy(), UPPER.copy()
    crossed_lower[swapped], crossed_upper[swapped] = UPPER[swapped], LOWER[swapped]
    straight, crossed = (
        {name: score_checkpoint(rules, images, SETTINGS) for name, rules in PROTOCOLS.items()}
        for images in (IMAGES, replace(IMAGES, lower=crossed_lower, upper=crossed_upper))
    )
    assert crossed["guaranteed"] == straight["guaranteed"]
    assert crossed["paper"] != straight["paper"]


def competition(*sizes: float) -> Competition:
    scores = [Score(1.0, 0.1, size) for size in sizes]
    return Competition({10 * k: {"guaranteed": score} for k, score in enumerate(scores, start=1)})


def test_first_of_the_narrowest_checkpoints_is_the_best() -> None:
    assert competition(math.inf, 0.5, 0.3, 0.4, 0.3).best("guaranteed") == (Score(1.0, 0.1, 0.3), 30)
    with pytest.raises(ValueError, match="no checkpoint"):
        Competition().best("guaranteed")


@pytest.mark.parametrize(("after_step", "n"), [(0, 2), (30, 2), (40, 1), (50, 0)])
def test_checkpoints_without_improvement_are_counted_from_a_step_on(after_step: int, n: int) -> None:
    """A tie is no improvement."""
    assert competition(0.5, 0.4, 0.3, 0.3, 0.9).n_without_improvement("guaranteed", after_step) == n


def test_competition_is_kept_in_plain_rows() -> None:
    nothing = Score(float("nan"), float("nan"), float("inf"))
    kept = Competition({2: {"paper": Score(1.1, 0.09, 0.3), "guaranteed": nothing}, 4: {"paper": nothing}})
    assert repr(Competition.of_rows(kept.rows())) == repr(kept)
    assert kept.rows()[0] == {"step": 2, "protocol": "paper", "lambda_hat": 1.1, "risk": 0.09, "interval_size": 0.3}
