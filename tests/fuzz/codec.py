"""Targets: frames in both directions, the functions written by hand, record batches."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import struct
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from typing import Any

from kafka_protocol import frame
from kafka_protocol.api import SUPPORTED
from kafka_protocol.closures import compile_decoder, compile_encoder, limited_decoder
from kafka_protocol.errors import DecodeError, UnsupportedVersion
from kafka_protocol.record_batch import (
    Record,
    build_batch,
    iter_batches,
    iter_records,
    parse_header,
)
from kafka_protocol.schema import info_of
from kafka_protocol.wire import UNLIMITED, limited_counts
from storage import timestamps
from tests.fuzz.target import Target
from tests.protocol import golden
from tests.protocol.cases import BATCHES
from tests.protocol.values import outcome

INFLATED_BYTES_MAX = 1 << 20
_WHICH = struct.Struct(">hh")  # api key and version before an input that does not say its own
_ITEMS_MAX = 5  # of a message whose items are counted: golden ones have more and fewer
NO_FILES: Any = None  # a search without segments opens none
_TWINS: list[Any] = list(frame.HAND_DECODERS)


# -- requests --------------------------------------------------------------------------------


def decode_any_request(data: bytes) -> None:
    """A message or one of two errors; a message survives being encoded again."""
    try:
        header, message = frame.decode_request(memoryview(data))
    except (DecodeError, UnsupportedVersion):
        return
    again = frame.encode_request(
        message, header.api_version, header.correlation_id, header.client_id
    )
    assert frame.decode_request(memoryview(again)[4:]) == (header, message)


def request_seeds() -> Iterator[bytes]:
    for case in golden.REQUESTS:
        yield case.frame
    for spec in SUPPORTED.values():  # every version, if only by its smallest message
        for version in range(spec.min_version, spec.max_version + 1):
            yield frame.encode_request(spec.request(), version, 7, "fuzz")[4:]


# -- responses -------------------------------------------------------------------------------


def decode_any_response(data: bytes) -> None:
    """As for requests; and where a response is encoded by hand, its schema gives the same bytes."""
    if len(data) < _WHICH.size:
        return
    api_key, version = _WHICH.unpack_from(data)
    spec = SUPPORTED.get(api_key)
    if spec is None or not spec.min_version <= version <= spec.max_version:
        return
    try:
        correlation_id, message = frame.decode_response(api_key, version, memoryview(data)[4:])
    except DecodeError:
        return
    parts = frame.encode_response(api_key, version, correlation_id, message)
    whole = b"".join(parts)
    again = frame.decode_response(api_key, version, memoryview(whole)[4:])
    assert again[0] == correlation_id
    assert _without_default_structs(again[1]) == _without_default_structs(message)
    by_schema = bytearray()
    compile_encoder(spec.response, version)(by_schema, message)
    assert whole.endswith(by_schema)


def _without_default_structs(value: Any) -> Any:
    """A tagged struct that only says its defaults need not be sent, and is None then."""
    if isinstance(value, list):
        return [_without_default_structs(item) for item in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {
        field.name: _without_default_structs(getattr(value, field.name))
        for field in dataclasses.fields(value)
    }
    changed = dataclasses.replace(value, **fields)
    try:
        return None if changed == type(value)() else changed
    except TypeError:  # a field without a default
        return changed


def response_seeds() -> Iterator[bytes]:
    for case in golden.RESPONSES:
        yield _WHICH.pack(info_of(type(case.message)).api_key, case.version) + case.frame
    for spec in SUPPORTED.values():
        for version in range(spec.min_version, spec.max_version + 1):
            parts = frame.encode_response(spec.key, version, 7, spec.response())
            yield _WHICH.pack(spec.key, version) + b"".join(parts)[4:]


# -- decoders written by hand ----------------------------------------------------------------


def compare_twins(data: bytes) -> None:
    """A decoder written by hand and the one of its schema: the same value, or both refuse; also
    where items are counted, as they are in large frames."""
    if len(data) < 2:
        return
    cls = _TWINS[data[0] % len(_TWINS)]
    first, last = info_of(cls).versions
    version = first + (data[1] & 0x7F) % (last - first + 1)
    by_hand = outcome(frame.HAND_DECODERS[cls](version, UNLIMITED), data[2:])
    assert by_hand == outcome(compile_decoder(cls, version), data[2:])
    if data[1] & 0x80:
        limited = outcome(frame.HAND_DECODERS[cls](version, limited_counts(_ITEMS_MAX)), data[2:])
        reader = limited_decoder(cls, version, limited_counts(_ITEMS_MAX))
        assert limited == outcome(reader, data[2:])
        assert limited in (None, by_hand)


def twin_seeds() -> Iterator[bytes]:
    for case in golden.REQUESTS:
        cls = type(case.message)
        if cls in frame.HAND_DECODERS:
            body = bytearray()
            compile_encoder(cls, case.version)(body, case.message)
            for counted in (0, 0x80):
                version = case.version - info_of(cls).versions[0]
                yield bytes((_TWINS.index(cls), version | counted)) + body


# -- record batches --------------------------------------------------------------------------


class _Bytes:
    """A log that is these bytes: what storage.timestamps searches."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.log_start_offset = 0
        self.looks_inside = asyncio.Lock()

    async def read(
        self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool = True
    ) -> tuple[list[memoryview], int]:
        return [memoryview(self._data)], limit_offset


