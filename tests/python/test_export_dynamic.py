"""Modules of quantize_dynamic as ONNX files: integers, ONNX Runtime's values, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

import octavo  # noqa: E402
import octavo.quantization as tq  # noqa: E402
from test_dynamic import kernels  # noqa: E402
from test_export_modules import by_torch, run_onnx  # noqa: E402
from test_quantization_dynamic import recurrent_slack  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("torch_seed"),
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

ENGINES = ["octavo", "dynamo", "torchscript"]
# A scale for the tensor and for each channel, and one whose zero point is not 0.
CONFIGS = {
    "tensor": tq.default_dynamic_qconfig,
    "channel": tq.per_channel_dynamic_qconfig,
    "affine": tq.QConfig(
        activation=tq.default_dynamic_qconfig.activation,
        weight=tq.MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_affine),
    ),
}


def write(model: Any, path: Path, x: Any, engine: str = "octavo") -> onnx.ModelProto:
    if engine == "octavo":
        octavo.export_onnx(model, path, args=x)
    else:
        by_torch(model, x, path, engine == "dynamo")
    onnx.checker.check_model(str(path), full_check=True)
    return onnx.load(str(path))


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    found = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return found


def numbers(layer: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integers [K, N], scales and zero points of a module's weight."""
    w = layer.weight()
    if w.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scale, zero = np.float32(w.q_scale()), np.int8(w.q_zero_point())
    else:
        scale = w.q_per_channel_scales().float().numpy()
        zero = w.q_per_channel_zero_points().to(torch.int8).numpy()
    return w.int_repr().numpy().T, np.asarray(scale), np.asarray(zero)


