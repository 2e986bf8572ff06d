"""Quantized torch modules as ONNX files: ONNX Runtime's answers, parameters, the linter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

import octavo  # noqa: E402
import octavo.quantization as tq  # noqa: E402
from octavo.compat import pytorch_quantization as ptq  # noqa: E402
from octavo.nn import replace  # noqa: E402

pytestmark = pytest.mark.peers

Conv, Quantizer = torch.nn.Conv2d, ptq.nn.TensorQuantizer


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


class Residual(torch.nn.Module):
    """Convolutions with batch normalization, a shortcut, pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = Conv(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16)
        self.a, self.b = Conv(16, 16, 3, padding=1), Conv(16, 16, 3, padding=1, groups=2)
        self.shortcut = Quantizer()
        self.pool = torch.nn.AdaptiveAvgPool2d(1)
        self.head, self.last = torch.nn.Linear(16, 24), Quantizer()
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.norm(self.first(x)))
        y = self.b(torch.relu(self.a(x)))
        x = torch.relu(y + self.shortcut(x))
        return self.last(self.head(self.pool(x).flatten(1)))


class Block(torch.nn.Module):
    """A transformer's block: attention of quantized products, then two linear layers."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in range(2))
        for name in ("query", "key", "value", "out"):
            setattr(self, name, torch.nn.Linear(width, width))
            setattr(self, f"{name}_quantizer", Quantizer())
        self.up = torch.nn.Linear(width, 2 * width)
        self.down = torch.nn.Linear(2 * width, width)
        self.last = Quantizer()

    def forward(self, x: Any) -> Any:
        batch, length, width = x.shape
        h = self.norms[0](x)

        def split(y: Any) -> Any:
            return y.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)

        q = self.query_quantizer(split(self.query(h)))
        k = self.key_quantizer(split(self.key(h)))
        v = self.value_quantizer(split(self.value(h)))
        p = torch.softmax(q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5, -1)
        y = (self.out_quantizer(p) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(y)
        gelu = torch.nn.functional.gelu(self.up(self.norms[1](x)))
        return self.last(x + self.down(gelu))


MODELS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "residual": (Residual, (2, 3, 8, 8)),
    "block": (Block, (2, 6, 32)),
}


def quantizers(model: Any) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, Quantizer)]


def calibrated(name: str) -> tuple[Any, Any]:
    make, shape = MODELS[name]
    model, x = make().eval(), torch.randn(shape)
    replace(model, args=(x,))
    for q in quantizers(model):
        q.enable_calib()
        q.disable_quant()
    with torch.no_grad():
        model(x)
    for q in quantizers(model):
        q.disable_calib()
        q.load_calib_amax()
        q.enable_quant()
    return model, x


def run_onnx(path: Path, x: Any, optimize: bool = False) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if not optimize:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return y


def parameters_of(path: Path) -> list[tuple[list[float], list[int], str]]:
    """Scales, zero points and integer type of each DequantizeLinear; each set once."""
    model = onnx.load(str(path))
    onnx.checker.check_model(str(path), full_check=True)
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    found = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            scale, zero = constants[node.input[1]], constants[node.input[2]]
            one = (scale.reshape(-1).tolist(), zero.reshape(-1).tolist(), str(zero.dtype))
            if one not in found:
                found.append(one)
    return sorted(found, key=str)


def module_parameters(model: Any, activations: str = "int8") -> list[Any]:
    found = []
    for name, q in model.named_modules():
        if not isinstance(q, Quantizer):
            continue
        scale = (q.amax.reshape(-1).numpy() / np.float32(q.maxbound)).tolist()
        dtype = "int8" if "weight_quantizer" in name else activations
        one = (scale, [0 if dtype == "int8" else 128] * len(scale), dtype)
        if one not in found:
            found.append(one)
    return sorted(found, key=str)


def within_a_step(y: np.ndarray, reference: np.ndarray, step: float) -> None:
    """Both are on one grid; values halfway between two integers inside the network, which x / step
    and x * scale may round to either side, are rare and move an output by at most a step."""
    steps = np.rint(np.abs(y - reference) / step)
    assert np.abs(np.abs(y - reference) / step - steps).max() < 1e-3
    assert steps.max() <= 1
    assert (steps == 0).mean() > 0.97


def by_torch(model: Any, x: Any, path: Path, dynamo: bool) -> None:
    with ptq.enable_onnx_export(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), opset_version=18, dynamo=dynamo, verbose=False)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("engine", ["octavo", "dynamo", "torchscript"])
def test_values_and_parameters(name: str, engine: str, tmp_path: Path) -> None:
    model, x = calibrated(name)
    path = tmp_path / "model.onnx"
    if engine == "octavo":
        octavo.export_onnx(model, path, args=x)
    else:
        by_torch(model, x, path, engine == "dynamo")
    with torch.no_grad():
        reference = model(x).numpy()
    within_a_step(run_onnx(path, x), reference, float(model.last.step_size))
    assert parameters_of(path) == module_parameters(model)
    assert not any(n.op_type == "BatchNormalization" for n in onnx.load(str(path)).graph.node)


@pytest.mark.parametrize("name", MODELS)
def test_each_target_takes_it(name: str, tmp_path: Path) -> None:
    """Every product is on integers, but where the linter says why not."""
    model, x = calibrated(name)
    with torch.no_grad():
        reference = model(x).numpy()
    expected = {
        "octavo": set(),
        "openvino": set(),
        # Wants K and N of 16; the heads have 8, and their keys arrive transposed.
        "tensorrt": {"an input is not dequantized"},
        # The quantizers stand before layers only, as TensorRT wants them.
        "onnxruntime": {
            "its output is not quantized",
            "the relu behind it clamps more than the quantize behind that",
            "its output has readers other than one quantize",
        },
    }
    for target, reasons in expected.items():
        path = tmp_path / f"{target}.onnx"
        octavo.export_onnx(model, path, args=x, target=target)
        within_a_step(run_onnx(path, x), reference, float(model.last.step_size))
        report = octavo.lint(octavo.load_onnx(path), target)
        products = {f.reason for f in report.findings if f.op in ("conv", "gemm", "matmul")}
        assert products <= reasons, (target, report.findings)
        assert report.integer
        u8 = "uint8" if target == "onnxruntime" else "int8"
        assert parameters_of(path) == module_parameters(model, u8)


def small_cnn() -> Any:
    """For octavo.quantization: fused convolutions, FloatFunctional, a table, a linear layer."""

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
            self.first = torch.nn.Sequential(
                Conv(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
            )
            self.second = torch.nn.Sequential(
                Conv(8, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
            )
            self.add = tq.FloatFunctional()
            self.swish = torch.nn.Hardswish()
            self.head = torch.nn.Linear(8 * 16, 10)
            for norm in (self.first[1], self.second[1]):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)

        def forward(self, x: Any) -> Any:
            x = self.first(self.quant(x))
            x = self.swish(self.add.add(x, self.second(x)))
            x = torch.nn.functional.max_pool2d(x, 2)
            return self.dequant(self.head(x.flatten(1)))

    return Network()


FUSED = [[f"{name}.{i}" for i in range(3)] for name in ("first", "second")]


def converted() -> tuple[Any, Any]:
    x = torch.randn(4, 3, 8, 8)
    model = tq.fuse_modules(small_cnn().eval(), FUSED)
    model.qconfig = tq.get_default_qconfig("x86")
    model = tq.prepare(model)
    model(x)
    return tq.convert(model), x


def trained() -> tuple[Any, Any]:
    x = torch.randn(4, 3, 8, 8)
    model = tq.fuse_modules_qat(small_cnn().train(), FUSED)
    model.qconfig = tq.get_default_qat_qconfig("x86")
    model = tq.prepare_qat(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    model.eval()
    model.apply(tq.disable_observer)
    return model, x


def ao_parameters(model: Any) -> set[tuple[float, int]]:
    """Scale and zero point of each activation."""
    found = set()
    for m in model.modules():
        if isinstance(m, tq.FakeQuantize):
            if not m.is_per_channel:
                found.add((float(m.scale), int(m.zero_point)))
        elif hasattr(m, "zero_point"):
            found.add((float(np.float32(float(m.scale))), int(m.zero_point)))
    return found


@pytest.mark.parametrize("make", [converted, trained])
@pytest.mark.parametrize("engine", ["octavo", "dynamo", "torchscript"])
def test_torch_ao_modules(make: Any, engine: str, tmp_path: Path) -> None:
    model, x = make()
    path = tmp_path / "model.onnx"
    with torch.no_grad():
        reference = model(x).numpy()
    if engine == "octavo":
        octavo.export_onnx(model, path, args=x, target="onnxruntime")
        graph = octavo.load_onnx(path)
        report = octavo.lint(graph, "onnxruntime")
        # What ONNX Runtime computes in float: Hardswish, and the sum of what it does not quantize.
        assert {f.op for f in report.findings} <= {"hard_swish", "relu", "max_pool"}
    else:
        by_torch(model, x, path, engine == "dynamo")
    file = parameters_of(path)
    assert not any(n.op_type == "BatchNormalization" for n in onnx.load(str(path)).graph.node)
    activations = {(s[0], z[0]) for s, z, dtype in file if dtype == "uint8"}
    assert activations == ao_parameters(model)
    ((step, _),) = [p for p in ao_parameters(model) if p == grid_of_output(model)]
    for optimize in (False, True):
        within_a_step(run_onnx(path, x, optimize), reference, step)
    # The weights too, as integers.
    weights = [(s, z) for s, z, dtype in file if dtype == "int8"]
    if make is converted:
        modules = (model.first[0], model.second[0], model.head)
        expected = [
            (m.weight().q_per_channel_scales().float().tolist(), [0] * m.weight().shape[0])
            for m in modules
        ]
    else:
        fakes = [m for m in model.modules() if isinstance(m, tq.FakeQuantize) and m.is_per_channel]
        expected = [(m.scale.tolist(), m.zero_point.tolist()) for m in fakes]
    assert sorted(weights) == sorted(expected)


def grid_of_output(model: Any) -> tuple[float, int]:
    fake = getattr(model.head, "activation_post_process", model.head)
    return float(np.float32(float(fake.scale))), int(fake.zero_point)


def test_what_is_refused(tmp_path: Path) -> None:
    path, x = tmp_path / "model.onnx", torch.randn(1, 4)
    layer = ptq.nn.QuantLinear(4, 4)
    with pytest.raises(octavo.UserError, match=r"_input_quantizer has no amax; calibrate it"):
        octavo.export_onnx(layer, path, args=x)
    with pytest.raises(TypeError, match="wants args"):
        octavo.export_onnx(layer, path)
    with pytest.raises(TypeError, match="a Graph or a torch module, not str"):
        octavo.export_onnx("model.onnx", path, args=x)
    for q in quantizers(layer):
        q.amax = 1.0
    with pytest.raises(octavo.UserError, match="'abacus' is not known"):
        octavo.export_onnx(layer, path, args=x, target="abacus")
    layer.input_quantizer.enable_calib()
    with pytest.raises(octavo.UserError, match="is being calibrated"):
        octavo.export_onnx(layer, path, args=x)
    assert not path.exists()


def test_a_module_stays_as_it_was(tmp_path: Path) -> None:
    """Training mode, switches, names of inputs, a symbolic batch."""
    layer = ptq.nn.QuantLinear(4, 4).train()
    for q in quantizers(layer):
        q.amax = 1.0
    path = tmp_path / "model.onnx"
    batch = torch.export.Dim("batch")
    octavo.export_onnx(layer, path, args=(torch.randn(2, 4),), dynamic_shapes=({0: batch},))
    assert layer.training
    assert not Quantizer._enable_onnx_export
    graph = octavo.load_onnx(path)
    assert [name for name, _ in graph.inputs] == ["input"]
    x = torch.randn(7, 4)
    with torch.no_grad():
        assert np.abs(run_onnx(path, x) - layer.eval()(x).numpy()).max() < 1e-6
    with pytest.raises(TypeError, match="for a torch module, not a Graph"):
        octavo.export_onnx(graph, path, args=x)


def test_a_narrower_range_is_clipped(tmp_path: Path) -> None:
    """ONNX saturates at the ends of the type only."""
    fake = tq.FakeQuantize(quant_min=0, quant_max=127, dtype=torch.quint8)
    x = torch.linspace(-2, 2, 101)
    fake(x)
    fake.disable_observer()
    wide = 2 * x
    octavo.export_onnx(fake, tmp_path / "model.onnx", args=wide)
    assert np.array_equal(run_onnx(tmp_path / "model.onnx", wide), fake(wide).numpy())
