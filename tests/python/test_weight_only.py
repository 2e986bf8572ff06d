"""Weight-only quantization: 8 and 4 bits, per channel and in groups, and tables of embeddings.

The oracle is NumPy: the integers that the file holds, dequantized in float32, and the product of
that in float64. ONNX Runtime runs the exported files.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import octavo
from test_schemas import validator

K, N, ROWS, COLUMNS = 100, 37, 200, 40
EPSILON = np.finfo(np.float32).eps


def network(path, *, gemm=False, trans_b=False):
    """y = x W + b, and rows of a table beside it."""
    rng = np.random.default_rng(3)
    w = rng.standard_normal((N, K) if trans_b else (K, N)).astype(np.float32)
    b = rng.standard_normal(N).astype(np.float32)
    table = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    table *= np.exp(rng.standard_normal((ROWS, 1))).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "i"], ["row"], name="lookup")]
    if gemm:
        nodes.append(helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=int(trans_b)))
    else:
        nodes.append(helper.make_node("MatMul", ["x", "w"], ["m"], "fc"))
        nodes.append(helper.make_node("Add", ["m", "b"], ["y"], "bias"))
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", K]),
            helper.make_tensor_value_info("i", TensorProto.INT64, ["J"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", N]),
            helper.make_tensor_value_info("row", TensorProto.FLOAT, ["J", COLUMNS]),
        ],
        [numpy_helper.from_array(a, n) for n, a in (("w", w), ("b", b), ("table", table))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return w.T if trans_b else w, b, table


def dequantized(path):
    """The weights of an exported file by the name of the float ones, by NumPy alone."""
    model = onnx.load(path)
    tensors = {t.name: t for t in model.graph.initializer}
    result = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        a = {x.name: x.i for x in node.attribute}
        q = numpy_helper.to_array(tensors[node.input[0]]).astype(np.int32)
        scale = numpy_helper.to_array(tensors[node.input[1]])
        zero = np.zeros(scale.shape, np.int32)
        if len(node.input) > 2:
            zero = numpy_helper.to_array(tensors[node.input[2]]).astype(np.int32)
        axis, block = a.get("axis", 1), a.get("block_size", 0)
        if block:
            index = np.arange(q.shape[axis]) // block
            scale, zero = np.take(scale, index, axis), np.take(zero, index, axis)
        elif scale.ndim:
            shape = [1] * q.ndim
            shape[axis] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        result[node.output[0].split("/")[0]] = (q - zero).astype(np.float32) * scale
    return result


def inputs(m=5):
    rng = np.random.default_rng(11)
    return (
        rng.standard_normal((m, K)).astype(np.float32),
        np.array([0, ROWS - 1, 7, -1, 7], np.int64),
    )


def check_product(y, x, w, b):
    exact = x.astype(np.float64) @ w + b
    magnitude = np.abs(x).astype(np.float64) @ np.abs(w) + np.abs(b)
    # K products and additions, one rounding of eps / 2 each, and the bias.
    assert (np.abs(y - exact) <= (2 * K + 2) * EPSILON / 2 * magnitude).all()


@pytest.mark.parametrize("m", [1, 5, 70])
@pytest.mark.parametrize(("gemm", "trans_b"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("bits", "group"), [(8, 0), (8, 32), (4, 0), (4, 16), (4, 33)])
def test_programs_multiply_by_the_integers_of_the_file(tmp_path, bits, group, gemm, trans_b, m):
    _, b, table = network(tmp_path / "float.onnx", gemm=gemm, trans_b=trans_b)
    graph = octavo.load_onnx(tmp_path / "float.onnx")
    quantized = octavo.quantize(graph, mode="weight_only", bits=bits, group_size=group)
    octavo.export_onnx(quantized, tmp_path / "q.onnx")
    found = dequantized(tmp_path / "q.onnx")

    octavo.save(quantized, tmp_path / "q.octavo")
    x, i = inputs(m)
    results = []
    for model in (quantized, octavo.load(tmp_path / "q.octavo"), octavo.load(tmp_path / "q.onnx")):
        program = octavo.compile(model)
        y, row = program(x, i)
        np.testing.assert_array_equal(row, found["table"][i])
        check_product(y, x, found["w"], b)
        results.append(y)
        kernels = {s["kernel"].rsplit("_", 1)[0] for s in octavo.inspect(program)["steps"]}
        assert "packed_gemm_f32" in kernels
        assert "gather_integers" in kernels
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert table.shape == found["table"].shape


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (8, 32), (4, 0), (4, 32)])
def test_weights_are_near_the_float_ones(tmp_path, bits, group):
    """By "max" half a step away at most; by "mse" not further in the mean."""
    w, _, _ = network(tmp_path / "float.onnx")
    graph = octavo.load_onnx(tmp_path / "float.onnx")
    errors = {}
    for method in ("max", "mse"):
        quantized = octavo.quantize(
            graph, mode="weight_only", bits=bits, group_size=group, weights=method
        )
        octavo.export_onnx(quantized, tmp_path / "q.onnx")
        errors[method] = np.abs(dequantized(tmp_path / "q.onnx")["w"] - w)
    size = group or (32 if bits == 4 else K)
    for begin in range(0, K, size):
        part = w[begin : begin + size]
        if bits == 8:
            step = np.abs(part).max(axis=0) / 127
        else:
            # The zero point is rounded: up to half a step more at the ends.
            step = 2 * (np.maximum(part.max(0), 0) - np.minimum(part.min(0), 0)) / 15
        assert (errors["max"][begin : begin + size] <= step * 0.5001).all()
        assert (
            np.square(errors["mse"][begin : begin + size]).sum(0)
            <= np.square(errors["max"][begin : begin + size]).sum(0) * 1.0001
        ).all()
    if bits == 4:  # gains something
        assert np.square(errors["mse"]).sum() < 0.999 * np.square(errors["max"]).sum()


def correlated(count, seed):
    """Inputs that live near a subspace, a few of them large: what GPTQ makes use of."""
    mix = np.random.default_rng(99).standard_normal((12, K)) * np.linspace(0.2, 5, K)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 12)) @ mix + 0.1 * rng.standard_normal((count, K))
    return x.astype(np.float32)


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (8, 32), (4, 0), (4, 16), (4, 33)])
@pytest.mark.parametrize(("gemm", "trans_b"), [(False, False), (True, True)])
def test_gptq_rounds_for_the_data(tmp_path, bits, group, gemm, trans_b):
    w, _, table = network(tmp_path / "float.onnx", gemm=gemm, trans_b=trans_b)
    graph = octavo.load_onnx(tmp_path / "float.onnx")
    samples = [(x, np.array([0], np.int64)) for x in np.split(correlated(256, 1), 32)]
    found, records = {}, {}
    for method in ("mse", "gptq"):
        quantized = octavo.quantize(
            graph, samples, mode="weight_only", bits=bits, group_size=group, weights=method
        )
        octavo.export_onnx(quantized, tmp_path / f"{method}.onnx")
        found[method] = dequantized(tmp_path / f"{method}.onnx")
        records[method] = quantized.record
    x = correlated(512, 2).astype(np.float64)  # of the same kind, not those it saw
    error = {m: np.square(x @ (found[m]["w"] - w)).sum() for m in found}
    print(error)
    assert error["gptq"] < 0.5 * error["mse"]  # 3 dB
    np.testing.assert_array_equal(found["gptq"]["table"], found["mse"]["table"])
    assert found["gptq"]["table"].shape == table.shape
    assert records["mse"]["quantization"]["fitted_samples"] == 0
    assert records["gptq"]["quantization"]["fitted_samples"] == 32
    assert records["gptq"]["quantization"]["weights"] == "gptq"
    assert records["gptq"]["data"]["evaluated_on_calibration_data"]


def test_gptq_of_convolutions_sees_patches(tmp_path):
    rng = np.random.default_rng(8)
    w = rng.standard_normal((16, 6, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "c", pads=[1, 1, 1, 1], strides=[2, 2])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6, 15, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16, 8, 6])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "float.onnx")
    loaded = octavo.load_onnx(tmp_path / "float.onnx")

    def pictures(count, seed):  # smooth: neighbours are alike, and so are channels
        noise = np.random.default_rng(seed).standard_normal((count, 6, 19, 16))
        noise[:, 1:] = noise[:, :1] + 0.2 * noise[:, 1:]
        windows = np.lib.stride_tricks.sliding_window_view(noise, (5, 5), (2, 3))
        return windows.mean((-1, -2)).astype(np.float32)

    samples = [(x[None],) for x in pictures(64, 1)]
    judging = pictures(64, 2)
    wanted = octavo.compile(loaded)(judging)[0].astype(np.float64)
    error = {}
    for method in ("mse", "gptq"):
        for bits in (8, 4):
            quantized = octavo.quantize(
                loaded, samples, mode="weight_only", bits=bits, weights=method
            )
            error[method, bits] = np.square(octavo.compile(quantized)(judging)[0] - wanted).sum()
    print(error)
    assert error["gptq", 8] < 0.5 * error["mse", 8]
    assert error["gptq", 4] < 0.5 * error["mse", 4]


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (8, 32), (4, 32), (4, 128)])
def test_onnxruntime_multiplies_by_them_too(tmp_path, bits, group):
    ort = pytest.importorskip("onnxruntime")
    _, b, table = network(tmp_path / "float.onnx")
    quantized = octavo.quantize(
        octavo.load_onnx(tmp_path / "float.onnx"),
        mode="weight_only",
        bits=bits,
        group_size=group,
        target="onnxruntime",
    )
    octavo.export_onnx(quantized, tmp_path / "q.onnx")
    onnx.checker.check_model(tmp_path / "q.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    # Its own default rounds activations to 8 bits in this kernel.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = ort.InferenceSession(tmp_path / "q.onnx", options, providers=["CPUExecutionProvider"])
    ops = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "MatMulNBits" in ops
    assert "DequantizeLinear" not in ops
    x, i = inputs()
    y, row = session.run(None, {"x": x, "i": i})
    check_product(y, x, dequantized(tmp_path / "q.onnx")["w"], b)
    # One rounding to the scale's 127th, one of the product: half a step, and a bit.
    scale = np.abs(table[i]).max(axis=1, keepdims=True) / 127
    assert (np.abs(row - table[i]) <= 0.2 * 127 * scale).all()
    ours = octavo.compile(quantized)(x, i)
    np.testing.assert_array_equal(ours[1], row)


def test_files_hold_four_bits(tmp_path):
    """On disk an INT4 file has half a byte for each weight and one scale and zero point a group."""
    network(tmp_path / "float.onnx")
    graph = octavo.load_onnx(tmp_path / "float.onnx")
    count = K * N + ROWS * COLUMNS
    sizes = {}
    for name in ("octavo", "onnx"):
        path = tmp_path / f"q.{name}"
        octavo.save(octavo.quantize(graph, mode="weight_only", bits=4), path)
        sizes[name] = path.stat().st_size
    # Parameters: 5 bytes a group of 32 (K and COLUMNS end in part groups); the bias; 4 KB of names,
    # alignment and shapes.
    parameters = 5 * (-(-K // 32) * N + ROWS * -(-COLUMNS // 32))
    most = count / 2 + K + parameters + 4 * N + 4096
    assert sizes["octavo"] <= most, sizes
    assert sizes["onnx"] <= most, sizes


def test_four_bit_files_of_others(tmp_path):
    """INT4 and UINT4 in raw and typed data, odd rows: DequantizeLinear of opset 21."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, 6)).astype(np.float32)
    for kind, low in ((TensorProto.INT4, -8), (TensorProto.UINT4, 0)):
        q = rng.integers(low, low + 16, (6, 5))
        zero = rng.integers(low, low + 16, (3, 5))
        scale = rng.uniform(0.1, 1, (3, 5)).astype(np.float32)
        nibbles = (q.ravel() & 15).astype(np.uint8)
        raw = (nibbles[0::2] | nibbles[1::2] << 4).tobytes()
        for initializer in (
            helper.make_tensor("q", kind, (6, 5), q.ravel()),
            helper.make_tensor("q", kind, (6, 5), raw, raw=True),
        ):
            graph = helper.make_graph(
                [
                    helper.make_node(
                        "DequantizeLinear", ["q", "s", "z"], ["w"], axis=0, block_size=2
                    ),
                    helper.make_node("MatMul", ["x", "w"], ["y"]),
                ],
                "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, (3, 6))],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, (3, 5))],
                [
                    initializer,
                    numpy_helper.from_array(scale, "s"),
                    helper.make_tensor("z", kind, (3, 5), zero.ravel()),
                ],
            )
            model = helper.make_model(
                graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
            )
            onnx.save(model, tmp_path / "m.onnx")
            loaded = octavo.load_onnx(tmp_path / "m.onnx")
            w = (q - np.repeat(zero, 2, 0)).astype(np.float32) * np.repeat(scale, 2, 0)
            exact = x.astype(np.float64) @ w
            bound = 14 * EPSILON / 2 * (np.abs(x).astype(np.float64) @ np.abs(w))
            assert (np.abs(octavo.compile(loaded)(x)[0] - exact) <= bound).all()
            octavo.export_onnx(loaded, tmp_path / "again.onnx")
            np.testing.assert_array_equal(dequantized(tmp_path / "again.onnx")["w"], w)


