"""INT8 post-training quantization of real weights by Octavo, ONNX Runtime, NNCF and torch.ao, on
the same data: how much of the float answers each keeps.

    tools/run.sh python benchmarks/accuracy.py [efficientnet] [minilm] [--check]

EfficientNet-Lite0 on photographs, all-MiniLM-L6-v2 on sentences. Each engine's methods are judged
on data that none has seen; which of Octavo's is its answer is chosen on the calibration data alone,
by the outputs' SQNR there ("chosen"). Every product and convolution has 8-bit weights and
activations, but in the rows called dynamic, whose scales are found at each call.
Sentences calibrate Octavo and torch.ao one by one, at their own lengths; the tools of ONNX Runtime
and NNCF get the same ones padded to one length, as they want them.
With --check the exit code says whether Octavo's answer is the best of each column, and meets the
bars.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import octavo

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / part) for part in ("benchmarks", "tools", "examples")]

import demo  # noqa: E402
import demo_models  # noqa: E402
import make_models  # noqa: E402
import peers  # noqa: E402
import sentences  # noqa: E402
from networks import efficientnet, transformer  # noqa: E402

OUT = ROOT / "build/accuracy"
Feeds = dict[str, Any]
Row = dict[str, Any]


def torch_ao(
    model: torch.nn.Module, batches: Sequence[tuple[torch.Tensor, ...]]
) -> Callable[..., torch.Tensor]:
    """torch.ao's FX flow with its defaults for x86, the products' weights per channel."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    mapping = get_default_qconfig_mapping("x86")
    for kind in (torch.nn.Embedding, torch.nn.EmbeddingBag):
        mapping.set_object_type(kind, None)
    prepared = prepare_fx(copy.deepcopy(model).eval(), mapping, batches[0])
    with torch.inference_mode():
        for batch in batches:
            prepared(*batch)
        converted: Callable[..., torch.Tensor] = convert_fx(prepared)
    return converted


def torch_ao_dynamic(model: torch.nn.Module) -> Callable[..., torch.Tensor]:
    from torch.ao.quantization import quantize_dynamic

    made: Callable[..., torch.Tensor] = quantize_dynamic(model, {torch.nn.Linear})
    return made


def of_torch(module: Callable[..., torch.Tensor], feeds: Iterable[Feeds]) -> peers.Array:
    with torch.inference_mode():
        outputs = [module(*map(torch.from_numpy, one.values())).numpy() for one in feeds]
    return np.concatenate(outputs)


def octavo_methods(
    graph: octavo.Graph, samples: Sequence[Feeds], methods: Iterable[dict[str, Any]]
) -> tuple[dict[str, octavo.Program], str]:
    """A program for each method, and the name of the one that keeps the calibration data best."""
    programs, kept = {}, {}
    for method in methods:
        result = octavo.quantize(graph, samples, progress=demo.show_progress, **method)
        name = "Octavo " + ", ".join(
            value if key == "calibrator" else f"{key} {value}" for key, value in method.items()
        )
        programs[name] = octavo.compile(result)
        kept[name] = result.record["calibrators"][0]["output_sqnr_db"]
    return programs, max(kept, key=lambda name: kept[name])


def print_table(rows: Sequence[Row], columns: Sequence[str], chosen: str) -> None:
    print(f"{'':32}" + "".join(f"{column:>12}" for column in columns))
    for row in rows:
        mark = "  chosen" if row["name"] == chosen else ""
        print(f"{row['name']:32}" + "".join(f"{row[c]:12.4f}" for c in columns) + mark)


def judge(rows: Sequence[Row], chosen: str, columns: Sequence[str], bars: dict[str, float]) -> bool:
    """Octavo's answer against the best peer in each column and against the bars."""
    ours = next(row for row in rows if row["name"] == chosen)
    theirs = [row for row in rows if not row["name"].startswith("Octavo")]
    held = True
    for column in columns:
        best = max(theirs, key=lambda row: row[column])
        bar = max(bars.get(column, -np.inf), best[column])
        good = bool(ours[column] >= bar)
        held &= good
        print(
            f"{'yes' if good else 'NO ':3} {chosen}: {column} {ours[column]:.4f}; best peer "
            f"{best['name']} {best[column]:.4f}; bar {bars.get(column, float('nan'))}"
        )
    return held


