"""octavo.nn.insert_shared for ONNX Runtime: products on integers in its own optimized graph."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("octavo._torch")

import octavo  # noqa: E402
import octavo.nn  # noqa: E402
from octavo.compat.pytorch_quantization import nn as quant_nn  # noqa: E402
from octavo.nn.shared_plan import Target  # noqa: E402
from test_nn_shared import TARGETS, Concat, Residual, quantized, sqnr, switch, trained  # noqa: E402

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("torch_seed")]

nn, functional = torch.nn, torch.nn.functional


class Mobile(nn.Module):
    """Inverted residuals: one activation for all, additions without one, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU6(inplace=True)
        self.up = nn.Conv2d(16, 32, 1)
        self.depth = nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.down, self.top = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 40, 1)
        self.pool, self.drop = nn.AdaptiveAvgPool2d(1), nn.Dropout()
        self.head = nn.Linear(40, 10)

    def forward(self, x: Any) -> Any:
        x = self.act(self.stem(x))
        x = x + self.down(self.act(self.depth(self.act(self.up(x)))))
        x = functional.relu6(self.top(x))
        return self.head(self.drop(self.pool(x).flatten(1)))


class Silu(nn.Module):
    """What ONNX Runtime has in float between convolutions; a convolution's output read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.c, self.act = nn.Conv2d(32, 16, 1), nn.SiLU()

    def forward(self, x: Any) -> Any:
        x = self.act(self.a(x))
        y = self.c(torch.cat([x, self.act(self.b(x))], 1))
        return functional.max_pool2d(torch.sigmoid(y) * y, 2)


class Squeeze(nn.Module):
    """SiLU, averages and products as calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 16, 1)
        self.squeeze, self.expand = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.head = nn.Conv2d(16, 8, 1)

    def forward(self, x: Any) -> Any:
        x = functional.silu(self.a(x))
        x = torch.mul(x, functional.leaky_relu(self.b(x)))
        s = functional.silu(self.squeeze(x.mean((2, 3), keepdim=True)), inplace=True)
        return self.head(functional.silu(self.expand(s)) * s.sigmoid())


# Ops of the optimized graph; those that stay in float.
NETWORKS: dict[Any, tuple[dict[str, int], set[str]]] = {
    Residual: ({"QLinearConv": 7, "QLinearAdd": 2, "NhwcMaxPool": 1}, set()),
    Concat: ({"QLinearConv": 4, "QLinearConcat": 2, "NhwcMaxPool": 2, "Resize": 1}, set()),
    Mobile: (
        {"QLinearConv": 5, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1},
        set(),
    ),
    Silu: (
        {"QLinearConv": 3, "QLinearConcat": 1, "QLinearSigmoid": 2, "QLinearMul": 2},
        {"Sigmoid", "Mul", "MaxPool"},  # behind the last convolution: no integers read them
    ),
    Squeeze: (
        {
            "QLinearConv": 5,
            "QLinearSigmoid": 4,
            "QLinearMul": 5,
            "QLinearLeakyRelu": 1,
            "QLinearGlobalAveragePool": 1,
        },
        set(),
    ),
}
MOVE = {"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape"}
MOVE |= {"ReorderInput", "ReorderOutput"}


def run(path: Path, x: Any, optimized: Path | None = None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if optimized:
        options.optimized_model_filepath = str(optimized)
        options.log_severity_level = 3  # it warns that the file is for this machine
    else:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return y


@pytest.mark.parametrize("network", NETWORKS)
def test_its_own_graph(network: Any, tmp_path: Path) -> None:
    expected, in_float = NETWORKS[network]
    model, x = trained(network()), torch.randn(2, 16, 16, 16)
    quantized(model, x, "onnxruntime")
    path, optimized = tmp_path / "model.onnx", tmp_path / "optimized.onnx"
    octavo.export_onnx(model, path, args=x, target="onnxruntime")
    with torch.no_grad():
        want = model(x).numpy()
    got, plain = run(path, x, optimized), run(path, x)
    found = Counter(n.op_type for n in onnx.load(str(optimized)).graph.node)
    assert {op: n for op, n in found.items() if op in expected} == expected
    assert set(found) - set(expected) - MOVE == in_float
    report = octavo.lint(octavo.load_onnx(path), "onnxruntime")
    assert {f.op for f in report.findings} == {
        {"MaxPool": "max_pool"}.get(op, op.lower()) for op in in_float
    }
    # Values halfway between two integers go either way, as in test_nn_shared.
    for y in (got, plain):
        assert sqnr(torch.from_numpy(want), torch.from_numpy(y)) > 30


def test_gates_are_unsigned_and_taken_out() -> None:
    model, x = trained(Silu()), torch.randn(2, 16, 16, 16)
    with torch.no_grad():
        plain = model(x)
    result = quantized(model, x, "onnxruntime")
    gate = model.act._gate_quantizer
    assert gate._unsigned and 0.5 < float(gate.amax) <= 1
    with torch.no_grad():
        switch(model, False)
        # Sums of 288 products; silu and x * sigmoid(x) differ by roundings.
        assert torch.allclose(model(x), plain, rtol=1e-4, atol=1e-5)
    result.undo()
    assert not hasattr(model.act, "_gate_quantizer") and "forward" not in model.act.__dict__


def test_what_a_clamp_gives_is_unsigned() -> None:
    model, x = trained(Mobile()), torch.randn(2, 16, 16, 16)
    result = quantized(model, x, "onnxruntime")
    signs = {
        name: module._unsigned
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, quant_nn.TensorQuantizer) and "weight" not in name
    }
    assert signs == {
        "stem._input_quantizer": False,
        "up._input_quantizer": True,
        "depth._input_quantizer": True,
        "down._input_quantizer": True,
        "_shared_quantizer_0": True,  # the shortcut, which `up` reads too
        "_shared_quantizer_1": False,  # the other side
        "top._input_quantizer": False,  # the sum
        "pool._input_quantizer": True,
        "pool._output_quantizer": True,
        "head._input_quantizer": True,
    }
    assert model.up.input_quantizer is model._shared_quantizer_0
    assert model.pool._output_quantizer is model.head.input_quantizer
    assert float(model.depth.input_quantizer.amax) <= 6
    result.undo()
    names = [n for n, m in model.named_modules() if isinstance(m, quant_nn.TensorQuantizer)]
    assert len(names) == 13  # two for each of six products, one for the pooling
    assert not any(m._unsigned for m in model.modules() if hasattr(m, "_unsigned"))


