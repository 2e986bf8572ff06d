# Captured functions are written in every way that users write them.
# ruff: noqa: E731, PLW0108
"""NumPy inside captured functions, eager beside captured, and the rule that decides about it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from capture_cases import assert_capture, graphs_of, tensors
from octavo import capture
from octavo.capture.array_rules import DTYPES, EXACT, ROUNDED, Array, Refused, judge
from octavo.capture.arrays import array_call

pytestmark = pytest.mark.peers
A = np.arange(12.0).reshape(3, 4) / 8 - 0.5
F = A.astype(np.float32)
N = np.arange(12).reshape(3, 4)
B = A > 0
(X,) = tensors((3, 4))


def creation(n):
    return (
        np.zeros(n),
        np.ones((2, n), dtype=np.float32),
        np.full(n, 2.5),
        np.arange(n),
        np.arange(2, n, 2, dtype="int32"),
        np.eye(n),
        np.array([[1, 2], [3, n]]),
        np.array([1.5, 2]),
    )


def arithmetic(a, b):
    return a + b, a - 2, 3 * a, a / b, -a, abs(a), a**2, 1 / a, a * np.float32(2), a / np.pi


def comparisons(a, b):
    return a > b, a == 0, np.isnan(a), (a < 0) | (b > 1), ~(a >= b), np.where(a > b, a, b)


def shapes(a):
    return (
        a.reshape(4, 3),
        a.T,
        a[None, :, 0],
        a[..., 1:3],
        a[1],
        a[-1, 2],
        a[[0, 2]],
        a.transpose(1, 0)[::2],
        np.concatenate([a, a], axis=1),
        np.stack((a, a)),
        a.ravel(),
        a.flatten(),
        np.expand_dims(a, 0),
        np.broadcast_to(a[0], (2, 4)),
        np.split(a, 2, axis=1),
        np.tile(a, 2),
        np.atleast_2d(a[0]),
    )


def integers(n, b):
    return n / 4, n / n.sum(), np.mean(n, axis=0), np.true_divide(b, 2), 1 / (n + 1), n * 2.5, n**3


def metadata(a):
    return (
        a + 1,
        a.shape,
        a.ndim,
        a.size,
        a.dtype,
        a.itemsize,
        a.nbytes,
        len(a),
        a.dtype == np.float64,
    )


def exact_reductions(a, n):
    return (
        a.max(),
        np.min(a, axis=0),
        a.argmax(axis=1),
        n.sum(),
        np.sum(n, axis=1, keepdims=True),
        n.cumsum(),
        n.prod(axis=0),
        np.any(a > 0),
        np.count_nonzero(n),
        np.clip(a, -0.25, 0.25),
    )


def scalars(a):
    top = a.max()
    return top * 2, top + a, float(np.prod(a.shape)), np.float32(1.5), isinstance(top, np.float64)


def constants(x):
    size = int(np.prod(x.shape)) // np.int64(2)
    return x * size, np.sqrt(16), np.ndim(x.shape), np.dtype("float32").itemsize


def writes(a, b):
    c = a.copy()
    c[0] = 1
    c[1, 2] = 2.5
    c[:, 1] *= 3
    c -= b
    row = c[2]
    row += 1
    c.fill(3) if c.ndim > 2 else None
    return c, row, a


def writes_into_argument(a):
    a[0] += 1
    first = a[0, 0]
    a[0, 0] = 7
    return a[1:], first


def loop(a):
    total = 0
    for row in a:
        for value in row:
            total = total + value
    return total, [r.sum() for r in N]


def converts(a, n, b):
    return a.astype(int), n.astype(np.float32), b.astype("uint8"), a.astype(a.dtype), np.float64(n)


def to_torch(x, a):
    t = torch.from_numpy(a)
    copied = torch.tensor(a)
    a[0] = 5
    return t, x + copied, torch.as_tensor(a * 2), torch.tensor(a, dtype=torch.float32) + x


def shared_with_torch(x, a):
    t = torch.from_numpy(a)
    t += 1
    return t.sum(), a


def from_torch(x):
    a = (x * 2).numpy()
    return np.asarray(x)[0] * 2, a, np.array(x), x.detach().cpu().numpy().shape


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("fn", "args", "later"),
    [
        (creation, (5,), [(7,)]),
        (arithmetic, (A, F), [(F, F), (A.T, A.T), (F.copy(), A)]),
        (comparisons, (A, F), [(A.T, A.T)]),
        (shapes, (A,), [(F,), (N,), (B,)]),
        (integers, (N, B), [(N.astype("int8"), B)]),
        (metadata, (A,), [(F,), (A.T,)]),
        (exact_reductions, (A, N), [(A.T, N.T)]),
        (scalars, (A,), [(A[0],)]),
        (constants, (X,), []),
        (writes, (A, F), []),
        (writes_into_argument, (A,), []),
        (loop, (A,), []),
        (converts, (A, N, B), []),
        (from_torch, (X,), []),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_arrays(fn, args, later):
    """Whole, with eager's bits, types, strides and shared memory."""
    assert_capture(fn, args, *later, graphs=1, breaks=[])


