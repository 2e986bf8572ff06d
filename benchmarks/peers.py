"""ONNX Runtime and OpenVINO (with NNCF), in float and with their own INT8 tools, beside Octavo.

    peers.py --model build/models/efficientnet-lite0.onnx --photos build/photos

quantizes the model with each peer's tool on the calibration half (results are cached under --cache,
by what they were made from), then prints how each kept the float answers on the held-out half, its
size, and its latency at batch 1. As a module: `runners` gives the peers; `evaluate`, `latency`,
`compare` and `table` take any Runner, so that another engine is one more entry in the list.

Scores, over all held-out inputs, against ONNX Runtime's FP32 logits y:
  agreement   share of inputs whose largest logit is the same class
  confident   the same, of those inputs where softmax(y) is above 0.3 at its largest
  SQNR        10 log10(sum y^2 / sum (y - y')^2), both sums over every logit of every input, in dB

Latency: the runners take turns, in blocks: each block warms up and then times single calls, so that
a change in the machine's clock meets all of them. Every peer gets the same number of threads and a
fixed batch of 1; OpenVINO is set for latency and kept from computing float layers in bf16.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import inspect
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[np.float32]
Inputs = Any  # the only input as an array, or all of them by name
CONFIDENT = 0.3


@dataclass(frozen=True)
class Runner:
    """One contestant: `run` takes one call's inputs and returns the network's first output."""

    name: str
    run: Callable[[Inputs], Array]
    files: Sequence[Path] = ()

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.files)


@dataclass(frozen=True)
class Score:
    agreement: float
    confident: float
    confident_count: int
    sqnr_db: float


@dataclass
class Latency:
    """Milliseconds of every timed call."""

    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return float(np.median(self.times))

    @property
    def best(self) -> float:
        return min(self.times)


def sqnr_db(reference: Array, other: Array) -> float:
    signal = np.square(reference, dtype=np.float64).sum()
    noise = np.square(reference.astype(np.float64) - other).sum()
    return float(10 * np.log10(signal / noise)) if noise > 0 else float("inf")


def score(reference: Array, logits: Array) -> Score:
    shifted = np.exp(reference - reference.max(1, keepdims=True))
    sure = shifted.max(1) / shifted.sum(1) > CONFIDENT
    same = reference.argmax(1) == logits.argmax(1)
    return Score(
        float(same.mean()), float(same[sure].mean()), int(sure.sum()), sqnr_db(reference, logits)
    )


def evaluate(runner: Runner, inputs: Array) -> Array:
    """The logits of every input, one call each."""
    return np.concatenate([runner.run(inputs[i : i + 1]) for i in range(len(inputs))])


def latency(
    runners: Sequence[Runner], example: Inputs, *, rounds: int = 15, warm: int = 5, calls: int = 20
) -> dict[str, Latency]:
    """Interleaved: in each round every runner has a block of `calls` timed calls."""
    results = {runner.name: Latency() for runner in runners}
    for turn in range(rounds):
        for place in range(len(runners)):
            runner = runners[(turn + place) % len(runners)]  # nobody always follows the same one
            for _ in range(warm):
                runner.run(example)
            for _ in range(calls):
                start = time.perf_counter_ns()
                runner.run(example)
                results[runner.name].times.append((time.perf_counter_ns() - start) / 1e6)
    return results


# The peers ------------------------------------------------------------------------------------


Shapes = Mapping[str, Sequence[int]]  # of the inputs, by name


def _symbols(path: Path, shapes: Shapes | None) -> dict[str, int]:
    """What the symbols of an ONNX file's inputs stand for; without shapes, a batch of 1."""
    if shapes is None:
        return {"batch": 1}
    graph = onnx.load(path, load_external_data=False).graph
    return {
        dim.dim_param: size
        for value in graph.input
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True)
        if dim.dim_param
    }


def ort_runner(name: str, path: Path, threads: int, shapes: Shapes | None = None) -> Runner:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for symbol, size in _symbols(path, shapes).items():
        options.add_free_dimension_override_by_name(symbol, size)
    cpus = sorted(os.sched_getaffinity(0))
    if threads > 1 and len(cpus) >= threads:  # the caller's thread works too, and is left free
        spots = ";".join(str(cpu + 1) for cpu in cpus[1:threads])
        options.add_session_config_entry("session.intra_op_thread_affinities", spots)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name

    def run(x: Inputs) -> Array:
        logits: Array = session.run(None, x if isinstance(x, Mapping) else {source: x})[0]
        return logits

    return Runner(name, run, (path,))


