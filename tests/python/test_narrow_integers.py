"""Integers of 2 and 4 bits as ONNX files have them: a byte each here, of the same values.

The oracle is ml_dtypes, whose types these are in ONNX's own reference, and NumPy in float64.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import octavo
from octavo.onnx_backend import OctavoBackend

# ONNX's number, ml_dtypes' type, the carrier's, bits
TYPES = (
    (TensorProto.INT4, ml_dtypes.int4, np.int8, 4),
    (TensorProto.UINT4, ml_dtypes.uint4, np.uint8, 4),
    (TensorProto.INT2, ml_dtypes.int2, np.int8, 2),
    (TensorProto.UINT2, ml_dtypes.uint2, np.uint8, 2),
)
kinds = pytest.mark.parametrize(("kind", "narrow", "carrier", "bits"), TYPES)


def model(nodes, inputs, outputs, initializers=()):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info(*i) for i in inputs], [info(*o) for o in outputs], initializers
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)


def least_of(carrier, bits):
    return -(2 ** (bits - 1)) if carrier is np.int8 else 0


@kinds
def test_constants_in_every_form(tmp_path, kind, narrow, carrier, bits):
    """Raw, typed and external data, an odd count; as initializer and as Constant."""
    values = (np.arange(21) % 2**bits + least_of(carrier, bits)).astype(carrier).reshape(3, 7)
    raw = np.zeros(-(-21 * bits // 8), np.uint8)
    for i, v in enumerate(values.ravel()):
        raw[i * bits // 8] |= (int(v) & (2**bits - 1)) << (i * bits % 8)
    typed = helper.make_tensor("c", kind, (3, 7), values.ravel())
    packed = helper.make_tensor("c", kind, (3, 7), raw.tobytes(), raw=True)
    cast = helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)
    out = [("y", TensorProto.FLOAT, (3, 7))]
    constant = helper.make_node("Constant", [], ["c"], value=typed)
    files = [model([cast], [], out, [t]) for t in (typed, packed)]
    files.append(model([constant, cast], [], out))
    for i, proto in enumerate(files):
        onnx.save(proto, tmp_path / f"{i}.onnx")
    onnx.save(
        files[1],
        tmp_path / "external.onnx",
        save_as_external_data=True,
        location="data",
        size_threshold=0,
    )
    for path in sorted(tmp_path.glob("*.onnx")):
        (y,) = octavo.compile(octavo.load_onnx(path))()
        np.testing.assert_array_equal(y, values.astype(np.float32))


@kinds
def test_casts_keep_the_low_bits(kind, narrow, carrier, bits):
    x = np.arange(-40, 40, dtype=np.int32)
    node = helper.make_node("Cast", ["x"], ["y"], to=kind)
    proto = model([node], [("x", TensorProto.INT32, (80,))], [("y", kind, (80,))])
    (y,) = OctavoBackend.run_model(proto, [x])
    assert y.dtype == narrow
    wanted = (x - least_of(carrier, bits)) % 2**bits + least_of(carrier, bits)
    np.testing.assert_array_equal(y.astype(np.int32), wanted)


@kinds
def test_moved_integers_stay_narrow(kind, narrow, carrier, bits):
    """CastLike takes its type from a value that was reshaped and transposed on the way."""
    nodes = [
        helper.make_node("Unsqueeze", ["q", "axis"], ["u"]),
        helper.make_node("Transpose", ["u"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Flatten", ["t"], ["f"]),
        helper.make_node("CastLike", ["x", "f"], ["y"]),
        helper.make_node("Identity", ["f"], ["moved"]),
    ]
    proto = model(
        nodes,
        [("x", TensorProto.FLOAT, (5,)), ("q", kind, (2, 3))],
        [("y", kind, (5,)), ("moved", kind, (1, 6))],
        [helper.make_tensor("axis", TensorProto.INT64, (1,), [0])],
    )
    x = np.array([0, 1.9, 6.5, 17, 33], np.float32)
    q = (np.arange(6) % 2**bits + least_of(carrier, bits)).astype(narrow).reshape(2, 3)
    y, moved = OctavoBackend.run_model(proto, [x, q])
    np.testing.assert_array_equal(y, x.astype(np.int8).astype(narrow))
    np.testing.assert_array_equal(moved, q.T.reshape(1, 6))


@kinds
def test_quantize_saturates(rng, kind, narrow, carrier, bits):
    x = (rng.standard_normal((4, 6)) * 8).astype(np.float32)
    x[0, 0] = np.nan
    scale = rng.uniform(0.5, 2, 6).astype(np.float32)
    least = least_of(carrier, bits)
    zero = rng.integers(least, least + 2**bits, 6).astype(narrow)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
    ]
    proto = model(
        nodes,
        [("x", TensorProto.FLOAT, (4, 6)), ("s", TensorProto.FLOAT, (6,)), ("z", kind, (6,))],
        [("q", kind, (4, 6)), ("y", TensorProto.FLOAT, (4, 6))],
    )
    q, y = OctavoBackend.run_model(proto, [x, scale, zero])
    z = zero.astype(np.int32)
    wanted = np.clip(np.round(np.nan_to_num(x / scale)) + z, least, least + 2**bits - 1)
    np.testing.assert_array_equal(q.astype(np.int32), wanted)
    np.testing.assert_array_equal(y, ((wanted - z).astype(np.float32) * scale))


def test_output_dtype_without_zero_point():
    node = helper.make_node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=TensorProto.INT4)
    proto = model(
        [node],
        [("x", TensorProto.FLOAT, (3,)), ("s", TensorProto.FLOAT, ())],
        [("q", TensorProto.INT4, (3,))],
    )
    x = np.array([-100, 2.5, 100], np.float32)
    (q,) = OctavoBackend.run_model(proto, [x, np.float32(1)])
    np.testing.assert_array_equal(q.astype(np.int32), [-8, 2, 7])


def test_programs_take_both_kinds_of_arrays(tmp_path):
    """Octavo's own programs have i8: ml_dtypes' arrays are read, plain int8 are the result."""
    node = helper.make_node("Transpose", ["q"], ["y"])
    info = [("q", TensorProto.INT4, (2, 3))], [("y", TensorProto.INT4, (3, 2))]
    onnx.save(model([node], *info), tmp_path / "m.onnx")
    program = octavo.compile(octavo.load_onnx(tmp_path / "m.onnx"))
    q = np.arange(-3, 3, dtype=np.int8).reshape(2, 3)
    for array in (q, q.astype(ml_dtypes.int4), q.T.copy().astype(ml_dtypes.int4).T):
        (y,) = program(array)
        assert y.dtype == np.int8
        np.testing.assert_array_equal(y, q.T)


@pytest.mark.parametrize(
    ("node", "output", "message"),
    [
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT4), TensorProto.INT8,
         "declared as i8 but computed as i4"),
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT8), TensorProto.INT2,
         "declared as i2 but computed as i8"),
        (helper.make_node("BitCast", ["x"], ["y"], to=TensorProto.UINT4), TensorProto.UINT4,
         "smaller than a byte"),
        (helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], output_dtype=TensorProto.INT8),
         TensorProto.INT8, "output_dtype is i8, the zero point i4"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(tmp_path, node, output, message):
    constants = [
        helper.make_tensor("s", TensorProto.FLOAT, (), [1.0]),
        helper.make_tensor("z", TensorProto.INT4, (), [1]),
    ]
    proto = model([node], [("x", TensorProto.FLOAT, (3,))], [("y", output, (3,))], constants)
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(octavo.UserError, match=message):
        octavo.load_onnx(tmp_path / "m.onnx")
