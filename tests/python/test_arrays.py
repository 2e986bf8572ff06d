"""Arrays in and out: what is read in place, what is copied, what is refused; GIL and Ctrl-C."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import octavo
from conftest import samples

LARGE = (64, 1 << 18)  # 64 MB of float32


def one_node(tmp_path: Path, op: str, shape, dtype=TensorProto.FLOAT, out=None, **attributes):
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], "node", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape if out is None else out)],
    )
    path = tmp_path / f"{op}.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return octavo.compile(path, threads=1)


def peak_growth(call) -> int:
    """How many bytes the resident memory rose at most, during a call, above where it was."""

    def status(key: str) -> int:
        found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        return int(found[1]) * 1024

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    call()
    return status("VmHWM") - before


@pytest.fixture
def total(tmp_path):
    """A program that reads 64 MB and writes 256 bytes."""
    return one_node(tmp_path, "ReduceMax", LARGE, out=[64, 1], axes=[1], keepdims=1)


@pytest.fixture
def large():
    x = np.random.default_rng(1).normal(size=LARGE).astype(np.float32)
    return x, x.max(axis=1, keepdims=True)


class Exporter:
    """Has DLPack and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def read_only(x):
    view = x.view()
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("form", [np.asarray, read_only, Exporter])
def test_dense_input_is_read_in_place(total, large, form):
    x, truth = large
    given = form(x)
    total(given)  # plans, makes its workspace
    answers = []
    assert peak_growth(lambda: answers.append(total(given)[0])) < x.nbytes // 4
    np.testing.assert_array_equal(answers[0], truth)


def test_mapped_file_is_read_in_place(total, large, tmp_path):
    x, truth = large
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    mapped.max()  # its pages count before
    total(mapped)
    assert peak_growth(lambda: total(mapped)) < x.nbytes // 4
    np.testing.assert_array_equal(total(mapped)[0], truth)


def test_the_measure_sees_a_copy(total, large):
    x, truth = large
    fortran = np.asfortranarray(x)
    total(fortran)
    assert peak_growth(lambda: total(fortran)) > x.nbytes // 2
    np.testing.assert_array_equal(total(fortran)[0], truth)


LAYOUTS = {
    "fortran": np.asfortranarray,
    "every second": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "broadcast row": lambda x: np.broadcast_to(x[:1], x.shape),
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    "field of a record": lambda x: np.rec.fromarrays([x, x.astype("i1")], names="a,b")["a"],
    "read-only": read_only,
    "DLPack": Exporter,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "onnx_type"), [(np.float32, TensorProto.FLOAT), (np.int64, TensorProto.INT64)]
)
def test_layouts(tmp_path, layout, dtype, onnx_type):
    program = one_node(tmp_path, "Neg", [6, 5], onnx_type)
    x = np.random.default_rng(2).integers(-1000, 1000, (6, 5)).astype(dtype)
    given = LAYOUTS[layout](x)
    expected = -np.asarray(getattr(given, "array", given)).astype(dtype)
    np.testing.assert_array_equal(program(given)[0], expected)
    np.testing.assert_array_equal(program({"x": given})[0], expected)


@pytest.mark.parametrize("zero", [np.array(2.5, np.float32), np.float32(2.5)])
def test_no_dimensions(tmp_path, zero):
    (y,) = one_node(tmp_path, "Neg", [])(zero)
    assert y.shape == ()
    assert y == -2.5


