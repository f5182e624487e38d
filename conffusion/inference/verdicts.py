"""What calibration and evaluation found, in words."""

from dataclasses import dataclass

import numpy as np

from conffusion.calibration import Calibration, star_ucb
from conffusion.calibration.units import group_index, group_means
from conffusion.core.arrays import FloatArray, GroupLabels
from conffusion.core.randomness import keyed_generator

_CERTAINTY = 0.95  # of the one-sided limits of a measured risk
_DEVIATION = 0.1  # that losses of new kinds of images are expected to have; any constant is valid


@dataclass(frozen=True)
class MeasuredRisk:
    """Risk of calibrated intervals on images that calibrated nothing.

    Attributes:
        risk: Mean loss of the units.
        standard_error: Of that mean; NaN with one unit.
        low: Lower limit of the true risk, which holds with probability 95 % for independent units.
        high: Upper limit, likewise.
        n: Units.
        unit: "image" or "group".
    """

    risk: float
    standard_error: float
    low: float
    high: float
    n: int
    unit: str


def measure_risk(losses: FloatArray, unit: str) -> MeasuredRisk:
    """Risk of independent units from their (n_units,) losses; limits by `star_ucb`, valid for any number of them."""
    n = len(losses)
    error = float(losses.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    shuffled = losses[keyed_generator("measured risk").permutation(n)]  # the order must not follow names or sizes
    high, low = (star_ucb(one, 1 - _CERTAINTY, deviation=_DEVIATION) for one in (shuffled, 1 - shuffled))
    return MeasuredRisk(float(losses.mean()), error, 1 - low, high, n, unit)


def measure_unit_risk(losses: FloatArray, groups: GroupLabels | None) -> MeasuredRisk:
    """Risk over images, or over groups where there are labels, from the (n_images,) losses of images."""
    if groups is None:
        return measure_risk(losses, "image")
    return measure_risk(group_means(losses, group_index(groups, len(losses))), "group")


def calibration_verdict(
    calibration: Calibration, before: float | None = None, packaged: Calibration | None = None
) -> str:
    """What a calibration promises.

    Args:
        calibration: The new scale.
        before: Risk that the packaged scale would have had on the same images.
        packaged: The packaged calibration.
    """
    units = f"{calibration.n} {'images' if calibration.unit == 'image' else 'groups'}"
    sentences = [
        f"Calibrated on {units} ({calibration.n_images} images): with probability {1 - calibration.delta:.0%} over the "
        f"draw of such calibration sets, on average at most {calibration.alpha:.0%} of the true pixel values of new "
        "images like them lie outside their intervals.",
        f"Scale lambda_hat = {calibration.lambda_hat:.6g} ({calibration.scaling}); on the calibration images "
        f"{calibration.risk:.2%} of the values lie outside, and the upper bound of the risk "
        f"(`{calibration.ucb}`) is {calibration.risk_ucb:.2%}.",
    ]
    if before is not None and packaged is not None:
        change = "would have missed too many" if before > packaged.alpha else "was wide enough"
        sentences.append(
            f"With the scale that the model came with ({packaged.lambda_hat:.6g}), {before:.2%} of the values of these "
            f"images would lie outside: on them it {change}."
        )
    return "\n\n".join(sentences)


def evaluation_verdict(measured: MeasuredRisk, alpha: float, drift_warning: str | None = None) -> str:
    """Whether the promise was kept on a test set."""
    units = measured.unit + ("s" if measured.n > 1 else "")
    spread = f"standard error {measured.standard_error:.2%} over " if measured.n > 1 else ""
    found = (
        f"{measured.risk:.2%} of the true pixel values lie outside their intervals ({spread}{measured.n} {units}); "
        f"promised: at most {alpha:.0%} on average."
    )
    if measured.risk <= alpha:
        verdict = "Kept on these images."
    elif measured.low <= alpha:
        verdict = (
            f"More than promised on these images, but so few {units} can show that by chance: the true risk may be as "
            f"low as {measured.low:.2%} (with 95 % confidence)."
        )
    else:
        verdict = (
            f"BROKEN: the true risk on such images is at least {measured.low:.2%} (with 95 % confidence). Either they "
            "are not like those that calibrated, or nothing was calibrated: calibrate on pairs like them."
        )
    return "\n\n".join([found, verdict, *([f"Warning: {drift_warning}."] if drift_warning else [])])