def test_four_bits_need_opset_21(tmp_path):
    network(tmp_path / "float.onnx")
    graph = octavo.load_onnx(tmp_path / "float.onnx")
    quantized = octavo.quantize(graph, mode="weight_only", bits=4)
    with pytest.raises(octavo.UserError, match="opset 21"):
        octavo.export_onnx(quantized, tmp_path / "q.onnx", opset=17)
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"mode": "weight_only", "bits": 5}, "bits: 5 bits"),
        ({"mode": "weight_only", "group_size": -1}, "group_size"),
        ({"mode": "static", "bits": 4}, "bits: is not for mode static"),
        ({"mode": "dynamic", "group_size": 32}, "group_size: is not for mode dynamic"),
        ({"mode": "weight_only", "weights": "gptq"}, "gptq fits weights to data"),
        ({"mode": "weight_only", "weights": "gptq", "data": []}, "data: there is no sample"),
        ({"mode": "dynamic", "weights": "gptq"}, "gptq: is not for mode dynamic"),
        ({"mode": "weight_only", "target": "tensorrt"}, "tensorrt has no weight-only INT8"),
        (
            {"mode": "weight_only", "bits": 4, "group_size": 24, "target": "onnxruntime"},
            "in groups of 24; use a power of two from 16 on",
        ),
    ],
)
def test_mistakes(tmp_path, keywords, message):
    network(tmp_path / "float.onnx")
    with pytest.raises(octavo.UserError, match=message):
        octavo.quantize(octavo.load_onnx(tmp_path / "float.onnx"), **keywords)


