"""INT8 post-training quantization of real weights by Octavo, ONNX Runtime, NNCF and torch.ao, on
the same data: how much of the float answers each keeps.

    tools/run.sh python benchmarks/accuracy.py [efficientnet] [minilm] [--only NAME …] [--check]

EfficientNet-Lite0 on photographs, all-MiniLM-L6-v2 on sentences. Each engine's methods are judged
on data that none has seen; which of Octavo's is its answer is chosen on the calibration data alone,
by the outputs' SQNR there ("chosen"). Every product and convolution has 8-bit weights and
activations, but in the rows called dynamic, whose scales are found at each call.
Sentences calibrate Octavo and torch.ao one by one, at their own lengths; the tools of ONNX Runtime
and NNCF get the same ones padded to one length, as they want them. Nearest neighbours are looked
for among 256 sentences; the share is the mean over sets of so many, none in two sets.

Each row is printed as soon as it is known and kept in build/accuracy/NETWORK.json. --only makes the
rows whose names hold one of the words given ("nncf", "octavo", "torch.ao fx"), and leaves the
others of that file as they are; --resume makes those that it lacks. With --check the exit code says
whether Octavo's answer is the best of each column, and meets the bars.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
import time
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
SET = 256  # sentences, among which neighbours are looked for
SETS = 8
Feeds = dict[str, Any]
Row = dict[str, Any]


class Contest:
    """The rows of one network, each kept in a file as soon as it is there."""

    def __init__(
        self,
        network: str,
        options: argparse.Namespace,
        data: Iterable[peers.Array],
        score: Callable[[peers.Array], Row],
        bars: dict[str, float],
    ) -> None:
        self.file = OUT / f"{network}.json"
        self.only = [word.lower() for word in options.only]
        self.resume = options.resume
        self.score, self.bars = score, bars
        digest = hashlib.sha256()
        for array in data:
            digest.update(np.ascontiguousarray(array).tobytes())
        self.data = digest.hexdigest()
        self.rows: list[Row] = []
        if self.only or self.resume:
            self.rows = self.stored()
        else:
            self.file.unlink(missing_ok=True)
        print(f"{'':32}" + "".join(f"{column:>12}" for column in bars) + f"{'seconds':>10}")

    def wants(self, name: str) -> bool:
        if self.only and not any(word in name.lower() for word in self.only):
            return False
        return not (self.resume and any(row["name"] == name for row in self.rows))

    def stored(self) -> list[Row]:
        """Rows of the file, which another run with --only may be writing too."""
        if not self.file.exists():
            return []
        found = json.loads(self.file.read_text())
        if found["data"] != self.data:
            raise SystemExit(f"{self.file} is about other data: run without --only and --resume")
        rows: list[Row] = found["rows"]
        return rows

    def enter(self, name: str, answer: Callable[[], tuple[peers.Array, float | None]]) -> None:
        """The row of `name`: its outputs, and for Octavo the SQNR on the calibration data."""
        if not self.wants(name):
            return
        start = time.monotonic()
        outputs, kept = answer()
        row = {"name": name, **self.score(outputs), "seconds": time.monotonic() - start}
        if kept is not None:
            row["calibration"] = kept
        self.rows = [r for r in self.stored() if r["name"] != name] + [row]
        self.file.write_text(json.dumps({"data": self.data, "rows": self.rows}, indent=1) + "\n")
        self.show(row)

    def show(self, row: Row, mark: str = "") -> None:
        cells = "".join(f"{row[column]:12.4f}" for column in self.bars)
        print(f"{row['name']:32}{cells}{row['seconds']:10.0f}{mark}", flush=True)

    def judge(self) -> bool:
        """Octavo's answer against the best peer in each column and against the bars."""
        ours = [row for row in self.rows if row["name"].startswith("Octavo")]
        theirs = [row for row in self.rows if not row["name"].startswith("Octavo")]
        chosen = max(ours, key=lambda row: row["calibration"], default=None)
        print()
        for row in self.rows:
            self.show(row, "  chosen" if row is chosen else "")
        if chosen is None or not theirs:
            print("NO  nothing to compare: rows of Octavo and of a peer are needed")
            return False
        held = True
        for column, bar in self.bars.items():
            best = max(theirs, key=lambda row: row[column])
            good = bool(chosen[column] >= max(bar, best[column]))
            held &= good
            print(
                f"{'yes' if good else 'NO ':3} {chosen['name']}: {column} {chosen[column]:.4f}; "
                f"best peer {best['name']} {best[column]:.4f}; bar {bar}"
            )
        return held


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


def enter_octavo(
    contest: Contest,
    model: Path,
    samples: Sequence[Feeds],
    methods: Iterable[dict[str, Any]],
    unseen: Sequence[Feeds],
) -> None:
    graph = octavo.load_onnx(str(model))
    for method in methods:
        name = "Octavo " + ", ".join(
            value if key == "calibrator" else f"{key} {value}" for key, value in method.items()
        )

        def answer(method: dict[str, Any] = method) -> tuple[peers.Array, float]:
            result = octavo.quantize(graph, samples, progress=demo.show_progress, **method)
            program = octavo.compile(result)
            kept: float = result.record["calibrators"][0]["output_sqnr_db"]
            return np.concatenate([program(one)[0] for one in unseen]), kept

        contest.enter(name, answer)


