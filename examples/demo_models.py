"""Real networks become INT8: sentence embeddings and the reading of text, beside the peers.

    make demo-models

all-MiniLM-L6-v2 on sentences of Debian's copyright files; PP-OCR's detector and recogniser, with
dynamic height and width, on pages set in Debian's fonts, so that the truth is known; and
EfficientNet-Lite0, as in `make demo`. What
calibrates and what judges are apart. Each table shows, for Octavo by every calibrator and for the
peers in one run: the task's metric, SQNR against float, file size, latency. The calibrator that the
claims are about is chosen on the calibration data. "Octavo dynamic" and weights rounded to nearest
need none.
The exit code says whether every claim that the demo makes held.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import octavo

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import demo  # noqa: E402
import make_models  # noqa: E402
import ocr_pages  # noqa: E402
import peers  # noqa: E402
import rounding  # noqa: E402
import sentences  # noqa: E402

OUT = ROOT / "build/demo-models"
LEAST_STATIC_COSINE = 0.997
LARGEST_LOSS = 0.005  # of character accuracy
# Integer weights alone, from the largest file to the smallest: bits, group, method.
WEIGHT_ONLY = {
    "Octavo INT8 weights": (8, 0, "mse"),
    "Octavo INT4 by 32": (4, 32, "mse"),
    "Octavo INT4 by 32, gptq": (4, 32, "gptq"),
    "Octavo INT4 by 128, gptq": (4, 128, "gptq"),
}

Feeds = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    text: str
    held: bool


def show_progress(phase: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{phase}: {done}/{total} ", end=end, file=sys.stderr, flush=True)


def octavo_runner(name: str, path: Path, threads: int) -> peers.Runner:
    program = octavo.compile(path, threads=threads)
    return peers.Runner(name, lambda x: program(x)[0], [path])


def one_by_one(inputs: Feeds) -> Iterator[Feeds]:
    for i in range(len(next(iter(inputs.values())))):
        yield {name: x[i : i + 1] for name, x in inputs.items()}


def quantized(
    model: str, samples: Sequence[Feeds], calibrator: str, threads: int, smooth: str = "folded"
) -> tuple[Path, float]:
    """The model's INT8 file by one calibrator, its run record beside it; SQNR of the outputs on the
    calibration data, by which a calibrator is chosen before anything judges it."""
    result = octavo.quantize(
        octavo.load_onnx(str(make_models.make(model))),
        samples,
        calibrator=calibrator,
        smooth=smooth,
        threads=threads,
        progress=show_progress,
    )
    path = OUT / f"{model}-{calibrator}{'' if smooth == 'folded' else f'-{smooth}'}.onnx"
    octavo.save(result, path)
    path.with_suffix(".json").write_text(json.dumps(result.record, indent=1) + "\n")
    return path, result.record["calibrators"][0]["output_sqnr_db"]


def dynamic(model: str, activation: str, threads: int) -> Path:
    """The model's file with scales of activations found at each call, one or one for each row."""
    graph = octavo.load_onnx(str(make_models.make(model)))
    path = OUT / f"{model}-dynamic-{activation}.octavo"
    octavo.save(
        octavo.quantize(graph, mode="dynamic", activation=activation, threads=threads), path
    )
    return path


def weight_only(
    model: str, samples: Sequence[Feeds], way: tuple[int, int, str], threads: int
) -> Path:
    """The model's file with integer weights and float activations; gptq fits them to samples."""
    bits, group, method = way
    graph = octavo.load_onnx(str(make_models.make(model)))
    path = OUT / f"{model}-weights-{bits}-{group}-{method}.octavo"
    result = octavo.quantize(
        graph,
        samples if method == "gptq" else None,
        mode="weight_only",
        bits=bits,
        group_size=group,
        weights=method,
        threads=threads,
        progress=show_progress,
    )
    octavo.save(result, path)
    return path


