"""The supervisor's end of one shard: its process, its state, and its control channel.

Which process: supervisor.  Invariants: `send` never blocks and its queue is bounded: deltas for a
shard that does not keep up are dropped and replaced by one snapshot, taken when there is room;
`pid` is set exactly while the process was not reaped; what was queued for one life never reaches
the next.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from rpk_py.config import Config
from rpk_py.metadata import channel
from rpk_py.metadata.state import Json

ASKED_MAX = 64  # questions to one shard that it has not answered
STARTING = "starting"  # forked; imports, opens its loop
RECOVERING = "recovering"  # has the metadata; opens and checks its partitions
READY = "ready"  # serves
DEAD = "dead"  # waits to be started again
STORAGE_LEVELS = ("ok", "low", "full")  # what a shard says of its disk


class ShardLink:
    """One shard as the supervisor sees it; implements the controller's ShardLink."""

    def __init__(
        self,
        index: int,
        listener: socket.socket,
        core: int | None,
        config: Config,
        snapshot: Callable[[], bytes],
    ) -> None:
        self.index = index
        self.node_id = config.node_id(index)
        self.listener = listener
        self.core = core
        self.pid: int | None = None
        self.state = STARTING
        self.info: dict[str, Any] = {}  # what the shard said with "ready"
        self.recovery: dict[str, Any] = {}  # how far it is with it, as it said last
        self.storage = STORAGE_LEVELS[0]
        self.restarts = 0
        self.backoff_s = 0.0  # delay before the next start: none for one that has lived
        self.ready_since_s: float | None = None  # loop time
        self.ended_by = ""  # how its last life ended
        self.serving: asyncio.Task[None] | None = None  # reads the channel of its present life
        self.overdue: asyncio.TimerHandle | None = None  # until it serves
        self.heard = False  # a message came since the supervisor looked last
        self.silent_checks = 0  # times in a row that it was behind, and nothing had come
        self.hung_count = 0  # lives that were ended for that
        self.requests_open = 0
        self.requests: dict[str, int] = {}  # by operation, of all its lives
        self._config = config
        self._snapshot = snapshot
        self._queue: deque[tuple[bool, bytes]] = deque()  # (is a delta, frame)
        self._delta_bytes = 0  # of the deltas in the queue
        self._snapshot_due = False
        self._wake = asyncio.Event()
        self._metrics: asyncio.Future[list[Json] | None] | None = None  # asked for, not all here
        self._metrics_parts: list[Json] = []
        self._asks = 0
        self._asked: dict[int, asyncio.Future[Any]] = {}  # what the shard has not answered

    def begin(self, pid: int) -> None:
        """A new life, of this process."""
        assert self.pid is None
        self.pid = pid
        self.state = STARTING
        self.recovery = {}
        self.silent_checks = 0
        self.storage = STORAGE_LEVELS[0]
        self._clear()

    async def run(self, control: socket.socket, on_message: Callable[[Json], Any]) -> None:
        """Serve one life of the shard's control channel; returns at its end.

        on_message  called with each message, in order; awaited
        Raises:     ChannelError  the shard sent nonsense; whatever else on_message, or the making
                    of a snapshot, has raised
        """
        reader, writer = await asyncio.open_unix_connection(sock=control)
        sender = asyncio.ensure_future(self._send_queued(writer))
        try:
            while True:
                read = await channel.read_message(reader, self._config.control_frame_bytes_max)
                if read is None:
                    break
                self.heard = True
                await on_message(read[0])
        finally:
            sender.cancel()
            await asyncio.wait([sender])
            self._clear()
            if self._metrics is not None:
                self._metrics.cancel()
                self._metrics = None
            for asked in self._asked.values():
                asked.cancel()
        if not sender.cancelled():
            sender.result()

    def _clear(self) -> None:
        self._queue.clear()
        self._delta_bytes = 0
        self._snapshot_due = False

    def send(self, message: Json) -> bool:
        """Queue one message; lost if the shard dies before.  False: it is too large to be sent."""
        frame = channel.encode_message(message)
        if len(frame) > self._config.control_frame_bytes_max:
            return False
        self._queue.append((False, frame))
        self._wake.set()
        return True

    def send_delta(self, frame: bytes) -> None:
        """Queue one framed delta; beyond the limits, of their number and of their bytes, a snapshot
        takes the place of all of them."""
        if self._snapshot_due:
            return  # the snapshot will hold it
        self._delta_bytes += len(frame)
        if (
            len(self._queue) >= self._config.control_queue_max
            or self._delta_bytes > self._config.control_frame_bytes_max
        ):
            self.send_snapshot()
        else:
            self._queue.append((True, frame))
            self._wake.set()

    def send_snapshot(self) -> None:
        """Send the whole state once the queue is empty, and none of the deltas before it."""
        self._queue = deque(item for item in self._queue if not item[0])
        self._delta_bytes = 0
        self._snapshot_due = True
        self._wake.set()

    async def _send_queued(self, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue or self._snapshot_due:
                    if self._queue:
                        is_delta, frame = self._queue.popleft()
                        self._delta_bytes -= len(frame) if is_delta else 0
                    else:
                        self._snapshot_due = False
                        frame = self._snapshot()
                    writer.write(frame)
                    await writer.drain()
        except ConnectionError:
            return  # the shard died; the supervisor sees it by its exit
        finally:
            writer.close()  # whatever ended this: who reads learns of it

    async def ask(self, what: str, **facts: Any) -> Any:
        """Ask the shard something: its answer, or None if that does not come in time."""
        if len(self._asked) >= ASKED_MAX:
            return None
        self._asks += 1
        answer = self._asked[self._asks] = asyncio.get_running_loop().create_future()
        ask_id = self._asks
        self.send({"type": "ask", "id": ask_id, "what": what, **facts})
        await asyncio.wait([answer], timeout=self._config.metrics_timeout_s)
        self._asked.pop(ask_id, None)
        return answer.result() if answer.done() and not answer.cancelled() else None

    def answered(self, message: Json) -> None:
        """An answer has come; too late it is not missed."""
        asked = self._asked.get(message["id"])
        if asked is not None and not asked.done():
            asked.set_result(message["answer"])

    async def fetch_metrics(self) -> list[Json] | None:
        """The parts of the shard's snapshot, or None if it failed or they are not all here in time.

        One request at a time: scrapes that overlap, or find a shard that still owes an answer,
        wait for the same one.
        """
        if self._metrics is None:
            self._metrics = asyncio.get_running_loop().create_future()
            self._metrics_parts = []
            self.send({"type": "metrics_request"})
        answer = self._metrics
        await asyncio.wait([answer], timeout=self._config.metrics_timeout_s)
        return answer.result() if answer.done() and not answer.cancelled() else None

    def metrics_arrived(self, message: Json) -> None:
        """Take one part; None as the last hands all of them, if it is `whole`, to whoever waits."""
        if self._metrics is None:
            return
        if message["part"] is not None:
            self._metrics_parts.append(message["part"])
        else:
            self._metrics.set_result(self._metrics_parts if message["whole"] else None)
            self._metrics = None

    @property
    def queued_count(self) -> int:
        """Messages that wait to be sent."""
        return len(self._queue) + self._snapshot_due

    def kill(self) -> None:
        """End the process at once, if there is one."""
        if self.pid is not None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # reaped by someone else; the supervisor will notice

    def reap(self) -> int | None:
        """The exit code if the process has ended (negative: by that signal), else None."""
        if self.pid is None:
            return None
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pid, status = self.pid, 0
        if pid == 0:
            return None
        self.pid = None
        return os.waitstatus_to_exitcode(status)
