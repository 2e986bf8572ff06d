"""Latency of INT8 (and float) networks: Octavo beside ONNX Runtime and OpenVINO, interleaved.

    latency.py                                     the four networks, batch 1 and 16, 2 threads
    latency.py resnet50 --batch 1 --threads 1 2
    latency.py --float F.onnx --int8 I.onnx        every engine runs these very files

The networks come from tools/make_models.py; each engine runs what its own tool quantizes from the
same samples (Octavo: octavo.quantize; the peers': peers.py, cached). Before anything is timed,
outputs are checked: float ones against ONNX Runtime's by their SQNR, Octavo's INT8 ones against
ONNX Runtime's unoptimized run of the same Q/DQ file, the peers' INT8 ones against float. Then the
runners take turns (peers.py). Ratios are to OpenVINO's INT8, below 1 is faster; TOPS are those of
the best call, two operations for each multiplication of a convolution or weight product, and the
share of the peak is of the dot-product rate measured in the same run. First answer: from the file's
path to the first output, the median of three, files being in memory.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

import octavo
import peers

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

# Float engines sum in their own orders: here 100 layers of errors of some 1e-6, relative. INT8
# engines requantize in their own arithmetics, so single activations differ by one step, and what
# 50 layers of random weights make of that is the quantization's own noise again.
LEAST_FLOAT_SQNR_DB = 80.0
LEAST_SAME_FILE_SQNR_DB = 20.0
LEAST_PEER_SQNR_DB = 3.0  # whether it runs the network at all


@dataclass(frozen=True)
class Network:
    shape: tuple[int, ...]  # of one sample
    gmac: float
    ort: str  # the peers' own tools, of peers.py
    nncf: str


NETWORKS = {
    "resnet50": Network((3, 224, 224), 4.089, "ORT INT8 MinMax", "NNCF INT8"),
    "mobilenet-v2": Network((3, 224, 224), 0.301, "ORT INT8 MinMax", "NNCF INT8"),
    "yolov7-tiny": Network((3, 640, 640), 6.85, "ORT INT8 MinMax", "NNCF INT8"),
    "encoder": Network((128, 384), 1.359, "ORT INT8 dynamic", "NNCF INT8 transformer"),
}


def octavo_runner(name: str, path: Path, threads: int) -> peers.Runner:
    program = octavo.compile(path, threads=threads)

    def run(x: peers.Inputs) -> peers.Array:
        logits: peers.Array = program(x)[0]
        return logits

    return peers.Runner(name, run, (path,))


def plain_ort(path: Path) -> Callable[[peers.Array], peers.Array]:
    """What a Q/DQ file says, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name

    def run(x: peers.Array) -> peers.Array:
        logits: peers.Array = session.run(None, {source: x})[0]
        return logits

    return run


def check(reference: peers.Array, runner: peers.Runner, x: peers.Array, least: float) -> None:
    sqnr = peers.sqnr_db(reference, runner.run(x))
    if not sqnr >= least:
        raise SystemExit(f"{runner.name}: outputs are off, SQNR {sqnr:.1f} dB (least {least})")


