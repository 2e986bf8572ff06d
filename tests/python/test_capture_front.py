# Captured functions are written in every way that users write them.
"""The names that users meet: octavo.compile and its kin, torch's own spellings, the entry point."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import octavo
import octavo.dynamo as torchdynamo
from capture_cases import assert_capture, breaks_of, graphs_of, tensors
from octavo import capture

pytestmark = pytest.mark.peers
X, Y = tensors((3, 4), (3, 4))


def python(code: str, **more) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **more
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def work(x, y=None):
    z = torch.relu(x) * 2
    return z if y is None else z + y


# --- octavo.compile --------------------------------------------------------------------------
def test_names_are_lazy():
    names = "BackendError GraphBreakError allow_in_graph assume_constant_result disable explain"
    names += " export graph_break is_compiling list_backends mark_dynamic mark_static optimize"
    names += " register_backend reset"
    code = f"""
import sys, octavo, octavo.api
assert "torch" not in sys.modules
names = {names.split()!r}
assert set(names) <= set(dir(octavo))
space = {{}}
exec("from octavo import *", space)
assert "torch" not in sys.modules and "compile" in space
import octavo.capture
assert "torch" in sys.modules
for name in names:
    assert getattr(octavo, name) is getattr(octavo.capture, name), name
try:
    octavo.no_such_name
except AttributeError as error:
    print(error)