def float_claim(model: str, ours: peers.Runner, theirs: peers.Runner, feeds: Feeds) -> Claim:
    """Float outputs against ONNX Runtime's, and the largest that rounding alone explains."""
    mine, wanted = ours.run(feeds), theirs.run(feeds)
    over = rounding.over(rounding.bound(make_models.make(model), feeds), mine, wanted)
    error = float(np.abs(mine.astype(np.float64) - wanted).max())
    text = f"{model}: float differs from ONNX Runtime by {error:.2e}, {over:.4f} of the bound"
    return Claim(text, over <= 1)


def table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    head = f"{'':28}" + "".join(f"{m:>13}" for m in metrics)
    lines = [f"{head}{'SQNR dB':>9}{'MB':>8}{'median ms':>11}{'best':>8}"]
    for row in rows:
        cells = "".join(f"{row[m]:13.4f}" for m in metrics)
        lines.append(
            f"{row['name']:28}{cells}{row['sqnr_db']:9.2f}{row['bytes'] / 1e6:8.2f}"
            f"{row['median_ms']:11.2f}{row['best_ms']:8.2f}"
        )
    return "\n".join(lines)


def clocked(rows: list[Row], runners: Sequence[peers.Runner], x: Feeds, rounds: int) -> None:
    times = peers.latency(runners, x, rounds=rounds, warm=2, calls=5)
    for row, runner in zip(rows, runners, strict=True):
        row["median_ms"], row["best_ms"] = times[runner.name].median, times[runner.name].best


def chosen(rows: Sequence[Row], sqnr: dict[str, float]) -> Row:
    """The row of the calibrator that kept the calibration data best."""
    best = max(sqnr, key=lambda name: sqnr[name])
    return next(row for row in rows if row["name"] == best)


# Sentences ------------------------------------------------------------------------------------


def cosines(reference: peers.Array, other: peers.Array) -> peers.Array:
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(other, axis=1)
    result: peers.Array = (reference * other).sum(1) / norms
    return result


