"""Primitives of the wire: integers, varints, strings, byte arrays.

Readers are plain functions (buf, pos) -> (value, next_pos) and keep nothing; writers append to a
bytearray. A Python slice past the end is silently short, so a reader may return a pos beyond the
buffer; whoever calls it last compares pos with the length (frame.py does). Reading further from
such a pos raises IndexError or struct.error, which frame.py translates to DecodeError.

Source: Apache Kafka's protocol guide, "Protocol Primitive Types"; varints are Protocol Buffers'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any, TypeAlias

from kafka_protocol.errors import DecodeError, TooManyItems

# What may stand for bytes on encode. memoryviews must have format "B", so that len() is bytes.
Buffer: TypeAlias = bytes | bytearray | memoryview
Reader: TypeAlias = Callable[[memoryview, int], tuple[Any, int]]
Writer: TypeAlias = Callable[[bytearray, Any], None]
# Appends to the first argument and returns the buffers of the whole message, the first one first.
PartsWriter: TypeAlias = Callable[[bytearray, Any], list[Buffer]]

# Array items and tagged fields that one request may have, those of all its arrays together. An
# item costs about a microsecond and a hundred bytes of memory but as little as two bytes of frame,
# so without a limit a legal frame stops a shard for a minute. The largest request that makes sense
# is a Fetch that names each of a large broker's 20,000 partitions in a topic of its own, and as
# many to forget: 80,000. The broker's setting request_items_max begins with it.
ITEMS_MAX = 100_000

NO_UUID = bytes(16)

_INT16 = Struct(">h")
_INT32 = Struct(">i")
read_int16s = _INT16.unpack_from
read_int32s = _INT32.unpack_from
pack_int16 = _INT16.pack
pack_int32 = _INT32.pack


def read_uvarint(buf: memoryview, pos: int) -> tuple[int, int]:
    """Read an unsigned varint of at most 5 bytes and 32 bits (lengths, counts, tags)."""
    byte = buf[pos]
    if byte < 0x80:
        return byte, pos + 1
    result = byte & 0x7F
    shift = 0
    while byte >= 0x80:
        pos += 1
        shift += 7
        if shift > 28:
            raise DecodeError("varint is longer than 5 bytes", pos)
        byte = buf[pos]
        result |= (byte & 0x7F) << shift
    if result > 0xFFFF_FFFF:
        raise DecodeError("varint does not fit 32 bits", pos)
    return result, pos + 1


def read_varlong(buf: Buffer, pos: int) -> tuple[int, int]:
    """Read a zigzag varint of at most 10 bytes and 64 bits (fields inside a record)."""
    byte = buf[pos]
    result = byte & 0x7F
    shift = 0
    while byte >= 0x80:
        pos += 1
        shift += 7
        if shift > 63:
            raise DecodeError("varint is longer than 10 bytes", pos)
        byte = buf[pos]
        result |= (byte & 0x7F) << shift
    if result > 0xFFFF_FFFF_FFFF_FFFF:
        raise DecodeError("varint does not fit 64 bits", pos)
    return (result >> 1) ^ -(result & 1), pos + 1


def write_uvarint(out: bytearray, value: int) -> None:
    """Append an unsigned varint; value is not negative."""
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)


def write_varlong(out: bytearray, value: int) -> None:
    """Append a zigzag varint; value fits int64."""
    write_uvarint(out, value << 1 if value >= 0 else (~value << 1) | 1)


def read_length(buf: memoryview, pos: int) -> tuple[int, int]:
    """Read an int32 length; -1 is null, anything below it is refused."""
    length: int = read_int32s(buf, pos)[0]
    if length < -1:
        raise DecodeError(f"negative length {length}", pos)
    return length, pos + 4


def read_compact_length(buf: memoryview, pos: int) -> tuple[int, int]:
    """Read a compact length (stored plus one); -1 is null."""
    length, pos = read_uvarint(buf, pos)
    return length - 1, pos


def read_count(buf: memoryview, pos: int, item_bytes_min: int) -> tuple[int, int]:
    """Read an array's int32 count; null (-1) is the caller's to judge."""
    count, pos = read_length(buf, pos)
    if count * item_bytes_min > len(buf) - pos:
        raise DecodeError(f"{count} array items do not fit the bytes that remain", pos)
    return count, pos


def read_compact_count(buf: memoryview, pos: int, item_bytes_min: int) -> tuple[int, int]:
    """Read an array's compact count; null (-1) is the caller's to judge."""
    count = buf[pos]
    if count < 0x80:
        pos += 1
    else:
        count, pos = read_uvarint(buf, pos)
    count -= 1
    if count * item_bytes_min > len(buf) - pos:
        raise DecodeError(f"{count} array items do not fit the bytes that remain", pos)
    return count, pos


def read_nullable_string(buf: memoryview, pos: int) -> tuple[str | None, int]:
    """Read int16 length and UTF-8; -1 is null."""
    length: int = read_int16s(buf, pos)[0]
    pos += 2
    if length < 0:
        if length < -1:
            raise DecodeError(f"negative string length {length}", pos - 2)
        return None, pos
    end = pos + length
    return str(buf[pos:end], "utf-8"), end


def read_string(buf: memoryview, pos: int) -> tuple[str, int]:
    """Read int16 length and UTF-8; null is refused."""
    length: int = read_int16s(buf, pos)[0]
    if length < 0:
        raise DecodeError(f"string length {length} where null is not allowed", pos)
    pos += 2
    end = pos + length
    return str(buf[pos:end], "utf-8"), end


def read_compact_nullable_string(buf: memoryview, pos: int) -> tuple[str | None, int]:
    """Read varint length plus one and UTF-8; 0 is null."""
    length, pos = read_uvarint(buf, pos)
    if length == 0:
        return None, pos
    end = pos + length - 1
    if length > 0x8000:  # an int16 length is the limit in both encodings
        raise DecodeError(f"string of {length - 1} bytes", pos)
    return str(buf[pos:end], "utf-8"), end


def read_compact_string(buf: memoryview, pos: int) -> tuple[str, int]:
    """Read varint length plus one and UTF-8; null is refused."""
    value, end = read_compact_nullable_string(buf, pos)
    if value is None:
        raise DecodeError("null string where null is not allowed", pos)
    return value, end


def write_nullable_string(out: bytearray, value: str | None) -> None:
    """Append int16 length and UTF-8."""
    if value is None:
        out += b"\xff\xff"
        return
    raw = value.encode()
    out += pack_int16(len(raw))
    out += raw


def write_compact_nullable_string(out: bytearray, value: str | None) -> None:
    """Append varint length plus one and UTF-8."""
    if value is None:
        out.append(0)
        return
    raw = value.encode()
    if len(raw) < 127:
        out.append(len(raw) + 1)
    else:
        write_uvarint(out, len(raw) + 1)
    out += raw


def write_string(out: bytearray, value: str) -> None:
    """Append int16 length and UTF-8; None raises AttributeError, our own mistake."""
    raw = value.encode()
    out += pack_int16(len(raw))
    out += raw


def write_compact_string(out: bytearray, value: str) -> None:
    """Append varint length plus one and UTF-8; None raises AttributeError, our own mistake."""
    raw = value.encode()
    if len(raw) < 127:
        out.append(len(raw) + 1)
    else:
        write_uvarint(out, len(raw) + 1)
    out += raw


@dataclass(frozen=True, slots=True)
class CountReaders:
    """How a decoder reads the counts that make it loop: as they come, or against a limit."""

    array: Callable[[memoryview, int, int], tuple[int, int]]
    compact_array: Callable[[memoryview, int, int], tuple[int, int]]
    tagged_fields: Callable[[memoryview, int], tuple[int, int]]


UNLIMITED = CountReaders(read_count, read_compact_count, read_uvarint)


def limited_counts(items_max: int) -> CountReaders:
    """Count readers that allow so many items together: for one message, never used again."""
    left = items_max

    def take(count: int, pos: int) -> None:
        nonlocal left
        if count > left:
            raise TooManyItems(f"more than {items_max} array items and tagged fields", pos)
        if count > 0:  # -1 is null
            left -= count

    def array(buf: memoryview, pos: int, item_bytes_min: int) -> tuple[int, int]:
        count, pos = read_count(buf, pos, item_bytes_min)
        take(count, pos)
        return count, pos

    def compact_array(buf: memoryview, pos: int, item_bytes_min: int) -> tuple[int, int]:
        count, pos = read_compact_count(buf, pos, item_bytes_min)
        take(count, pos)
        return count, pos

    def tagged_fields(buf: memoryview, pos: int) -> tuple[int, int]:
        count, pos = read_uvarint(buf, pos)
        take(count, pos)
        return count, pos

    return CountReaders(array, compact_array, tagged_fields)


def skip_tagged_fields(buf: memoryview, pos: int, counts: CountReaders = UNLIMITED) -> int:
    """Step over a section of tagged fields, whatever they hold (KIP-482); returns its end."""
    count, pos = counts.tagged_fields(buf, pos)
    for _ in range(count):
        _tag, pos = read_uvarint(buf, pos)
        size, pos = read_uvarint(buf, pos)
        pos += size
    return pos
