"""The command: what it prints, writes and returns."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from conftest import make_model, samples

SUBCOMMANDS = ["quantize", "sensitivity", "search", "compile", "run", "bench", "inspect", "doctor"]
CODES = {"0", "1", "2", "3", "4", "5", "6", "70", "130"}


def quantize(cli, model, data, tmp_path, *more, name="int8.onnx"):
    out = tmp_path / name
    done = cli("quantize", model, "-o", out, "--data", data, *more)
    assert done.returncode == 0, done.stderr
    return out, done


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_help_suffices(cli, subcommand):
    done = cli(subcommand, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert f"octavo {subcommand}" in done.stdout  # an example
    codes = done.stdout.split("Exit codes:")[1]
    assert set(re.findall(r"^  (\d+) ", codes, re.MULTILINE)) == CODES


def test_docs_list_every_subcommand_option_and_code(cli):
    text = (Path(__file__).resolve().parents[2] / "docs/cli.md").read_text()
    for subcommand in SUBCOMMANDS:
        section = text.split(f"## octavo {subcommand}\n")[1].split("\n## ")[0]
        options = cli(subcommand, "--help").stdout.split("Exit codes:")[0]
        for option in set(re.findall(r"^ +(?:-\w,)?(--[\w-]+)", options, re.MULTILINE)):
            if option != "--help":
                assert f"`{option}" in section, (subcommand, option)
    for code in CODES:
        assert re.search(rf"^\| {code} \|", text, re.MULTILINE), code


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_json_is_all_of_standard_output(cli, model, data, tmp_path, subcommand):
    arguments = {
        "quantize": [model, "-o", tmp_path / "q.onnx", "--data", data],
        "sensitivity": [model, "--data", data],
        "search": [model, "--data", data, "--max-drop", "0.5"],
        "compile": [model, "-o", tmp_path / "m.octavo"],
        "run": [model, "--data", data],
        "bench": [model, "--seconds", "0.05"],
        "inspect": [model],
        "doctor": [],
    }[subcommand]
    done = cli(subcommand, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stderr == ""


def test_json_of_an_error_and_of_a_wrong_command_line(cli, tmp_path):
    done = cli("inspect", tmp_path / "gone.onnx", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["exit_code"], error["kind"]) == (4, 4, "file")
    assert error["where"] == str(tmp_path / "gone.onnx")
    done = cli("inspect", "--json", "--nonsense")
    assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (2, "usage")


def test_quantize_compile_run(cli, model, data, tmp_path):
    int8, _ = quantize(cli, model, data, tmp_path)
    assert cli("compile", int8, "-o", tmp_path / "int8.octavo").returncode == 0
    x = samples(1, seed=3)
    np.save(tmp_path / "x.npy", x)
    arguments = ["--input", tmp_path / "x.npy", "--output", tmp_path / "y.npz", "--profile"]
    done = cli("run", tmp_path / "int8.octavo", *arguments)
    assert done.returncode == 0, done.stderr
    assert "GMAC/s" in done.stdout
    y = np.load(tmp_path / "y.npz")["y"]
    truth = onnxruntime.InferenceSession(str(model)).run(None, {"x": x})[0]
    assert y.shape == truth.shape
    # 8 bits over the outputs' range, through two layers.
    assert np.abs(y - truth).max() < 0.1 * np.abs(truth).max()
    assert cli("run", int8, "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy").returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), y)


def test_outputs_load_in_numpy_and_equal_onnxruntime(cli, model, data, tmp_path):
    done = cli("run", model, "--data", data, "--output", tmp_path / "y.npz")
    assert done.returncode == 0, done.stderr
    truth = onnxruntime.InferenceSession(str(model)).run(None, {"x": samples()})[0]
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["y"], truth, rtol=1e-5, atol=1e-5)


def test_every_form_of_data_gives_the_same_model(cli, model, tmp_path):
    x = samples()
    np.savez(tmp_path / "a.npz", x=x)
    np.savez_compressed(tmp_path / "b.npz", anything=x)
    np.save(tmp_path / "c.npy", x)
    (tmp_path / "d").mkdir()
    (tmp_path / "e").mkdir()
    for i, sample in enumerate(x):
        np.save(tmp_path / f"d/{i:02}.npy", sample[None])
        np.savez(tmp_path / f"e/{i:02}.npz", x=sample[None])
    files = []
    for name in ("a.npz", "b.npz", "c.npy", "d", "e"):
        out, _ = quantize(cli, model, tmp_path / name, tmp_path, name=f"{name[0]}.onnx")
        files.append(out.read_bytes())
    assert all(f == files[0] for f in files)


def test_pictures_with_a_preprocessing_file(cli, model, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, size=(6, 8, 8, 3), dtype=np.uint8)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i}.png")
    mean, std = [127.0, 120.0, 110.0], [64.0, 60.0, 58.0]
    (folder / "preprocessing.json").write_text(
        json.dumps({"schema_version": 1, "mean": mean, "std": std})
    )
    x = (pictures.astype(np.float32) - np.float32(mean)) / np.float32(std)
    np.save(tmp_path / "x.npy", np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    a, _ = quantize(cli, model, folder, tmp_path, name="a.onnx")
    b, _ = quantize(cli, model, tmp_path / "x.npy", tmp_path, name="b.onnx")
    assert a.read_bytes() == b.read_bytes()


def test_compare_judges_all_calibrators_in_one_pass(cli, model, data, tmp_path):
    record = tmp_path / "run.json"
    more = ["--compare", "all", "--calibrator", "max", "--record", record]
    out, done = quantize(cli, model, data, tmp_path, *more)
    names = [c["name"] for c in json.loads(record.read_text())["calibrators"]]
    assert names[0] == "max"
    assert len(names) == len(set(names)) >= 5
    assert all(name in done.stdout for name in names)
    alone, _ = quantize(cli, model, data, tmp_path, "--calibrator", "max", name="alone.onnx")
    assert alone.read_bytes() == out.read_bytes()


def test_no_progress_bar_in_a_pipe_and_one_on_a_terminal(cli, model, data, tmp_path):
    _, done = quantize(cli, model, data, tmp_path)
    assert "ETA" not in done.stderr
    outer, inner = pty.openpty()
    command = [shutil.which("octavo"), "quantize", str(model), "-o", str(tmp_path / "t.onnx")]
    process = subprocess.Popen(
        [*command, "--data", str(data)], stdout=subprocess.DEVNULL, stderr=inner
    )
    os.close(inner)
    seen = b""
    try:
        while block := os.read(outer, 4096):
            seen += block
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0
    os.close(outer)
    assert b"ETA" in seen
    assert b"16/16" in seen


def start_long_quantize(model, tmp_path):
    # Sparse, and long enough that no busy machine gets through it before the signal.
    x = samples(100)
    shape = (10_000_000, *x.shape[1:])
    big = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", x.dtype, shape)
    big[: len(x)] = x
    del big
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["-o", out / "q.onnx", "--data", tmp_path / "big.npy", "--record", out / "r.json"]
    return out, subprocess.Popen(
        [shutil.which("octavo"), "quantize", str(model), *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_leaves_nothing(model, tmp_path, sent, code):
    out, process = start_long_quantize(model, tmp_path)
    # The handlers stand once the big file is mapped.
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 30
    while "big.npy" not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    # A note on the data may stand before it, if the signal came late enough.
    assert error.splitlines()[-1] == "octavo: error: interrupted"
    assert list(out.iterdir()) == []


def test_output_through_a_link_and_to_a_device(cli, model, data, tmp_path):
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real.onnx")
    quantize(cli, model, data, tmp_path, "--record", "/dev/null", name="link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert (tmp_path / "real.onnx").is_file()
    assert Path("/dev/null").is_char_device()


def test_output_to_a_pipe(cli, model, data, tmp_path):
    os.mkfifo(tmp_path / "record")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "record").read_text()))
    reader.start()
    quantize(cli, model, data, tmp_path, "--record", tmp_path / "record")
    reader.join(timeout=30)
    assert json.loads(read[0])["schema_version"] == 1


def test_inspect_plan_and_text(cli, model, tmp_path):
    plan = json.loads(cli("inspect", model, "--plan", "--json").stdout)
    assert plan["steps"]
    assert "conv" in cli("inspect", model, "--text").stdout
    assert "text" in json.loads(cli("inspect", model, "--text", "--json").stdout)
    assert cli("inspect", model, "--text", "--plan").returncode == 2


def test_fixed_batch_divides_the_data(cli, tmp_path):
    model = make_model(tmp_path / "four.onnx", batch=4)
    np.save(tmp_path / "x.npy", samples(16))
    record = tmp_path / "r.json"
    quantize(cli, model, tmp_path / "x.npy", tmp_path, "--record", record)
    assert json.loads(record.read_text())["data"]["calibration_samples"] == 4


def test_full_standard_output_is_an_error(model):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [shutil.which("octavo"), "inspect", str(model)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 4
    assert "standard output" in done.stderr
