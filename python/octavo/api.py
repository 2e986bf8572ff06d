"""The functions a user calls; each is a thin, typed face of liboctavo."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octavo import _core
from octavo._core import Graph, Program

Path = str | os.PathLike[str]
# One tuple of inputs: an array, several in order, or by input name.
Sample = Any | Sequence[Any] | Mapping[str, Any]
ProgressCallback = Callable[[str, int, int], None]


def load(path: Path) -> Graph:
    """Reads a graph from an ``.onnx`` or ``.octavo`` file.

    Raises:
        FileError: the file cannot be read or is damaged.
        UnsupportedError: it holds ops or types that Octavo lacks; all of them are named.
    """
    return _core.load_model(os.fspath(path))


def save(graph: Graph, path: Path) -> None:
    """Writes a graph as ``.onnx`` or ``.octavo``, by the name's ending; whole or not at all."""
    _core.save_model(graph, os.fspath(path))


def compile(model: Graph | Path, *, threads: int = 0, optimize: bool = True) -> Program:
    """Makes a program of a graph or a model file.

    Args:
        model: a float or quantized graph, or the path of a file that holds one.
        threads: how many to use; 0 follows CPU affinity and cgroup quota.
        optimize: False runs each node by itself, without fusion (to look for faults).

    Returns:
        A program; call it with arrays (NumPy, DLPack) or with ``{name: array}``. Dense inputs are
        not copied. Symbolic dimensions are bound at each call; a new binding is planned once.

    Raises:
        TypeError: ``model`` is neither a graph nor a path.
    """
    if isinstance(model, Graph):
        graph = model
    elif isinstance(model, (str, os.PathLike)):
        graph = load(model)
    else:
        raise TypeError(f"octavo.compile takes a Graph or a path, not {type(model).__name__}")
    return _core.compile_graph(graph, threads=threads, optimize=optimize)


@dataclass(frozen=True)
class QuantizedGraph:
    """What :func:`quantize` returns when ``record=True``."""

    graph: Graph
    record: dict[str, Any]  # schemas/run_record.schema.json


def quantize(
    graph: Graph,
    data: Iterable[Sample] | Path,
    *,
    target: str = "octavo",
    calibrator: str = "entropy",
    compare: Sequence[str] = (),
    weights: str = "gptq",
    bias_correction: bool = True,
    evaluation: Iterable[Sample] | Path | None = None,
    preprocessing: Path | None = None,
    rules: Path | None = None,
    samples: int = 0,
    threads: int = 0,
    progress: ProgressCallback | None = None,
) -> QuantizedGraph:
    """Post-training quantization to INT8: activations u8 per tensor, weights i8 per channel.

    Args:
        graph: a float graph.
        data: calibration samples: an iterable of arrays, tuples or ``{name: array}``, or a path
            (``.npz``, ``.npy``, a folder of either, or of pictures).
        target: who will run the result.
        calibrator: how activation ranges are chosen; see ``octavo quantize --help``.
        compare: further calibrators, judged from the same pass over the data.
        weights: how weights are rounded: ``"gptq"`` (one after the other, each error made good by
            the rest, for the calibration data), or to nearest with scales by ``"mse"`` or
            ``"max"``.
        bias_correction: correct the mean error of each output channel, layer by layer.
        evaluation: samples to judge by; the calibration data if None.
        preprocessing: how pictures become inputs.
        rules: a rules file that keeps nodes in float.
        samples: use at most so many of ``data``; 0 means all.
        threads: how many to use; 0 follows CPU affinity and cgroup quota.
        progress: called as ``progress(phase, done, total)``.

    Returns:
        The quantized graph and its run record.

    Raises:
        UserError: the graph is quantized already, or nothing in it can be; the data are empty, do
            not fit, or hold NaN or infinity; an unknown name.
    """
    quantized, record = _core.quantize_graph(
        graph,
        data if not isinstance(data, os.PathLike) else os.fspath(data),
        evaluation if not isinstance(evaluation, os.PathLike) else os.fspath(evaluation),
        os.fspath(preprocessing) if preprocessing is not None else "",
        target,
        calibrator,
        list(compare),
        weights,
        bias_correction,
        os.fspath(rules) if rules is not None else "",
        samples,
        threads,
        progress,
    )
    return QuantizedGraph(quantized, json.loads(record))


def inspect(model: Graph | Program) -> dict[str, Any]:
    """What a graph consists of, or the steps, kernels and memory of a program."""
    text = _core.inspect_json(model) if isinstance(model, Graph) else _core.plan_json(model)
    info: dict[str, Any] = json.loads(text)
    return info


def doctor() -> dict[str, Any]:
    """What this machine offers, and the environment variables that count."""
    info: dict[str, Any] = json.loads(_core.doctor_json())
    return info


@dataclass(frozen=True)
class LintFinding:
    """One node that a target would run in float, or one rule of the target that a file breaks."""

    kind: str  # "float" or "rule"
    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class LintReport:
    """What a target would make of a quantized graph."""

    target: str
    findings: list[LintFinding]
    integer: list[str]  # names of the nodes that run on integers, fused ones included


def lint(graph: Graph, target: str) -> LintReport:
    """Says which nodes of a Q/DQ graph a runtime would run in float and why, and which of its
    placement rules the graph breaks (docs/targets.md).

    Args:
        graph: as loaded, from Octavo or another tool.
        target: ``"octavo"``, ``"onnxruntime"``, ``"openvino"`` or ``"tensorrt"``.

    Raises:
        UserError: an unknown target.
    """
    report = json.loads(_core.lint_json(graph, target))
    findings = [LintFinding(**finding) for finding in report["findings"]]
    return LintReport(report["target"], findings, report["integer"])
