# ruff: noqa: E501 (templates, many to a line)
"""What random programs are made of: classes and functions that all share, and templates.

A template is source text with places: {a}, {b} tensors, {i}, {j} ints, {c}, {e} conditions, {s} a
string, {v} a name to assign.
"""

from __future__ import annotations

# fmt: off
PRELUDE = '''\
import collections, contextlib, dataclasses, functools, itertools, math, operator
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

'''

TENSOR_UNARY = (
    "torch.sin({a})", "{a}.relu()", "-{a}", "{a}.abs()", "{a}.clamp(-1, 1)", "{a} * 2", "{a} + 1",
    "1 - {a}", "{a}.clone()", "{a}.detach()", "{a}.mean(dim=-1, keepdim=True)", "{a}.sum()",
    "F.softmax({a}, -1)", "{a}[..., :4]", "{a}[0:1]", "{a}[None][0]", "{a}.unsqueeze(0).squeeze(0)",
    "{a}.double()", "{a}.float()", "{a}.reshape(-1, 4)", "{a}.view({a}.shape)", "torch.tanh({a})",
    "{a} @ W", "F.linear({a}, W)", "{a}.contiguous()", "({a} > 0).float()", "{a}.cumsum(-1)",
    "{a}.exp()", "torch.stack([{a}, {a}]).sum(0)", "{a}.masked_fill({a} > 1, 0.5)", "{a}.flip(-1)",
    "torch.cat([{a}, {a}], -1)[..., :4]", "{a}.expand_as({a})", "{a}.chunk(2, -1)[0].sum()",
    "F.dropout({a}, 0.5)", "torch.rand_like({a})", "{a} + torch.randn(4)", "{a}.pow(2)",
    "{a}.to({a}.dtype)", "{a}.new_zeros(4)", "torch.zeros_like({a})", "MOD({a})", "{a}.T",
    "{a}.var(dim=-1, keepdim=True)", "F.layer_norm({a}, (4,))", "F.gelu({a})", "{a}.sort(-1)[0]",
    "{a}.max(-1, keepdim=True).values", "torch.topk({a}, 2, -1)[0].sum()", "{a}.data", "{a}[0]",
    "breaking({a})", "gradless({a})", "decorated({a})", "decorated({a}, s={i})", "scaled({i})({a})",
    "helper({a})", "helper({a}, k={i})", "recursive({a}, {i} % 4)", "thrower({a}, {i})",
    "functools.partial(helper, k={i})({a})", "sum(gen({a}, 2))", "next(gen({a}, 2))",
    "(lambda q, r={i}: q + r)({a})", "sum([{a} + j for j in range({i} % 3 + 1)])",
    "list(map(lambda q: q * {i}, [{a}]))[0]", "{a}.__add__(1)", "torch.full((4,), {i} * 1.0)",
    "getattr({a}, 'abs')()", "{a}.size(0) * {a}", "{a} * {a}.shape[-1]", "{a}.item() + {a}",
    "torch.tensor([1.0, 2.0, 3.0, {i}])", "torch.tensor({i}) + {a}", "torch.ones({i} % 3 + 1, 4)",
    "{a}.nonzero().float().sum()", "{a}.unbind(-1)[0].sum()", "{a} // 1", "{a} % 2", "{a} ** {i}",
    "operator.add({a}, 1)", "Box({a}, {i}).twice", "Sub({a}, {i}).apply({a})", "Pair({a}, {i}).p",
    "Data({a}).a", "{a}.requires_grad_()", "sum(t.sum() for t in {a})", "torch.arange({i} % 7).sum() + {a}",
    "NET({a})", "NET({a}, scale={i})", "NET.half + {a}", "bumps({a})", "bumps({a}, {i})", "collects({a})", "inferred({a})",
    "maker({a})[0]({i})", "leaves({a}, {i})", "overrides({a}, {i} % 4)", "signature({a}, c={i})", "signature({a}, {i}, 3, 4, c=1, z=2)",
    "signature({a}, *[{i}, 2], **{{'c': 1, 'y': {i}}})", "({a} + Chatty({a}, LOG))", "Chatty({a}, LOG).u", "(-Chatty({a}, LOG)).w",
    "Holder.grow({a})", "Holder.stat({a}, 1, {i}, q=2)", "{a} * float('nan')", "{a} * -0.0", "{a} / 0", "{a} + {i} * 10 ** 12",
    "{a}.bool().long()", "{a}.half().float()", "{a}.to(torch.int32)", "{a}[::2]", "{a}[..., -1:]", "{a}.transpose(0, -1)",
    "{a}.narrow(-1, 0, 2).sum()", "torch.linspace(0, 1, {i} % 4 + 1).sum() + {a}", "{a}.repeat(1, 2)[..., :4]", "{a}.new_full((4,), {i})",
    "{a}.split(2, -1)[1].sum()", "{a}.roll(1, -1)", "{a}.square().sqrt()", "torch.ones_like({a}, dtype=torch.float64)", "{a}.detach().requires_grad_()",
    "{a}.float().to(torch.float64)", "torch.atleast_2d({a})", "{a}.type(torch.float32)",
)
TENSOR_BINARY = (
    "{a} + {b}", "{a} - {b}", "{a} * {b}", "{a} / ({b}.abs() + 1)", "torch.maximum({a}, {b})",
    "torch.where({a} > {b}, {a}, {b})", "{a}.add({b}, alpha=2)", "helper({a}, {b})", "{a} + {b}.sum()",
    "helper({a}, b={b}, k={i})", "torch.addcmul({a}, {b}, {b})", "{a}.lerp({b}, 0.5)",
    "({a} if {c} else {b})", "{a} * ({b} > 0)", "sum([{a}, {b}])", "(lambda *q: q[0] - q[1])({a}, {b})",
    "max([{a}, {b}], key=lambda q: q.dim())", "Box.plus({a}, {b})", "Box({a}, 1)({b})",
    "functools.reduce(operator.mul, [{a}, {b}])", "[{a}, {b}][{i} % 2]", "({a}, {b})[-1]",
    "(Chatty({a}, LOG) @ {b})", "({a} - Chatty({b}, LOG)).t", "sum(Chatty({a}, LOG), {b})", "Typed({a}, {b}).b", "torch.cat([{a}.flatten(), {b}.flatten()]).sum()",
    "{{k: t for k, t in zip('pq', ({a}, {b}))}}['q']", "(w_ if (w_ := {b}) is not None else {a})", "torch.where({a}.isnan(), {b}, {a})",
    "torch.einsum('...i,...i->...', {a}.float(), {b}.float()).sum()", "torch.addmm(W, W, W).sum() + {a} * {b}", "{a}.eq({b}).float()",
    "dict(u={a}, v={b})['v']", "next(iter([{a}, {b}]))", "torch.stack([{a}.sum(), {b}.sum()]).sum()",
    "[p * q for p, q in zip([{a}], [{b}])][0]", "({a} or {b})", "({c} and {a}) + {b}",
    "{{'u': {a}, **{{'w': {b}}}}}['w']", "[*[{a}], {b}][0]", "{a}.type_as({b})", "{a}.add_({b})",
    "torch.add({a}, {b}, out=torch.empty(4))", "{a}.copy_({b})", "({a} := {b} + 1)" ,
)
INTS = (
    "{i} ** 40 % 1000", "({i} << 62) >> 61", "hash(({i}, 'a')) * 0", "int(1e18) + {i}", "len(f'{{{i} * 2 ** 70}}')", "COUNTER", "len(LOG)",
    "sum({{{i}, {j}, 1}})", "len({{k % 3 for k in range({i} % 9)}})", "sum(k * v for k, v in {{1: {i}, 2: {j}}}.items())", "NET.calls",
    "[*range(4)][{i} % 4]", "int({s} == 'ab')", "int(-7 // (abs({i}) + 1))", "-7 % (abs({i}) + 1)", "(z_ := {i} + 1)", "int(f'{{{i}:d}}')",
    "sorted([3, {i}, {j}], key=lambda q: -q)[0]", "[1, 2, 3].index(2)", "'abcabc'.count('a') + {i}", "int(3.7 * {i})", "len(str({i} / 3))",
    "[10, 20, 30][Chatty(0, LOG)]", "min(({i}, 1), ({j}, 0))[1]", "max([{i}, {j}], default=3)", "Holder().field", "Holder().once", "x.shape[0] * {i}",
    "~{i}", "{i} ^ 5", "{i} | 8", "{i} >> 1", "int(0.0 == -0.0)", "len(set('abca') - {{'a'}})", "next((q for q in range({i} % 5) if q > 1), {j})",
    "{i} + 1", "{i} * {j}", "{i} - {j}", "{i} % 5", "{i} // ({j} or 1)", "{i} // {j}", "len(xs)", "len(d)",
    "{a}.size(0)", "{a}.shape[-1]", "{a}.dim()", "{a}.numel()", "len({a}.shape)", "box.n", "G_INT",
    "int({a}.sum().item())", "int({a}.mean())", "len({s})", "sum(G_LIST)", "max({i}, {j})", "abs({i})",
    "min([{i}, {j}, 2])", "({i} if {c} else {j})", "-{i}", "{i} ** 2", "{i} & 3", "{i} << 1", "len(rest)",
    "G_LIST[{i} % 2]", "G_LIST[{i}]", "len(named)", "named.get('z', {i})", "int({c})", "math.floor({i} / 2)",
    "xs.index(xs[0])", "divmod({i}, 3)[1]", "len(box)", "getattr(box, 'n', {i})", "getattr(box, 'zz', {i})",
    "sum(q * q for q in range({i} % 4))", "int('12')", "bool({i})", "round(2.5 * {i})", "hash('a') * 0",
    "len([q for q in xs if q.dim() > 1])", "len({{{i}, {j}}})", "next(itertools.count({i}))", "len({a})",
    "G_DICT['k']", "G_DICT.get('m', {i})", "sorted([{i}, {j}])[0]", "functools.reduce(lambda p, q: p + q, [{i}, {j}])",
    "math.prod({a}.shape)", "{a}.stride(0)", "{a}.ndim", "operator.index({i})", "ord('a')",
    "{a}.argmax().item()", "{a}.shape.numel()", "sum(t.numel() for t in xs)", "len(list(gen({a}, {i} % 3)))",
)
BOOLS = (
    "1 <= {i} <= {j} < 4", "{i} < {j} > 1 != 2", "{i} in {{1, 2, {j}}}", "{s} in ('ab', 'abz')", "{i} not in (1, 2)", "float('nan') == {i}",
    "math.isnan({i} * math.inf - math.inf)", "'u' in Chatty({a}, LOG)", "isinstance({i}, bool)", "(q_ := {i}) > 1",
    "NET.training", "torch.is_inference_mode_enabled()", "{a}.is_inference()", "{a}.is_leaf", "bool(d.keys())", "bool(LOG)", "Chatty({a}, LOG) != box",
    "isinstance(d, dict) and len(d) > 1", "any(k == 'k' for k in d)", "all(q.dim() for q in xs)", "torch.is_autocast_enabled('cpu')", "{a}.dtype.is_floating_point",
    "d == {{'k': 1}}", "[{i}] == [{j}]", "({i}, 1) < ({j}, 2)", "{{1, {i}}} <= {{1, 2, 3}}", "{a}.stride() == {b}.stride()", "x.shape[0] == y.shape[0]",
    "{i} > {j}", "{i} == 2", "{i} != {j}", "{a}.sum() > 0", "({a} > 0).any()", "opt is None", "opt is not None",
    "'k' in d", "'q' not in d", "xs", "not xs", "{a}.shape == {b}.shape", "{a}.dtype == torch.float32",
    "{a}.requires_grad", "{a} is {b}", "x is y", "hasattr(box, 'extra')", "hasattr(box, 'n')", "torch.is_grad_enabled()",
    "isinstance(box, Sub)", "isinstance({a}, torch.Tensor)", "type(box) is Box", "{i} in G_LIST", "not ({c})",
    "({c}) and ({e})", "({c}) or ({e})", "0 < {i} < 3", "{a}.dim() == 2", "callable(box)", "all([{i}, {j}])",
    "any(q > 2 for q in [{i}, {j}])", "{s} == 'ab'", "{s}.startswith('a')", "torch.equal({a}, {b})",
    "box == Box(x, {i})", "rest", "named", "bool(box.kind == 'sub')", "{a}.is_contiguous()", "torch.allclose({a}, {b})",
    "{a}.size() == torch.Size([2, 4])", "{a}.is_floating_point()", "True", "issubclass(type(box), Box)",
    "box.kind == 'sub'", "d.keys() == {{'k'}}", "{a}.grad is None", "x in xs[:1]", "{a}.shape[0] > {i}",
)
STRINGS = (
    "f'{{{i}:>6}}|{{{i}:<4}}|{{{i}:+}}'", "f'{{{i} / 3:.2f}} {{{i} * 1.5:g}} {{1e20 * {i}:e}}'", "f'{{{i}!r:_^7}}'", "'%05d|%-3s|%x' % ({i}, {s}, abs({i}))",
    "'{{0:>4}}{{1!r}}{{z}}'.format({i}, {s}, z={j})", "f'{{Chatty({i}, LOG)}} {{Chatty({i}, LOG):x}}'", "str(Chatty({i}, LOG))", "f'{{{{}}}}{{{s}}}'",
    "f'{{-0.0}} {{math.inf}} {{2**70 * {i}:,}}'", "str([{i}, {s}, None, 1.0])", "str({{'k': {i}}})", "repr(({i},))", "f'{{x.shape[0]:3d}}'",
    "{s}.ljust(5, '.')", "{s}.split('b')[0]", "{s}.title().swapcase()", "''.join(sorted({s}))", "{s}[{i}:{j}]", "str({{{i}, 1}})", "f'{{{a}.shape}}'",
    "'ab'", "f'{{{i}}}'", "f'{{{i}:03d}}-{{G_INT!r}}'", "'%d %s' % ({i}, {s})", "str({i})", "{s}.upper()",
    "{s} + 'z'", "str({a}.shape)", "f'{{{a}.dtype}}'", "'{{}} {{}}'.format({i}, {s})", "repr({s})",
    "','.join(str(q) for q in G_LIST)", "f'{{{a}.sum().item():.3f}}'", "type(box).__name__", "box.kind",
    "{s}[::-1]", "{s} * 2", "str(d.keys())", "' '.join([{s}, {s}])", "helper.__name__", "{s}.replace('a', 'b')",
    "f'{{{a}.shape[0]}}x{{{i}!s:>4}}'", "str({c})", "f'{{[{i}, {j}]}}'", "{s}.join(['p', 'q'])",
)
SIMPLE = (
    "NET.train({c})", "NET.calls = {i}", "NET.extra = {a}", "NET.w.data.mul_({i})", "NET.seen = torch.ones(())", "NET.zero_grad()", "NET.w.requires_grad_({c})",
    "LOG.append({s})", "LOG.clear()", "bumps({a}, {i})", "collects({a})", "collects.__defaults__[0].clear()", "assert {a} is not None, {s}", "xs[::2] = xs[::2]", "del xs[:1]",
    "xs.remove(xs[0])", "xs.insert(-1, {a})", "G_LIST.sort(reverse={c})", "G_LIST.extend({i} for _ in range(2))", "G_LIST += [{i}]", "d.update(zip('pq', [{a}, {b}]))",
    "d[{i}] = {a}", "d[({i}, 'a')] = {b}", "G_DICT.update(k={i})", "del G_DICT['k']", "G_DICT.setdefault({s}, []).append(1) if isinstance(G_DICT.get({s}, []), list) else None",
    "box.t, box.n = {a}, {i}", "box.n -= {i}", "box.n *= 2", "box.n **= 2", "box.t *= 2", "delattr(box, 'n')", "box.self = box", "xs.append(xs[:1])", "[x_.add_(1) for x_ in xs[:2]]",
    "{a}[..., :2].mul_(2)", "{a}[0:1].zero_()", "{a}.view(-1)[0] = {i}", "{a}.T.add_(1)", "{a}.unsqueeze(0)[0].sub_(1)", "{a}.add_({b}[..., :1])",
    "{a}.clamp_(-1, 1)", "{a}.swapaxes_(0, -1)", "{a}.squeeze_()", "{a}.exponential_()", "{a}.uniform_()", "{a}.bernoulli_(0.5)", "{a}.index_fill_(0, torch.tensor([0]), 1)",
    "{a}.masked_fill_({a} > 0, {i})", "{a}.requires_grad_({c})", "{a}.detach_()", "{a}.data = {b}.data", "{a}.grad = {a}.detach().clone()", "{a}.retain_grad()", "{a}.register_hook(lambda g: g * 2)",
    "{a}.set_({b}.detach())", "x = y = {a}", "x, *_ = {a}, {i}", "(x, y), i = ({a}, {b}), {i}", "i += {i}", "i **= 2", "xs = [*xs, {a}]", "d = {{**d, 'z': {a}}}", "box = Box({a}, {i})",
    "print({i}, {s}, sep='-', end=';')", "print(f'{{{i}=}}')", "raise Oops({i}) from ValueError({s})", "raise StopIteration({i})", "raise", "del i", "del x", "torch.set_grad_enabled(not torch.is_grad_enabled())",
    "print({s}, {i})", "print({a}.shape)", "print('sum', {a}.sum().item())", "{a}.add_(1)", "{a} += {b}",
    "{a} *= 2", "{a}.mul_({i})", "{a}[0] = {i}", "{a}[..., 0] = {b}[..., 0]", "{a}[..., 1:3].add_(1)",
    "{a}.zero_()", "{a}[{a} > 0] = 0", "{a}.data.add_(1)", "xs.append({a})", "xs.insert(0, {a})", "xs.pop()", "xs.reverse()",
    "xs.extend([{a}, {b}])", "xs[0] = {a}", "del xs[0]", "xs.clear()", "xs += [{a}]", "xs[:1] = [{a}, {b}]",
    "d['k'] = {a}", "d['q'] = {b}", "d.pop('k')", "d.pop('q', None)", "d.update(k={a})", "d.update({{'r': {b}}})",
    "d.setdefault('k', {a})", "d.setdefault('m', []).append({i})", "del d['k']", "d.clear()", "d.popitem()",
    "box.t = {a}", "box.n = {i}", "box.n += 1", "box.extra = {a}", "del box.n", "box.bump({i})", "box.bump().bump()",
    "setattr(box, 'w', {a})", "box.t += 1", "box.log = [{s}, {i}]", "Box.kind = {s}", "G_LIST.append({i})", "G_LIST[0] = {i}",
    "G_DICT['k'] = {i}", "G_DICT[{s}] = {i}", "raise Oops({s})", "raise ValueError({i})", "assert {c}, {s}",
    "x, y = y, x", "xs.sort(key=lambda q: q.numel())", "box.__dict__['v'] = {i}", "{a}.requires_grad_(True)",
    "{a}.sum().backward()", "torch.manual_seed({i})", "MOD[0].bias.data.add_(1)", "torch._dynamo.graph_break()",
    "MOD.train({c})", "helper.mark = {i}", "opt = {a}", "opt = None", "{a}.t_()", "{a}.unsqueeze_(0)",
    "{a}.grad = None", "{a}.fill_({i})", "list(map(xs.append, [{a}]))", "[G_LIST.append(q) for q in range({i} % 3)]",
    "torch.set_grad_enabled({c})", "{a}.abs_().neg_()", "xs *= 2", "d |= {{'n': {a}}}", "next(iter(d.values())).add_(1)",
    "F.relu({a}, inplace=True)", "{a}.copy_({b})", "torch.add({a}, {b}, out={a})", "box.t.add_({b})", "xs[-1].mul_(2)",
)
ASSIGN = (
    ("T", "{a}"), ("T", "xs[0]"), ("T", "xs[-1]"), ("T", "d['k']"), ("T", "box.t"), ("T", "box.twice"),
    ("T", "box.apply({a}, {b})"), ("T", "box.apply({a}, scale={i})"), ("T", "box({a})"), ("T", "box[{i} % 2]"),
    ("T", "sum(box)"), ("T", "(box + box).t"), ("T", "type(box).make({a}).t"), ("T", "sum(xs)"), ("T", "G_T"),
    ("T", "xs[{i}]"), ("T", "d.get('q', {a})"), ("T", "named.get('z', {a})"), ("T", "{a} if opt is None else opt"),
    ("T", "functools.reduce(torch.add, xs, {a})"), ("T", "rest[0] if rest else {a}"), ("T", "opt + 1"),
    ("I", "box.dyn_abc"), ("T", "sum(d.values())"), ("T", "xs.pop() if xs else {a}"), ("T", "helper(*xs[:2])"),
    ("T", "[t for t in xs if t.dim() == 2][0]"), ("T", "{{k: v + 1 for k, v in d.items()}}['k']"),
    ("T", "torch.stack([q.sum() for q in xs]).mean()"), ("T", "torch.cat([x, y])"), ("T", "{a}[..., 1:]"),
    ("T", "helper(**{{'a': {a}, 'k': {i}}})"), ("T", "min(xs, key=lambda q: q.numel())"), ("T", "x.T"),
)
STRUCTURES = (
    "add_, read_ = maker({a})\n{v} = add_({i}) + add_({j})\nprint(read_())\nbox.add = add_",
    "g_ = counts({i} % 4)\nbox.got = [next(g_, 0)]\ntry:\n    g_.throw(ValueError({j}))\n    box.got.append(g_.send({a}))\nexcept (StopIteration, ValueError) as e_:\n    print(type(e_).__name__, e_.args)\n{v} = {b}",
    "g_ = counts(3)\nnext(g_)\ng_.close()\nprint(next(g_, 'over'))\n{v} = {a}",
    "def outer_(n):\n    got = yield from counts(n)\n    yield len(got)\n{v} = {a} * sum(outer_({i} % 4))",
    "with swallows(LOG, Oops, IndexError) as l_:\n    {v} = {a}\n    {v} = thrower({b}, {i})\nl_.append({s})",
    "with Chatty({a}, LOG) as t_, swallows(LOG, ValueError):\n    {v} = t_\n    if {c}:\n        raise Oops({i})\n    {v} = thrower({b}, {j})",
    "{v} = {a}\nfor q_ in range({i} % 5):\n    with swallows(LOG, Oops):\n        if q_ == 1:\n            continue\n        if q_ == 3:\n            break\n        {v} = thrower({v}, q_)",
    "{v} = {a}\nfor q_ in range(4):\n    try:\n        if q_ == {i} % 4:\n            break\n        {v} = {v} + q_\n    except Oops:\n        continue\n    finally:\n        LOG.append(q_)\nelse:\n    {v} = {b}",
    "def try_(t):\n    try:\n        return t.add_(1)\n    finally:\n        t.mul_(2)\n        if {c}:\n            return t.clone()\n{v} = try_({a})",
    "{v} = {a}\nwhile True:\n    try:\n        {v} = thrower({v}, {i})\n        break\n    except Oops as e_:\n        i -= 1\n        if i < 0:\n            raise\n    finally:\n        LOG.append(i)",
    "match [{i}, {a}, {s}]:\n    case [1, t_, *_]:\n        {v} = t_\n    case [n_, t_, 'ab'] if n_ > 2:\n        {v} = t_ * n_\n    case _:\n        {v} = {b}",
    "match Typed({i}, {j}):\n    case Typed(1, b_):\n        {v} = {a} + b_\n    case Typed(a=2 | 3 as a_):\n        {v} = {a} * a_\n    case Typed(b=2):\n        {v} = {b}\n    case object(): \n        {v} = {a} - 1",
    "match d:\n    case {{'k': t_, **rest_}}:\n        {v} = t_ + len(rest_)\n    case {{}}:\n        {v} = {a}",
    "match {s}:\n    case 'ab' | 'AB':\n        {v} = {a}\n    case str() as s_:\n        {v} = {b} + len(s_)",
    "c_ = Chatty({a}, LOG)\nc_.q = {i}\nc_[2] = {b}\ndel c_[1]\ndel c_.q\n{v} = c_.t + c_.u\nbox.c = c_\ntry:\n    c_.nope\nexcept AttributeError as e_:\n    print(e_)",
    "h_ = Holder()\nh_.field = {i}\nHolder.count += 1\n{v} = Holder.grow({a}) + h_.field + h_.once + h_.once\nbox.h = h_",
    "l_ = sorted([Typed({a}, {i}), Typed({b}, {j}), Typed({a}, 2)])\n{v} = l_[0].a - l_[-1].a",
    "l_ = [{i}, {j}, 3, 1]\nl_.sort(key=lambda q: (q % 2, -q), reverse={c})\nprint(l_)\n{v} = {a} * l_[0]",
    "s_ = {{k for k in ({i}, {j}, 8, 16, 24)}}\ns_ ^= {{8, 1}}\nt_ = s_\ns_ &= {{1, 16, 24, {i}}}\n{v} = {a} + sum(n_ * q_ for n_, q_ in enumerate(s_))\nbox.s = t_",
    "d_ = {{k_: {i} for k_ in 'abc'}}\nd_.pop('a')\nd_['a'] = {j}\nd_ |= {{'b': 7}}\nprint(d_, list(d_.items())[-1], d_.keys() & {{'a', 'z'}})\n{v} = {a} * sum(d_.values())",
    "v_ = {a}.clone()\nw_ = v_[..., :2]\nu_ = v_.view(-1)\nw_.add_({i})\nu_[0] = 9\n{v} = w_ * 2\nbox.views = [v_, w_, u_]",
    "def alias_(p, q):\n    p.add_(1)\n    q.mul_(2)\n    return p - q\n{v} = alias_({a}, {a}) + alias_({a}, {b})",
    "leaf_ = {a}.detach().clone().float().requires_grad_()\nz_ = (leaf_ * 2).sum()\nleaf_.requires_grad\nz_.backward()\nwith torch.no_grad():\n    leaf_ -= leaf_.grad\n{v} = leaf_\nbox.leaf = leaf_",
    "with torch.inference_mode({c}):\n    {v} = {a} * 2\n    {v}.add_(1)\n    {v} = {v} + {b}",
    "with torch.inference_mode():\n    q_ = {a} + 1\n{v} = q_ + {b}",
    "with torch.inference_mode():\n    q_ = {a} + 1\n    with torch.inference_mode(False):\n        {v} = {b} * 2\n        print(torch.is_inference_mode_enabled(), torch.is_grad_enabled())",
    "with torch.autocast('cpu', dtype=torch.bfloat16):\n    q_ = F.linear({a}, W)\n    print(q_.dtype)\n    {v} = q_.float() + {b}",
    "with torch.autocast('cpu', dtype=torch.bfloat16, enabled={c}):\n    q_ = {a}.float() @ W\n    with torch.autocast('cpu', enabled=False):\n        {v} = q_.float() @ W + {b}",
    "with torch.set_grad_enabled({c}), torch.no_grad():\n    {v} = {a} + 1\nprint(torch.is_grad_enabled())",
    "def deep_(n):\n    def inner_():\n        nonlocal n\n        n += 1\n        def most_():\n            return n * {i}\n        return most_\n    return inner_() if {c} else inner_\nf_ = deep_({j})\n{v} = {a} + (f_() if isinstance(f_(), int) else f_()())",
    "fs_ = []\nfor q_ in range(3):\n    def f_(t, q=q_, *a, **k):\n        return t * q + q_ + len(a) + len(k)\n    fs_.append(f_)\n{v} = sum(f({a}, *range(n), z={i}) for n, f in enumerate(fs_))",
    "try:\n    try:\n        {v} = thrower({a}, {i})\n        {{}}[{j}]\n    except KeyError as e_:\n        raise Oops(e_.args[0]) from e_\nexcept Oops as e_:\n    print(e_.args, type(e_.__cause__).__name__, type(e_.__context__).__name__)\n    {v} = {b}",
    "try:\n    {v} = {a}\n    [1, 2][{i}], {{'a': 1}}[{s}], int({s})\nexcept (LookupError, ValueError) as e_:\n    print(type(e_), e_, repr(e_))",
    "try:\n    {v} = signature({a}, {i})\nexcept TypeError as e_:\n    print(e_)\n    {v} = {b}",
    "{v} = {a}\ntry:\n    q_, r_ = [1] * ({i} % 4)\n    {v} = {v} + q_\nexcept ValueError as e_:\n    print(e_)",
    "big_ = {i} * 2 ** 62\nprint(big_, big_ + big_, -big_ // 3, hash(big_) == hash(float(big_)), float(big_))\n{v} = {a} + (big_ % 7)",
    "n_ = float('nan')\nz_ = -0.0\nprint([n_] == [n_], n_ != n_, z_ == 0, str(z_), max(n_, 1), min(1, n_), {{n_: 1}}.get(n_), sorted([2, {i}, 1.5]))\n{v} = {a} * z_ + n_",
    "m_ = torch.nn.Linear(4, 2, bias=False)\nwith torch.no_grad():\n    m_.weight.fill_({i})\n{v} = m_({a}.float()).sum()",
    "{v} = NET({a})\nNET.seen.add_({i})\nNET.w.grad = None\nprint(NET.calls, sorted(k for k, _ in NET.named_parameters()))",
    "a_ = [{a}] * 2\na_ += ({b},)\na_[1:2] = [{b}, {a}]\na_[::2] = [a_[0]] * len(a_[::2])\n{v} = sum(a_) * len(a_)",
    "p_ = functools.partial(signature, {a}, c={i})\n{v} = p_(2, d={j}) + p_(c=1)\nprint(p_.keywords)",
    "{v} = x[: {i} % 3 + 1].sum() + {a}\nprint([n for n in x.shape], x.shape[0] * 2, x.shape + (1,))",
    "{v} = torch.zeros(x.shape[0], {i} % 3 + 1).sum() + {a}.reshape({a}.shape).sum()\nif x.shape[0] > 3:\n    {v} = {v} * x.shape[0]",
    "g_ = tidy({a}, G_LIST)\n{v} = next(g_)\ng_.close()",
    "g_ = tidy({a}, G_LIST)\nnext(g_)\n{v} = g_.throw(Oops('t'))\n{v} = {v} + next(g_, 1)",
    "g_ = tidy({a}, xs)\nnext(g_)\nnext(g_)\n{v} = g_.send({b})",
    "{v} = sum(delegating({a}, G_LIST))",
    "g_ = delegating({a}, G_LIST)\nprint(next(g_).shape)\n{v} = next(g_)\nbox.rest = list(g_)",
    "fns = {{k: (lambda q: q * k + {i}) for k in range(2)}}\n{v} = fns[0]({a}) + fns[1]({b})",
    "{v} = helper(*[{a}, {b}], **{{'k': {i}}})",
    "st = {{1, 2, {i}}}\nst.discard({j})\nst |= {{5}}\n{v} = {a} * len(st & {{1, 2, 5}}) - len(st - {{1}})",
    "dz = dict(zip('ab', [{a}, {b}]))\ndz |= {{'c': {i}}}\n{v} = dz.pop('a') + len(dz)\nbox.dz = dz",
    "o_ = Slotted({a}, {i})\no_.both = {b}\no_ += 1\n{v} = sum(o_) if 2 in o_ else o_.both",
    "o_ = Slotted({a}, {i})\n{v} = (o_ and o_.t) or {b}\nbox.o = [o_, o_]",
    "{v} = min(Slotted({a}, {i}), Slotted({b}, {j})).t",
    "o_ = Box({a}, {i})\no_.__dict__['w'] = {b}\ndel o_.n\n{v} = o_.w + len(o_.__dict__)\nbox.o = o_",
    "try:\n    {v} = carries({a}, {i})\nexcept Carrier as e_:\n    {v} = e_.t\n    print(e_, e_.args, repr(e_))",
    "try:\n    {v} = thrower({a}, {i})\nexcept Oops as e_:\n    box.error = e_\n    {v} = {b}",
    "try:\n    {v} = thrower({a}, {i})\nexcept Oops as e_:\n    raise ValueError(str(e_)) from e_",
    "{v} = early({a}, G_LIST)",
    "{v} = {a}\nfor k_ in d:\n    d[k_ + {s}] = {b}",
    "{v} = {a}\nfor k_, t_ in d.items():\n    d['k'] = t_ + 1\n    {v} = {v} + t_",
    "for t_ in reversed(xs):\n    xs.append({a})\n    xs[:1] = []\n{v} = {b}",
    "with contextlib.ExitStack() as s_:\n    s_.enter_context(Manager(G_LIST))\n    s_.callback(G_LIST.append, {i})\n    {v} = {a}",
    "with Manager(G_LIST, eat=True):\n    with managed(G_LIST):\n        {v} = thrower({a}, {i})\n    print('in', {i})\n{v} = {b}",
    "try:\n    try:\n        {v} = thrower({a}, {i})\n    finally:\n        G_LIST.append({j})\n        xs.append({b})\nexcept Oops:\n    {v} = {a} - 1",
    "{a}.add_(1)\n{v} = W[torch.tensor([0, {i}])].sum() + {b}",
    "xs.append({a})\n{b}.mul_(2)\n{v} = F.embedding(torch.tensor([{i}]), W)",
    "{a}.sub_(1)\n{v} = torch.tensor([{i}, 6]) // torch.tensor([{j}, 2]) + {b}.sum()",
    "try:\n    {a}.add_(1)\n    {v} = torch.gather(W, 0, torch.tensor([[{i}]]))\nexcept (RuntimeError, IndexError):\n    {v} = torch.rand(4)",
    "{v} = {a}\nfor p_, q_ in itertools.zip_longest([{a}], [{b}, {i}], fillvalue=1):\n    {v} = {v} + p_ * q_",
    "{v} = {a}\nfor p_, q_ in itertools.product([1, {i}], [{a}]):\n    {v} = {v} * p_ + q_",
    "{v} = [*itertools.accumulate([{a}, {b}], torch.add)][-1]",
    "a_, *b_, c_ = [{a}, {i}, {j}, {b}]\n{v} = a_ + c_ * len(b_) + sum(b_)",
    "{v} = {a}\nfor p_, q_ in zip(xs, [{i}], strict=True):\n    {v} = {v} + p_ * q_",
    "{v} = {a}\nfor n_, t_ in enumerate(filter(None, [0, {i}, {j}]), 2):\n    {v} = {v} + n_ * t_",
    "try:\n    print(*[{i}, {j}], sep='-')\n    {v} = helper(*{i})\nexcept TypeError as e_:\n    print(e_)\n    {v} = {a}",
    "x_ = [[{a}] * 2 for _ in range(2)]\nx_[0][1] = {b}\n{v} = sum(q for r in x_ for q in r)",
    "q_, *r_ = [{a}, {b}, {i}]\n{v} = q_ + len(r_)",
    "(p_, q_), r_ = ({a}, {b}), {i}\n{v} = p_ - q_ * r_",
    "def inner(q, k={i}):\n    return q * k + {a}\n{v} = inner({b})",
    "count = 0\ndef step(q):\n    nonlocal count\n    count += 1\n    return q + count\n{v} = step(step({a})) + count",
    "def many(n):\n    for q in range(n):\n        yield {a} * q\n{v} = sum(many({i} % 4), {b})",
    "g_ = gen({a}, 3)\n{v} = next(g_)\n{v} = {v} + g_.send({b})",
    "g_ = gen({a}, 2)\nnext(g_)\nprint('between')\n{v} = next(g_) + {b}",
    "it_ = iter([{a}, {b}])\n{v} = next(it_)\n{v} = {v} + next(it_, 0) + next(it_, 1)",
    "fns = [lambda q, k=k: q + k for k in range(2)]\n{v} = fns[0]({a}) + fns[1]({b})",
    "fns = [lambda q: q + k for k in range(2)]\n{v} = fns[0]({a})",
    "o_ = Data({a}, c=[{b}])\no_.b += {i}\no_.c.append(1)\n{v} = o_.a * o_.b + len(o_.c)",
    "o_ = Sub({a}, {i})\no_.extra.append({b})\n{v} = o_.apply({a}) + len(o_.extra)",
    "o_ = Box({a}, {i})\no_.bump(2)\nbox.other = o_\n{v} = o_.t + o_.n",
    "dd = collections.defaultdict(list)\ndd['u'].append({a})\ndd['u'].append({b})\n{v} = sum(dd['u'])",
    "od = collections.OrderedDict(a={a}, b={b})\nod.move_to_end('a')\n{v} = list(od.values())[0]",
    "dq = collections.deque([{a}], maxlen=2)\ndq.append({b})\ndq.appendleft({a})\n{v} = dq[0] + len(dq)",
    "st = {{1, {i}}}\nst.add({j})\n{v} = {a} + len(st)",
    "pr = Pair({a}, {i})\n{v} = pr._replace(q=5).p + pr.q",
    "{v} = {a}\nfor k_, (p_, q_) in enumerate(zip(xs, xs[1:])):\n    {v} = {v} + k_ + p_.sum() * q_.sum()",
    "{v} = {a}\nfor k_ in sorted(d):\n    {v} = {v} + len(k_)",
    "{v} = {a}\nfor k_, t_ in d.items():\n    {v} = {v} + t_",
    "u_ = {a}\nw_ = u_\nu_ += 1\n{v} = w_ * 2",
    "u_ = {a}.clone()\nw_ = u_[..., :2]\nw_.mul_(3)\n{v} = u_",
    "l_ = [{a}]\nm_ = l_\nm_.append({b})\nbox.l1 = l_\nbox.l2 = m_\n{v} = sum(l_)",
    "cells = []\ndef push(q):\n    cells.append(q)\n    return len(cells)\n{v} = {a} + push({a}) + push({b})\nbox.push = push",
    "leaf = {a}.detach().clone().requires_grad_()\n(leaf * {b}.detach()).sum().backward()\n{v} = leaf.grad",
    "match {i}:\n    case 1:\n        {v} = {a}\n    case 2 | 3:\n        {v} = {b}\n    case k_:\n        {v} = {a} + k_",
    "{v} = {a}\nwhile (n_ := {v}.dim()) < 3:\n    {v} = {v}.unsqueeze(0)\n{v} = {v} * n_",
    "global G_INT\nG_INT = G_INT + {i}\n{v} = {a} + G_INT" ,
    "lst = list(range({i} % 4))\nlst[:] = lst[::-1]\n{v} = {a} + sum(lst)",
    "{v} = {a}\nfor t_ in itertools.chain([{a}], xs):\n    {v} = {v} + t_.sum()",
    "s_ = ''\nfor q_ in G_LIST:\n    s_ += str(q_)\nprint(s_)\n{v} = {a} * len(s_)",
)

ARGUMENTS = '''
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
'''
# fmt: on