def products(model: onnx.ModelProto) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What each MatMulInteger multiplies by, and the scale behind it."""
    held = tensors(model)
    readers = {i: n for n in model.graph.node for i in n.input}
    dynamic = {n.output[1] for n in model.graph.node if n.op_type == "DynamicQuantizeLinear"}
    found = []
    for node in model.graph.node:
        if node.op_type != "MatMulInteger":
            continue
        cast = readers[node.output[0]]
        (scales,) = set(readers[cast.output[0]].input) - set(cast.output)
        both = next(n for n in model.graph.node if scales in n.output)
        assert both.op_type == "Mul" and set(both.input) & dynamic
        (scale,) = set(both.input) - dynamic
        found.append((held[node.input[1]], held[scale], held[node.input[3]]))
    return found


def in_numpy(x: np.ndarray, layer: Any) -> np.ndarray:
    """DynamicQuantizeLinear, MatMulInteger and the rest, each step rounded to float32."""
    integers, scale, zero = numbers(layer)
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    step = (high - low) / np.float32(255)
    middle = np.clip(np.rint(-low / step), 0, 255)
    q = np.clip(np.rint(x / step) + middle, 0, 255) - middle
    sums = q.astype(np.int64) @ (integers.astype(np.int64) - zero)
    y = sums.astype(np.float32) * (step * scale)
    return y if layer.bias() is None else y + layer.bias().numpy()


def one_step(x: np.ndarray, layer: Any) -> np.ndarray:
    """How far two roundings of the input, each by half a step, may take the product apart."""
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    size = layer.weight().dequantize().abs().sum(1).numpy()
    return size * step * 1.001 + 2**-22 * (size * np.abs(x).max() + 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("shape", [(40,), (6, 40), (2, 3, 40)])
def test_linear(shape: Any, config: str, engine: str, tmp_path: Path) -> None:
    for bias in (False, True):
        model = torch.nn.Sequential(torch.nn.Linear(40, 24, bias=bias)).eval()
        with torch.no_grad():
            model[0].weight += 0.05  # a range that is not symmetric
        model = tq.quantize_dynamic(model, {torch.nn.Linear: CONFIGS[config]})
        x, path = torch.randn(shape), tmp_path / "model.onnx"
        file = write(model, path, x, engine)
        (multiplied,) = products(file)
        for got, want in zip(multiplied, numbers(model[0]), strict=True):
            assert got.dtype == want.dtype and np.array_equal(got, want)
        assert config != "affine" or multiplied[2] != 0
        want = in_numpy(x.numpy(), model[0])
        assert np.array_equal(run_onnx(path, x), want)
        for y in (run_onnx(path, x, True), octavo.compile(path)(x.numpy())[0]):
            assert np.abs(y - want).max() <= 2**-22 * (np.abs(want).max() + 1)
        # The module multiplies by 1 / step: it may round to another integer what is halfway.
        assert (np.abs(want - model(x).numpy()) <= one_step(x.numpy(), model[0])).all()


def test_a_network(tmp_path: Path) -> None:
    """All its products are on integers, in ONNX Runtime and here; a shared input is quantized
    once."""

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.side = torch.nn.Linear(32, 64), torch.nn.Linear(32, 16)
            self.down = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.ReLU())

        def forward(self, x: Any) -> Any:
            return self.down(torch.tanh(self.up(x))) + self.side(x)

    model = tq.fuse_modules(Network().eval(), [["down.0", "down.1"]])
    linear = tq.per_channel_dynamic_qconfig
    model = tq.quantize_dynamic(model, {torch.nn.Linear: linear, tq.LinearReLU: linear})
    assert "DynamicQuantizedLinearReLU" in repr(model)
    batch, path, x = torch.export.Dim("batch"), tmp_path / "model.onnx", torch.randn(5, 9, 32)
    octavo.export_onnx(model, path, args=x[:2], dynamic_shapes=({0: batch},), target="onnxruntime")
    ops = [n.op_type for n in onnx.load(str(path)).graph.node]
    assert ops.count("MatMulInteger") == 3 and ops.count("DynamicQuantizeLinear") == 2
    graph = octavo.load_onnx(path)
    assert graph.inputs == [("x", "f32[batch, 9, 32]")]
    report = octavo.lint(graph, "onnxruntime")
    assert {f.op for f in report.findings} <= {"tanh", "relu", "add"}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options)
    fused = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert fused.count("DynamicQuantizeMatMul") + fused.count("MatMulIntegerToFloat") == 3
    program = octavo.compile(path)
    assert [k.split("_")[1] for k in kernels(program, "fused_gemm")] == ["int8"] * 3
    # Errors of `up` go through tanh (slope at most 1) into `down`.
    h = torch.tanh(model.up(x))
    off = one_step(x.numpy(), model.up).max()
    size = model.down[0].weight().dequantize().abs().sum(1).numpy()
    bound = one_step(h.numpy(), model.down[0]) + size * off * (1 + 2 / 255)
    bound = bound + one_step(x.numpy(), model.side)
    want = model(x).numpy()
    for y in (run_onnx(path, x), run_onnx(path, x, True), program(x.numpy())[0]):
        assert (np.abs(y - want) <= bound).all()


class Recurrent(torch.nn.Module):
    """With its states as outputs, and as inputs if they are given."""

    def __init__(self, kind: Any, **arguments: Any) -> None:
        super().__init__()
        self.r = kind(12, 10, **arguments)
        with torch.no_grad():
            for parameter in self.r.parameters():
                parameter.mul_(0.3)  # so that states forget: see recurrent_slack

    def forward(self, x: Any, *states: Any) -> Any:
        y, last = self.r(x, states if len(states) > 1 else states[0]) if states else self.r(x)
        return (y, *last) if isinstance(last, tuple) else (y, last)


def run_all(path: Path, *inputs: Any) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))


def check_outputs(model: Any, path: Path, inputs: tuple[Any, ...], bound: float) -> None:
    wanted = model(*inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    ours = octavo.compile(path)(*(x.numpy() for x in inputs))
    for got in (run_all(path, *inputs), ours):
        for y, want in zip(got, wanted, strict=True):
            assert y.shape == tuple(want.shape)
            assert np.abs(y - want.numpy()).max() <= bound


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_layers": 2, "bidirectional": True},
        {"batch_first": True},
        {"bias": False},
    ],
)
@pytest.mark.parametrize("engine", ["octavo", "dynamo"])
def test_recurrent(kind: Any, arguments: Any, engine: str, tmp_path: Path) -> None:
    """Each step is written out, the integers once."""
    real, path = Recurrent(kind, **arguments).eval(), tmp_path / "model.onnx"
    bound = 2 * recurrent_slack(real.r, 3)
    model = tq.quantize_dynamic(real)
    x = torch.randn(3, 2, 12).clamp(-4, 4)
    batch, gates = (3 if "batch_first" in arguments else 2), 2 * len(model.r.layers)
    state = torch.rand(len(model.r.layers), batch, 10) - 0.5
    states = (state, state * 0.5) if kind is torch.nn.LSTM else (state,)
    for inputs in ((x,), (x, *states)):
        if engine == "octavo":
            octavo.export_onnx(model, path, args=inputs)
        else:
            file = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
            file.save(str(path))
        file = onnx.load(str(path))
        held = [t for t in tensors(file).values() if t.dtype == np.int8 and t.ndim == 2]
        own = [numbers(g)[0] for layer in model.r.layers for g in (layer.ih, layer.hh)]
        assert len(held) == len(own) == gates
        assert {t.tobytes() for t in held} == {t.tobytes() for t in own}
        check_outputs(model, path, inputs, bound)


def test_the_torchscript_engine_takes_recurrent_layers(tmp_path: Path) -> None:
    real = Recurrent(torch.nn.GRU).eval()
    bound, model = 2 * recurrent_slack(real.r, 3), tq.quantize_dynamic(real)
    x, path = torch.randn(3, 2, 12).clamp(-4, 4), tmp_path / "model.onnx"
    write(model, path, x, "torchscript")
    check_outputs(model, path, (x,), bound)


def test_a_symbolic_batch_of_sequences(tmp_path: Path) -> None:
    model = tq.quantize_dynamic(Recurrent(torch.nn.LSTM, batch_first=True).eval())
    path, batch = tmp_path / "model.onnx", torch.export.Dim("batch")
    octavo.export_onnx(model, path, args=torch.randn(3, 4, 12), dynamic_shapes=({0: batch},))
    x = torch.randn(7, 4, 12).clamp(-4, 4)
    assert octavo.load_onnx(path).inputs == [("x", "f32[batch, 4, 12]")]
    check_outputs(model, path, (x,), 2 * recurrent_slack(Recurrent(torch.nn.LSTM).r, 4))


@pytest.mark.parametrize("kind", [torch.nn.LSTMCell, torch.nn.GRUCell, torch.nn.RNNCell])
def test_cells(kind: Any, tmp_path: Path) -> None:
    real = torch.nn.Sequential(kind(12, 10)).eval()
    bound, model = 2 * recurrent_slack(real[0], 1), tq.quantize_dynamic(real)
    x, path = torch.randn(4, 12).clamp(-4, 4), tmp_path / "model.onnx"
    file = write(model, path, x)
    assert len(products(file)) == 2
    check_outputs(model, path, (x,), bound)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", [None, "sum", "mean"])
def test_embeddings(mode: str | None, engine: str, tmp_path: Path) -> None:
    layer = torch.nn.EmbeddingBag(30, 12, mode=mode) if mode else torch.nn.Embedding(30, 12)
    model = tq.quantize_dynamic(torch.nn.Sequential(layer).eval(), dtype=torch.quint8)
    x, path = torch.randint(30, (4, 7)), tmp_path / "model.onnx"
    held = tensors(write(model, path, x, engine)).values()
    (table,) = (t for t in held if t.dtype == np.uint8)
    assert np.array_equal(table, model[0].weight().int_repr().numpy())
    assert not any(t.dtype == np.float32 and t.size > 30 for t in held)
    want = model(x).numpy()
    # Seven sums of values up to 4 in another order.
    bound = 7 * 28 * 2**-24 if mode else 0
    for y in (run_onnx(path, x), run_onnx(path, x, True), octavo.compile(path)(x.numpy())[0]):
        assert np.abs(y - want).max() <= bound


def test_float16_weights(tmp_path: Path) -> None:
    """float16 products keep the module's own numbers; in float32 they take four bytes."""
    model = torch.nn.Sequential(torch.nn.Linear(40, 24)).eval()
    model = tq.quantize_dynamic(model, dtype=torch.float16)
    x, path = torch.randn(6, 40), tmp_path / "model.onnx"
    want = model(x).numpy()
    write(model, path, x)
    assert np.abs(run_onnx(path, x) - want).max() <= 40 * 2**-23 * np.abs(want).max()
    octavo.export_onnx(model, path, args=x, float_products="float16")
    held = tensors(onnx.load(str(path))).values()
    (weight,) = (t for t in held if t.dtype == np.float16 and t.ndim == 2)
    assert np.array_equal(np.sort(weight, None), np.sort(model[0].weight().numpy(), None))


def test_what_is_refused(tmp_path: Path) -> None:
    path, x = tmp_path / "model.onnx", torch.randn(3, 4, 12)
    model = tq.quantize_dynamic(Recurrent(torch.nn.GRU).eval())
    for steps in (torch.export.Dim("steps"), torch.export.Dim.AUTO):
        with pytest.raises(octavo.UnsupportedError, match=r"GRU: the number of steps is fixed"):
            octavo.export_onnx(model, path, args=x, dynamic_shapes=({0: steps},))
    bag = torch.nn.EmbeddingBag(30, 12, mode="sum")
    model = tq.quantize_dynamic(torch.nn.Sequential(bag).eval(), dtype=torch.quint8)
    pairs = torch.randint(30, (6,)), torch.tensor([0, 4])
    with pytest.raises(octavo.UnsupportedError, match=r"EmbeddingBag with offsets"):
        octavo.export_onnx(model[0], path, args=pairs)
    assert not path.exists()
    # Another export is not the worse for it.
    octavo.export_onnx(model, path, args=torch.randint(30, (4, 7)))
