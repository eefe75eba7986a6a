"""The schema compiler: one version of a message becomes a decoder and an encoder, both closures.

decoder (buf, pos) -> (value, pos), encoder (out, value) -> None. Compiled when first asked for and
kept for the life of the process. Neighbouring fixed-size fields are read and written by one struct
call. The four hot messages also have functions by hand over the same schema, see
messages/produce.py and messages/fetch.py; the tagged fields even they leave to tags_reader here.

Invariants: a field that a version does not have keeps its default on decode and is left out on
encode; unknown tagged fields are skipped; an array count that the remaining bytes cannot hold is
refused before anything is allocated, so decoding takes time in proportion to the frame.

In proportion is too much for a large frame of tiny items, so the items of a request are limited
(wire.ITEMS_MAX). Counting them needs a counter for each message, which the cached closures cannot
hold, nor should small messages pay for it. But every item takes at least a byte, so a frame of
ITEMS_MAX bytes cannot exceed the limit: only for a longer one does frame.py compile the decoder
afresh, over count readers that share a counter (wire.limited_counts), and drop it after use.

Source: Kafka's message format (flexible versions and tagged fields: KIP-482, nullable structs:
KIP-893); docs/adr/0003.
"""

from __future__ import annotations

import functools
import struct as pystruct
from collections.abc import Callable
from operator import attrgetter, itemgetter
from typing import Any

from kafka_protocol import wire
from kafka_protocol.errors import DecodeError
from kafka_protocol.schema import (
    BYTES,
    STRING,
    Array,
    FieldSpec,
    Kind,
    Primitive,
    info_of,
    specs_of,
)
from kafka_protocol.wire import UNLIMITED, CountReaders, Reader, Writer


@functools.cache
def compile_decoder(cls: type, version: int) -> Reader:
    """The decoder of one version of a message: (buf, pos) -> (value, pos)."""
    return limited_decoder(cls, version, UNLIMITED)


def limited_decoder(cls: type, version: int, counts: CountReaders) -> Reader:
    """The same for one message: what it counts is held by `counts`."""
    return _struct_reader(cls, version, version >= info_of(cls).flexible, counts)


@functools.cache
def compile_encoder(cls: type, version: int) -> Writer:
    """The encoder of one version of a message: (out, value) -> None, appends to out."""
    return _struct_writer(cls, version, version >= info_of(cls).flexible)


def tags_reader(
    cls: type, version: int, counts: CountReaders = UNLIMITED
) -> Callable[[memoryview, int, Any], int]:
    """A reader of the tagged fields that end a struct: (buf, pos, obj) -> pos, sets attributes."""
    known = {
        spec.tag: (
            spec.name,
            compile_reader(spec.kind, version, True, spec.is_nullable(version), counts),
        )
        for spec in specs_of(cls)
        if spec.tag is not None and spec.active(version)
    }
    read_count = counts.tagged_fields

    def read(buf: memoryview, pos: int, obj: Any) -> int:
        count, pos = read_count(buf, pos)
        for _ in range(count):
            tag, pos = wire.read_uvarint(buf, pos)
            size, pos = wire.read_uvarint(buf, pos)
            end = pos + size
            if tag in known:
                name, reader = known[tag]
                value, pos = reader(buf, pos)
                if pos != end:
                    raise DecodeError(f"tagged field {tag} ends at {pos}, not at {end}", pos)
                setattr(obj, name, value)
            pos = end
        return pos

    return read


@functools.cache
def tags_writer(cls: type, version: int) -> Writer:
    """A writer of the tagged fields that end a struct; what equals its default is left out."""
    known = []
    for spec in specs_of(cls):
        if spec.tag is None or not spec.active(version):
            continue
        nullable = spec.is_nullable(version)
        defaults = [spec.default_value()]
        if isinstance(spec.kind, type) and not nullable:
            defaults += [None, spec.kind()]  # None stands for a struct of defaults
        known.append((spec.tag, spec.name, _writer(spec.kind, version, True, nullable), defaults))
    known.sort(key=itemgetter(0))

    def write(out: bytearray, obj: Any) -> None:
        sections = []
        for tag, name, writer, defaults in known:
            value = getattr(obj, name)
            if value in defaults:
                continue
            section = bytearray()
            writer(section, value)
            sections.append((tag, section))
        wire.write_uvarint(out, len(sections))
        for tag, section in sections:
            wire.write_uvarint(out, tag)
            wire.write_uvarint(out, len(section))
            out += section

    return write


