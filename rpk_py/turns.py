"""Work that takes long gives way: a slice of it in each turn of the loop, whoever it belongs to.

Which process: a shard. Between two slices the loop looks at every socket and at the disk, so that
a client that asks little is answered within a few slices, however much others ask. Three kinds:
- requests of a connection that pipelines: `later` has the connection called when its turn comes;
- a handler's coroutine over thousands of partitions: `await turns.pause()` every few of them;
- decoding and encoding of large messages, which cannot be cut: `in_thread`, one at a time, and the
  interpreter switches between that thread and the loop every SWITCH_S.

Large requests hold many objects, so only some of them are under way; others wait in order. A
handler that may be large is a generator which yields between its slices; `reply` decides.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

SLICE_S: Final = 0.001  # after so long who works gives way
LARGE_ITEMS: Final = 300  # topics and partitions beyond which a reply is made in slices
SLICE_ITEMS: Final = 32  # of them, between two looks at the clock
SWITCH_S: Final = 0.0005  # how long the loop waits for the interpreter while the thread has it

T = TypeVar("T")


class Turns:
    """Who waits for a turn of one shard's loop. Served first come first served."""

    def __init__(self, clock_s: Callable[[], float], large_max: int) -> None:
        self.large_waiting = 0
        self.slice_s = SLICE_S
        self._large = asyncio.Semaphore(large_max)
        self._clock_s = clock_s
        self._waiting: deque[Callable[[], object]] = deque()
        self._scheduled = False
        self._slice_end_s = 0.0
        self._thread: ThreadPoolExecutor | None = None

    def later(self, work: Callable[[], object]) -> None:
        """Call `work` in a later turn of the loop."""
        self._waiting.append(work)
        self._schedule()

    async def pause(self) -> None:
        """Go on at once while this slice lasts, else in a later turn."""
        if self._clock_s() >= self._slice_end_s:
            future = asyncio.get_running_loop().create_future()
            self.later(partial(wake, future))
            await future
            self._slice_end_s = self._clock_s() + self.slice_s

    async def sliced(self, work: Generator[None, None, T]) -> T:
        """Run a generator to its end, with a pause where it yields; returns what it returns."""
        while True:
            try:
                next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            await self.pause()

    def reply(self, work: Generator[None, None, T], count: int) -> T | Large:
        """What a handler returns whose generator makes a response about `count` topics and
        partitions: the response, or where those are many a reply in slices."""
        return at_once(work) if count <= LARGE_ITEMS else Large(partial(self.sliced, work))

    @asynccontextmanager
    async def large(self) -> AsyncIterator[None]:
        """One of the large requests under way; waits while there are too many."""
        self.large_waiting += 1
        try:
            await self._large.acquire()
        finally:
            self.large_waiting -= 1
        try:
            yield
        finally:
            self._large.release()

    async def in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Call a pure function beside the loop. Raises what it raises."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "large-messages")
            sys.setswitchinterval(SWITCH_S)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def close(self) -> None:
        """The loop ends: nobody waits any more."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._waiting.popleft()()
        if self._waiting:
            self._schedule()


def wake(future: asyncio.Future[None]) -> None:
    """Set its result, unless whoever waited is gone."""
    if not future.done():
        future.set_result(None)


def at_once(work: Generator[None, None, T]) -> T:
    """Run a generator to its end without a pause; returns what it returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


class Large:
    """A reply that takes long to make: what a handler returns instead of a response.

    make  called once, when fewer than the allowed number are under way; pauses between slices
    """

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        self.make = make
