"""The background tasks of one object: held until they end, their failures heard of.

Which process: supervisor and shards.  A loop holds its tasks only weakly, so somebody must; and an
exception that nobody asks for would be lost.
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Coroutine
from typing import Any


async def first_of(*events: asyncio.Event, timeout_s: float) -> bool:
    """Wait for any of these events; False: none has come in time."""
    waits = {asyncio.ensure_future(event.wait()) for event in events}
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()


class Tasks:
    """Spawns tasks; on_failure is given the exception of each that fails, as soon as it did."""

    __slots__ = ("_on_failure", "_running")

    def __init__(self, on_failure: Callable[[BaseException], None]) -> None:
        self._on_failure = on_failure
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` on the running loop."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)

    async def cancel(self) -> None:
        """Cancel those that run, and wait for their ends."""
        for task in list(self._running):
            task.cancel()
        await self.join()

    async def join(self) -> None:
        """Wait for the ends of those that run, which a cancellation of the wait does not touch."""
        if self._running:
            await asyncio.wait(list(self._running))
