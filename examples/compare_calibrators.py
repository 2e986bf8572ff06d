"""All calibrators judged from one pass over the data; the table comes from the run record.

python compare_calibrators.py [MODEL.onnx DATA.npz]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import octavo
from quantize_and_run import make_model


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    if len(sys.argv) == 3:
        model, data = Path(sys.argv[1]), Path(sys.argv[2])
    else:
        model, data = folder / "model.onnx", folder / "data.npz"
        make_model(model)
        rng = np.random.default_rng(1)
        # A heavy tail: a few values lie far out, so that the choice of a range matters.
        np.savez(data, x=rng.standard_t(3, size=(64, 3, 16, 16)).astype(np.float32))

    record = folder / "run.json"
    int8 = octavo.quantize(
        octavo.load_onnx(model), data, compare=octavo.calibrator_names(), record=record
    )
    # The same content as the file's; schemas/run_record.schema.json describes it.
    print(f"{'calibrator':<16} {'output SQNR':>12} {'agreement':>10}")
    for row in int8.record["calibrators"]:
        sqnr, agreement = row["output_sqnr_db"], row["agreement"]
        print(f"{row['name']:<16} {sqnr:>9.1f} dB {agreement:>9.1%}")

    chosen = int8.record["quantization"]["calibrator"]
    print(f"\nlowest SQNR of a tensor, by {chosen}:")
    tensors = [(t["by_calibrator"][chosen]["sqnr_db"], t["name"]) for t in int8.record["tensors"]]
    for sqnr, name in sorted((s, n) for s, n in tensors if s is not None)[:3]:
        print(f"{name:<16} {sqnr:>9.1f} dB")
    print(f"\nrecord: {record}")


if __name__ == "__main__":
    main()
