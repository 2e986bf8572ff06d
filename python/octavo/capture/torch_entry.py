"""``torch.compile(f, backend="octavo")``: what the entry point torch_dynamo_backends names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from octavo.capture.backends import with_options


def octavo(
    gm: torch.fx.GraphModule, example_inputs: list[Any], **options: Any
) -> Callable[..., Any]:
    """Octavo's compiler on a graph that stock Dynamo captured.

    Raises:
        TypeError: options that it does not take.
    """
    return with_options("octavo", options.get("mode"), options.get("options"))(gm, example_inputs)
