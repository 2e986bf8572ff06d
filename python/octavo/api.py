"""The functions a user calls; each is a thin, typed face of liboctavo."""

from __future__ import annotations

import importlib
import json
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octavo import _core
from octavo._arguments import data_argument, is_module, path_argument, rules_argument
from octavo._core import Graph, Program
from octavo.rules import Rules

Path = str | os.PathLike[str]
# One tuple of inputs: an array, several in order, or by input name.
Sample = Any | Sequence[Any] | Mapping[str, Any]
ProgressCallback = Callable[[str, int, int], None]


def load_onnx(path: Path) -> Graph:
    """Reads a graph from an ONNX file.

    Raises:
        FileError: the file cannot be read or is damaged.
        UnsupportedError: it holds ops or types that Octavo lacks; all of them are named.
    """
    return _core.load_onnx(os.fspath(path))


def export_onnx(
    model: Any,
    path: Path,
    *,
    args: Any = None,
    target: str | None = None,
    float_products: object = "float32",
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_shapes: Any = None,
    opset: int | None = None,
    ir_version: int = 0,
    external_data: bool | None = None,
) -> None:
    """Writes an ONNX file; what is quantized becomes QuantizeLinear and DequantizeLinear nodes.

    Of a torch module: its own quantizers' scales and zero points, in evaluation, batch
    normalization folded. It may hold modules of pytorch-quantization's interface, or those of
    :mod:`octavo.quantization` after ``prepare_qat``, ``convert`` or ``quantize_dynamic``. It goes
    through ``torch.onnx.export`` on torch.export, which needs onnxscript.

    Args:
        model: a float or quantized graph, or a ``torch.nn.Module``.
        path: the file.
        args: of a module: example inputs, a tensor or a tuple.
        target: who will run the file. Its placement is the model's; only how integers are stored is
            adapted, not what they stand for: for ``"onnxruntime"``, i8 activations become u8, zero
            points 128 higher, and a Gemm's float bias i32 if no quantizer is behind it.
            :func:`lint` says what the target makes of it. None: nothing changes.
        float_products: how convolutions and matrix products that are not quantized are written:
            ``"float32"``, ``"float16"`` or ``"bfloat16"`` (or torch's dtype), weights included; a
            Cast stands before and behind each. What multiplies integers, and integer weights behind
            float activations, stay as they are. Values beyond 65504 are infinite in float16.
        input_names: of a module; None: the names of forward's parameters.
        output_names: of a module.
        dynamic_shapes: of a module, as for ``torch.onnx.export``.
        opset: version of the default domain, 13 to 22; None: the least from 17 on that has a form
            for every node (16-bit integers and groups want 21, convolutions of bfloat16 22).
        ir_version: 0 takes the one that belongs to ``opset``.
        external_data: whether weights go to ``<path>.data``; None: only if they exceed 1.8 GB.

    Raises:
        TypeError: ``model`` is neither; ``args`` is missing or not for it.
        FileError: the file cannot be written; nothing half written is left.
        UserError: an unknown target or type; a quantizer that is not calibrated; a weight beyond
            float16's range.
        UnsupportedError: the graph needs a later ``opset``; an op that Octavo lacks; a quantized
            module that has no ONNX form.
    """
    of_module = (args, input_names, output_names, dynamic_shapes)
    if isinstance(model, Graph):
        if any(value is not None for value in of_module):
            raise TypeError("args, names and dynamic_shapes are for a torch module, not a Graph")
        graph = model
    else:
        if not is_module(model):
            raise TypeError(
                f"octavo.export_onnx takes a Graph or a torch module, not {type(model).__name__}"
            )
        if args is None:
            raise TypeError("octavo.export_onnx of a torch module wants args, example inputs")
        _core.check_writable(os.fspath(path))
        export = importlib.import_module("octavo._export.module")
        graph = export.module_graph(model, *of_module)
    graph = graph.clone()
    if target is not None:
        _core.retarget(graph, target)
    _core.use_float_products(graph, str(float_products).removeprefix("torch."))
    _core.export_onnx(graph, os.fspath(path), opset or 0, ir_version, external_data)


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