def judge_efficientnet() -> bool:
    demo.prepare()
    with np.load(demo.PHOTOS / "calibration.npz") as arrays:
        calibration = arrays["input"]
    with np.load(demo.PHOTOS / "heldout.npz") as arrays:
        heldout = arrays["input"]
    contestants = peers.runners(demo.MODEL, demo.PHOTOS / "calibration.npz")
    outputs = {r.name: peers.evaluate(r, heldout) for r in contestants if r.name != "OpenVINO FP32"}
    reference = outputs.pop("ORT FP32")
    batches = [(torch.from_numpy(x[None]),) for x in calibration]
    one_by_one = [{"input": x[None]} for x in heldout]
    outputs["torch.ao FX"] = of_torch(torch_ao(efficientnet.Lite0(), batches), one_by_one)
    programs, chosen = octavo_methods(
        octavo.load_onnx(str(demo.MODEL)),
        [{"input": x[None]} for x in calibration],
        [{"calibrator": name} for name in octavo.calibrator_names()],
    )
    for name, program in programs.items():
        outputs[name] = np.concatenate([program(one)[0] for one in one_by_one])
    rows = []
    for name, output in outputs.items():
        found = peers.score(reference, output)
        rows.append({"name": name, "agreement": found.agreement, "SQNR dB": found.sqnr_db})
    print(f"\nEfficientNet-Lite0, {len(heldout)} crops of photographs that no method has seen:")
    columns = ("agreement", "SQNR dB")
    print_table(rows, columns, chosen)
    return judge(rows, chosen, columns, {"agreement": 0.92, "SQNR dB": 18.0})


def judge_minilm() -> bool:
    model = make_models.make("minilm")
    calibration, heldout = sentences.inputs("calibration"), sentences.inputs("heldout")
    stored = OUT / "sentences.npz"
    np.savez(stored, **calibration)
    samples = list(sentences.without_padding(calibration))
    unseen = list(demo_models.one_by_one(heldout))
    outputs = {}
    runners = [peers.ort_runner("ORT FP32", model, 2)]
    for name in ("ORT INT8 dynamic", "ORT INT8 MinMax", "NNCF INT8 transformer"):
        path = peers.cached(model, stored, ROOT / "build/peers", name)
        make = peers.ort_runner if path.suffix == ".onnx" else peers.openvino_runner
        runners.append(make(name, path, 2))
    for runner in runners:
        outputs[runner.name] = np.concatenate([runner.run(one) for one in unseen])
    reference = outputs.pop("ORT FP32")
    net = transformer.minilm()
    batches = [tuple(map(torch.from_numpy, one.values())) for one in samples]
    outputs["torch.ao dynamic"] = of_torch(torch_ao_dynamic(net), unseen)
    outputs["torch.ao FX"] = of_torch(torch_ao(net, batches), unseen)
    programs, chosen = octavo_methods(
        octavo.load_onnx(str(model)),
        samples,
        [
            {"calibrator": calibrator, "smooth": smooth}
            for calibrator in ("mse", "max")
            for smooth in ("folded", "all")
        ],
    )
    for name, program in programs.items():
        outputs[name] = np.concatenate([program(one)[0] for one in unseen])
    rows = [demo_models.embedding_row(n, 0, reference, y) for n, y in outputs.items()]
    print(f"\nall-MiniLM-L6-v2, {len(reference)} sentences that no method has seen, 64 tokens:")
    print_table(rows, ("cosine", "least", "neighbour", "sqnr_db"), chosen)
    return judge(rows, chosen, ("cosine", "neighbour"), {"cosine": 0.998, "neighbour": 0.95})


PARTS = {"efficientnet": judge_efficientnet, "minilm": judge_minilm}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is not met")
    options = parser.parse_args()
    if unknown := set(options.models) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    warnings.simplefilter("ignore")  # torch.ao is deprecated, and says so at each step
    OUT.mkdir(parents=True, exist_ok=True)
    held = [PARTS[name]() for name in options.models or PARTS]
    return 1 if options.check and not all(held) else 0


if __name__ == "__main__":
    sys.exit(main())
