"""Held-out agreement and SQNR of EfficientNet-Lite0 in INT8, by each calibrator.

    tools/run.sh python benchmarks/calibrator_accuracy.py [NAME ...]

Needs the model and the photographs of `make demo`. Beside the scores (as in benchmarks/peers.py,
but against Octavo's own float): how much of the data's range the calibrator keeps, the geometric
mean and the least over all activations.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import octavo

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "build/models/efficientnet-lite0.onnx"
PHOTOS = ROOT / "build/photos"


def show_progress(phase: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{phase}: {done}/{total} ", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="calibrators (all of them)")
    parser.add_argument("--heldout", type=int, default=0, help="crops to judge by (all 360)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    names = options.names or octavo.calibrator_names()
    with np.load(PHOTOS / "heldout.npz") as arrays:
        heldout = arrays["input"]
    if options.heldout:
        heldout = heldout[np.linspace(0, len(heldout) - 1, options.heldout).astype(int)]
    result = octavo.quantize(
        octavo.load_onnx(str(MODEL)),
        PHOTOS / "calibration.npz",
        calibrator=names[0],
        compare=names[1:],
        evaluation=[(x[None],) for x in heldout],
        threads=options.threads,
        progress=show_progress,
    )
    kept: dict[str, list[float]] = {name: [] for name in names}
    for tensor in result.record["tensors"]:
        for name, row in tensor["by_calibrator"].items():
            if row.get("data_max", 0) > row.get("data_min", 0):
                kept[name].append((row["max"] - row["min"]) / (row["data_max"] - row["data_min"]))
    print(f"\n{'calibrator':16}{'same':>10}{'confident':>10}{'SQNR dB':>10}{'kept':>8}{'least':>6}")
    for row in result.record["calibrators"]:
        parts = np.array(kept[row["name"]])
        print(
            f"{row['name']:16}{row['agreement']:10.3f}{row['confident_agreement']:10.3f}"
            f"{row['output_sqnr_db']:10.2f}{np.exp(np.log(parts).mean()):8.3f}{parts.min():6.3f}"
        )


if __name__ == "__main__":
    main()
