"""dataclass(slots=True) for classes of which a process uses few: methods are made when called.

dataclasses compiles up to seven methods for each class as it is declared, 0.2 to 0.6 ms a class:
a quarter of a start went into 240 of them, messages and what groups and metadata are made of. Here
the first call of one of them has dataclasses make it and puts that in its own place, so from then
on objects cost what those of a dataclass cost.

Invariants: a class has slots, no base with fields, and writes none of these methods itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeVar, dataclass_transform

_T = TypeVar("_T")
_READING = ("__repr__", "__eq__", "__hash__")
_METHODS = ("__init__", *_READING)


@dataclass_transform(field_specifiers=(dataclasses.field,))
def dataclass(*, slots: Literal[True], frozen: bool = False) -> Callable[[type[_T]], type[_T]]:
    """As dataclasses.dataclass(slots=True, frozen=frozen), later."""

    def apply(cls: type[_T]) -> type[_T]:
        assert not {*_METHODS, "__post_init__"} & vars(cls).keys()
        cls.__doc__ = cls.__doc__ or cls.__name__  # else dataclass puts a signature together
        made: Any = dataclasses.dataclass(slots=slots, init=False, repr=False, eq=False)(cls)
        for name in _METHODS:
            setattr(made, name, _stub(made, name, frozen))
        if frozen:
            made.__setattr__, made.__delattr__ = _refuse_to_set, _refuse_to_delete
        else:
            made.__hash__ = None
        return made  # type: ignore[no-any-return]

    return apply


def _stub(cls: type, name: str, frozen: bool) -> Callable[..., Any]:
    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        _make_methods(cls, name, frozen)
        return getattr(cls, name)(self, *args, **kwargs)

    return method


def _make_methods(cls: type, name: str, frozen: bool) -> None:
    """Give a class methods of a dataclass of the same fields: __init__, or those that read."""
    fields = [(field.name, field.type, field) for field in dataclasses.fields(cls)]
    makes = name == "__init__"
    like = dataclasses.make_dataclass(
        cls.__name__,
        fields,
        namespace={"__doc__": cls.__doc__},
        init=makes,
        repr=not makes,
        eq=not makes,
        frozen=frozen,
    )
    for method in ("__init__",) if makes else _READING:
        setattr(cls, method, getattr(like, method))


def _refuse_to_set(_self: object, name: str, _value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
