"""Networks that users have are captured whole: one graph, no break, what eager gives."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from capture_cases import breaks_text, call_and_see, compare
from octavo import capture

pytest.importorskip("transformers")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
try:
    from networks.captured import NETWORKS
finally:
    sys.path.remove(str(ROOT / "tools"))

pytestmark = pytest.mark.peers
BATCHES = (2, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_captured_whole(name: str) -> None:
    network = NETWORKS[name]
    model = network.make()
    stats: list[dict[str, Any]] = []
    captured = capture.compile(model, backend="eager", fullgraph=True, stats=stats)
    with torch.no_grad():
        for batch in (*BATCHES, *BATCHES):
            inputs = network.inputs(batch)
            eager = call_and_see(lambda: model(**inputs), ())  # noqa: B023
            ours = call_and_see(lambda: captured(**inputs), ())  # noqa: B023
            assert ours.error is None, ours.error
            compare(eager, ours, f"batch {batch}:")
    assert len(stats) == len(BATCHES), breaks_text(stats)
    assert not any("reason" in piece for piece in stats)
