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
    "{a}.float().to(torch.float64)", "torch.atleast_2d({a})", "{a}.type(torch.float32)",
)
TENSOR_BINARY = (
    "{a} + {b}", "{a} - {b}", "{a} * {b}", "{a} / ({b}.abs() + 1)", "torch.maximum({a}, {b})",
    "torch.where({a} > {b}, {a}, {b})", "{a}.add({b}, alpha=2)", "helper({a}, {b})", "{a} + {b}.sum()",
    "helper({a}, b={b}, k={i})", "torch.addcmul({a}, {b}, {b})", "{a}.lerp({b}, 0.5)",
    "({a} if {c} else {b})", "{a} * ({b} > 0)", "sum([{a}, {b}])", "(lambda *q: q[0] - q[1])({a}, {b})",
    "max([{a}, {b}], key=lambda q: q.dim())", "Box.plus({a}, {b})", "Box({a}, 1)({b})",
    "functools.reduce(operator.mul, [{a}, {b}])", "[{a}, {b}][{i} % 2]", "({a}, {b})[-1]",
    "dict(u={a}, v={b})['v']", "next(iter([{a}, {b}]))", "torch.stack([{a}.sum(), {b}.sum()]).sum()",
    "[p * q for p, q in zip([{a}], [{b}])][0]", "({a} or {b})", "({c} and {a}) + {b}",
    "{{'u': {a}, **{{'w': {b}}}}}['w']", "[*[{a}], {b}][0]", "{a}.type_as({b})", "{a}.add_({b})",
    "torch.add({a}, {b}, out=torch.empty(4))", "{a}.copy_({b})", "({a} := {b} + 1)" ,
)
INTS = (
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
    "'ab'", "f'{{{i}}}'", "f'{{{i}:03d}}-{{G_INT!r}}'", "'%d %s' % ({i}, {s})", "str({i})", "{s}.upper()",
    "{s} + 'z'", "str({a}.shape)", "f'{{{a}.dtype}}'", "'{{}} {{}}'.format({i}, {s})", "repr({s})",
    "','.join(str(q) for q in G_LIST)", "f'{{{a}.sum().item():.3f}}'", "type(box).__name__", "box.kind",
    "{s}[::-1]", "{s} * 2", "str(d.keys())", "' '.join([{s}, {s}])", "helper.__name__", "{s}.replace('a', 'b')",
    "f'{{{a}.shape[0]}}x{{{i}!s:>4}}'", "str({c})", "f'{{[{i}, {j}]}}'", "{s}.join(['p', 'q'])",
)
SIMPLE = (
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
