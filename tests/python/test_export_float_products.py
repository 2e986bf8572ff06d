"""Products that stay float, as float16 or bfloat16 in the file: ONNX Runtime's values, bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

from onnx.reference import ReferenceEvaluator  # noqa: E402

import octavo  # noqa: E402
from test_export_modules import (  # noqa: E402
    Block,
    calibrated,
    parameters_of,
    quantizers,
    run_onnx,
)

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("torch_seed")]

ROOT = Path(__file__).resolve().parents[2]
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Half an ulp relative to the value, and of the least numbers: significand 11 and 8 bits.
ROUNDING = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 2.0**-134)}
HALF = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}


def halves(path: Path, half: str) -> dict[str, onnx.NodeProto]:
    """The products in half, by name: constants are stored in it, and casts are all around."""
    model = onnx.load(str(path))
    onnx.checker.check_model(str(path), full_check=True)
    types = {i.name: i.data_type for i in model.graph.initializer}
    made = {output: node for node in model.graph.node for output in node.output}
    found = {}
    for node in model.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        inputs = [types[i] if i in types else made.get(i) for i in node.input]
        before = [i for i in inputs if getattr(i, "op_type", "") in ("Cast", *PRODUCTS)]
        casts = [n for n in before if n.op_type == "Cast"]
        if HALF[half] in inputs or any(c.attribute[0].i == HALF[half] for c in casts):
            assert all(i == HALF[half] or i in before for i in inputs), node.name
            readers = [n for n in model.graph.node if node.output[0] in n.input]
            assert all(n.op_type in ("Cast", *PRODUCTS) for n in readers), node.name
            found[node.name] = node
    return found


def off_by(half: str, product: Any, *operands: Any) -> Any:
    """How far a product may be off if its operands and its result are rounded to half.

    The sum over |a| |w| takes the relative roundings of both operands and of the result, and what
    float32 sums of 40 products add; least numbers count on their own.
    """
    relative, least = ROUNDING[half]
    sizes = [o.abs() for o in operands]
    small = sum(
        product(*[s if i == j else torch.ones_like(s) for j, s in enumerate(sizes)])
        for i in range(len(sizes))
    )
    return product(*sizes) * ((1 + relative) ** 3 - 1 + 40 * 2.0**-24) + least * (small + 1)


def compute(node: onnx.NodeProto) -> Any:
    """The node in torch."""
    a = {i.name: onnx.helper.get_attribute_value(i) for i in node.attribute}
    if node.op_type == "Conv":
        return lambda x, w, b=None: torch.nn.functional.conv2d(
            x, w, b, a["strides"], a["pads"][:2], a["dilations"], a["group"]
        )
    if node.op_type == "Gemm":
        assert a.get("transB") == 1
        return torch.nn.functional.linear
    return torch.matmul


def check_in_onnxruntime(half_path: Path, path: Path, x: Any) -> list[str]:
    """Each product in float16, against the float32 file's operands and a product in float64."""
    model, whole = onnx.load(str(half_path)), onnx.load(str(path))
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in whole.graph.initializer}
    originals = {n.name: n for n in whole.graph.node}
    made = {output: node for node in model.graph.node for output in node.output}
    names = {i.name for i in model.graph.initializer}
    products = halves(half_path, "float16")
    wanted = {}
    for name, node in products.items():
        operands = [
            made[i].input[0] if i in made and made[i].op_type == "Cast" else i for i in node.input
        ]
        wanted[name] = (operands, node.output[0])
    shown = {o for operands, y in wanted.values() for o in (*operands, y)} - names
    inputs, outputs = ({v.name for v in side} for side in (model.graph.input, model.graph.output))
    for value in sorted(shown - inputs - outputs):
        model.graph.output.append(onnx.ValueInfoProto(name=value))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    run = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    values = dict(zip([o.name for o in session.get_outputs()], run, strict=True))
    values[session.get_inputs()[0].name] = x.numpy()
    for name, (operands, y) in wanted.items():
        node = originals[name]
        arrays = [
            weights[node.input[i]] if o in names else values[o] for i, o in enumerate(operands)
        ]
        tensors = [torch.from_numpy(np.asarray(a, np.float64)) for a in arrays]
        want, bound = compute(node)(*tensors), off_by("float16", compute(node), *tensors)
        off = np.abs(values[y] - want.numpy())
        assert (off <= bound.numpy()).all(), name
        # Weights are float16; ONNX Runtime leaves out casts, and so does not round activations.
        if names & set(operands):
            assert off.max() > 2.0**-14 * np.abs(want.numpy()).mean(), name
    return sorted(products)


