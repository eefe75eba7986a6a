"""`rpk-py debug`: look into files of a data directory.

Which process: the operator's, beside a running broker or without one. Nothing is written or locked
here: files are opened read-only, and a segment that a broker is writing is read up to the record
that is on its way. debug_files.py looks at directories, debug_repair.py changes them on request.

`wal` reads a segment as recovery does and uses all that recovery knows: the chain of headers, what
later headers, the checkpoints, the index file and the next segment say had been durable. Unlike
recovery it verifies every record, sealed or not.
Exit code: 0 whole or with a torn tail, 1 damaged, 2 no segment; the highest of several files.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from kafka_protocol.errors import DecodeError
from kafka_protocol.record_batch import BatchHeader, iter_batches, iter_records, verify_crc
from storage.buffers import aligned_buffer
from storage.checkpoint import decode_checkpoint
from storage.disk import lock_owner
from storage.index import SegmentIndex, decode_index
from storage.log_start import readable_start_in
from storage.recovery import SCAN_BYTES, Reads, ScanResult, scan_segment
from storage.segment import CHECKPOINT_SUFFIX, INDEX_SUFFIX, SEGMENT_SUFFIX, file_name
from storage.wal_format import (
    BLOCK_BYTES_MAX,
    RECORD_MAGIC,
    RECORD_MAGIC_POS,
    SEGMENT_MAGIC,
    RecordHeader,
    SegmentHeader,
    body_crc_holds,
    decode_record_header,
    decode_segment_header,
    round_up,
)

WHOLE, DAMAGED, NO_SEGMENT = 0, 1, 2
INFLATED_BYTES_MAX = 64 << 20  # a batch that inflates to more is not looked into
SHOWN_BYTES_MAX = 120  # of a key, a value or a header
RESCANS_MAX = 20  # of a segment that grows while it is read
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")

KEEP = (
    "Nothing was changed, and the broker neither cuts nor serves it: the partition is offline. "
    "Keep a copy of the directory, then restore it from a replica or a backup, or delete the topic."
)
REPORT = "Consumers get it as it is and refuse it. Please report this, with the file."
CUT = "Nobody was told that it is durable: the broker cuts here when it starts. Nothing to do."

Emit = Callable[[str, dict[str, Any]], None]


@click.group()
def debug() -> None:
    """Look into files of a data directory; nothing is written unless --yes says so."""


@debug.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--records", is_flag=True, help="Print the batches and Kafka records too.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="With --records: at most so many Kafka records a file.",
)
@click.option(
    "--format",
    "output",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="json: one object a line, each with a type.",
)
def wal(files: tuple[Path, ...], records: bool, limit: int, output: str) -> None:
    """Print the records of .wal segments and verify every one of them.

    Says where the valid data ends and what stands there: a clean end, a torn tail, or damage of
    data that had been acknowledged.

    Exit code: 0 clean or a torn tail, 1 damage, 2 no segment.
    """
    emit = _emit_json if output == "json" else _emit_text
    codes = [Inspection(path, emit, limit if records else 0).run() for path in files]
    sys.exit(max(codes))


class _ReadOnlyFile:
    """A file read past the page cache where possible, as the broker reads it."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC
        try:
            self.fd = os.open(path, flags | os.O_DIRECT)
        except OSError:
            self.fd = os.open(path, flags)

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def read(self, pos: int, size: int) -> memoryview:
        """`size` bytes at `pos`; shorter only at the end of the file."""
        size = min(size, round_up(max(self.size - pos, 0), BLOCK_BYTES_MAX))
        _memory, view = aligned_buffer(size, BLOCK_BYTES_MAX)
        filled = 0
        while filled < size:
            got = os.preadv(self.fd, [view[filled:]], pos + filled)
            filled += got
            if got == 0 or pos + filled >= self.size:
                break
        return view[:filled]

    def close(self) -> None:
        os.close(self.fd)


@dataclass(slots=True)
class _Known:
    """Where durable data is known to reach, and who says so."""

    durable_pos: int = 0
    source: str = ""
    successor: str | None = None
    durable_offset: int = 0  # of the last segment: the log start

    def note(self, pos: int, source: str) -> None:
        if pos > self.durable_pos:
            self.durable_pos, self.source = pos, source


