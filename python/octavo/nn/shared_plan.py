"""Where a target wants quantizers between quantized modules, from torch.export's graph."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from octavo import _core
from octavo.compat.pytorch_quantization.nn.modules import _utils
from octavo.nn.shared_kinds import (
    CLAMPS,
    FUNCTIONS,
    KEEP_SIGNS,
    KINDS,
    OPS,
    OPTIONAL,
    POSITIVE,
    PRODUCTS,
    TWO_SIDED,
    VIEWS,
)

__all__ = ["Plan", "Site", "Target"]


@dataclass(frozen=True)
class Target:
    """What a runtime wants: its facts (src/quantize/placement), as far as they matter here."""

    all_sides: bool  # of an addition; else the shortcut alone: the rest is in the product
    one_scale: frozenset[str]  # kinds whose inputs and output have one scale
    quantized: frozenset[str]  # other kinds whose inputs are quantized
    outputs: frozenset[str]  # ops on integers only with a quantize behind them, or their clamp
    clamps: bool  # relu and the like belong to what is before them
    functions: bool  # so do other functions of one element
    tables: bool  # functions of one element are tables, behind what is on integers
    gates: bool  # SiLU is a sigmoid and a product, each on integers
    unsigned: bool  # where a clamp ends at 0, the integers must too

    @classmethod
    def of(cls, name: str) -> Target:
        """Of a target by name.

        Raises:
            UserError: it is not known.
        """
        facts: dict[str, Any] = json.loads(_core.target_json(name))
        ops = facts["ops"]
        # What moves elements: their scale is the input's on every target.
        one_scale = {"max_pool", "resize"} | ({"cat"} if facts["shared_concat"] else set())
        quantized = {"cat"} - one_scale if "concat" in ops else set()
        quantized |= {kind for kind in OPTIONAL - {"silu"} if OPS.get(kind) in ops}
        outputs = {op for op, fact in ops.items() if fact["quantized_output"]}
        must_saturate = facts["clamp_must_saturate"]
        tables = facts["function_tables"]
        if tables:
            quantized |= FUNCTIONS
            outputs |= FUNCTIONS
        gates = not tables and not facts["fuses_functions"] and {"sigmoid", "mul"} <= set(ops)
        if gates:
            quantized.add("silu")
            outputs.add("silu")
        return cls(
            all_sides=not facts["products_take_additions"],
            one_scale=frozenset(one_scale),
            quantized=frozenset(quantized),
            outputs=frozenset(outputs),
            clamps=facts["clamp_vanishes"],
            functions=facts["fuses_functions"] or tables,
            tables=tables,
            gates=gates,
            unsigned=must_saturate and facts["activation"] == "u8",
        )


@dataclass
class Site:
    """A call, and which of its operands, and whether its result, are quantized."""

    node: torch.fx.Node
    owner: str  # the module whose forward makes the call
    kind: str
    ordinal: int  # among the owner's calls of this kind
    operands: list[torch.fx.Node]
    sides: list[int]
    output: bool
    count: int  # the owner's calls of this kind; -1: not the same each time
    # Filled in by who makes the quantizers: their names in the owner, by operand and of the result.
    names: dict[int, str] = field(default_factory=dict)
    output_name: str = ""
    gate_name: str = ""


def _name(node: torch.fx.Node) -> str:
    return str(getattr(node.target, "_opname", ""))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def _operands(node: torch.fx.Node) -> list[torch.fx.Node]:
    """The tensors that a call joins; empty if it is none of ours."""
    kind = KINDS.get(_name(node))
    if kind is None:
        return []
    first = node.args[0]
    if kind == "cat":
        return [n for n in first if isinstance(n, torch.fx.Node)]  # type: ignore[union-attr]
    operands = list(node.args[:2]) if kind in TWO_SIDED else [first]
    return [n for n in operands if isinstance(n, torch.fx.Node)] if all(
        _is_tensor(n) for n in operands
    ) else []  # fmt: skip


def _has_form(node: torch.fx.Node, operands: list[torch.fx.Node], kind: str) -> bool:
    """Whether runtimes have integers for these shapes and operands (by_facts.cpp, octavo.cpp)."""
    if kind not in OPTIONAL:
        return True
    shapes = [n.meta["val"].shape for n in operands]
    # Others read what was there before the call changed it.
    if _name(node).endswith("_") and len(operands[0].users) > 1:
        return False
    if kind == "mul":
        return len(operands) == 2 and shapes[0] == shapes[1] and operands[0] is not operands[1]
    if kind == "adaptive_avg_pool2d" and not _is_global(node):
        return False
    if kind == "mean":
        axes: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        named = axes if isinstance(axes, list | tuple) else [axes]
        if any(not isinstance(a, int) for a in named) or node.kwargs.get("dtype"):
            return False
        if sorted(a % 4 for a in named) != [2, 3]:
            return False
    return len(shapes[0]) == 4 if "pool" in kind or kind == "mean" else True


def _owner(node: torch.fx.Node) -> tuple[str, str]:
    """The innermost module's name, and which of its calls this is."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return "", ""
    key, (path, _kind) = list(stack.items())[-1]
    name, _, _call = str(path).partition("@")
    return name.removeprefix("L['self']").removeprefix("."), str(key)


