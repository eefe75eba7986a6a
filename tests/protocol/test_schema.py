"""A struct is a dataclass of its fields, whose __init__ is made when the first object is."""

from __future__ import annotations

import dataclasses

import pytest

from kafka_protocol.schema import INT32, STRING, Array, F, struct


@struct
class Inner:
    number: int = F(INT32, default=7)


@struct
class Outer:
    name: str = F(STRING)
    items: list[Inner] = F(Array(Inner))
    inner: Inner = F(Inner)
    none: Inner | None = F(Inner, default=None)


def test_arguments_go_by_place_and_by_name_and_have_defaults() -> None:
    """As a dataclass takes them, from the first object on."""
    for _ in range(2):
        made = Outer("a", none=Inner(8))
        assert (made.name, made.items, made.inner, made.none) == ("a", [], Inner(7), Inner(8))
        assert Outer().name == ""
        assert Outer().none is None


def test_what_can_change_is_no_two_objects_default() -> None:
    """A list or struct by default is the object's own."""
    one, other = Outer(), Outer()
    one.items.append(Inner())
    one.inner.number = 1
    assert other.items == []
    assert other.inner.number == 7


def test_arguments_that_no_field_takes_are_refused_the_first_time_too() -> None:
    """The __init__ that makes the real one hands over what it was given."""

    @struct
    class Fresh:
        number: int = F(INT32)

    with pytest.raises(TypeError, match="unexpected keyword argument 'nmber'"):
        Fresh(nmber=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Fresh.__init__\(\) takes from 1 to 2 positional"):
        Fresh(1, 2)  # type: ignore[call-arg]


def test_the_first_object_makes_the_init_that_all_have() -> None:
    """A request pays for the making of it once a process."""

    @struct
    class Fresh:
        number: int = F(INT32)

    before = Fresh.__init__
    Fresh()
    after = Fresh.__init__
    Fresh()
    assert Fresh.__init__ is after is not before


def test_structs_compare_and_print_by_field_and_have_no_hash() -> None:
    """As dataclasses do."""
    assert Outer("a") == Outer("a") != Outer("b")
    assert Inner() != dataclasses.make_dataclass("Inner", [("number", int, 7)])()
    assert repr(Inner(3)) == "Inner(number=3)"
    with pytest.raises(TypeError, match="unhashable"):
        hash(Inner())


def test_a_struct_has_slots_and_is_a_dataclass() -> None:
    """No object has a dict, and dataclasses' functions know it."""
    with pytest.raises(AttributeError):
        Inner().nmber = 1  # type: ignore[attr-defined]
    assert dataclasses.replace(Outer("a"), name="b") == Outer("b")
    assert [field.name for field in dataclasses.fields(Outer)] == ["name", "items", "inner", "none"]
