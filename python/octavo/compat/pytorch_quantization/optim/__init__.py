"""Helpers for optimizers."""

from octavo.compat.pytorch_quantization.optim import helper

__all__ = ["helper"]