def test_rules_mix_precisions(tmp_path):
    w, _, _ = network(tmp_path / "float.onnx")
    rules = tmp_path / "rules.json"
    rules.write_text(
        json.dumps(
            {
                "schema_version": 1,
                "rules": [
                    {"name": "fc", "precision": "int4_weights", "group_size": 25},
                    {"name": "lookup", "precision": "float"},
                ],
            }
        )
    )
    graph = octavo.load_onnx(tmp_path / "float.onnx")
    quantized = octavo.quantize(graph, mode="weight_only", rules=rules)
    assert quantized.record["quantization"]["precisions"] == [
        {"node": "fc", "op": "matmul", "precision": "int4_weights", "group_size": 25}
    ]
    octavo.export_onnx(quantized, tmp_path / "q.onnx")
    model = onnx.load(tmp_path / "q.onnx")
    shapes = {tuple(t.dims): t.data_type for t in model.graph.initializer}
    assert shapes[(K, N)] == TensorProto.UINT4
    assert (4, N) in shapes
    assert (ROWS, COLUMNS) in shapes
    assert shapes[(ROWS, COLUMNS)] == TensorProto.FLOAT
    assert w.shape == (K, N)


@pytest.mark.parametrize("mode", ["static", "weight_only"])
def test_tables_are_integer_layers_of_the_record(tmp_path, mode):
    """Also where nothing else is, so that the record is one by its schema."""
    network(tmp_path / "float.onnx")
    graph = octavo.load_onnx(tmp_path / "float.onnx")
    rules = octavo.Rules(({"op": "matmul", "precision": "float"},))
    data = [inputs(), inputs()] if mode == "static" else None
    record = octavo.quantize(graph, data, mode=mode, rules=rules).record
    assert record["quantization"]["integer_layers"] == 1
    validator("run_record").validate(record)


def test_static_mode_gathers_integers(tmp_path):
    """The table is integers in every mode, whatever else is."""
    _, _, table = network(tmp_path / "float.onnx")
    graph = octavo.load_onnx(tmp_path / "float.onnx")
    data = [inputs(), inputs()]
    for target in ("octavo", "onnxruntime", "openvino"):
        quantized = octavo.quantize(graph, data, target=target)
        octavo.export_onnx(quantized, tmp_path / "q.onnx")
        kinds = {
            tuple(t.dims): t.data_type for t in onnx.load(tmp_path / "q.onnx").graph.initializer
        }
        assert kinds[(ROWS, COLUMNS)] == TensorProto.INT8, target
        row = octavo.compile(quantized)(*inputs())[1]
        picked = table[inputs()[1]]
        error = np.linalg.norm(row - picked) / np.linalg.norm(picked)
        assert error < 0.01
    quantized = octavo.quantize(graph, data, target="tensorrt")
    octavo.export_onnx(quantized, tmp_path / "q.onnx")
    kinds = {tuple(t.dims): t.data_type for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert kinds[(ROWS, COLUMNS)] == TensorProto.FLOAT
