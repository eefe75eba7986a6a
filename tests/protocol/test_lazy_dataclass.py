"""What behaves like a dataclass before and after its methods are made: both are asked the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from kafka_protocol import lazy_dataclass

MAKERS = [dataclasses.dataclass, lazy_dataclass.dataclass]


def declare(make: Any, frozen: bool = False) -> Any:
    """A new class, none of whose methods was called yet."""

    @make(slots=True, frozen=frozen)
    class Point:
        x: int
        names: list[str] = dataclasses.field(default_factory=list)
        y: int = 7

        def total(self) -> int:
            return self.x + self.y

    return Point


def outcome(of: Callable[[], object]) -> object:
    """What a call returns, or what it raises and with which words."""
    try:
        return of()
    except Exception as error:
        return type(error), str(error).replace("declare.<locals>.", "")


def change(point: Any, name: str) -> object:
    """Set an attribute, then delete it."""
    steps = [
        outcome(lambda: setattr(point, name, 9)),
        getattr(point, name, None),
        outcome(lambda: delattr(point, name)),
    ]
    return steps


ASKED: dict[str, Callable[[Any], object]] = {
    "all arguments": lambda cls: repr(cls(1, ["a"], 2)),
    "names and defaults": lambda cls: repr(cls(x=1)),
    "a method": lambda cls: cls(1, y=2).total(),
    "too few arguments": lambda cls: cls(),
    "too many arguments": lambda cls: cls(1, [], 2, 3),
    "an unknown argument": lambda cls: cls(1, z=2),
    "defaults are each object's own": lambda cls: cls(1).names is cls(1).names,
    "equal": lambda cls: (cls(1) == cls(1), cls(1) == cls(2), cls(1) != cls(2)),
    "not equal to others": lambda cls: (cls(1) == 1, cls(1) == (1, [], 7)),
    "hash": lambda cls: hash(cls(1, ())) == hash((1, (), 7)),
    "set": lambda cls: change(cls(1), "x"),
    "set what is no field": lambda cls: outcome(lambda: setattr(cls(1), "z", 1)) is None,
    "replace": lambda cls: repr(dataclasses.replace(cls(1), x=3)),
    "fields": lambda cls: [(field.name, field.type) for field in dataclasses.fields(cls)],
    "match": lambda cls: cls.__match_args__,
    "slots": lambda cls: (cls.__slots__, hasattr(cls(1), "__dict__")),
}


@pytest.mark.parametrize("frozen", [False, True], ids=["mutable", "frozen"])
@pytest.mark.parametrize("asked", ASKED)
def test_it_answers_as_a_dataclass_does(asked: str, frozen: bool) -> None:
    """At the first call and at later ones."""
    wanted, lazy = (declare(make, frozen) for make in MAKERS)
    for _ in range(2):
        expected = outcome(lambda: ASKED[asked](wanted))
        assert outcome(lambda: ASKED[asked](lazy)) == expected


@pytest.mark.parametrize("first", [repr, hash, lambda point: point == point])
def test_any_method_may_be_the_first(first: Callable[[Any], object]) -> None:
    """Not only __init__, which others could be called without."""
    cls = declare(lazy_dataclass.dataclass, frozen=True)
    point = object.__new__(cls)
    for name, value in (("x", 1), ("names", ()), ("y", 2)):
        object.__setattr__(point, name, value)
    first(point)
    assert repr(point) == repr(cls(1, (), 2))


def test_the_first_call_makes_the_methods_that_all_later_calls_have() -> None:
    """A process pays for them once, and not at all for a class that it does not use."""
    cls = declare(lazy_dataclass.dataclass)
    before = cls.__init__
    cls(1)
    after = cls.__init__
    cls(2)
    assert cls.__init__ is after
    assert after is not before
    assert after.__code__.co_filename == "<string>"  # dataclasses compiled it


def test_a_class_that_writes_such_a_method_itself_is_refused() -> None:
    """It would be lost."""
    with pytest.raises(AssertionError):

        @lazy_dataclass.dataclass(slots=True)
        class Own:
            x: int

            def __repr__(self) -> str:
                return "mine"
