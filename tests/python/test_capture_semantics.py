# Captured functions are written in every way that users write them.
# ruff: noqa: F632, F821, F841, PLE0643, PLR0124, PLR0133, PLW0108, RUF005, UP031
"""Corners of Python's semantics in which a tracer could go its own way and say nothing."""

from __future__ import annotations

import collections
import functools
import operator

import pytest
import torch

from capture_cases import assert_capture, tensors
from octavo import capture

pytestmark = pytest.mark.peers
(X,) = tensors((2, 4))


class Comparable:
    def __init__(self, rank, log):
        self.rank = rank
        self.log = log

    def __lt__(self, other):
        self.log.append((self.rank, other.rank))
        return self.rank < other.rank


class Key:
    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        return isinstance(other, Key) and self.n == other.n

    def __hash__(self):
        return 7


class Index:
    def __index__(self):
        return 1


class Descriptor:
    def __get__(self, instance, owner):
        return 5 if instance is None else 6


class Described:
    field = Descriptor()


class Named(collections.namedtuple("Base", "p q")):
    def __init__(self, *_):
        self.made = True


class Manager:
    def __init__(self, log):
        self.log = log

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.log.append((kind is None, trace is None, bool(trace)))
        if trace is not None:
            self.log.append(type(trace).__name__)
        return True


class Deceiving:
    """Its methods of protocols are the instance's, which Python does not look at."""

    def __init__(self):
        self.__len__ = lambda: 3
        self.__enter__ = lambda: 4
        self.__exit__ = lambda *a: None


class Shown:
    def __str__(self):
        return "text"

    def __format__(self, spec):
        return f"<{spec}>"


# --- containers --------------------------------------------------------------------------------
def intersects_a_set_in_place(x, s, d):
    alias = s
    s &= {2, 3}
    other = {1, 2}
    second = other
    other ^= {2, 5}
    return x + len(alias) + len(second), sorted(alias), sorted(second)


def truth_of_views(x, s, d):
    empty = {}
    return x + bool(empty.keys()) + bool(d.values()), not empty.items()


def merges_a_defaultdict(x, s, d):
    one = collections.defaultdict(list, a=[1])
    two = one | {"b": 2}
    two["c"].append(3)
    return x, dict(two), two.default_factory is list


def compares_ordered_dicts(x, s, d):
    one = collections.OrderedDict(a=1, b=2)
    two = collections.OrderedDict(b=2, a=1)
    return x, one == two, one == dict(two), one != two


def compares_items_of_lists(x, s, d):
    try:
        return x, {"a": [1]}.items() == {"a": [1]}.items()
    except TypeError:
        return x, "not hashable"


def changes_a_dict_while_iterating(x, s, d):
    seen = []
    local = {"a": 1, "b": 2}
    try:
        for key in local:
            seen.append(key)
            if key == "a":
                del local["a"]
                local["c"] = 3
    except RuntimeError as error:
        seen.append(str(error))
    return x, seen


def iterates_over_a_grown_list(x, s, d):
    items = d["list"]
    items.extend([5, 6, 7])
    seen = []
    for item in items:
        seen.append(item)
        capture.graph_break()
    return x + len(seen), seen


def reverses_a_grown_list(x, s, d):
    items = d["list"]
    items.extend([5, 6, 7])
    seen = []
    for item in reversed(items):
        seen.append(item)
        capture.graph_break()
    return x + len(seen), seen


def iterates_over_a_grown_dict(x, s, d):
    d["new"] = 1
    seen = []
    for item in d:
        seen.append(item)
        capture.graph_break()
    return x + len(seen), seen


def iterates_over_a_shrunk_dict(x, s, d):
    del d["one"]
    seen = []
    for item in d.items():
        seen.append(item)
        capture.graph_break()
    return x + len(seen), seen


def finds_in_lists(x, s, d):
    items = [1, 2, 3, 2, 1]
    found = [items.index(2, -2), items.count(2)]
    for work in (lambda: items.index(1, 1, 3), lambda: items.index(9), lambda: (1,).index(9)):
        try:
            found.append(work())
        except ValueError as error:
            found.append(str(error))
    return x, found


def indexes_by_an_object(x, s, d):
    items = [1, 2, 3]
    try:
        return x, items[Index()], items[Index() :]
    except TypeError:
        return x, "no index"


def keys_with_their_own_hash(x, s, d):
    one, two = d["keys"]
    table = {one: 1}
    table[two] = 2
    return x, len(table), table[one], two in table, one in [two]


def iterates_over_a_huge_range(x, s, d):
    found = []
    try:
        for n in range(10**20, 10**20 + 2):
            found.append(n)
    except OverflowError:
        found.append("overflow")
    return x, found