def test_shared_memory():
    assert_capture(shared_with_torch, (X, A), graphs=1, breaks=[])
    assert_capture(to_torch, (X, A), breaks=["numpy"])  # the write is seen by a tensor


def rounded(a):
    return a.sum(), a.mean(axis=0), np.exp(a), np.dot(a, a.T), a.std(), np.linalg.norm(a)


def test_rounded_functions():
    """Captured unless asked otherwise; then NumPy's own bits."""
    stats = []
    captured = capture.compile(rounded, backend="eager", fullgraph=True, stats=stats)
    assert len(stats) == 0
    for a, b in zip(rounded(F), captured(F), strict=True):
        assert type(a) is type(b)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=2e-6)
    assert graphs_of(stats) == 1
    for options in ({"numpy": "exact"}, {"numpy": False}):
        stats = []
        captured = capture.compile(rounded, backend="eager", options=options, stats=stats)
        for a, b in zip(rounded(F), captured(F), strict=True):
            np.testing.assert_array_equal(a, b)
        assert sum(piece["ops"] for piece in stats) == (1 if options["numpy"] else 0)  # a.T
    with pytest.raises(TypeError, match="'exact'"):
        capture.compile(rounded, backend="eager", options={"numpy": "some"})


def test_graph_of_zeros(capsys):
    """What issue 6 shows: two arrays of zeros are a graph of two nodes."""

    def backend(gm, example_inputs):
        gm.graph.print_tabular()
        return gm.forward

    @capture.optimize(backend)
    def losses(n):
        train_losses, val_losses = np.zeros(n), np.zeros(n)
        return train_losses, val_losses

    first, second = losses(4)
    assert type(first) is np.ndarray
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, np.zeros(4))
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split()[:2] for line in lines[2:]]
    assert rows == [
        ["call_function", "wrapped_zeros"],
        ["call_function", "wrapped_zeros_1"],
        ["output", "output"],
    ]


@pytest.mark.parametrize(
    "fn",
    [
        lambda a: a // 2,
        lambda a: np.random.randn(2) * 0 + a[0, :2],
        lambda a: a[a > 0],
        lambda a: np.unique(a),
        lambda a: np.sort(a, order=None, kind="stable").tolist(),
        lambda a: a.item(0),
        lambda a: float(a[0, 0]),
        lambda a: a.astype(object).shape,
        lambda a: a.astype(np.uint16),
        lambda a: np.add(a, a, out=a),
        lambda a: np.sign(a),
        lambda a: f"{a[0, 0]}",
        lambda a: a[::-1],
        lambda a: a.flat[0],
        lambda a: np.flip(a, 0),
        lambda a: np.concatenate([a.T, a.T]),
        lambda a: bool((a > 0).all()),
        lambda a: np.zeros((2, 3), order="F"),
    ],
)
def test_what_stays_numpys(fn):
    assert_capture(fn, (A,), steady=False)


def test_odd_arrays():
    """Of types and layouts that tensors have not."""
    f = lambda a: (a + 1) * 2
    structured = np.zeros(2, dtype=[("x", "f4")])
    odd = [A[::-1], A.astype(">f8"), np.float16(A), np.ma.array(A), A.astype(complex)]
    captured = capture.compile(f, backend="eager")
    for a in [*odd, A, np.matrix(A), np.uint16(N), np.array(1.5), np.array([])]:
        expected, got = f(a), captured(a)
        assert type(expected) is type(got)
        assert expected.dtype == got.dtype
        np.testing.assert_array_equal(np.asarray(expected), np.asarray(got))
    assert capture.compile(lambda a: a["x"], backend="eager")(structured).dtype == np.float32


@pytest.mark.parametrize("backend", ["torchscript", "octavo", "aot_eager", "onnxruntime"])
def test_backends(backend):
    """Backends get tensors and what torch makes of them."""
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")

    def f(a, x):
        b = a.reshape(4, 3).T * 2 - 1
        return b, np.where(b > 0, b, np.float32(0.5)), x + torch.tensor(a)

    stats = []
    captured = capture.compile(f, backend=backend, stats=stats)
    for _ in range(2):
        for a, b in zip(f(F, X), captured(F, X), strict=True):
            assert type(a) is type(b)
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert graphs_of(stats) == 1


def test_guards():
    stats = []
    f = lambda a, b: a + b
    captured = capture.compile(f, backend="eager", stats=stats)
    read_only = A.copy()
    read_only.flags.writeable = False
    calls = [(A, A.copy()), (F, F.copy()), (A.T, A.T.copy()), (A[:2], A[:2].copy()), (A, read_only)]
    for n, (a, b) in enumerate(calls):
        for _ in range(2):
            np.testing.assert_array_equal(captured(a, b), a + b)
            assert len(stats) == n + 1
    np.testing.assert_array_equal(captured(A, A), A + A)  # one array twice
    captured(A * 3, A * 2)
    assert len(stats) == 6


