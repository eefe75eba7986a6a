"""Damage of what had been durable: the log goes offline, says why, and changes no byte on disk.

Every test compares all files of the partition before and after. What may be cut: test_open_log.py.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import CorruptRecord
from storage.segment import file_name
from storage.wal_format import RECORD_HEADER_BYTES
from tests.storage.builder import (
    BLOCK,
    OTHER_TOPIC_ID,
    Driven,
    Host,
    contents,
    crashed,
    drive,
    flip,
    records_of,
    segmented,
    wal,
)


async def assert_offline(host: Host, words: str, name: str = "events-0") -> None:
    """Opening says that acknowledged data is damaged, or a sealed segment's first read does, and
    neither changes a byte."""

    async def open_and_read() -> None:
        driven = await host.open(name)
        try:
            await driven.read_all()
        finally:
            assert driven.log.failed is not None
            await driven.close()

    before = contents(host.path / name)
    with pytest.raises(CorruptRecord, match=words) as caught:
        await open_and_read()
    assert contents(host.path / name) == before
    assert "nothing was cut" in str(caught.value)
    assert "rpk-py debug partition" in str(caught.value)


@pytest.mark.parametrize("where", ["header", "body"])
def test_the_newest_record_may_be_damaged_and_it_is_the_only_one(
    tmp_path: Path, where: str
) -> None:
    async def scenario() -> None:
        driven = await crashed(tmp_path)
        path, whole, appended = wal(driven), wal(driven).read_bytes(), driven.appended
        for i, (pos, body_end, _) in enumerate(records_of(driven)):
            start, end = (
                (pos, pos + RECORD_HEADER_BYTES) if where == "header" else (pos + BLOCK, body_end)
            )
            at = random.Random(i).randrange(start, end)
            flip(path, at, 1 << i % 8)
            host = Host(tmp_path, life=i)
            if i < len(appended) - 1:
                await assert_offline(host, f"at position {pos} .*was durable when it was written")
                path.write_bytes(whole)
            else:
                recovered = await host.open(appended=appended[:i])
                await recovered.check()

    drive(scenario())


@pytest.mark.parametrize("rot", ["flipped", "zeroed", "cut"])
@pytest.mark.parametrize("start", ["inside the last record", "end"])
def test_the_newest_record_was_durable_where_the_log_starts_behind_it(
    tmp_path: Path, rot: str, start: str
) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        for i in range(5):
            await driven.append_durably(b"%d" % i * 700, b"second")
        end = driven.log.log_end_offset
        await driven.log.delete_records(end if start == "end" else end - 1)
        await driven.host.crash()
        pos, _, _ = records_of(driven)[-1]
        size = driven.active.write_pos
        if rot == "flipped":
            flip(wal(driven), pos + BLOCK + 3)
        else:
            os.truncate(wal(driven), pos)
            os.truncate(wal(driven), size if rot == "zeroed" else pos)
        started = end if start == "end" else end - 1
        words = rf"at position {pos} \(offset {end - 2}\), but the log starts at offset {started}"
        await assert_offline(driven.host.next_life(), words)

    drive(scenario())


def test_a_cut_before_a_checkpoint_is_damage(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await crashed(tmp_path, 20, checkpoint_bytes=9 * BLOCK)
        path, whole = wal(driven), wal(driven).read_bytes()
        newest = max(driven.log.directory.glob("*.checkpoint"))
        covered = [record for record in records_of(driven) if record[2] <= int(newest.stem)]
        known = covered[-1][1] + -covered[-1][1] % BLOCK
        for cut_pos in (0, 1, 79, 80, BLOCK, known // 2, known - BLOCK, known - 1):
            path.write_bytes(whole[:cut_pos])
            words = "inside its header" if cut_pos < 80 else f"and {known} had been durable"
            await assert_offline(driven.host.next_life(), words)
        path.write_bytes(whole[:known])
        driven = await driven.host.next_life().open()
        assert driven.log.log_end_offset == int(newest.stem)

    drive(scenario())


def drop(suffix: str) -> Callable[[Driven], None]:
    def spoil(driven: Driven) -> None:
        for path in driven.log.directory.glob(f"*{suffix}"):
            path.unlink()

    return spoil


def spoil_nothing(_driven: Driven) -> None:
    pass


@pytest.mark.parametrize("first", [spoil_nothing, drop(".index"), drop(".checkpoint")])
@pytest.mark.parametrize("which", [1, -2])
def test_a_missing_segment_in_the_middle_is_damage(
    tmp_path: Path, which: int, first: Callable[[Driven], None]
) -> None:
    async def scenario() -> None:
        driven = await segmented(tmp_path)
        first(driven)
        driven.segments[which].path.unlink()
        await assert_offline(driven.host.next_life(), "a segment is missing between")

    drive(scenario())


def test_a_missing_first_segment_is_damage(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await segmented(tmp_path)
        driven.segments[0].path.unlink()
        await assert_offline(driven.host.next_life(), "the log starts at offset 0")

    drive(scenario())


@pytest.mark.parametrize("which", [slice(-1, None), slice(-2, None), slice(0, None)])
def test_a_missing_last_segment_is_damage(tmp_path: Path, which: slice) -> None:
    async def scenario() -> None:
        driven = await segmented(tmp_path)
        for segment in driven.segments[which]:
            segment.path.unlink()
        words = f"says that segment {driven.active.path.name} was durable"
        await assert_offline(driven.host.next_life(), words)

    drive(scenario())


@pytest.mark.parametrize("first", [drop(".index"), drop(".checkpoint")])
def test_a_damaged_sealed_segment_is_found_when_it_is_scanned(
    tmp_path: Path, first: Callable[[Driven], None]
) -> None:
    async def scenario() -> None:
        driven = await segmented(tmp_path)
        first(driven)
        sealed = driven.segments[1]
        for pos in (BLOCK, 2 * BLOCK + 5, sealed.write_pos - 2 * BLOCK):
            flip(sealed.path, pos)
            await assert_offline(driven.host.next_life(), str(sealed.path))
            flip(sealed.path, pos)
        await (await driven.host.next_life().open(appended=driven.appended)).check()

    drive(scenario())


@pytest.mark.parametrize("first", [spoil_nothing, drop(".index"), drop(".checkpoint")])
def test_a_cut_sealed_segment_is_damage(tmp_path: Path, first: Callable[[Driven], None]) -> None:
    async def scenario() -> None:
        driven = await segmented(tmp_path)
        first(driven)
        sealed = driven.segments[1]
        for cut_pos in (sealed.write_pos - BLOCK, sealed.write_pos // 2, BLOCK, 10):
            os.truncate(sealed.path, cut_pos)
            await assert_offline(driven.host.next_life(), str(sealed.path))

    drive(scenario())


def test_a_sealed_segment_of_a_former_copy_does_not_chain(tmp_path: Path) -> None:
    """An old backup of one file, put back among newer ones."""

    async def scenario() -> None:
        driven = await segmented(tmp_path)
        (tmp_path / "other").mkdir()
        other = await crashed(tmp_path / "other", 40, segment_bytes=16 * BLOCK, life=9)
        path = driven.segments[1].path
        path.write_bytes(other.segments[1].path.read_bytes())
        await assert_offline(driven.host.next_life(), "does not chain to the end of")

    drive(scenario())


def test_a_renamed_segment_is_damage(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await segmented(tmp_path)
        path = driven.active.path
        path.rename(path.with_name(file_name(driven.active.base_offset + 1, ".wal")))
        await assert_offline(driven.host.next_life(), "it was renamed")

    drive(scenario())


def test_files_swapped_between_partitions_are_damage(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path)
        logs = [await host.open(f"events-{i}", partition=i) for i in range(2)]
        for driven in logs:
            await driven.append_durably(b"%d" % driven.log.partition)
        await host.crash()
        paths = [driven.active.path for driven in logs]
        data = [path.read_bytes() for path in paths]
        for path, other in zip(paths, reversed(data), strict=True):
            path.write_bytes(other)
        await assert_offline(host.next_life(), "belongs to topic id .*, partition 1")

    drive(scenario())


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_segment_of_another_topic_among_ours_is_damage(tmp_path: Path, which: int) -> None:
    async def scenario() -> None:
        driven = await segmented(tmp_path)
        (tmp_path / "other").mkdir()
        other = await Host(tmp_path / "other", segment_bytes=16 * BLOCK).open(
            topic_id=OTHER_TOPIC_ID
        )
        for i in range(40):
            await other.append_durably(b"%d" % i * (1 + 700 * (i % 3)), b"second")
        data = other.segments[which].path.read_bytes()
        await other.host.crash()
        driven.segments[which].path.write_bytes(data)
        await assert_offline(driven.host.next_life(), "belongs to topic id")

    drive(scenario())


def test_bit_rot_found_by_a_cold_read_takes_the_log_offline(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await segmented(tmp_path)
        sealed = driven.segments[1]
        flip(sealed.path, 2 * BLOCK + 70)
        driven = await driven.host.next_life().open(appended=driven.appended)
        good, _ = await driven.log.read(0, sealed.base_offset, 1 << 20)
        assert b"".join(good)
        before = contents(driven.log.directory)
        with pytest.raises(CorruptRecord, match="CRC of the record at 4096") as caught:
            await driven.read_all()
        assert driven.owner.errors == [caught.value]
        with pytest.raises(CorruptRecord):
            await driven.log.read(0, 1, 1000)
        with pytest.raises(CorruptRecord):
            driven.append(b"refused")
        assert contents(driven.log.directory) == before
        assert any("went offline: events-0" in message for message in driven.host.messages)
        await driven.close()
        assert contents(driven.log.directory) == before

    drive(scenario())


@pytest.mark.parametrize("cut_bytes", [1, BLOCK, 5 * BLOCK])
def test_a_file_that_shrinks_under_an_open_log_takes_it_offline(
    tmp_path: Path, cut_bytes: int
) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        for i in range(10):
            await driven.append_durably(b"%d" % i * 1000)
        driven.forget_cache()
        os.truncate(driven.active.path, driven.active.write_pos - cut_bytes)
        with pytest.raises(CorruptRecord, match="the file ends"):
            await driven.read_all()
        assert isinstance(driven.log.failed, CorruptRecord)

    drive(scenario(), timeout_s=10)
