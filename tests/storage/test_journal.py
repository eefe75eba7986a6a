"""The shard's journal: many partitions, one write; what it acknowledged is there after any crash.

The fault model is HeldDisk's (builder.py), with the journal's files among those that are torn.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
from pathlib import Path

import pytest

from storage import journal as journal_module
from storage.errors import CorruptRecord, DiskFailed, StorageError
from storage.journal import PARTITIONS_MIN, SUFFIX, open_journal, read_journals
from tests.storage.builder import (
    BLOCK,
    Driven,
    HeldDisk,
    Host,
    batch_of,
    batch_of_size,
    drive,
    flip,
)
from tests.storage.test_crash_model import tick

COUNT = 6


def topic_id(index: int) -> bytes:
    """Of the topic of which a test has partition 0."""
    return bytes([index + 1]) * 16


async def open_all(host: Host, before: list[Driven] | None = None) -> list[Driven]:
    """COUNT logs, with what earlier lives of them appended."""
    return [
        await host.open(
            f"t{i}-0", topic_id=topic_id(i), appended=before[i].appended if before else None
        )
        for i in range(COUNT)
    ]


async def started(path: Path, disk: HeldDisk | None = None) -> tuple[Host, list[Driven]]:
    """A host with a journal in use, and its logs."""
    host = Host(path, disk)
    logs = await open_all(host)
    host.begin_journal()
    return host, logs


async def next_life(host: Host, logs: list[Driven]) -> tuple[Host, list[Driven]]:
    """After a crash: the journal is read, the logs are opened."""
    host = host.next_life()
    host.read_journal()
    return host, await open_all(host, logs)


async def append_to(logs: list[Driven], *values: bytes) -> None:
    """Append to each in one tick; they are durable then."""
    for driven in logs:
        driven.append(*values)
    await asyncio.gather(*(driven.durable() for driven in logs))


async def check_and_close(logs: list[Driven]) -> None:
    """They hold what was appended."""
    for driven in logs:
        await driven.check()
        await driven.close()


def journal_of(host: Host) -> journal_module.Journal:
    """The journal that is in use."""
    journal = host.context.committer.journal
    assert journal is not None
    return journal


def entries_of(path: Path) -> journal_module.Entries:
    """What the journal of a host that is gone holds."""
    return read_journals([path / "journal" / "0"], 1.0)


def journal_bytes(path: Path) -> list[Path]:
    return sorted((path / "journal" / "0").glob(f"*{SUFFIX}"))


def test_what_many_partitions_append_in_a_tick_is_one_write(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path)
        for round_number in range(3):
            await append_to(logs, b"%d" % round_number)
        assert host.held.writes == 3
        assert not any(driven.segments for driven in logs), "no segment is made for it"
        for driven in logs:
            assert driven.owner.durable_offsets == [1, 2, 3]
            assert driven.log._appender.stored_offset == 0
            assert await driven.read_all() == b"".join(one.data for one in driven.appended)
        await host.crash()
        host, logs = await next_life(host, logs)
        for driven in logs:
            assert driven.log._appender.stored_offset == 3, "durable in a segment before it serves"
            await driven.check()
            await driven.close()

    drive(scenario())


def test_without_the_journal_what_was_acknowledged_is_lost(tmp_path: Path) -> None:
    """The negative control of every test here."""

    async def scenario() -> None:
        host, logs = await started(tmp_path)
        await append_to(logs, b"v")
        await host.crash()
        host = host.next_life()
        logs = await open_all(host, logs)
        assert {driven.log.log_end_offset for driven in logs} == {0}

    drive(scenario())


def test_few_partitions_and_much_data_go_to_the_segments(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path)
        for driven in logs[: PARTITIONS_MIN - 1]:
            driven.append(b"few")
        await tick(8)
        for driven in logs:
            driven.append_batch(batch_of_size(journal_module.SLICE_BYTES_MAX + 1))
        await asyncio.gather(*(driven.durable() for driven in logs))
        assert journal_of(host).writes == 0
        await check_and_close(logs)

    drive(scenario())


def test_a_close_leaves_nothing_that_only_the_journal_has(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path)
        await append_to(logs, b"v")
        for driven in logs:
            await driven.close()
        journal = journal_of(host)
        assert not any(file.users for file in journal._files)
        journal.close()
        host = host.next_life()
        await check_and_close(await open_all(host, logs))

    drive(scenario())


def test_deleted_records_are_in_a_segment_before_the_log_starts_behind_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path)
        await append_to(logs, b"a", b"b", b"c")
        await logs[0].log.delete_records(3)
        assert logs[0].log._appender.stored_offset == 3
        assert logs[1].log._appender.stored_offset == 0
        await host.crash()
        host, logs = await next_life(host, logs)
        assert logs[0].log.log_start_offset == logs[0].log.log_end_offset == 3
        await check_and_close(logs)

    drive(scenario())


def test_a_deleted_partition_frees_the_journal(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path)
        await append_to(logs, b"v")
        await logs[0].log.delete(tmp_path / "trash")
        journal = journal_of(host)
        assert len(journal._files[0].users) == COUNT - 1

    drive(scenario())


def test_the_files_take_turns_and_records_get_to_their_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FILE_BYTES", 32 * BLOCK)

    async def scenario() -> None:
        host, logs = await started(tmp_path)
        journal = journal_of(host)
        for number in range(60):
            await append_to(logs, b"%d" % number)
        assert journal.writes > 30
        assert all(path.stat().st_size == 32 * BLOCK for path in journal_bytes(tmp_path))
        direct = host.held.writes - journal.writes
        assert direct < 60 * COUNT / 5, "far fewer writes to segments than batches"
        await host.crash()
        host, logs = await next_life(host, logs)
        await check_and_close(logs)

    drive(scenario())


def test_a_file_that_nobody_has_anything_in_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FILE_BYTES", 6 * BLOCK)

    async def scenario() -> None:
        host, logs = await started(tmp_path)
        journal = journal_of(host)
        for number in range(20):
            await append_to(logs, b"%d" % number)
            for driven in logs:
                await driven.log.store(number + 1)
        assert journal.writes == 20
        await check_and_close(logs)

    drive(scenario())


def test_a_file_takes_as_many_partitions_as_it_says_however_often_they_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FILE_PARTITIONS_MAX", COUNT)

    async def scenario() -> None:
        host, logs = await started(tmp_path)
        for number in range(20):
            await append_to(logs, b"%d" % number)
        assert journal_of(host).writes == host.held.writes == 20
        for driven in logs:
            await driven.log.store(20)
            await driven.check()
            await driven.close()

    drive(scenario())


def test_what_fits_in_no_file_leaves_the_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would change places, and one would be written whose new header is not durable."""
    monkeypatch.setattr(journal_module, "FILE_BYTES", 4 * BLOCK)

    async def scenario() -> None:
        host, logs = await started(tmp_path, HeldDisk(auto=False))
        disk = host.held
        files = {file.fd for file in journal_of(host)._files}
        for _ in range(2):
            for driven in logs:
                driven.append_batch(batch_of_size(2 * BLOCK))
            while any(driven.log.durable_offset < driven.log.log_end_offset for driven in logs):
                await tick(1)
                assert not any(write.fd in files for write in disk.held)
                disk.land()
        for driven in logs:
            driven.append(b"small")
        await tick(4)
        assert [write.fd in files for write in disk.held] == [True]
        disk.land()
        assert {driven.log.durable_offset for driven in logs} == {3}
        await host.crash()
        host, logs = await next_life(host, logs)
        await check_and_close(logs)

    drive(scenario())


