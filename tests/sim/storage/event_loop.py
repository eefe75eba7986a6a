"""An event loop without threads, sockets or a clock: a seed gives the same order of everything.

Time is virtual and passes only while nothing is ready. Callbacks run in the order in which they
were registered, as asyncio promises; in what order the results of the disk and of the thread pool
come in between is the seed's. A job of the thread pool runs as one step, at a time that the seed
picks.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any


class SimLoop(asyncio.AbstractEventLoop):
    """The part of an event loop that storage uses; the rest raises NotImplementedError.

    `step` is called before each callback and returns False when the process is dead.
    """

    def __init__(self, rng: random.Random, now_s: float, step: Callable[[], bool]) -> None:
        self._rng = rng
        self._now_s = now_s
        self._step = step
        self._ready: deque[asyncio.Handle] = deque()
        self._later: list[tuple[float, int, asyncio.Handle]] = []
        self._sequence = 0
        self._readers: dict[int, Callable[[], None]] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        self.reported: list[dict[str, Any]] = []
        self.ends: list[BaseException] = []  # of what a dead process was doing
        self.stuck = False

    # -- asyncio's side --------------------------------------------------------------------

    def time(self) -> float:
        return self._now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._sequence += 1
        heapq.heappush(self._later, (when, self._sequence, handle))
        return handle

    def _timer_handle_cancelled(self, _handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        if len(self.tasks) > 500:
            self.tasks = [one for one in self.tasks if not one.done()]
        return task

    def run_in_executor(
        self, _executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self._rng.expovariate(1 / 0.0005), run)
        return future

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        self._readers[fd] = callback

    def remove_reader(self, fd: Any) -> bool:
        return self._readers.pop(fd, None) is not None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.reported.append(context)

    # -- the simulator's side --------------------------------------------------------------

    def readable(self, fd: int) -> None:
        """The fd has something for its reader."""
        callback = self._readers.get(fd)
        if callback is not None:
            self.call_soon(callback)

    def pass_time(self, seconds: float) -> None:
        """A blocking call takes that long."""
        self._now_s += seconds

    async def wait(self, seconds: float) -> None:
        """As long as that, in the simulation's time."""
        future = self.create_future()
        self.call_later(seconds, future.set_result, None)
        await future

    def run(self, main: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run until `main` is done, or the process is dead (`step` says so), or nothing is left to
        do (`stuck`)."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not task.done():
                if self._ready:
                    handle = self._ready.popleft()
                elif self._later:
                    when, _sequence, handle = heapq.heappop(self._later)
                    self._now_s = max(self._now_s, when)
                else:
                    self.stuck = True
                    break
                if handle.cancelled():
                    continue
                if not self._step():
                    break
                handle._run()
            return task
        finally:
            asyncio._set_running_loop(before)

    def dispose(self) -> None:
        """The process is dead: nothing of it runs any more, no clean-up either."""
        self._ready.clear()
        self._later.clear()
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            for task in self.tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    try:
                        task.get_coro().close()  # type: ignore[union-attr]
                    except BaseException as error:  # its clean-up meets a dead kernel
                        self.ends.append(error)
        finally:
            asyncio._set_running_loop(before)
        self._ready.clear()
