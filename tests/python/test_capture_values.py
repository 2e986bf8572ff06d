# Captured functions are written in every way that users write them.
# ruff: noqa: C416, E731, PLC3002, RET504, RUF021, RUF023, UP031, UP032
"""Values inside captured functions: what each type does, eager beside captured."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import itertools
import operator
from typing import NamedTuple

import numpy as np
import pytest
import torch

from capture_cases import assert_capture, tensors, whole
from octavo import capture

pytestmark = pytest.mark.peers
X, Y = tensors((2, 4), (2, 4))


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 3


class Point(NamedTuple):
    p: torch.Tensor
    q: int = 2

    def total(self):
        return self.p * self.q


@dataclasses.dataclass
class Data:
    a: torch.Tensor
    b: int = 2
    c: list = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.b += 1


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: torch.Tensor
    n: int = 1


class Slotted:
    __slots__ = ("t", "n")

    def __init__(self, t, n):
        self.t = t
        self.n = n


class Base:
    shared = 3

    def __init__(self, t):
        self.t = t

    def apply(self, x):
        return x + self.t

    def __getattr__(self, name):
        if name.startswith("dyn_"):
            return int(name[4:])
        raise AttributeError(name)


class Derived(Base):
    def __init__(self, t, n):
        super().__init__(t)
        self.n = n

    def apply(self, x):
        return super().apply(x) * self.n

    @property
    def double(self):
        return self.t * 2

    @double.setter
    def double(self, value):
        self.t = value / 2

    @staticmethod
    def plus(a, b):
        return a + b

    @classmethod
    def build(cls, t):
        return cls(t, cls.shared)

    def __call__(self, x):
        return x - self.t

    def __add__(self, other):
        return Derived(self.t + other.t, self.n)

    def __radd__(self, other):
        return Derived(self.t + other, self.n)

    def __getitem__(self, key):
        return self.t[key]

    def __len__(self):
        return self.n

    def __contains__(self, key):
        return key == "t"

    def __bool__(self):
        return self.n > 0

    def __eq__(self, other):
        return isinstance(other, Derived) and other.n == self.n

    def __hash__(self):
        return self.n

    def __iter__(self):
        yield self.t
        yield self.t + 1


class Squared:
    """A descriptor."""

    def __get__(self, instance, owner):
        return instance.t * instance.t

    def __set__(self, instance, value):
        instance.t = value


class Described:
    square = Squared()

    def __init__(self, t):
        self.t = t


class Meta(type):
    def __call__(cls, *args):
        made = super().__call__(*args)
        made.tagged = True
        return made

    @property
    def factor(cls):
        return 5


class WithMeta(metaclass=Meta):
    def __init__(self, t):
        self.t = t


def tensor_attributes(x):
    return x.sum() * x.dim() + x.shape[0] + x.numel() + x.size(-1) + x.stride(0) + len(x)


def tensor_metadata(x):
    if x.dtype == torch.float32 and x.device.type == "cpu" and not x.is_cuda and x.is_contiguous():
        return x.to(torch.float64), x.dtype, x.device
    return x, x.dtype, x.device


def shapes(x):
    rows, columns = x.shape
    return x.reshape(columns, rows).view(torch.Size([rows * columns])), x.shape, x.size()


def scalars(x, n, scale):
    return (x + n * 2 - n // 2 + n % 3) * scale / 3 + float(n) ** 2 - abs(-n)


def list_methods(x, y):
    items = [x, y]
    items.append(x + y)
    items.insert(0, y)
    items.extend([x * 2])
    last = items.pop()
    items.reverse()
    items[1:2] = [last, last]
    del items[0]
    return items, [1, 2, 1].index(2), [1, 1].count(1), len(items), items[::-1], items * 2


def list_comprehension(x):
    return [x + i for i in range(3) if i != 1], [(a, b) for a in range(2) for b in range(2)]


def dict_methods(x, y):
    d = {"a": x, "b": y}
    d["c"] = d["a"] + d["b"]
    d.update(z=x * 2)
    d.setdefault("w", y)
    gone = d.pop("a")
    missing = d.pop("none", None)
    total = sum(d.values())
    for key, value in d.items():
        total = total + value * len(key)
    return d, list(d.keys()), list(d), gone, missing, total, "b" in d, d.get("q"), {**d, "v": gone}


def dict_operators(x, y):
    d = {"a": x} | {"b": y}
    d |= {"c": x * y}
    del d["a"]
    return d, {k: v + 1 for k, v in d.items()}, dict(zip("ab", [x, y], strict=True))


def ordered(x, y):
    d = collections.OrderedDict(a=x, b=y)
    d.move_to_end("a")
    d["c"] = x + y
    return d, list(d), next(iter(d.values())) * 2


def defaults(x, y):
    d = collections.defaultdict(list)
    d["a"].append(x)
    d["a"].append(y + 1)
    d["b"]
    return d, len(d)


def counted(x):
    counter = collections.Counter("abca")
    return x * counter["a"] + counter["none"]


def sets(x, n):
    s = {1, n, 3}
    s.add(7)
    s.discard(1)
    t = frozenset([3, 7])
    return x * len(s), s, s & t, s | {9}, s - t, 3 in s, t <= s


def deque(x, y):
    d = collections.deque([x], maxlen=2)
    d.append(y)
    d.appendleft(x + y)
    return d, d[0] * 2, len(d)


def deque_methods(x, y):
    d = collections.deque([x, 1, y], 4)
    d.extend([2, 3])
    d.extendleft((4, 5))
    d.rotate(-1)
    d.rotate(5)
    last, first = d.pop(), d.popleft()
    d.insert(1, 7)
    d.reverse()
    d[0] = "zero"
    d += [8]
    e = d.copy()
    e.remove(7)
    e.clear()
    return d, e, last + 1, first, d.maxlen, 8 in d, d.count(8), list(reversed(d)), d == e, bool(e)


def deque_as_argument(x, d):
    d.append(x + 1)
    old = d.popleft()
    total = x
    for item in d:
        total = total + item
    try:
        for item in d:
            d.append(item)
    except RuntimeError as error:
        return str(error), total, old
    return total, old


def counter_methods(x, words):
    counter = collections.Counter(words)
    counter["a"] += 3
    counter.update("bb")
    other = collections.Counter(a=1)
    return x * counter["b"], counter, counter["none"], len(counter), other["a"], dict(counter)


class Missing(dict):
    def __missing__(self, key):
        self[key] = key * 2
        return self[key]


def missing(x):
    d = Missing(a=x)
    return d["a"] + 1, d["bc"], d, d.get("none")


def exception_text(x):
    try:
        raise ValueError("no", 3)
    except ValueError as error:
        return x * len(error.args), str(error), f"{error}", repr(error)


def named_tuple(x):
    p = Point(x, q=3)
    r = p._replace(q=4)
    a, b = r
    return p, r, a * b, p.total(), p._fields, p[0] is p.p


def sizes_and_slices(x):
    s = slice(0, 2)
    return (
        x[s],
        x[..., 1:3],
        x[:, None],
        x[-1],
        x[0, 1],
        x[x.shape[0] - 1],
        x[[0, 1]],
        x[slice(None)],
    )


def enums(x, colour):
    if colour is Colour.RED:
        return x + colour.value
    return x * Level.HIGH, colour.name, Level.LOW + 1, Colour(2)


def data(x):
    d = Data(x, c=[1])
    d.b += 1
    d.c.append(2)
    return d, d.a * d.b


def frozen(x):
    return Frozen(x + 1), Frozen(x).a * 2


def slotted(x):
    s = Slotted(x, 2)
    s.n += 1
    return s, s.t * s.n


def user_class(x, y):
    d = Derived.build(x)
    d.extra = y
    d.double = y + 2
    e = d + Derived(y, 1)
    total = d.apply(y) + Derived.plus(x, y) + d(x) + e.t + d[0] + d.double + d.dyn_12
    return total, d, len(d), "t" in d, bool(d), d == e, isinstance(d, Base), [t * 2 for t in d]


def existing_object(x, d):
    d.t = d.t + x
    d.n += 1
    d.fresh = x
    return (
        d.apply(x),
        d.double,
        hasattr(d, "fresh"),
        hasattr(d, "none"),
        getattr(d, "none", 5),
        len(d),
    )


def descriptor(x):
    d = Described(x)
    d.square = x + 1
    return d.square, d


def metaclass(x):
    m = WithMeta(x)
    return m.t * WithMeta.factor, m.tagged


def closures(x, n):
    def outer(k):
        def inner(z):
            return z * k + n

        return inner

    fns = [outer(i) for i in range(3)]
    return sum(f(x) for f in fns), (lambda z, k=2: z * k)(x)


def partials(x, n):
    f = functools.partial(torch.add, alpha=n)
    g = functools.partial(lambda a, b, *, c: a * b + c, x, c=2)
    return f(x, x), g(3), functools.reduce(operator.mul, [x, x, x])


def bound_methods(x, d):
    f = d.apply
    return f(x) + Derived.apply(d, x), list(map(d.apply, [x, x]))


@functools.lru_cache
def cached_number(n):
    return n * 3


def cached(x, n):
    return x * cached_number(n)


def numbers():
    yield 1
    yield 2


def generators(x):
    def many(n):
        for i in range(n):
            got = yield x * i
            if got is not None:
                x2 = x + got
                yield x2
        return 5

    def delegating():
        result = yield from many(2)
        yield x + result

    g = many(3)
    first = next(g)
    sent = g.send(3)
    return first, sent, list(g), list(delegating()), sum(x * n for n in numbers())


def iterators(x, xs):
    total = x
    for i, (a, b) in enumerate(zip(xs, reversed(xs), strict=True)):
        total = total + a * b * i
    for a in filter(lambda t: t.dim() > 1, xs):
        total = total + a
    for a in map(torch.sin, xs):
        total = total - a
    it = iter(xs)
    return total, next(it), next(it), next(it, None), [i for i in range(5, 0, -2)]


def itertools_all(x, xs):
    chained = list(itertools.chain(xs, [x]))
    pairs = [a + b for a, b in itertools.product(xs, xs)]
    first = list(itertools.islice(itertools.count(3), 2))
    accumulated = list(itertools.accumulate([1, 2, 3]))
    return chained, pairs, first, accumulated, list(itertools.zip_longest([1], [1, 2]))


def strings(x, n):
    name = f"{n:03d}|{x.shape}|{n!r:>4}|{x.dtype}"
    name += "%s-%d" % ("a", n) + "{}".format(n)
    return x * len(name), name.upper().split("|"), ",".join(str(i) for i in range(3)), name[::2]


def unpacking(x, y):
    first, *middle, last = [x, y, x + y, x * y]
    (a, b), c = (first, last), len(middle)
    return a + b * c, [*middle, first], (*middle,), {**{"u": a}}


def chained_comparison(x, n):
    if 0 < n < 5 and n != 3 or n is None:
        return x + 1
    return x - 1


def walrus(x, n):
    while (n := n - 1) > 0:
        x = x * 2
    return x, n


def matching(x, n):
    match n:
        case 1:
            return x
        case 2 | 3:
            return x * 2
        case int(k) if k > 10:
            return x * k
        case [a, *_]:
            return x + a
        case {"k": v}:
            return x - v
        case _:
            return x / 2


def numpy_values(x):
    a = np.zeros((2, 4), dtype=np.float32)
    return x + torch.from_numpy(a + 1)


WHOLE = [
    (tensor_attributes, (X,), 7),
    (tensor_metadata, (X,), 1),
    (shapes, (X,), 2),
    (scalars, (X, 3, 0.5), 7),
    (list_methods, (X, Y), None),
    (list_comprehension, (X,), 2),
    (dict_methods, (X, Y), 14),
    (dict_operators, (X, Y), 3),
    (ordered, (X, Y), 2),
    (defaults, (X, Y), 1),
    (counted, (X,), 2),
    (sets, (X, 2), 1),
    (deque, (X, Y), 2),
    (deque_methods, (X, Y), 1),
    (deque_as_argument, (X, collections.deque([X, Y], 3)), 3),
    (counter_methods, (X, "abca"), 1),
    (missing, (X,), 1),
    (exception_text, (X,), 1),
    (named_tuple, (X,), 2),
    (sizes_and_slices, (X,), 8),
    (enums, (X, Colour.RED), 1),
    (data, (X,), 1),
    (frozen, (X,), 2),
    (slotted, (X,), 1),
    (user_class, (X, Y), None),
    (existing_object, (X, Derived(Y, 2)), None),
    (descriptor, (X,), 2),
    (metaclass, (X,), 1),
    (closures, (X, 2), None),
    (partials, (X, 2), None),
    (bound_methods, (X, Derived(Y, 2)), None),
    (cached, (X, 2), 1),
    (generators, (X,), None),
    (iterators, (X, [X, Y]), None),
    (itertools_all, (X, [X, Y]), None),
    (strings, (X, 3), 1),
    (unpacking, (X, Y), 4),
    (chained_comparison, (X, 2), 1),
    (walrus, (X, 3), 2),
    (matching, (X, 2), 1),
]


@pytest.mark.parametrize(("fn", "args", "ops"), WHOLE, ids=lambda v: getattr(v, "__name__", ""))
def test_value(fn, args, ops):
    """Traced whole: one graph, no break."""
    assert_capture(fn, args, graphs=1, ops=ops, breaks=[])


@pytest.mark.parametrize(
    ("fn", "args", "later"),
    [
        (scalars, (X, 3, 0.5), [(X, 4, 0.5), (X, 4, 0.25), (X, 3.0, 1)]),
        (enums, (X, Colour.RED), [(X, Colour.BLUE), (X, Colour.RED)]),
        (existing_object, (X, Derived(Y, 2)), [(X, Derived(Y, 3)), (X, Derived(Y.double(), 2))]),
        (bound_methods, (X, Derived(Y, 2)), [(X, Derived(X, 3))]),
        (iterators, (X, [X, Y]), [(X, [X, X]), (X, [Y, Y.clone()])]),
        (matching, (X, 1), [(X, 3), (X, 11), (X, [3, 4]), (X, {"k": 2}), (X, "s")]),
        (strings, (X, 3), [(X, 4), (X[:1], 3), (X.double(), 3)]),
        (sets, (X, 2), [(X, 3), (X, 1)]),
        (chained_comparison, (X, 2), [(X, 3), (X, 7)]),
        (closures, (X, 2), [(X, 3)]),
        (
            deque_as_argument,
            (X, collections.deque([X, Y], 3)),
            [(X, collections.deque([X, Y, X], 3)), (X, collections.deque([X, Y]))],
        ),
        (counter_methods, (X, "abca"), [(X, "xyz"), (X, ["a", "b"])]),
        (tensor_metadata, (X,), [(X.double(),), (X.T,), (X.int(),)]),
        (shapes, (X,), [(X[:, :3].contiguous(),), (torch.ones(3, 1),)]),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_other_values_on_later_calls(fn, args, later):
    assert_capture(fn, args, *later)


def test_numpy():
    assert_capture(numpy_values, (X,))


class Scaled(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        return result


def test_subclass_of_tensor():
    assert_capture(lambda x: (x.as_subclass(Scaled) + 1) * 2, (X,))


def test_subclass_of_tensor_as_argument():
    f = lambda x: (x + 1) * 2
    given = X.as_subclass(Scaled)
    captured = capture.compile(f, backend="eager")
    for x in (given, X, given):
        assert type(captured(x)) is type(x)
        assert torch.equal(captured(x), f(x))


def test_parameter():
    parameter = torch.nn.Parameter(X.clone())
    whole(lambda p, x: (p * x).sum(), (parameter, Y), ops=2)


def test_generator_object():
    def draw(x, seed):
        generator = torch.Generator()
        generator.manual_seed(seed)
        return x + torch.rand(x.shape, generator=generator)

    assert_capture(draw, (X, 2), (X, 3))
