"""inspect, bench and doctor: what their JSON says against what the file and the machine say."""

from __future__ import annotations

import json
import os
import platform
import tomllib
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import octavo
from conftest import ROOT, make_model

ISAS = {"portable", "avx2", "avx512", "vnni", "amx"}
WEIGHTS = {"conv": 8 * 3 * 9 + 8, "y": 5 * 8}  # elements, f32


def result(done) -> dict:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def error(done) -> dict:
    assert done.returncode != 0
    found = json.loads(done.stdout)["error"]
    assert found["exit_code"] == done.returncode
    assert done.stderr.startswith("octavo: error: ")
    assert done.stderr.count("\n") == 1
    return found


# inspect ---------------------------------------------------------------------------------------


def test_inspect_tells_what_the_file_holds(cli, model):
    info = result(cli("inspect", model, "--json"))
    graph = onnx.load(model).graph
    assert info["name"] == graph.name
    assert info["stage"] == "canonical"
    assert info["inputs"] == [{"name": "x", "type": "f32[N, 3, 8, 8]"}]
    assert info["outputs"] == [{"name": "y", "type": "f32[N, 5]"}]
    assert info["nodes"] == len(graph.node) == len(info["layers"])
    assert sum(info["ops"].values()) == info["nodes"]
    assert info["ops"]["conv"] == info["ops"]["gemm"] == info["ops"]["relu"] == 1
    assert [layer["name"] for layer in info["layers"]] == [n.name for n in graph.node]
    assert info["weights_bytes"] == 4 * sum(WEIGHTS.values())
    by_op = {layer["op"]: layer for layer in info["layers"]}
    assert by_op["conv"]["weights_bytes"] == 4 * WEIGHTS["conv"]
    assert by_op["gemm"]["weights_bytes"] == 4 * WEIGHTS["y"]
    assert by_op["conv"]["output"] == "f32[N, 8, 8, 8]"


def test_inspect_for_people_has_the_same_facts(cli, model):
    done = cli("inspect", model)
    assert done.returncode == 0
    assert "small, canonical: 5 nodes, weights 1.1 kB" in done.stdout
    for line in ("x: f32[N, 3, 8, 8]", "y: f32[N, 5]", "1 conv", "1 gemm"):
        assert line in done.stdout


@pytest.mark.parametrize("batch", [1, 3])
def test_inspect_plan_counts_the_work(cli, model, batch):
    plan = result(cli("inspect", model, "--plan", "--batch", batch, "--json"))
    steps = {step["op"]: step for step in plan["steps"]}
    assert steps["fused_conv"]["macs"] == batch * 8 * 8 * 8 * 27
    assert steps["fused_gemm"]["macs"] == batch * 5 * 8
    assert plan["least_arena_bytes"] <= plan["arena_bytes"]
    # The largest two neighbours: the picture and the convolution's answer.
    assert plan["arena_bytes"] >= 4 * batch * 8 * 64
    assert all(
        step["isa"] in ("portable", "avx2", "avx512", "vnni", "amx") for step in plan["steps"]
    )


def test_inspect_plan_obeys_the_instruction_set(cli, model):
    plan = result(cli("inspect", model, "--plan", "--isa", "portable", "--json"))
    assert {step["isa"] for step in plan["steps"]} == {"portable"}


