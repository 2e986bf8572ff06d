"""Memory of a network's weights in FP32, FP16, INT8 and INT4, as Markdown.

    tools/run.sh python benchmarks/weight_memory.py [MODEL.onnx]

Without a file: MiniLM, which tools/make_models.py makes if it is not there.

All constants of the graph count, scales, zero points and what stays float too; so does the file.
FP16 is counted, not made: two bytes for each float constant's element.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

import octavo

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import make_models  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path)
    options = parser.parse_args()
    model = options.model or make_models.make("minilm")
    graph = octavo.load_onnx(str(model))
    whole = octavo.inspect(graph)["weights_bytes"]
    floats = sum(
        numpy_helper.to_array(t).size
        for t in onnx.load(model).graph.initializer
        if t.data_type == TensorProto.FLOAT
    )
    rows = [("FP32", whole, None), ("FP16", whole - 2 * floats, None)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.octavo"
        for name, bits, group in (
            ("INT8, a scale for each channel", 8, 0),
            ("INT8, groups of 32", 8, 32),
            ("INT4, groups of 128", 4, 128),
            ("INT4, groups of 32", 4, 32),
        ):
            result = octavo.quantize(graph, mode="weight_only", bits=bits, group_size=group)
            octavo.save(result, path)
            weights = result.record["quantized_model"]["weights_bytes"]
            rows.append((name, weights, path.stat().st_size))
    print(f"| {model.stem} | weights, MB | of FP32 | file, MB |\n|---|---|---|---|")
    for name, weights, size in rows:
        file = "" if size is None else f"{size / 1e6:.2f}"
        print(f"| {name} | {weights / 1e6:.2f} | {weights / whole:.3f} | {file} |")


if __name__ == "__main__":
    main()
