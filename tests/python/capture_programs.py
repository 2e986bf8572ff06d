"""Random Python functions over tensors, as source text.

`Program(seed).source` defines `f(x, y, i, xs, d, box, opt=None, *rest, **named)`, what it calls and
`calls`, a list of functions that make the arguments of one call each.
"""

from __future__ import annotations

import contextlib
import itertools
import random

from capture_prelude import ARGUMENTS, PRELUDE
from capture_templates import (
    ASSIGN,
    BOOLS,
    INTS,
    SIMPLE,
    STRINGS,
    STRUCTURES,
    TENSOR_BINARY,
    TENSOR_UNARY,
)


class Program:
    def __init__(self, seed: int) -> None:
        for attempt in itertools.count():  # templates within templates are not always Python
            self.rng = random.Random(seed + attempt * 1_000_003)
            self.source = PRELUDE + self.make() + self.calls()
            with contextlib.suppress(SyntaxError):
                compile(self.source[len(PRELUDE) :], "program", "exec")
                break

    def make(self) -> str:
        self.names = 0
        self.tensors = ["x", "y"]
        self.ints = ["i"]
        self.lines: list[str] = []
        self.depth = 0
        self.loops = 0
        self.globals_declared = False
        self.inner = 0
        budget = self.rng.choice((2, 3, 4, 6, 8, 12))
        body = self.block(budget)
        body.append("return " + self.result())
        return self.function(body)

    # --- expressions ---------------------------------------------------------------------------
    def pick(self, templates: tuple[str, ...]) -> str:
        return self.rng.choice(templates)

    def fill(self, template: str, depth: int) -> str:
        parts = {
            "a": self.tensor(depth - 1) if "{a}" in template else "",
            "b": self.tensor(depth - 1) if "{b}" in template else "",
            "i": self.integer(depth - 1) if "{i}" in template else "",
            "j": self.integer(depth - 1) if "{j}" in template else "",
            "c": self.boolean(depth - 1) if "{c}" in template else "",
            "e": self.boolean(depth - 1) if "{e}" in template else "",
            "s": self.string(depth - 1) if "{s}" in template else "",
            "v": "",
        }
        return template.format(**parts)

    def tensor(self, depth: int) -> str:
        if depth <= 0 or self.rng.random() < 0.3:
            return self.rng.choice(self.tensors)
        table = TENSOR_UNARY if self.rng.random() < 0.6 else TENSOR_BINARY
        template = self.pick(table)
        if ":=" in template:
            template = "{a} + {b}"
        # Calls bind tighter than operators, and a template may begin with what it is given.
        return "(" + self.fill(template, depth) + ")"

    def integer(self, depth: int) -> str:
        if depth <= 0 or self.rng.random() < 0.4:
            return self.rng.choice([*self.ints, "1", "2"])
        return "(" + self.fill(self.pick(INTS), depth) + ")"

    def boolean(self, depth: int) -> str:
        return "(" + self.fill(self.pick(BOOLS), max(depth, 1)) + ")" if depth > 0 else "(i > 1)"

    def string(self, depth: int) -> str:
        return "(" + self.fill(self.pick(STRINGS), depth) + ")" if depth > 0 else "'ab'"

    def fresh(self) -> str:
        self.names += 1
        return f"v{self.names}"

    # --- statements ----------------------------------------------------------------------------
    def block(self, budget: int) -> list[str]:
        tensors, ints = list(self.tensors), list(self.ints)
        lines: list[str] = []
        for _ in range(self.rng.randint(1, max(1, budget))):
            lines += self.statement(budget)
        if self.depth > 0 and self.rng.random() < 0.9:  # else names may be unbound: that is wanted
            self.tensors, self.ints = tensors, ints
        return lines

    def nested(self, budget: int) -> list[str]:
        self.depth += 1
        lines = self.block(max(1, budget // 2))
        self.depth -= 1
        return ["    " + line for line in lines]

    def statement(self, budget: int) -> list[str]:
        roll = self.rng.random()
        if roll < 0.32:
            return self.assignment()
        if roll < 0.56:
            template = self.pick(SIMPLE)
            for name in ("{a}", "{b}"):  # what is written to is a name, often
                if self.rng.random() < 0.8 or template.startswith("{a} "):
                    template = template.replace(name, self.rng.choice(self.tensors))
            return [self.fill(template, self.rng.choice((0, 1, 1, 2)))]
        if roll < 0.70:
            return self.structure()
        if self.depth >= 3:
            return self.assignment()
        return self.compound(budget)

    def assignment(self) -> list[str]:
        depth = self.rng.choice((1, 1, 2, 2, 3))
        if self.rng.random() < 0.2:
            name, value = self.fresh(), self.integer(depth)
            self.ints.append(name)
        elif self.rng.random() < 0.3:
            kind, template = self.rng.choice(ASSIGN)
            name, value = self.fresh(), self.fill(template, depth)
            (self.tensors if kind == "T" else self.ints).append(name)
        else:
            again = self.rng.random() < (0.03 if self.inner else 0.3)
            name = self.rng.choice(self.tensors) if again else self.fresh()
            value = self.tensor(depth)
            if not again:
                self.tensors.append(name)
        return [f"{name} = {value}"]

    def structure(self) -> list[str]:
        template = self.pick(STRUCTURES)
        if template.startswith("global") and self.globals_declared:
            template = template.split("\n", 1)[1]
        elif template.startswith("global"):
            self.globals_declared = True  # the declaration is hoisted
            template = template.split("\n", 1)[1]
        name = self.fresh()
        text = self.fill(template.replace("{v}", "@@"), self.rng.choice((1, 1, 2))).replace(
            "@@", name
        )
        self.tensors.append(name)
        return text.split("\n")

    def compound(self, budget: int) -> list[str]:
        kind = self.rng.choice(
            ("if", "if", "else", "for", "for", "while", "try", "try", "with", "with", "with", "def")
        )
        if kind == "if":
            return [f"if {self.boolean(2)}:", *self.nested(budget)]
        if kind == "else":
            lines = [f"if {self.boolean(2)}:", *self.nested(budget)]
            return [*lines, "else:", *self.nested(budget)]
        if kind == "for":
            return self.loop(budget)
        if kind == "while":
            name = self.fresh()
            lines = [
                f"{name} = 0",
                f"while {name} < {self.rng.choice(('2', '3', 'i % 4'))}:",
                f"    {name} += 1",
            ]
            lines += self.nested(budget)
            if self.rng.random() < 0.4:
                lines += [
                    f"    if {self.boolean(1)}:",
                    f"        {self.rng.choice(('break', 'continue'))}",
                ]
            return lines
        if kind == "try":
            return self.guarded(budget)
        if kind == "def":
            return self.closure(budget)
        manager = self.rng.choice(
            (
                "torch.no_grad()",
                "torch.enable_grad()",
                "Manager(G_LIST)",
                "Manager(G_LIST, eat=True)",
                "managed(G_LIST)",
                "Manager(xs) as m_",
                "managed(G_LIST) as n_",
                "torch.set_grad_enabled(i > 1)",
                "contextlib.suppress(Oops, IndexError)",
                "contextlib.nullcontext(x) as c_",
                "torch.no_grad(), Manager(G_LIST)",
                "torch.autocast('cpu', enabled=False)",
                "torch.autocast('cpu', dtype=torch.bfloat16)",
                "torch.inference_mode()",
                "torch.inference_mode(i > 1)",
                "swallows(LOG, Oops, LookupError)",
                "swallows(LOG, Exception) as l_",
                "Chatty(x, LOG)",
            )
        )
        lines = [f"with {manager}:", *self.nested(budget)]
        if self.depth > 0 and self.rng.random() < 0.1:
            lines.append("    return " + self.result())
        return lines

    def loop(self, budget: int) -> list[str]:
        name = self.fresh()
        over, kind = self.rng.choice(
            (
                ("range(3)", "I"),
                ("range(i % 4)", "I"),
                ("xs", "T"),
                ("list(xs)", "T"),
                ("d.values()", "T"),
                ("G_LIST[:3]", "I"),
                ("reversed(xs)", "T"),
                ("gen(x, 2)", "T"),
                ("xs[:2]", "T"),
                ("x", "T"),
                ("(x, y)", "T"),
                ("filter(lambda q: q.dim() > 1, xs[:3])", "T"),
                ("map(torch.sin, xs[:3])", "T"),
                ("range(x.shape[0])", "I"),
                ("rest", "T"),
                ("itertools.islice(itertools.count(), 2)", "I"),
            )
        )
        if over == "xs":
            over = "xs[:4]"
        (self.tensors if kind == "T" else self.ints).append(name)
        lines = [f"for {name} in {over}:", *self.nested(budget)]
        if self.rng.random() < 0.4:
            lines += [
                f"    if {self.boolean(1)}:",
                f"        {self.rng.choice(('break', 'continue'))}",
            ]
        if self.rng.random() < 0.2:
            lines += ["else:", *self.nested(1)]
        return lines

    def guarded(self, budget: int) -> list[str]:
        lines = ["try:", *self.nested(budget)]
        if self.rng.random() < 0.5:
            raised = self.rng.choice(("Oops('t', i)", "ValueError(i)", "KeyError('k')", "Oops"))
            lines += [f"    if {self.boolean(1)}:", f"        raise {raised}"]
        final = self.rng.random() < 0.4
        if not final or self.rng.random() < 0.6:
            caught = self.rng.choice(
                (
                    "Exception as e_",
                    "Oops",
                    "(ValueError, Oops) as e_",
                    "Exception",
                    "(IndexError, KeyError, AttributeError)",
                    "RuntimeError as e_",
                )
            )
            lines += [f"except {caught}:"]
            if "e_" in caught:
                lines += ["    print(type(e_).__name__, e_.args)"]
            lines += self.nested(1)
            if self.rng.random() < 0.2:
                lines += [
                    self.rng.choice(
                        (
                            "    raise",
                            "    raise ValueError('again')",
                            "    raise ValueError('from') from None",
                        )
                    )
                ]
            if self.rng.random() < 0.2:
                lines += ["else:", *self.nested(1)]
        if final:
            lines += ["finally:", *self.nested(1)]
        return lines

    def closure(self, budget: int) -> list[str]:
        name, arg = self.fresh(), self.fresh()
        self.tensors.append(arg)
        self.inner += 1
        lines = [f"def {name}({arg}, n_=1):", *self.nested(budget), f"    return {arg} + n_"]
        self.inner -= 1
        self.tensors.remove(arg)
        result = self.fresh()
        self.tensors.append(result)
        # It reads names of the function around it, before or after they are changed.
        return [*lines, f"{result} = {name}({self.rng.choice(self.tensors[:2])})"]

    def result(self) -> str:
        t = self.rng.sample(self.tensors, min(len(self.tensors), 3))
        return self.rng.choice(
            (
                t[0],
                f"{t[0]}, {t[-1]}",
                f"[{t[0]}, i, xs]",
                f"{{'r': {t[0]}, 'd': d}}",
                f"Box({t[0]}, i)",
                f"{t[0]} + {t[-1]}",
                f"({t[0]}, box, xs, d)",
                f"lambda: {t[0]}",
                f"Pair({t[0]}, i)",
                "box",
                f"Data({t[0]}, i, [{t[-1]}])",
                f"xs or {t[0]}",
                f"{t[0]}.shape, {t[0]}",
                f"(i, {t[0]}, 'ab')",
            )
        )

    def function(self, body: list[str]) -> str:
        head = ["def f(x, y, i, xs, d, box, opt=None, *rest, **named):"]
        if self.globals_declared:
            head.append("    global G_INT")
        return "\n".join(head + ["    " + line for line in body]) + "\n"

    # --- arguments -----------------------------------------------------------------------------
    def calls(self) -> str:
        grad = self.rng.random() < 0.3
        base = {
            "shape": "(2, 4)",
            "dtype": "torch.float32",
            "i": self.rng.choice(("1", "2", "3")),
            "n": "2",
            "box": self.rng.choice(("Box", "Sub")),
            "opt": "None",
            "rest": "",
            "named": "",
            "same": "False",
            "grad": str(grad),
            "sign": "1",
            "keys": "'k'",
            "mode": "''",
        }
        variants = {
            "shape": ("(3, 4)", "(1, 4)", "(4,)", "(2, 2, 4)", "(0, 4)", "(5, 4)"),
            "dtype": ("torch.float64", "torch.int64"),
            "i": ("0", "4", "5", "-1", "True", "2"),
            "n": ("0", "1", "3"),
            "box": ("Box", "Sub"),
            "opt": ("torch.ones(4)",),
            "rest": ("torch.ones(4)", "torch.ones(4), 5"),
            "named": ("z=torch.ones(4)", "z=2, w=3"),
            "same": ("True",),
            "grad": ("True", "False"),
            "sign": ("-1",),
            "keys": ("'k', 'q'", "'q'", ""),
            "mode": ("'no grad'", "'inference'", "'autocast'", "'float64'"),
        }
        lines = ["calls = []"]
        sizes = self.rng.random() < 0.2  # calls that differ in their sizes and ints
        for call in range(6 if sizes else self.rng.choice((3, 4, 5))):
            now = dict(base)
            if sizes:
                now["shape"] = self.rng.choice(("(2, 4)", "(3, 4)", "(5, 4)", "(7, 4)", "(1, 4)"))
                now["i"] = self.rng.choice(("2", "3", "4", "7", "i_")).replace("i_", now["i"])
            elif call >= 2 or (call == 1 and self.rng.random() < 0.5):
                for key in self.rng.sample(sorted(variants), self.rng.choice((1, 1, 2))):
                    now[key] = self.rng.choice(variants[key])
            lines.append(
                "calls.append(dict("
                + ", ".join(
                    f"{k}={v!r}" if k in ("rest", "named", "box", "keys") else f"{k}={v}"
                    for k, v in now.items()
                )
                + "))"
            )
        lines.append(ARGUMENTS)
        return "\n".join(lines) + "\n"
