# Captured functions are written in every way that users write them.
"""Attributes of objects that captured functions set and delete."""

from __future__ import annotations

import pytest

from capture_cases import assert_capture, tensors

pytestmark = pytest.mark.peers
X, Y = tensors((2, 4), (2, 4))


class Box:
    def __init__(self, t, n=0):
        self.t = t
        self.n = n


class Plain:
    def __init__(self):
        self.t, self.n = 1, 2


def deletes_and_sets(x, box):
    box.extra = x
    del box.n
    box.n = x + 1
    return x


def sets_and_deletes(x, box):
    box.extra = x
    del box.extra
    del box.n
    return x + 1


def own_dict(x, box):
    made = Plain()
    made.__dict__["v"] = x
    made.w = 3
    del made.__dict__["n"]
    return made, made.v + 1, list(made.__dict__)


def own_dict_is_kept(x, box):
    made = Plain()
    held = made.__dict__
    made.late = x
    return made, held, held is made.__dict__


@pytest.mark.parametrize("fn", [deletes_and_sets, sets_and_deletes, own_dict, own_dict_is_kept])
def test_attributes_keep_their_order(fn):
    def run(x, box):
        result = fn(x, box)
        return result, list(box.__dict__)

    assert_capture(run, (X, Plain()), steady=False)


def test_deletes_what_is_not_there():
    class Shared(Box):
        kind = "shared"

    def deletes(x, box):
        x = x + 1
        try:
            for _ in range(2):
                print("again")
                delattr(box, "n")
        except AttributeError as error:
            return x, str(error)

    def of_the_class(x, box):
        try:
            del box.kind
        except AttributeError as error:
            return x + 1, str(error)

    def by_its_dict(x, box):
        held = box.__dict__
        x = x + len(held)
        del box.gone
        return x

    gone = Shared(X)
    del gone.n
    for fn in (deletes, of_the_class, by_its_dict):
        assert_capture(fn, (X, Shared(X)), (X, gone), steady=False)


class Slots:
    __slots__ = ("n", "t")
    kind = "slots"

    def __init__(self, t):
        self.t = t


@pytest.mark.parametrize("made", [False, True])
def test_slots_are_all_there_is(made):
    def fn(x, given):
        slots = Slots(x) if made else given
        found = []
        for name in ("kind", "other", "n"):
            try:
                setattr(slots, name, 1)
                found.append(slots.n)
                delattr(slots, name)
                delattr(slots, name)
            except AttributeError as error:
                found.append(str(error))
        return x + 1, slots, found

    assert_capture(fn, (X, Slots(X)), steady=False)