def test_no_elements(tmp_path):
    (y,) = one_node(tmp_path, "Neg", ["N", 3])(np.zeros((0, 3), np.float32))
    assert y.shape == (0, 3)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (np.zeros((2, 3)), octavo.UserError, r"'x'.*f32.*f64"),
        (np.zeros((2, 3), np.int32), octavo.UserError, r"'x'.*f32.*i32"),
        (np.zeros((2, 4), np.float32), octavo.UserError, r"'x'.*\[N, 3\].*\[2, 4\]"),
        (np.zeros(3, np.float32), octavo.UserError, r"'x'.*\[N, 3\].*\[3\]"),
        (np.zeros((2, 3), np.complex64), octavo.UserError, r"'x'.*not supported"),
        (np.zeros((2, 3), object), octavo.UserError, r"'x'.*object"),
        (np.array([["a", "b", "c"]]), octavo.UserError, r"'x'.*<U1"),
        ([[1.0, 2.0, 3.0]], TypeError, r"'x'.*list"),
        (None, TypeError, r"'x'.*NoneType"),
        ({"z": np.zeros((2, 3), np.float32)}, octavo.UserError, "'[xz]'"),
        ({1: np.zeros((2, 3), np.float32)}, TypeError, "names"),
    ],
)
def test_what_does_not_fit(tmp_path, given, error, text):
    program = one_node(tmp_path, "Neg", ["N", 3])
    with pytest.raises(error, match=text):
        program(given)


def test_wrong_count(tmp_path):
    program = one_node(tmp_path, "Neg", [2])
    x = np.zeros(2, np.float32)
    for wrong in [(), (x, x)]:
        with pytest.raises(octavo.UserError, match="takes 1 input"):
            program(*wrong)


def test_outputs_are_exported_without_a_copy(tmp_path):
    program = one_node(tmp_path, "Neg", [4, 4])
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    (y,) = program(x)
    shared = np.from_dlpack(y)
    assert np.shares_memory(y, shared)
    assert y.flags.writeable
    assert not np.shares_memory(y, x)
    (other,) = program(x + 1)  # a later call writes elsewhere
    assert not np.shares_memory(y, other)
    del program, other, y
    gc.collect()
    np.testing.assert_array_equal(shared, -x)  # alive without its program


def test_an_input_is_not_changed(tmp_path):
    program = one_node(tmp_path, "Relu", [1000])
    x = np.random.default_rng(3).normal(size=1000).astype(np.float32)
    kept = x.copy()
    (y,) = program(x)
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(y, np.maximum(kept, 0))


def test_gil_is_released_while_a_program_runs(total, large):
    """With a switch interval of an hour, only a call that lets go of the GIL lets others in."""
    x, _ = large
    state = ["before"]
    stop = threading.Event()

    def work():
        state[0] = "running"
        for _ in range(200):
            total(x)
            if stop.is_set():
                break
        state[0] = "over"

    interval = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        seen = state[0]
        while seen == "before":
            time.sleep(0)
            seen = state[0]
        stop.set()
        worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert seen == "running"


def test_threads_share_a_program(tmp_path):
    program = one_node(tmp_path, "Neg", ["N", 7])
    wrong = []

    def work(number):
        for i in range(50):
            x = np.full((1 + (number + i) % 5, 7), number * 100 + i, np.float32)
            if not np.array_equal(program(x)[0], -x):
                wrong.append((number, i))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize("form", ["list", "generator"])
def test_ctrl_c_during_quantize(model, tmp_path, form):
    """SIGINT while the work is under way; without it the work would take minutes."""
    graph = octavo.load(model)
    sample = samples(1)
    out = tmp_path / "out"
    out.mkdir()
    given = threading.Event()

    def generator():
        for i in range(2_000_000):
            if i == 10:
                given.set()
            yield sample

    def interrupt():
        given.wait()
        # The main thread has done some work since.
        start = time.process_time()
        while time.process_time() - start < 0.05:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=interrupt)
    killer.start()
    data = [sample] * 200_000 if form == "list" else generator()
    if form == "list":
        given.set()
    with pytest.raises(KeyboardInterrupt):
        octavo.quantize(graph, data, record=out / "run.json")
    killer.join()
    assert list(out.iterdir()) == []


def test_progress_callback_ends_quantize(model, tmp_path):
    phases = []

    def stop(phase, done, total):
        phases.append((phase, done, total))
        raise ZeroDivisionError("enough")

    with pytest.raises(ZeroDivisionError, match="enough"):
        octavo.quantize(octavo.load(model), list(samples()[:, None]), progress=stop)
    assert len(phases) == 1