@dataclass(slots=True)
class _Totals:
    """What the whole records hold."""

    records: int = 0
    batches: int = 0
    body_bytes: int = 0
    max_timestamp: int = -1
    bad_batches: list[str] = field(default_factory=list)


class Inspection:
    """One file: tells what is in it through `emit`; at most `records_left` Kafka records.

    After `run` on a segment, `header` is its header, `index` what its records make of it, `result`
    where they end.
    """

    def __init__(self, path: Path, emit: Emit, records_left: int) -> None:
        self._path = path
        self._emit = emit
        self._show_records = records_left > 0
        self._records_left = records_left
        self._totals = _Totals()
        self.header: SegmentHeader | None = None
        self.index = SegmentIndex()
        self.result: ScanResult | None = None

    def run(self) -> int:
        """Inspect the file. Returns its exit code."""
        try:
            file = _ReadOnlyFile(self._path)
        except OSError as error:
            self._emit("error", {"path": str(self._path), "reason": error.strerror})
            return NO_SEGMENT
        try:
            return self._inspect(file)
        except OSError as error:
            self._emit("error", {"path": str(self._path), "reason": error.strerror})
            return NO_SEGMENT
        finally:
            file.close()

    def _inspect(self, file: _ReadOnlyFile) -> int:
        head = file.read(0, BLOCK_BYTES_MAX)
        header = decode_segment_header(head)
        if isinstance(header, str):
            ours = bytes(head[:4]) == SEGMENT_MAGIC
            facts = {"path": str(self._path), "reason": header}
            self._emit("error", facts | ({"advice": KEEP} if ours else {}))
            return DAMAGED if ours else NO_SEGMENT
        self.header = header
        self._emit("segment", _segment_facts(self._path, header, file.size))
        known = _known_durable(self._path, header)
        self.result = result = self._scan(file, header, known)
        self._show_bad_record(file, header, result)
        return self._conclude(file, header, known, result)

    def _scan(self, file: _ReadOnlyFile, header: SegmentHeader, known: _Known) -> ScanResult:
        """Scan to the end, again from there while a broker's writes make it move."""
        start = header.block_bytes, header.base_offset, header.header_crc
        durable = known.durable_pos, known.durable_offset
        for _ in range(RESCANS_MAX):
            reads = scan_segment(header, file.size, *start, self.index, self._on_record, *durable)
            result = _drive(reads, file)
            if result.record_count == 0 or (result.bad is None and result.damage is None):
                break
            start = result.end_pos, result.next_offset, result.last_header_crc
        return result

    def _on_record(self, record: RecordHeader, body: memoryview) -> None:
        totals = self._totals
        totals.records += 1
        totals.batches += record.batch_count
        totals.body_bytes += record.body_length
        totals.max_timestamp = max(totals.max_timestamp, record.max_timestamp)
        self._emit("record", _record_facts(record, "ok"))
        try:
            self._check_batches(body)
        except DecodeError as error:
            totals.bad_batches.append(f"the record at position {record.pos}: {error}")

    def _check_batches(self, body: memoryview) -> None:
        for pos, batch in iter_batches(body, 0, len(body)):
            crc_ok = verify_crc(body, pos, batch.size_bytes, batch.crc)
            if not crc_ok:
                offset = batch.base_offset
                self._totals.bad_batches.append(f"the CRC of the batch at offset {offset}")
            if self._show_records:
                self._emit("batch", _batch_facts(batch, crc_ok))
                self._show_kafka_records(body[pos : pos + batch.size_bytes])

    def _show_kafka_records(self, batch: memoryview) -> None:
        if self._records_left == 0:
            return
        try:
            for record in iter_records(batch, INFLATED_BYTES_MAX):
                facts = {
                    "offset": record.offset,
                    "timestamp": record.timestamp,
                    "key": _shown(record.key),
                    "value": _shown(record.value),
                    "headers": [[name, _shown(value)] for name, value in record.headers],
                }
                self._emit("kafka_record", facts)
                self._records_left -= 1
                if self._records_left == 0:
                    self._emit("note", {"text": "the limit of --limit is reached: no more records"})
                    return
        except DecodeError as error:
            self._emit("note", {"text": f"its records cannot be read: {error}"})

    def _show_bad_record(
        self, file: _ReadOnlyFile, header: SegmentHeader, result: ScanResult
    ) -> None:
        """Where a bad record still has a valid header, print that."""
        if result.bad is None:
            return
        pos, block_bytes = result.end_pos, header.block_bytes
        record = decode_record_header(file.read(pos, block_bytes), header, pos)
        if record is None:
            return
        if record.prev_header_crc != result.last_header_crc:
            self._emit("record", _record_facts(record, "unchained"))
        elif not body_crc_holds(record, _body_of(file, record, block_bytes)):
            self._emit("record", _record_facts(record, "bad body"))

    def _conclude(
        self, file: _ReadOnlyFile, header: SegmentHeader, known: _Known, result: ScanResult
    ) -> int:
        totals, end_pos = self._totals, result.end_pos
        owner = lock_owner(file.fd)
        facts: dict[str, Any] = {
            "path": str(self._path),
            "verdict": "clean",
            "end_pos": end_pos,
            "next_offset": result.next_offset,
            "records": totals.records,
            "batches": totals.batches,
            "body_bytes": totals.body_bytes,
            "max_timestamp": totals.max_timestamp,
            "file_bytes": file.size,
            "in_use_by": owner if owner.startswith("process") else None,
            "next_segment": known.successor,
        }
        if result.damage is not None:
            facts["verdict"] = "damage"
            facts["what"] = result.bad
            facts["proof"] = _proof(known, result)
            facts["readable_behind"] = _readable_behind(file, header, end_pos)
            facts["advice"] = KEEP
        elif totals.bad_batches:
            facts["verdict"] = "damage"
            facts["what"] = "; ".join(totals.bad_batches)
            facts["proof"] = "the record around it is whole, so it was written like this"
            facts["advice"] = REPORT
        elif result.bad is not None:
            facts["verdict"] = "torn tail"
            facts["what"] = f"{result.bad} (a write cut short, or what a recycled file held before)"
            facts["advice"] = CUT
        self._emit("summary", facts)
        return DAMAGED if facts["verdict"] == "damage" else WHOLE


