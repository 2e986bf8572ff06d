"""Quantization of built torch models: ``octavo.nn.replace(model)``. Needs torch."""

import octavo._torch  # noqa: F401  says what is missing, before torch is imported
from octavo.nn.calibration import Calibration
from octavo.nn.distillation import Distillation, distill
from octavo.nn.folding import fold_batch_norm
from octavo.nn.learned import LearnedRanges, LearnedStep, learn_ranges
from octavo.nn.replacement import Replacement, replace
from octavo.nn.shared import Insertion, insert_shared

__all__ = [
    "Calibration",
    "Distillation",
    "Insertion",
    "LearnedRanges",
    "LearnedStep",
    "Replacement",
    "distill",
    "fold_batch_norm",
    "insert_shared",
    "learn_ranges",
    "replace",
]
