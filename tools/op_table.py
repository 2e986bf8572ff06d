#!/usr/bin/env python3
"""Writes docs/ops.md from the library's own tables; with ``--check`` compares it instead."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs/ops.md"
# Element types of the text form, in the order of the table.
SHORT = {
    "float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16", "int8": "i8",
    "uint8": "u8", "int16": "i16", "uint16": "u16", "int32": "i32", "uint32": "u32",
    "int64": "i64", "uint64": "u64", "bool": "bool",
}  # fmt: skip
HEAD = """# Ops

Written by `tools/op_table.py` from the tables that the library runs by (`src/ops/ops.def`, the ONNX
rules beside each op, `src/codegen/select.cpp`, `src/quantize/placement/`), checked by
`tests/python/test_tools.py`. [onnx_support.md](onnx_support.md) has ONNX's own tests, op by op;
[targets.md](targets.md) how the columns of the targets were checked.

ONNX files of opsets 7 to 28 are read and of 13 to 22 written; unless one is asked for, the least
from 17 on that has a form for every node.

- **INT8**: `weighted` accumulates integers, with constant weights per channel; `same scale` keeps
  its input's scale; `requantize` has an output scale of its own; `float` runs in float. Ops of
  quantization and fused ones have none.
- **f32**: what ONNX's f32 tests of the op compile to, inputs but the first as constants: `fast` if
  kernels of our own run all steps of all of them, `partly` if of some; else `reference`, the plain
  kernel that every op has. Fused ops are what others become: `fast` if they have kernels.
- **dtypes**: element types of the first input in the tests of ONNX that the op's ONNX names pass.
- **ONNX**: the names under which it is read, with the first and last opset of the rule where there
  is one; `→` where it is written too, with the opsets from the least that has a form for any of
  ONNX's tests of the op to the newest that is written; `all from`: the least with one for each.
- **octavo, onnxruntime, openvino, tensorrt**: how the target runs it between Q/DQ: as a `product`,
  as integer `arithmetic` with scales of its own, as a `copy` of one scale; empty: in float.
"""


@dataclass
class Seen:
    """Of one ONNX op, in the cases that pass: types of the first input; f32 ones without steps on
    the reference kernel, and all f32 ones."""

    dtypes: set[str] = field(default_factory=set)
    fast: int = 0
    all: int = 0


OLDEST_WRITTEN, NEWEST_WRITTEN = 13, 22


def least_opset(graph: Any) -> int | None:
    """The first opset in which a graph can be written; None if there is none."""
    import octavo

    with tempfile.TemporaryDirectory() as folder:
        for opset in range(OLDEST_WRITTEN, NEWEST_WRITTEN + 1):
            try:
                octavo.export_onnx(graph, Path(folder) / "model.onnx", opset=opset)
                return opset
            except octavo.UserError:
                continue
    return None


def written_opsets() -> dict[str, set[int]]:
    """Of each of our ops, the first opset of every ONNX node test that becomes this op alone."""
    from onnx.backend.test.loader import load_model_tests

    import octavo
    from octavo import _core

    found: dict[str, set[int]] = defaultdict(set)
    for case in load_model_tests(kind="node"):
        try:
            graph = _core.load_onnx_bytes(case.model.SerializeToString())
        except octavo.UserError:
            continue
        ops = octavo.inspect(graph)["ops"]
        first = least_opset(graph) if len(ops) == 1 else None
        if first is not None:
            found[next(iter(ops))].add(first)
    return found


def written_text(op: dict[str, Any], opsets: dict[str, set[int]]) -> str:
    """→ 13–22, → 13–22 (all from 18), or → alone where no test is of the op alone."""
    if not op["exports"]:
        return ""
    seen = opsets.get(op["name"])
    if not seen:
        return " →"
    rest = f" (all from {max(seen)})" if len(seen) > 1 else ""
    return f" → {min(seen)}–{NEWEST_WRITTEN}{rest}"


def on_reference(model: Any, inputs: list[Any]) -> bool | None:
    """Whether a step of the case runs on the reference kernel; None if it cannot be compiled."""
    from onnx import ModelProto
    from onnx.numpy_helper import from_array

    import octavo
    from octavo import _core

    fixed = ModelProto()
    fixed.CopyFrom(model)
    for value, name in zip(inputs[1:], [i.name for i in model.graph.input][1:], strict=False):
        if isinstance(value, np.ndarray):
            fixed.graph.initializer.append(from_array(value, name))
    del fixed.graph.input[1:]
    try:
        program = octavo.compile(_core.load_onnx_bytes(fixed.SerializeToString()))
    except octavo.UserError:
        return None
    steps = octavo.inspect(program)["steps"]
    return any(step["kernel"] == "reference" for step in steps) if steps else None


def passing_cases() -> dict[str, Seen]:
    """What ONNX's node cases that pass say of each ONNX op."""
    sys.path.insert(0, str(ROOT / "tools"))
    from onnx import TensorProto
    from onnx.backend.test.loader import load_model_tests
    from onnx.numpy_helper import to_array

    from onnx_support import FAILURES

    failing = {line.split("\t")[0] for line in FAILURES.read_text().splitlines()}
    found: dict[str, Seen] = defaultdict(Seen)
    for case in load_model_tests(kind="node"):
        nodes = case.model.graph.node
        if case.name in failing or len(nodes) != 1 or not case.data_sets or not nodes[0].input:
            continue
        if not case.model.graph.input or nodes[0].input[0] != case.model.graph.input[0].name:
            continue
        inputs = [to_array(x) if isinstance(x, TensorProto) else x for x in case.data_sets[0][0]]
        if not isinstance(inputs[0], np.ndarray | np.generic):
            continue
        seen = found[nodes[0].op_type]
        seen.dtypes.add(SHORT.get(str(inputs[0].dtype), str(inputs[0].dtype)))
        if inputs[0].dtype == np.float32:
            slow = on_reference(case.model, inputs)
            seen.all += slow is not None
            seen.fast += slow is False
    return found


