"""octavo.nn.insert_shared: quantizers of residual additions, concatenations, pooling, resizing."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("octavo._torch")

import octavo  # noqa: E402
import octavo.nn  # noqa: E402
from octavo.compat.pytorch_quantization import enable_onnx_export  # noqa: E402
from octavo.compat.pytorch_quantization import nn as quant_nn  # noqa: E402
from octavo.nn.shared import SharedQuantizer  # noqa: E402

TARGETS = ["octavo", "onnxruntime", "openvino", "tensorrt"]

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("torch_seed")]


class Block(torch.nn.Module):
    """ResNet's basic block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = torch.nn.BatchNorm2d(outputs)
        self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = torch.nn.BatchNorm2d(outputs)
        self.down = None
        if inputs != outputs:
            self.down = torch.nn.Sequential(
                torch.nn.Conv2d(inputs, outputs, 1, stride), torch.nn.BatchNorm2d(outputs)
            )
        self.relu = torch.nn.ReLU()

    def forward(self, x: Any) -> Any:
        _ = x.shape[2] + 1  # no addition of tensors
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        if self.down is not None:
            x = self.down(x)
        y += x
        return self.relu(y)


class Residual(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(16, 32, 3, padding=1)
        self.pool = torch.nn.MaxPool2d(2)
        self.block1 = Block(32, 32, 1)
        self.block2 = Block(32, 64, 2)
        self.head = torch.nn.Conv2d(64, 16, 1)

    def forward(self, x: Any) -> Any:
        x = self.pool(torch.relu(self.stem(x)))
        return self.head(self.block2(self.block1(x)))


class Concat(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Conv2d(16, 32, 3, padding=1)
        self.b = torch.nn.Conv2d(32, 32, 3, padding=1)
        self.c = torch.nn.Conv2d(96, 32, 1)
        self.pool = torch.nn.MaxPool2d(2)
        self.up = torch.nn.Upsample(scale_factor=2)
        self.d = torch.nn.Conv2d(64, 16, 1)

    def forward(self, x: Any) -> Any:
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(a))
        p = torch.nn.functional.max_pool2d(b, 3, 1, 1)
        c = torch.relu(self.c(torch.cat([a, b, p], 1)))
        return self.d(torch.cat((self.up(self.pool(c)), c), 1))


def trained(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1)
    return model.eval()


def quantized(model: Any, x: Any, target: str) -> Any:
    octavo.nn.replace(model, args=(x,))
    inserted = octavo.nn.insert_shared(model, (x,), target=target)
    octavo.calibrate(model, [x], method="max", progress=False)
    return inserted


def switch(model: Any, on: bool) -> None:
    for module in model.modules():
        if isinstance(module, quant_nn.TensorQuantizer):
            module._disabled = not on


def lint(model: Any, x: Any, path: Any, target: str) -> tuple[Any, Any]:
    if target == "onnxruntime":  # it wants u8 throughout
        octavo.export_onnx(model, path, args=x, target=target)
    else:
        with enable_onnx_export(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(model, (x,), str(path), dynamo=False)
    graph = octavo.load_onnx(path)
    return graph, octavo.lint(graph, target)


def sqnr(truth: Any, got: Any) -> float:
    return float(10 * torch.log10(truth.square().sum() / (truth - got).square().sum()))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("network", [Residual, Concat])
def test_nothing_is_left_in_float(tmp_path: Any, network: Any, target: str) -> None:
    model, x = trained(network()), torch.randn(2, 16, 16, 16)
    with torch.no_grad():
        truth = model(x)
    path = tmp_path / "model.onnx"
    bare = copy.deepcopy(model)
    octavo.nn.replace(bare, args=(x,))
    octavo.calibrate(bare, [x], method="max", progress=False)
    _, before = lint(bare, x, path, target)
    assert before.findings, "the network needs no quantizer"
    quantized(model, x, target)
    graph, report = lint(model, x, path, target)
    # Octavo has no kernel of that on integers, whatever the file says.
    findings = [f for f in report.findings if not (target == "octavo" and f.op == "resize")]
    assert findings == []
    with torch.no_grad():
        fake = model(x)
        switch(model, False)
        plain = model(x)
    # Folding: float32 sums of at most 576 products, in another order.
    assert torch.allclose(plain, truth, rtol=1e-3, atol=1e-3 * float(truth.abs().max()))
    assert sqnr(truth, fake) > 20
    # The compiled integers round the other way only where two values are equally near.
    assert sqnr(fake, torch.from_numpy(octavo.compile(graph)(x.numpy())[0])) > 30


class Functions(torch.nn.Module):
    """Calls that Octavo runs by tables, products and averages."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.a, self.b = torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.Conv2d(32, 32, 1)
        self.c, self.d = torch.nn.Conv2d(32, 32, 1), torch.nn.Linear(32, 16)

    def forward(self, x: Any) -> Any:
        x = self.function(self.a(x))
        x = self.b(x) * x
        return self.d(self.function(self.c(x)).mean((2, 3)))


@pytest.mark.parametrize(
    "name",
    ["elu", "gelu", "hardsigmoid", "hardswish", "leaky_relu", "sigmoid", "silu", "tanh"],
)
@pytest.mark.parametrize("as_module", [False, True])
def test_functions_products_and_averages_of_octavo(
    name: str, as_module: bool, tmp_path: Any
) -> None:
    kinds = {"elu": "ELU", "gelu": "GELU", "leaky_relu": "LeakyReLU", "silu": "SiLU"}
    function: Any = getattr(torch.nn.functional, name)
    if as_module:
        function = getattr(torch.nn, kinds.get(name, name.capitalize()))()
    model, x = trained(Functions(function)), torch.randn(2, 16, 16, 16)
    with torch.no_grad():
        truth = model(x)
    quantized(model, x, "octavo")
    path = tmp_path / "model.onnx"
    octavo.export_onnx(model, path, args=x, target="octavo")
    graph = octavo.load_onnx(path)
    assert octavo.lint(graph, "octavo").findings == []
    with torch.no_grad():
        fake = model(x)
    assert sqnr(truth, fake) > 20
    assert sqnr(fake, torch.from_numpy(octavo.compile(graph)(x.numpy())[0])) > 30


def test_what_torch_fx_does_not_show_stays_in_float() -> None:
    """A forward that it cannot follow, but torch.export can."""

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(16, 16, 1), torch.nn.Conv2d(16, 16, 1)

        def forward(self, x: Any) -> Any:
            x = self.a(x)
            branch = torch.sigmoid(x) if len(list(x)) > 1 else x
            return self.b(x * branch)

    model, x = trained(Hidden()), torch.randn(2, 16, 8, 8)
    octavo.nn.replace(model, args=(x,))
    inserted = octavo.nn.insert_shared(model, (x,), target="octavo")
    assert inserted.names == [] and "forward" not in model.__dict__


class InPlace(torch.nn.Module):
    """Changes a tensor and does not use the result."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.a, self.b = torch.nn.Conv2d(16, 16, 1), torch.nn.Conv2d(16, 16, 1)

    def forward(self, x: Any) -> Any:
        x = self.a(x)
        self.function(x)
        return self.b(x)


def test_calls_in_place_whose_results_are_not_used() -> None:
    x = torch.randn(2, 16, 8, 8)
    silu = torch.nn.functional.silu
    model = trained(InPlace(lambda x: silu(x, inplace=True)))
    with torch.no_grad():
        truth = model(x)
    quantized(model, x, "octavo")
    with torch.no_grad():
        assert sqnr(truth, model(x)) > 25  # it stays in float
    model = trained(InPlace(torch.nn.SiLU(inplace=True)))
    octavo.nn.replace(model, args=(x,))
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(octavo.UserError, match=r"gives other values.*Use the result"):
        octavo.nn.insert_shared(model, (x,), target="octavo")
    assert [name for name, _ in model.named_modules()] == names


def test_quantizers_of_a_residual() -> None:
    model, x = trained(Residual()), torch.randn(2, 16, 16, 16)
    result = quantized(model, x, "tensorrt")
    assert sorted(result.names) == [
        "block1._shared_quantizer_0",  # the input is added to conv2's output
        "block2._shared_quantizer_0",  # conv2's output is added to that of down, which runs last
        "pool._input_quantizer",
    ]
    # MaxPool's scale is that of all that reads its output.
    assert model.block1._shared_quantizer_0 is model.pool._input_quantizer
    assert model.block1.conv1.input_quantizer is model.pool._input_quantizer
    assert model.block2.conv1.input_quantizer is model.block2.down[0].input_quantizer
    assert model.block2.conv2.input_quantizer is not model.block2.conv1.input_quantizer
    assert float(model.pool._input_quantizer.amax) == float(
        torch.relu(torch.nn.functional.conv2d(x, model.stem.weight, model.stem.bias, padding=1))
        .abs()
        .max()
    ) or torch.isclose(
        model.pool._input_quantizer.amax,
        torch.relu(torch.nn.functional.conv2d(x, model.stem.weight, model.stem.bias, padding=1))
        .abs()
        .max(),
        rtol=1e-5,  # another order of sums of 144 products in float32
    )


def test_scales_of_a_concat() -> None:
    model, x = trained(Concat()), torch.randn(2, 16, 16, 16)
    quantized(model, x, "tensorrt")
    assert model.b.input_quantizer is model.c.input_quantizer  # a goes to both
    assert model.pool._input_quantizer is model.up._input_quantizer is model.d.input_quantizer
    assert model.c.input_quantizer is not model.d.input_quantizer
    own = trained(Concat())
    quantized(own, x, "openvino")
    assert own.c.input_quantizer is not own.b.input_quantizer
    assert own.pool._input_quantizer is not own.d.input_quantizer
    assert own.b.input_quantizer is own._shared_quantizer_1  # 0: of the functional max_pool2d


def test_undo_copy_and_training() -> None:
    model, x = trained(Residual()), torch.randn(2, 16, 16, 16)
    octavo.nn.replace(model, args=(x,))
    names = [n for n, _ in model.named_modules()]
    own = model.block1.conv1.input_quantizer
    with torch.no_grad():
        dynamic = model(x)
    seen: list[Any] = []
    hook = model.block1.register_forward_hook(lambda *_a: seen.append(1))
    inserted = octavo.nn.insert_shared(model, (x,))
    seen.clear()
    octavo.calibrate(model, [x], progress=False)
    assert seen == [1] and type(model.block1) is Block
    hook.remove()
    other = copy.deepcopy(model)
    assert other.block1._shared_quantizer_0 is other.pool._input_quantizer
    assert other.block1._shared_quantizer_0 is not model.block1._shared_quantizer_0
    other.block1._shared_quantizer_0.amax *= 0.01
    with torch.no_grad():
        assert not torch.equal(other(x), model(x))
    model.train()
    model(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    fresh = trained(Residual())
    octavo.nn.replace(fresh, args=(x,))
    octavo.nn.insert_shared(fresh, (x,))
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(x), model(x))
    inserted.undo()
    assert [n for n, _ in model.named_modules()] == names
    assert model.block1.conv1.input_quantizer is own
    assert "forward" not in model.block1.__dict__ and "forward" not in model.pool.__dict__
    for module in model.modules():
        if isinstance(module, quant_nn.TensorQuantizer):
            module._buffers.pop("_amax", None)
    with torch.no_grad():
        assert torch.equal(model(x), dynamic)


def test_a_shared_quantizer_quantizes_a_tensor_once() -> None:
    shared, x = SharedQuantizer(), torch.randn(50)
    shared.amax = torch.tensor(1.0)
    with torch.no_grad():
        first = shared(x)
        assert shared(x) is first and shared(first) is first
        assert shared(x.clone()) is not first
        shared.amax = torch.tensor(2.0)
        assert not torch.equal(shared(x), first)
        held = shared(x)
        held.mul_(0.51)
        assert shared(held) is not held  # it is not what was given any more
        held = shared(x)
        x.mul_(0.5)
        plain = quant_nn.TensorQuantizer()
        plain.amax = torch.tensor(2.0)
        assert torch.equal(shared(x), plain(x)) and not torch.equal(shared(x), held)
        shared.disable()
        assert shared(x) is x
        shared.enable()
    leaf = torch.randn(5, requires_grad=True)
    y = leaf * 2
    a, b = shared(y), shared(y)
    assert a is b
    (a + b).sum().backward()
    # straight through where |y| is in range
    assert torch.equal(leaf.grad, 4.0 * (y.detach().abs() <= 2))
    copy.deepcopy(shared)


def test_what_it_does_not_do() -> None:
    x = torch.randn(2, 4)

    class Branch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return x + self.linear(x) if len(list(x)) > 1 else x

    model = Branch()
    octavo.nn.replace(model)
    own = model.linear.input_quantizer
    with pytest.raises(octavo.UserError, match=r"^the model: torch\.fx cannot follow"):
        octavo.nn.insert_shared(model, (x,))
    assert model.linear.input_quantizer is own and not hasattr(model, "_shared_quantizer_0")
    with pytest.raises(octavo.UserError, match="'gpu' is not known"):
        octavo.nn.insert_shared(model, (x,), target="gpu")

    class Data(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(octavo.UserError, match=r"torch\.export"):
        octavo.nn.insert_shared(Data(), (x,))

    class Floats(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.cat([x, x + x], 1)

    assert octavo.nn.insert_shared(Floats(), (x,)).names == []
