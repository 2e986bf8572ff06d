# Captured functions are written in every way that users write them.
# ruff: noqa: PLW0108, RUF005, UP006, UP045
"""itertools, operator, functools and torch's questions about itself in captured functions."""

import copy
import enum
import functools
import inspect
import itertools
import operator
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch

from capture_cases import assert_capture, tensors
from capture_snapshot import Snapshot, difference
from octavo import capture

pytestmark = pytest.mark.peers
T = TypeVar("T")
X, Y = tensors((2, 4), (2, 4))


def whole(fn: Any, args: tuple[Any, ...], **more: Any) -> None:
    assert_capture(fn, args, graphs=1, breaks=[], **more)


class Shade(enum.Enum):
    LIGHT = 1
    DARK = 2


ITERATORS = {
    "chain.from_iterable": lambda a, b: itertools.chain.from_iterable([[a, b], (b,), {1: a}]),
    "combinations": lambda a, b: itertools.combinations([a, b, 3], 2),
    "combinations with replacement": lambda a, b: itertools.combinations_with_replacement(
        (a, b), 2
    ),
    "permutations": lambda a, b: itertools.permutations([a, b, 3], 2),
    "permutations of all": lambda a, b: itertools.permutations([a, b]),
    "accumulate": lambda a, b: itertools.accumulate([a, b, a]),
    "accumulate with a function": lambda a, b: itertools.accumulate([a, b], torch.mul, initial=2),
    "accumulate of nothing": lambda a, b: itertools.accumulate([], initial=a),
    "zip_longest": lambda a, b: itertools.zip_longest([a, b], [1], fillvalue=0),
    "takewhile": lambda a, b: itertools.takewhile(lambda n: n < 3, [1, 2, 3, 1]),
    "dropwhile": lambda a, b: itertools.dropwhile(lambda n: n < 3, [1, 2, 3, 1]),
    "filterfalse": lambda a, b: itertools.filterfalse(lambda n: n % 2, range(6)),
    "filterfalse of truth": lambda a, b: itertools.filterfalse(None, [0, 1, "", 2]),
    "compress": lambda a, b: itertools.compress([a, b, a], [1, 0, True]),
    "pairwise": lambda a, b: itertools.pairwise([a, b, 5]),
    "cycle": lambda a, b: itertools.islice(itertools.cycle([a, 2]), 5),
    "starmap": lambda a, b: itertools.starmap(torch.add, [(a, b), (b, 1)]),
}


@pytest.mark.parametrize("make", ITERATORS.values(), ids=ITERATORS.keys())
def test_itertools(make: Any) -> None:
    whole(lambda a, b: [a + b, list(make(a, b))], (X, Y))


def test_an_iterator_that_is_half_read() -> None:
    def fn(x):
        it = itertools.accumulate([x, x, x])
        next(it)
        pairs = itertools.pairwise(it)
        return [p + q for p, q in pairs]

    whole(fn, (X,))


def test_dict_fromkeys() -> None:
    whole(lambda x: dict.fromkeys(["a", "b"], x + 1), (X,))
    whole(lambda x: {"n": x * 2, **dict.fromkeys((1, 2))}, (X,))


GLOBAL_GETTER = operator.itemgetter(1)


def test_getters() -> None:
    whole(lambda x: sorted([(1, 3), (2, 1)], key=operator.itemgetter(1)) + [x + 1], (X,))
    whole(lambda x: operator.itemgetter(0, 2)([x, 1, x * 2]) + (x + 1,), (X,))
    whole(lambda x: GLOBAL_GETTER([x, x + 1]) * 2, (X,))
    whole(lambda x: operator.attrgetter("shape")(x + 1), (X,))
    whole(lambda x: (operator.attrgetter("__class__.__name__")((x,)), x + 1), (X,))
    whole(lambda x: operator.methodcaller("sum", 1)(x * 2), (X,))


