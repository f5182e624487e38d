"""The two protocols as data: where the checkpoint is chosen, and how lambda_hat is found."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from conffusion.calibration import Calibration, CalibrationOptions, Family, official_ucb
from conffusion.calibration.families import get_family
from conffusion.calibration.procedure import LambdaGrid, calibrate_images
from conffusion.config.schema import CalibrationSettings
from conffusion.core.choices import PAPER_SCALING, BoundName, ScalingName, UnitName
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import CalibrationError
from conffusion.methods.quirks import NO_QUIRK, Quirk
from conffusion.methods.registry import Method
from conffusion.metrics import evaluate


@dataclass(frozen=True)
class Protocol:
    """How a checkpoint is selected and calibrated.

    Attributes:
        name: "paper" or "guaranteed".
        selected_on: Split on which checkpoints compete.
        unit: What the bound counts as one sample; None = images, or groups where the data have them.
        ucb: Upper confidence bound; None = the configured one.
        scaling: Set family; None = chosen among the configured ones on the split `selected_on`.
        sorts_bounds: Whether crossing bounds are counted and sorted before calibration.
        official_quirks: Whether the quirks of the official code are repeated: its grid of scales, dropout while
            calibrating, and a fresh class and noise at every call (docs/official_code.md, sections 1, 7 and 8).
    """

    name: str
    selected_on: str
    unit: UnitName | None
    ucb: BoundName | None
    scaling: ScalingName | None
    sorts_bounds: bool
    official_quirks: bool = False

    def calibrate(
        self,
        images: LabelledBounds,
        settings: CalibrationSettings,
        *,
        grid: LambdaGrid | None = None,
        family: Family | None = None,
    ) -> Calibration:
        """lambda_hat under this protocol, with losses bet on in the order of the images.

        The images of every split are in a random order, drawn when they are split.

        Args:
            images: Bounds and truth.
            settings: alpha, delta, bound and families.
            grid: Scales to scan (see `official_grid`), under official quirks only. Where it ends without a verdict, a
                scale is returned all the same, as the official code does without a word: `is_feasible` tells.
            family: The chosen family; without it, as while checkpoints compete, the first configured one that needs no
                fit is taken. A protocol with a scaling of its own takes that.
        Raises:
            CalibrationError: If no scale satisfies alpha and delta.
        """
        options = CalibrationOptions(
            settings.alpha, settings.delta, self.scaling or family or settings.plain_family, self.ucb or settings.ucb,
            self.unit, order_seed=None,
        )  # fmt: skip
        if not self.official_quirks or grid is None:
            return calibrate_images(images, options)
        try:
            return calibrate_images(images, replace(options, lambda_grid=grid))
        except CalibrationError:
            return _end_of_grid(images, grid, options)

    @property
    def chooses_family(self) -> bool:
        """Whether the set family is chosen among the configured ones."""
        return self.scaling is None

    def is_feasible(self, calibration: Calibration) -> bool:
        """Whether the scale controls the risk; without official quirks there is none otherwise."""
        return not self.official_quirks or calibration.risk_ucb <= calibration.alpha

    def quirk(self, step: int, *, calibrating: bool) -> Quirk:
        """The quirk with which a checkpoint of a training step predicts, for calibration or for the test."""
        if not self.official_quirks:
            return NO_QUIRK
        return Quirk(f"validation after step {step}" if calibrating else "test", dropout=calibrating)


COMPARISON = "comparison"  # in place of a protocol in rows that only compare bounds and families
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "paper": Protocol("paper", "calibration", "pixel", "official", PAPER_SCALING, sorts_bounds=False),
        "guaranteed": Protocol("guaranteed", "selection", None, None, None, sorts_bounds=True),
    }
)


def get_protocol(name: str, *, official_quirks: bool = False) -> Protocol:
    """The protocol called `name`; the quirks of the official code concern "paper" alone."""
    return replace(PROTOCOLS[name], official_quirks=official_quirks and name == "paper")


def official_grid(task: str, method: Method) -> LambdaGrid | None:
    """The scales that the official code scans (docs/official_code.md, section 8); None where it has no such task."""
    if task == "super_resolution":
        return (0.9, 1.3, 1000) if method.network in (None, "task") else (0.8, 5.0, 1000)
    return (0.9, 2.5, 1000) if task == "inpainting" else None


def _end_of_grid(images: LabelledBounds, grid: LambdaGrid, options: CalibrationOptions) -> Calibration:
    """What the official code silently takes when its grid ends without a verdict (docs/official_code.md, section 8).

    Where the top of the grid fails already, the top, whose risk bound exceeds alpha; where even the bottom passes, one
    step above the top, although the bottom would do.
    """
    images, n_pixels = images.in_memory(), int(images.count_evaluated().sum())

    def at(scale: float) -> Calibration:
        found = Calibration(
            lambda_hat=scale, risk=1.0, risk_ucb=1.0, n=n_pixels, alpha=options.alpha, delta=options.delta,
            scaling=get_family(options.scaling).name, ucb=options.bound_name, unit="pixel", n_images=images.n_images,
        )  # fmt: skip
        risk = float(evaluate(*found.apply(images.lower, images.upper), images.target, images.mask).risk)
        return replace(found, risk=risk, risk_ucb=official_ucb(risk, n_pixels, found.delta))

    start, stop, number = grid
    top = at(stop)
    return top if top.risk_ucb > top.alpha else at(stop + (stop - start) / (number - 1) - 1e-9)
