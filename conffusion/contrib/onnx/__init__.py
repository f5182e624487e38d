"""Calibrated one-pass predictors as ONNX files, lambda_hat inside. Needs the extra `onnx`."""

from conffusion.contrib.onnx.graph import ExportedBounds, ExportedPredictor
from conffusion.contrib.onnx.onnx_file import Exported, export_onnx

__all__ = ["Exported", "ExportedBounds", "ExportedPredictor", "export_onnx"]
