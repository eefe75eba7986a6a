"""The controller: the one place that changes cluster metadata.

Which process: supervisor.  It plans a change (pure), commits it in its commit thread, applies it
to its own state and sends it to every shard; a request is answered once every live shard has
acknowledged that revision.  Invariants: one commit at a time, in revision order; nothing is sent
before it is durable; a shard that missed a delta gets a snapshot, so no queue grows without a
limit; while `quiesced`, no thread runs and the store is closed, so the process may fork; the
store is opened in the commit thread only, and a failure to open it fails that commit alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from kafka_protocol.errors import ErrorCode
from rpk_py.config import Config
from rpk_py.metadata.placement import take_leadership
from rpk_py.metadata.requests import (
    DeleteResult,
    TopicResult,
    TopicSpec,
    decode_topic_spec,
    encode_delete_result,
    encode_topic_result,
)
from rpk_py.metadata.state import (
    Change,
    ClusterState,
    Delta,
    Json,
    apply,
    encode_delta,
    encode_state,
)
from rpk_py.metadata.store import MetadataStore, StoreError
from rpk_py.metadata.topic_plan import plan_create_topics, plan_delete_topics
from rpk_py.topic_configs import TOPIC_CONFIGS

PRODUCER_ID_BLOCK = 1000  # ids a shard takes at once, as in Kafka

T = TypeVar("T")


class ShardLink(Protocol):
    """How the controller reaches one shard; `send` never blocks."""

    def send(self, message: Json) -> None:
        """Queue one message."""


def take_leadership_blocking(
    store: MetadataStore, state: ClusterState, node_ids: Sequence[int]
) -> None:
    """Before any loop runs: next leader epoch for all partitions, in one commit.

    Partitions of shards that do not exist any more move to those that do.  Raises StoreError.
    """
    changes = take_leadership(state, node_ids, node_ids)
    if changes:
        delta = Delta(state.revision + 1, tuple(changes))
        store.commit(delta)
        apply(state, delta)


class Controller:
    """See the module.  `store` is closed when a controller is built, and owned by it from then on.

    new_id  returns 16 random bytes, for topic ids
    """

    def __init__(
        self,
        config: Config,
        state: ClusterState,
        store: MetadataStore,
        new_id: Callable[[], bytes],
        log: Any,
    ) -> None:
        self.state = state
        self._config = config
        self._store = store
        self._new_id = new_id
        self._log = log
        self._links: dict[int, ShardLink] = {}  # live shards, by node id
        self._applied: dict[int, int] = {}  # node id -> revision that it acknowledged
        self._applied_changed = asyncio.Condition()
        self._commit_lock = asyncio.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._store_is_open = False
        self._opening: asyncio.Task[None] | None = None

    # Shards come and go.

    def attach(self, node_id: int, link: ShardLink) -> None:
        """A shard said hello: it gets a snapshot now and every delta from here on."""
        self._links[node_id] = link
        self._applied[node_id] = 0
        self.send_snapshot(node_id)

    async def detach(self, node_id: int) -> None:
        """A shard is gone: nobody waits for it any more."""
        self._links.pop(node_id, None)
        self._applied.pop(node_id, None)
        async with self._applied_changed:
            self._applied_changed.notify_all()

    def send_snapshot(self, node_id: int) -> None:
        """Send the whole state, to a shard that starts or that missed a delta."""
        self._links[node_id].send({"type": "snapshot", "state": encode_state(self.state)})

    async def acknowledge(self, node_id: int, revision: int) -> None:
        """A shard has applied everything up to this revision."""
        if node_id in self._applied:
            self._applied[node_id] = revision
            async with self._applied_changed:
                self._applied_changed.notify_all()

    # Requests of shards.

    async def handle(self, message: Json) -> Json:
        """Answer one request of a shard; the reply is what its replica expects for that op."""
        op = message["op"]
        try:
            if op == "create_topics":
                specs = [decode_topic_spec(row) for row in message["topics"]]
                created = await self.create_topics(
                    specs, message["timeout_ms"], message["validate_only"]
                )
                return {"results": [encode_topic_result(result) for result in created]}
            if op == "delete_topics":
                topics = [
                    (name, None if hex_id is None else bytes.fromhex(hex_id))
                    for name, hex_id in message["topics"]
                ]
                deleted = await self.delete_topics(topics, message["timeout_ms"])
                return {"results": [encode_delete_result(result) for result in deleted]}
            if op == "allocate_producer_ids":
                async with self._commit_lock:
                    first = await self._in_thread(
                        self._store.allocate_producer_ids, PRODUCER_ID_BLOCK
                    )
                return {"first": first, "count": PRODUCER_ID_BLOCK}
        except StoreError as error:
            self._log.error("a metadata commit failed", op=op, reason=str(error))
            return _refusal(ErrorCode.KAFKA_STORAGE_ERROR, f"The commit failed: {error}")
        return _refusal(ErrorCode.UNKNOWN_SERVER_ERROR, f"The controller does not know {op}.")

    async def create_topics(
        self, specs: Sequence[TopicSpec], timeout_ms: int, validate_only: bool
    ) -> list[TopicResult]:
        """Create topics; see topic_plan for what is refused and why.  Raises StoreError."""
        deadline_s = asyncio.get_running_loop().time() + max(timeout_ms, 0) / 1000
        async with self._commit_lock:
            results, created = plan_create_topics(self.state, specs, self._config, self._new_id)
            if validate_only or not created:
                return results
            revision = await self._commit(created)
        for change in created:
            self._warn_about_configs(change.topic.name, change.topic.configs)
        if not await self._wait_applied(revision, deadline_s):
            text = "The topic is created, but not every shard knows it yet."
            results = [
                result
                if result.error_code != ErrorCode.NONE
                else TopicResult(result.name, ErrorCode.REQUEST_TIMED_OUT, text)
                for result in results
            ]
        return results

    async def delete_topics(
        self, topics: Sequence[tuple[str | None, bytes | None]], timeout_ms: int
    ) -> list[DeleteResult]:
        """Delete topics given by name or by id.  Raises StoreError."""
        deadline_s = asyncio.get_running_loop().time() + max(timeout_ms, 0) / 1000
        async with self._commit_lock:
            results, deleted = plan_delete_topics(self.state, topics)
            if not deleted:
                return results
            revision = await self._commit(deleted)
        if await self._wait_applied(revision, deadline_s):
            return results
        text = "The topic is deleted, but not every shard knows it yet."
        timed_out = ErrorCode.REQUEST_TIMED_OUT
        return [
            result
            if result.error_code != ErrorCode.NONE
            else result._replace(error_code=timed_out, error_message=text)
            for result in results
        ]

    async def take_leadership(self, node_id: int) -> None:
        """Before a shard is started again: the next leader epoch for its partitions."""
        async with self._commit_lock:
            changes = take_leadership(self.state, sorted(self.state.nodes), [node_id])
            if changes:
                await self._commit(changes)

    # Commits.

    async def _commit(self, changes: Sequence[Change]) -> int:
        assert self._commit_lock.locked()
        delta = Delta(self.state.revision + 1, tuple(changes))
        await self._in_thread(self._store.commit, delta)
        apply(self.state, delta)
        message = {"type": "delta", **encode_delta(delta)}
        for link in self._links.values():
            link.send(message)
        return delta.revision

    async def _wait_applied(self, revision: int, deadline_s: float) -> bool:
        timeout_s = deadline_s - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(max(timeout_s, 0)), self._applied_changed:
                await self._applied_changed.wait_for(
                    lambda: all(applied >= revision for applied in self._applied.values())
                )
        except TimeoutError:
            return False
        return True

    def _warn_about_configs(self, topic: str, configs: dict[str, str]) -> None:
        idle = sorted(name for name in configs if not TOPIC_CONFIGS[name].has_effect)
        if idle:
            self._log.warning(
                "these topic configs are stored but have no effect in this version",
                topic=topic,
                configs=idle,
            )

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
        """Open the store in the background; where that fails the next commit tries again."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open_store())

    async def _open_store(self) -> None:
        try:
            async with self._commit_lock:
                await self._in_thread(_nothing)
        except StoreError as error:
            self._log.error(
                "the metadata store cannot be opened; the next commit tries again",
                reason=str(error),
            )

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
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
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


def _refusal(code: ErrorCode, text: str) -> Json:
    return {"error_code": int(code), "error_message": text}