def test_disabled_layers_of_a_quantized_network(tmp_path: Path) -> None:
    model, x = calibrated("residual")
    ranking = octavo.sensitivity(
        model, [x], mode="sqnr", forward=lambda m, batch: m(batch), progress=False
    )
    ranking.disable_worst(1)
    for layer in (model.first, model.head):
        layer.input_quantizer.disable()
        layer.weight_quantizer.disable()
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    octavo.export_onnx(model, whole, args=x)
    octavo.export_onnx(model, half, args=x, float_products="float16")
    by_name = {n.name: n.op_type for n in onnx.load(str(whole)).graph.node}
    found = check_in_onnxruntime(half, whole, x)
    assert {by_name[n] for n in found} == {"Conv", "Gemm"}
    # What is on integers stays: parameters, weights, number of products.
    assert parameters_of(half) == parameters_of(whole)
    integers = [
        {
            onnx.numpy_helper.to_array(i).tobytes()
            for i in onnx.load(str(path)).graph.initializer
            if i.data_type == onnx.TensorProto.INT8 and len(i.dims) > 1
        }
        for path in (half, whole)
    ]
    assert integers[0] == integers[1] and integers[0]
    products = sum(op in PRODUCTS for op in by_name.values())
    assert len(found) == products - len(integers[0])
    weights = sum(m.weight.numel() + m.bias.numel() for m in (model.first, model.head))
    assert weights > 0
    saved = whole.stat().st_size - half.stat().st_size
    assert saved > 2 * weights - 6 * 150  # a Cast and its names take less than 150 bytes


def test_the_outputs_of_a_last_layer(tmp_path: Path) -> None:
    """What comes in is the same, bit for bit: the bound is that of one product."""
    model, x = calibrated("residual")
    for quantizer in (model.head.input_quantizer, model.head.weight_quantizer, model.last):
        quantizer.disable()
    given: list[Any] = []
    hook = model.head.register_forward_pre_hook(lambda _m, a: given.append(a[0].detach().double()))
    with torch.no_grad():
        model(x)
    hook.remove()
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    octavo.export_onnx(model, whole, args=x)
    octavo.export_onnx(model, half, args=x, float_products="float16")
    operands = (given[0], model.head.weight.detach().double(), model.head.bias.detach().double())
    bound = off_by("float16", torch.nn.functional.linear, *operands).numpy()
    for optimize in (False, True):
        off = np.abs(run_onnx(half, x, optimize) - run_onnx(whole, x, optimize))
        assert (off <= bound).all()
        assert off.max() > 0


def test_a_float_module_halves(tmp_path: Path) -> None:
    """Errors of the first layer go through ReLU as they are, and through the second's weights."""
    model = torch.nn.Sequential(
        torch.nn.Linear(40, 200), torch.nn.ReLU(), torch.nn.Linear(200, 40), torch.nn.Linear(40, 30)
    ).eval()
    x = torch.randn(7, 40)
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    octavo.export_onnx(model, whole, args=x)
    octavo.export_onnx(model, half, args=x, float_products=torch.float16)
    assert len(check_in_onnxruntime(half, whole, x)) == 3
    assert half.stat().st_size < 0.56 * whole.stat().st_size
    casts = [n for n in onnx.load(str(half)).graph.node if n.op_type == "Cast"]
    assert len(casts) == 4  # in, out, in, out: none between the last two
    off: Any = torch.zeros(1, dtype=torch.float64)
    values = x.double()
    linear = torch.nn.functional.linear
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            operands = (layer.weight.double(), layer.bias.double())
            moved = linear(off.expand_as(values), operands[0].abs())
            bound = off_by("float16", linear, values.abs() + off, *operands)
            # 200 products where off_by counts 40; and float32's own sums on the other side.
            terms = linear(values.abs() + off, operands[0].abs(), operands[1].abs())
            off = moved + bound + terms * 360 * 2.0**-24
            values = linear(values, *operands)
        else:
            values = torch.relu(values)
    for optimize in (False, True):
        difference = np.abs(run_onnx(half, x, optimize) - run_onnx(whole, x))
        assert (difference <= off.detach().numpy()).all()
    # Our own programs read it.
    (ours,) = octavo.compile(half)(x.numpy())
    assert (np.abs(ours - run_onnx(whole, x)) <= off.detach().numpy()).all()


def test_products_of_activations(tmp_path: Path) -> None:
    model, x = Block().eval(), torch.randn(2, 6, 32)
    for quantizer in quantizers(model):
        quantizer.disable()
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    octavo.export_onnx(model, whole, args=x)
    octavo.export_onnx(octavo.load_onnx(whole), half, float_products="float16")
    assert len(check_in_onnxruntime(half, whole, x)) == 8
    # Products on integers are none of these, transposed operands included.
    model, x = calibrated("block")
    octavo.export_onnx(model, half, args=x, float_products="float16")
    assert halves(half, "float16") == {}


