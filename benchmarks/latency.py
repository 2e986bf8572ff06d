"""Latency of one network in float and INT8: Octavo beside ONNX Runtime and OpenVINO, interleaved.

    latency.py --int8 build/demo/efficientnet-lite0-mse.onnx --threads 1 2

Every engine runs the float model and the very same Q/DQ file; with --nncf also OpenVINO with the
file of its own tool (made by peers.py, cached). Before anything is timed, outputs are checked:
float ones against ONNX Runtime's within a bound of float32 rounding, INT8 ones against ONNX
Runtime's run of the same file by their SQNR. Then the runners take turns (peers.py). Medians, and
ratios to the fastest OpenVINO INT8: below 1 is faster.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import octavo
import peers

# Float engines sum in their own orders: here 100 layers of errors of some 1e-6, relative. INT8
# engines requantize in their own arithmetics, so single activations differ by one step.
LEAST_FLOAT_SQNR_DB = 90.0
LEAST_INT8_SQNR_DB = 20.0


def octavo_runner(name: str, path: Path, threads: int, shape: tuple[int, ...]) -> peers.Runner:
    program = octavo.compile(path, threads=threads)
    program(np.zeros(shape, np.float32))

    def run(x: peers.Array) -> peers.Array:
        logits: peers.Array = program(x)[0]
        return logits

    return peers.Runner(name, run, (path,))


def contestants(
    options: argparse.Namespace, threads: int, shape: tuple[int, ...]
) -> tuple[list[peers.Runner], list[peers.Runner]]:
    floats = [
        peers.ort_runner("ORT FP32", options.float, threads),
        peers.openvino_runner("OpenVINO FP32", options.float, threads),
        octavo_runner("Octavo FP32", options.float, threads, shape),
    ]
    integers = [
        peers.ort_runner("ORT INT8", options.int8, threads),
        peers.openvino_runner("OpenVINO INT8", options.int8, threads),
        octavo_runner("Octavo INT8", options.int8, threads, shape),
    ]
    return floats, integers


def check(reference: peers.Array, runner: peers.Runner, x: peers.Array, least: float) -> None:
    sqnr = peers.sqnr_db(reference, runner.run(x))
    if sqnr < least:
        raise SystemExit(f"{runner.name}: outputs are off, SQNR {sqnr:.1f} dB (least {least})")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--float", type=Path, default=Path("build/models/efficientnet-lite0.onnx"))
    parser.add_argument("--int8", type=Path, default=Path("build/demo/efficientnet-lite0-mse.onnx"))
    parser.add_argument("--nncf", type=Path, help="OpenVINO's own INT8 file (.xml)")
    parser.add_argument("--inputs", type=Path, default=Path("build/photos/heldout.npz"))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if options.inputs.exists():
        with np.load(options.inputs) as arrays:
            x: peers.Array = arrays["input"][:1]
    else:
        x = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    for threads in options.threads:
        floats, integers = contestants(options, threads, x.shape)
        for group, least in ((floats, LEAST_FLOAT_SQNR_DB), (integers, LEAST_INT8_SQNR_DB)):
            reference = group[0].run(x)
            for runner in group[1:]:
                check(reference, runner, x, least)
        if options.nncf:
            integers.append(peers.openvino_runner("NNCF INT8", options.nncf, threads))
        everyone = floats + integers
        times = peers.latency(everyone, x, rounds=options.rounds)
        base = min(
            times[r.name].median for r in integers if r.name in ("OpenVINO INT8", "NNCF INT8")
        )
        print(f"{options.int8.name}, batch 1, {threads} threads")
        for runner in everyone:
            t = times[runner.name]
            print(f"  {runner.name:16}{t.median:8.3f} ms{t.best:8.3f} best{t.median / base:7.2f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