def test_a_getter_is_guarded() -> None:
    assert_capture(
        lambda g, x: g([x, x + 1]),
        (operator.itemgetter(0), X),
        (operator.itemgetter(1), X),
        steady=False,
    )


@pytest.mark.parametrize("name", ["__annotations__", "__call__", "__dict__", "func", "missing"])
def test_hasattr_of_a_partial(name: str) -> None:
    def fn(p, x):
        return p(x) + 1 if hasattr(p, name) else p(x) - 1

    whole(fn, (functools.partial(torch.mul, 2), X))

    def made(x):
        p = functools.partial(torch.add, x)
        return p(x) if hasattr(p, name) else x * 2

    whole(made, (X,))


def test_id_of_a_module() -> None:
    first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    known = {id(first): 2.0}

    def fn(module, x):
        return module(x) * known.get(id(module), 3.0)

    captured = capture.compile(fn, backend="eager", fullgraph=True)
    for module in (first, second, first):
        assert torch.equal(captured(module, X), fn(module, X))


def test_sets_of_functions_and_members() -> None:
    functions = frozenset([torch.add, len])
    shades = {Shade.DARK}

    def fn(x, function, shade):
        if function in functions:
            x = x + 1
        return x * 2 if shade in shades else x - 1

    for function in (torch.add, torch.mul):
        for shade in Shade:
            whole(fn, (X, function, shade))


def test_a_module_made_within() -> None:
    def fn(x):
        return torch.nn.Softmax(dim=-1)(x) + 1

    whole(fn, (X,))
    chain = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Tanh())
    captured = capture.compile(lambda x: chain[:2](x), backend="eager")
    assert torch.equal(captured(X), chain[:2](X))


def test_type_and_new() -> None:
    whole(lambda x: x.type(torch.float64) + 1, (X,), ops=2)
    whole(lambda x: x.type("torch.IntTensor") * 2, (X,))
    whole(lambda x: (x.type(), x.double().type(), x + 1), (X,))
    whole(lambda x: x.type(torch.float32) is x, (X,))
    whole(lambda x: x.new(3, 4).zero_() + x.new(torch.Size([3, 4])).fill_(2), (X,))


def test_needless_switches_of_the_grad_mode() -> None:
    def fn(x):
        with torch.enable_grad():
            y = x + 1
        with torch.no_grad(), torch.no_grad():
            y = y * 2
        return y, torch.is_grad_enabled()

    whole(fn, (X,), ops=4)

    def only_switches(x):
        torch.set_grad_enabled(False)
        torch.set_grad_enabled(True)
        torch.set_grad_enabled(False)
        x.add_(1)
        torch.set_grad_enabled(True)

    whole(only_switches, (X,), ops=3)


def test_state_is_guarded() -> None:
    stats: list[dict[str, Any]] = []

    def fn(x):
        return x + 1 if torch.are_deterministic_algorithms_enabled() else x - 1

    captured = capture.compile(fn, backend="eager", stats=stats)
    assert torch.equal(captured(X), X - 1)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(captured(X), X + 1)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(captured(X), X - 1)


def test_a_captured_function_within_another() -> None:
    inner = capture.compile(lambda x: x * 2, backend="eager")
    whole(lambda x: inner(x) + inner(x + 1), (X,))


def test_questions_about_compiling() -> None:
    def fn(x):
        return x + (1 if torch._utils.is_compiling() else 2)

    assert torch.equal(capture.compile(fn, backend="eager", fullgraph=True)(X), X + 1)


def test_grad_of_a_result_without_history() -> None:
    whole(lambda x: (x + 1, (x + 1).grad is None), (X,))


def test_promote_types() -> None:
    whole(lambda x: x.to(torch.promote_types(x.dtype, torch.float64)), (X,))


class Steps(list):
    """A list that is called."""

    def __call__(self, x):
        for step in self:
            x = step(x)
        return x * len(self)


class Never(list):
    def __len__(self):
        return 0