def order_of_sets(x, s, d):
    one = {8, 0, 16}
    one.discard(8)
    one.add(24)
    one.add(8)
    two = {1, 9} | {17, 25}
    three = set(two)
    three -= {1}
    return x, list(one), list(two), list(three), list({0, 8, 16} & {16, 8})


def order_of_a_given_set(x, s, d):
    return x, list(s)


def order_of_a_changed_set(x, s, d):
    s.add(24)
    s.discard(1)
    capture.graph_break()
    return x, list(s)


def identities_of_constants(x, s, d):
    a = (1, 2)
    b = (1, 2)
    c, e = (), ()
    return x, a is b, a is a, c is e, [] is []


def sorts_by_asking(x, s, d):
    log = []
    items = [Comparable(n, log) for n in (3, 1, 2, 2, 5, 4, 0)]
    items.sort()
    ordered = sorted(items, reverse=True)
    return x, log, [item.rank for item in items + ordered]


def lazy_steps(x, s, d):
    log = []

    def given(n):
        for k in range(n):
            log.append(k)
            yield k

    def key(k):
        log.append(("key", k))
        return -k

    def add(a, b):
        log.append(("add", a, b))
        return a + b

    return x, max(given(3), key=key), functools.reduce(add, given(3)), sum(given(2), 1), log


# --- exceptions --------------------------------------------------------------------------------
def words_of_errors(x, s, d):
    words = []
    box = collections.namedtuple  # something with attributes

    def unbound():
        if not words:
            later = 1
        return later

    def unbound_cell():
        def inner():
            return cell

        try:
            return inner()
        finally:
            cell = 1

    def deletes():
        a = 1
        del a
        del a

    def wrong_call(a, b, *, c):
        return a

    words.append("a")
    for work in (
        unbound,
        unbound_cell,
        deletes,
        lambda: wrong_call(),
        lambda: wrong_call(1, 2),
        lambda: wrong_call(1, 2, 3, c=4),
        lambda: wrong_call(1, b=2, c=3, e=4),
        lambda: (1).missing,
        lambda: "a".missing,
        lambda: x.missing,
        lambda: [].missing,
        lambda: d.missing,
        lambda: wrong_call.missing,
        lambda: Key.missing,
        lambda: Key(1).missing,
        lambda: torch.missing,
        lambda: {}["a"],
        lambda: [][0],
        lambda: ()[0],
        lambda: {[]: 1},
        lambda: max([]),
        lambda: [].pop(),
        lambda: [1].remove(2),
        lambda: undefined_name,
        lambda: [1][words[0]] if words else 0,
        lambda: 1 + "a",
        lambda: 1 // 0,
        lambda: list(zip([1], [], strict=True)),
        lambda: len(5),
        lambda: {1}.remove(2),
        lambda: int("z"),
        lambda: getattr(1, "q"),  # noqa: B009
        lambda: x[0, 0, 0, 0],
    ):
        try:
            work()
        except Exception as error:
            words.append((type(error).__name__, str(error), repr(error), error.args))
    return x, words


def kinds_of_errors(x, s, d):
    found = []
    for work in (
        lambda: OSError(2, "m"),
        lambda: StopIteration(5).value,
        lambda: SystemExit(3).code,
        lambda: KeyError("k").args,
        lambda: AttributeError("q").name,
        lambda: ImportError("q").name,
        lambda: UnicodeDecodeError("a", b"b", 0, 1, "c").reason,
        lambda: ValueError(1).__suppress_context__,
    ):
        try:
            value = work()
            found.append(type(value).__name__ if isinstance(value, Exception) else value)
        except Exception as error:
            found.append(type(error).__name__)
    return x, found


def value_of_a_generator(x, s, d):
    def given():
        yield 1
        return 7

    steps = given()
    next(steps)
    try:
        next(steps)
    except StopIteration as stop:
        return x + stop.value
    return x


def stops_within_a_generator(x, s, d):
    def given():
        yield 1
        yield next(iter([]))

    try:
        return x, list(given())
    except StopIteration:
        return x, "stopped"
    except RuntimeError as error:
        return x, str(error)


def sends_to_a_fresh_generator(x, s, d):
    def given():
        got = yield 1
        yield got

    steps = given()
    try:
        steps.send(3)
    except TypeError as error:
        return x, str(error), next(steps)
    return x, "sent"


def runs_a_running_generator(x, s, d):
    def given():
        yield 1
        yield next(steps[0])

    steps = []
    steps.append(given())
    found = []
    try:
        for n in steps[0]:
            found.append(n)
    except ValueError as error:
        found.append(str(error))
    return x, found


def trace_in_exit(x, s, d):
    log = []
    with Manager(log):
        raise ValueError(1)
    with Manager(log):
        pass
    return x + 1, log


