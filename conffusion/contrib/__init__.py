"""Bridges to other software: ONNX, restoration models of other libraries, S3."""
