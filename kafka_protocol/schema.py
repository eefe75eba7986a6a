"""The schema language: dataclasses whose fields carry their wire type.

A message is a dataclass whose fields are declared with F(type, since=..., nullable=...): the
annotation is for people and mypy, the F for the wire. This file only declares; closures.py
compiles one version of a message into a decoder and an encoder.

Invariants: fields are on the wire in the order of declaration, and a dataclass takes its arguments
in that order; every field has a default; the classes are plain slotted dataclasses after that.

Source: Kafka's message format (flexible versions and tagged fields: KIP-482).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeVar, dataclass_transform

from kafka_protocol import lazy_dataclass

_T = TypeVar("_T")
_MISSING: Any = object()
_LATEST = 32767
NEVER = _LATEST + 1  # as the first flexible version: there is none


@dataclasses.dataclass(frozen=True, slots=True)
class Primitive:
    """A type of fixed size; code is its letter for the struct module."""

    code: str
    size_bytes: int
    default: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Variable:
    """STRING, BYTES or RECORDS: a length and that many bytes."""

    name: Literal["string", "bytes", "records"]
    default: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Array:
    """A count and that many items, a list in Python."""

    item: Primitive | Variable | type


BOOL = Primitive("?", 1, False)
INT8 = Primitive("b", 1, 0)
INT16 = Primitive("h", 2, 0)
UINT16 = Primitive("H", 2, 0)
INT32 = Primitive("i", 4, 0)
UINT32 = Primitive("I", 4, 0)
INT64 = Primitive("q", 8, 0)
FLOAT64 = Primitive("d", 8, 0.0)
UUID = Primitive("16s", 16, bytes(16))  # 16 raw bytes; all zero means none
STRING = Variable("string", "")
BYTES = Variable("bytes", b"")
RECORDS = Variable("records", None)  # decoded as a slice of the frame, encoded from bytes-likes

Kind = Primitive | Variable | Array | type
# Of messages on the network, of records of groups, and of bytes inside either (group_records.py).
MessageKind = Literal["request", "response", "key", "value", "data"]


@dataclasses.dataclass(slots=True)
class FieldSpec:
    """One declared field: its type and the versions (inclusive) in which it is on the wire."""

    kind: Kind
    since: int
    until: int
    nullable: int | None  # the first version in which null is allowed
    default: Any
    tag: int | None
    name: str = ""

    def active(self, version: int) -> bool:
        """Whether this version has the field."""
        return self.since <= version <= self.until

    def is_nullable(self, version: int) -> bool:
        """Whether null is allowed in this version."""
        return self.nullable is not None and version >= self.nullable

    def default_factory(self) -> Callable[[], Any] | None:
        """What makes a default that no two objects may share; None where one serves all."""
        if self.default is not _MISSING or not isinstance(self.kind, Array | type):
            return None
        return list if isinstance(self.kind, Array) else self.kind

    def default_value(self) -> Any:
        """A fresh default: the declared one, else the type's (Kafka's rule; null is never it)."""
        if self.default is not _MISSING:
            return self.default
        make = self.default_factory()
        if make is not None:
            return make()
        assert not isinstance(self.kind, Array | type)
        return self.kind.default


@dataclasses.dataclass(frozen=True, slots=True)
class MessageInfo:
    """What @message declares: versions is the inclusive range that the schema describes.

    Keys and values of records have their type for an api_key.
    """

    api_key: int
    kind: MessageKind
    versions: tuple[int, int]
    flexible: int  # the first flexible version


def F(
    kind: Kind,
    *,
    since: int = 0,
    until: int = _LATEST,
    nullable: int | None = None,
    default: Any = _MISSING,
    tag: int | None = None,
) -> Any:
    """Declare a field. A tagged struct may default to None, which stands for its defaults.

    Not a field specifier to the type checker: it sees a default value, which every field has.
    """
    return FieldSpec(kind, since, until, nullable, default, tag)


@dataclass_transform()
def struct(cls: type[_T]) -> type[_T]:
    """Make a dataclass with slots out of F fields; every field has a default."""
    specs = []
    for name, spec in list(vars(cls).items()):
        if isinstance(spec, FieldSpec):
            spec.name = name
            specs.append(spec)
            make = spec.default_factory()
            value: Any = (
                dataclasses.field(default=spec.default_value())
                if make is None
                else dataclasses.field(default_factory=make)
            )
            setattr(cls, name, value)
    made = lazy_dataclass.dataclass(slots=True)(cls)
    made.__specs__ = tuple(specs)  # type: ignore[attr-defined]
    return made


@dataclass_transform()
def message(
    *, api_key: int, kind: MessageKind, versions: tuple[int, int], flexible: int
) -> Callable[[type[_T]], type[_T]]:
    """Make a struct that is a whole message or record."""

    def apply(cls: type[_T]) -> type[_T]:
        made = struct(cls)
        made.__message__ = MessageInfo(api_key, kind, versions, flexible)  # type: ignore[attr-defined]
        return made

    return apply


def info_of(cls: type) -> MessageInfo:
    """What was declared for this message class; AttributeError for a plain struct."""
    info: MessageInfo = cls.__message__  # type: ignore[attr-defined]
    return info


def specs_of(cls: type) -> tuple[FieldSpec, ...]:
    """The declared fields of a struct or message, in the order of the wire."""
    specs: tuple[FieldSpec, ...] = cls.__specs__  # type: ignore[attr-defined]
    return specs