def _on_wire(cls: type, version: int) -> list[FieldSpec]:
    return [spec for spec in specs_of(cls) if spec.tag is None and spec.active(version)]


def _size_bytes_min(kind: Kind, version: int, flexible: bool) -> int:
    """The fewest bytes that a value can take, to judge an array count before allocating."""
    if isinstance(kind, Primitive):
        return kind.size_bytes
    if isinstance(kind, type):
        sizes = (
            1  # the marker of a null struct
            if isinstance(spec.kind, type) and spec.is_nullable(version)
            else _size_bytes_min(spec.kind, version, flexible)
            for spec in _on_wire(kind, version)
        )
        return sum(sizes) + flexible
    if flexible:
        return 1
    return 2 if kind is STRING else 4


def _runs(cls: type, version: int) -> list[tuple[list[FieldSpec], FieldSpec | None]]:
    """Split the fields on the wire into runs of fixed-size ones, each with what follows it."""
    runs: list[tuple[list[FieldSpec], FieldSpec | None]] = []
    run: list[FieldSpec] = []
    for spec in _on_wire(cls, version):
        if isinstance(spec.kind, Primitive):
            run.append(spec)
        else:
            runs.append((run, spec))
            run = []
    if run:
        runs.append((run, None))
    return runs


def _layout(run: list[FieldSpec]) -> pystruct.Struct | None:
    codes = "".join(spec.kind.code for spec in run if isinstance(spec.kind, Primitive))
    return pystruct.Struct(">" + codes) if run else None


def _struct_reader(cls: type, version: int, flexible: bool, counts: CountReaders) -> Reader:
    segments = []
    for run, last in _runs(cls, version):
        layout = _layout(run)
        reader = None
        if last is not None:
            nullable = last.is_nullable(version)
            reader = compile_reader(last.kind, version, flexible, nullable, counts)
        size = layout.size if layout else 0
        segments.append((layout.unpack_from if layout else None, size, reader))
    on_wire, specs = _on_wire(cls, version), specs_of(cls)
    end = specs.index(on_wire[-1]) if on_wire else 0
    # Fields that this version lacks, but that precede one it has, are filled in by position.
    gaps = [(i, spec.default_value) for i, spec in enumerate(specs[:end]) if spec not in on_wire]
    read_tags = tags_reader(cls, version, counts) if flexible else None

    def read(buf: memoryview, pos: int) -> tuple[Any, int]:
        values: list[Any] = []
        for unpack, size, reader in segments:
            if unpack is not None:
                values += unpack(buf, pos)
                pos += size
            if reader is not None:
                value, pos = reader(buf, pos)
                values.append(value)
        for index, default_value in gaps:
            values.insert(index, default_value())
        obj = cls(*values)
        if read_tags is not None:
            if buf[pos]:
                return obj, read_tags(buf, pos, obj)
            pos += 1
        return obj, pos

    return read


def compile_reader(
    kind: Kind,
    version: int,
    flexible: bool,
    nullable: bool = False,
    counts: CountReaders = UNLIMITED,
) -> Reader:
    """The reader of one value of any type: (buf, pos) -> (value, pos)."""
    if isinstance(kind, type):
        read_struct = _struct_reader(kind, version, flexible, counts)
        return _nullable_reader(read_struct) if nullable else read_struct
    if isinstance(kind, Array):
        return _array_reader(kind.item, version, flexible, nullable, counts)
    if isinstance(kind, Primitive):
        layout = pystruct.Struct(">" + kind.code)
        return lambda buf, pos: (layout.unpack_from(buf, pos)[0], pos + layout.size)
    if kind is STRING:
        if flexible:
            return wire.read_compact_nullable_string if nullable else wire.read_compact_string
        return wire.read_nullable_string if nullable else wire.read_string
    read_length = wire.read_compact_length if flexible else wire.read_length

    def read(buf: memoryview, pos: int) -> tuple[Any, int]:
        length, pos = read_length(buf, pos)
        if length < 0:
            if not nullable:
                raise DecodeError("null bytes where null is not allowed", pos)
            return None, pos
        view = buf[pos : pos + length]
        return (bytes(view) if kind is BYTES else view), pos + length

    return read