def test_inspect_lint_gives_findings_and_exit_code_1(cli, model, data, tmp_path):
    done = cli("inspect", model, "--lint", "onnxruntime", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["target"] == "onnxruntime"
    assert {f["node"] for f in report["findings"]} >= {"conv", "gemm"}
    assert all(f["reason"] for f in report["findings"])
    int8 = tmp_path / "int8.onnx"
    assert cli("quantize", model, "-o", int8, "--data", data).returncode == 0
    report = json.loads(cli("inspect", int8, "--lint", "octavo", "--json").stdout)
    assert "conv" in report["integer"]


def test_inspect_errors(cli, model, tmp_path):
    (tmp_path / "text.onnx").write_text("this is no model")
    assert error(cli("inspect", tmp_path / "text.onnx", "--json"))["kind"] == "file"
    found = error(cli("inspect", model, "--lint", "abacus", "--json"))
    assert (found["kind"], found["exit_code"]) == ("value", 3)
    assert "onnxruntime" in found["hint"] + found["message"]
    assert cli("inspect", model, "--batch", "0", "--plan").returncode == 2
    assert cli("inspect").returncode == 2


def windows(path: Path, least: int) -> Path:
    """f32[N, 1, H, ?]: a pool whose windows want at least ``least`` rows and columns."""
    pool = helper.make_node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[least, least])
    graph = helper.make_graph(
        [pool],
        "windows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, "H", None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def test_inspect_binds_what_the_network_allows(cli, tmp_path):
    path = windows(tmp_path / "five.onnx", 5)
    program = octavo.compile(path)
    info = octavo.inspect(program)
    assert info["bound"] == {"N": 1, "H": 8, "x.3": 8}
    assert info["inputs"] == [{"name": "x", "type": "f32[N, 1, H, ?]"}]
    assert "pool" in {step["op"] for step in info["steps"]}
    info = octavo.inspect(program, dims={"H": 5})
    assert info["bound"] == {"N": 1, "H": 5, "x.3": 8}
    assert octavo.inspect(program, batch=6)["bound"] == {"N": 6, "H": 6, "x.3": 6}
    for keywords in ({"batch": 4}, {"dims": {"H": 4}}):
        with pytest.raises(octavo.UserError, match=r"window.*H = 4"):
            octavo.inspect(program, **keywords)
    with pytest.raises(octavo.UserError, match=r"'W' is no symbolic dimension.*H, N, x\.3"):
        octavo.inspect(program, dims={"W": 4})
    with pytest.raises(octavo.UserError, match="positive"):
        octavo.inspect(program, dims={"H": 0})
    with pytest.raises(TypeError, match="for a Program"):
        octavo.inspect(octavo.load_onnx(path), batch=4)
    # The command, too; it once refused to compile such a network.
    out = tmp_path / "five.octavo"
    assert result(cli("compile", path, "-o", out, "--json"))["bound"]["H"] == 8
    assert result(cli("inspect", out, "--plan", "--dim", "H=5", "--json"))["bound"]["H"] == 5
    assert result(cli("bench", out, "--seconds", "0.02", "--json"))["bound"]["x.3"] == 8
    assert cli("run", out).returncode == 0
    found = error(cli("inspect", out, "--plan", "--dim", "H", "--json"))
    assert (found["exit_code"], found["message"]) == (3, "is no NAME=NUMBER")


def test_inspect_says_why_nothing_is_bound(tmp_path):
    info = octavo.inspect(octavo.compile(windows(tmp_path / "large.onnx", 1025)))
    assert info["bound"] is None
    assert info["steps"] == []
    assert "window" in info["reason"]
    assert info["inputs"] == [{"name": "x", "type": "f32[N, 1, H, ?]"}]


# bench -----------------------------------------------------------------------------------------


def test_bench_measures_calls(cli, model):
    info = result(
        cli("bench", model, "--seconds", "0.2", "--threads", "1", "--batch", "2", "--json")
    )
    assert info["model"] == str(model)
    assert (info["threads"], info["bound"]) == (1, {"N": 2})
    assert 0 < info["least_ms"] <= info["median_ms"]
    # Half of the calls took the median or more, and together they fit into the time.
    assert info["calls"] >= 2
    assert info["calls"] // 2 * info["median_ms"] <= 1000


def test_bench_for_people(cli, model):
    done = cli("bench", model, "--seconds", "0.02", "--threads", "1")
    assert done.returncode == 0
    assert done.stdout.startswith(f"{model}: median ")
    assert "1 threads, N 1" in done.stdout


def test_bench_errors(cli, model, tmp_path):
    assert error(cli("bench", tmp_path / "gone.onnx", "--json"))["kind"] == "file"
    assert cli("bench", model, "--seconds", "0").returncode == 2
    assert cli("bench", model, "--threads", "-1").returncode == 2
    # A fixed batch does not become another; the file's own shape is measured.
    fixed = make_model(tmp_path / "four.onnx", batch=4)
    assert result(cli("bench", fixed, "--seconds", "0.02", "--json"))["calls"] >= 1


# doctor ----------------------------------------------------------------------------------------


def test_doctor_tells_the_truth_about_the_machine(cli):
    info = result(cli("doctor", "--json"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert info["octavo"] == project["version"]
    cpuinfo = Path("/proc/cpuinfo").read_text()
    if platform.machine() == "x86_64":
        assert info["cpu"] in cpuinfo
        flags = set(next(x for x in cpuinfo.splitlines() if x.startswith("flags")).split())
        has = {
            "avx2": {"avx2", "fma", "f16c"},
            "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
            "vnni": {"avx512_vnni"},
            "amx": {"amx_tile", "amx_int8"},
        }
        best = "portable"
        for isa, needed in has.items():
            if not needed <= flags:
                break
            best = isa
        # The operating system may withhold the tile registers.
        assert info["hardware_isa"] == best or (best == "amx" and info["hardware_isa"] == "vnni")
    assert 1 <= info["available_cpus"] <= len(os.sched_getaffinity(0))
    assert info["threads"] == info["available_cpus"]
    assert info["ops"] > 100


def test_doctor_shows_variables_and_what_they_do(cli):
    info = result(cli("doctor", "--json"))
    assert {v["name"]: v["value"] for v in info["environment"]}["OCTAVO_ISA"] == ""
    assert all(len(v["meaning"]) > 8 for v in info["environment"])
    done = cli("doctor", "--json", env={"OCTAVO_ISA": "avx2"})
    info = result(done)
    assert {v["name"]: v["value"] for v in info["environment"]}["OCTAVO_ISA"] == "avx2"
    assert info["isa"] in ("avx2", "portable")
    assert result(cli("doctor", "--isa", "portable", "--json"))["isa"] == "portable"


def test_doctor_for_people_and_its_errors(cli):
    done = cli("doctor")
    assert done.returncode == 0
    for word in ("hardware_isa", "available_cpus", "environment variables:", "OCTAVO_ISA"):
        assert word in done.stdout
    assert cli("doctor", "surplus").returncode == 2
    assert error(cli("doctor", "--isa", "abacus", "--json"))["exit_code"] in (2, 3)