def rule_text(rule: dict[str, Any]) -> str:
    """Conv, Squeeze 1–12, com.microsoft.Gelu."""
    name = f"{rule['domain']}.{rule['op_type']}" if rule["domain"] else rule["op_type"]
    if "until" in rule:
        return f"{name} {rule['since']}–{rule['until']}"
    return name if rule["since"] <= 7 else f"{name} {rule['since']}–"


def speed_text(op: dict[str, Any], cases: list[Seen]) -> str:
    """The column f32."""
    total, fast = sum(c.all for c in cases), sum(c.fast for c in cases)
    if not total:
        return "fast" if op["kernels"] else "reference" if op["kind"] == "fused" else ""
    return "fast" if fast == total else "partly" if fast else "reference"


def table_text(table: dict[str, Any], found: dict[str, Seen], opsets: dict[str, set[int]]) -> str:
    """The documentation."""
    order = list(SHORT.values())
    targets = list(table["ops"][0]["targets"])
    lines = [HEAD]
    for stage in ("captured", "canonical", "quantized", "lowered"):
        ops = [op for op in table["ops"] if op["stage"] == stage]
        if not ops:
            continue
        lines += [f"## First stage: {stage}", ""]
        lines.append("| op | kind | INT8 | f32 | dtypes | ONNX | " + " | ".join(targets) + " |")
        lines.append("|---|---|---|---|---|---|" + "---|" * len(targets))
        for op in sorted(ops, key=lambda o: str(o["name"])):
            names = [rule_text(r) for r in op["imports"]]
            own = {str(r["op_type"]) for r in op["imports"] if not r["domain"]}
            cases = [found[name] for name in sorted(own) if name in found]
            seen = {d for case in cases for d in case.dtypes}
            onnx = ", ".join(dict.fromkeys(names)) + written_text(op, opsets)
            forms = ["" if op["targets"][t] == "float" else op["targets"][t] for t in targets]
            cells = [
                f"`{op['name']}`",
                op["kind"],
                op["quantization"],
                speed_text(op, cases),
                " ".join(d for d in order if d in seen),
                onnx.strip(),
                *forms,
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += [
        "## ONNX ops that are made of several",
        "",
        "Read as the ops above; they are written as those.",
        "",
        "| ONNX | dtypes |",
        "|---|---|",
    ]
    composed = {(r["domain"], r["op_type"], rule_text(r)) for r in table["composed"]}
    for domain, op_type, text in sorted(composed):
        seen = set() if domain or op_type not in found else found[op_type].dtypes
        lines.append(f"| {text} | {' '.join(d for d in order if d in seen)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    from octavo import _core

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = table_text(json.loads(_core.ops_json()), passing_cases(), written_opsets())
    if arguments.check:
        if not TABLE.exists() or TABLE.read_text() != text:
            print(f"{TABLE.relative_to(ROOT)} is out of date: run {Path(__file__).name}",
                  file=sys.stderr)  # fmt: skip
            return 1
        return 0
    TABLE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
