"""Conv3d and transposed convolutions on integers: torch.ao's parameters and integers."""

from __future__ import annotations

import copy
import io
import warnings

import pytest

torch = pytest.importorskip("torch")
oq = pytest.importorskip("octavo.quantization")
from torch import nn  # noqa: E402

import test_quantization_static as static  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.ao.quantization as tq

pytestmark = static.pytestmark


@pytest.fixture(autouse=True)
def exact_engine():
    """torch's default, x86, and onednn compute these up to 200 steps wrong; fbgemm is right."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    yield
    torch.backends.quantized.engine = before


VOLUMES = [
    ((3, 5, 3), {"padding": 1}, (2, 3, 5, 6, 7)),
    ((4, 6, (2, 3, 1)), {"stride": (2, 1, 2), "groups": 2, "padding": (1, 0, 2)}, (2, 4, 5, 7, 4)),
    ((2, 3, 3), {"dilation": (2, 1, 2), "padding": 2, "bias": False}, (1, 2, 6, 5, 6)),
]
TRANSPOSED = [
    (1, (3, 5, 3), {"stride": 2, "padding": 1, "output_padding": 1}, (2, 3, 9)),
    (1, (4, 6, 2), {"stride": 3, "groups": 2}, (2, 4, 5)),  # a phase without taps
    (2, (3, 5, 3), {}, (2, 3, 6, 7)),
    (2, (4, 6, (4, 3)), {"stride": 2, "padding": (1, 0), "groups": 2}, (2, 4, 5, 6)),
    (2, (3, 2, 3), {"stride": (3, 2), "dilation": (2, 2), "output_padding": (2, 1)}, (1, 3, 4, 5)),
    (2, (4, 4, 2), {"stride": 2, "bias": False}, (1, 4, 1, 3)),
    (3, (2, 3, (2, 3, 2)), {"stride": (2, 1, 2), "padding": (0, 1, 0)}, (2, 2, 3, 4, 3)),
]


def compare(layers, data, function, relu, scheme, fuse):
    def config_of(q):
        return static.qconfig(q, scheme)

    ours, theirs = static.one_layer(layers, data, config_of, fuse)
    y = static.check_integers(ours, data, function, relu)
    other = theirs.module[0](theirs.quant(data))
    # Both round the same number, whose error is below a hundredth of a step.
    assert (y.int_repr().int() - other.int_repr().int()).abs().max() <= 1
    assert repr(ours.module[0]) == repr(theirs.module[0])
    half = data[:1]
    assert torch.equal(ours(half), ours(data)[:1])
    return ours, theirs


@pytest.mark.parametrize("scheme", static.SCHEMES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("sizes", "arguments", "shape"), VOLUMES)
def test_conv3d(sizes, arguments, shape, relu, scheme):
    layers = [nn.Conv3d(*sizes, **arguments)] + [nn.ReLU()] * relu
    with torch.no_grad():
        layers[0].weight += 0.05  # an affine zero point that is not 0
    c = layers[0]
    given = (c.stride, c.padding, c.dilation, c.groups)
    compare(
        layers,
        torch.randn(shape),
        lambda x, w, b: nn.functional.conv3d(x, w, b, *given),
        relu,
        scheme,
        [(0, 1)] * relu,
    )


@pytest.mark.parametrize("scheme", [torch.per_tensor_symmetric, torch.per_tensor_affine])
@pytest.mark.parametrize(("rank", "sizes", "arguments", "shape"), TRANSPOSED)
def test_conv_transpose(rank, sizes, arguments, shape, scheme):
    layer = getattr(nn, f"ConvTranspose{rank}d")(*sizes, **arguments)
    with torch.no_grad():
        layer.weight += 0.05
    given = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
    function = getattr(nn.functional, f"conv_transpose{rank}d")
    ours, theirs = compare(
        [layer],
        torch.randn(shape),
        lambda x, w, b: function(x, w, b, *given),
        False,
        scheme,
        (),
    )
    # Another's state, torch.ao's own.
    data = torch.randn(shape)
    other = static.converted(oq, [copy.deepcopy(layer)], data * 3, static.qconfig(oq, scheme))
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(data), ours(data))


def test_a_scale_for_each_output_of_a_transposed_one():
    """Finer than torch.ao's, which has no such weights; along inputs there is no form."""
    layer, data = nn.ConvTranspose2d(4, 6, 3, stride=2), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        layer.weight[:, 0] *= 20
    channels = oq.PerChannelMinMaxObserver.with_args(
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, ch_axis=1
    )
    activation = static.qconfig(oq).activation
    errors = []
    for weight in (channels, oq.default_weight_observer):
        model = static.converted(oq, [layer], data, oq.QConfig(activation, weight))
        kept = model.module[0].weight().dequantize()
        errors.append((kept - layer.weight)[:, 1:].square().mean())
    assert errors[0] < errors[1] / 30  # a step is about 20 times as fine, its square 400 times
    with pytest.raises(oq.workflow.UnsupportedError, match="Per channel weight observer"):
        static.converted(oq, [layer], data, static.qconfig(oq))


def test_training_of_conv3d():
    """Conv3d, BatchNorm3d and ReLU train as torch.ao's do, and convert to the same integers."""
    torch.manual_seed(3)
    layers = [nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1)]
    data, results = torch.randn(4, 3, 5, 5, 5), []
    for q in (oq, tq):
        model = q.QuantWrapper(nn.Sequential(*copy.deepcopy(layers))).train()
        model.qconfig = q.QConfig(
            q.FakeQuantize.with_args(observer=q.MovingAverageMinMaxObserver),
            q.default_weight_fake_quant,
        )
        fused = q.fuse_modules_qat(model, [["module.0", "module.1", "module.2"]])
        trained = q.prepare_qat(fused)
        optimizer = torch.optim.SGD(trained.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            trained(data).square().mean().backward()
            optimizer.step()
        results.append(q.convert(trained.eval()))
    ours, theirs = results
    assert type(ours.module[0]).__name__ == "ConvReLU3d"
    for a, b in ((ours.module[0], theirs.module[0]), (ours.module[3], theirs.module[3])):
        assert (a.weight().int_repr().int() - b.weight().int_repr().int()).abs().max() <= 1
        assert float(a.scale) == pytest.approx(float(b.scale), rel=1e-4)


def test_export_to_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    import octavo

    layers = [nn.ConvTranspose2d(4, 6, 3, stride=2), nn.Conv2d(6, 4, 1)]
    data = torch.randn(2, 4, 5, 5)
    model = static.converted(oq, layers, data, static.qconfig(oq, torch.per_tensor_symmetric))
    path = tmp_path / "model.onnx"
    octavo.export_onnx(model, path, args=data, target="onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: data.numpy()})
    # A tie of the first layer may go the other way: one step of it, through the second.
    assert abs(torch.from_numpy(y) - model(data)).max() <= 2 * model.module[1].scale
