"""The bytes of a request field by field, and hostile bytes for each.

`pieces` walks the schema of a message beside its value and yields the bytes of every length, count,
number and text with what it is; together they are what the codec writes (a test holds that). So a
mutation is a list of pieces with one of them exchanged, whatever the message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from kafka_protocol import wire
from kafka_protocol.schema import (
    STRING,
    Array,
    FieldSpec,
    Kind,
    Primitive,
    info_of,
    specs_of,
)

NUMBER, UUID, LENGTH, COUNT, TEXT, DATA, MARKER, TAGS = (
    "number",
    "uuid",
    "length",
    "count",
    "text",
    "data",
    "marker",
    "tags",
)


class Piece(NamedTuple):
    """Some bytes of a request.

    path  the field they belong to, "topics.0.name"
    role  what they are: one of the names above
    code  of a number: its letter in struct; of a length or count: "H", "I", or "v" for a varint
    """

    path: str
    role: str
    data: bytes
    code: str = ""


def pieces(request: Any, version: int) -> list[Piece]:
    """The body of a request, in the order of the wire."""
    flexible = version >= info_of(type(request)).flexible
    return list(_struct(request, version, flexible, ""))


def _struct(value: Any, version: int, flexible: bool, path: str) -> Iterator[Piece]:
    specs = [spec for spec in specs_of(type(value)) if spec.active(version)]
    for spec in specs:
        if spec.tag is None:
            item = getattr(value, spec.name)
            yield from _value(
                spec.kind, item, version, flexible, path + spec.name, _null(spec, version)
            )
    if flexible:
        yield Piece(path + "tagged fields", TAGS, _tags(value, specs, version))


def _null(spec: FieldSpec, version: int) -> bool:
    return isinstance(spec.kind, type) and spec.is_nullable(version)


def _value(
    kind: Kind, value: Any, version: int, flexible: bool, path: str, marked: bool = False
) -> Iterator[Piece]:
    if isinstance(kind, type):
        if marked:
            yield Piece(path, MARKER, b"\xff" if value is None else b"\x01")
        if value is not None:
            yield from _struct(value, version, flexible, path + ".")
    elif isinstance(kind, Array):
        yield _length(path, COUNT, None if value is None else len(value), "I", flexible)
        for i, item in enumerate(value or ()):
            yield from _value(kind.item, item, version, flexible, f"{path}.{i}")
    elif isinstance(kind, Primitive):
        role = UUID if kind.code == "16s" else NUMBER
        yield Piece(path, role, struct.pack(">" + kind.code, value), kind.code)
    else:
        raw = value.encode() if isinstance(value, str) else value
        width = "H" if kind is STRING else "I"
        yield _length(path, LENGTH, None if raw is None else len(raw), width, flexible)
        yield Piece(path, TEXT if kind is STRING else DATA, bytes(raw or b""))


def _length(path: str, role: str, length: int | None, code: str, flexible: bool) -> Piece:
    if flexible:
        return Piece(path, role, varint(0 if length is None else length + 1), "v")
    return Piece(
        path, role, struct.pack(">" + code.lower(), -1 if length is None else length), code
    )


def _tags(value: Any, specs: list[FieldSpec], version: int) -> bytes:
    sections = []
    for spec in sorted((s for s in specs if s.tag is not None), key=lambda s: s.tag or 0):
        item = getattr(value, spec.name)
        if item is None or item == spec.default_value():
            continue
        data = b"".join(p.data for p in _value(spec.kind, item, version, True, spec.name))
        sections.append(varint(spec.tag or 0) + varint(len(data)) + data)
    return varint(len(sections)) + b"".join(sections)


def varint(value: int) -> bytes:
    """An unsigned varint."""
    out = bytearray()
    wire.write_uvarint(out, value)
    return bytes(out)


# -- mutations -----------------------------------------------------------------------------------

_LONG = 32_767
_TEXTS = (b"", b".", b"..", b"../..", b"a\0b", "тема".encode(), b"n" * 250, b"x" * _LONG)
_OVERLONG_VARINT = b"\x80\x80\x80\x80\x80\x01"
_UNKNOWN_TAG = b"\xe7\x07\x03abc"  # tag 999 of 3 bytes


class Mutant(NamedTuple):
    """A hostile body: which field it is about, what was done to that, and the bytes."""

    name: str
    body: bytes


def mutants(request: Any, version: int) -> Iterator[Mutant]:
    """Every field in turn with each of its hostile values; then the frame as a whole."""
    parts = pieces(request, version)
    for i, piece in enumerate(parts):
        for what, data in _hostile(piece, parts[i + 1] if i + 1 < len(parts) else None):
            # A text goes with its length, so that what follows stays where it belongs.
            skip = 2 if what.startswith("text") else 1
            body = b"".join(p.data for p in parts[:i]) + data
            yield Mutant(
                f"{piece.path}: {what}", body + b"".join(p.data for p in parts[i + skip :])
            )
    whole = b"".join(p.data for p in parts)
    for cut in sorted({len(whole) - 1, len(whole) // 2, 0} - {len(whole), -1}):
        yield Mutant(f"{cut} of {len(whole)} bytes", whole[:cut])
    yield Mutant("one byte too many", whole + b"\0")


def _hostile(piece: Piece, follows: Piece | None) -> Iterator[tuple[str, bytes]]:
    """What takes the place of a piece: (name, bytes); "text ..." of its text, too."""
    if piece.role == NUMBER:
        yield from _numbers(piece)
    elif piece.role == UUID:
        yield "zero", bytes(16)
        yield "unknown", b"\xfe" * 16
    elif piece.role == MARKER:
        for marker in (b"\xff", b"\x00", b"\x01", b"\x7f", b"\x80"):
            yield f"marker {marker.hex()}", marker
    elif piece.role == TAGS:
        yield from _hostile_tags(piece)
    elif piece.role in (LENGTH, COUNT):
        yield from _lengths(piece)
        if follows is not None and follows.path == piece.path and follows.role == TEXT:
            for text in _TEXTS:
                yield f"text {text[:12]!r}", _prefix(piece, len(text)) + text
            yield "text that is not UTF-8", _prefix(piece, 2) + b"\xff\xfe"


def _numbers(piece: Piece) -> Iterator[tuple[str, bytes]]:
    if piece.code == "?":
        for byte in (0, 1, 2, 255):
            yield f"bool {byte}", bytes([byte])
        return
    bits = 8 * len(piece.data)
    for value in (0, 1, -1, -2, 7, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))):
        yield f"{value:,}", struct.pack(">" + piece.code.lower(), value)


def _lengths(piece: Piece) -> Iterator[tuple[str, bytes]]:
    if piece.code == "v":
        for value in (0, 1, 2, 0x7F, 0x8001, 2**31 - 1, 2**32 - 1):
            yield f"{piece.role} {value - 1:,}", varint(value)
        yield f"{piece.role} of 6 bytes", _OVERLONG_VARINT
        return
    most = 2 ** (8 * len(piece.data) - 1) - 1
    for value in (-1, -2, 0, 1, 100, most, -most - 1):
        yield f"{piece.role} {value:,}", struct.pack(">" + piece.code.lower(), value)


def _prefix(piece: Piece, length: int) -> bytes:
    return varint(length + 1) if piece.code == "v" else struct.pack(">" + piece.code, length)


def _hostile_tags(piece: Piece) -> Iterator[tuple[str, bytes]]:
    count, known = piece.data[0], piece.data[1:]
    yield "an unknown one", varint(count + 1) + known + _UNKNOWN_TAG
    yield "an unknown one twice", varint(count + 2) + known + _UNKNOWN_TAG * 2
    if known:
        yield "each twice", varint(2 * count) + known * 2
    for tag in (0, 1):
        yield f"tag {tag} without bytes", varint(count + 1) + known + varint(tag) + b"\0"
    yield "one of 2^31-1 bytes", varint(count + 1) + known + varint(999) + varint(2**31 - 1)
    yield "2^31-1 of them", varint(2**31 - 1) + known
    yield "a count of 6 bytes", _OVERLONG_VARINT
