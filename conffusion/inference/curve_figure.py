"""The risk curve of a calibration as a picture."""

from pathlib import Path

from matplotlib.figure import Figure

from conffusion.calibration import Calibration
from conffusion.evaluation.diagnostics import RiskCurve
from conffusion.store import atomic_path

_RISK, _LIMIT = "#0072B2", "#D55E00"


def draw_risk_curve(curve: RiskCurve, calibration: Calibration, output: str | Path) -> None:
    """Draw risk, its upper bound and mean size against the scale, with lambda_hat and alpha.

    Args:
        curve: Of the images that calibrated.
        calibration: The scale that was found.
        output: PNG file to write.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=160, layout="constrained")
    axes = figure.subplots()
    unit = "images" if calibration.unit == "image" else "groups"
    axes.fill_between(curve.lambdas, curve.risk, curve.risk_ucb, color=_RISK, alpha=0.2, linewidth=0)
    axes.plot(curve.lambdas, curve.risk_ucb, color=_RISK, linewidth=1, label=f"upper bound ({calibration.ucb})")
    axes.plot(curve.lambdas, curve.risk, color=_RISK, linewidth=2, label=f"risk on {calibration.n} {unit}")
    axes.axhline(calibration.alpha, color=_LIMIT, linestyle="--", linewidth=1.3, label=f"alpha = {calibration.alpha:g}")
    axes.axvline(calibration.lambda_hat, color="black", linewidth=1, label=f"lambda_hat = {calibration.lambda_hat:.4g}")
    axes.set(xlabel="scale lambda", ylabel="share of true values outside", ylim=(0, None))
    sizes = axes.twinx()
    sizes.plot(
        curve.lambdas, curve.size_mean, color="#6b6b6b", linestyle=":", linewidth=1.5, label="mean interval size"
    )
    sizes.set(ylabel="mean interval size, share of [0, 1]", ylim=(0, None))
    axes.spines["top"].set_visible(False)
    sizes.spines["top"].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
