"""A shard's replica of the cluster metadata, and its requests to the controller.

Which process: a shard.  The replica reads deltas from the control channel, applies each to
`state`, runs the shard's callbacks (open, move, close partitions) and then acknowledges the
revision.  Nothing on the data path waits for the supervisor: reads of `state` are local, and
requests are answered with REQUEST_TIMED_OUT by the shard itself when the supervisor is slow.
Invariants: deltas are applied in revision order, one at a time, callbacks included; after a
gap nothing is applied until a snapshot came; an acknowledged revision is fully applied here; what
the supervisor sends is always read, so a stop is heard whatever else goes on.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from kafka_protocol.errors import ErrorCode
from rpk_py.log_limit import LogLimit
from rpk_py.metadata import channel
from rpk_py.metadata.requests import (
    ConfigResource,
    ConfigResult,
    DeleteResult,
    PartitionsResult,
    PartitionsSpec,
    TopicResult,
    TopicSpec,
    decode_config_result,
    decode_delete_result,
    decode_partitions_result,
    decode_topic_result,
    encode_config_resource,
    encode_partitions_spec,
    encode_topic_spec,
    refusal,
)
from rpk_py.metadata.state import (
    ClusterState,
    Delta,
    Json,
    apply,
    decode_delta,
    decode_state,
)
from rpk_py.tasks import Tasks

# The supervisor answers at the request's own timeout; the shard waits this much longer for that
# more precise answer before it gives its own.
_REPLY_GRACE_S = 0.5
_ALLOCATE_TIMEOUT_MS = 30_000
_AUTO_CREATE_TIMEOUT_MS = 30_000
_ALTER_TIMEOUT_MS = 30_000  # these requests carry no timeout of their own
# Names that are being created automatically at a time: a Metadata request may hold any number of
# them, and whoever asks for more asks again.
AUTO_CREATING_MAX = 100
_TIMED_OUT = "The controller did not answer in time; the request may still take effect."
_BUSY = "Too many metadata requests wait for the controller; try again."
_TOO_LARGE = "The request is too large for the controller (control_frame_bytes_max)."

R = TypeVar("R")
OnDelta: TypeAlias = Callable[[Delta | None, ClusterState], Awaitable[None] | None]


class MetadataReplica:
    """Local state of the cluster, kept current by the controller.

    on_delta    callbacks (delta, state) after each applied delta; delta None means that the
                whole state is new (at start, or after a gap).  May be coroutines: the next delta
                and the acknowledgement wait for them.  The caller must not block on requests of
                its own in them.
    on_stop     the supervisor asks for a graceful stop
    on_all_ready  every shard serves: what dead ones left in their journals is in segments
    on_lost     the supervisor is gone: the shard must end
    progress    how far recovery is; told with each sign of life until this shard is ready
    on_ask            answers what the supervisor asks of this shard: {"what": ..., ...}, at once
    snapshot_metrics  answers a metrics request with JSON-able parts, one a turn of the loop
    """

    def __init__(
        self,
        node_id: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        log: Any,
        *,
        requests_max: int = 1000,
        queue_max: int = 1024,
        frame_bytes_max: int = 256 * 1024 * 1024,
        alive_interval_s: float = 1.0,
    ) -> None:
        self.node_id = node_id
        self.state = ClusterState()
        self.on_delta: list[OnDelta] = []
        self.on_stop: Callable[[], None] = _nothing
        self.on_all_ready: Callable[[], None] = _nothing
        self.on_lost: Callable[[], None] = _nothing
        self.snapshot_metrics: Callable[[], Iterable[Json]] = tuple
        self.on_ask: Callable[[Json], Json | None] = lambda message: None
        self.progress: Callable[[], Json] = dict
        self._reader = reader
        self._writer = writer
        self._log = log
        self._requests_max = requests_max
        self._frame_bytes_max = frame_bytes_max
        self._alive_interval_s = alive_interval_s
        self._pending: dict[int, asyncio.Future[Json]] = {}
        self._next_request_id = 1
        self._updates: asyncio.Queue[tuple[Json, int]] = asyncio.Queue(queue_max)  # and its size
        self._update_bytes = 0  # of those in the queue
        self._applied = -1  # revision whose callbacks have ended
        self._updates_lost = False  # some did not fit: a snapshot makes up for them
        self._snapshot_wanted = True  # nothing is applied before the first snapshot
        self._serve_from: int | None = None  # revision; before it is applied nothing is served
        self._may_serve = asyncio.Event()
        self._is_lost = self._is_ready = False
        self._auto_creating: set[str] = set()
        self._auto_waiting: list[str] = []  # of those, the ones that no request carries yet
        self._log_limit = LogLimit()
        self._tasks = Tasks(self._task_failed)

    async def start(self) -> None:
        """Ask for the first snapshot and wait until this shard knows all that was answered so far:
        until the revision is applied, callbacks included, from which on it may serve.

        Register `on_delta` before.  Deltas go on being applied until `close`.

        Raises: ConnectionError  the supervisor went away before; there is nothing to serve
        """
        self._tasks.spawn(self._read())
        self._tasks.spawn(self._apply_updates())
        self._tasks.spawn(self._say_alive())
        self._send({"type": "hello", "node_id": self.node_id})
        await self._may_serve.wait()
        if self._is_lost:
            raise ConnectionError("the supervisor is gone before it sent the metadata")

    def ready(self, **info: object) -> None:
        """Tell the supervisor that this shard serves; `info` goes to its banner and status."""
        self._is_ready = True
        self._send({"type": "ready", "info": info})

    def tell(self, message: Json) -> None:
        """Tell the supervisor something that needs no answer."""
        self._send(message)

    async def close(self) -> None:
        """Stop applying and answering; pending requests get REQUEST_TIMED_OUT."""
        await self._tasks.cancel()
        self._fail_pending()
        self._writer.close()

    async def create_topics(
        self, specs: Sequence[TopicSpec], timeout_ms: int, validate_only: bool
    ) -> list[TopicResult]:
        """Create topics; answers once every live shard applied them, or at the timeout."""
        return await self._ask(
            {
                "op": "create_topics",
                "topics": [encode_topic_spec(spec) for spec in specs],
                "timeout_ms": timeout_ms,
                "validate_only": validate_only,
            },
            timeout_ms,
            decode_topic_result,
            lambda error, text: [
                TopicResult(name, error, text) for name in dict.fromkeys(s.name for s in specs)
            ],
        )

    async def delete_topics(
        self, topics: Sequence[tuple[str | None, bytes | None]], timeout_ms: int
    ) -> list[DeleteResult]:
        """Delete topics given as (name, None) or (None, id); answers like create_topics."""
        return await self._ask(
            {
                "op": "delete_topics",
                "topics": [[name, None if id_ is None else id_.hex()] for name, id_ in topics],
                "timeout_ms": timeout_ms,
            },
            timeout_ms,
            decode_delete_result,
            lambda error, text: [
                DeleteResult(name, id_ or bytes(16), error, text) for name, id_ in topics
            ],
        )

    async def create_partitions(
        self, specs: Sequence[PartitionsSpec], timeout_ms: int, validate_only: bool
    ) -> list[PartitionsResult]:
        """Add partitions to topics; answers like create_topics."""
        return await self._ask(
            {
                "op": "create_partitions",
                "topics": [encode_partitions_spec(spec) for spec in specs],
                "timeout_ms": timeout_ms,
                "validate_only": validate_only,
            },
            timeout_ms,
            decode_partitions_result,
            lambda error, text: [
                PartitionsResult(name, error, text) for name in dict.fromkeys(s.name for s in specs)
            ],
        )

    async def alter_configs(
        self, resources: Sequence[ConfigResource], incremental: bool, validate_only: bool
    ) -> list[ConfigResult]:
        """Change configs of topics and brokers; answers like create_topics, within 30 s.

        incremental  False: what is not given goes back to its default
        """
        return await self._ask(
            {
                "op": "alter_configs",
                "resources": [encode_config_resource(resource) for resource in resources],
                "incremental": incremental,
                "timeout_ms": _ALTER_TIMEOUT_MS,
                "validate_only": validate_only,
            },
            _ALTER_TIMEOUT_MS,
            decode_config_result,
            lambda error, text: [ConfigResult(r.kind, r.name, error, text) for r in resources],
        )

    async def allocate_producer_ids(self) -> tuple[int, int]:
        """A block of producer ids that nobody else gets: (first id, count).

        Raises: TimeoutError  the controller did not answer; ask again
        """
        reply = await self._request({"op": "allocate_producer_ids"}, _ALLOCATE_TIMEOUT_MS)
        if "first" not in reply:
            raise TimeoutError(reply["error_message"])
        return reply["first"], reply["count"]

    def auto_create(self, name: str) -> None:
        """Create a topic with the defaults in the background; once in flight for each name.

        One request at a time carries all the names that came up since the last one.
        """
        if name in self._auto_creating or name in self.state.topics:
            return
        if len(self._auto_creating) >= AUTO_CREATING_MAX:
            return  # the client asks again
        if not self._auto_creating:
            self._tasks.spawn(self._auto_create())
        self._auto_creating.add(name)
        self._auto_waiting.append(name)

    async def _auto_create(self) -> None:
        while self._auto_waiting:
            names, self._auto_waiting = self._auto_waiting, []
            specs = [TopicSpec(name) for name in names]
            for result in await self.create_topics(specs, _AUTO_CREATE_TIMEOUT_MS, False):
                if result.error_code not in (ErrorCode.NONE, ErrorCode.TOPIC_ALREADY_EXISTS):
                    self._say_not_created(result)
            self._auto_creating.difference_update(names)

    def _say_not_created(self, result: TopicResult) -> None:
        """Clients cause it as often as they like, so not every time."""
        suppressed = self._log_limit.admit("not created", "", time.monotonic())
        if suppressed is not None:
            self._log.warning(
                "a topic could not be created automatically",
                topic=result.name,
                error=ErrorCode(result.error_code).name,
                reason=result.error_message,
                suppressed=suppressed,
            )

    async def _ask(
        self,
        message: Json,
        timeout_ms: int,
        decode: Callable[[list[Any]], R],
        refused: Callable[[int, str], list[R]],
    ) -> list[R]:
        """The results of a request, or what `refused` makes of an error of all of it."""
        reply = await self._request(message, timeout_ms)
        if "results" in reply:
            return [decode(row) for row in reply["results"]]
        return refused(reply["error_code"], reply["error_message"])

    async def _request(self, message: Json, timeout_ms: int) -> Json:
        if len(self._pending) >= self._requests_max:
            return refusal(ErrorCode.REQUEST_TIMED_OUT, _BUSY)
        request_id = self._next_request_id
        self._next_request_id += 1
        wait_s = max(timeout_ms, 0) / 1000 + _REPLY_GRACE_S
        frame = channel.encode_message(
            {
                "type": "request",
                "id": request_id,
                "give_up_s": time.monotonic() + wait_s,  # later it must not take effect any more
                **message,
            }
        )
        if len(frame) > self._frame_bytes_max:
            return refusal(ErrorCode.POLICY_VIOLATION, _TOO_LARGE)
        if self._unsent_bytes + len(frame) > self._frame_bytes_max:
            return refusal(ErrorCode.REQUEST_TIMED_OUT, _BUSY)  # the supervisor stands still
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = future
        try:
            if not self._writer.is_closing():
                self._writer.write(frame)
            return await asyncio.wait_for(future, wait_s)
        except TimeoutError:
            return refusal(ErrorCode.REQUEST_TIMED_OUT, _TIMED_OUT)
        finally:
            self._pending.pop(request_id, None)

    async def _read(self) -> None:
        while True:
            read = await channel.read_message(self._reader, self._frame_bytes_max)
            if read is None:
                break
            message, size = read
            kind = message["type"]
            if kind in ("snapshot", "delta"):
                self._take_update(message, size)
            elif kind == "serve":
                self._serve_from = message["revision"]
                self._check_serve()
            elif kind == "reply":
                future = self._pending.get(message["id"])
                if future is not None and not future.done():
                    future.set_result(message)
            elif kind == "metrics_request":
                self._tasks.spawn(self._send_metrics())
            elif kind == "ask":
                answer = self.on_ask(message)
                self._send({"type": "answer", "id": message["id"], "answer": answer})
            elif kind == "all_ready":
                self.on_all_ready()
            elif kind == "stop":
                self.on_stop()
        self._lose()

    def _take_update(self, message: Json, size: int) -> None:
        fits = self._update_bytes + size <= self._frame_bytes_max or self._updates.empty()
        if self._updates.full() or not fits:
            self._updates_lost = True
            return
        self._update_bytes += size
        self._updates.put_nowait((message, size))

    async def _send_metrics(self) -> None:
        whole = False
        try:
            for part in self.snapshot_metrics():
                self._send({"type": "metrics", "part": part})
                await self._writer.drain()
                await asyncio.sleep(0)
            whole = True
        except ConnectionError:
            return  # the supervisor is gone, which ends the shard
        except Exception:
            self._log.exception("a metrics snapshot failed")
        self._send({"type": "metrics", "part": None, "whole": whole})

    async def _apply_updates(self) -> None:
        while True:
            if self._updates_lost and self._updates.empty():
                self._ask_for_snapshot()
            message, size = await self._updates.get()
            self._update_bytes -= size
            delta: Delta | None = None
            if message["type"] == "snapshot":
                self.state.replace(decode_state(message["state"]))
                self._snapshot_wanted = False
            elif self._snapshot_wanted:
                continue
            else:
                delta = decode_delta(message)
                if delta.revision <= self.state.revision:
                    continue  # part of the snapshot that overtook it
                if delta.revision != self.state.revision + 1:
                    self._ask_for_snapshot()
                    continue
                apply(self.state, delta)
            await self._notify(delta)
            self._applied = self.state.revision
            self._send({"type": "applied", "revision": self._applied})
            self._check_serve()

    def _ask_for_snapshot(self) -> None:
        self._updates_lost = False
        self._snapshot_wanted = True
        self._send({"type": "snapshot_request"})

    def _check_serve(self) -> None:
        if self._serve_from is not None and self._applied >= self._serve_from:
            self._may_serve.set()

    async def _notify(self, delta: Delta | None) -> None:
        for callback in self.on_delta:
            try:
                outcome = callback(delta, self.state)
                if inspect.isawaitable(outcome):
                    await outcome
            except Exception:
                # The shard's view of the cluster must stay current even where one partition
                # cannot be opened; the partition itself reports that it is offline.
                self._log.exception("applying a metadata change failed")

    async def _say_alive(self) -> None:
        """Show the supervisor that this loop turns; it kills a shard that is behind and silent."""
        while True:
            await asyncio.sleep(self._alive_interval_s)
            if not self._unsent_bytes:
                recovery = {} if self._is_ready else {"recovery": self.progress()}
                self._send({"type": "alive", **recovery})

    @property
    def _unsent_bytes(self) -> int:
        """What the supervisor has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    def _send(self, message: Json) -> None:
        if not self._writer.is_closing():
            self._writer.write(channel.encode_message(message))

    def _fail_pending(self) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_result(refusal(ErrorCode.REQUEST_TIMED_OUT, _TIMED_OUT))

    def _task_failed(self, error: BaseException) -> None:
        self._log.error("the metadata replica failed", exc_info=error)
        self._lose()

    def _lose(self) -> None:
        """No update and no reply will come any more: end every wait for one."""
        self._is_lost = True
        self._may_serve.set()
        self._fail_pending()
        self.on_lost()


def _nothing() -> None:
    """The default of the hooks."""


async def open_replica(
    node_id: int,
    control: Any,
    log: Any,
    *,
    requests_max: int = 1000,
    queue_max: int = 1024,
    frame_bytes_max: int = 256 * 1024 * 1024,
    alive_interval_s: float = 1.0,
) -> MetadataReplica:
    """Build a replica over the shard's end of the control socketpair, on the running loop."""
    reader, writer = await asyncio.open_unix_connection(sock=control)
    return MetadataReplica(
        node_id,
        reader,
        writer,
        log,
        requests_max=requests_max,
        queue_max=queue_max,
        frame_bytes_max=frame_bytes_max,
        alive_interval_s=alive_interval_s,
    )