def test_a_write_that_the_disk_refuses_leaves_nobody_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path)
        host.held.refused_fd = journal_of(host)._current.fd
        for driven in logs[1:]:
            driven.append(b"v")
        logs[0].append_batch(batch_of_size(journal_module.SLICE_BYTES_MAX + 1))
        await logs[0].durable()
        for driven in logs[1:]:
            assert isinstance(driven.owner.errors[0], DiskFailed)
        await logs[0].append_durably(b"goes on")
        await logs[0].check()

    drive(scenario())


@pytest.mark.parametrize("res", [-errno.EIO, 512])
def test_a_failed_write_fails_its_partitions_and_no_others(tmp_path: Path, res: int) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path, HeldDisk(auto=False))
        for driven in logs[1:]:
            driven.append(b"v")
        await tick(4)
        host.held.land(*host.held.held, res=res)
        for driven in logs[1:]:
            assert isinstance(driven.owner.errors[0], DiskFailed)
        assert any("the journal failed" in message for message in host.messages)
        host.held.auto = True
        await logs[0].append_durably(b"goes on")
        await logs[0].check()

    drive(scenario())


def test_a_partition_that_failed_keeps_what_is_only_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FILE_BYTES", 6 * BLOCK)

    async def scenario() -> None:
        host, logs = await started(tmp_path)
        await append_to(logs, b"acknowledged")
        logs[0].log._appender.fail(DiskFailed("its segment cannot be written"))
        for number in range(20):
            await append_to(logs[1:], b"%d" % number)
        await host.crash()
        host, logs = await next_life(host, logs)
        assert logs[0].log.log_end_offset == 1
        await check_and_close(logs)

    drive(scenario())