def quantize(
    graph: Graph,
    data: Iterable[Sample] | Path | None = None,
    *,
    mode: str = "static",
    target: str = "octavo",
    calibrator: str | None = None,
    compare: Sequence[str] = (),
    weights: str | None = None,
    bits: int = 8,
    group_size: int = 0,
    activation: str = "tensor",
    bias_correction: bool | None = None,
    smooth: str | None = None,
    equalize: str | None = None,
    weight_scales: str = "channel",
    evaluation: Iterable[Sample] | Path | None = None,
    preprocessing: Path | None = None,
    rules: Rules | Path | None = None,
    record: Path | None = None,
    samples: int = 0,
    threads: int = 0,
    progress: ProgressCallback | None = None,
) -> Graph:
    """Post-training quantization.

    The mode is the precision of every convolution and matrix product that no rule names:
    ``"static"``: activations u8 per tensor with scales from calibration, weights i8 per channel;
    ``"dynamic"``: the same, but the scale of an activation is found at each call;
    ``"weight_only"``: weights alone are integers.

    Args:
        graph: a float graph.
        data: calibration samples; in the other modes, if given, samples to judge by and, with
            ``weights`` that are fitted (gptq, awq) in mode weight_only, to fit them to. An iterable
            of arrays, tuples or ``{name: array}``, or a path (``.npz``, ``.npy``, a folder of
            either, or of pictures). Arrays have the dtypes and shapes that ``graph.inputs`` lists,
            batch axis included. An iterable is read once and held in memory.
        mode: ``"static"``, ``"dynamic"`` or ``"weight_only"``.
        target: who will run the result.
        calibrator: how activation ranges are chosen, in mode static; None means ``"mse"``. See
            ``octavo quantize --help``.
        compare: further calibrators, judged from the same pass over the data.
        weights: how weights are rounded: ``"gptq"`` (one after the other, each error made good by
            the rest, for the calibration data; the default of mode static, for mode weight_only it
            needs ``data``), or to nearest with scales by ``"mse"`` (the default of the other modes)
            or ``"max"``; in mode static ``"adaround"`` too, in mode weight_only with ``data``
            ``"awq"`` and ``"awq+gptq"``. See docs/quantization.md.
        bits: of weights, in mode weight_only: 8 or 4.
        group_size: in mode weight_only, how many weights along the inputs share a scale; 0 means
            all of an output channel for 8 bits, 32 for 4 bits (128 for target tensorrt).
        activation: in mode dynamic, whether a matrix product's activation has one scale
            (``"tensor"``) or one for each row of its last axis, that is for each token of a
            transformer (``"row"``; target octavo only, ONNX has no such op).
        bias_correction: correct the mean error of each output channel, layer by layer, in mode
            static; None means yes.
        smooth: SmoothQuant, in mode static: ``"folded"`` (the default) where a layer norm or a
            product takes the factors, ``"all"`` also behind GELUs, which then run in float and may
            get a sixteenth more channels, or ``"none"``. Give samples without padding.
        equalize: cross-layer equalisation (Nagel et al., arXiv 1906.04721), in mode static:
            ``"folded"`` between products with ReLU and the like between them, ``"all"`` also across
            Clip (ReLU6), whose bounds are then those of each channel and run in float, or
            ``"none"`` (the default). Worth it with ``weight_scales="tensor"``.
        weight_scales: in mode static, whether a product's weights have one scale for each output
            channel (``"channel"``) or one for all (``"tensor"``), as some targets ask for.
        evaluation: samples to judge by; the calibration data if None.
        preprocessing: how pictures become inputs.
        rules: :class:`octavo.Rules` or a rules file, which gives nodes other precisions than the
            mode's (``schemas/rules.schema.json``).
        record: where to write the run record (JSON, ``schemas/run_record.schema.json``).
        samples: use at most so many of ``data``; 0 means all.
        threads: how many to use; 0 follows CPU affinity and cgroup quota.
        progress: called as ``progress(phase, done, total)``; what it raises ends the work, as
            Ctrl-C does.

    Returns:
        A quantized graph, for :func:`compile`, :func:`save` and :func:`export_onnx`; its
        attribute ``record`` is the run record.

    Raises:
        TypeError: ``graph`` is no Graph, ``data`` neither a path nor an iterable of arrays.
        FileError: a file cannot be read or is not what it should be.
        UserError: the graph is quantized already, or nothing in it can be; the data are missing,
            empty, do not fit, or hold NaN or infinity; an unknown name; an option that the mode
            does not know.
    """
    if not isinstance(graph, Graph):
        raise TypeError(f"octavo.quantize takes a Graph, not {type(graph).__name__}")
    if isinstance(compare, str):
        compare = [compare]
    if record is not None:
        _core.check_writable(os.fspath(record))
    quantized, text = _core.quantize_graph(
        graph,
        data_argument(data),
        mode,
        data_argument(evaluation),
        path_argument(preprocessing),
        target,
        calibrator or "",
        list(compare),
        weights or "",
        bits,
        group_size,
        activation,
        bias_correction,
        smooth or "",
        equalize or "",
        weight_scales,
        rules_argument(rules),
        samples,
        threads,
        progress,
    )
    if record is not None:
        _core.write_text(text, os.fspath(record))
    result: Graph = quantized
    result.record = json.loads(text)
    return result


