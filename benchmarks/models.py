"""Whole networks: Octavo beside torch, inductor, ONNX Runtime and OpenVINO, in one run.

    models.py                                 all networks, batch 1 and 16, 1 and 2 threads
    models.py resnet50 --batch 1 --threads 2
    models.py --inductor never                without what takes a minute to compile

Each network, batch and thread count is a process of its own in which the contestants take turns
(peers.py). Before anything is timed, outputs are checked by their SQNR against ONNX Runtime's FP32,
Octavo's INT8 against ONNX Runtime's unoptimized run of the same Q/DQ file too.
INT8 files come from each engine's own tool and the same samples.

A ratio is the best peer's median over Octavo's, same precision: above 1, Octavo is faster. The
roofline is the longer of products at the dot-product rate and weights at the read bandwidth, both
measured in the same process. First answer: from the file's path (or the module) to the first
output; the first of inductor's starts with an empty cache, the others find its kernels. Results are
added to --json; tools/performance_page.py makes docs/performance.md of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

import octavo
import peers
from benchmark_set import NETWORKS, ROOT, Inputs, model_file, samples
from model_results import Row, precision, ratio, roofline_ms

# Float engines sum in their own orders: 100 layers of errors of some 1e-6, relative. Of INT8 and
# bf16: whether the engine runs the network at all, whose random weights keep little of the signal.
LEAST_SQNR_DB = {"FP32": 80.0, "bf16": 10.0, "INT8": 3.0}
# Two engines that run one Q/DQ file requantize in their own arithmetics: single activations differ
# by one step, and what 50 layers of random weights make of that is the quantization's own noise
# again, of which the difference of two runs has at most twice as much.
TWICE_DB = 3.0
SECONDS = 2.0  # of timed calls for each contestant, about

Maker = Callable[[], peers.Runner]


def octavo_runner(name: str, path: Path, threads: int) -> peers.Runner:
    program = octavo.compile(path, threads=threads)

    def run(x: peers.Inputs) -> peers.Array:
        logits: peers.Array = program(x)[0]
        return logits

    return peers.Runner(name, run, (path,))


def plain_ort(path: Path, x: Inputs) -> peers.Array:
    """What a Q/DQ file says, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    logits: peers.Array = session.run(None, x)[0]
    return logits


def int8_files(name: str, model: Path, folder: Path) -> dict[str, Path]:
    """Each engine's INT8 file, made by its own tool from the same samples."""
    network = NETWORKS[name]
    folder.mkdir(parents=True, exist_ok=True)
    data = samples(name, 4, 1)
    calibration = folder / f"{name}-calibration.npz"
    if not calibration.exists():
        np.savez(calibration, **data)  # type: ignore[arg-type]
    ours = folder / f"{name}-octavo.onnx"  # made anew: it is what is under test
    graph = octavo.load_onnx(str(model))
    rows = [tuple(x[i : i + 1] for x in data.values()) for i in range(4)]
    octavo.save(octavo.quantize(graph, rows, calibrator="max", weights="max"), ours)
    made = {"Octavo INT8": ours}
    for engine, tool in (("ONNX Runtime INT8", network.ort), ("OpenVINO INT8", network.nncf)):
        try:
            made[engine] = peers.cached(model, calibration, folder / "peers", tool)
        except Exception as error:
            print(f"{name}: {tool} failed: {str(error)[:200]}", file=sys.stderr)
    return made


def makers(name: str, x: Inputs, threads: int, inductor: bool, folder: Path) -> dict[str, Maker]:
    model = model_file(name)
    int8 = int8_files(name, model, folder)
    shapes = {key: value.shape for key, value in x.items()}
    engines: dict[str, Callable[[str, Path], peers.Runner]] = {
        "Octavo": lambda n, p: octavo_runner(n, p, threads),
        "ONNX Runtime": lambda n, p: peers.ort_runner(n, p, threads, shapes),
        "OpenVINO": lambda n, p: peers.openvino_runner(n, p, threads, shapes),
    }
    made: dict[str, Maker] = {}
    for engine, make in engines.items():
        made[f"{engine} FP32"] = partial(make, f"{engine} FP32", model)
        if path := int8.get(f"{engine} INT8"):
            made[f"{engine} INT8"] = partial(make, f"{engine} INT8", path)
    made["OpenVINO bf16"] = partial(
        peers.openvino_runner, "OpenVINO bf16", model, threads, shapes, bf16=True
    )
    if NETWORKS[name].module:
        import torch_peers

        made |= torch_peers.makers(NETWORKS[name].module, threads, inductor)
    return made


