"""Calibrated one-pass predictors as ONNX files, lambda_hat inside. Needs the extra `onnx`."""

from conffusion.export.graph import ExportedBounds, ExportedPredictor
from conffusion.export.onnx_file import Exported, export_onnx

__all__ = ["Exported", "ExportedBounds", "ExportedPredictor", "export_onnx"]
