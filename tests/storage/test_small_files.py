"""Small files that are written together: each whole or not there, one sync for all."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from storage import small_files
from storage.small_files import BATCH_MAX, SYNCED_EACH_MAX, SmallFiles
from tests.storage.builder import HeldDisk, contents, drive

Calls = list[tuple[str, Any]]


def directories(path: Path, count: int) -> list[Path]:
    made = [path / str(i) for i in range(count)]
    for directory in made:
        directory.mkdir()
    return made


def note(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system calls that matter noted in `calls`, in order."""

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append((name, arguments))
            return real(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", noting("fsync", os.fsync))
    monkeypatch.setattr(os, "rename", noting("rename", os.rename))
    for name in ("sync_file_system", "fsync_dir"):
        monkeypatch.setattr(small_files, name, noting(name, getattr(small_files, name)))


@pytest.mark.parametrize("count", [1, SYNCED_EACH_MAX, SYNCED_EACH_MAX + 1, BATCH_MAX])
def test_a_file_is_synced_before_it_has_its_name_and_the_name_before_what_follows(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Calls = []

    async def scenario() -> None:
        files = SmallFiles(HeldDisk())
        note(calls, monkeypatch)
        then = [partial(calls.append, ("then", i)) for i in range(count)]
        await asyncio.gather(
            *(files.write(one / "file", b"%d" % i, then[i]) for i, one in enumerate(made))
        )

    made = directories(tmp_path, count)
    drive(scenario())
    assert contents(tmp_path) == {f"{i}/file": b"%d" % i for i in range(count)}
    names = [name for name, _arguments in calls]
    first, last = names.index("rename"), len(names) - 1 - names[::-1].index("rename")
    assert names[first : last + 1] == ["rename"] * count
    assert names[-count:] == ["then"] * count
    before, between = names[:first], names[last + 1 : -count]
    if count <= SYNCED_EACH_MAX:
        assert before == ["fsync"] * count
        assert between == ["fsync_dir", "fsync"] * count
    else:
        assert before == between == ["sync_file_system", "fsync"]


def test_what_comes_while_a_batch_is_written_is_the_next_batch(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = HeldDisk()
        sizes: list[int] = []
        files = SmallFiles(disk)
        real = disk.run

        async def run(fn: Callable[..., Any], *arguments: Any) -> Any:
            sizes.append(len(arguments[0]))
            await asyncio.sleep(0)
            return await real(fn, *arguments)

        disk.run = run  # type: ignore[method-assign]
        count = 3 * BATCH_MAX
        made = directories(tmp_path, count)
        writes = [asyncio.ensure_future(files.write(made[0] / "first", b""))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        writes += [asyncio.ensure_future(files.write(one / "file", b"x")) for one in made]
        await asyncio.gather(*writes)
        assert sizes == [1, BATCH_MAX, BATCH_MAX, BATCH_MAX]

    drive(scenario())


def test_one_that_cannot_be_written_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        files = SmallFiles(HeldDisk())
        made = directories(tmp_path, 40)
        made[7].rmdir()
        left = asyncio.ensure_future(files.write(made[8] / "left alone", b"x"))
        await asyncio.sleep(0)
        left.cancel()
        outcomes = await asyncio.gather(
            *(files.write(one / "file", b"x") for one in made), return_exceptions=True
        )
        assert isinstance(outcomes.pop(7), FileNotFoundError)
        assert outcomes == [None] * 39
        assert (made[39] / "file").read_bytes() == b"x"

    drive(scenario())


@pytest.mark.parametrize("count", [2, 40])
def test_a_sync_that_fails_leaves_the_old_files(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def scenario() -> None:
        files = SmallFiles(HeldDisk())
        made = directories(tmp_path, count)
        for one in made:
            await files.write(one / "file", b"old")
        monkeypatch.setattr(os, "fsync", refuse)
        monkeypatch.setattr(small_files, "sync_file_system", refuse)
        outcomes = await asyncio.gather(
            *(files.write(one / "file", b"new") for one in made), return_exceptions=True
        )
        assert all(isinstance(outcome, OSError) for outcome in outcomes)
        assert {one.joinpath("file").read_bytes() for one in made} == {b"old"}

    drive(scenario())
