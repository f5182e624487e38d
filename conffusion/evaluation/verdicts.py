"""What calibration and evaluation found, in words."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from conffusion.calibration.betting import star_ucb
from conffusion.calibration.record import Calibration
from conffusion.calibration.units import unit_means
from conffusion.core.arrays import FloatArray, GroupLabels
from conffusion.core.percent import exact_percent, percent_down, percent_up
from conffusion.core.randomness import keyed_generator

Status: TypeAlias = Literal["controlled", "undecided", "violated"]
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

    def status(self, alpha: float) -> Status:
        """Whether the risk is at most alpha: "controlled" if the measured risk is, "violated" if the true one is not.

        "undecided" where the measured risk exceeds alpha, but not by more than chance explains.
        """
        if self.risk <= alpha:
            return "controlled"
        return "undecided" if self.low <= alpha else "violated"


def measure_risk(losses: FloatArray, groups: GroupLabels | None = None) -> MeasuredRisk:
    """Risk over images, or over groups where there are labels, with limits that are valid for any number of them.

    Args:
        losses: (n_images,) share of each image's pixels that are missed; by `star_ucb` in a random order, as the order
            must not follow names or sizes.
        groups: (n_images,) labels, or None.
    """
    units = unit_means(losses, groups)
    n = len(units)
    error = float(units.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    shuffled = units[keyed_generator("measured risk").permutation(n)]
    high, low = (star_ucb(one, 1 - _CERTAINTY, deviation=_DEVIATION) for one in (shuffled, 1 - shuffled))
    return MeasuredRisk(float(units.mean()), error, 1 - low, high, n, "image" if groups is None else "group")


def calibration_verdict(
    calibration: Calibration, before: float | None = None, packaged: Calibration | None = None
) -> str:
    """What a calibration guarantees and found.

    Args:
        calibration: The new scale.
        before: Risk that the packaged scale would have had on the same images.
        packaged: The packaged calibration.
    """
    alpha = calibration.alpha
    sentences = [
        str(calibration.guarantee),
        f"Scale lambda_hat = {calibration.lambda_hat:.6g} ({calibration.scaling}); on the calibration images "
        f"{percent_up(calibration.risk, alpha)} of the values lie outside, and the upper bound of the risk "
        f"(`{calibration.ucb}`) is {percent_up(calibration.risk_ucb, alpha)}.",
    ]
    if before is not None and packaged is not None:
        change = "would have missed too many" if before > packaged.alpha else "was wide enough"
        sentences.append(
            f"With the scale that the model came with ({packaged.lambda_hat:.6g}), "
            f"{percent_up(before, packaged.alpha)} of the values of these images would lie outside: on them it "
            f"{change}."
        )
    return "\n\n".join(sentences)


def evaluation_verdict(measured: MeasuredRisk, alpha: float, drift_warning: str | None = None) -> str:
    """Whether the risk is controlled on a test set.

    Args:
        measured: The risk on it.
        alpha: Risk level.
        drift_warning: What the drift check said, if anything.
    """
    units = measured.unit + ("s" if measured.n > 1 else "")
    spread = f"standard error {percent_up(measured.standard_error)} over " if measured.n > 1 else ""
    found = (
        f"{percent_up(measured.risk, alpha)} of the true pixel values lie outside their intervals "
        f"({spread}{measured.n} {units}); allowed: at most {exact_percent(alpha)} on average over {measured.unit}s."
    )
    low, high = percent_down(measured.low, alpha), percent_up(measured.high, alpha)
    status = measured.status(alpha)
    if status == "controlled":
        verdict = "Risk controlled on these images."
        if measured.high > alpha:
            verdict += f" The true risk on such images may be as high as {high} (with 95 % confidence)."
    elif status == "undecided":
        verdict = (
            f"Undecided: more than allowed on these images, but so few {units} can show that by chance: the true risk "
            f"may be as low as {low} (with 95 % confidence)."
        )
    else:
        verdict = (
            f"Risk VIOLATED: the true risk on such images is at least {low} (with 95 % confidence). Either they are "
            "not like those that calibrated, or nothing was calibrated: calibrate on pairs like them."
        )
    return "\n\n".join([found, verdict, *([f"Warning: {drift_warning}."] if drift_warning else [])])