"""
    assert python(code) == "module 'octavo' has no attribute 'no_such_name'\n"


def test_export_stays_the_function():
    importing = "import octavo, octavo._export, octavo.quantization; print(octavo.export.__name__)"
    assert python(importing) == "export\n"


def test_compile_of_graph_and_of_file(graph, model):
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    one, two = octavo.compile(graph)(x), octavo.compile(model, threads=1, optimize=False)(x)
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["function", "decorator", "bare keywords", "module", "method"])
def test_compile_of_code(how):
    seen = []

    def backend(gm, inputs):
        seen.append(gm)
        return gm.forward

    class Net(torch.nn.Module):
        def forward(self, x, y=None):
            return work(x, y)

    if how == "function":
        fn = octavo.compile(work, backend=backend)
    elif how == "decorator":

        @octavo.compile(backend=backend, fullgraph=True, dynamic=None, mode=None, options=None)
        def fn(x, y=None):
            return work(x, y)

        assert fn.__name__ == "fn"
    elif how == "bare keywords":
        fn = octavo.compile(backend=backend)(work)
    elif how == "module":
        fn = octavo.compile(Net(), backend=backend)
    else:
        fn = octavo.compile(Net().forward, backend=backend)
    for _ in range(2):
        assert torch.equal(fn(X, y=Y), work(X, Y))
    assert len(seen) == 1
    assert sum(n.op.startswith("call") for n in seen[0].graph.nodes) == 3


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda graph: octavo.compile(graph, backend="eager"), "backend is for Python code"),
        (lambda graph: octavo.compile(graph, fullgraph=True), "fullgraph is for Python code"),
        (lambda graph: octavo.compile(work, threads=2), "threads is for graphs"),
        (lambda graph: octavo.compile(work, optimize=False), "optimize is for graphs"),
        (lambda graph: octavo.compile(3), "a function or a torch module, not int"),
        (lambda graph: octavo.compile(work, backend="eager", options={"a": 1}), r"\['a'\]"),
        (lambda graph: octavo.compile(work, backend="eager", mode="max-autotune"), "no mode"),
        (lambda graph: octavo.compile(work, backend="inductor", mode="fast"), "inductor refuses"),
        (
            lambda graph: octavo.compile(work, backend="inductor", options={"no_such": 1}),
            "inductor refuses",
        ),
        (lambda graph: octavo.optimize("eager")(3), "decorates one function"),
        (lambda graph: octavo.disable(3), "not int"),
        (lambda graph: octavo.allow_in_graph(torch.add), "a Python function is allowed"),
        (lambda graph: octavo.assume_constant_result(3), "a Python function has"),
        (lambda graph: octavo.register_backend("name")(3), "a backend is a function"),
    ],
)
def test_wrong_arguments(graph, call, says):
    with pytest.raises(TypeError, match=says):
        call(graph)


def test_unknown_backend_names_those_that_there_are():
    with pytest.raises(octavo.BackendError, match=r"no backend is named 'none'; there are .*eager"):
        octavo.compile(work, backend="none")
    assert issubclass(octavo.BackendError, octavo.UserError)


def test_mode_and_options_reach_the_backend():
    seen = []

    @octavo.register_backend
    def seeing(gm, inputs, *, mode=None, options=None):
        seen.append((mode, options))
        return gm.forward

    assert "seeing" in octavo.list_backends()
    options = {"level": 3, "inline_modules": True}
    fn = octavo.compile(work, backend="seeing", mode="fast", options=options)
    assert torch.equal(fn(X), work(X))
    assert torch.equal(octavo.compile(work, backend="seeing", mode="default")(X), work(X))
    assert seen == [("fast", {"level": 3}), (None, None)]


def test_optimize_in_torchdynamos_style():
    seen = []

    def my_compiler(gm, example_inputs):
        seen.append(len(example_inputs))
        return gm.forward

    @torchdynamo.optimize(my_compiler)
    def decorated(x):
        return work(x)

    assert torch.equal(decorated(X), work(X))
    assert seen == [1]
    assert torch.equal(torchdynamo.optimize("eager")(work)(X), work(X))


def test_optimize_of_the_function_itself():
    def no_argument():
        return work(X)

    def a_module(net):
        return net(X)

    def a_module_and_more(net, scale, y=2):
        return net(X) * scale * y

    net = torch.nn.Tanh()
    assert torch.equal(torchdynamo.optimize(no_argument)(), no_argument())
    assert torch.equal(torchdynamo.optimize(a_module)(net), a_module(net))
    wanted = a_module_and_more(net, 3)
    assert torch.equal(torchdynamo.optimize(a_module_and_more)(net, 3), wanted)


def test_export_gives_one_graph():
    gm = octavo.export(work, X, Y)
    assert torch.equal(gm(X, Y)[0], work(X, Y))
    with pytest.raises(octavo.GraphBreakError):
        octavo.export(lambda x: print(x) or x + 1, X)
    with pytest.raises(ValueError, match="0 graphs"):
        octavo.export(lambda x: x, X)


def test_disabled_module_and_bare_decorator():
    net = octavo.disable(torch.nn.Linear(4, 4))
    assert isinstance(net, torch.nn.Linear)

    @octavo.disable()
    def alone(x):
        return x * 3

    def run(x):
        return alone(net(x + 1) * 2) - 1

    stats = assert_capture(run, (X,))
    assert set(breaks_of(stats)) == {"disabled_call"}
    assert graphs_of(stats) == 3


# --- torch's own spellings -----------------------------------------------------------------------
def inner(x):
    return torch.sin(x) * 2


@pytest.mark.parametrize("space", [torch._dynamo, torch.compiler], ids=["dynamo", "compiler"])
def test_torchs_disable(space):
    deeper_calls = []

    def deeper(x):
        deeper_calls.append(1)
        return inner(x) + 1

    disabled = space.disable(deeper)
    stats = assert_capture(lambda x: disabled(x + 1) * 2, (X,))
    # What the disabled function calls is not captured either.
    assert breaks_of(stats) == ["disabled_call"]
    assert graphs_of(stats) == 2
    assert sum(piece["ops"] for piece in stats) == 2


def test_torchs_disable_called_within():
    stats = assert_capture(lambda x: torch.compiler.disable(inner)(x + 1) * 2, (X,), steady=False)
    assert set(breaks_of(stats)) == {"disabled_call"}
    assert sum(piece["ops"] for piece in stats[:3]) == 2


@pytest.mark.parametrize("name", ["graph_break", "skip_frame", "step_unsupported"])
def test_torchs_breaks(name):
    asks = getattr(torch._dynamo.decorators, name)

    def run(x):
        y = x + 1
        asks()
        return y * 2

    assert_capture(run, (X,), graphs=2, ops=2, breaks=["requested"])


@pytest.mark.parametrize("space", [torch._dynamo, torch.compiler], ids=["dynamo", "compiler"])
def test_torchs_allow_in_graph(space):
    def opaque(x):
        return inner(x) + 1

    space.allow_in_graph(opaque)
    assert_capture(lambda x: opaque(x) * 2, (X,), graphs=1, ops=2, breaks=[])


def test_torchs_disallow_in_graph():
    torch._dynamo.disallow_in_graph(torch.sub)
    try:
        run = lambda x: torch.add(torch.sub(torch.add(x, 1), 2), 3)  # noqa: E731
        assert_capture(run, (X,), graphs=2, ops=2, breaks=["disabled_call"])
    finally:
        torch._dynamo.allow_in_graph(torch.sub)


@pytest.mark.parametrize("space", [torch._dynamo, torch.compiler], ids=["dynamo", "compiler"])
def test_torchs_assume_constant_result(space):
    calls = []

    @space.assume_constant_result
    def three():
        calls.append(1)
        return 3

    captured = capture.compile(lambda x: x * three(), backend="eager", fullgraph=True)
    for _ in range(3):
        assert torch.equal(captured(X), X * 3)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "ask",
    [
        torch.compiler.is_compiling,
        torch.compiler.is_dynamo_compiling,
        torch._dynamo.is_compiling,
        torch._utils.is_compiling,
        octavo.is_compiling,
        torchdynamo.is_compiling,
    ],
    ids=lambda ask: f"{ask.__module__}.{ask.__name__}",
)
def test_is_compiling(ask):
    def run(x):
        return x + (1 if ask() else 2)

    assert not ask()
    assert torch.equal(capture.compile(run, backend="eager", fullgraph=True)(X), X + 1)
    assert torch.equal(run(X), X + 2)


def test_is_not_exporting():
    run = lambda x: x + (1 if torch.compiler.is_exporting() else 2)  # noqa: E731
    assert_capture(run, (X,), graphs=1, ops=1, breaks=[])


def test_torchs_compile_within_is_torchs():
    fn = torch.compile(inner, backend="eager")
    stats: list = []
    run = capture.compile(lambda x: fn(x) + 1, backend="eager", stats=stats)
    for _ in range(2):
        assert torch.equal(run(X), inner(X) + 1)
    assert len(stats) == 2  # before and after the call: nothing of what stock Dynamo runs


# --- torch.compile finds octavo ---------------------------------------------------------------
INSTALLED = """
import pathlib, sys, tempfile, tomllib
folder = pathlib.Path(tempfile.mkdtemp())
info = folder / "octavo-0.1.0.dist-info"
info.mkdir()
(info / "METADATA").write_text("Metadata-Version: 2.1\\nName: octavo\\nVersion: 0.1.0\\n")
project = tomllib.loads(pathlib.Path(sys.argv[1]).read_text())["project"]
lines = []
for group, points in project["entry-points"].items():
    lines.append(f"[{group}]")
    lines += [f"{name} = {value}" for name, value in points.items()]
