"""Values of kio's classes, and the same values in ours.

kio's classes are generated from Kafka's own schema files, one class a version, so they say which
fields a version has, in which order, and which may be null. The values are made from those classes
alone: our schemas only name the fields to compare. Names differ in one way (kio drops `_ms`),
types in a few (uuid, datetime, timedelta, tuple).
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import io
import types
import typing
import uuid
from typing import Any

from kio.serial import entity_reader, entity_writer

from kafka_protocol.schema import Array, FieldSpec, specs_of

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
KINDS = ("default", "filled", "null", "unicode", "long")
# A few values of each number that would show a swapped or cut field: different and not symmetric.
_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}


def kio_class(api: str, version: int, kind: str) -> type:
    """kio's class of a whole message; raises ImportError if kio does not know the version."""
    module = importlib.import_module(f"kio.schema.{api}.v{version}.{kind}")
    name = "".join(part.capitalize() for part in api.split("_")) + kind.capitalize()
    found: type = getattr(module, name)
    return found


def encode(value: Any) -> bytes:
    """The bytes that kio writes for this value (a message or a header)."""
    out = io.BytesIO()
    entity_writer(type(value))(out, value)
    return out.getvalue()


def decode(cls: type, data: bytes) -> Any:
    """The value that kio reads from all of these bytes."""
    value, size = entity_reader(cls)(data, 0)
    assert size == len(data)
    return value


def build(cls: type, kind: str, seed: int = 0) -> Any:
    """A value of kio's class: kind is one of KINDS, seed makes neighbours differ."""
    hints = typing.get_type_hints(cls, include_extras=False)
    values = {}
    for index, field in enumerate(dataclasses.fields(cls)):
        hint = hints[field.name]
        wire_type = field.metadata.get("kafka_type")
        values[field.name] = _value(hint, wire_type, kind, seed * 7 + index, field.name)
    return cls(**values)


def _value(hint: Any, wire_type: str | None, kind: str, seed: int, name: str) -> Any:
    nullable = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    if nullable:
        hint = next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        if kind == "null":
            return None
    if typing.get_origin(hint) is tuple:
        count = {"default": 0, "filled": 2, "null": 1, "unicode": 1, "long": 130}[kind]
        item = typing.get_args(hint)[0]
        # One level of a long array is enough; what is in it stays small.
        inner = "filled" if kind == "long" and not dataclasses.is_dataclass(item) else kind
        inner = "null" if kind == "long" and dataclasses.is_dataclass(item) else inner
        return tuple(_value(item, wire_type, inner, seed + i, name) for i in range(count))
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return build(hint, kind, seed + 1)
    assert wire_type is not None, name
    return _primitive(wire_type, kind, seed, name)


def _primitive(wire_type: str, kind: str, seed: int, name: str) -> Any:
    plain = kind in ("default", "null")
    if wire_type in _BITS:
        bits = _BITS[wire_type]
        return 0 if plain else ((0x0102030405060708 >> (64 - bits)) + seed) % (1 << (bits - 1))
    if wire_type == "bool":
        return not plain and seed % 2 == 0
    if wire_type == "error_code":
        from kio.schema.errors import ErrorCode

        return ErrorCode(0 if plain else (seed % 120) - 1)
    if wire_type == "string":
        texts = {
            "default": "",
            "null": "",
            "unicode": f"täst-☃-𝄞-{seed}",
            "long": f"{seed}" + "x" * 300,
        }
        return texts.get(kind, f"{name}-{seed}")
    if wire_type in ("records", "bytes"):
        sizes = {"default": 0, "null": 0, "unicode": 5, "long": 5000}
        return bytes((seed + i) % 256 for i in range(sizes.get(kind, 40)))
    if wire_type == "uuid":
        return None if plain else uuid.UUID(bytes=bytes((seed + i) % 256 for i in range(16)))
    if wire_type.startswith("timedelta"):
        return datetime.timedelta(milliseconds=0 if plain else 30_000 + seed)
    if wire_type == "datetime_i64":
        return EPOCH + datetime.timedelta(milliseconds=0 if plain else 1_700_000_000_123 + seed)
    raise NotImplementedError(wire_type)


def to_ours(value: Any, cls: type, version: int) -> Any:
    """The same value as an object of our class."""
    fields = {field.name for field in dataclasses.fields(value)}
    ours = {}
    for spec in specs_of(cls):
        if spec.active(version):
            name = spec.name if spec.name in fields else spec.name.removesuffix("_ms")
            ours[spec.name] = to_ours_field(getattr(value, name), spec, version)
            fields.discard(name)
    assert not fields, f"{cls.__name__} v{version} lacks {fields}"
    return cls(**ours)


def to_ours_field(value: Any, spec: FieldSpec, version: int) -> Any:
    kind = spec.kind
    if isinstance(kind, Array) and value is not None:
        item = FieldSpec(kind.item, 0, 0, None, None, None)
        return [to_ours_field(each, item, version) for each in value]
    if isinstance(kind, type) and value is not None:
        made = to_ours(value, kind, version)
        # A tagged struct that equals its defaults is not on the wire; ours is then None.
        return None if spec.tag is not None and made == kind() else made
    if isinstance(value, datetime.timedelta):
        return value // datetime.timedelta(milliseconds=1)
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // datetime.timedelta(milliseconds=1)
    if isinstance(value, uuid.UUID):
        return value.bytes
    if value is None and spec.name.endswith("_ms"):
        return -1
    if value is None and getattr(kind, "code", "") == "16s":
        return bytes(16)
    return value