class _Groups:
    """Which tensors have one scale (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[Any, Any] = {}

    def find(self, x: Any) -> Any:
        parent = self._parent.setdefault(x, x)
        if parent is not x:
            parent = self._parent[x] = self.find(parent)
        return parent

    def join(self, a: Any, b: Any) -> bool:
        """Whether they were apart."""
        a, b = self.find(a), self.find(b)
        self._parent[a] = b
        return a is not b


def _shortcuts(node: torch.fx.Node, operands: list[torch.fx.Node]) -> list[int]:
    """Which operands of an addition are not computed together with it: all but the last product."""
    products = [i for i, n in enumerate(operands) if _name(n) in PRODUCTS and len(n.users) == 1]
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    last = max(products, key=lambda i: order[operands[i]], default=None)
    return [i for i in range(len(operands)) if i != last]


class Plan:
    """Reads the graph of a model whose quantizers are off; decides.

    Attributes:
        target: what the runtime wants.
        groups: which tensors have one scale.
        readers: (module name, quantized module, the tensor it reads).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        graph: torch.fx.Graph,
        target: Target,
        disabled: dict[Any, bool],
        without: Collection[tuple[str, str]] = (),
    ) -> None:
        """As the graph of torch.export has it; `without`: (owner, kind) of calls left in float."""
        self._model, self.target, self._disabled = model, target, disabled
        self._without = without
        self._nodes = list(graph.nodes)
        self.groups = _Groups()
        self.readers: list[tuple[str, Any, torch.fx.Node]] = []
        self._reading: dict[torch.fx.Node, torch.fx.Node] = {}  # the calls that read, and what
        self._calls: list[tuple[torch.fx.Node, list[torch.fx.Node], list[int]]] = []
        self._counts: dict[tuple[str, str], set[int]] = {}  # by owner and kind, of its calls
        for node in self._nodes:
            if node.op == "call_function":
                self._look_at(node)
        # A module that is called twice has one quantizer.
        by_quantizer: dict[Any, torch.fx.Node] = {}
        for _, module, tensor in self.readers:
            self.groups.join(by_quantizer.setdefault(module.input_quantizer, tensor), tensor)
        self._places = self._places_of_calls()
        self._found = self._wanted()

    def _places_of_calls(self) -> dict[torch.fx.Node, tuple[str, str, int]]:
        """Of each call: the module that makes it, its kind, and its number among those."""
        counts: dict[tuple[str, str, str], int] = defaultdict(int)
        places = {}
        for node in self._nodes:
            name = _name(node)
            if node.op != "call_function" or (name in KINDS and not _operands(node)):
                continue
            owner, call = _owner(node)
            kind = KINDS.get(name, name)
            places[node] = (owner, kind, counts[owner, call, kind])
            counts[owner, call, kind] += 1
        for (owner, _, kind), count in counts.items():
            self._counts.setdefault((owner, kind), set()).add(count)
        return places

    def _look_at(self, node: torch.fx.Node) -> None:
        target, kind = self.target, KINDS.get(_name(node), "")
        if _name(node) in VIEWS and node.all_input_nodes:
            self.groups.join(node, node.args[0])
        self._read_module(node)
        operands = _operands(node)
        if not operands or self._inside_quantized(node):
            return
        if kind in target.one_scale:
            for operand in operands:
                self.groups.join(operand, node)
        if kind == "add":
            sides = range(len(operands)) if target.all_sides else _shortcuts(node, operands)
            self._calls.append((node, operands, list(sides)))
        elif kind in target.one_scale | target.quantized and self._takes(node, operands, kind):
            self._calls.append((node, operands, list(range(len(operands)))))

    def _takes(self, node: torch.fx.Node, operands: list[torch.fx.Node], kind: str) -> bool:
        """Whether the target has integers for a call, going by what is before it."""
        if kind not in OPTIONAL:
            return True
        if (_owner(node)[0], kind) in self._without or not _has_form(node, operands, kind):
            return False
        # Octavo's placement follows integers downwards.
        return not self.target.tables or all(self._on_integers(n) for n in operands)

    def _on_integers(self, node: torch.fx.Node) -> bool:
        """Whether the target makes a tensor from integers, as far as the calls say."""
        name = _name(node)
        if name in PRODUCTS or self._inside_quantized(node):
            return self._quantizes(node)
        if name in VIEWS:
            return self._on_integers(node.all_input_nodes[0])
        if name not in KINDS:
            return False
        if KINDS[name] in OPTIONAL:
            return any(call is node for call, _, _ in self._calls)
        operands = _operands(node)
        return operands != [] and all(self._on_integers(n) for n in operands)

    def _module_of(self, node: torch.fx.Node) -> Any:
        return self._model.get_submodule(_owner(node)[0])

    def _inside_quantized(self, node: torch.fx.Node) -> bool:
        return isinstance(self._module_of(node), _utils.QuantMixin | _utils.QuantInputMixin)

    def _quantizes(self, node: torch.fx.Node) -> bool:
        """Whether this is a call in a quantized module whose quantizers are on."""
        module = self._module_of(node)
        names = ("_input_quantizer", "_weight_quantizer")
        own = [getattr(module, name) for name in names if hasattr(module, name)]
        return (
            self._inside_quantized(node) and not any(self._disabled[q] for q in own) and own != []
        )

    def _read_module(self, node: torch.fx.Node) -> None:
        module = self._module_of(node)
        if not self._inside_quantized(node) or not hasattr(module, "_input_quantizer"):
            return
        tensor: Any = node.args[0] if node.args else None
        outside = _is_tensor(tensor) and _owner(tensor) != _owner(node)
        if outside and not self._disabled[module.input_quantizer]:
            self.readers.append((_owner(node)[0], module, tensor))
            self._reading[node] = tensor

    def _result(self, node: torch.fx.Node) -> torch.fx.Node:
        """Behind the clamp that goes with a call."""
        user = next(iter(node.users)) if len(node.users) == 1 else None
        clamp = user is not None and KINDS.get(_name(user)) in CLAMPS and self.target.clamps
        return user if clamp and user is not None else node

    def _product_results(self) -> Iterator[torch.fx.Node]:
        """Results that must be quantized, of products on integers."""
        for node in self._nodes:
            name = _name(node)
            wants = name in PRODUCTS and OPS[name] in self.target.outputs
            if wants and self._quantizes(node):
                yield self._result(node)

    def _wanted(self) -> set[Any]:
        """Groups of which something reads integers."""
        found = {self.groups.find(tensor) for _, _, tensor in self.readers}
        found |= {self.groups.find(result) for result in self._product_results()}
        grown = True
        while grown:  # a call counts if its output is wanted
            before = len(found)
            for node, operands, sides in self._calls:
                if self._is_wanted(node, found):
                    found |= {self.groups.find(operands[i]) for i in sides}
            grown = len(found) > before
        return found

    def _is_wanted(self, node: torch.fx.Node, found: set[Any]) -> bool:
        if KINDS[_name(node)] == "add":
            return any(_name(n) in PRODUCTS for n in node.all_input_nodes) or self._reaches(
                node, found
            )
        return self._reaches(node, found)

    def _reaches(self, node: torch.fx.Node, found: set[Any]) -> bool:
        if self.groups.find(node) in found:
            return True
        # through what runtimes put into what is before it
        return any(
            self._reaches(user, found)
            for user in node.users
            if (self.target.clamps and KINDS.get(_name(user)) in CLAMPS)
            or (self.target.functions and KINDS.get(_name(user)) in FUNCTIONS)
        )

    def _outputs(self, calls: dict[torch.fx.Node, list[torch.fx.Node]]) -> set[torch.fx.Node]:
        """Results that need a quantizer of their own, as not all that reads them has one."""
        results = set(self._product_results())
        for node in self._nodes:
            name = _name(node)
            op = OPS.get(name, KINDS.get(name))
            if self.target.tables and KINDS.get(name) in FUNCTIONS:
                op = KINDS[name]
            if name in PRODUCTS or op not in self.target.outputs:
                continue
            if name.startswith("adaptive") and not _is_global(node):
                continue
            result = self._result(node)
            on_integers = node in calls or self._quantizes(node)
            if on_integers and self.groups.find(result) in self._found:
                results.add(result)

        def quantizes(user: torch.fx.Node, result: torch.fx.Node) -> bool:
            return self._reading.get(user) is result or result in calls.get(user, ())

        return {r for r in results if not all(quantizes(user, r) for user in r.users)}

    def sites(self) -> list[Site]:
        """The calls that are wanted, in order."""
        places: set[tuple[str, str, int]] = set()  # of results with a quantizer of their own
        while True:
            wanted = {
                node: (operands, sides)
                for node, operands, sides in self._calls
                if self._is_wanted(node, self._found)
            }
            reads = {n: [operands[i] for i in sides] for n, (operands, sides) in wanted.items()}
            more = {self._places[result] for result in self._outputs(reads)} - places
            places |= more
            if not self._join_calls(reads, places) and not more:
                break
            self._found = self._wanted()
        found = []
        for node, place in self._places.items():
            operands, sides = wanted.get(node, ([], []))
            if sides or place in places:
                counts = self._counts[place[:2]]
                count = next(iter(counts)) if len(counts) == 1 else -1
                found.append(Site(node, *place, operands, sides, place in places, count))
        return found

    def _join_calls(
        self,
        reads: dict[torch.fx.Node, list[torch.fx.Node]],
        places: set[tuple[str, str, int]],
    ) -> bool:
        """A quantizer in a module serves each of its calls. Whether that joined any groups."""
        first: dict[Any, torch.fx.Node] = {}
        joined = False
        for node, place in self._places.items():
            sides: list[tuple[Any, torch.fx.Node]] = list(enumerate(reads.get(node, ())))
            for side, tensor in [*sides, *([("result", node)] if place in places else [])]:
                joined |= self.groups.join(first.setdefault((place, side), tensor), tensor)
        return joined

    def is_unsigned(self, tensor: torch.fx.Node) -> bool:
        """Whether the target wants unsigned integers for what has this tensor's scale."""
        if not self.target.unsigned:
            return False
        root = self.groups.find(tensor)
        return all(_is_positive(n) for n in self._nodes if self.groups.find(n) is root)


def _is_global(node: torch.fx.Node) -> bool:
    size = node.args[1] if len(node.args) > 1 else None
    return size in (1, [1, 1], (1, 1), [1], (1,))


def _is_positive(node: torch.fx.Node) -> bool:
    """Whether no element is below 0, as far as the call says."""
    name = _name(node)
    if name in POSITIVE:
        return True
    if name in ("hardtanh", "hardtanh_", "clamp", "clamp_"):
        least = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
        return isinstance(least, int | float) and least >= 0
    if name in KEEP_SIGNS:
        return isinstance(node.args[0], torch.fx.Node) and _is_positive(node.args[0])
    if name == "cat" or (KINDS.get(name) in TWO_SIDED and not node.kwargs):
        operands = _operands(node)
        return operands != [] and all(_is_positive(n) for n in operands)
    return False
