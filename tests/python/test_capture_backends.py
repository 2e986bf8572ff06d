"""Every backend on a perceptron, a convolutional network and a transformer, against eager torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import octavo

pytestmark = pytest.mark.peers


class Transformer(torch.nn.Module):
    """Embedding, causal attention, a feed-forward net, logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(11, 16)
        self.norm1, self.norm2 = torch.nn.LayerNorm(16), torch.nn.LayerNorm(16)
        self.qkv, self.out = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16)
        self.up, self.down = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)
        self.head = torch.nn.Linear(16, 11)

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = (
            t.view(t.shape[0], t.shape[1], 2, 8).transpose(1, 2)
            for t in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        x = x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))
        return self.head(x)


def mlp():
    layers = [torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, 2)), torch.randn(3, 4)


def cnn():
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    layers += [torch.nn.MaxPool2d(2), torch.nn.Conv2d(8, 8, 3, stride=2), torch.nn.ReLU()]
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5)]
    return torch.nn.Sequential(*layers).eval(), torch.randn(2, 3, 16, 16)


def transformer():
    return Transformer(), torch.randint(0, 11, (2, 5))


MODELS = {"mlp": mlp, "cnn": cnn, "transformer": transformer}
LONG = ("inductor", "tvm")  # they compile for many seconds
NAMES = ["eager", "torchscript", "onnxruntime", "openvino", "aot_eager", "ts", "own", *LONG]


def backend_of(name: str, seen: list):
    if name != "own":
        return name

    def own(gm, inputs):
        seen.append(gm)
        return gm.forward

    return own


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in NAMES]
)
def test_backend(name, model):
    torch.manual_seed(0)
    net, x = MODELS[model]()
    seen: list = []
    captured = octavo.compile(net, backend=backend_of(name, seen), fullgraph=True)
    # float32 sums of at most 64 products of numbers around 1, in another order: 64 · 2^-24 · 4
    bounds = {"rtol": 1e-4, "atol": 2e-5}
    with torch.no_grad():
        expected = net(x)
        for _ in range(2):
            torch.testing.assert_close(captured(x), expected, **bounds)
    captured(x).square().sum().backward()
    grads = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net(x).square().sum().backward()
    for p, grad in zip(net.parameters(), grads, strict=True):
        torch.testing.assert_close(grad, p.grad, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(0.5)
        torch.testing.assert_close(captured(x), net(x), **bounds)
    assert name != "own" or seen


RUNTIMES = ["onnxruntime", "openvino"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_what_shares_memory_stays_torchs(name):
    """A runtime gives new tensors: a view of the argument would not be one."""

    def run(x):
        y = x.view(-1)
        z = x + 1
        octavo.graph_break()
        y.add_(1)
        return z * 2, y

    for target in (run, octavo.compile(run, backend=name)):
        x = torch.zeros(2, 3)
        z, y = target(x)
        assert torch.equal(x, torch.ones(2, 3))
        assert torch.equal(z, torch.full((2, 3), 2.0))
        assert y.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("name", RUNTIMES)
def test_what_writes_or_draws_stays_torchs(name):
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
    twin = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout())
    twin.load_state_dict(net.state_dict())
    captured = octavo.compile(net, backend=name)
    x = torch.randn(6, 4)
    for target in (twin, captured):
        torch.manual_seed(2)
        results = [target(x) for _ in range(3)]
        assert not torch.equal(results[0], results[1])
    assert torch.equal(net[1].running_mean, twin[1].running_mean)
    torch.manual_seed(2)
    assert torch.equal(twin(x), results[0])


@pytest.mark.parametrize("name", RUNTIMES)
def test_strides_and_types_are_torchs(name):
    run = lambda x: ((x + 1).t(), (x > 0), (x * 2).to(torch.int64).sum(), (x * 0).sum())  # noqa: E731
    x = torch.linspace(-1, 1, 12).view(3, 4)
    for y, z in zip(octavo.compile(run, backend=name)(x), run(x), strict=True):
        assert (y.dtype, y.shape, y.stride()) == (z.dtype, z.shape, z.stride())
        torch.testing.assert_close(y, z)


@pytest.mark.parametrize("name", RUNTIMES)
def test_many_sizes(name):
    net, _ = mlp()
    captured = octavo.compile(net, backend=name)
    with torch.no_grad():
        for batch in (3, 5, 4, 5, 3):
            x = torch.randn(batch, 4)
            torch.testing.assert_close(captured(x), net(x), rtol=1e-4, atol=1e-5)


def test_a_graph_that_a_runtime_lacks_says_so():
    with pytest.raises(
        octavo.BackendError, match=r"'onnxruntime' cannot take this graph: .*; keep"
    ):
        octavo.compile(lambda x: torch.special.bessel_j0(x) + 1, backend="onnxruntime")(
            torch.ones(3)
        )


@pytest.mark.parametrize(
    ("name", "package"),
    [("onnxruntime", "onnxruntime"), ("openvino", "openvino"), ("tvm", "apache-tvm")],
)
def test_missing_package_is_named(name, package):
    code = f"""
import sys
sys.modules[{name!r}] = None
import torch, octavo
try:
    octavo.compile(lambda x: x + 1, backend={name!r})(torch.ones(2))
except octavo.BackendError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wanted = f"backend {name!r} needs the package {package}; install it: pip install {package}\n"
    assert done.stdout == wanted
