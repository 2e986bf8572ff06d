"""octavo.compat.pytorch_quantization: quantized modules, replacement, export to ONNX."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("octavo._torch")


pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("torch_seed")]
F = torch.nn.functional


def fake(ptq: Any, x: Any, kept: tuple[int, ...] = (), bits: int = 8) -> Any:
    """What a default quantizer does to it, a range for each index of the kept axes."""
    amax = x.abs().amax([i for i in range(x.dim()) if i not in kept], keepdim=True)
    return ptq.tensor_quant.fake_tensor_quant(x, amax, bits, False, False)


# ---- each module is the float one of quantized input and weight


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_convolution(ptq: Any, dims: int, mode: str) -> None:
    """In the original, circular padding gives another shape, reflect and replicate pad zeros."""
    arguments = {"stride": 2, "padding": 2, "groups": 2, "padding_mode": mode}
    module = getattr(ptq.nn, f"QuantConv{dims}d")(4, 6, 3, **arguments)
    float_module = getattr(torch.nn, f"Conv{dims}d")(4, 6, 3, **arguments)
    x = torch.randn(2, 4, *[8] * dims)
    with torch.no_grad():
        float_module.weight.copy_(fake(ptq, module.weight, (0,)))
        float_module.bias.copy_(module.bias)
        assert torch.equal(module(x), float_module(fake(ptq, x)))
    assert getattr(ptq.nn, f"Conv{dims}d") is type(module)
    module(x).sum().backward()
    assert module.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_convolution(ptq: Any, dims: int) -> None:
    arguments = {"stride": 2, "padding": 1, "dilation": 2}
    module = getattr(ptq.nn, f"QuantConvTranspose{dims}d")(4, 6, 3, bias=False, **arguments)
    float_module = getattr(torch.nn, f"ConvTranspose{dims}d")(4, 6, 3, bias=False, **arguments)
    x = torch.randn(2, 4, *[5] * dims)
    size = [12] * dims
    with torch.no_grad():
        float_module.weight.copy_(fake(ptq, module.weight, (1,)))
        expected = float_module(fake(ptq, x), output_size=size)
        assert torch.equal(module(x, output_size=size), expected)
    assert expected.shape[2:] == tuple(size)
    module.padding_mode = "reflect"
    with pytest.raises(ValueError, match="Only `zeros` padding mode"):
        module(x)


def test_linear(ptq: Any) -> None:
    of_input = ptq.tensor_quant.QuantDescriptor(num_bits=4)
    of_weight = ptq.tensor_quant.QuantDescriptor(num_bits=3)
    module = ptq.nn.QuantLinear(7, 5, quant_desc_input=of_input, quant_desc_weight=of_weight)
    x = torch.randn(2, 3, 7)
    expected = F.linear(fake(ptq, x, bits=4), fake(ptq, module.weight, bits=3), module.bias)
    assert torch.equal(module(x), expected)
    module.weight_quantizer.disable()
    module.input_quantizer.disable()
    assert torch.equal(module(x), F.linear(x, module.weight, module.bias))
    assert ptq.nn.QuantLinear(2, 3, False, dtype=torch.float64).weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("MaxPool", (3, 2)), ("AvgPool", (3, 2)), ("AdaptiveAvgPool", (3,)), ("InstanceNorm", (4,))],
)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_input_alone(ptq: Any, name: str, arguments: tuple[int, ...], dims: int) -> None:
    descriptor = ptq.tensor_quant.QuantDescriptor(axis=1)
    x = torch.randn(2, 4, *[6] * dims)
    quantized = getattr(ptq.nn, f"Quant{name}{dims}d")
    float_module = getattr(torch.nn, f"{name}{dims}d")(*arguments)
    assert torch.equal(quantized(*arguments)(x), float_module(fake(ptq, x)))
    module = quantized(*arguments, quant_desc_input=descriptor)
    assert torch.equal(module(x), float_module(fake(ptq, x, (1,))))
    module.input_quantizer.disable()
    assert torch.equal(module(x), float_module(x))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_lstm_without_quantization(
    ptq: Any, batch_first: bool, bidirectional: bool, packed: bool, bias: bool
) -> None:
    arguments = {
        "num_layers": 2,
        "bias": bias,
        "batch_first": batch_first,
        "bidirectional": bidirectional,
    }
    module = ptq.nn.QuantLSTM(5, 7, **arguments)
    for quantizers in (module._input_quantizers, module._weight_quantizers):
        for i in range(len(quantizers)):
            quantizers[i] = torch.nn.Identity()
    reference = torch.nn.LSTM(5, 7, **arguments)
    reference.load_state_dict(module.state_dict())
    x: Any = torch.randn(*((3, 6) if batch_first else (6, 3)), 5)
    if packed:  # lengths out of order: the original loses that order
        x = torch.nn.utils.rnn.pack_padded_sequence(x, [4, 6, 1], batch_first, False)
    shape = (4 if bidirectional else 2, 3, 7)
    for state in (None, (torch.randn(shape), torch.randn(shape))):
        y, last = module(x, state)
        expected, expected_last = reference(x, state)
        if packed:
            y, lengths = torch.nn.utils.rnn.pad_packed_sequence(y)
            expected, expected_lengths = torch.nn.utils.rnn.pad_packed_sequence(expected)
            assert torch.equal(lengths, expected_lengths)
        # 12 steps of 12 products each through functions of slope at most 1, in float32.
        for a, b in zip((y, *last), (expected, *expected_last), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=12 * 12 * 2.0**-23)


def test_lstm_cell(ptq: Any) -> None:
    module = ptq.nn.QuantLSTMCell(5, 7)
    reference = torch.nn.LSTMCell(5, 7)
    x, h, c = torch.randn(3, 5), torch.randn(3, 7), torch.randn(3, 7)
    both = fake(ptq, torch.cat([x, h], 1))
    weights = fake(ptq, torch.cat([module.weight_ih, module.weight_hh], 1), (0,))
    with torch.no_grad():
        reference.load_state_dict(module.state_dict())
        reference.weight_ih.copy_(weights[:, :5])
        reference.weight_hh.copy_(weights[:, 5:])
        expected = reference(both[:, :5], (both[:, 5:], c))
    for a, b in zip(module(x, (h, c)), expected, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=12 * 2.0**-23)
    assert torch.equal(module(x)[0], module(x, (torch.zeros(3, 7), torch.zeros(3, 7)))[0])
    # A sequence of one step, in the layer: each direction has quantizers of its own.
    layer = ptq.nn.QuantLSTM(5, 7)
    state = {k.removesuffix("_l0"): v for k, v in layer.state_dict().items()}
    module.load_state_dict(state)
    assert torch.equal(layer(x[None], (h[None], c[None]))[0][0], module(x, (h, c))[0])


def test_refused_modules(ptq: Any) -> None:
    real = ptq.tensor_quant.QuantDescriptor(fake_quant=False)
    nn = ptq.nn
    for build in (
        lambda **k: nn.QuantLinear(2, 3, **k),
        lambda **k: nn.QuantConv2d(2, 3, 1, **k),
        lambda **k: nn.QuantConvTranspose1d(2, 3, 1, **k),
        lambda **k: nn.QuantLSTM(2, 3, **k),
        lambda **k: nn.QuantLSTMCell(2, 3, **k),
        lambda **k: nn.QuantMaxPool2d(2, **k),
        lambda **k: nn.QuantInstanceNorm1d(2, **k),
    ):
        with pytest.raises(TypeError, match=r"Unused keys: .*descriptor"):
            build(descriptor=1)
        with pytest.raises(ValueError, match="Only fake quantization is supported"):
            build(quant_desc_input=real)
    with pytest.raises(ValueError, match="proj_size"):
        nn.QuantLSTM(2, 3, proj_size=1)
    with pytest.raises(RuntimeError, match="input must have 3 dimensions"):
        nn.QuantLSTM(2, 3)(torch.zeros(2, 2))
    with pytest.raises(RuntimeError, match="Expected hidden"):
        nn.QuantLSTM(2, 3)(torch.zeros(1, 1, 2), (torch.zeros(1, 2, 3), torch.zeros(1, 1, 3)))
    with pytest.raises(RuntimeError, match="inconsistent input_size"):
        nn.QuantLSTMCell(2, 3)(torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="doesn't match hidden"):
        nn.QuantLSTMCell(2, 3)(torch.zeros(2, 2), (torch.zeros(1, 3), torch.zeros(1, 3)))


def test_mixins(ptq: Any) -> None:
    utils = importlib.import_module("pytorch_quantization.nn.modules._utils")
    descriptor = ptq.tensor_quant.QuantDescriptor(num_bits=5)

    class Doubled(torch.nn.Module, utils.QuantMixin):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__()
            self.init_quantizer(*utils.pop_quant_desc_in_kwargs(type(self), **kwargs))

    Doubled.set_default_quant_desc_weight(descriptor)
    module = Doubled(quant_desc_input=ptq.tensor_quant.QuantDescriptor(num_bits=6))
    assert (module.input_quantizer.num_bits, module.weight_quantizer.num_bits) == (6, 5)
    assert ptq.nn.QuantLinear(2, 2).weight_quantizer.num_bits == 8  # defaults are each class's own
    with pytest.raises(TypeError, match="should be only called by"):
        module.init_quantizer(descriptor, descriptor)
    with pytest.raises(TypeError, match="Unused keys"):
        Doubled(descriptor=descriptor)
    with pytest.raises(ValueError, match="is not an instance of QuantDescriptor"):
        Doubled.set_default_quant_desc_input(8)


# ---- replacement in torch.nn


REPLACED = [
    *[
        f"{n}{d}d"
        for n in ("Conv", "ConvTranspose", "AvgPool", "AdaptiveAvgPool")
        for d in (1, 2, 3)
    ],
    "Linear",
    "LSTM",
    "LSTMCell",
]


def test_initialize_and_deactivate(ptq: Any) -> None:
    """initialize() twice cannot be undone in the original."""
    before = {name: getattr(torch.nn, name) for name in (*REPLACED, "MaxPool2d", "InstanceNorm2d")}
    q = ptq.quant_modules
    for _ in range(2):
        q.initialize()
        for name in REPLACED:
            assert getattr(torch.nn, name) is getattr(ptq.nn, f"Quant{name}")
        assert torch.nn.MaxPool2d is before["MaxPool2d"]
        assert torch.nn.InstanceNorm2d is before["InstanceNorm2d"]
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2))
        assert isinstance(model[0], ptq.nn.QuantConv2d)
    q.initialize(["Linear"])  # what an earlier call replaced is float again
    assert torch.nn.Linear is before["Linear"]
    q.deactivate()
    assert {name: getattr(torch.nn, name) for name in before} == before
    q.deactivate()


def test_own_replacements(ptq: Any) -> None:
    class Own(torch.nn.Linear):
        pass

    linear, relu = torch.nn.Linear, torch.nn.ReLU
    custom = [(torch.nn, "Linear", Own), (torch.nn, "ReLU", torch.nn.ReLU6)]
    for excluded in (None, ["Linear"]):
        ptq.quant_modules.initialize(excluded, custom)
        assert torch.nn.Linear is Own
        assert torch.nn.ReLU is torch.nn.ReLU6
        ptq.quant_modules.deactivate()
        assert torch.nn.Linear is linear
        assert torch.nn.ReLU is relu
    helper = ptq.quant_modules.QuantModuleReplacementHelper()
    helper.prepare_state(["Conv2d"])
    helper.apply_quant_modules()
    assert torch.nn.Linear is ptq.nn.QuantLinear
    assert torch.nn.Conv2d is not ptq.nn.QuantConv2d
    helper.restore_float_modules()
    assert torch.nn.Linear is linear


# ---- export


def calibrated(ptq: Any, bits: Any = 8, channels: bool = True) -> Any:
    descriptors = {
        "quant_desc_input": ptq.tensor_quant.QuantDescriptor(num_bits=bits),
        "quant_desc_weight": ptq.tensor_quant.QuantDescriptor(
            num_bits=bits, axis=0 if channels else None
        ),
    }
    model = torch.nn.Sequential(
        ptq.nn.QuantConv2d(3, 8, 3, padding=1, **descriptors),
        torch.nn.ReLU(),
        ptq.nn.QuantConv2d(8, 4, 1, **descriptors),
    ).eval()
    model[2].input_quantizer.unsigned = bits == 8
    x = torch.randn(2, 3, 8, 8)
    quantizers = [m for m in model.modules() if isinstance(m, ptq.nn.TensorQuantizer)]
    for q in quantizers:
        q.enable_calib()
        q.disable_quant()
    model(x)
    for q in quantizers:
        q.disable_calib()
        q.load_calib_amax()
        q.enable_quant()
    return model, x


def parameters_of(model: onnx.ModelProto) -> list[tuple[Any, Any]]:
    """Scale and zero point of each QuantizeLinear."""
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return [
        (constants[n.input[1]], constants[n.input[2]])
        for n in model.graph.node
        if n.op_type == "QuantizeLinear"
    ]


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("switch", ["enable_onnx_export", "use_fb_fake_quant"])
@pytest.mark.parametrize("channels", [False, True])
def test_export(ptq: Any, tmp_path: Path, dynamo: bool, switch: str, channels: bool) -> None:
    model, x = calibrated(ptq, channels=channels)
    path = str(tmp_path / "model.onnx")

    def export() -> None:
        torch.onnx.export(
            model,
            (x,),
            path,
            input_names=["x"],
            opset_version=18 if dynamo else 13,
            dynamo=dynamo,
            verbose=False,
        )

    if switch == "enable_onnx_export":
        with ptq.enable_onnx_export():
            export()
    else:
        ptq.nn.TensorQuantizer.use_fb_fake_quant = True
        try:
            export()
        finally:
            ptq.nn.TensorQuantizer.use_fb_fake_quant = False
    written = onnx.load(path)
    onnx.checker.check_model(written)
    ops = sorted(n.op_type for n in written.graph.node if n.op_type != "Constant")
    q, dq = ["QuantizeLinear"] * 4, ["DequantizeLinear"] * 4
    assert ops == sorted(["Conv", "Conv", "Relu", *q, *dq])
    # As the quantizers say, whatever the order.
    expected = []
    for m in (model[0], model[2]):
        for quantizer in (m.input_quantizer, m.weight_quantizer):
            scale = quantizer.amax.reshape(-1).numpy() / np.float32(quantizer.maxbound)
            expected.append((scale.tolist(), np.uint8 if quantizer.unsigned else np.int8))
    got = [(s.reshape(-1).tolist(), z.dtype.type) for s, z in parameters_of(written)]
    assert sorted(got, key=str) == sorted(expected, key=str)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        reference = model(x).numpy()
    # A value halfway between two integers may fall to either side in x / step and x * scale: one
    # step of the second convolution's input times its largest weight, and of the first's likewise.
    step = float(model[2].input_quantizer.step_size)
    bound = step * float(model[2].weight.detach().abs().sum((1, 2, 3)).max())
    assert np.abs(y - reference).max() <= bound
    assert np.median(np.abs(y - reference)) <= 1e-6


@pytest.mark.parametrize("dynamo", [False, True])
def test_export_of_fp8(ptq: Any, tmp_path: Path, dynamo: bool) -> None:
    """Matrices in both engines; the TorchScript engine wants to know the shape of a convolution's
    weight and forgets it at a foreign operator."""
    fp8 = ptq.tensor_quant.QuantDescriptor(num_bits=(4, 3), amax=2.0)
    descriptors = {"quant_desc_input": fp8, "quant_desc_weight": fp8}
    layer = ptq.nn.QuantLinear(4, 4, **descriptors)
    last = ptq.nn.QuantConv1d(4, 4, 1, **descriptors) if dynamo else torch.nn.Identity()
    path = str(tmp_path / "model.onnx")
    with ptq.enable_onnx_export():
        torch.onnx.export(
            torch.nn.Sequential(layer, last).eval(),
            (torch.randn(2, 4, 4),),
            path,
            opset_version=18 if dynamo else 17,
            dynamo=dynamo,
            verbose=False,
        )
    nodes = onnx.load(path).graph.node
    for name in ("TRT_FP8QuantizeLinear", "TRT_FP8DequantizeLinear"):
        found = [n for n in nodes if n.op_type == name]
        assert len(found) == (4 if dynamo else 2)
        assert all(n.domain == "trt" for n in found)


def test_what_cannot_be_exported(ptq: Any) -> None:
    quantizer = ptq.nn.TensorQuantizer()
    x = torch.randn(2, 3)
    with ptq.enable_onnx_export(), pytest.raises(AssertionError, match="not been calibrated"):
        quantizer(x)
    quantizer(x)  # the switch is off again, after an error too
    channels = ptq.nn.TensorQuantizer(ptq.tensor_quant.QuantDescriptor((4, 3), amax=[1.0, 2.0]))
    with ptq.enable_onnx_export(), pytest.raises(AssertionError, match="only for per-tensor"):
        channels(torch.randn(3, 2))