def machine(threads: int) -> float:
    """Prints, and returns in TOPS, what dot products alone reach; beside it our own products."""
    program = ROOT / "build/release/benchmarks/bench_conv_int8"
    command = [program, "encoder", "--threads", str(threads), "--rounds", "21", "--best"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak = re.search(r"dot-product peak (\d+) GOPS", text)
    rate = re.search(r"sum of layers\s+[\d.]+ us\s+([\d.]+) GOPS", text)
    if not peak or not rate:
        raise SystemExit(f"{program.name}: no rates in its output")
    print(
        f"{threads} threads: dot products {peak[1]} GOPS, blocked products {rate[1]} GOPS, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    return float(peak[1]) / 1000


def first_answer(make: Callable[[], peers.Runner], x: peers.Array) -> float:
    """Seconds from a path to an output."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        make().run(x)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def samples(name: str, count: int, seed: int) -> peers.Array:
    random = np.random.default_rng(seed)
    shape = (count, *NETWORKS[name].shape)
    if name == "yolov7-tiny":
        return random.random(shape, np.float32)
    return random.standard_normal(shape, np.float32)


def files(name: str, folder: Path) -> tuple[Path, dict[str, Path]]:
    """The float file, and each engine's INT8 file by the engine's name."""
    import make_models

    network = NETWORKS[name]
    model = make_models.make(name, ROOT / "build/models")
    folder.mkdir(parents=True, exist_ok=True)
    calibration = folder / f"{name}-calibration.npz"
    graph = octavo.load_onnx(str(model))
    if not calibration.exists():
        np.savez(calibration, **{graph.inputs[0][0]: samples(name, 4, 1)})
    ours = folder / f"{name}-octavo.onnx"  # made anew: it is what is under test
    data = [(x[None],) for x in samples(name, 4, 1)]
    result = octavo.quantize(graph, data, calibrator="max", weights="max", bias_correction=False)
    octavo.save(result, ours)
    return model, {
        "Octavo INT8": ours,
        "ORT INT8": peers.cached(model, calibration, folder / "peers", network.ort),
        "OpenVINO INT8": peers.cached(model, calibration, folder / "peers", network.nncf),
    }


Maker = Callable[[], peers.Runner]


def makers(model: Path, int8: dict[str, Path], threads: int, batch: int) -> dict[str, Maker]:
    engines: dict[str, Callable[[str, Path], peers.Runner]] = {
        "ORT": lambda name, path: peers.ort_runner(name, path, threads, batch),
        "OpenVINO": lambda name, path: peers.openvino_runner(name, path, threads, batch),
        "Octavo": lambda name, path: octavo_runner(name, path, threads),
    }
    result: dict[str, Maker] = {}
    for engine, make in engines.items():
        for kind, path in (("FP32", model), ("INT8", int8[f"{engine} INT8"])):
            result[f"{engine} {kind}"] = lambda m=make, n=f"{engine} {kind}", p=path: m(n, p)  # type: ignore[misc]
    return result


def compare(
    title: str,
    everyone: dict[str, Maker],
    ours: Path,
    x: peers.Array,
    *,
    same_file: bool,
    rounds: int,
    gmac: float | None = None,
    peak: float = 0,
    first: bool = True,
) -> None:
    runners = {name: make() for name, make in everyone.items()}
    reference = runners["ORT FP32"].run(x)
    wanted = plain_ort(ours)(x)
    for name, runner in runners.items():
        if name.endswith("FP32"):
            check(reference, runner, x, LEAST_FLOAT_SQNR_DB)
        elif same_file or name == "Octavo INT8":
            check(wanted, runner, x, LEAST_SAME_FILE_SQNR_DB)
        else:
            check(reference, runner, x, LEAST_PEER_SQNR_DB)
    times = peers.latency(list(runners.values()), x, rounds=rounds, warm=2, calls=5)
    base = times["OpenVINO INT8"]
    print(title)
    print(f"{'':18}{'median':>9}{'ratio':>8}{'best':>12}{'ratio':>8}")
    for name, runner in runners.items():
        t = times[name]
        line = f"  {name:16}{t.median:9.3f} ms{t.median / base.median:6.2f}x"
        line += f"{t.best:9.3f} ms{t.best / base.best:6.2f}x"
        if gmac:
            line += f"{2 * gmac * len(x) / t.best:8.3f} TOPS"
        if gmac and peak and name.endswith("INT8"):
            line += f"{200 * gmac * len(x) / t.best / peak:6.1f}% of peak"
        if first and name.endswith("INT8"):
            line += f"{first_answer(everyone[name], x):8.3f} s first answer"
        print(f"{line}{sum(f.stat().st_size for f in runner.files) / 1e6:8.2f} MB", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(NETWORKS)} (all)")
    parser.add_argument("--float", type=Path, help="a float file for every engine")
    parser.add_argument("--int8", type=Path, help="its Q/DQ file for every engine")
    parser.add_argument("--inputs", type=Path, help=".npz with input (noise, 1 x 3 x 224 x 224)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--cache", type=Path, default=ROOT / "build/latency")
    options = parser.parse_args()
    if unknown := [name for name in options.networks if name not in NETWORKS]:
        parser.error(f"unknown: {', '.join(unknown)}")
    if bool(options.float) != bool(options.int8):
        parser.error("--float and --int8 belong together")
    if options.float:
        x: peers.Array = np.random.default_rng(1).standard_normal((1, 3, 224, 224), np.float32)
        if options.inputs:
            with np.load(options.inputs) as arrays:
                x = arrays["input"][:1]
        int8 = {f"{engine} INT8": options.int8 for engine in ("ORT", "OpenVINO", "Octavo")}
        for threads in options.threads:
            everyone = makers(options.float, int8, threads, len(x))
            title = f"{options.int8.name}, batch {len(x)}, {threads} threads"
            compare(title, everyone, options.int8, x, same_file=True, rounds=options.rounds)
        return 0
    peaks = {threads: machine(threads) for threads in options.threads}
    for name in options.networks or NETWORKS:
        model, int8 = files(name, options.cache)
        for batch in options.batch:
            for threads in options.threads:
                compare(
                    f"{name}, batch {batch}, {threads} threads",
                    makers(model, int8, threads, batch),
                    int8["Octavo INT8"],
                    samples(name, batch, 3),
                    same_file=False,
                    rounds=options.rounds if batch == 1 else max(options.rounds // 4, 1),
                    gmac=NETWORKS[name].gmac,
                    peak=peaks[threads],
                    first=batch == 1,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
