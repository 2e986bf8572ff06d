"""Which layer loses the accuracy, and what leaving it in float brings.

python sensitivity.py [MODEL.onnx DATA.npz]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import octavo
from quantize_and_run import make_model


def sqnr(graph: octavo.Graph) -> float:
    return next(c["output_sqnr_db"] for c in graph.record["calibrators"])


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    if len(sys.argv) == 3:
        model, data = Path(sys.argv[1]), Path(sys.argv[2])
    else:
        model, data = folder / "model.onnx", folder / "data.npz"
        make_model(model)
        rng = np.random.default_rng(1)
        np.savez(data, x=rng.standard_t(3, size=(64, 3, 16, 16)).astype(np.float32))

    graph = octavo.load_onnx(model)
    result = octavo.sensitivity(graph, data, checkpoint=folder / "checkpoint.json")
    print(result)

    rules = octavo.disable_worst(result, 1)
    rules.save(folder / "rules.json")  # octavo quantize --rules takes it too
    before = octavo.quantize(graph, data)
    after = octavo.quantize(graph, data, rules=rules)
    print(f"\nall layers in INT8: {sqnr(before):.2f} dB")
    print(f"{result.layers[0].name} in float: {sqnr(after):.2f} dB")


if __name__ == "__main__":
    main()
