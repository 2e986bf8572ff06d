"""What all random programs share, as source text: classes, functions, what makes arguments."""

from __future__ import annotations

PRELUDE = '''\
import collections, contextlib, copy, dataclasses, enum, functools, itertools, math, operator
import numpy as np
import torch
import torch.nn.functional as F

G_INT = 3
G_T = torch.arange(4.0)
G_LIST = [1, 2]
G_DICT = {"k": 1}
W = torch.linspace(-1, 1, 16).reshape(4, 4)
MOD = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
with torch.no_grad():
    for p_ in MOD.parameters():
        p_.copy_(torch.linspace(-0.5, 0.5, p_.numel()).reshape(p_.shape))

COUNTER = 0
LOG = []

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.linspace(-1, 1, 4))
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0
        self.last = None
    @property
    def half(self):
        return self.w / 2
    def forward(self, a, scale=1):
        self.calls += 1
        self.seen += 1
        if self.training:
            self.last = a
        return a * self.w * scale

NET = Net()

class Oops(Exception):
    pass

class Box:
    kind = "box"
    def __init__(self, t, n):
        self.t = t
        self.n = n
    @property
    def twice(self):
        return self.t * 2
    @classmethod
    def make(cls, t):
        return cls(t, 7)
    @staticmethod
    def plus(a, b):
        return a + b
    def bump(self, by=1):
        self.n += by
        return self
    def apply(self, a, *more, scale=2):
        for m in more:
            a = a + m
        return a * scale + self.n
    def __call__(self, a):
        return a + self.t
    def __len__(self):
        return self.n
    def __getitem__(self, k):
        if k >= 2:
            raise IndexError(k)
        return self.t + k
    def __eq__(self, other):
        return isinstance(other, Box) and self.n == other.n
    def __hash__(self):
        return 1
    def __add__(self, other):
        return Box(self.t + 1, self.n + 1)

class Sub(Box):
    kind = "sub"
    def __init__(self, t, n):
        super().__init__(t, n)
        self.extra = [t]
    def apply(self, a, *more, scale=3):
        return super().apply(a, *more, scale=scale) - 1
    def __getattr__(self, name):
        if name.startswith("dyn_"):
            return len(name)
        raise AttributeError(name)

@dataclasses.dataclass
class Data:
    a: object
    b: int = 2
    c: list = dataclasses.field(default_factory=list)

Pair = collections.namedtuple("Pair", "p q")

class Manager:
    def __init__(self, log, eat=False):
        self.log = log
        self.eat = eat
    def __enter__(self):
        self.log.append("in")
        return self
    def __exit__(self, kind, value, trace):
        self.log.append("out" if kind is None else kind.__name__)
        return self.eat and kind is not None

@contextlib.contextmanager
def managed(log):
    log.append(10)
    try:
        yield len(log)
    finally:
        log.append(20)

def helper(a, b=None, *, k=1):
    if b is None:
        return a + k
    return a * k + b

def breaking(a):
    print("in breaking")
    return a - 1

def thrower(a, n):
    if n > 2:
        raise Oops("n is", n)
    return a + n

def gen(a, n):
    for q in range(n):
        got = yield a + q
        if got is not None:
            a = a + got

def recursive(a, n):
    return a if n <= 0 else recursive(a, n - 1) + 1

def scaled(by):
    def inner(a):
        return a * by
    return inner

def wrapped(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs) + 1
    return wrapper

@wrapped
def decorated(a, s=2):
    return a * s

@torch.no_grad()
def gradless(a):
    return a * 2

def tidy(a, log):
    try:
        yield a
        got = yield a + 1
        yield a * 2 if got is None else a + got
    except Oops as error:
        log.append(str(error))
        yield a - 1
    finally:
        log.append("closed")

def delegating(a, log):
    got = yield from tidy(a, log)
    yield a * 3

class Slotted:
    __slots__ = ("t", "n")
    def __init__(self, t, n):
        self.t = t
        self.n = n
    @property
    def both(self):
        return self.t * self.n
    @both.setter
    def both(self, value):
        self.t, self.n = value, self.n + 1
    def __iter__(self):
        yield self.t
        yield self.t + 1
    def __contains__(self, q):
        return q == self.n
    def __bool__(self):
        return self.n > 1
    def __lt__(self, other):
        return self.n < other.n
    def __iadd__(self, other):
        self.n += other
        return self

class Chatty:
    names = ("u", "w")
    def __init__(self, t, log):
        self.__dict__["t"] = t
        self.__dict__["log"] = log
    def __getattr__(self, name):
        if name in self.names:
            self.log.append(name)
            return self.t + len(name)
        raise AttributeError(f"no {name}")
    def __setattr__(self, name, value):
        self.log.append("set " + name)
        self.__dict__[name] = value
    def __delattr__(self, name):
        self.log.append("del " + name)
        self.__dict__.pop(name, None)
    def __radd__(self, other):
        return other + self.t
    def __rsub__(self, other):
        return Chatty(other - self.t, self.log)
    def __matmul__(self, other):
        return self.t * other
    def __neg__(self):
        return Chatty(-self.t, self.log)
    def __ne__(self, other):
        self.log.append("ne")
        return self is not other
    def __setitem__(self, k, value):
        self.log.append(k)
        self.__dict__["t"] = value
    def __delitem__(self, k):
        self.log.append(-k)
    def __contains__(self, k):
        return k in self.log
    def __iter__(self):
        return iter([self.t, self.t + 1])
    def __reversed__(self):
        return iter([self.t + 1])
    def __index__(self):
        return len(self.log) % 2
    def __str__(self):
        return "chatty"
    def __format__(self, spec):
        return "<" + spec + ">"
    def __enter__(self):
        self.log.append("enter")
        return self.t
    def __exit__(self, kind, value, trace):
        self.log.append(kind and kind.__name__)
        if trace is not None:
            self.log.append(isinstance(value, kind))
        return kind is Oops or kind is IndexError

class Typed:
    __match_args__ = ("a", "b")
    def __init__(self, a, b):
        self.a, self.b = a, b
    def __lt__(self, other):
        LOG.append(("lt", self.b, other.b))
        return self.b < other.b

class Watched:
    def __set_name__(self, owner, name):
        self.name = "_" + name
    def __get__(self, instance, owner):
        if instance is None:
            return self
        return instance.__dict__.get(self.name, 1)
    def __set__(self, instance, value):
        LOG.append(self.name)
        instance.__dict__[self.name] = value

class Holder:
    field = Watched()
    count = 0
    @classmethod
    def grow(cls, a):
        return a + cls.count
    @functools.cached_property
    def once(self):
        LOG.append("once")
        return 3
    @staticmethod
    def stat(a, *b, k=2, **c):
        return a + len(b) * k + len(c)

def collects(a, log=[]):
    log.append(a.dim())
    return a + len(log)

def bumps(a, by=1):
    global COUNTER
    COUNTER += by
    return a + COUNTER

def maker(a):
    total = 0
    def add(n):
        nonlocal total, a
        total += n
        a = a + n
        return a * total
    def read():
        return total
    return add, read

@torch.inference_mode()
def inferred(a):
    return a * 2

@contextlib.contextmanager
def swallows(log, *kinds):
    try:
        yield log
    except kinds as error:
        log.append(type(error).__name__)
    else:
        log.append("fine")

def leaves(a, n):
    """Ends in every way that a loop in try can."""
    for q in range(5):
        try:
            if q == n % 5:
                break
            if q == 1:
                continue
            a = a + q
        finally:
            LOG.append(q)
            if q == 3:
                return a - 100
    else:
        a = a * 3
    return a

def overrides(a, n):
    while True:
        try:
            if n > 2:
                raise Oops(n)
            return a
        except Oops:
            n -= 2
            continue
        finally:
            if n == 1:
                break
    return a * n

def counts(n):
    got = []
    try:
        while n:
            try:
                got.append((yield n))
            except ValueError as error:
                got.append(error.args)
            n -= 1
    except GeneratorExit:
        LOG.append("exit")
        raise
    finally:
        LOG.append(len(got))
    return got

def signature(a, /, b=1, *rest, c, d=4, **more):
    return a + b + len(rest) + c * d + sum(more.values())

class Carrier(Exception):
    def __init__(self, t, n):
        super().__init__("carrier", n)
        self.t = t

def carries(a, n):
    try:
        if n % 2:
            raise Carrier(a + 1, n)
        return a
    finally:
        a = a * 2

def early(a, log):
    for q in range(3):
        try:
            if q == 1:
                return a + q
        finally:
            log.append(q)

G_GONE = 5
A = np.arange(8.0, dtype=np.float32).reshape(2, 4)

def drops(a):
    global G_GONE
    del G_GONE
    return a

def remakes(a, n):
    global G_GONE
    G_GONE = n
    return a + G_GONE

class Deep(torch.nn.Module):
    """Modes, hooks, submodules in lists and dictionaries, buffers that are replaced."""
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
        # eps: with the usual one rounding errors grow 300 times where a row is nearly constant
        norm = torch.nn.LayerNorm(4, eps=0.1)
        self.by_name = torch.nn.ModuleDict({"act": torch.nn.Tanh(), "norm": norm})
        self.drop = torch.nn.Dropout(0.5)
        self.batch = torch.nn.BatchNorm1d(4)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("none", None)
        self.frozen = False
    def forward(self, a, depth=2):
        for layer in self.layers[:depth]:
            a = layer(a)
        for name, part in self.by_name.items():
            a = part(a)
        if self.training and not self.frozen:
            self.mean = self.mean * 0.5 + a.detach().mean() * 0.5
        return self.drop(a) + self.mean
    def train(self, mode=True):
        LOG.append(("train", mode))
        return super().train(mode)

DEEP = Deep()
with torch.no_grad():
    for p_ in DEEP.parameters():
        p_.copy_(torch.linspace(-0.7, 0.6, p_.numel()).reshape(p_.shape))

def logs(module, args, out=None):
    LOG.append((type(module).__name__, len(args), out is None))

def doubles(module, args, out):
    return out * 2

class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, n):
        ctx.save_for_backward(a)
        ctx.n = n
        return a ** 3 * n
    @staticmethod
    def backward(ctx, grad):
        a, = ctx.saved_tensors
        return grad * 3 * a ** 2 * ctx.n, None

class Like:
    """Not a tensor, but torch's functions ask it."""
    def __init__(self, t):
        self.t = t
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        LOG.append(function.__name__)
        bare = [q.t if isinstance(q, Like) else q for q in args]
        return Like(function(*bare, **(kwargs or {})))

class Color(enum.Enum):
    RED = 1
    BLUE = 2
    @property
    def other(self):
        return Color.BLUE if self is Color.RED else Color.RED

class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2

@functools.lru_cache(maxsize=2)
def remembered(n, m=1):
    LOG.append(("remembered", n))
    return n * m

@functools.singledispatch
def kinds(q):
    return 0

@kinds.register
def _(q: int):
    return q

@kinds.register
def _(q: str):
    return len(q)

class Registry(type):
    made = []
    def __new__(cls, name, bases, space):
        LOG.append(name)
        return super().__new__(cls, name, bases, space)
    def __call__(cls, *args):
        one = super().__call__(*args)
        LOG.append(cls.__name__)
        return one

class Listed(metaclass=Registry):
    def __init_subclass__(cls, weight=1, **rest):
        super().__init_subclass__(**rest)
        cls.weight = weight
    def __new__(cls, n):
        one = super().__new__(cls)
        one.early = n
        return one
    def __init__(self, n):
        self.n = n + self.early

class Mixin:
    def apply(self, a):
        return super().apply(a) + 1

class Base:
    __slots__ = ("t",)
    def apply(self, a):
        return a * 2

class Mixed(Mixin, Base):
    """Slots and a dictionary; three classes of super()."""
    def __init__(self, t):
        self.t = t
    def apply(self, a):
        return super().apply(a) - self.t

class Stack(list):
    def top(self):
        return self[-1]
    def append(self, q):
        LOG.append(len(self))
        super().append(q)

class Table(dict):
    def __missing__(self, key):
        self[key] = len(self)
        return self[key]

class Ring:
    """An iterator of its own; a copy of its own."""
    def __init__(self, n):
        self.n = n
    def __iter__(self):
        return self
    def __next__(self):
        self.n -= 1
        if self.n < 0:
            raise StopIteration
        return self.n
    def __copy__(self):
        return Ring(self.n + 1)

@dataclasses.dataclass(frozen=True, order=True)
class Point:
    x: int
    y: int = 1
    def __post_init__(self):
        LOG.append(self.x)

def annotated(a: torch.Tensor, *, by: int = 2) -> torch.Tensor:
    return a * by

def numbers(a):
    return np.sqrt(np.abs(a.detach().numpy())) + 1

'''

ARGUMENTS = """
def arguments(shape, dtype, i, n, box, opt, rest, named, same, grad, sign, keys):
    def made(k):
        size = math.prod(shape)
        value = (torch.arange(size).reshape(shape) * 0.25 - 0.5 * k) * sign
        value = value.to(dtype)
        return value.requires_grad_() if grad and dtype.is_floating_point else value
    x = made(1)
    y = x if same else made(2)
    xs = [made(3 + k) for k in range(n)]
    d = {k: made(9) for k in eval("[" + keys + "]")}
    rest = eval("[" + rest + "]")
    named = eval("dict(" + named + ")")
    # The last ones may be one object with the first.
    return [x, y, i, xs, d, globals()[box](x if same else made(7), i), opt, *rest], named
"""
