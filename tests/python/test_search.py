"""octavo.search and `octavo search`. Injected times decide; measured ones are only there."""

from __future__ import annotations

import json

import numpy as np
import pytest

import octavo
from conftest import samples, validate


def counted(graph: octavo.Graph) -> float:
    """100 us, and 10 for each product in float."""
    ops = octavo.inspect(graph)["ops"]
    products = ops.get("conv", 0) + ops.get("gemm", 0)
    assert products == 2, ops
    integer = sum(
        any(part in layer["name"] for part in ("w1/dequantized", "w2/dequantized"))
        for layer in octavo.inspect(graph)["layers"]
    )
    return 100 + 10 * (products - integer)


def sqnr(truth, got) -> float:
    y, z = (np.concatenate(a).astype(np.float64) for a in (truth, got))
    noise = np.sum((y - z) ** 2)
    return np.inf if noise == 0 else 10 * np.log10(np.sum(y**2) / noise)


@pytest.mark.parametrize("weights", ["mse", "gptq"])
def test_points_apply_and_are_what_their_rules_give(graph, batches, weights):
    result = octavo.search(
        graph, batches, metric="sqnr", least=43, latency=counted, weights=weights, calibrator="max"
    )
    validate(result.record, "search")
    program = octavo.compile(graph)
    truth = [program(*x)[0] for x in batches]
    for i, point in enumerate(result.points):
        applied = octavo.compile(result.apply(i))
        got = [applied(*x)[0] for x in batches]
        # Float64 sums of the same float32 outputs, in another order.
        assert point.figures.sqnr_db.value == pytest.approx(sqnr(truth, got), rel=1e-9)
        assert point.microseconds == counted(result.apply(i))
        if point.microseconds < 120:  # some product is quantized
            again = octavo.quantize(
                graph, batches, rules=result.rules(i), weights=weights, calibrator="max"
            )
            again = octavo.compile(again)
            for x, y in zip(batches, got, strict=True):
                np.testing.assert_array_equal(again(*x)[0], y)
    assert result.points[-1].figures.sqnr_db.value == np.inf
    enough = [p for p in result.points if p.figures.sqnr_db.value >= 43]
    chosen = result.points[result.chosen]
    assert chosen in enough
    assert chosen.microseconds == min(p.microseconds for p in enough)
    front = result.front
    assert [p.microseconds for p in front] == sorted(p.microseconds for p in front)
    values = [p.figures.sqnr_db.value for p in front]
    assert values == sorted(values)
    assert ">" in str(result)


def test_drop_of_a_function(graph, batches):
    def first(outputs, batch):
        return outputs[0][0, 0]

    result = octavo.search(graph, batches, metric=first, max_drop=0.01, latency=counted)
    chosen = result.points[result.chosen]
    assert chosen.drop <= 0.01
    assert chosen.figures.metric is not None
    validate(result.record, "search")


def test_measured_times_are_there(graph, batches, tmp_path):
    path = tmp_path / "search.json"
    result = octavo.search(graph, batches, max_drop=1, record=path)
    assert json.loads(path.read_text()) == result.record
    assert result.record["latency"]["measured"]
    assert all(p.microseconds > 0 for p in result.points)


def test_errors(graph, batches):
    with pytest.raises(octavo.UserError, match="exactly one"):
        octavo.search(graph, batches)
    with pytest.raises(octavo.UserError, match="awq changes the network"):
        octavo.search(graph, batches, max_drop=1, weights="awq")
    with pytest.raises(octavo.UserError, match="use least"):
        octavo.search(graph, batches, metric="sqnr", max_drop=1)
    with pytest.raises(octavo.UserError, match="no positive time"):
        octavo.search(graph, batches, max_drop=1, latency=lambda _: 0)
    with pytest.raises(ZeroDivisionError):
        octavo.search(graph, batches, max_drop=1, latency=lambda _: 1 / 0)
    with pytest.raises(TypeError, match="takes a Graph"):
        octavo.search("model.onnx", batches, max_drop=1)
    result = octavo.search(graph, batches, max_drop=1, latency=counted)
    for call in (result.rules, result.apply):
        with pytest.raises(octavo.UserError, match="no number 9"):
            call(9)


def test_command(cli, model, data, tmp_path):
    record, rules = tmp_path / "search.json", tmp_path / "rules.json"
    out = tmp_path / "mixed.onnx"
    files = ["-o", out, "--record", record, "--write-rules", rules]
    limit = ["--metric", "sqnr", "--least", "30"]
    done = cli("search", model, "--data", data, *limit, *files)
    assert done.returncode == 0, done.stderr
    written = json.loads(record.read_text())
    validate(written, "search")
    validate(json.loads(rules.read_text()), "rules")
    chosen = written["points"][written["chosen"]]
    assert json.loads(rules.read_text())["rules"] == chosen["rules"]
    assert chosen["sqnr_db"]["value"] is None or chosen["sqnr_db"]["value"] >= 30
    assert done.stdout.count("\n>") == 1
    program = octavo.compile(out)
    floats = octavo.compile(model)
    truth, got = ([p(x[None])[0] for x in samples()] for p in (floats, program))
    if chosen["sqnr_db"]["value"] is not None:
        assert chosen["sqnr_db"]["value"] == pytest.approx(sqnr(truth, got), rel=1e-9)
    assert cli("search", model, "--data", data).returncode == 3
    both = ["--max-drop", "1", "--least", "1"]
    assert cli("search", model, "--data", data, *both).returncode == 2
