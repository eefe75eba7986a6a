"""Sealed segments are replaced by dense ones while the log is read and written, and survive it."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.record_batch import iter_batches
from storage import open_log
from storage.background import Pace
from storage.errors import CorruptRecord
from storage.index import decode_index
from storage.replacement import DenseJob, Source, write_dense
from storage.segment import INDEX_SUFFIX, Segment
from storage.wal_format import (
    REWRITTEN_HEADER_BYTES,
    RecordHeader,
    SegmentHeader,
    decode_segment_header,
)
from tests.storage.builder import (
    BLOCK,
    Driven,
    Host,
    contents,
    drive,
    flip,
)
from tests.storage.segment_image import scan_bytes
from tests.storage.test_crash_model import tick
from tests.storage.test_debug_wal import debug_json, debug_wal, of_type
from tests.storage.test_wal_format import dump, small_segment

GOLDEN = Path(__file__).with_name("golden_rewritten.hex")


async def padded(path: Path, count: int = 60, **settings: Any) -> Driven:
    """A log of several sealed segments of lone small records, and nothing else going on."""
    host = Host(path, segment_bytes=33 * BLOCK, **settings)
    host.pool.load()
    driven = await host.open()
    for i in range(count):
        await driven.append_durably(b"%d" % i, epoch=1 + i // 25)
    await tick(20)
    return driven


def records_in(path: Path) -> list[RecordHeader]:
    data = path.read_bytes()
    header = decode_segment_header(memoryview(data))
    assert isinstance(header, SegmentHeader)
    return scan_bytes(header, data).seen


async def rewrite_all(driven: Driven) -> int:
    """How many segments were rewritten; none is left that should be."""
    count = 0
    while await driven.log.rewriter.rewrite_padded():
        count += 1
    await tick(20)
    return count


# --- the bytes ------------------------------------------------------------------------------------


def rewritten_image(path: Path) -> bytes:
    """What rewriting tests/storage/golden_segment.hex gives."""
    image = small_segment()
    file = path / "00000000000000001000.wal"
    file.write_bytes(image.data)
    last = image.records[-1]
    source = Source(file, image.header, len(image.data), last.next_offset, last.header_crc)
    header = image.header._replace(incarnation=0x99AABBCCDDEEFF00, header_crc=0)
    written = write_dense(DenseJob((source,), header), Pace())
    return written.path.read_bytes()


def test_a_rewritten_segment_has_the_golden_bytes(tmp_path: Path) -> None:
    assert dump(rewritten_image(tmp_path)) == GOLDEN.read_text()


def test_the_golden_bytes_say_what_was_replaced(tmp_path: Path) -> None:
    data, image = rewritten_image(tmp_path), small_segment()
    header = decode_segment_header(memoryview(data))
    assert isinstance(header, SegmentHeader)
    assert header.replaced is not None
    assert header[2:9] == image.header[2:9]
    last = image.records[-1]
    scanned = scan_bytes(header, data)
    told = 1000, len(image.data), last.header_crc
    ends = len(data), scanned.result.last_header_crc
    assert header.replaced == (last.next_offset, *ends, *told)
    assert scanned.verdict == "clean"
    assert [(r.base_offset, r.last_offset, r.batch_count) for r in scanned.seen] == [
        (1000, 1002, 2),
        (1003, 1003, 1),
    ]


@pytest.mark.parametrize("pos", range(REWRITTEN_HEADER_BYTES))
def test_a_flipped_bit_anywhere_in_its_header_is_found(tmp_path: Path, pos: int) -> None:
    data = bytearray(rewritten_image(tmp_path)[:512])
    data[pos] ^= 0x10
    assert isinstance(decode_segment_header(memoryview(data)), str)


# --- what is kept ---------------------------------------------------------------------------------


def test_lone_small_records_take_a_fraction_when_they_are_rewritten(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await padded(tmp_path)
        before, count = driven.log.size_bytes, len(driven.segments)
        sealed = driven.segments[:-1]
        assert await rewrite_all(driven) == len(sealed)
        assert len(driven.segments) == count
        for old, new in zip(sealed, driven.segments, strict=False):
            assert old.replaced
            assert (old.base_offset, old.next_offset) == (new.base_offset, new.next_offset)
            assert new.path.stat().st_size == new.write_pos <= 5 * BLOCK < old.write_pos
            assert decode_index(new.path.with_suffix(INDEX_SUFFIX).read_bytes(), new.header)
        assert driven.log.size_bytes == before - driven.log.rewriter.saved_bytes
        await driven.check()
        await driven.append_durably(b"goes on")
        await driven.check()
        assert not driven.host.messages
        assert not list(driven.log.directory.glob("*.tmp"))
        await driven.close()
        reopened = await driven.host.next_life().open(appended=driven.appended)
        await reopened.check()
        assert not await rewrite_all(reopened)
        await reopened.close()

    drive(scenario())


def test_records_keep_their_leader_epochs_and_share_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await padded(tmp_path)
        epochs = list(driven.log.epochs)
        await rewrite_all(driven)
        for segment in driven.segments[:-1]:
            data = segment.path.read_bytes()
            for record in records_in(segment.path):
                body = data[record.pos + BLOCK :][: record.body_length]
                batches = [b for _, b in iter_batches(body, 0, len(body))]
                assert {b.partition_leader_epoch for b in batches} == {record.leader_epoch}
                assert batches[-1].last_offset == record.last_offset
        for path in driven.log.directory.glob("*.checkpoint"):
            path.unlink()  # so that they are known from the records alone
        reopened = await driven.host.reopen(driven)
        assert reopened.log.epochs == epochs
        await reopened.check()

    drive(scenario())


def test_a_segment_of_large_records_is_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, segment_bytes=60 * BLOCK).open()
        for _ in range(12):
            await driven.append_durably(b"x" * 15 * BLOCK)
        await tick(20)
        before = contents(driven.log.directory)
        assert not await driven.log.rewriter.rewrite_padded()
        assert contents(driven.log.directory) == before
        reads = driven.host.disk.reads
        assert not await driven.log.rewriter.rewrite_padded()
        assert driven.host.disk.reads == reads  # nor looked at again

    drive(scenario())


def test_what_the_newest_checkpoint_points_into_is_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await padded(tmp_path)
        driven.log._head.checkpoint_base = driven.segments[1].base_offset
        assert [s.base_offset for s in driven.log.rewriter.sealed()] == [0]
        driven.log._head.checkpoint_base = -1
        assert not await driven.log.rewriter.rewrite_padded()

    drive(scenario())


def test_timestamps_are_found_as_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, segment_bytes=33 * BLOCK).open()
        for i in range(60):
            driven.append(b"v", timestamp_ms=1000 + (i * 37) % 60)
            await driven.durable()
        await tick(20)

        async def answers() -> list[Any]:
            end = driven.log.log_end_offset
            found = [await driven.log.offset_for_timestamp(t, end) for t in range(990, 1070)]
            return [*found, await driven.log.max_timestamp_offset(end)]

        before = await answers()
        assert await rewrite_all(driven) > 1
        assert await answers() == before
        driven.forget_cache()
        assert await answers() == before

    drive(scenario())


# --- readers, the log start, the end --------------------------------------------------------------


def test_a_reader_in_the_old_segment_is_not_disturbed(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await padded(tmp_path)
        driven.forget_cache()
        old, end = driven.segments[0], driven.log.durable_offset
        before = old.path.stat().st_ino
        real, go_on = driven.host.held.read, asyncio.Event()

        async def slow(fd: int, pos: int, size: int) -> memoryview:
            if fd == old.fd:
                await go_on.wait()
            return await real(fd, pos, size)

        driven.host.held.read = slow  # type: ignore[method-assign]
        old.dense = False
        reader = asyncio.ensure_future(driven.log.read(3, end, 10 * BLOCK))
        await tick(3)
        assert old.pins
        assert await driven.log.rewriter.rewrite_dense([old])
        await tick(20)
        assert old.fd >= 0
        assert os.fstat(old.fd).st_ino == before
        assert driven.segments[0].path.stat().st_ino != before
        go_on.set()
        slices, _next_offset = await reader
        expected = b"".join(stored.data for stored in driven.appended[3:])
        assert expected.startswith(b"".join(slices))
        assert slices
        await tick(20)
        assert old.fd == -1  # and then it was closed
        bases = driven.log._spans._bases
        assert not [base for base in bases if base < driven.segments[0].next_offset]
        await driven.check()

    drive(scenario())


def test_records_in_memory_are_not_mixed_with_those_of_the_new_segment(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await padded(tmp_path)
        end = driven.log.durable_offset
        assert driven.log.read_cached(5, end, BLOCK, True) is not None
        assert await driven.log.rewriter.rewrite_dense(driven.segments[:1])
        assert driven.log.read_cached(5, end, BLOCK, True) is None
        await driven.log.read(7, end, BLOCK)
        reads = driven.host.disk.reads
        for offset in range(16):
            assert driven.log.read_cached(offset, end, 1, True) is not None
        assert driven.host.disk.reads == reads

    drive(scenario())


def test_a_segment_that_is_replaced_while_its_lock_is_waited_for_is_looked_at_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that was killed was in the middle of a swap."""

    async def scenario() -> None:
        driven = await padded(tmp_path)
        first = driven.segments[0].path
        copy = tmp_path / "copy"
        copy.write_bytes(first.read_bytes())
        assert await driven.log.rewriter.rewrite_dense(driven.segments[:1])
        await tick(20)
        await driven.host.crash()
        new = tmp_path / "new"
        first.rename(new)
        copy.rename(first)  # as it was when the next start came
        first.with_suffix(INDEX_SUFFIX).unlink()
        real = open_log.open_existing

        def swapped_meanwhile(path: Path, *args: Any) -> Segment:
            segment = real(path, *args)
            if path == first and new.exists():
                new.rename(first)
            return segment

        monkeypatch.setattr(open_log, "open_existing", swapped_meanwhile)
        host = driven.host.next_life()
        reopened = await host.open(appended=driven.appended)
        assert reopened.segments[0].header.replaced is not None
        await reopened.check()

    drive(scenario())


