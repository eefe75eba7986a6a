"""A partition's directory is moved away only while it surely is that of the deleted topic."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import recycle as recycle_module
from storage.errors import ForeignDirectory
from storage.recycle import discard_unopened, empty_directory
from tests.storage.builder import OTHER_TOPIC_ID, TOPIC_ID, Host, contents, crashed, drive

NEW_TOPIC_ID = bytes(range(32, 48))


async def written(host: Host, topic_id: bytes = TOPIC_ID) -> Path:
    """The directory of a closed log with one record."""
    driven = await host.open(topic_id=topic_id)
    await driven.append_durably(b"x")
    await driven.log.close()
    return driven.log.directory


def is_locked(segment: Path) -> bool:
    with segment.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# Each discards events-0, which holds segments of TOPIC_ID.


async def by_its_owner(host: Host) -> None:
    driven = await host.open()
    await driven.log.delete(host.path / "trash")


async def by_a_shard_that_cleans_up(host: Host) -> None:
    discard_unopened(host.path / "events-0", {TOPIC_ID}, host.path / "trash")


async def by_a_new_topic_of_its_name(host: Host) -> None:
    host.deleted_ids.add(TOPIC_ID)
    await host.open(topic_id=NEW_TOPIC_ID)


@pytest.mark.parametrize(
    "discard", [by_its_owner, by_a_shard_that_cleans_up, by_a_new_topic_of_its_name]
)
def test_its_newest_segment_is_locked_while_it_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, discard: Callable[[Host], object]
) -> None:
    moved: list[Path] = []
    real_rename = os.rename

    def rename(source: Path, target: Path) -> None:
        if source.name == "events-0":
            moved.append(source)
            assert is_locked(max(source.glob("*.wal")))
        real_rename(source, target)

    async def scenario() -> None:
        await crashed(tmp_path, 40, segment_bytes=16 * 4096)
        monkeypatch.setattr(recycle_module.os, "rename", rename)
        host = Host(tmp_path)
        await discard(host)  # type: ignore[misc]
        assert moved == [tmp_path / "events-0"]
        assert not moved[0].exists()

    drive(scenario())


def test_a_deleted_log_without_records_leaves_the_directory_of_another_topic_alone(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        old = await Host(tmp_path).open()  # its directory is made by the first write
        directory = await written(Host(tmp_path, life=1), NEW_TOPIC_ID)  # at another shard
        before = contents(tmp_path)
        assert await old.log.delete(tmp_path / "trash") is None
        assert contents(tmp_path) == before
        assert directory.exists()

    drive(scenario())


def test_a_deleted_log_leaves_a_directory_that_took_its_place_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        old = await Host(tmp_path).open()
        await old.append_durably(b"old")
        old.log.directory.rename(tmp_path / "moved")
        await written(Host(tmp_path, life=1), NEW_TOPIC_ID)
        before = contents(tmp_path / "events-0")
        assert await old.log.delete(tmp_path / "trash") is None
        assert contents(tmp_path / "events-0") == before

    drive(scenario())


def test_what_was_looked_at_is_what_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is replaced between the look at it and its move."""

    async def scenario() -> None:
        directory = await written(Host(tmp_path))
        real_flock = fcntl.flock

        def replace_first(fd: int, operation: int) -> None:
            directory.rename(tmp_path / "moved")
            monkeypatch.undo()
            directory.mkdir()
            (directory / "00000000000000000000.wal").write_bytes(b"of a new topic")
            real_flock(fd, operation)

        monkeypatch.setattr(recycle_module.fcntl, "flock", replace_first)
        trash = tmp_path / "trash"
        assert discard_unopened(directory, {TOPIC_ID}, trash) is None
        assert contents(directory) == {"00000000000000000000.wal": b"of a new topic"}
        assert not trash.exists()

    drive(scenario())


def test_a_directory_that_somebody_works_on_or_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, trash = Host(tmp_path), tmp_path / "trash"
        driven = await host.open()
        assert discard_unopened(driven.log.directory, {TOPIC_ID}, trash) is None
        await driven.append_durably(b"x")
        before = contents(tmp_path)
        assert discard_unopened(driven.log.directory, {TOPIC_ID}, trash) is None
        assert contents(tmp_path) == before
        await driven.log.close()
        assert discard_unopened(driven.log.directory, {TOPIC_ID}, trash) is not None

    drive(scenario())


def test_a_directory_of_another_topic_or_of_none_is_foreign(tmp_path: Path) -> None:
    async def scenario() -> None:
        directory = await written(Host(tmp_path))
        with pytest.raises(ForeignDirectory, match="not known to be of a deleted topic"):
            discard_unopened(directory, {OTHER_TOPIC_ID}, tmp_path / "trash")
        (tmp_path / "empty-0").mkdir()
        with pytest.raises(ForeignDirectory, match="holds no segments"):
            discard_unopened(tmp_path / "empty-0", {TOPIC_ID}, tmp_path / "trash")

    drive(scenario())


@pytest.mark.parametrize("answer", ["before", "meanwhile", "never"])
def test_a_file_in_which_a_write_failed_is_not_used_again(tmp_path: Path, answer: str) -> None:
    """Whatever is written to that place later may be lost again."""

    async def scenario() -> None:
        host = Host(tmp_path)
        host.pool.load()
        driven = await host.open()
        await driven.append_durably(bytes(32 * 4096))  # a small file is not kept in any case
        host.held.auto = False
        driven.append(b"on its way")
        for _ in range(10):
            await asyncio.sleep(0)
        (write,) = host.held.held
        if answer == "never":
            host.held.land(write)
        if answer == "before":
            host.held.land(write, res=-errno.EIO)
        deleting = asyncio.ensure_future(driven.log.delete(tmp_path / "trash"))
        await asyncio.sleep(0)
        host.held.land(write, res=-errno.EIO)
        discarded = await deleting
        assert discarded is not None
        empty_directory(discarded, host.pool)
        assert (host.pool.take(1 << 30) is None) == (answer != "never")

    drive(scenario())