def enter_torch(
    contest: Contest,
    name: str,
    make: Callable[[], Callable[..., torch.Tensor]],
    unseen: Sequence[Feeds],
) -> None:
    contest.enter(name, lambda: (of_torch(make(), unseen), None))


def enter_peer(
    contest: Contest, name: str, model: Path, calibration: Path, unseen: Sequence[Any]
) -> None:
    def answer() -> tuple[peers.Array, None]:
        path = peers.cached(model, calibration, ROOT / "build/peers", name)
        make = peers.ort_runner if path.suffix == ".onnx" else peers.openvino_runner
        return outputs_of(make(name, path, 2), unseen), None

    contest.enter(name, answer)


def outputs_of(runner: peers.Runner, unseen: Sequence[Any]) -> peers.Array:
    return np.concatenate([runner.run(one) for one in unseen])


def judge_efficientnet(options: argparse.Namespace) -> bool:
    demo.prepare()
    stored = demo.PHOTOS / "calibration.npz"
    with np.load(stored) as arrays:
        calibration = arrays["input"]
    with np.load(demo.PHOTOS / "heldout.npz") as arrays:
        heldout = arrays["input"]
    unseen = [{"input": x[None]} for x in heldout]
    reference = outputs_of(peers.ort_runner("ORT FP32", demo.MODEL, 2), unseen)

    def score(outputs: peers.Array) -> Row:
        found = peers.score(reference, outputs)
        return {"agreement": found.agreement, "SQNR dB": found.sqnr_db}

    print(f"\nEfficientNet-Lite0, {len(heldout)} crops of photographs that no method has seen:")
    bars = {"agreement": 0.92, "SQNR dB": 18.0}
    contest = Contest("efficientnet", options, (calibration, heldout), score, bars)
    for name in peers.INT8_PEERS:
        enter_peer(contest, name, demo.MODEL, stored, unseen)
    batches = [(torch.from_numpy(x[None]),) for x in calibration]
    enter_torch(contest, "torch.ao FX", lambda: torch_ao(efficientnet.Lite0(), batches), unseen)
    samples = [{"input": x[None]} for x in calibration]
    methods = [{"calibrator": name} for name in octavo.calibrator_names()]
    enter_octavo(contest, demo.MODEL, samples, methods, unseen)
    return contest.judge()


def judge_minilm(options: argparse.Namespace) -> bool:
    model = make_models.make("minilm")
    calibration = sentences.inputs("calibration")
    heldout = sentences.inputs("heldout", SETS * SET)
    stored = OUT / "sentences.npz"
    np.savez(stored, **calibration)
    samples = list(sentences.without_padding(calibration))
    unseen = list(demo_models.one_by_one(heldout))
    reference = outputs_of(peers.ort_runner("ORT FP32", model, 2), unseen)

    def score(outputs: peers.Array) -> Row:
        sets = [slice(first, first + SET) for first in range(0, len(outputs), SET)]
        rows = [demo_models.embedding_row("", 0, reference[s], outputs[s]) for s in sets]
        return {
            "cosine": float(np.mean([row["cosine"] for row in rows])),
            "neighbour": float(np.mean([row["neighbour"] for row in rows])),
            "SQNR dB": peers.sqnr_db(reference, outputs),
            "least": min(row["least"] for row in rows),
            "neighbour of each set": [row["neighbour"] for row in rows],
        }

    print(f"\nall-MiniLM-L6-v2, {len(unseen)} sentences that no method has seen, 64 tokens:")
    bars = {"cosine": 0.998, "neighbour": 0.95, "SQNR dB": 0.0}
    contest = Contest("minilm", options, (*calibration.values(), *heldout.values()), score, bars)
    for name in ("ORT INT8 dynamic", "ORT INT8 MinMax", "NNCF INT8 transformer"):
        enter_peer(contest, name, model, stored, unseen)
    net = transformer.minilm()
    batches = [tuple(map(torch.from_numpy, one.values())) for one in samples]
    enter_torch(contest, "torch.ao dynamic", lambda: torch_ao_dynamic(net), unseen)
    enter_torch(contest, "torch.ao FX", lambda: torch_ao(net, batches), unseen)
    methods = [{"calibrator": "mse", "smooth": smooth} for smooth in ("folded", "all")]
    methods.append(methods[-1] | {"weights": "adaround"})
    enter_octavo(contest, model, samples, methods, unseen)
    return contest.judge()


PARTS = {"efficientnet": judge_efficientnet, "minilm": judge_minilm}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--only", nargs="+", default=[], help="words of the rows to make")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is not met")
    options = parser.parse_args()
    if unknown := set(options.models) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    warnings.simplefilter("ignore")  # torch.ao is deprecated, and says so at each step
    torch.set_num_threads(1)  # answers are judged, not times; its threads would only wait
    OUT.mkdir(parents=True, exist_ok=True)
    held = [PARTS[name](options) for name in options.models or PARTS]
    return 1 if options.check and not all(held) else 0


if __name__ == "__main__":
    sys.exit(main())