(info / "entry_points.txt").write_text("\\n".join(lines) + "\\n")
sys.path.insert(0, str(folder))
import torch
assert "octavo" not in sys.modules
assert "octavo" in torch._dynamo.list_backends()
def f(x): return torch.relu(x) + 1
x = torch.linspace(-1, 1, 5)
import octavo.capture.backends as backends
seen = []
if "octavo" not in backends._registered:  # what this version says without the compiler
    try:
        torch.compile(f, backend="octavo")(x)
    except Exception as error:
        assert "the backend 'octavo'" in str(error), error
    @backends.register_backend("octavo")
    def stands_in(gm, inputs):
        seen.append(len(inputs))
        return gm.forward
    torch._dynamo.reset()
y = torch.compile(f, backend="octavo")(x)
assert torch.allclose(y, f(x)), y
print("found", seen)
"""


def test_torch_compile_finds_the_entry_point(request):
    project = request.config.rootpath / "pyproject.toml"
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED, str(project)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("found")


# --- what capture does not support ------------------------------------------------------------
OTHER = """
import sys, numpy as np, octavo
{patch}
try:
    import octavo.capture
except ImportError as error:
    print(error)
try:
    octavo.compile(lambda x: x, backend="eager")
except ImportError as error:
    print("again")
graph = octavo.load_onnx(sys.argv[1])
print(octavo.compile(graph)(np.zeros((1, 3, 8, 8), np.float32))[0].shape)
"""


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        (
            "sys.version_info = (3, 12, 4, 'final', 0)",
            "octavo.capture supports CPython 3.11, and this is CPython 3.12.4; use CPython 3.11 "
            "(everything else in octavo works without capture)",
        ),
        (
            "import platform; platform.python_implementation = lambda: 'PyPy'",
            "octavo.capture supports CPython 3.11, and this is PyPy 3.11.",
        ),
        (
            "import torch; torch.__version__ = '2.14.0+cpu'",
            "octavo.capture supports torch 2.13, and torch 2.14.0+cpu is installed; install torch "
            "2.13.* (everything else in octavo works without capture)",
        ),
        (
            "import importlib.metadata as m; v = m.version; "
            "m.version = lambda name: '2.12.1' if name == 'torch' else v(name)",
            "octavo.capture supports torch 2.13, and torch 2.12.1 is installed; ",
        ),
    ],
    ids=["python", "implementation", "torch loaded", "torch installed"],
)
def test_other_versions_get_one_error(model, patch, says):
    done = subprocess.run(
        [sys.executable, "-c", OTHER.format(patch=patch), str(model)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(says)
    assert lines[1:] == ["again", "(1, 5)"]


def test_explain_of_what_is_compiled():
    function = capture.compile(lambda x: x + 1, backend="eager")
    assert capture.explain(function)(torch.ones(2)).ops == 1
    module = capture.compile(torch.nn.Linear(2, 2), backend="eager")
    assert capture.explain(module)(torch.ones(2)).ops == 1
