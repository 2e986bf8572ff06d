"""Schemas against real files, and against the C++ readers: both take and refuse the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

import octavo
from conftest import samples

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def record(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    return octavo.quantize(
        octavo.load_onnx(model), [(x[None],) for x in samples()], compare=["max"]
    ).record, folder


def test_record_of_python_and_of_the_command(record, cli, model, data, tmp_path):
    path = tmp_path / "run.json"
    more = ["--record", path, "--json", "--evaluate-data", data, "--compare", "all"]
    done = cli("quantize", model, "-o", tmp_path / "q.onnx", "--data", data, *more)
    assert done.returncode == 0, done.stderr
    written = json.loads(path.read_text())
    assert written == json.loads(done.stdout)
    for one in (written, record[0]):
        validator("run_record").validate(one)
    assert written["command"].startswith("octavo quantize")
    assert not written["data"]["evaluated_on_calibration_data"]


def test_record_says_the_mode_and_each_products_precision(record, cli, model, data, tmp_path):
    quantization = record[0]["quantization"]
    assert quantization["mode"] == "static"
    assert quantization["precisions"] == [
        {"node": "conv", "op": "conv", "precision": "int8"},
        {"node": "gemm", "op": "gemm", "precision": "int8"},
    ]
    (tmp_path / "rules.json").write_text(
        json.dumps({"schema_version": 1, "rules": [{"op": "gemm", "precision": "float"}]})
    )
    graph = octavo.load_onnx(model)
    ruled = octavo.quantize(graph, [samples(1)], rules=tmp_path / "rules.json").record
    assert [p["precision"] for p in ruled["quantization"]["precisions"]] == ["int8", "float"]
    validator("run_record").validate(ruled)


def test_record_has_the_sqnr_of_every_tensor(record):
    by_name = {t["name"]: t["by_calibrator"] for t in record[0]["tensors"]}
    assert {"x", "y"} <= set(by_name)
    for chosen in by_name.values():
        assert set(chosen) == {"mse", "max"}


def break_record(path: tuple, value) -> object:
    def apply(record):
        at = record
        for key in path[:-1]:
            at = at[key]
        if value is KeyError:
            del at[path[-1]]
        else:
            at[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 2),
        (("schema_version",), KeyError),
        (("created",), "yesterday"),
        (("tensors",), KeyError),
        (("calibrators",), []),
        (("calibrators", 0, "agreement"), 1.5),
        (("calibrators", 0, "output_sqnr_db"), "high"),
        (("tensors", 0, "name"), ""),
        (("tensors", 0, "by_calibrator"), {}),
        (("environment", "isa"), "mmx"),
        (("data", "calibration_samples"), 0),
        (("quantization", "integer_layers"), -1),
        (("quantization", "mode"), "fast"),
        (("quantization", "precisions", 0, "precision"), "int3"),
        (("quantization", "precisions", 0, "node"), KeyError),
        (("model", "inputs", 0, "type"), KeyError),
        (("warnings",), "none"),
        (("unheard_of",), 1),
    ],
)
def test_broken_records_are_refused(record, path, value):
    broken = copy.deepcopy(record[0])
    break_record(path, value)(broken)
    assert not validator("run_record").is_valid(broken)


V = {"schema_version": 1}
PREPROCESSING = [
    (True, V),
    (True, {"schema_version": 1.0}),
    (True, V | {"color": "BGR", "layout": "NCHW", "dtype": "float32"}),
    (True, V | {"resize": {"shorter_side": 8}, "crop": {"height": 8, "width": 8}}),
    (True, V | {"resize": {"shorter_side": 8, "filter": "bilinear"}}),
    (True, V | {"crop": {"height": 8, "width": 8, "position": "center"}}),
    (True, V | {"mean": [1, 2, 3.5], "std": [0.5, 1, 2]}),
    (False, {}),
    (False, []),
    (False, "text"),
    (False, None),
    (False, {"schema_version": 2}),
    (False, {"schema_version": "1"}),
    (False, {"schema_version": True}),
    (False, V | {"unheard_of": 1}),
    (False, V | {"color": "rgb"}),
    (False, V | {"color": 1}),
    (False, V | {"layout": "HWC"}),
    (False, V | {"dtype": "float64"}),
    (False, V | {"resize": 8}),
    (False, V | {"resize": {}}),
    (False, V | {"resize": {"shorter_side": 0}}),
    (False, V | {"resize": {"shorter_side": 8.5}}),
    (False, V | {"resize": {"shorter_side": "8"}}),
    (False, V | {"resize": {"shorter_side": True}}),
    (False, V | {"resize": {"shorter_side": 20000}}),
    (False, V | {"resize": {"shorter_side": 8, "filter": "bicubic"}}),
    (False, V | {"resize": {"shorter_side": 8, "longer_side": 9}}),
    (False, V | {"crop": {"height": 8}}),
    (False, V | {"crop": {"height": 8, "width": -8}}),
    (False, V | {"crop": {"height": 8, "width": 8, "position": "top"}}),
    (False, V | {"crop": {"height": 8, "width": 8, "size": 8}}),
    (False, V | {"mean": [1, 2]}),
    (False, V | {"mean": [1, 2, 3, 4]}),
    (False, V | {"mean": 1}),
    (False, V | {"mean": [1, 2, "3"]}),
    (False, V | {"mean": [1, 2, True]}),
    (False, V | {"std": [1, 1, 0]}),
    (False, V | {"std": [1, 1, -1]}),
    (False, V | {"std": [1, 1]}),
]
R = V | {"rules": []}
RULES = [
    (True, R),
    (True, V | {"rules": [{"precision": "float", "name": "conv*"}]}),
    (True, V | {"rules": [{"precision": "int8"}, {"op": "gemm", "precision": "int8"}]}),
    (True, V | {"rules": [{"name": "none", "precision": "dynamic"}]}),
    (True, V | {"rules": [{"name": "none", "precision": "int8_weights"}]}),
    (True, V | {"rules": [{"name": "none", "precision": "int4_weights"}]}),
    (True, V | {"rules": [{"name": "none", "precision": "int4_weights", "group_size": 32.0}]}),
    (False, V | {"rules": [{"precision": "int4_weights", "group_size": 0}]}),
    (False, V | {"rules": [{"precision": "int4_weights", "group_size": 16.5}]}),
    (False, V | {"rules": [{"precision": "int4_weights", "group_size": "32"}]}),
    (False, V | {"rules": [{"precision": "int4_weights", "group_size": 1 << 21}]}),
    (True, V | {"rules": [{"name": "none", "precision": "int8_weights", "group_size": 64}]}),
    (False, V | {"rules": [{"precision": "int8", "group_size": 32}]}),
    (True, V | {"rules": [{"name": "none", "precision": "dynamic", "activation": "row"}]}),
    (False, V | {"rules": [{"precision": "dynamic", "activation": "channel"}]}),
    (False, V | {"rules": [{"precision": "int8", "activation": "row"}]}),
    (False, V),
    (False, {"rules": []}),
    (False, []),
    (False, None),
    (False, R | {"schema_version": "1"}),
    (False, R | {"schema_version": 3}),
    (False, R | {"more": 1}),
    (False, V | {"rules": {}}),
    (False, V | {"rules": [1]}),
    (False, V | {"rules": [{}]}),
    (False, V | {"rules": [{"name": "*"}]}),
    (False, V | {"rules": [{"precision": "int4"}]}),
    (False, V | {"rules": [{"precision": 8}]}),
    (False, V | {"rules": [{"precision": "int8", "name": 1}]}),
    (False, V | {"rules": [{"precision": "int8", "nodes": "*"}]}),
]


def verdict(good: bool, content: object, schema: str, path: Path, quantize) -> None:
    assert validator(schema).is_valid(content) == good
    path.write_text(json.dumps(content))
    if good:
        quantize()
    else:
        with pytest.raises(octavo.FileError) as error:
            quantize()
        assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(("good", "content"), PREPROCESSING)
def test_preprocessing_reader_agrees_with_its_schema(model, tmp_path, good, content):
    picture = np.random.default_rng(2).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    (tmp_path / "data").mkdir()
    Image.fromarray(picture).save(tmp_path / "data/a.png")
    path = tmp_path / "how.json"
    verdict(
        good,
        content,
        "preprocessing",
        path,
        lambda: octavo.quantize(octavo.load(model), tmp_path / "data", preprocessing=path),
    )


@pytest.mark.parametrize(("good", "content"), RULES)
def test_rules_reader_agrees_with_its_schema(model, tmp_path, good, content):
    path = tmp_path / "rules.json"
    graph = octavo.load(model)
    verdict(
        good,
        content,
        "rules",
        path,
        lambda: octavo.quantize(graph, [samples(1)], rules=path),
    )


@pytest.mark.parametrize(("keyword", "text"), [("rules", "{"), ("rules", ""), ("rules", "\x00")])
def test_what_is_not_json_is_refused(model, tmp_path, keyword, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(octavo.FileError, match="JSON"):
        octavo.quantize(octavo.load(model), [samples(1)], **{keyword: path})