def test_read_only_arrays():
    def f(a):
        a[0] = 1
        return a

    given = A.copy()
    given.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        capture.compile(f, backend="eager")(given)
    view = capture.compile(lambda a: a[1:], backend="eager")(given)
    assert not view.flags.writeable
    wide = capture.compile(lambda a: np.broadcast_to(a[0], (5, 4)), backend="eager")(A)
    assert not wide.flags.writeable


def test_errstate_is_numpys():
    f = lambda a: a / 0
    captured = capture.compile(f, backend="eager")
    captured(A + 10)
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        captured(A + 10)
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(captured(A + 10), np.full((3, 4), np.inf))


def test_arrays_that_overlap_tensors():
    """A write through an array is seen by a tensor of the same memory."""

    def f(a, x):
        a[0] = 5
        return x * 2

    captured = capture.compile(f, backend="aot_eager")
    for shared in (True, False, True):
        a = A.copy()
        got = captured(a, torch.from_numpy(a if shared else A.copy()))
        assert got[0].tolist() == ([10.0] * 4 if shared else (A[0] * 2).tolist())
        assert a[0].tolist() == [5.0] * 4


def test_errors_are_numpys():
    def f(a, n):
        try:
            return a[n]
        except IndexError as error:
            return str(error)

    assert_capture(f, (A, 1), (A, 7))
    with pytest.raises(ValueError, match="broadcast"):
        capture.compile(lambda a, b: a + b, backend="eager")(A, A[:, :3])


def test_losses_of_a_loop():
    def training(x, n):
        losses, best = np.zeros(n), np.zeros(n)
        for k in range(n):
            loss = ((x - k) ** 2).mean()
            losses[k] += loss.item() / 2
            best[k] = losses[: k + 1].min()
        return losses, best

    stats = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it does not capture the loop's body again and again
        captured = capture.compile(training, backend="eager", stats=stats)
        for _ in range(2):
            for a, b in zip(training(X, 25), captured(X, 25), strict=True):
                np.testing.assert_array_equal(a, b)
            before = len(stats)
    assert before == len(stats)
    assert "wrapped_zeros_1" in [n.name for n in stats[0]["graph"].graph.nodes]


# --- the rule itself -----------------------------------------------------------------------------
ODD = [0.0, -0.0, 1, -1, 0.5, -0.5, 1.5, 2.5, -1.5, np.inf, -np.inf, np.nan, 1e-40, -3.7, 1e300]
CALLS = {
    "clip": (-1, 2),
    "diff": (),
    "around": (),
    "round": (),
    "nan_to_num": (),
    "where": None,
}


def odd_values(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    if dtype.kind == "f":
        values = np.array(ODD).astype(dtype)
    elif dtype.kind == "b":
        values = np.array([False, True])
    else:
        limits = np.iinfo(dtype)
        values = np.array([0, 1, 2, 7, limits.max, limits.min], dtype=dtype)
    first, second = np.meshgrid(values, values)
    return first.ravel(), second.ravel()


def abstract(array: np.ndarray) -> Array:
    return Array(torch.empty(array.shape, dtype=DTYPES[array.dtype], device="meta"), False, True)


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
@pytest.mark.filterwarnings("ignore")
def test_exact_functions_have_numpys_bits(dtype):
    """Every function of the list, on values that libraries differ in, with one and two arrays."""
    seen = 0
    for name in sorted(EXACT - {"take", "take_along_axis", "repeat", "tile"}):
        for count in (1, 2):
            try:
                call = array_call("function", name)
                args = odd_values(dtype)[:count] + (CALLS.get(name) or ())
                judged = judge(
                    call,
                    tuple(abstract(a) if isinstance(a, np.ndarray) else a for a in args),
                    {},
                    True,
                )
            except (Refused, AttributeError):
                continue
            if judged[0] != "array" or name.startswith("empty"):
                continue
            seen += 1
            expected = np.asarray(call.numpy(*args))
            got = call(*[torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in args])
            assert expected.dtype == got.numpy().dtype, name
            kept = np.isnan(expected) if expected.dtype.kind == "f" else np.zeros_like(expected) > 0
            a, b = np.where(kept, 0, expected), np.where(kept, 0, got.numpy())
            assert np.array_equal(np.isnan(got.numpy()), np.isnan(expected)), name
            assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes(), name
    assert seen > 40


def test_lists_do_not_overlap():
    assert not EXACT & ROUNDED


def test_arrays_in_inference_mode():
    def fn(x, a):
        with torch.inference_mode():
            b = a + 1
            a[0] = 5
            return x + 1, b, (a > 2).any(), torch.from_numpy(b) * 2

    assert_capture(fn, (X, np.arange(4.0, dtype=np.float32)), steady=False)
