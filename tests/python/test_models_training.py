"""What training of a quantized all-MiniLM-L6-v2 gains over max calibration, in few steps: the
figures that docs/quantization.md names."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("octavo._torch")

import octavo  # noqa: E402
import octavo.nn  # noqa: E402
from octavo.compat.pytorch_quantization.tensor_quant import QuantDescriptor  # noqa: E402

pytestmark = [pytest.mark.peers, pytest.mark.long]
ROOT = Path(__file__).resolve().parents[2]
LENGTH = 24  # tokens of a sentence, more are cut off


@pytest.fixture(scope="module", autouse=True)
def tools():
    sys.path.insert(0, str(ROOT / "tools"))
    yield
    sys.path.remove(str(ROOT / "tools"))


def tokens(side: str, count: int) -> tuple[Any, Any]:
    import sentences

    inputs = sentences.inputs(side, count)
    ids, mask = (torch.from_numpy(inputs[n][:, :LENGTH]) for n in ("input_ids", "attention_mask"))
    return ids, mask


class Setup:
    """The float network, its answers on held-out sentences, batches of others to fit to."""

    def __init__(self) -> None:
        from networks import transformer

        self.model = transformer.minilm().eval()
        for table in (self.model.words, self.model.positions):
            table.weight.requires_grad_(False)
        ids, mask = tokens("calibration", 64)
        self.batches = list(zip(ids.split(16), mask.split(16), strict=True))
        self.heldout = tokens("heldout", 64)
        with torch.no_grad():
            self.reference = self.model(*self.heldout)

    def quantized(self, activations: Any, weights: Any) -> Any:
        model = copy.deepcopy(self.model)
        both = {
            "quant_desc_input": QuantDescriptor(num_bits=activations),
            "quant_desc_weight": QuantDescriptor(
                num_bits=weights, axis=None if weights == (4, 3) else 0
            ),
        }
        octavo.nn.replace(model, {torch.nn.Linear: both})
        octavo.calibrate(model, self.batches, method="max", progress=False)
        return model

    def sqnr(self, model: Any) -> float:
        with torch.no_grad():
            noise = self.reference - model(*self.heldout)
        return float(10 * torch.log10(self.reference.square().sum() / noise.square().sum()))


@pytest.fixture(scope="module")
def setup() -> Setup:
    return Setup()


def test_fp8_emulation_keeps_more_than_max_int8(setup) -> None:
    """E4M3 with one scale for a tensor, against 8 bits with a scale for each channel of weights:
    single activations are large, which costs a format with an exponent less."""
    integer, fp8 = setup.sqnr(setup.quantized(8, 8)), setup.sqnr(setup.quantized((4, 3), (4, 3)))
    print(f"int8 {integer:.1f} dB, fp8 {fp8:.1f} dB")
    assert fp8 >= integer + 6


@pytest.mark.parametrize("method", ["weights", "lsq", "pact"])
@pytest.mark.usefixtures("torch_seed")
def test_distillation_gains_over_max_calibration(setup, method) -> None:
    """4-bit weights, 8-bit activations, 20 steps; ``weights``: ranges stay as calibrated."""
    model = setup.quantized(8, 4)
    plain = setup.sqnr(model)
    ranges = None if method == "weights" else octavo.nn.learn_ranges(model, method)
    result = octavo.nn.distill(model, setup.batches, epochs=5, learning_rate=1e-4, progress=False)
    if ranges:
        ranges.finish()
    trained = setup.sqnr(model)
    print(f"{method}: {plain:.2f} to {trained:.2f} dB, loss {result.losses[0]:.3f} to "
          f"{result.losses[-1]:.3f}")  # fmt: skip
    assert trained >= plain + 1