def test_objects_of_classes_derived_from_list() -> None:
    steps = Steps([torch.sin, lambda x: x + 1])
    captured = capture.compile(lambda s, x: s(x) + s[0](x) + s[-1:][0](x), backend="eager")
    for _ in range(3):
        assert torch.equal(captured(steps, X), steps(X) + torch.sin(X) + (X + 1))
        steps.append(torch.cos)
        assert torch.equal(captured(steps, X), steps(X) + torch.sin(X) + torch.cos(X))
        steps.pop()
    whole(lambda n, x: x + 1 if n else x - 1, (Never([1]), X))
    whole(lambda n, x: [x * k for k in n], (Never([1, 2]), X))
    whole(lambda n, x: x + 1 if 2 in n else x - 1, (Steps([1, 2]), X))


def test_annotations_of_typing() -> None:
    def fn(x):
        def inner(y: typing.List[int], z: typing.Callable[[T], T]) -> typing.Optional[T]:
            return y

        def other(y: Callable[[T], int]) -> typing.Dict[str, T]:
            return y

        return x + 1, inner, other

    eager, captured = fn(X), capture.compile(fn, backend="eager", fullgraph=True)(X)
    for n in (1, 2):
        assert captured[n].__annotations__ == eager[n].__annotations__


def wanted(a, b=2, *rest, c, d: int = 4, **more):
    return a


@functools.wraps(wanted)
def wrapped(*args, **kwargs):
    return wanted(*args, **kwargs)


class Counted:
    def three(self, a, b, c=1):
        return a


def test_signatures():
    counted = Counted()

    def fn(x):
        count = len(inspect.signature(wanted).parameters)
        names = list(inspect.signature(wrapped).parameters)
        has = "b" in inspect.signature(counted.three).parameters
        return x + count, names, has, len(inspect.signature(counted.three).parameters)

    whole(fn, (X,))


def test_a_signature_is_guarded():
    def target(a, b=1):
        return a

    def fn(x):
        return x + inspect.signature(target).parameters["b"].default

    captured = capture.compile(fn, backend="eager", fullgraph=True)
    assert torch.equal(captured(X), X + 1)
    target.__defaults__ = (5,)
    assert torch.equal(captured(X), X + 5)
    target.__wrapped__ = lambda a, b=7: a
    assert torch.equal(captured(X), X + 7)


class Settings:
    scale = 2

    def __init__(self):
        self.sizes = [1, 2, 3]
        self.name = "first"
        self.own = {"a": self.sizes, "b": (4, [5])}
        self.own["self"] = self


class Fixed(Settings):
    def __deepcopy__(self, memo):
        return self


def test_deepcopy():
    settings = Settings()

    def fn(x):
        made = copy.deepcopy(settings)
        made.sizes.append(4)
        del made.name
        made.scale = 3
        same = made.own["a"] is made.sizes, made.own["self"] is made
        pair = (1, "b")
        return x * sum(made.sizes), made, same, copy.deepcopy(pair) is pair, settings.scale

    whole(fn, (X,))
    assert settings.sizes == [1, 2, 3]


def test_deepcopy_is_guarded():
    settings = Settings()
    captured = capture.compile(
        lambda x: x * sum(copy.deepcopy(settings).sizes), backend="eager", fullgraph=True
    )
    assert torch.equal(captured(X), X * 6)
    settings.sizes.append(4)
    assert torch.equal(captured(X), X * 10)


def test_deepcopy_by_python():
    assert_capture(lambda x: (x + 1, copy.deepcopy([x + 1, 2])), (X,))
    fixed = Fixed()
    assert_capture(lambda x: (x + 1, copy.deepcopy(fixed) is fixed), (X,))


