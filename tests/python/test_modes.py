"""Modes of quantization: what each needs and refuses."""

from __future__ import annotations

import json

import pytest

import octavo
from conftest import samples

OTHERS = ("dynamic", "weight_only")


def test_static_needs_data(model, cli, tmp_path):
    graph = octavo.load_onnx(model)
    with pytest.raises(octavo.UserError, match=r"data: mode static calibrates on data; .*dynamic"):
        octavo.quantize(graph)
    done = cli("quantize", model, "-o", tmp_path / "q.onnx")
    assert (done.returncode, done.stdout) == (3, "")
    assert "mode static calibrates on data" in done.stderr
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize("mode", OTHERS)
@pytest.mark.parametrize(
    ("keywords", "what"),
    [
        ({"calibrator": "mse"}, "calibrator"),
        ({"compare": ["max"]}, "compare"),
        ({"bias_correction": False}, "bias_correction"),
    ],
)
def test_other_modes_refuse_what_is_for_calibration(model, mode, keywords, what):
    graph = octavo.load_onnx(model)
    with pytest.raises(octavo.UserError, match=f"{what}: is not for mode {mode}"):
        octavo.quantize(graph, mode=mode, **keywords)


@pytest.mark.parametrize("mode", OTHERS)
@pytest.mark.parametrize(
    "flags",
    [["--calibrator", "max"], ["--compare", "all"], ["--no-bias-correction"]],
)
def test_the_command_refuses_them_too(model, cli, tmp_path, mode, flags):
    done = cli("quantize", model, "-o", tmp_path / "q.onnx", "--mode", mode, *flags)
    assert done.returncode == 3
    assert f"is not for mode {mode}" in done.stderr
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(
    ("mode", "why"),
    [("dynamic", "is not for mode dynamic"), ("weight_only", "gptq fits weights to data")],
)
def test_gptq_needs_a_mode_and_data(model, cli, tmp_path, mode, why):
    done = cli("quantize", model, "-o", tmp_path / "q.onnx", "--mode", mode, "--weights=gptq")
    assert done.returncode == 3
    assert why in done.stderr
    assert not (tmp_path / "q.onnx").exists()


def test_unknown_mode(model, cli, tmp_path):
    with pytest.raises(octavo.UserError, match=r"'best' is not known; .*static, dynamic"):
        octavo.quantize(octavo.load_onnx(model), mode="best")
    done = cli("quantize", model, "-o", tmp_path / "q.onnx", "--mode", "best")
    assert done.returncode == 3


def test_a_static_rule_needs_data_in_every_mode(model, tmp_path):
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"schema_version": 1, "rules": [{"precision": "int8"}]}))
    graph = octavo.load_onnx(model)
    for mode in OTHERS:
        with pytest.raises(octavo.UserError, match="a rule asks for int8"):
            octavo.quantize(graph, mode=mode, rules=rules)
        record = octavo.quantize(graph, [samples(2)], mode=mode, rules=rules).record
        assert record["quantization"]["mode"] == mode
        assert {p["precision"] for p in record["quantization"]["precisions"]} == {"int8"}