def _drive(reads: Reads, file: _ReadOnlyFile) -> ScanResult:
    try:
        pos, size = next(reads)
        while True:
            pos, size = reads.send(file.read(pos, size))
    except StopIteration as stop:
        result: ScanResult = stop.value
        return result


def _known_durable(path: Path, header: SegmentHeader) -> _Known:
    """What the files beside the segment say had been durable of it."""
    known = _Known()
    told_base, replaced_end = header.base_offset, path.name
    if (replaced := header.replaced) is not None:
        told_base = replaced.last_base_offset
        replaced_end = file_name(replaced.next_offset - 1, SEGMENT_SUFFIX)
        known.note(replaced.end_pos, "its own header, written last,")
    for other in sorted(path.parent.glob(f"*{SEGMENT_SUFFIX}")):
        if other.name <= replaced_end:
            continue
        try:
            following = decode_segment_header(memoryview(_head_of(other)))
        except OSError:
            break
        if isinstance(following, SegmentHeader) and (
            following.topic_id == header.topic_id
            and following.partition == header.partition
            and following.prev_base_offset == told_base
        ):
            known.successor = other.name
            if header.replaced is None:
                known.note(following.prev_end_pos, f"the next segment, {other.name},")
        break
    for other in sorted(path.parent.glob(f"*{CHECKPOINT_SUFFIX}")):
        checkpoint = decode_checkpoint(_content_of(other))
        if checkpoint is not None and checkpoint.incarnation == header.incarnation:
            known.note(checkpoint.pos, f"the checkpoint {other.name}")
    sealed = decode_index(_content_of(path.with_suffix(INDEX_SUFFIX)), header)
    if sealed is not None:
        known.note(sealed.end_pos, f"the index file {path.with_suffix(INDEX_SUFFIX).name}")
    if known.successor is None:
        known.durable_offset = readable_start_in(os.listdir(path.parent))
    return known


def _head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(BLOCK_BYTES_MAX)