def openvino_runner(
    name: str, path: Path, threads: int, shapes: Shapes | None = None, *, bf16: bool = False
) -> Runner:
    import openvino
    from openvino import properties as p

    core = openvino.Core()
    model = core.read_model(path)
    wanted = {}
    for port in model.inputs:
        wanted[port] = port.partial_shape
        if shapes:
            wanted[port] = openvino.PartialShape(list(shapes[port.get_any_name()]))
        else:
            wanted[port][0] = 1
    model.reshape(wanted)
    settings: dict[Any, Any] = {
        p.hint.performance_mode: p.hint.PerformanceMode.LATENCY,
        p.hint.inference_precision: openvino.Type.bf16 if bf16 else openvino.Type.f32,
        p.inference_num_threads: threads,
        p.hint.enable_cpu_pinning: True,
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    fixed = not model.is_dynamic()

    def run(x: Inputs) -> Array:
        if isinstance(x, Mapping) or not fixed:
            request.infer(x if isinstance(x, Mapping) else [x])
        else:
            request.input_tensors[0].data[...] = x
            request.infer()
        logits: Array = request.output_tensors[0].data.copy()
        return logits

    files = [file for file in (path, path.with_suffix(".bin")) if file.exists()]
    return Runner(name, run, files)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizers print to stdout and log warnings that say nothing about the result."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(previous)


Samples = dict[str, NDArray[Any]]  # inputs by name, every sample along the first axis


def _one_by_one(samples: Samples) -> list[Samples]:
    count = len(next(iter(samples.values())))
    return [{name: x[i : i + 1] for name, x in samples.items()} for i in range(count)]


class _Reader:
    """What ONNX Runtime's tool draws its calibration inputs from."""

    def __init__(self, samples: Samples) -> None:
        self.batches = iter(_one_by_one(samples))

    def get_next(self) -> Samples | None:
        return next(self.batches, None)


def _quantize_ort(model: Path, calibration: Samples, output: Path, method: str) -> None:
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=output.parent) as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"  # BatchNorm folded, shapes known
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        loaded = onnx.load(prepared)
        if next(o.version for o in loaded.opset_import if not o.domain) < 13:
            onnx.save(onnx.version_converter.convert_version(loaded, 13), prepared)
        if method == "dynamic":
            q.quantize_dynamic(
                str(prepared), str(output), per_channel=True, weight_type=q.QuantType.QInt8
            )
            return
        q.quantize_static(
            str(prepared),
            str(output),
            _Reader(calibration),
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            calibrate_method=q.CalibrationMethod[method],
        )


def _quantize_nncf(
    model: Path, calibration: Samples, output: Path, *, fast: bool, mixed: bool, transformer: bool
) -> None:
    os.environ.setdefault("NNCF_CI", "1")  # or it reports to its makers
    with _quiet():
        import nncf
        import openvino

        preset = nncf.QuantizationPreset.MIXED if mixed else nncf.QuantizationPreset.PERFORMANCE
        inputs = _one_by_one(calibration)
        quantized = nncf.quantize(
            openvino.convert_model(model),  # unlike read_model, folds BatchNorm
            nncf.Dataset(inputs),
            preset=preset,
            subset_size=len(inputs),
            fast_bias_correction=fast,
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        )
        openvino.save_model(quantized, output, compress_to_fp16=False)


Maker = Callable[[Path, Samples, Path], None]


def _nncf(*, fast: bool = True, mixed: bool = False, transformer: bool = False) -> Maker:
    return partial(_quantize_nncf, fast=fast, mixed=mixed, transformer=transformer)


INT8_PEERS: dict[str, tuple[str, Maker]] = {
    "ORT INT8 MinMax": (".onnx", partial(_quantize_ort, method="MinMax")),
    "ORT INT8 Percentile": (".onnx", partial(_quantize_ort, method="Percentile")),
    "ORT INT8 Entropy": (".onnx", partial(_quantize_ort, method="Entropy")),
    "NNCF INT8": (".xml", _nncf()),
    "NNCF INT8 mixed": (".xml", _nncf(mixed=True)),
    "NNCF INT8 full BC": (".xml", _nncf(fast=False)),
    "NNCF INT8 mixed full BC": (".xml", _nncf(fast=False, mixed=True)),
}