def neighbours(embeddings: peers.Array) -> Any:
    """Of each embedding, which other one is nearest."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    return likeness.argmax(1)


def embedding_row(name: str, size: int, reference: peers.Array, output: peers.Array) -> Row:
    cosine = cosines(reference, output)
    return {
        "name": name,
        "cosine": float(cosine.mean()),
        "least": float(cosine.min()),
        "neighbour": float((neighbours(reference) == neighbours(output)).mean()),
        "sqnr_db": peers.sqnr_db(reference, output),
        "bytes": size,
    }


def demonstrate_sentences(threads: int, rounds: int) -> tuple[list[Row], list[Claim]]:
    model = make_models.make("minilm")
    calibration, heldout = sentences.inputs("calibration"), sentences.inputs("heldout")
    stored = OUT / "sentences.npz"
    np.savez(stored, **calibration)
    samples = list(one_by_one(calibration))
    contestants = [
        peers.ort_runner("ORT FP32", model, threads),
        peers.openvino_runner("OpenVINO FP32", model, threads),
    ]
    for name in ("ORT INT8 dynamic", "ORT INT8 MinMax", "NNCF INT8 transformer"):
        path = peers.cached(model, stored, ROOT / "build/peers", name)
        make = peers.ort_runner if path.suffix == ".onnx" else peers.openvino_runner
        contestants.append(make(name, path, threads))
    contestants.append(octavo_runner("Octavo FP32", model, threads))
    for name, activation in (("Octavo dynamic", "tensor"), ("Octavo dynamic, rows", "row")):
        path = dynamic("minilm", activation, threads)
        contestants.append(octavo_runner(name, path, threads))
    for name, way in WEIGHT_ONLY.items():
        path = weight_only("minilm", samples, way, threads)
        contestants.append(octavo_runner(name, path, threads))
    sqnr = {}
    for calibrator in octavo.calibrator_names():
        name = f"Octavo INT8 {calibrator}"
        path, sqnr[name] = quantized("minilm", samples, calibrator, threads)
        contestants.append(octavo_runner(name, path, threads))
    name = "Octavo INT8 max, smooth all"
    path, sqnr[name] = quantized("minilm", samples, "max", threads, "all")
    contestants.append(octavo_runner(name, path, threads))

    outputs = [np.concatenate([r.run(x) for x in one_by_one(heldout)]) for r in contestants]
    rows = [
        embedding_row(r.name, r.size, outputs[0], output)
        for r, output in zip(contestants, outputs, strict=True)
    ]
    example = {name: x[:1] for name, x in heldout.items()}
    clocked(rows, contestants, example, rounds)
    print(f"\nall-MiniLM-L6-v2, {len(outputs[0])} sentences no method has seen, 64 tokens:")
    print(table(rows, ["cosine", "least", "neighbour"]))

    ours = next(r for r in contestants if r.name == "Octavo FP32")
    found = chosen(rows, sqnr)
    text = f"{found['name']}: mean cosine {found['cosine']:.4f}, at least {LEAST_STATIC_COSINE}"
    named = {row["name"]: row for row in rows}
    mine, theirs = (named[name]["cosine"] for name in ("Octavo dynamic", "ORT INT8 dynamic"))
    eight, nearest, fitted = (named[name]["cosine"] for name in list(WEIGHT_ONLY)[:3])
    return rows, [
        Claim(
            f"Octavo INT8 weights: mean cosine {eight:.4f}, ONNX Runtime's dynamic {theirs:.4f}",
            eight >= theirs,
        ),
        Claim(
            f"Octavo INT4 by 32: mean cosine {fitted:.4f} by gptq, {nearest:.4f} to nearest",
            fitted > nearest,
        ),
        float_claim("minilm", ours, contestants[0], example),
        Claim(text, found["cosine"] >= LEAST_STATIC_COSINE),
        Claim(
            f"Octavo dynamic: mean cosine {mine:.4f}, ONNX Runtime's {theirs:.4f}", mine >= theirs
        ),
    ]


# Reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """A detector and a recogniser of one engine."""

    name: str
    detector: peers.Runner
    recogniser: peers.Runner

    def page(self, x: Any) -> list[str]:
        alphabet = ocr_pages.characters(make_models.make("ocr-recogniser"))
        return ocr_pages.read(
            x,
            lambda a: self.detector.run({"x": a}),
            lambda a: self.recogniser.run({"x": a}),
            alphabet,
        )


PARTS = ("ocr-detector", "ocr-recogniser")
Make = Callable[[str, Path, int], peers.Runner]


def reader(name: str, make: Make, paths: Sequence[Path], threads: int) -> Reader:
    detector, recogniser = (make(name, path, threads) for path in paths)
    return Reader(name, detector, recogniser)


def reading_samples(reference: Reader) -> tuple[list[Feeds], list[Feeds]]:
    """What the two networks see of the calibration pages."""
    pages = ocr_pages.pages("calibration")
    whole = [{"x": ocr_pages.detector_input(page)} for page in pages]
    lines = [
        {"x": ocr_pages.cut(page, box)}
        for page, x in zip(pages, whole, strict=True)
        for box in ocr_pages.boxes(reference.detector.run(x))
    ]
    return whole, lines[:: max(len(lines) // 32, 1)]


def demonstrate_reading(threads: int, rounds: int) -> tuple[list[Row], list[Claim]]:
    models = [make_models.make(name) for name in PARTS]
    readers = [
        reader("ORT FP32", peers.ort_runner, models, threads),
        reader("OpenVINO FP32", peers.openvino_runner, models, threads),
    ]
    samples = reading_samples(readers[0])
    stored = []
    for part, inputs in zip(PARTS, samples, strict=True):
        width = min(feeds["x"].shape[3] for feeds in inputs)  # the peers' tools take one shape
        stored.append(OUT / f"{part}.npz")
        np.savez(stored[-1], x=np.concatenate([feeds["x"][..., :width] for feeds in inputs]))
    for name, make in (
        ("ORT INT8 MinMax", peers.ort_runner),
        ("NNCF INT8", peers.openvino_runner),
    ):
        paths = [
            peers.cached(model, data, ROOT / "build/peers", name)
            for model, data in zip(models, stored, strict=True)
        ]
        readers.append(reader(name, make, paths, threads))
    readers.append(reader("Octavo FP32", octavo_runner, models, threads))
    sqnr = {}  # of the worse of the two networks
    for calibrator in octavo.calibrator_names():
        made = [
            quantized(part, inputs, calibrator, threads)
            for part, inputs in zip(PARTS, samples, strict=True)
        ]
        name = f"Octavo INT8 {calibrator}"
        sqnr[name] = min(decibels for _, decibels in made)
        readers.append(reader(name, octavo_runner, [path for path, _ in made], threads))

    pages = ocr_pages.pages("heldout")
    page = {"x": ocr_pages.detector_input(pages[0])}
    box = ocr_pages.boxes(readers[0].detector.run(page))[0]
    line = {"x": ocr_pages.cut(pages[0], box)}
    everything: list[Row] = []
    accuracies = {r.name: ocr_pages.accuracy([r.page(p) for p in pages], pages) for r in readers}
    for part, example in (("detector", page), ("recogniser", line)):
        runners = [getattr(r, part) for r in readers]
        outputs = [runner.run(example) for runner in runners]
        rows: list[Row] = [
            {
                "name": runner.name,
                "part": part,
                "accuracy": accuracies[runner.name],
                "sqnr_db": peers.sqnr_db(outputs[0], output),
                "bytes": runner.size,
            }
            for runner, output in zip(runners, outputs, strict=True)
        ]
        clocked(rows, runners, example, rounds)
        print(f"\nPP-OCR's {part} at {example['x'].shape}; characters right on {len(pages)} pages:")
        print(table(rows, ["accuracy"]))
        everything += rows
    ours = next(r for r in readers if r.name == "Octavo FP32")
    wanted = accuracies["Octavo FP32"]
    found = chosen(everything, sqnr)
    text = (
        f"{found['name']}: {found['accuracy']:.4f} of the characters right, float {wanted:.4f}: "
        f"within {LARGEST_LOSS}"
    )
    small = {"x": page["x"][:, :, :96, :160]}
    return everything, [
        float_claim("ocr-detector", ours.detector, readers[0].detector, small),
        float_claim("ocr-recogniser", ours.recogniser, readers[0].recogniser, line),
        Claim(text, found["accuracy"] >= wanted - LARGEST_LOSS),
    ]


def demonstrate_photographs(threads: int, rounds: int) -> tuple[list[Row], list[Claim]]:
    print("\nEfficientNet-Lite0, as `make demo` shows it:")
    rows, held = demo.demonstrate(threads, rounds)
    return rows, [Claim("efficientnet-lite0: every claim above", held)]


PARTS_OF_DEMO = {
    "photographs": demonstrate_photographs,
    "sentences": demonstrate_sentences,
    "reading": demonstrate_reading,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS_OF_DEMO)} (all)")
    parser.add_argument("--threads", type=int, default=2, help="for each engine (%(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="timed blocks each (%(default)s)")
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS_OF_DEMO]:
        parser.error(f"unknown: {', '.join(unknown)}")
    OUT.mkdir(parents=True, exist_ok=True)
    info = octavo.doctor()
    print(f"Octavo {info['octavo']} on {info['cpu']}, {info['isa']}, {options.threads} threads")
    claims: list[Claim] = []
    for part in options.parts or PARTS_OF_DEMO:
        rows, found = PARTS_OF_DEMO[part](options.threads, options.rounds)
        (OUT / f"{part}.json").write_text(json.dumps(rows, indent=1) + "\n")
        claims += found
    print()
    for claim in claims:
        print(f"{'yes' if claim.held else 'NO ':3} {claim.text}")
    return 0 if all(claim.held for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
