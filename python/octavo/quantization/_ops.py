"""The operators of octavo._torch, loaded once."""

from __future__ import annotations

from typing import Any

import torch

import octavo._torch  # noqa: F401  (registers them)

ops: Any = torch.ops.octavo
classes: Any = torch.classes.octavo