def test_bfloat16(tmp_path: Path) -> None:
    """ONNX's reference runs it; ONNX Runtime has no such products on CPU."""
    model, x = torch.nn.Linear(36, 20), torch.randn(5, 36)
    path = tmp_path / "model.onnx"
    octavo.export_onnx(model, path, args=x, float_products="bfloat16")
    assert len(halves(path, "bfloat16")) == 1
    operands = [t.detach().double() for t in (x, model.weight, model.bias)]
    want = torch.nn.functional.linear(*operands).numpy()
    bound = off_by("bfloat16", torch.nn.functional.linear, *operands).numpy()
    (ours,) = octavo.compile(path)(x.numpy())
    assert (np.abs(ours - want) <= bound).all()
    assert np.abs(ours - want).max() > 2.0**-11 * np.abs(want).mean()  # it is not float32
    (reference,) = ReferenceEvaluator(str(path)).run(None, {"input": x.numpy()})
    # NumPy adds in bfloat16: a rounding for each of 36 sums.
    assert (np.abs(reference - want) <= 36 * bound).all()


@pytest.mark.parametrize("kind", [torch.nn.Conv2d, torch.nn.ConvTranspose2d])
def test_bfloat16_convolutions(tmp_path: Path, kind: Any) -> None:
    """Opset 22 has them."""
    model, x = kind(8, 6, 3, stride=2, padding=1), torch.randn(2, 8, 9, 9)
    path = tmp_path / "model.onnx"
    octavo.export_onnx(model, path, args=x, float_products="bfloat16")
    assert [o.version for o in onnx.load(str(path)).opset_import] == [22]
    assert len(halves(path, "bfloat16")) == 1
    functional: Any = torch.nn.functional
    function = functional.conv2d if kind is torch.nn.Conv2d else functional.conv_transpose2d

    def product(x: Any, w: Any, b: Any = None) -> Any:
        return function(x, w, b, stride=2, padding=1)

    operands = [t.detach().double() for t in (x, model.weight, model.bias)]
    want = product(*operands).numpy()
    bound = off_by("bfloat16", product, *operands).numpy()
    (ours,) = octavo.compile(path)(x.numpy())
    assert (np.abs(ours - want) <= bound).all()
    assert np.abs(ours - want).max() > 2.0**-11 * np.abs(want).mean()  # it is not float32
    (reference,) = ReferenceEvaluator(str(path)).run(None, {"input": x.numpy()})
    # NumPy adds in bfloat16: a rounding for each of 72 sums.
    assert (np.abs(reference - want) <= 72 * bound).all()


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_programs_compute_it_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any, half: str
) -> None:
    """EfficientNet-Lite0: no product on a reference kernel, and the interpreter's roundings.

    Float32's sums decide some roundings, where they lie near the middle of two halves: few, and so
    less than a tenth of the noise that the roundings themselves make.
    """
    monkeypatch.syspath_prepend(ROOT / "tools")
    import make_models

    source, path = (
        make_models.make("efficientnet-lite0", ROOT / "build/models"),
        tmp_path / "h.onnx",
    )
    octavo.export_onnx(octavo.load_onnx(source), path, float_products=half)
    found = halves(path, half)
    assert len(found) == 50
    done = cli("run", path, "--profile", "--json", "--threads", 1)
    kernels = {row["kernel"]: row["steps"] for row in json.loads(done.stdout)["kernels"]}
    assert "reference" not in kernels
    products = sum(n for name, n in kernels.items() if "gemm" in name or "depthwise" in name)
    assert products == len(found)
    x = np.random.default_rng(1).uniform(-1, 1, (1, 3, 224, 224)).astype(np.float32)
    (real,), (ours,) = octavo.compile(source)(x), octavo.compile(path)(x)
    (want,) = octavo._core.interpret(octavo.load_onnx(path), [x])
    rounding, apart = (np.square(want - y, dtype=np.float64).sum() for y in (real, ours))
    assert apart < rounding / 10


def test_what_is_refused(tmp_path: Path) -> None:
    path, x = tmp_path / "model.onnx", torch.randn(1, 3, 8, 8)
    conv = torch.nn.Conv2d(3, 4, 3)
    with pytest.raises(octavo.UnsupportedError, match=r"conv 'node_conv2d': .* before opset 22"):
        octavo.export_onnx(conv, path, args=x, float_products="bfloat16", opset=21)
    with pytest.raises(octavo.UserError, match=r"'float8' is not known; .* float16"):
        octavo.export_onnx(conv, path, args=x, float_products="float8")
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = 1e5
    with pytest.raises(octavo.UserError, match=r"conv 'node_conv2d': .* 100000, .* use bfloat16"):
        octavo.export_onnx(conv, path, args=x, float_products="float16")
    assert not path.exists()
