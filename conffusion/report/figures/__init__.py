"""Figures of a run; each function reads result files and writes one PNG and one PDF of the same name."""

from conffusion.report.figures.bounds import plot_bounds
from conffusion.report.figures.examples import plot_examples
from conffusion.report.figures.methods import plot_methods
from conffusion.report.figures.positions import plot_position_risk
from conffusion.report.figures.risk import plot_risk_curve, plot_size_risk, plot_stratified_risk
from conffusion.report.figures.training import plot_training
from conffusion.report.figures.validity import plot_validity

__all__ = [
    "plot_bounds",
    "plot_examples", "plot_methods", "plot_position_risk", "plot_risk_curve", "plot_size_risk", "plot_stratified_risk",
    "plot_training", "plot_validity",
]  # fmt: skip