def test_a_layer_in_float_leaves_what_reads_it_quantized() -> None:
    model, x = trained(Silu()), torch.randn(2, 16, 16, 16)
    quantized(model, x, "onnxruntime")
    ranking = octavo.sensitivity(
        model, [x], mode="sqnr", forward=lambda m, batch: m(batch), progress=False
    )
    assert "c._output_quantizer" in {layer.name for layer in ranking.layers}
    assert set(ranking._layers["c"]) == {model.c.input_quantizer, model.c.weight_quantizer}


def test_copies_and_training() -> None:
    """Output quantizers go along with copies and are trained through."""
    model, x = trained(Concat()), torch.randn(2, 16, 16, 16)
    quantized(model, x, "onnxruntime")
    other = copy.deepcopy(model)
    assert other.d._output_quantizer is not model.d._output_quantizer
    with torch.no_grad():
        assert torch.equal(other(x), model(x))
        other.d._output_quantizer.amax *= 0.01
        assert not torch.equal(other(x), model(x))
    model.train()
    model(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("target", TARGETS)
def test_a_module_that_is_called_twice(target: str, tmp_path: Path) -> None:
    """Its quantizers see what each call gives them."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 1)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.conv(x) + x)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.block = nn.Conv2d(16, 16, 3, 1, 1), Block()
            self.last = nn.Conv2d(16, 16, 1)

        def forward(self, x: Any) -> Any:
            return self.last(self.block(self.block(self.first(x))))

    model, x = trained(Network()), torch.randn(2, 16, 8, 8)
    seen: list[float] = []

    def look(_module: Any, inputs: Any) -> None:
        if not torch.compiler.is_exporting():
            seen.append(float(inputs[0].abs().max()))

    model.block.register_forward_pre_hook(look)
    quantized(model, x, target)
    shortcut = model.block.conv.input_quantizer
    # In the calibrating pass nothing is quantized.
    assert float(shortcut.amax) == pytest.approx(max(seen[-2:]), rel=1e-6)
    octavo.export_onnx(model, tmp_path / "model.onnx", args=x, target=target)
    with torch.no_grad():
        want = model(x).numpy()
    got = run(tmp_path / "model.onnx", x)
    assert sqnr(torch.from_numpy(want), torch.from_numpy(got)) > 30


def test_a_forward_that_branches_by_a_number(tmp_path: Path) -> None:
    """As EfficientNet's blocks do; traced for the number that it is called with."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 1)

        def forward(self, x: Any, rate: float | None = None, skip: Any = None) -> Any:
            y = self.conv(x)
            if rate and skip is None:
                y = y * (1 - rate)
            return y + x

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.last = Block(), nn.Conv2d(16, 16, 1)

        def forward(self, x: Any) -> Any:
            return self.last(self.block(x, rate=0.25))

    model, x = trained(Network()), torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        real = model(x)
    result = quantized(model, x, "onnxruntime")
    assert any(name.startswith("block._shared") for name in result.names)
    with torch.no_grad():
        assert sqnr(real, model(x)) > 25  # 8 bits, five tensors; without the branch it is 17
        with pytest.raises(AssertionError, match="rate has been specialized"):
            model.block(x, rate=0.5)


def test_facts_are_those_of_liboctavo() -> None:
    targets = {name: Target.of(name) for name in TARGETS}
    assert {n for n, t in targets.items() if t.all_sides} == {"onnxruntime", "openvino"}
    assert {n for n, t in targets.items() if "cat" in t.one_scale} == {"tensorrt"}
    assert {n for n, t in targets.items() if "conv" in t.outputs} == {"onnxruntime"}
    assert {n for n, t in targets.items() if t.unsigned} == {"onnxruntime"}
    assert targets["tensorrt"].outputs == set()
    with pytest.raises(octavo.UserError, match=r"'gpu' is not known; .*onnxruntime"):
        Target.of("gpu")
