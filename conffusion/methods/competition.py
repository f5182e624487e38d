"""Checkpoint selection: after each validation the checkpoint competes under both protocols."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from conffusion.bounds import sort_bounds
from conffusion.calibration.procedure import LambdaGrid
from conffusion.config.schema import CalibrationSettings
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import CalibrationError
from conffusion.methods.protocols import Protocol


@dataclass(frozen=True)
class Score:
    """How a checkpoint did.

    Attributes:
        lambda_hat: Calibrated scale on the split; NaN when none is feasible.
        risk: Risk at lambda_hat; NaN likewise.
        interval_size: Mean calibrated interval size of the evaluated pixels; infinite likewise.
    """

    lambda_hat: float
    risk: float
    interval_size: float

    def beats(self, other: "Score | None") -> bool:
        """Whether this checkpoint has narrower intervals at controlled risk; any beats one that controls nothing."""
        return other is None or self.interval_size < other.interval_size or math.isinf(other.interval_size)


@dataclass
class Competition:
    """The checkpoints of a fine-tuning run that have been scored so far.

    Attributes:
        scores: By step and protocol, in the order of the steps.
    """

    scores: dict[int, dict[str, Score]] = field(default_factory=dict)

    def best(self, protocol: str) -> tuple[Score, int]:
        """The first of the narrowest checkpoints of a protocol, and its step.

        Raises:
            ValueError: If no checkpoint has been scored.
        """
        if not self.scores:
            raise ValueError("no checkpoint has competed")
        step = self._improvements(protocol)[-1]
        return self.scores[step][protocol], step

    def n_without_improvement(self, protocol: str, after_step: int) -> int:
        """Latest checkpoints after a step of which none is better than all before it."""
        last = max(self._improvements(protocol)[-1], after_step)
        return sum(step > last for step in self.scores)

    def rows(self) -> list[dict[str, Any]]:
        """{step, protocol, lambda_hat, risk, interval_size} of every checkpoint and protocol."""
        return [
            {"step": step, "protocol": protocol, **asdict(score)}
            for step, scores in self.scores.items()
            for protocol, score in scores.items()
        ]

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]]) -> "Competition":
        """The competition that gave these rows."""
        scores: dict[int, dict[str, Score]] = {}
        for row in rows:
            values = {name: row[name] for name in ("lambda_hat", "risk", "interval_size")}
            scores.setdefault(row["step"], {})[row["protocol"]] = Score(**values)
        return cls(scores)

    def _improvements(self, protocol: str) -> list[int]:
        """Steps of the checkpoints that were better than all before them."""
        steps: list[int] = []
        for step, scores in self.scores.items():
            if scores[protocol].beats(self.scores[steps[-1]][protocol] if steps else None):
                steps.append(step)
        return steps


def score_checkpoint(
    protocol: Protocol, images: LabelledBounds, settings: CalibrationSettings, grid: LambdaGrid | None = None
) -> Score:
    """Calibrate the bounds of a checkpoint on the split and measure the intervals that result.

    Where the risk is not controlled, which only the official grid lets happen, the checkpoint cannot win.

    Args:
        protocol: How they are calibrated.
        images: Bounds of the checkpoint, (N, C, H, W) in [0, 1], and truth.
        settings: alpha, delta, bound and families.
        grid: As in `Protocol.calibrate`.
    """
    if protocol.sorts_bounds:
        lower, upper, _ = sort_bounds(images.lower, images.upper)
        images = replace(images, lower=lower, upper=upper)
    try:
        calibration = protocol.calibrate(images, settings, grid=grid)
    except CalibrationError:
        return Score(float("nan"), float("nan"), float("inf"))
    lower, upper = calibration.apply(images.lower, images.upper)
    evaluated = slice(None) if images.mask is None else np.broadcast_to(images.mask == 1, images.shape)
    size = float((upper - lower)[evaluated].mean())
    size = size if protocol.is_feasible(calibration) else float("inf")
    return Score(calibration.lambda_hat, calibration.risk, size)
