"""Helpers of the original's ``utils``."""

from octavo.compat.pytorch_quantization.utils.reduce_amax import reduce_amax

__all__ = ["reduce_amax"]