def methods_of_protocols_on_instances(x, s, d):
    found = []
    thing = Deceiving()
    for work in (lambda: len(thing), lambda: thing.__enter__(), lambda: enters(thing)):
        try:
            found.append(work())
        except Exception as error:
            found.append(type(error).__name__)
    return x, found


def enters(thing):
    with thing as entered:
        return entered


# --- objects and text --------------------------------------------------------------------------
def descriptors_on_classes(x, s, d):
    return x, Described.field, Described().field


def tuples_with_init(x, s, d):
    return x, Named(1, 2).made


def text_with_surrogates(x, s, d):
    odd = "\ud800"
    return x, f"{odd}-{1}", odd + "a", [odd].count("?")


def formats_by_its_class(x, s, d):
    shown = Shown()
    return x, f"{shown}{shown:x}{shown!s}", str(shown), format(shown, "y")


def sizes_add_up(x, s, d):
    size = x.shape
    more = size
    more += (3,)
    found = [size + (1,), (1,) + size, size * 2, size + size, more, size + ()]
    try:
        size + ("a",)
    except TypeError as error:
        found.append(str(error))
    return x, found, [type(one) is torch.Size for one in found]


def changes_a_set_and_iterates(x, s, d):
    made = {n + 1 for n in (1, 7, 15, 23)}
    made ^= {8, 1}
    made &= {1, 16, 24, 2}
    s ^= {3, 9}
    s &= {1, 2, 3, 8, 9}
    return x, [n * m for n, m in enumerate(made)], list(s)


def numbers(x, s, d):
    return (
        x,
        [-0.0, 0.0 * -1, 1e400 - 1e400, 2**70 % 7, -7 // 2, -7 % 3, 7 % -3, True + True, 1 << 65],
        [round(2.5), round(-0.5), 10**20 + 1, int(-2.7), 3 / 2, 0.1 + 0.2, (-8) ** (1 / 3)],
        f"{-0.0} {1e22:.3f} {255:#x} {3.14159:8.2f}| {True:d} {12345678:,} {1 + 2j}",
        "%5.1f|%-4d|%r|%s|%%" % (2.25, 7, "q", None),
        sum([0.1] * 10),
        max(0.0, -0.0),
        1 < 2 < 3 != 4,
    )


def fails_half_way(x, s, d):
    def stops(n):
        yield n
        raise KeyError(n)

    found = [[3, 1, "a", 2], [1], [1], {"a": 1}, {1}, collections.deque([1])]
    steps = (
        lambda: found[0].sort(reverse=True),
        lambda: found[1].extend(stops(2)),
        lambda: operator.iadd(found[2], stops(3)),
        lambda: found[3].update([("b", 2), 5]),
        lambda: found[4].update(stops(4)),
        lambda: found[5].extendleft(stops(5)),
        lambda: d["list"].extend(stops(6)),
        lambda: d["list"].sort(reverse=()),
        lambda: sorted(d["list"], reverse=None),
        lambda: found.append(sum(["a", "b"], "")),
    )
    for step in steps:
        try:
            step()
        except (TypeError, KeyError) as error:
            found.append(type(error).__name__)
    return x + 1, found


CASES = [
    fails_half_way,
    intersects_a_set_in_place,
    truth_of_views,
    merges_a_defaultdict,
    compares_ordered_dicts,
    compares_items_of_lists,
    changes_a_dict_while_iterating,
    iterates_over_a_grown_list,
    reverses_a_grown_list,
    iterates_over_a_grown_dict,
    iterates_over_a_shrunk_dict,
    finds_in_lists,
    indexes_by_an_object,
    keys_with_their_own_hash,
    iterates_over_a_huge_range,
    order_of_sets,
    order_of_a_given_set,
    order_of_a_changed_set,
    identities_of_constants,
    sorts_by_asking,
    lazy_steps,
    words_of_errors,
    kinds_of_errors,
    value_of_a_generator,
    stops_within_a_generator,
    sends_to_a_fresh_generator,
    runs_a_running_generator,
    trace_in_exit,
    methods_of_protocols_on_instances,
    descriptors_on_classes,
    tuples_with_init,
    text_with_surrogates,
    formats_by_its_class,
    changes_a_set_and_iterates,
    sizes_add_up,
    numbers,
]


@pytest.mark.parametrize("fn", CASES, ids=lambda fn: fn.__name__)
def test_is_as_python_has_it(fn):
    def args(s):
        keys = (Key(1), Key(1))
        return X, s, {"one": 1, "two": 2, "list": [1, 2, 3], "keys": keys}

    assert_capture(fn, args({1, 2, 3}), args({0, 8}), args({8, 0}), args({True, 2.0}), steady=False)
