"""Calibrators: from the data to an absolute maximum."""

from octavo.compat.pytorch_quantization.calib.histogram import (
    HistogramCalibrator,
    calibrate_weights,
)
from octavo.compat.pytorch_quantization.calib.max import MaxCalibrator

__all__ = ["HistogramCalibrator", "MaxCalibrator", "calibrate_weights"]
