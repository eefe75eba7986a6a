"""The controller: the one place that changes cluster metadata.

Which process: supervisor.  It plans a change (pure), commits it in its commit thread, applies it
to its own state and sends it to every shard; a request is answered once every live shard has
acknowledged that revision.  A shard is live when it was told that it may serve, which happens
when it has applied what it was started with and what came up meanwhile: so nobody waits for a
shard that recovers, and yet a shard that serves knows all that was answered.  Metadata names it
once it says that it does serve.
Invariants: one commit at a time, in revision order; nothing is sent before it is durable; a shard
that missed a delta gets a snapshot, so no queue grows without a limit; after a commit that failed
nothing is planned before the store has said what it holds; while `quiesced`, no thread runs and
the store is closed, so the process may fork; the store is opened in the commit thread only, and a
failure to open it fails that commit alone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from kafka_protocol.errors import ErrorCode
from kafka_protocol.lazy_dataclass import dataclass
from rpk_py.config import Config
from rpk_py.metadata.channel import encode_message
from rpk_py.metadata.config_plan import plan_alter_configs
from rpk_py.metadata.placement import start_leadership, take_leadership
from rpk_py.metadata.requests import (
    ConfigResult,
    DeleteResult,
    PartitionsResult,
    TopicResult,
    decode_config_resource,
    decode_partitions_spec,
    decode_topic_spec,
    encode_config_result,
    encode_delete_result,
    encode_partitions_result,
    encode_topic_result,
    refusal,
)
from rpk_py.metadata.state import (
    Change,
    ClusterState,
    Delta,
    Json,
    NodesChanged,
    TopicConfigsChanged,
    TopicCreated,
    apply,
    decode_state,
    encode_delta,
    encode_state,
)
from rpk_py.metadata.store import MetadataStore, StoreError
from rpk_py.metadata.topic_plan import (
    plan_create_partitions,
    plan_create_topics,
    plan_delete_topics,
)
from rpk_py.metric_types import WRITE_BOUNDS
from rpk_py.metrics import Histogram
from rpk_py.tasks import Tasks
from rpk_py.topic_configs import TOPIC_CONFIGS

PRODUCER_ID_BLOCK = 1000  # ids a shard takes at once, as in Kafka

# Of the largest message, for the metadata as a whole: beyond it clients may add nothing.  The rest
# is for what grows by itself, like leader epochs.
STATE_SHARE_MAX = 0.75

_UNSEEN = "The change is made, but not every shard knows it yet."
_TOO_LARGE = "The metadata of the cluster would become too large (control_frame_bytes_max)."
_TOO_LATE = "The controller had no time for it in time; nothing was changed."

T = TypeVar("T")
R = TypeVar("R", TopicResult, DeleteResult, PartitionsResult, ConfigResult)
N = TypeVar("N", DeleteResult, PartitionsResult, ConfigResult)


class ShardLink(Protocol):
    """How the controller reaches one shard; nothing of it blocks."""

    def send(self, message: Json) -> bool:
        """Queue one message; False: it is too large."""

    def send_delta(self, frame: bytes) -> None:
        """Queue one delta, framed already; or drop it and owe a snapshot."""

    def send_snapshot(self) -> None:
        """Send the whole state, as it is when there is room, instead of deltas before it."""


@dataclass(slots=True)
class _Shard:
    """One life of a shard, from its hello to its end."""

    link: ShardLink
    applied: int = -1  # the revision that it acknowledged
    catch_up_to: int | None = None  # set by its first acknowledgement, that of the snapshot
    live: bool = False  # may serve, so answers wait for it
    ready: bool = False  # serves


def encode_snapshot(state: ClusterState) -> bytes:
    """The whole state as one framed message."""
    return encode_message({"type": "snapshot", "state": encode_state(state)})


def start_leadership_blocking(
    store: MetadataStore, state: ClusterState, node_ids: Sequence[int]
) -> None:
    """Before any loop runs: leaders among the shards that there are, with the next leader epoch,
    in one commit.  Raises StoreError.
    """
    changes = start_leadership(state, node_ids)
    if changes:
        delta = Delta(state.revision + 1, tuple(changes))
        store.commit(delta)
        apply(state, delta)


class Controller:
    """See the module.  `store` is closed when a controller is built, and owned by it from then on.

    new_id  returns 16 random bytes, for topic ids
    on_failure  given what nobody foresaw in background work, which is not repeated
    """

    def __init__(
        self,
        config: Config,
        state: ClusterState,
        store: MetadataStore,
        new_id: Callable[[], bytes],
        log: Any,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.state = state
        self._config = config
        self._store = store
        self._new_id = new_id
        self._log = log
        self._nodes = dict(state.nodes)  # all there are, those too that are out of the state
        self._shards: dict[int, _Shard] = {}  # by node id
        self._snapshot: tuple[int, bytes] | None = None  # (revision, frame)
        self._state_bytes = math.inf  # the state as a frame is at most that long
        self._tasks = Tasks(on_failure)
        self._progress = asyncio.Event()  # of shards; set, and replaced, at every change
        self._commit_lock = asyncio.Lock()
        self._in_doubt = False  # a commit failed: it may be in the store all the same
        self._thread: ThreadPoolExecutor | None = None
        self.commit_seconds = Histogram(WRITE_BOUNDS)
        self._store_is_open = False
        self._opening: asyncio.Task[None] | None = None
        self._ops: dict[str, Callable[[Json], Awaitable[Json]]] = {
            "create_topics": self._create_topics,
            "delete_topics": self._delete_topics,
            "create_partitions": self._create_partitions,
            "alter_configs": self._alter_configs,
            "allocate_producer_ids": self._allocate_producer_ids,
        }

    # Shards come and go.

    def attach(self, node_id: int, link: ShardLink) -> None:
        """A shard said hello: it gets a snapshot now and every delta from here on."""
        self._shards[node_id] = _Shard(link)
        link.send_snapshot()

    def detach(self, node_id: int) -> None:
        """A shard is gone: nobody waits for it any more."""
        self._shards.pop(node_id, None)
        self._progressed()

    def snapshot_frame(self) -> bytes:
        """The whole state as one framed message, encoded once for shards that start together."""
        if self._snapshot is None or self._snapshot[0] != self.state.revision:
            self._snapshot = self.state.revision, encode_snapshot(self.state)
        return self._snapshot[1]

    def acknowledge(self, node_id: int, revision: int) -> None:
        """A shard has applied everything up to this revision."""
        shard = self._shards.get(node_id)
        if shard is None:
            return
        shard.applied = revision
        if not shard.live:
            if shard.catch_up_to is None:
                shard.catch_up_to = self.state.revision
            if revision >= shard.catch_up_to:
                self._admit(shard)
        self._progressed()

    def _admit(self, shard: _Shard) -> None:
        """Let a shard serve: from the newest revision on, which may not have reached it yet.

        Every answer that was given was for a revision up to that one; all later ones, that of a
        commit under way too, wait for it.
        """
        shard.live = True
        shard.link.send({"type": "serve", "revision": self.state.revision})
        if all(other.live for other in self._shards.values()):
            self._snapshot = None

    def serves(self, node_id: int) -> None:
        """A shard says that it is ready: from now on Metadata names it."""
        shard = self._shards.get(node_id)
        if shard is not None:
            shard.ready = True
            self._tasks.spawn(self._name(node_id, shard))

    async def _name(self, node_id: int, shard: _Shard) -> None:
        while self._shards.get(node_id) is shard:
            try:
                async with self._changing():
                    if self._shards.get(node_id) is shard:
                        await self._set_nodes({*self.state.nodes, node_id})
                return
            except StoreError as error:
                self._log.error(
                    "a shard serves and Metadata cannot name it yet",
                    node_id=node_id,
                    reason=str(error),
                )
            await asyncio.sleep(self._config.restart_backoff_s_max)

    def is_behind(self, node_id: int) -> bool:
        """Whether a shard has not acknowledged the newest revision, for which others may wait."""
        shard = self._shards.get(node_id)
        return shard is not None and shard.applied < self.state.revision

    def _progressed(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    async def leave_out(self, node_id: int) -> bool:
        """Name a shard in Metadata no more until it serves. Returns whether it was named so far.

        It keeps its partitions, whose leader is then not available; new ones are placed elsewhere.
        Raises StoreError.
        """
        async with self._changing():
            shard = self._shards.get(node_id)
            if node_id not in self.state.nodes or (shard is not None and shard.ready):
                return False
            await self._set_nodes(self.state.nodes.keys() - {node_id})
            return True

    async def _set_nodes(self, node_ids: Set[int]) -> None:
        if node_ids != self.state.nodes.keys():
            nodes = tuple(node for n, node in self._nodes.items() if n in node_ids)
            await self._commit(*self._framed([NodesChanged(nodes)]))

    # Requests of shards.

    async def handle(self, message: Json) -> Json:
        """Answer one request of a shard; the reply is what its replica expects for that op."""
        op = message["op"]
        answer = self._ops.get(op)
        if answer is None:
            text = f"The controller does not know {op}."
            return refusal(ErrorCode.UNKNOWN_SERVER_ERROR, text)
        try:
            return await answer(message)
        except TimeoutError as error:
            return refusal(ErrorCode.REQUEST_TIMED_OUT, str(error))
        except StoreError as error:
            self._log.error("a metadata commit failed", op=op, reason=str(error))
            return refusal(ErrorCode.KAFKA_STORAGE_ERROR, f"The commit failed: {error}")

    async def _create_topics(self, message: Json) -> Json:
        specs = [decode_topic_spec(row) for row in message["topics"]]

        def plan() -> tuple[list[TopicResult], Sequence[Change]]:
            return plan_create_topics(self.state, specs, self._config, self._new_id)

        def failed(result: TopicResult, error: ErrorCode, text: str) -> TopicResult:
            return TopicResult(result.name, error, text)

        return _results(await self._change(message, plan, failed), encode_topic_result)

    async def _delete_topics(self, message: Json) -> Json:
        topics = [
            (name, None if hex_id is None else bytes.fromhex(hex_id))
            for name, hex_id in message["topics"]
        ]

        def plan() -> tuple[list[DeleteResult], Sequence[Change]]:
            return plan_delete_topics(self.state, topics)

        return _results(await self._change(message, plan, _failed), encode_delete_result)

    async def _create_partitions(self, message: Json) -> Json:
        specs = [decode_partitions_spec(row) for row in message["topics"]]

        def plan() -> tuple[list[PartitionsResult], Sequence[Change]]:
            return plan_create_partitions(self.state, specs, self._config)

        return _results(await self._change(message, plan, _failed), encode_partitions_result)

    async def _alter_configs(self, message: Json) -> Json:
        resources = [decode_config_resource(row) for row in message["resources"]]

        def plan() -> tuple[list[ConfigResult], Sequence[Change]]:
            incremental = message["incremental"]
            return plan_alter_configs(self.state, self._config, resources, incremental)

        return _results(await self._change(message, plan, _failed), encode_config_result)

    async def _allocate_producer_ids(self, message: Json) -> Json:
        async with self._commit_lock:
            _check_wanted(message)
            first = await self._in_thread(self._store.allocate_producer_ids, PRODUCER_ID_BLOCK)
        return {"first": first, "count": PRODUCER_ID_BLOCK}

    async def _change(
        self,
        message: Json,
        plan: Callable[[], tuple[list[R], Sequence[Change]]],
        failed: Callable[[R, ErrorCode, str], R],
    ) -> list[R]:
        """Plan on the newest state, commit, and wait for the shards; the answer of every request.

        Shapes:  message  with timeout_ms, give_up_s, and perhaps validate_only
                 failed   what becomes of a result that was fine as far as it goes
        Raises:  StoreError    what was changed, if anything, the store will say
                 TimeoutError  nothing was changed
        """
        deadline_s = asyncio.get_running_loop().time() + max(message["timeout_ms"], 0) / 1000
        async with self._changing():
            _check_wanted(message)
            results, changes = plan()
            if not changes:
                return results
            delta, frame = self._framed(changes)
            if not self._fits(delta, frame):
                error, text = ErrorCode.POLICY_VIOLATION, _TOO_LARGE
                return [r if r.error_code else failed(r, error, text) for r in results]
            if message.get("validate_only"):
                return results
            idle = self._without_effect(changes)  # while the state still has the values before
            await self._commit(delta, frame)
        for topic, configs in idle:
            self._log.warning(
                "these topic configs are stored but have no effect in this version",
                topic=topic,
                configs=configs,
            )
        if await self._wait_applied(delta.revision, deadline_s):
            return results
        error, text = ErrorCode.REQUEST_TIMED_OUT, _UNSEEN
        return [r if r.error_code else failed(r, error, text) for r in results]

    async def take_leadership(self, node_id: int) -> None:
        """Before a shard is started again: the next leader epoch for its partitions."""
        async with self._changing():
            changes = take_leadership(self.state, node_id)
            if changes:
                await self._commit(*self._framed(changes))

    # Commits.

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """Inside: the state is what the store holds, and nobody else changes it.

        Raises: StoreError  the store does not say what it holds
        """
        async with self._commit_lock:
            if self._in_doubt:
                await self._reload()
            try:
                yield
            except Exception:
                if self._in_doubt:
                    self.open_store_soon()
                raise

    async def _reload(self) -> None:
        """After a commit that failed, which the store may hold all the same: go on from there.

        Else every later commit would be refused, and what is served until the next start could
        be of a topic that this start would not find any more.
        """
        stored = await self._in_thread(self._load_anew)
        if stored.revision < self.state.revision:
            raise StoreError(
                f"the metadata store is at revision {stored.revision}, and {self.state.revision}"
                " was committed: stop the broker and restore it"
            )
        if stored.revision > self.state.revision:
            self._log.warning("a commit that failed is in the metadata store all the same")
            stored.nodes = self.state.nodes  # which are not stored
            self.state.replace(stored)
            self._state_bytes = math.inf
            for shard in self._shards.values():
                shard.link.send_snapshot()
        self._in_doubt = False

    def _load_anew(self) -> ClusterState:
        """In the commit thread: from a new connection, which has no memory of the failure."""
        self._store.close()
        self._store_is_open = False
        return self._with_store(self._store.load, ())

    def _framed(self, changes: Sequence[Change]) -> tuple[Delta, bytes]:
        delta = Delta(self.state.revision + 1, tuple(changes))
        return delta, encode_message({"type": "delta", **encode_delta(delta)})

    def _fits(self, delta: Delta, frame: bytes) -> bool:
        """Whether the state can be sent as one message after a change.  It always can be after one
        that makes it smaller.  The change itself is about as large as what it adds or takes away.

        The state is measured only when what was committed since the last time could matter.
        """
        limit = self._config.control_frame_bytes_max * STATE_SHARE_MAX
        if self._state_bytes + len(frame) <= limit:
            return True
        self._state_bytes = len(encode_snapshot(self.state))
        if self._state_bytes + len(frame) <= limit:
            return True
        after = decode_state(encode_state(self.state))
        apply(after, delta)
        return len(encode_snapshot(after)) <= max(limit, self._state_bytes)

    async def _commit(self, delta: Delta, frame: bytes) -> None:
        assert self._commit_lock.locked()
        started_s = time.perf_counter()
        self._in_doubt = True
        await self._in_thread(self._store.commit, delta)
        apply(self.state, delta)
        self._in_doubt = False
        self._state_bytes += len(frame)
        self.commit_seconds.observe(time.perf_counter() - started_s)
        for shard in self._shards.values():
            shard.link.send_delta(frame)

    async def _wait_applied(self, revision: int, deadline_s: float) -> bool:
        """Whether every live shard has applied a revision, at the deadline at the latest."""
        try:
            async with asyncio.timeout_at(deadline_s):
                while any(s.live and s.applied < revision for s in self._shards.values()):
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    def _without_effect(self, changes: Sequence[Change]) -> list[tuple[str, list[str]]]:
        """Topic name, and the configs that a change sets to another value, but that do nothing."""
        found = []
        for change in changes:
            if isinstance(change, TopicCreated) and not change.topic.internal:
                topic, configs, before = change.topic.name, change.topic.configs, {}
            elif isinstance(change, TopicConfigsChanged):
                known = self.state.topics_by_id[change.topic_id]
                topic, configs, before = known.name, dict(change.configs), known.configs
            else:
                continue
            changed = {name for name, _ in configs.items() - before.items()}
            idle = sorted(name for name in changed if not TOPIC_CONFIGS[name].has_effect)
            if idle:
                found.append((topic, idle))
        return found

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        assert self._commit_lock.locked()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "rpk-commit")
        work = asyncio.get_running_loop().run_in_executor(
            self._thread, self._with_store, function, args
        )
        # Requests are cancelled only when the broker stops; a commit that has begun still ends
        # before the store is closed under it.
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    def _with_store(self, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        """In the commit thread: opening may wait seconds for a backup that reads the file."""
        if not self._store_is_open:
            self._store.open()
            self._store_is_open = True
        return function(*args)

    def open_store_soon(self) -> None:
        """Open the store in the background, and settle what is in doubt, until that succeeds."""
        if self._opening is None or self._opening.done():
            self._opening = self._tasks.spawn(self._open_store())

    async def _open_store(self) -> None:
        while True:
            try:
                async with self._changing():
                    await self._in_thread(_nothing)
                return
            except StoreError as error:
                self._log.error("the metadata store cannot be opened yet", reason=str(error))
            await asyncio.sleep(self._config.restart_backoff_s_max)

    @asynccontextmanager
    async def quiesced(self) -> AsyncIterator[None]:
        """Inside: no commit, no commit thread, store closed; the caller may fork.

        A forked child of a process with threads may find locks held forever, and SQLite must
        not be carried across a fork.  Both are cheap to avoid: the thread is idle under the
        commit lock and ends at once.  Afterwards the store is opened in the background, so that
        what the caller has forked is never lost to a store that does not open.
        """
        async with self._commit_lock:
            self._disconnect()
            try:
                yield
            finally:
                self.open_store_soon()

    async def close(self) -> None:
        """Let a running commit end, then close the store."""
        await self._tasks.cancel()
        async with self._commit_lock:
            self._disconnect()

    def _disconnect(self) -> None:
        assert self._commit_lock.locked()
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None
        self._store.close()
        self._store_is_open = False


def _nothing() -> None:
    """A commit of nothing: opens the store."""


def _results(results: Sequence[R], encode: Callable[[R], list[Any]]) -> Json:
    return {"results": [encode(result) for result in results]}


def _failed(result: N, error: ErrorCode, text: str) -> N:
    return result._replace(error_code=error, error_message=text)


def _check_wanted(message: Json) -> None:
    """Raises: TimeoutError  the shard that asked has given up, and its client may have asked again;
    its clock is ours (CLOCK_MONOTONIC)
    """
    if time.monotonic() >= message["give_up_s"]:
        raise TimeoutError(_TOO_LATE)