def test_what_the_journal_goes_on_from_is_known_to_have_been_durable(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path)
        for driven in logs:
            driven.append(b"stored")
            await driven.log.store(1)
        await append_to(logs, b"in the journal")
        await host.crash()
        segment = tmp_path / "t0-0" / f"{0:020d}.wal"
        flip(segment, 2 * BLOCK)  # in the body of its only record: a torn end, for all it says
        host = host.next_life()
        host.read_journal()
        with pytest.raises(CorruptRecord, match="or goes on there in the journal"):
            await host.open("t0-0", topic_id=topic_id(0))
        flip(segment, 2 * BLOCK)  # nothing was cut
        driven = await host.open("t0-0", topic_id=topic_id(0), appended=logs[0].appended)
        await driven.check()
        await driven.close()

    drive(scenario())


def test_a_gap_between_log_and_journal_is_damage(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path)
        for driven in logs:
            driven.append(b"stored")
            await driven.log.store(1)
        await append_to(logs, b"in the journal")
        await host.crash()
        shutil.rmtree(tmp_path / "t0-0")
        host = host.next_life()
        host.read_journal()
        with pytest.raises(CorruptRecord, match="goes on at 1"):
            await host.open("t0-0", topic_id=topic_id(0))

    drive(scenario())


def test_damage_that_was_durable_is_told_and_a_torn_end_is_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path)
        for number in range(3):
            await append_to(logs, b"%d" % number)
        await host.crash()
        (path,) = [one for one in journal_bytes(tmp_path) if read_journals([one.parent], 1.0)][:1]
        whole = path.read_bytes()
        flip(path, 6 * BLOCK)  # the body of the last record: nothing says that it was durable
        entries = read_journals([path.parent], 1.0)
        assert [entry.base_offset for entry in entries[topic_id(0), 0]] == [0, 1]
        path.write_bytes(whole)
        flip(path, 4 * BLOCK)  # the one before: the last one says so
        with pytest.raises(CorruptRecord, match="rpk-py debug journal"):
            read_journals([path.parent], 1.0)

    drive(scenario())


async def fill_one(host: Host, logs: list[Driven]) -> journal_module._File:
    """Append until one of the files is full and the other one has a record; which it was. Nothing
    of it gets to the segments."""
    journal, disk = journal_of(host), host.held
    first = journal._current
    fds = {file.fd for file in journal._files}
    while journal._current is first:
        for driven in logs:
            driven.append(b"value")
        for _ in range(20):
            if writes := [write for write in disk.held if write.fd in fds]:
                disk.land(*writes)
            await tick(1)
    return first


