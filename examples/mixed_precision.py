"""An accuracy in, the fastest network that has it out: some layers in float, the rest in INT8.

python mixed_precision.py [MODEL.onnx DATA.npz]
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
        np.savez(data, x=rng.standard_t(3, size=(32, 3, 16, 16)).astype(np.float32))

    result = octavo.search(octavo.load_onnx(model), data, metric="sqnr", least=40)
    print(result)
    print("in float:", ", ".join(result.points[result.chosen].float_layers) or "nothing")

    octavo.export_onnx(result.apply(), folder / "mixed.onnx")
    # octavo quantize --smooth none --rules makes the same network.
    result.rules().save(folder / "rules.json")


if __name__ == "__main__":
    main()
