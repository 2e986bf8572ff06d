#!/usr/bin/env python3
"""Runs ONNX's own node tests through octavo.onnx_backend and writes what passes.

Writes docs/onnx_support.md (op by op) and tests/python/onnx_node_failures.txt (case by case); with
``--check`` it compares them with a fresh run instead. ``--only TEXT`` runs the cases whose name
contains TEXT and prints their errors.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs/onnx_support.md"
FAILURES = ROOT / "tests/python/onnx_node_failures.txt"

# What a message means for the table, first match first.
REASONS = (
    (r"FLOAT8|ONNX type (17|18|19|20|24)\b", "8-bit floats"),
    (r"FLOAT4|FLOAT6|ONNX type 23\b", "4-bit floats"),
    (r"INT4|INT2|ONNX type (21|22|25|26)\b", "integers of 2 and 4 bits"),
    (r"STRING|String|string|Regex|TfIdf", "strings"),
    (r"only tensors|Sequence|Optional|sequence|optional", "sequences and optionals"),
    (r"draws random|RandomUniform|Bernoulli|training_mode", "random numbers"),
    (r"holds a subgraph|subgraph|is computed", "control flow that is not constant"),
    (r"before opset 9", "an op's form before opset 9"),
    (r"Adagrad|Adam|Momentum", "training"),
    (r"ImageDecoder", "images"),
    (r"opset 1 is not", "domain ai.onnx.preview or an opset before 7"),
    (r"domain ai\.onnx\.ml|LabelEncoder|ArrayFeature|Binarizer|TreeEnsemble", "domain ai.onnx.ml"),
    (r"domain ai\.onnx\.preview", "domain ai.onnx.preview"),
    (r"not supported: |are not supported", "op not implemented"),
    (r"tolerance|not equal|Arrays are", "differs"),
)

# The cases divide by a length that is no whole number; the standard's text, ONNX Runtime and
# PyTorch by the length that the output has.
WHOLE_LENGTH = "taken as ONNX Runtime takes it: lengths are whole"
REASONS_OF_CASES = {
    "test_resize_downsample_scales_cubic_align_corners": WHOLE_LENGTH,
    "test_resize_downsample_scales_linear_align_corners": WHOLE_LENGTH,
}


@dataclass
class Outcome:
    """One case: the op it tests, and why it fails (empty if it passes)."""

    name: str
    op: str
    error: str = ""

    @property
    def reason(self) -> str:
        """The error as a row of the table."""
        if self.error and self.name in REASONS_OF_CASES:
            return REASONS_OF_CASES[self.name]
        for pattern, reason in REASONS:
            if re.search(pattern, self.error):
                return reason
        return "error" if self.error else ""


def op_of(case: Any, ops: dict[str, str]) -> str:
    """The op whose test this is; expanded functions count for the function."""
    base = re.sub(r"_expanded(_ver\d+)?$", "", case.name)
    if base in ops:
        return ops[base]
    nodes = case.model.graph.node
    return str(nodes[-1].op_type) if len(nodes) > 1 else str(nodes[0].op_type)


def run_case(case: Any) -> str:
    """The first error of a case, or nothing."""
    from onnx import TensorProto
    from onnx.backend.test.runner import Runner
    from onnx.numpy_helper import to_array

    from octavo.onnx_backend import OctavoBackend

    try:
        prepared = OctavoBackend.prepare(case.model)
        for inputs, outputs in case.data_sets:
            got = prepared.run(list(inputs))
            wanted = [to_array(o) if isinstance(o, TensorProto) else o for o in outputs]
            Runner.assert_similar_outputs(wanted, list(got), rtol=case.rtol, atol=case.atol)
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


def run_suite(only: str = "") -> list[Outcome]:
    """All node cases of the installed ONNX, in order of their names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        cases = sorted(load_model_tests(kind="node"), key=lambda case: str(case.name))
        ops = {
            case.name: case.model.graph.node[0].op_type
            for case in cases
            if len(case.model.graph.node) == 1
        }
        return [
            Outcome(case.name, op_of(case, ops), run_case(case))
            for case in cases
            if only in case.name
        ]


def failures_text(outcomes: list[Outcome]) -> str:
    """One line for each failing case."""
    return "".join(f"{o.name}\t{o.reason}\n" for o in outcomes if o.error)


def table_text(outcomes: list[Outcome]) -> str:
    """The documentation."""
    import onnx

    rows: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        rows[outcome.op].append(outcome)
    passed = sum(not o.error for o in outcomes)
    lines = [
        "# ONNX ops",
        "",
        "Written by `tools/onnx_support.py`, checked by `tests/python/test_onnx_nodes.py`.",
        "",
        f"ONNX {onnx.__version__} has {len(outcomes)} node tests; through `octavo.onnx_backend` "
        f"{passed} pass. A function's expanded cases count for its op.",
        "",
        "| op | passes | of | the rest |",
        "|---|---:|---:|---|",
    ]
    for op in sorted(rows):
        cases = rows[op]
        good = sum(not o.error for o in cases)
        reasons = Counter(o.reason for o in cases if o.error)
        rest = ", ".join(f"{reason} ({n})" for reason, n in sorted(reasons.items()))
        lines.append(f"| {op} | {good} | {len(cases)} | {rest} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    outcomes = run_suite(arguments.only)
    failed = [o for o in outcomes if o.error]
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} pass")
    if arguments.only:
        for outcome in failed:
            print(f"{outcome.name}: {outcome.error[:300]}")
        return bool(failed)
    texts = {FAILURES: failures_text(outcomes), TABLE: table_text(outcomes)}
    if arguments.check:
        stale = [p for p, text in texts.items() if not p.exists() or p.read_text() != text]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date", file=sys.stderr)
        return bool(stale)
    for path, text in texts.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
