"""octavo.sensitivity and `octavo sensitivity`, against runs of whole networks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import octavo
from conftest import samples, validate

LAYERS = {"conv", "pool", "gemm"}


def sqnr(truth, got) -> float:
    y, z = (np.concatenate(a).astype(np.float64) for a in (truth, got))
    return 10 * np.log10(np.sum(y**2) / np.sum((y - z) ** 2))


@pytest.mark.parametrize("mode", ["only", "all_but"])
def test_figures_are_those_of_the_graphs_that_rules_make(graph, batches, mode):
    """The oracle: octavo.quantize with a rules file, the whole network run, SQNR in NumPy."""
    result = octavo.sensitivity(graph, batches, mode=mode, calibrator="max")
    assert {layer.name for layer in result.layers} == LAYERS
    program = octavo.compile(graph)
    truth = [program(*x)[0] for x in batches]
    checked = 0
    for layer in result.layers:
        if mode == "only" and layer.op == "reduce_mean":
            continue  # no rule makes it integer alone
        rules = [{"name": name, "precision": "float"} for name in layer.nodes]
        if mode == "only":
            rules = [{"precision": "float"}]
            rules += [{"name": name, "precision": "int8"} for name in layer.nodes]
        int8 = octavo.quantize(
            graph,
            batches,
            calibrator="max",
            weights="mse",
            bias_correction=False,
            rules=octavo.Rules(tuple(rules)),
        )
        quantized = octavo.compile(int8)
        want = sqnr(truth, [quantized(*x)[0] for x in batches])
        # Float64 sums of the same float32 outputs, in another order.
        assert layer.figures.sqnr_db.value == pytest.approx(want, rel=1e-9)
        assert layer.figures.sqnr_db.low <= want <= layer.figures.sqnr_db.high
        checked += 1
    assert checked >= 2
    ranked = [layer.figures.sqnr_db.value for layer in result.layers]
    assert ranked == sorted(ranked, reverse=mode == "all_but")
    validate(result.record, "sensitivity")


def test_any_function_is_a_metric(graph, batches):
    labels = np.arange(8) % 5
    seen = []

    def hit(outputs, batch):
        np.testing.assert_array_equal(batch.inputs[0], batches[batch.index][0])
        seen.append(batch.index)
        return outputs[0][0, labels[batch.index]]

    result = octavo.sensitivity(graph, batches, metric=hit)
    assert seen.count(0) == len(LAYERS) + 2  # each layer, everything, float
    program = octavo.compile(graph)
    want = np.mean([program(*x)[0][0, labels[i]] for i, x in enumerate(batches)], dtype=np.float64)
    assert result.record["float_metric"] == pytest.approx(want, rel=1e-12)
    means = [layer.figures.metric.value for layer in result.layers]
    assert means == sorted(means)
    assert result.record["metric"] == "hit (function)"
    validate(result.record, "sensitivity")


def test_the_bootstrap_is_that_of_numpy(graph, batches):
    """The interval of a mean against resampling in NumPy: both estimate the same quantiles."""
    values = np.random.default_rng(5).normal(size=8)
    result = octavo.sensitivity(graph, batches, metric=lambda outputs, batch: values[batch.index])
    draws = np.random.default_rng(6).choice(values, size=(200000, 8)).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    figure = result.layers[0].figures.metric
    assert figure.value == pytest.approx(values.mean(), rel=1e-12)
    # The quantile of 500 draws has a standard error of sqrt(.025 * .975 / 500) / density, with a
    # density of about 0.06 / sd there: 0.12 sd. Four of them.
    sd = draws.std()
    assert abs(figure.low - low) < 0.5 * sd
    assert abs(figure.high - high) < 0.5 * sd
    assert figure.low < figure.value < figure.high


def test_errors_of_metrics(graph, batches):
    with pytest.raises(octavo.UserError, match="NaN for sample 0"):
        octavo.sensitivity(graph, batches, metric=lambda *_: float("nan"))
    with pytest.raises(ZeroDivisionError):
        octavo.sensitivity(graph, batches, metric=lambda *_: 1 / 0)
    with pytest.raises((TypeError, ValueError)):
        octavo.sensitivity(graph, batches, metric=lambda *_: "high")
    with pytest.raises(TypeError, match="a name or a function"):
        octavo.sensitivity(graph, batches, metric=3)
    with pytest.raises(octavo.UserError, match="'mAP' is not known"):
        octavo.sensitivity(graph, batches, metric="mAP")
    with pytest.raises(TypeError, match="takes a Graph"):
        octavo.sensitivity("model.onnx", batches)
    with pytest.raises(octavo.UserError, match="only, all_but, sqnr"):
        octavo.sensitivity(graph, batches, mode="each")


def test_worst_layers_stay_in_float(graph, batches, tmp_path):
    result = octavo.sensitivity(
        graph, batches, rules=octavo.Rules(({"name": "nothing*", "precision": "float"},))
    )
    rules = octavo.disable_worst(result, 1)
    worst = [layer.name for layer in result.layers[:1]]
    assert [r["name"] for r in rules.rules] == ["nothing*", *worst]
    rules.save(tmp_path / "rules.json")
    validate(json.loads((tmp_path / "rules.json").read_text()), "rules")
    assert octavo.Rules.load(tmp_path / "rules.json") == rules
    better = octavo.quantize(graph, batches, rules=rules)
    record = octavo.quantize(graph, batches, rules=tmp_path / "rules.json").record
    assert better.record["layers"] == record["layers"]
    skipped = {s["node"] for s in record["quantization"]["skipped"]}
    assert set(worst) & {"conv", "gemm"} <= skipped
    for k in (4, -1):
        with pytest.raises(octavo.UserError):
            octavo.disable_worst(result, k)
    with pytest.raises(octavo.FileError):
        octavo.Rules(({"precision": "int3"},))


class StopError(Exception):
    pass


def test_resumed_is_uninterrupted(graph, batches, tmp_path):
    path = tmp_path / "checkpoint.json"
    want = octavo.sensitivity(graph, batches).record["layers"]
    begun = []

    def stop_late(phase, done, total):
        if phase == "measuring layers" and done * 10 > total * 9:
            raise StopError

    with pytest.raises(StopError):
        octavo.sensitivity(graph, batches, checkpoint=path, memory=1, progress=stop_late)
    # The last layer-chunk may be younger than a second: whatever is there is taken over.
    got = octavo.sensitivity(
        graph, batches, checkpoint=path, progress=lambda *call: begun.append(call)
    )
    assert got.record["layers"] == want
    again = octavo.sensitivity(graph, batches, checkpoint=path)
    assert again.record["layers"] == want
    with pytest.raises(octavo.FileError, match="other options"):
        octavo.sensitivity(graph, batches, checkpoint=path, mode="all_but")


def test_command(cli, model, data, tmp_path):
    record, rules = tmp_path / "sensitivity.json", tmp_path / "rules.json"
    more = ["--record", record, "--worst", "1", "--write-rules", rules]
    done = cli("sensitivity", model, "--data", data, *more)
    assert done.returncode == 0, done.stderr
    written = json.loads(record.read_text())
    validate(written, "sensitivity")
    lines = done.stdout.splitlines()
    names = [line.split()[1] for line in lines[1 : 1 + len(LAYERS)]]
    assert names == [layer["name"] for layer in written["layers"]]
    assert "everything quantized" in done.stdout
    assert json.loads(rules.read_text())["rules"] == [
        {"name": written["layers"][0]["name"], "precision": "float"}
    ]
    out = tmp_path / "int8.onnx"
    done = cli("quantize", model, "-o", out, "--data", data, "--rules", rules, "--json")
    assert done.returncode == 0, done.stderr
    record_of_int8 = json.loads(done.stdout)
    assert written["layers"][0]["name"] in json.dumps(record_of_int8["quantization"])


def test_command_errors(cli, model, data, tmp_path):
    done = cli("sensitivity", model, "--data", data, "--mode", "each")
    assert (done.returncode, "only, all_but, sqnr" in done.stderr) == (3, True)
    done = cli("sensitivity", model, "--data", data, "--weights", "gptq")
    assert done.returncode == 5
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    done = cli("sensitivity", model, "--data", data, "--checkpoint", bad)
    assert (done.returncode, str(bad) in done.stderr) == (4, True)
    rules = tmp_path / "rules.json"
    done = cli("sensitivity", model, "--data", data, "--worst", "9", "--write-rules", rules)
    assert done.returncode == 3
    assert not rules.exists()


def test_interrupted_command_leaves_a_whole_checkpoint(tmp_path, model):
    """SIGINT somewhere in the middle, then on: the figures of a run that nothing interrupted."""
    np.savez(tmp_path / "data.npz", x=samples(3000))
    checkpoint = tmp_path / "checkpoint.json"
    command = ["octavo", "sensitivity", str(model), "--data", str(tmp_path / "data.npz"), "--json"]
    want = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["layers"]
    command += ["--checkpoint", str(checkpoint), "--memory", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    assert json.loads(checkpoint.read_text())["kind"] == "sensitivity_checkpoint"
    done = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(done.stdout)["layers"] == want
    assert {p.name for p in Path(tmp_path).iterdir()} == {"data.npz", "checkpoint.json"}
