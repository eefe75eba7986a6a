"""A shard's end of its worker process: a Background (storage/background.py) of its own.

The process is started when there is work, and ends when there was none for IDLE_S. What is
cancelled is ended by killing it: what it was writing has a temporary name, which is removed.
Loop thread only.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rpk_py.background_worker import LENGTH
from storage.background import Pace
from storage.errors import Stopped, StorageError

J = TypeVar("J")
T = TypeVar("T")

LOCK_NAME = ".background"
IDLE_S = 10.0


class BackgroundProcess:
    """One a shard. `bytes_per_s`: how fast it may read and write, asked for each piece of work."""

    def __init__(self, data_dir: Path, bytes_per_s: Callable[[], float]) -> None:
        self._lock_path = data_dir / LOCK_NAME
        self._bytes_per_s = bytes_per_s
        self._process: asyncio.subprocess.Process | None = None
        self._one = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process, where there is one."""
        return self._process.pid if self._process is not None else None

    async def run(self, work: Callable[[J, Pace], T], job: J) -> T:
        """See Background. Raises StorageError, too, where the process died."""
        async with self._one:
            if self._closed:
                raise Stopped("the shard stops")
            if self._idle is not None:
                self._idle.cancel()
            try:
                done, result = await self._ask((work, job, self._bytes_per_s()))
            except BaseException:
                await self._kill()
                raise
            self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._dismiss)
        if not done:
            assert isinstance(result, BaseException)
            raise result
        answer: T = result  # type: ignore[assignment]
        return answer

    async def _ask(self, request: tuple[object, object, float]) -> tuple[bool, object]:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "rpk_py.background_worker",
                str(self._lock_path),
                str(os.getpid()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        data = pickle.dumps(request)
        try:
            process.stdin.write(LENGTH.pack(len(data)) + data)
            await process.stdin.drain()
            (size,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
            done, result = pickle.loads(await process.stdout.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if self._closed:
                raise Stopped("the shard stops") from error
            raise StorageError("the process for work in the background ended early") from error
        return done, result

    def _dismiss(self) -> None:
        """Nothing was to do for a while: it ends at the end of its input."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def close(self) -> None:
        """End it, with what it is doing; nothing more is done."""
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
        await self._kill()
