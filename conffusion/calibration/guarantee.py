"""What a calibration guarantees, in words: the one statement of it, for cards, verdicts, reports and viewers.

Numbers in it never round in its favour (`conffusion.core.percent`).
"""

from dataclasses import dataclass

from conffusion.calibration.risk_bounds import Strength, get_bound
from conffusion.core.choices import RECOMMENDED_BOUND, BoundName, UnitName
from conffusion.core.percent import exact_percent, exact_percent_of_rest


@dataclass(frozen=True)
class Guarantee:
    """Bound on the risk of new images like those that calibrated, and how often it may fail.

    Attributes:
        alpha: Risk level: share of true pixel values that may lie outside, on average.
        delta: Error level: probability, over calibration sets, that the risk exceeds alpha all the same.
        unit: What was counted as one independent loss: "image", "group" or "pixel" (which guarantees nothing).
        n: How many of them; None before calibration.
        n_images: Number of calibration images, whatever the unit; None: not known, or not to be told.
        ucb: Name of the bound.
    """

    alpha: float
    delta: float
    unit: UnitName = "image"
    n: int | None = None
    n_images: int | None = None
    ucb: BoundName = RECOMMENDED_BOUND

    @property
    def strength(self) -> Strength:
        """What kind of guarantee it is, as `RiskBound.guarantee`; "none" where pixels were counted."""
        return "none" if self.unit == "pixel" else get_bound(self.ucb).strength

    @property
    def holds(self) -> bool:
        """Whether it holds with probability 1 - delta for any number of units."""
        return self.strength == "finite_sample"

    @property
    def allowed(self) -> str:
        """The risk level, exactly: "10 %"."""
        return exact_percent(self.alpha)

    @property
    def confidence(self) -> str:
        """1 - delta, exactly: "90 %"."""
        return exact_percent_of_rest(self.delta)

    def __str__(self) -> str:
        """One sentence or two, which say so where nothing is guaranteed."""
        whole = "groups" if self.unit == "group" else "images"
        allowed = (
            f"at most {self.allowed} of the true pixel values of new {whole} like them lie outside their intervals, on"
            f" average over {whole}"
        )
        if self.strength == "finite_sample":
            return f"With probability at least {self.confidence} over the draw of the {self.data}, {allowed}."
        if self.strength == "asymptotic":
            return (
                f"Only in the limit of many {whole}: with probability {self.confidence} over the draw of the"
                f" {self.data}, {allowed}. For any finite number nothing is guaranteed."
            )
        if self.strength == "mean_only":
            return f"On average over draws of the {self.data}, {allowed}. For a single draw nothing is guaranteed."
        why = f"the bound `{self.ucb}` fails more often than it says"
        if self.unit == "pixel":
            why = f"the calibration counts {self.data} as if they were independent"
        return f"Nothing is guaranteed: {why}. It aims at {self.allowed} of true pixel values outside their intervals."

    @property
    def data(self) -> str:
        """What calibrated: "200 calibration images", "40 calibration groups (200 images)"; no numbers before."""
        noun = {"image": "calibration image", "group": "calibration group", "pixel": "pixel value"}[self.unit]
        counted = f"{noun}s" if self.n is None else f"{self.n:,} {noun}" + ("s" if self.n > 1 else "")
        if self.unit == "image" or self.n_images is None:
            return counted
        images = f"{self.n_images:,} images"
        return f"{counted} of {images}" if self.unit == "pixel" else f"{counted} ({images})"