def test_the_newest_record_of_a_file_that_was_left_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had been durable when the other file was gone on with, and nothing in its own says so."""
    monkeypatch.setattr(journal_module, "FILE_BYTES", 9 * BLOCK)

    async def scenario() -> None:
        host, logs = await started(tmp_path, HeldDisk(auto=False))
        first = await fill_one(host, logs)
        left, acked = first.path, [driven.log.durable_offset for driven in logs]
        pos = first.write_pos - 2 * BLOCK
        await host.crash()
        whole = left.read_bytes()
        for at in (pos + 8, pos + 40, pos + BLOCK + 9):
            flip(left, at)
            with pytest.raises(CorruptRecord, match="record 3 is damaged, and the other file says"):
                entries_of(tmp_path)
            left.write_bytes(whole)
        host, logs = await next_life(host, logs)
        assert [driven.log.log_end_offset for driven in logs] == acked

    drive(scenario())


def test_a_header_that_is_damaged_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path)
        await append_to(logs, b"v")
        await host.crash()
        path = journal_bytes(tmp_path)[0]
        for pos in (0, 8, 40):  # its magic, its version, what its CRC is for
            flip(path, pos, 0x06)
            with pytest.raises(CorruptRecord, match="rpk-py debug journal"):
                entries_of(tmp_path)
            flip(path, pos, 0x06)
        assert len(entries_of(tmp_path)) == COUNT
        path.write_bytes(bytes(8 * BLOCK))  # made, and never begun
        assert entries_of(tmp_path) == {}

    drive(scenario())


def test_a_log_is_as_large_as_what_is_durable(tmp_path: Path) -> None:
    async def scenario() -> None:
        _host, logs = await started(tmp_path)
        for number in range(2):
            await append_to(logs, b"v")
            whole = sum(len(one.data) for one in logs[0].appended)
            assert {driven.log.size_bytes for driven in logs} == {whole}, number
        await logs[0].log.store(2)
        assert logs[0].log.size_bytes == logs[0].active.write_pos == 3 * BLOCK
        for driven in logs:
            await driven.close()

    drive(scenario())


def test_a_journal_that_is_begun_forgets_what_it_held(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path)
        await append_to(logs, b"v")
        await host.crash()
        host, logs = await next_life(host, logs)
        host.begin_journal()
        assert read_journals([tmp_path / "journal" / "1"], 1.0) == {}
        for driven in logs:
            await driven.close()
        journal = journal_of(host)
        journal.close()
        assert read_journals([tmp_path / "journal" / "0"], 1.0) == {}

    drive(scenario())


def test_a_start_that_was_killed_between_the_files_leaves_a_journal_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is begun anew, and the other one follows what the first held."""
    monkeypatch.setattr(journal_module, "FILE_BYTES", 9 * BLOCK)

    async def scenario() -> None:
        host, logs = await started(tmp_path, HeldDisk(auto=False))
        await fill_one(host, logs)
        acked = [driven.log.durable_offset for driven in logs]
        await host.crash()
        second = journal_bytes(tmp_path)[1]
        old = second.read_bytes()
        host, logs = await next_life(host, logs)
        host.begin_journal()
        await host.crash()
        assert second.read_bytes() != old
        second.write_bytes(old)
        host, logs = await next_life(host, logs)
        assert [driven.log.log_end_offset for driven in logs] == acked
        await check_and_close(logs)

    drive(scenario())


def test_a_journal_cannot_be_taken_from_a_process_that_writes_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, _logs = await started(tmp_path)
        with pytest.raises(StorageError):
            read_journals([tmp_path / "journal" / "0"], 0.02)
        context = host.context
        with pytest.raises(StorageError):
            open_journal(
                tmp_path / "journal" / "0", host.disk, BLOCK, 0.02, lambda: 0.0,
                context.committer.observe_write, context.rng, context.report,
            )  # fmt: skip

    drive(scenario())


def test_a_batch_with_its_own_size_is_what_comes_back(tmp_path: Path) -> None:
    """Several batches of one partition in one entry keep their borders."""

    async def scenario() -> None:
        host, logs = await started(tmp_path)
        for driven in logs:
            for values in ((b"a",), (b"b", b"c"), (b"d",) * 5):
                driven.append_batch(batch_of(*values))
        await asyncio.gather(*(driven.durable() for driven in logs))
        await host.crash()
        host, logs = await next_life(host, logs)
        for driven in logs:
            assert driven.notes.base_offsets == [0, 1, 3]
            await driven.check()
            await driven.close()

    drive(scenario())