def read_any_batches(data: bytes) -> None:
    """Batches and records, or DecodeError; what is read can be built again; a search by time
    finds what a look at every record finds."""
    rows: list[Record] = []
    ends = [0]
    with suppress(DecodeError):
        parse_header(data)
        for pos, header in iter_batches(data, 0, len(data)):
            batch = data[pos : pos + header.size_bytes]
            records = list(iter_records(batch, INFLATED_BYTES_MAX))
            assert len(records) == max(header.record_count, 0)
            assert sum(len(r.key or b"") + len(r.value or b"") for r in records) < 1 << 20
            rows += records
            ends.append(pos + header.size_bytes)
            if records and header.record_count < 1000:
                _check_rebuilt(records)
    sound = data[: ends[-1]]
    if rows and len(rows) < 1000:
        _check_searches(sound, rows)


def _check_rebuilt(records: list[Record]) -> None:
    base = records[0]
    with suppress(struct.error):  # deltas of 64 bits may not fit the header of another batch
        built = build_batch(records, base_offset=base.offset)
        assert list(iter_records(built, INFLATED_BYTES_MAX)) == records


def _check_searches(data: bytes, rows: list[Record]) -> None:
    """With headers that tell the truth about offsets and the largest timestamp."""
    for pos, header in iter_batches(data, 0, len(data)):
        inside = list(iter_records(data[pos:], INFLATED_BYTES_MAX))
        if header.timestamp_type or header.base_offset < 0:
            return
        if max((r.timestamp for r in inside), default=0) != header.max_timestamp:
            return
        if not all(header.base_offset <= r.offset <= header.last_offset for r in inside):
            return
    wanted = rows[len(rows) // 2].timestamp
    most = max(row.timestamp for row in rows)

    async def search() -> list[tuple[int, int] | None]:
        log = _Bytes(data)
        return [
            await timestamps.first_at_or_after(log, NO_FILES, (), wanted, 1),
            await timestamps.largest(log, NO_FILES, (), 1),
        ]

    expected = [
        next((r.offset, r.timestamp) for r in rows if r.timestamp >= at) for at in (wanted, most)
    ]
    assert _LOOP.run(search()) == expected


class _Loop:
    """An event loop that is kept between inputs."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(work)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None


_LOOP = _Loop()


def batch_seeds() -> Iterator[bytes]:
    yield from BATCHES
    yield b"".join(BATCHES)
    rows = [Record(i, 1_700_000_000_000 - i % 3, b"k" * i, None, [("h", b"")]) for i in range(9)]
    for codec in range(5):
        yield bytes(build_batch(rows, compression=codec))
    for first, second in itertools.pairwise(BATCHES):
        yield first + second


TARGETS = [
    Target("requests", decode_any_request, request_seeds),
    Target("responses", decode_any_response, response_seeds),
    Target("twins", compare_twins, twin_seeds),
    Target("records", read_any_batches, batch_seeds, close=_LOOP.close),
]
