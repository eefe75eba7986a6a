"""Random values made from our own schemas, and mutants of their bytes; the rng is the caller's."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

from kafka_protocol.errors import DecodeError
from kafka_protocol.schema import BYTES, RECORDS, STRING, Array, FieldSpec, Kind, specs_of
from kafka_protocol.wire import Reader

# What the boundary in frame.py translates; a hand-written decoder and its twin may differ in which
# of them they raise, not in whether they do.
BAD_BYTES = (DecodeError, IndexError, struct.error, UnicodeDecodeError, OverflowError)

_HOSTILE = (
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x00",
    b"\x7f\xff",
    b"\xff\xff",
    b"\xff",
    b"\x00",
    b"\x01\x05\x02ab",  # one unknown tagged field
    b"\x02\x00\x01a\x05\x00",
)


def random_value(cls: type, version: int, rng: random.Random) -> Any:
    """A value of this message that is different in every field the version has."""
    fields = {
        spec.name: _random_field(spec, version, rng)
        for spec in specs_of(cls)
        if spec.active(version)
    }
    return cls(**fields)


def _random_field(spec: FieldSpec, version: int, rng: random.Random) -> Any:
    if spec.nullable is not None and version >= spec.nullable and rng.random() < 0.3:
        return None
    if spec.tag is not None and rng.random() < 0.6:
        return spec.default_value()
    value = _random(spec.kind, version, rng)
    if spec.tag is not None and isinstance(spec.kind, type) and value == spec.kind():
        return None  # a tagged struct that equals its defaults is not on the wire
    return value


def _random(kind: Kind, version: int, rng: random.Random) -> Any:
    if isinstance(kind, type):
        return random_value(kind, version, rng)
    if isinstance(kind, Array):
        return [_random(kind.item, version, rng) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    if kind is STRING:
        return "".join(rng.choice("abcxyz09.-_é☃𝄞") for _ in range(rng.choice((0, 1, 5, 60))))
    if kind is RECORDS or kind is BYTES:
        data = rng.randbytes(rng.choice((0, 1, 61, 200, 3000)))
        return memoryview(data) if kind is RECORDS else data
    code = kind.code  # type: ignore[union-attr]
    if code == "16s":
        return rng.randbytes(16)
    if code == "?":
        return rng.random() < 0.5
    bits = 8 * struct.calcsize(">" + code)
    value = rng.choice((0, 1, -1, rng.getrandbits(bits) - (1 << (bits - 1))))
    return value if code.islower() else value % (1 << bits)


def mutants(data: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    """Variants of the bytes: flipped, cut, lengthened, and with hostile lengths put in."""
    for _ in range(count):
        raw = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            pos = rng.randrange(len(raw) + 1)
            match rng.randrange(6):
                case 0 if pos < len(raw):
                    raw[pos] ^= 1 << rng.randrange(8)
                case 1 if pos < len(raw):
                    raw[pos] = rng.randrange(256)
                case 2:
                    del raw[pos : pos + rng.choice((1, 2, 4, 16))]
                case 3:
                    raw[pos:pos] = rng.randbytes(rng.choice((1, 2, 4)))
                case 4:
                    hostile = rng.choice(_HOSTILE)
                    raw[pos : pos + len(hostile)] = hostile
                case _:
                    raw[pos:pos] = rng.choice(_HOSTILE)
        yield bytes(raw)


def outcome(decode: Reader, data: bytes) -> Any:
    """What a decoder makes of a whole message: the value, or None for bytes that are refused."""
    try:
        value, pos = decode(memoryview(data), 0)
    except BAD_BYTES:
        return None
    return value if pos == len(data) else None