def _content_of(path: Path) -> bytes:
    """A small file's bytes; none where it is gone or cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _proof(known: _Known, result: ScanResult) -> str:
    if result.end_pos < known.durable_pos:
        return f"{known.source} says that everything before {known.durable_pos} had been durable"
    return result.damage or ""


def _readable_behind(file: _ReadOnlyFile, header: SegmentHeader, bad_pos: int) -> dict[str, int]:
    """How many whole records of this segment lie behind the bad one, and their offsets."""
    found = {"records": 0}
    for record in _headers_behind(file, header, bad_pos):
        if body_crc_holds(record, _body_of(file, record, header.block_bytes)):
            found["records"] += 1
            found.setdefault("first_offset", record.base_offset)
            found["last_offset"] = record.last_offset
    return found


def _body_of(file: _ReadOnlyFile, record: RecordHeader, block_bytes: int) -> memoryview:
    body = file.read(record.pos + block_bytes, round_up(record.body_length, block_bytes))
    return body[: record.body_length]


def _headers_behind(
    file: _ReadOnlyFile, header: SegmentHeader, bad_pos: int
) -> Iterator[RecordHeader]:
    pos = bad_pos + header.block_bytes
    while chunk := file.read(pos, SCAN_BYTES):
        data = bytes(chunk)
        at = data.find(RECORD_MAGIC)
        while at >= 0:
            start = at - RECORD_MAGIC_POS
            if start >= 0 and start % header.block_bytes == 0:
                record = decode_record_header(chunk[start:], header, pos + start)
                if record is not None:
                    yield record
            at = data.find(RECORD_MAGIC, at + 1)
        pos += SCAN_BYTES


# --- facts: what is printed, as JSON takes it ---------------------------------------------------


def _segment_facts(path: Path, header: SegmentHeader, file_bytes: int) -> dict[str, Any]:
    rewritten = {"rewritten": header.replaced._asdict()} if header.replaced else {}
    return rewritten | {
        "path": str(path),
        "file_bytes": file_bytes,
        "base_offset": header.base_offset,
        "topic_id": header.topic_id.hex(),
        "partition": header.partition,
        "block_bytes": header.block_bytes,
        "incarnation": f"{header.incarnation:016x}",
        "created_ms": header.created_ms,
        "header_crc": f"{header.header_crc:08x}",
        "prev_base_offset": header.prev_base_offset,
        "prev_end_pos": header.prev_end_pos,
        "prev_header_crc": f"{header.prev_header_crc:08x}",
    }


def _record_facts(record: RecordHeader, crc: str) -> dict[str, Any]:
    return {
        "pos": record.pos,
        "body_bytes": record.body_length,
        "base_offset": record.base_offset,
        "last_offset": record.last_offset,
        "batches": record.batch_count,
        "max_timestamp": record.max_timestamp,
        "leader_epoch": record.leader_epoch,
        "durable_pos": record.durable_pos,
        "header_crc": f"{record.header_crc:08x}",
        "crc": crc,
    }


def _batch_facts(batch: BatchHeader, crc_ok: bool) -> dict[str, Any]:
    codec = CODECS[batch.compression] if batch.compression < len(CODECS) else batch.compression
    return {
        "base_offset": batch.base_offset,
        "last_offset": batch.last_offset,
        "records": batch.record_count,
        "bytes": batch.size_bytes,
        "compression": codec,
        "timestamp_type": "LogAppendTime" if batch.timestamp_type else "CreateTime",
        "max_timestamp": batch.max_timestamp,
        "leader_epoch": batch.partition_leader_epoch,
        "producer_id": batch.producer_id,
        "producer_epoch": batch.producer_epoch,
        "base_sequence": batch.base_sequence,
        "crc": "ok" if crc_ok else "bad",
    }


def _shown(data: bytes | None) -> str | None:
    """Bytes as a person reads them, bounded; None stays None (a null key is not an empty one)."""
    if data is None:
        return None
    text = data[:SHOWN_BYTES_MAX].decode("utf-8", "backslashreplace")
    more = len(data) - SHOWN_BYTES_MAX
    return f"{text}... ({more} more bytes)" if more > 0 else text


# --- output -------------------------------------------------------------------------------------


def _emit_json(kind: str, facts: dict[str, Any]) -> None:
    print(json.dumps({"type": kind} | facts))


def _emit_text(kind: str, facts: dict[str, Any]) -> None:
    lines = _TEXT[kind](facts)
    print("\n".join(lines))


def _error_lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"{facts['path']}: {facts['reason']}"]
    return [*lines, f"  {facts['advice']}"] if "advice" in facts else lines


def _segment_lines(facts: dict[str, Any]) -> list[str]:
    before = "  the first segment of its partition"
    if facts["prev_base_offset"] >= 0:
        before = (
            f"  follows the segment of base offset {facts['prev_base_offset']}, which ended at "
            f"position {facts['prev_end_pos']} with header CRC {facts['prev_header_crc']}"
        )
    columns = ("position", "body", "batches", "offsets", "max timestamp", "epoch", "durable")
    if rewritten := facts.get("rewritten"):
        before += f"\n  rewritten; stands for all offsets before {rewritten['next_offset']}"
    return [
        facts["path"],
        f"  topic id {facts['topic_id']}, partition {facts['partition']}, base offset "
        f"{facts['base_offset']}, {facts['file_bytes']} bytes",
        f"  blocks of {facts['block_bytes']} bytes, incarnation {facts['incarnation']}, created "
        f"{_time(facts['created_ms'])}, header CRC {facts['header_crc']}",
        before,
        _ROW.format(*columns, "header", "CRC"),
    ]


_ROW = "  {:>12} {:>10} {:>7} {:>23} {:>24} {:>5} {:>12} {:>8} {}"


def _record_lines(facts: dict[str, Any]) -> list[str]:
    columns = (
        facts["pos"],
        facts["body_bytes"],
        facts["batches"],
        f"{facts['base_offset']}..{facts['last_offset']}",
        _time(facts["max_timestamp"]),
        facts["leader_epoch"],
        facts["durable_pos"],
        facts["header_crc"],
        facts["crc"] if facts["crc"] == "ok" else facts["crc"].upper(),
    )
    return [_ROW.format(*columns)]


def _batch_lines(facts: dict[str, Any]) -> list[str]:
    producer = ""
    if facts["producer_id"] >= 0:
        producer = (
            f", producer {facts['producer_id']} epoch {facts['producer_epoch']} from sequence "
            f"{facts['base_sequence']}"
        )
    return [
        f"      batch {facts['base_offset']}..{facts['last_offset']}: {facts['records']} records, "
        f"{facts['bytes']} bytes, compression {facts['compression']}, {facts['timestamp_type']} "
        f"up to {_time(facts['max_timestamp'])}{producer}"
        + ("" if facts["crc"] == "ok" else ", CRC BAD")
    ]


def _kafka_record_lines(facts: dict[str, Any]) -> list[str]:
    headers = f" headers {facts['headers']!r}" if facts["headers"] else ""
    return [
        f"        {facts['offset']} {_time(facts['timestamp'])} key {facts['key']!r} value "
        f"{facts['value']!r}{headers}"
    ]


def _note_lines(facts: dict[str, Any]) -> list[str]:
    return [f"        {facts['text']}"]


def _summary_lines(facts: dict[str, Any]) -> list[str]:
    end, rest = facts["end_pos"], facts["file_bytes"] - facts["end_pos"]
    lines = [
        f"  {facts['records']} whole records, {facts['batches']} batches, {facts['body_bytes']} "
        f"bytes; they end at position {end}, before offset {facts['next_offset']}"
    ]
    if facts["verdict"] == "clean":
        behind = f"; {rest} preallocated bytes behind it" if rest > 0 else ""
        lines.append(f"  CLEAN END{behind}")
    else:
        lines.append(f"  {facts['verdict'].upper()} at position {end}: {facts['what']}")
        if "proof" in facts:
            lines.append(f"  It is damage, and not a torn tail: {facts['proof']}.")
        behind = facts.get("readable_behind", {"records": 0})
        if behind["records"]:
            lines.append(
                f"  Behind it are {behind['records']} whole records, offsets "
                f"{behind['first_offset']} to {behind['last_offset']}."
            )
        lines.append(f"  {facts['advice']}")
    if facts["in_use_by"]:
        lines.append(
            f"  {facts['in_use_by']} has it open: a record on its way looks like a torn tail"
        )
    if facts["next_segment"]:
        lines.append(f"  the next segment is {facts['next_segment']}")
    return lines


_TEXT: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "error": _error_lines,
    "segment": _segment_lines,
    "record": _record_lines,
    "batch": _batch_lines,
    "kafka_record": _kafka_record_lines,
    "note": _note_lines,
    "summary": _summary_lines,
}


def _time(timestamp_ms: int) -> str:
    """Milliseconds since 1970 as ISO 8601; what is no time stays a number."""
    if timestamp_ms == -1:
        return "-"
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return str(timestamp_ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{timestamp_ms % 1000:03d}Z"