def equalize(graph: Graph, *, where: str = "folded") -> Graph:
    """Cross-layer equalisation (Nagel et al., arXiv 1906.04721) alone: a float graph whose
    neighbouring products have channels of common ranges, for others to quantize.

    Args:
        graph: a float graph, which stays as it is.
        where: ``"folded"``, ``"all"`` or ``"none"``, as ``equalize`` of :func:`quantize`.

    Returns:
        A float graph that computes the same but for float32 rounding, BatchNorm folded.

    Raises:
        TypeError: ``graph`` is no Graph.
        UserError: it is quantized already; ``where`` is not known.
    """
    if not isinstance(graph, Graph):
        raise TypeError(f"octavo.equalize takes a Graph, not {type(graph).__name__}")
    result: Graph = _core.equalize_graph(graph, where)
    return result


def inspect(
    model: Graph | Program,
    *,
    batch: int | None = None,
    dims: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What a graph consists of, or the types, steps, kernels and memory of a program.

    The steps of a program are those for one choice of its symbolic dimensions, which ``"bound"``
    lists: 1 where the network allows it, else for all but leading axes the least power of two that
    it allows. Where none does, ``"bound"`` is None, ``"reason"`` says why, and there are no steps.

    Args:
        model: a Graph or a Program.
        batch: what symbolic dimensions of a program's inputs count as.
        dims: what single ones count as, by name; an unknown one is called ``"INPUT.AXIS"``.

    Raises:
        UserError: the program cannot have the dimensions that were asked for.
    """
    if isinstance(model, Graph):
        if batch is not None or dims:
            raise TypeError("batch and dims are for a Program; a Graph keeps its symbols")
        text = _core.inspect_json(model)
    else:
        text = _core.plan_json(model, batch, dict(dims or {}))
    info: dict[str, Any] = json.loads(text)
    return info


@dataclass(frozen=True)
class BenchResult:
    """Times of :func:`bench`, in milliseconds."""

    milliseconds: list[float]  # each call, in order

    @property
    def median(self) -> float:
        """The median call."""
        return statistics.median(self.milliseconds)

    @property
    def least(self) -> float:
        """The fastest call."""
        return min(self.milliseconds)


def bench(program: Program, *inputs: Any, seconds: float = 2.0, batch: int = 1) -> BenchResult:
    """Times a program: calls for ``seconds``, at least five, after three that do not count.

    Args:
        program: what to time.
        inputs: arrays, as for a call; none: seeded noise.
        seconds: how long to measure.
        batch: what symbolic dimensions count as if there are no ``inputs``.

    Raises:
        UserError: the inputs do not fit, or ``seconds`` is not positive.
    """
    return BenchResult(_core.bench_program(program, *inputs, seconds=seconds, symbol_value=batch))


def doctor() -> dict[str, Any]:
    """What this machine offers, and the environment variables that count."""
    info: dict[str, Any] = json.loads(_core.doctor_json())
    return info


@dataclass(frozen=True)
class LintFinding:
    """One node that a target would run in float, or one rule of the target that a file breaks."""

    kind: str  # "float", "weights" (float, by integer weights) or "rule"
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
