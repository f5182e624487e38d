"""When a claim holds: a rule on an interval and a region, the same for every claim."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from conffusion.report.readable import Format, decimals, percent, times

RISK, LARGEST_RISK = "mean risk", "largest mean risk"
SIZE = "relative difference in mean interval size"
SPREAD = "difference in spread of quartile risks"
PASSES = "ratio of forward passes per image"
FORMATS: Mapping[str, Format] = {
    RISK: decimals(4), LARGEST_RISK: decimals(4), SIZE: percent, SPREAD: decimals(4), PASSES: times,
}  # fmt: skip
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
VERDICTS = (HOLDS, FAILS, UNDECIDED)


@dataclass(frozen=True)
class Region:
    """Values above `low` and below `high`; `high` itself belongs to it where `includes_high`."""

    low: float = -math.inf
    high: float = math.inf
    includes_high: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low < value < self.high or (self.includes_high and value == self.high)

    def __str__(self) -> str:
        parts = []
        if self.low > -math.inf:
            parts.append(f"above {self.low:.4g}")
        if self.high < math.inf:
            parts.append(f"{'at most' if self.includes_high else 'below'} {self.high:.4g}")
        return ", ".join(parts)

    def is_clear_of(self, low: float, high: float) -> bool:
        """Whether no value from `low` to `high` lies in the region."""
        return high <= self.low or (low >= self.high and low not in self)


def verdict(region: Region, ci_low: float, ci_high: float) -> str:
    """The claim "holds" if the whole interval lies in the region, "does not hold" if none of it does."""
    if math.isnan(ci_low) or math.isnan(ci_high):
        return UNDECIDED
    if ci_low in region and ci_high in region:
        return HOLDS
    return FAILS if region.is_clear_of(ci_low, ci_high) else UNDECIDED