def test_an_index_that_contradicts_its_segments_header_is_damage(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await padded(tmp_path)
        assert await driven.log.rewriter.rewrite_dense(driven.segments[:1])
        await tick(20)
        await driven.host.crash()
        first = driven.segments[0]
        ends = first.write_pos, first.next_offset - 1, first.last_header_crc
        path = first.path.with_suffix(INDEX_SUFFIX)
        path.write_bytes(first.index.encode(first.header, *ends))
        driven = await driven.host.next_life().open(appended=driven.appended)
        with pytest.raises(CorruptRecord, match="does not end where it ended"):
            await driven.read_all()
        assert driven.log.failed is not None

    drive(scenario())


def test_when_it_was_written_last_is_kept(tmp_path: Path) -> None:
    """Retention goes by that where records have no timestamps."""

    async def scenario() -> None:
        driven = await padded(tmp_path)
        os.utime(driven.segments[1].path, (1000, 1000))
        assert await driven.log.rewriter.rewrite_dense(driven.segments[:2])
        assert driven.segments[0].path.stat().st_mtime == 1000

    drive(scenario())


def test_replaced_files_are_used_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await padded(tmp_path, count=40)
        assert await rewrite_all(driven) >= 2
        taken = driven.host.pool.reused_count
        for i in range(40):
            await driven.append_durably(b"more %d" % i)
        assert driven.host.pool.reused_count > taken
        await driven.check()
        await driven.host.crash()
        reopened = await driven.host.next_life().open(appended=driven.appended)
        await reopened.check()

    drive(scenario())


def test_the_log_start_moves_through_rewritten_segments(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await padded(tmp_path)
        assert await driven.log.rewriter.rewrite_dense(driven.segments[:2])
        assert await rewrite_all(driven)
        appended = driven.appended
        for start in range(0, driven.log.durable_offset, 7):
            await driven.log.delete_records(start)
            await tick(20)
            await driven.check()
            assert start < driven.segments[0].next_offset or start == driven.log.log_end_offset
            await driven.host.crash()
            driven = await driven.host.next_life().open(appended=appended)
            assert driven.log.log_start_offset == start
            await driven.check()

    drive(scenario())


def test_segments_below_the_log_start_are_not_rewritten(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await padded(tmp_path)
        first, second = driven.segments[:2]
        driven.log.log_start_offset = second.base_offset
        assert driven.log.rewriter.sealed()[0] is second
        assert not await driven.log.rewriter.rewrite_dense([first])
        driven.log.log_start_offset = second.base_offset - 1
        assert await driven.log.rewriter.rewrite_dense([first, second])

    drive(scenario())


@pytest.mark.parametrize("end", ["close", "delete"])
def test_a_log_that_ends_stops_what_is_under_way(tmp_path: Path, end: str) -> None:
    class Held:
        """A Background whose work never ends by itself."""

        def __init__(self) -> None:
            self.began = asyncio.Event()
            self.ended = False

        async def run(self, _work: Any, _job: Any) -> Any:
            self.began.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.ended = True

    async def scenario() -> None:
        driven = await padded(tmp_path)
        held = Held()
        driven.log.rewriter._background = held
        rewriting = asyncio.ensure_future(driven.log.rewriter.rewrite_padded())
        await held.began.wait()
        if end == "close":
            await driven.close()
        else:
            driven.host.open_logs.remove(driven)
            assert await driven.log.delete(tmp_path / "trash")
        assert held.ended
        assert not await rewriting
        assert all(segment.fd == -1 for segment in driven.segments)

    drive(scenario())


def test_a_log_that_was_cut_behind_a_rewritten_segment_goes_on_in_a_new_one(
    tmp_path: Path,
) -> None:
    """As `rpk-py debug cut` leaves it."""

    async def scenario() -> None:
        driven = await padded(tmp_path)
        assert await driven.log.rewriter.rewrite_dense(driven.segments[:2])
        await tick(20)
        await driven.host.crash()
        end = driven.segments[0].next_offset
        for segment in driven.segments[1:]:
            segment.path.unlink()
            segment.path.with_suffix(INDEX_SUFFIX).unlink(missing_ok=True)
        for path in driven.log.directory.glob("*.checkpoint"):
            path.unlink()
        appended = [stored for stored in driven.appended if stored.next_offset <= end]
        host = driven.host.next_life()
        for _ in range(3):
            host.pool.load()
            driven = await host.open(appended=appended)
            for _ in range(20):
                await driven.append_durably(b"goes on")
            await driven.check()
            assert driven.segments[0].header.replaced is not None
            assert driven.segments[1].base_offset == end
            appended = driven.appended
            await host.crash()
            host = host.next_life()

    drive(scenario())


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_damaged_segment_is_reported_and_stays(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await padded(tmp_path)
        path = driven.segments[0].path
        flip(path, 9 * BLOCK + 70)
        before = path.read_bytes()
        driven.segments[0].dense = False
        assert not await driven.log.rewriter.rewrite_dense([driven.segments[0]])
        assert path.read_bytes() == before
        assert driven.segments[0].dense
        assert any("cannot be rewritten" in message for message in driven.host.messages)
        assert driven.log.usable
        assert await rewrite_all(driven) == len(driven.segments) - 2

    drive(scenario())


def test_without_room_nothing_changes_and_it_is_not_tried_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        driven = await padded(tmp_path)
        before = contents(driven.log.directory)

        def full(*_args: Any) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "pwritev", full)
            assert not await driven.log.rewriter.rewrite_padded()
        assert contents(driven.log.directory) == before
        assert "No space left" in driven.host.messages[-1]
        assert not driven.log.rewriter.may_try
        assert not await driven.log.rewriter.rewrite_padded()
        await driven.check()

    drive(scenario())


def test_a_file_system_without_hard_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_args: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    async def scenario() -> None:
        driven = await padded(tmp_path)
        monkeypatch.setattr(os, "link", refused)
        assert await driven.log.rewriter.rewrite_dense(driven.segments[:2])
        assert await rewrite_all(driven)
        assert not driven.host.messages
        await driven.check()
        assert not list(driven.log.directory.glob("*.tmp"))

    drive(scenario())


@pytest.mark.parametrize("what", ["last", "hole", "end", "chain"])
def test_what_is_missing_behind_or_in_a_rewritten_segment_is_damage(
    tmp_path: Path, what: str
) -> None:
    async def scenario() -> None:
        driven = await padded(tmp_path)
        await rewrite_all(driven)
        await driven.host.crash()
        segments = driven.segments
        if what == "last":
            segments[-1].path.unlink()
        elif what == "hole":
            segments[1].path.unlink()
        elif what == "end":
            segments[0].path.with_suffix(INDEX_SUFFIX).unlink()
            os.truncate(segments[0].path, segments[0].write_pos - BLOCK)
        else:  # another one's file under this name
            first, second = (s.path for s in segments[:2])
            first.with_suffix(INDEX_SUFFIX).unlink()
            data = bytearray(first.read_bytes())
            data[BLOCK:] = second.read_bytes()[BLOCK : len(data)]
            first.write_bytes(data)
        before = contents(driven.log.directory)
        with pytest.raises(CorruptRecord):
            await driven.host.next_life().open(appended=driven.appended)
        assert contents(driven.log.directory) == before

    drive(scenario())


def test_debug_wal_verifies_a_rewritten_segment_by_what_it_says_itself(tmp_path: Path) -> None:
    async def scenario() -> Driven:
        driven = await padded(tmp_path)
        assert await driven.log.rewriter.rewrite_dense(driven.segments[:3])
        await tick(20)
        await driven.host.crash()
        return driven

    driven = drive(scenario())
    first, second = (segment.path for segment in driven.segments[:2])
    code, lines = debug_json(first)
    assert code == 0
    assert of_type(lines, "segment")[0]["rewritten"]["next_offset"] == 48
    (summary,) = of_type(lines, "summary")
    assert (summary["verdict"], summary["next_offset"]) == ("clean", 48)
    assert summary["next_segment"] == second.name
    assert "rewritten; stands for all offsets before 48" in debug_wal(first)[1]
    first.with_suffix(INDEX_SUFFIX).unlink()
    second.unlink()
    os.truncate(first, first.stat().st_size - BLOCK)
    code, lines = debug_json(first)
    assert code == 1
    assert "its own header, written last," in of_type(lines, "summary")[0]["proof"]
