"""Target: a log's directory after an accident. An input is a list of things that happened to it.

Three directories are made once, each by the real log: one segment of a broker that was killed,
several sealed segments with their indexes and checkpoints, and a log that was trimmed and closed.
An input names one and then, in operations of 8 bytes, bits that flip, blocks that land elsewhere,
files that are cut, swapped or gone. Then the log is opened.

What is judged, with no use of recovery's own verdicts: what opens is a beginning of what was
written, byte for byte; and where it is shorter, nothing that survived untouched knew better, for
then the loss is one of acknowledged records and had to be said (CorruptRecord). Operations that
forge a checksum are judged by their exceptions alone.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import Any

from crc32c import crc32c

from storage.checkpoint import decode_checkpoint
from storage.errors import StorageError
from storage.segment import CHECKPOINT_SUFFIX, SEGMENT_SUFFIX
from storage.wal_format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    decode_record_header,
    decode_segment_header,
    record_bytes,
)
from tests.fuzz.target import Target, scratch
from tests.storage.builder import BLOCK, Driven, Host, Stored, crashed, segmented

OPERATION = Struct(">BBHHH")  # file, what, block, byte in the block, argument
OPERATIONS_MAX = 16
NAME = "events-0"
FILE_BYTES_MAX = 1 << 20


@dataclass(slots=True)
class Image:
    """A directory as it was left, and what is true of it."""

    files: dict[str, bytes]
    appended: list[Stored]
    log_start_offset: int
    records: dict[str, list[RecordHeader]] = field(default_factory=dict)  # by segment

    def __post_init__(self) -> None:
        for name, data in self.files.items():
            if name.endswith(SEGMENT_SUFFIX):
                header = decode_segment_header(memoryview(data))
                assert not isinstance(header, str)
                found, pos = [], BLOCK
                while record := decode_record_header(memoryview(data)[pos:], header, pos):
                    found.append(record)
                    pos += record_bytes(record.body_length, BLOCK)
                self.records[name] = found


async def _trimmed(path: Path) -> Driven:
    """A log whose beginning was deleted, and that was closed."""
    driven = await Host(path, segment_bytes=16 * BLOCK).open()
    for i in range(20):
        await driven.append_durably(b"%d" % i * 500)
    await driven.log.delete_records(7)
    await driven.close()
    return driven


def _make_image(make: Any) -> Image:
    directory = Path(tempfile.mkdtemp(dir=scratch()))
    try:
        driven: Driven = asyncio.run(make(directory))
        files = {p.name: p.read_bytes() for p in sorted((directory / NAME).iterdir())}
        return Image(files, driven.appended, driven.log.log_start_offset)
    finally:
        shutil.rmtree(directory)


class Accidents:
    """The target's state: the images, a loop, and a directory that is made anew for each input."""

    def __init__(self) -> None:
        self._images: list[Image] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._directory = Path()

    def open_any_log(self, data: bytes) -> None:
        """See the module."""
        if self._loop is None:
            self._images = [_make_image(make) for make in (crashed, segmented, _trimmed)]
            self._loop = asyncio.new_event_loop()
            self._directory = Path(tempfile.mkdtemp(dir=scratch()))
        if len(data) < 2:
            return
        image = self._images[data[0] % len(self._images)]
        files = dict(image.files)
        operations = OPERATION.iter_unpack(data[2 : 2 + len(data[2:]) // 8 * 8])
        forged = [_happen(files, image, *op) for op in islice(operations, OPERATIONS_MAX)]
        directory = self._directory / NAME
        shutil.rmtree(self._directory)
        directory.mkdir(parents=True)
        for name, content in files.items():
            (directory / name).write_bytes(content)
        self._loop.run_until_complete(
            _judge(self._directory, image, files, any(forged), bool(data[1] & 1))
        )

    def close(self) -> None:
        """Remove what was made."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None
            shutil.rmtree(self._directory, ignore_errors=True)


def _happen(
    files: dict[str, bytes],
    image: Image,
    which: int,
    what: int,
    block: int,
    byte: int,
    argument: int,
) -> bool:
    """One operation on `files`. Returns whether it forges what only the broker may write."""
    if not files:
        return False
    names = sorted(files)
    name = names[which % len(names)]
    data = bytearray(files[name])
    blocks = max(1, len(data) // BLOCK)
    start = block % blocks * BLOCK
    pos = min(start + byte % BLOCK, max(0, len(data) - 1))
    forges = False
    match what % 14:
        case 0 | 1 if data:
            data[pos] ^= 1 << argument % 8
        case 2 if data:
            data[pos] = argument & 0xFF
        case 3:
            end = min(len(data), pos + argument)
            data[pos:end] = bytes(end - pos)
        case 4:
            del data[pos:]
        case 5:
            del data[start:]
        case 6:
            data += bytes(argument) if byte & 1 else bytes((argument & 0xFF,)) * (argument >> 4)
        case 7:  # a write that landed elsewhere
            other = image.files.get(names[argument % len(names)], b"")
            data[start : start + BLOCK] = other[start : start + BLOCK]
        case 8:
            source = argument % blocks * BLOCK
            data[start : start + BLOCK] = data[source : source + BLOCK]
        case 9:
            del files[name]
            return False
        case 10:
            forges = True  # a name is a statement: .start
            files[f"{argument:020d}{Path(name).suffix}"] = bytes(data)
        case 11:
            data = bytearray(files[names[argument % len(names)]])
        case 12 if len(data) >= start + RECORD_HEADER_BYTES:
            forges = True
            head = data[start : start + RECORD_HEADER_BYTES]
            head[16:20] = bytes(4)
            data[start + 16 : start + 20] = crc32c(head).to_bytes(4, "big")
        case 13 if len(data) > 4 and not name.endswith(SEGMENT_SUFFIX):
            forges = True
            data[-4:] = crc32c(data[:-4]).to_bytes(4, "big")
    files[name] = bytes(data[:FILE_BYTES_MAX])
    return forges


async def _judge(
    path: Path, image: Image, files: dict[str, bytes], forged: bool, goes_on: bool
) -> None:
    host = Host(path, life=5, segment_bytes=16 * BLOCK)
    try:
        driven = await host.open(NAME, appended=image.appended)
    except StorageError:
        assert forged or files != image.files, "an untouched log does not open"
        return
    try:
        log = driven.log
        if not forged:
            _check_end(image, files, log.log_end_offset)
            await _check_content(image, driven)
        if goes_on:
            with suppress(StorageError):
                await driven.append_durably(b"more")
    finally:
        await host.crash()
    if goes_on and not forged:
        after = await host.next_life().open(NAME, appended=driven.appended)
        assert after.log.log_end_offset == log.log_end_offset
        await after.host.crash()


def _check_end(image: Image, files: dict[str, bytes], end: int) -> None:
    """Nothing untouched says that the log was longer than `end`."""
    written_end = image.appended[-1].next_offset
    assert end <= written_end
    assert end in {0, written_end, *(s.base_offset for s in image.appended)}
    if end == written_end:
        return
    for name, records in image.records.items():
        data, was = files.get(name, b""), image.files[name]
        if data[:SEGMENT_HEADER_BYTES] != was[:SEGMENT_HEADER_BYTES]:
            continue
        base = int(name.removesuffix(SEGMENT_SUFFIX))
        assert base <= end or base == 0, f"{name} begins behind the end"
        bad = next((r.pos for r in records if r.base_offset == end), None)
        for record in records:
            block = slice(record.pos, record.pos + RECORD_HEADER_BYTES)
            untouched = data[block] == was[block]
            if untouched and bad is not None and record.pos > bad:
                assert record.durable_pos <= bad, f"{name}: the record at {record.pos} knew better"
    for name, was in image.files.items():
        if name.endswith(CHECKPOINT_SUFFIX) and files.get(name) == was:
            checkpoint = decode_checkpoint(was)
            assert checkpoint is not None
            assert checkpoint.next_offset <= end, f"{name} knew better"


async def _check_content(image: Image, driven: Driven) -> None:
    """What is read is what was written; or reading says that it is not there any more."""
    log = driven.log
    start, end = log.log_start_offset, log.durable_offset
    model = [s for s in image.appended if start < s.next_offset <= end]
    driven.forget_cache()
    with suppress(StorageError):
        assert await driven.read_all() == b"".join(stored.data for stored in model)


def seeds() -> Iterator[bytes]:
    for image in range(3):
        for goes_on in (0, 1):
            yield bytes((image, goes_on))
            for what in range(14):
                op = OPERATION.pack(what * 3, what, what * 2 + 1, 700, what + 3)
                yield bytes((image, goes_on)) + op
                yield bytes((image, goes_on)) + op + OPERATION.pack(what, what + 5, 6, 40, 1)


_ACCIDENTS = Accidents()
TARGETS = [
    Target("storage", _ACCIDENTS.open_any_log, seeds, share=1.5, close=_ACCIDENTS.close),
]
