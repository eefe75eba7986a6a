"""Opening many partitions at once: what is plain is left as it is, what is not is recovered."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from storage import open_many
from storage.disk import allocate, data_end, fsync_all
from storage.log import Log
from storage.log_start import start_name
from storage.open_many import LOOKED_AT, Wanted, open_logs
from tests.storage.builder import (
    BLOCK,
    TOPIC_ID,
    Driven,
    HeldDisk,
    Host,
    Notes,
    contents,
    drive,
)


async def filled(path: Path, count: int, *, stop: bool, records: int = 3) -> list[Driven]:
    """Partitions of one record, which a checkpoint covers, and `records - 1` more; stopped or
    killed."""
    for life, records_each in enumerate((1, records - 1)):
        host = Host(path, life=life)
        logs = [await host.open(f"events-{i}", partition=i) for i in range(count)]
        for driven in logs:
            for number in range(records_each):
                await driven.append_durably(b"%d of %d" % (number, driven.log.partition))
        if life == 0 or stop:
            for driven in logs:
                await driven.close()
        else:
            await host.crash()
    return logs


async def open_all(host: Host, count: int) -> tuple[list[Log | Exception], list[Notes]]:
    notes = [Notes() for _ in range(count)]
    wanted = [
        Wanted(host.config, host.path / f"events-{i}", TOPIC_ID, i, notes[i]) for i in range(count)
    ]
    deleted = host.deleted_ids.__contains__
    return await open_logs(host.context, wanted, host.path / "trash", deleted), notes


@pytest.mark.parametrize("stop", [True, False], ids=["after a stop", "after a kill"])
def test_plain_partitions_are_opened_by_the_dozen_and_left_as_they_are(
    tmp_path: Path, stop: bool
) -> None:
    count = 2 * LOOKED_AT + 5

    async def scenario() -> None:
        await filled(tmp_path, count, stop=stop)
        before = contents(tmp_path)
        host = Host(tmp_path, HeldDisk(), life=2)
        calls: list[object] = []
        host.held.before_run = calls.append
        logs, notes = await open_all(host, count + 3)
        assert len(calls) == 3 + 1, "three parts, and one sync"
        assert host.held.reads == 0
        assert contents(tmp_path) == before
        assert host.messages == []
        for number, log in enumerate(logs):
            assert isinstance(log, Log)
            expected = 3 if number < count else 0
            assert log.log_end_offset == log.durable_offset == expected
            assert notes[number].base_offsets == list(range(expected))
            await log.close()

    drive(scenario())


def test_what_a_killed_broker_left_is_synced_together_before_it_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[list[str]] = []

    def note(fds: Sequence[int], direct: bool) -> None:
        synced.append([os.readlink(f"/proc/self/fd/{fd}").split("/")[-2] for fd in fds])
        fsync_all(fds, direct)

    async def scenario() -> None:
        await filled(tmp_path, 20, stop=False)
        host = Host(tmp_path, life=2)
        clean = await host.open("events-7", partition=7)
        await clean.close()
        synced.clear()
        logs, _notes = await open_all(Host(tmp_path, life=3), 20)
        assert synced == [[f"events-{i}" for i in range(20) if i != 7]]
        for log in logs:
            assert isinstance(log, Log)
            await log.close()

    monkeypatch.setattr(open_many, "fsync_all", note)
    drive(scenario())


def test_a_sync_that_fails_takes_those_offline_that_needed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fds: Sequence[int], _direct: bool) -> None:
        if fds:
            raise OSError(errno.EIO, "Input/output error")

    async def scenario() -> None:
        await filled(tmp_path, 3, stop=False)
        clean = await Host(tmp_path, life=2).open("events-1", partition=1)
        await clean.close()
        monkeypatch.setattr(open_many, "fsync_all", refuse)
        logs, _notes = await open_all(Host(tmp_path, life=3), 3)
        assert isinstance(logs[0], OSError)
        assert isinstance(logs[2], OSError)
        assert isinstance(logs[1], Log)
        await logs[1].close()
        here = str(tmp_path)
        assert not any(here in os.readlink(f"/proc/self/fd/{fd}") for fd in open_files())

    drive(scenario())


def test_of_few_a_sync_that_fails_takes_nobody_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fds: Sequence[int], direct: bool) -> None:
        if any("/events-1/" in os.readlink(f"/proc/self/fd/{fd}") for fd in fds):
            raise OSError(errno.EIO, "Input/output error")
        fsync_all(fds, direct)

    async def scenario() -> None:
        await filled(tmp_path, 3, stop=False)
        monkeypatch.setattr(open_many, "fsync_all", refuse)
        logs, _notes = await open_all(Host(tmp_path, life=2), 3)
        assert [isinstance(log, Log) for log in logs] == [True, False, True]
        for log in logs:
            if isinstance(log, Log):
                await log.close()

    drive(scenario())


def test_a_log_start_that_is_newer_than_the_checkpoint_is_synced_before_it_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who made it may have been killed before the sync of its directory."""
    synced: list[str] = []

    async def scenario() -> None:
        await filled(tmp_path, 2, stop=True)
        (tmp_path / "events-1" / start_name(2)).touch()
        monkeypatch.setattr(open_many, "sync_names", lambda path: synced.append(path.name))
        logs, _notes = await open_all(Host(tmp_path, life=2), 2)
        assert synced == ["events-1"]
        for log, start in zip(logs, (0, 2), strict=True):
            assert isinstance(log, Log)
            assert log.log_start_offset == start
            await log.close()

    drive(scenario())


def open_files() -> list[str]:
    """Of this process, those that still are when they are looked at."""
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]


def test_data_end_knows_what_was_allocated_and_never_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        allocate(fd, 0, 64 * BLOCK)
        size = os.fstat(fd).st_size
        if data_end(fd, 0, size) == size:
            pytest.skip("this file system does not tell holes")
        assert data_end(fd, 0, size) == 0
        os.pwrite(fd, b"x" * BLOCK, 0)
        os.pwrite(fd, b"x", 10 * BLOCK)
        os.fsync(fd)
        assert data_end(fd, 0, size) == 11 * BLOCK
        assert data_end(fd, 11 * BLOCK, size) == 11 * BLOCK
        os.pwrite(fd, b"x", size - 1)
        os.fsync(fd)
        assert data_end(fd, 11 * BLOCK, size) == size
    finally:
        os.close(fd)