# For networks of matrix products.
TRANSFORMER_PEERS: dict[str, tuple[str, Maker]] = {
    "ORT INT8 dynamic": (".onnx", partial(_quantize_ort, method="dynamic")),
    # Its full bias correction ruins all-MiniLM-L6-v2: mean cosine 0.87, the fast one 0.996.
    "NNCF INT8 transformer": (".xml", _nncf(transformer=True)),
}


def cached(model: Path, calibration: Path, cache: Path, name: str) -> Path:
    """The file that the peer called `name` makes from these inputs, or made before."""
    suffix, maker = (INT8_PEERS | TRANSFORMER_PEERS)[name]
    key = hashlib.sha256(name.encode())
    for package in ("onnxruntime", "openvino", "nncf"):
        key.update(version(package).encode())
    for function in (_quantize_ort, _quantize_nncf):
        key.update(inspect.getsource(function).encode())
    key.update(repr(sorted(getattr(maker, "keywords", {}).items())).encode())
    for source in (model, calibration):
        key.update(hashlib.sha256(source.read_bytes()).digest())
    slug = name.lower().replace(" ", "-")
    output = cache / f"{slug}-{key.hexdigest()[:16]}{suffix}"
    if not output.exists():
        cache.mkdir(parents=True, exist_ok=True)
        print(f"{name}: quantizing", file=sys.stderr, end="", flush=True)
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            unfinished = Path(folder) / output.name
            with np.load(calibration) as arrays:
                maker(model, dict(arrays), unfinished)
            weights = unfinished.with_suffix(".bin")
            if weights.exists():
                weights.replace(output.with_suffix(".bin"))
            unfinished.replace(output)
        print(f" took {time.monotonic() - start:.0f} s", file=sys.stderr)
    return output


def runners(
    model: Path,
    calibration: Path,
    cache: Path = Path("build/peers"),
    *,
    threads: int = 2,
    names: Sequence[str] = tuple(INT8_PEERS),
) -> list[Runner]:
    """The peers in float, then those of INT8_PEERS that `names` asks for."""
    result = [
        ort_runner("ORT FP32", model, threads),
        openvino_runner("OpenVINO FP32", model, threads),
    ]
    for name in names:
        path = cached(model, calibration, cache, name)
        make = ort_runner if path.suffix == ".onnx" else openvino_runner
        result.append(make(name, path, threads))
    return result


def compare(
    contestants: Sequence[Runner], heldout: Array, rounds: int = 15
) -> list[dict[str, Any]]:
    """One row per runner; the first one's logits are the reference."""
    reference = evaluate(contestants[0], heldout)
    scores = [score(reference, evaluate(runner, heldout)) for runner in contestants]
    times = latency(contestants, heldout[:1], rounds=rounds)
    return [
        {
            "name": runner.name,
            **asdict(one),
            "bytes": runner.size,
            "median_ms": times[runner.name].median,
            "best_ms": times[runner.name].best,
        }
        for runner, one in zip(contestants, scores, strict=True)
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"{'':26}{'agreement':>10}{'confident':>11}{'SQNR dB':>9}"
        f"{'MB':>7}{'median ms':>11}{'best':>7}"
    ]
    for row in rows:
        lines.append(
            f"{row['name']:26}{row['agreement']:10.3f}{row['confident']:11.3f}"
            f"{row['sqnr_db']:9.2f}{row['bytes'] / 1e6:7.2f}"
            f"{row['median_ms']:11.2f}{row['best_ms']:7.2f}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("build/models/efficientnet-lite0.onnx"))
    parser.add_argument("--photos", type=Path, default=Path("build/photos"))
    parser.add_argument("--cache", type=Path, default=Path("build/peers"))
    parser.add_argument("--threads", type=int, default=2, help="for each peer (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="timed blocks each (%(default)s)")
    parser.add_argument("--only", nargs="*", choices=INT8_PEERS, default=list(INT8_PEERS))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    contestants = runners(
        options.model,
        options.photos / "calibration.npz",
        options.cache,
        threads=options.threads,
        names=options.only,
    )
    with np.load(options.photos / "heldout.npz") as arrays:
        rows = compare(contestants, arrays["input"], options.rounds)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print(f"{rows[0]['confident_count']} confident inputs; {options.threads} threads, batch 1")
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