def test_autocast_switched_off():
    def fn(x):
        with torch.autocast("cpu", enabled=False):
            y = x @ x.T
        with torch.autocast(device_type=x.device.type, enabled=False):
            return y.cos() + torch.is_autocast_enabled("cpu")

    whole(fn, (X,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_capture(fn, (X,))


def test_a_break_within_autocast():
    def fn(x):
        with torch.autocast("cpu", enabled=False):
            y = x @ x.T
            print("within")
            return y + 1

    assert_capture(fn, (X,))
    assert torch.autocast_increment_nesting() == 1
    assert torch.autocast_decrement_nesting() == 0


def test_an_iterator_over_a_changed_dict():
    """It is made where the dict has changed, not before."""

    def f(d):
        d["m"] = 2
        total = 0
        for key, value in d.items():
            print(key)
            total = total + value
        return total

    assert_capture(f, ({"k": X, "q": X + 1},))


class Counter:
    def __init__(self, n):
        self.n = n

    def __hash__(self):
        return 1


class Cached:
    """Functions with a cache of their own; what they do besides happens once."""

    def __init__(self):
        self.log = log = [0]
        self.where = where = {"scale": 2}
        self.buffer = buffer = torch.zeros(2)

        @functools.lru_cache
        def logs(n):
            log.append(n)
            return n + 1

        @functools.cache
        def bumps(counter):
            counter.n += 1
            return 3

        @functools.cache
        def writes(n):
            buffer.add_(n)
            return n

        @functools.cache
        def reads(n):
            return n * where["scale"]

        @functools.cache
        def makes(n):
            return [n]

        @functools.cache
        def fails(n):
            log.append(n)
            raise KeyError(n)

        self.logs, self.bumps, self.writes, self.reads = logs, bumps, writes, reads
        self.makes, self.fails = makes, fails


def logs_twice(c, x):
    c.log.append(7)
    return x + c.logs(1) + c.logs(1) + c.logs(2), list(c.log)


def bumps_what_is_new(c, x):
    counter = Counter(1)
    return x + c.bumps(counter) + c.bumps(counter), counter.n


def writes_a_buffer(c, x):
    c.buffer.add_(1)
    return x + c.writes(2) + c.writes(2), c.buffer.clone()


def reads_what_changed(c, x):
    first = c.reads(5)
    c.where["scale"] += 1
    return x + c.reads(5), first, c.reads(c.where["scale"])


def makes_once(c, x):
    one = c.makes(4)
    one.append(x)
    return len(c.makes(4)), c.makes(4) is one


def fails_each_time(c, x):
    for _ in range(2):
        try:
            c.fails(3)
        except KeyError as error:
            x = x + error.args[0]
    return x, list(c.log)


@pytest.mark.parametrize(
    "fn",
    [
        logs_twice,
        bumps_what_is_new,
        writes_a_buffer,
        reads_what_changed,
        makes_once,
        fails_each_time,
    ],
)
def test_effects_of_cached_functions(fn):
    results = []
    for wrap in (lambda f: f, lambda f: capture.compile(f, backend="eager")):
        cached = Cached()
        function = wrap(functools.partial(fn, cached))
        results.append([function(X) for _ in range(3)] + [cached.log, cached.buffer])
    assert difference(*(Snapshot().of(result) for result in results)) is None


def test_which_cached_function():
    one, two = functools.cache(lambda n: n + 1), functools.cache(lambda n: n + 2)
    captured = capture.compile(lambda x, g: x + g(1), backend="eager")
    for g in (one, two, one):
        assert torch.equal(captured(X, g), X + g(1))


class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2
    FOUR = 4


def test_flags_together():
    def fn(x, n):
        both = Bits.ONE | Bits(n)
        return x * int(both), both, Bits.TWO in both, both.name, Bits(6) is Bits.TWO | Bits.FOUR

    assert_capture(fn, (X, 2), (X, 4), (X, 3), graphs=1, breaks=[])


def test_a_member_that_there_is_not():
    def fn(x, n):
        try:
            return x + Shade(n).value
        except ValueError as error:
            return x, str(error)

    assert_capture(fn, (X, 2), (X, 3), breaks=[])
