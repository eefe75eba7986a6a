"""Small files written atomically and durably, those that come together by one sync for all.

A clean stop writes a checkpoint for each partition, and each needs two syncs: of the file before it
gets its name, and of the directory after. While one batch is being written, what comes waits and is
the next batch. Many are synced by syncfs(2), few each by itself, as somebody else's dirty pages may
make a syncfs take long. One a shard, on its loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from storage.disk import Disk, fsync_dir, sync_file_system
from storage.segment import TEMPORARY_SUFFIX

BATCH_MAX = 256
SYNCED_EACH_MAX = 16


class _File(NamedTuple):
    path: Path
    data: bytes
    then: Callable[[], None] | None
    done: asyncio.Future[None]


class SmallFiles:
    """See the module."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._waiting: deque[_File] = deque()
        self._working: asyncio.Task[None] | None = None

    async def write(self, path: Path, data: bytes, then: Callable[[], None] | None = None) -> None:
        """Replace a file: after a crash it holds all the old or all the new bytes, never a mix;
        the new ones on return. `then` is called in the thread when they are durable.

        One writer a path at a time: the temporary file's name is `<path>.tmp`. Raises OSError, also
        what `then` raises.
        """
        loop = asyncio.get_running_loop()
        file = _File(path, data, then, loop.create_future())
        self._waiting.append(file)
        if self._working is None:
            self._working = loop.create_task(self._work())
        await file.done

    async def _work(self) -> None:
        while self._waiting:
            count = min(len(self._waiting), BATCH_MAX)
            batch = [self._waiting.popleft() for _ in range(count)]
            try:
                outcomes = await self._disk.run(_write_all, batch)
            except Exception as error:
                outcomes = [error] * count
            for file, outcome in zip(batch, outcomes, strict=True):
                if file.done.done():
                    continue  # who waited for it was cancelled
                if outcome is None:
                    file.done.set_result(None)
                else:
                    file.done.set_exception(outcome)
        self._working = None


def _write_all(batch: Sequence[_File]) -> list[Exception | None]:
    """Write a batch; why each was not written that could not be. Blocks."""
    work = _Batch(batch)
    try:
        work.each(work.write)
        work.all(work.sync_files)
        work.each(lambda file: os.rename(_temporary(file), file.path))
        work.all(work.sync_directories)
        work.each(lambda file: file.then() if file.then is not None else None)
    finally:
        for fd in work.fds:
            os.close(fd)
    for file, outcome in zip(batch, work.outcomes, strict=True):
        if outcome is not None:  # nothing of it stays, which on a full disk would make that fuller
            with contextlib.suppress(OSError):
                _temporary(file).unlink(missing_ok=True)
    return work.outcomes


class _Batch:
    """A batch while it is written. `fds`: of all temporary files, or of one where they are many."""

    def __init__(self, files: Sequence[_File]) -> None:
        self._files = files
        self._many = len(files) > SYNCED_EACH_MAX
        self.outcomes: list[Exception | None] = [None] * len(files)
        self.fds: list[int] = []

    def each(self, step: Callable[[_File], object]) -> None:
        """Do it for each file that nothing was wrong with."""
        for i, file in enumerate(self._files):
            if self.outcomes[i] is None:
                try:
                    step(file)
                except OSError as error:
                    self.outcomes[i] = error

    def all(self, step: Callable[[], None]) -> None:
        """Do it for all of them together."""
        try:
            step()
        except OSError as error:
            self.outcomes = [found or error for found in self.outcomes]

    def write(self, file: _File) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(_temporary(file), flags, 0o644)
        keep = not self._many or not self.fds
        if keep:
            self.fds.append(fd)
        try:
            rest = memoryview(file.data)
            while rest:
                rest = rest[os.write(fd, rest) :]
        finally:
            if not keep:
                os.close(fd)

    def sync_files(self) -> None:
        if self._many and self.fds:
            sync_file_system(self.fds[0])
        else:
            for fd in self.fds:
                os.fsync(fd)

    def sync_directories(self) -> None:
        directories = dict.fromkeys(file.path.parent for file in self._files)
        if len(directories) > SYNCED_EACH_MAX and self.fds:
            sync_file_system(self.fds[0])
            return
        for directory in directories:
            fsync_dir(directory)


def _temporary(file: _File) -> Path:
    return file.path.with_name(file.path.name + TEMPORARY_SUFFIX)