def first_answer(make: Maker, x: Inputs, times: int) -> tuple[peers.Runner, float]:
    """A runner, and the median of its seconds to an output."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        runner = make()
        runner.run(x)
        seconds.append(time.perf_counter() - start)
    return runner, float(np.median(seconds))


def limits(threads: int) -> dict[str, float]:
    """Dot products in TOPS (INT8; FP32 is a quarter), reads in GB/s."""
    program = ROOT / "build/release/benchmarks/bench_conv_int8"
    command = [program, "encoder", "--threads", str(threads), "--rounds", "7", "--best"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak = re.search(r"dot-product peak (\d+) GOPS", text)
    if not peak:
        raise SystemExit(f"{program.name}: no rate in its output")
    import torch

    torch.set_num_threads(threads)
    block = torch.ones(1 << 27)
    block.sum()
    times = []
    for _ in range(7):
        start = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - start)
    return {"tops": float(peak[1]) / 1000, "gbs": 4 * block.numel() / min(times) / 1e9}


def check(name: str, reference: peers.Array, output: peers.Array, least: float) -> None:
    sqnr = peers.sqnr_db(reference, output)
    if not sqnr >= least:
        raise ValueError(f"{name}: outputs are off, SQNR {sqnr:.1f} dB (least {least})")


def one(name: str, batch: int, threads: int, inductor: bool, folder: Path) -> Row:
    """Everything about one network, batch and thread count."""
    x = samples(name, batch, 3)
    limit = limits(threads)
    everyone = makers(name, x, threads, inductor, folder)
    plain = plain_ort(model_file(name), x)
    runners: dict[str, peers.Runner] = {}
    rows: dict[str, Row] = {}
    for contestant, make in everyone.items():
        kind = precision(contestant)
        try:
            runner, first = first_answer(make, x, 1 if "inductor" in contestant else 3)
            output = runner.run(x)
            if contestant == "Octavo INT8":
                same = plain_ort(runner.files[0], x)
                noise = peers.sqnr_db(plain, same) - TWICE_DB
                least = NETWORKS[name].same_file_db
                check(contestant, same, output, noise if least is None else least)
            check(contestant, plain, output, LEAST_SQNR_DB[kind])
        except Exception as error:
            if contestant.startswith("Octavo"):
                raise
            rows[contestant] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
            continue
        runners[contestant] = runner
        rows[contestant] = {"first_s": first, "bytes": runner.size}
    start = time.perf_counter()
    runners["Octavo FP32"].run(x)
    call = time.perf_counter() - start
    calls = int(np.clip(0.2 / call, 1, 50))
    rounds = int(np.clip(SECONDS / (calls * call), 3, 12))
    times = peers.latency(list(runners.values()), x, rounds=rounds, warm=min(calls, 2), calls=calls)
    for contestant, taken in times.items():
        rows[contestant] |= {"median_ms": taken.median, "best_ms": taken.best}
    profile = octavo.compile(model_file(name), threads=1).profile(x)
    return {
        "network": name,
        "batch": batch,
        "threads": threads,
        "macs": sum(step["macs"] for step in profile),
        "limits": limit,
        "rows": rows,
    }


def show(result: Row) -> None:
    rows = result["rows"]
    print(
        f"{result['network']}, batch {result['batch']}, {result['threads']} threads "
        f"({result['limits']['tops']:.2f} TOPS, {result['limits']['gbs']:.0f} GB/s)"
    )
    for name, row in rows.items():
        if "failed" in row:
            print(f"  {name:24} {row['failed'][:90]}")
            continue
        line = f"  {name:24}{row['median_ms']:10.3f} ms{row['best_ms']:10.3f} best"
        line += f"{row['first_s']:9.3f} s first"
        if name.startswith("Octavo"):
            line += f"{100 * roofline_ms(result, name) / row['median_ms']:6.0f}% of roofline"
            if found := ratio(rows, precision(name)):
                line += f"  {found[0]:.2f}x {found[1]}"
        print(line)
    sys.stdout.flush()


def run_apart(name: str, batch: int, threads: int, inductor: bool, folder: Path) -> Row:
    """`one` in a process of its own, with an empty cache of inductor's."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "result.json"
        command = [sys.executable, __file__, name, "--child", str(out), "--batch", str(batch)]
        command += ["--threads", str(threads), "--cache", str(folder)]
        command += ["--inductor", "always" if inductor else "never"]
        # OpenMP's threads that spin for long starve whoever comes next.
        settings = {"GOMP_SPINCOUNT": "20000", "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/inductor"}
        subprocess.run(command, check=True, env=os.environ | settings)
        result: Row = json.loads(out.read_text())
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(NETWORKS)} (all)")
    parser.add_argument("--batch", type=int, nargs="+", help="(1 and 16, the MLP 200)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--inductor",
        choices=("always", "some", "never"),
        default="some",
        help="some: with batch 1 (or the MLP's 200) and 2 threads",
    )
    parser.add_argument("--json", type=Path, default=ROOT / "build/bench/models.json")
    parser.add_argument("--cache", type=Path, default=ROOT / "build/bench")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.networks if name not in NETWORKS]:
        parser.error(f"unknown: {', '.join(unknown)}")
    if options.child:
        (name,), (batch,), (threads,) = options.networks, options.batch, options.threads
        result = one(name, batch, threads, options.inductor == "always", options.cache)
        options.child.write_text(json.dumps(result))
        return 0
    options.json.parent.mkdir(parents=True, exist_ok=True)
    results: list[Row] = json.loads(options.json.read_text()) if options.json.exists() else []
    for name in options.networks or NETWORKS:
        batches = NETWORKS[name].batches
        for batch in options.batch or batches:
            for threads in options.threads:
                inductor = options.inductor == "always" or (
                    options.inductor == "some" and batch == batches[0] and threads == 2
                )
                result = run_apart(name, batch, threads, inductor, options.cache)
                show(result)
                same = ("network", "batch", "threads")
                results = [r for r in results if [r[k] for k in same] != [result[k] for k in same]]
                options.json.write_text(json.dumps([*results, result], indent=1))
                results.append(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