def _nullable_reader(read_struct: Reader) -> Reader:
    """The reader of a struct behind its marker byte (KIP-893): negative is null."""

    def read(buf: memoryview, pos: int) -> tuple[Any, int]:
        if buf[pos] > 127:
            return None, pos + 1
        return read_struct(buf, pos + 1)

    return read


def _array_reader(
    item: Kind, version: int, flexible: bool, nullable: bool, counts: CountReaders
) -> Reader:
    item_bytes_min = _size_bytes_min(item, version, flexible)
    if item_bytes_min == 0:
        raise TypeError(f"an item of an array must take at least one byte: {item}")
    read_count = counts.compact_array if flexible else counts.array
    code = _one_letter_code(item)
    reader = compile_reader(item, version, flexible, False, counts)

    def read(buf: memoryview, pos: int) -> tuple[list[Any] | None, int]:
        count, pos = read_count(buf, pos, item_bytes_min)
        if count < 0:
            if not nullable:
                raise DecodeError("null array where null is not allowed", pos)
            return None, pos
        if code is not None:
            values = pystruct.unpack_from(f">{count}{code}", buf, pos)
            return list(values), pos + count * item_bytes_min
        items = []
        for _ in range(count):
            value, pos = reader(buf, pos)
            items.append(value)
        return items, pos

    return read


def _struct_writer(cls: type, version: int, flexible: bool) -> Writer:
    segments = []
    for run, last in _runs(cls, version):
        layout = _layout(run)
        # attrgetter of one name returns no tuple, so a lone field is named twice and cut.
        names = [spec.name for spec in run] if len(run) != 1 else [run[0].name] * 2
        segments.append(
            (
                layout.pack if layout else None,
                attrgetter(*names) if run else None,
                len(run),
                attrgetter(last.name) if last else None,
                _writer(last.kind, version, flexible, last.is_nullable(version)) if last else None,
            )
        )
    write_tags = tags_writer(cls, version) if flexible else None

    def write(out: bytearray, obj: Any) -> None:
        for pack, get_run, count, get_last, writer in segments:
            if pack is not None and get_run is not None:
                out += pack(*get_run(obj)[:count])
            if writer is not None and get_last is not None:
                writer(out, get_last(obj))
        if write_tags is not None:
            write_tags(out, obj)

    return write


def _nullable_writer(write_struct: Writer) -> Writer:
    """The writer of a struct behind its marker byte: 1 and the struct, or -1 for None."""

    def write(out: bytearray, value: Any) -> None:
        if value is None:
            out.append(0xFF)
        else:
            out.append(1)
            write_struct(out, value)

    return write


def _writer(kind: Kind, version: int, flexible: bool, nullable: bool = False) -> Writer:
    """The writer of one value of any type: (out, value) -> None."""
    if isinstance(kind, type):
        write_struct = _struct_writer(kind, version, flexible)
        return _nullable_writer(write_struct) if nullable else write_struct
    if isinstance(kind, Primitive):
        pack = pystruct.Struct(">" + kind.code).pack
        return lambda out, value: out.extend(pack(value))
    if kind is STRING:
        if flexible:
            return wire.write_compact_nullable_string if nullable else wire.write_compact_string
        return wire.write_nullable_string if nullable else wire.write_string
    item = kind.item if isinstance(kind, Array) else None
    code = _one_letter_code(item)
    write_item = _writer(item, version, flexible) if item is not None else None

    def write(out: bytearray, value: Any) -> None:
        if value is None:
            if not nullable:
                raise ValueError("None where null is not allowed")
            length = -1
        elif isinstance(value, list) and item is None:  # records may come as a list of pieces
            length = sum(map(len, value))
        else:
            length = len(value)
        if flexible:
            wire.write_uvarint(out, length + 1)
        else:
            out += wire.pack_int32(length)
        if length <= 0:
            return
        if write_item is None:
            for piece in value if isinstance(value, list) else (value,):
                out += piece
        elif code is not None:
            out += pystruct.pack(f">{length}{code}", *value)
        else:
            for each in value:
                write_item(out, each)

    return write


def _one_letter_code(item: Kind | None) -> str | None:
    """The struct letter of items that one struct call can handle, however many they are."""
    return item.code if isinstance(item, Primitive) and len(item.code) == 1 else None
