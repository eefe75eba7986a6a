"""A controller and shards with real replicas over real socketpairs, in one loop.

The store is a fake in memory, so that a test decides when it opens and when a commit ends or fails.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from rpk_py.config import Config
from rpk_py.metadata.controller import Controller
from rpk_py.metadata.placement import led_by
from rpk_py.metadata.replica import MetadataReplica, open_replica
from rpk_py.metadata.state import ClusterState, Delta, Json, NodeState, TopicState, apply
from rpk_py.metadata.store import StoreError
from rpk_py.metadata.topic_plan import make_topic_id
from rpk_py.shard_link import ShardLink


def new_id() -> bytes:
    return os.urandom(16)


def make_state(*names: str) -> ClusterState:
    state = ClusterState(nodes={n: NodeState(n, None, 9092 + n) for n in (0, 1)})
    for name in names:
        state.add_topic(TopicState(name, make_topic_id(new_id, state), [led_by(0, 0, 0)]))
    return state


class MemoryStore:
    """A MetadataStore that a test can hold up, break, and look into."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.is_open = False
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False
        self.fails_after = False  # a commit fails, and holds all the same
        self.will_not_open = False
        self.opened_by: list[str] = []  # names of threads
        self.next_producer_id = 0

    def open(self) -> None:
        assert not self.is_open
        self.opened_by.append(threading.current_thread().name)
        if self.will_not_open:
            raise StoreError("another process reads the file")
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def load(self) -> ClusterState:
        assert self.is_open
        state = ClusterState()
        for delta in self.deltas:
            apply(state, delta)
        state.nodes = {}
        return state

    def commit(self, delta: Delta) -> None:
        assert self.is_open
        assert self.gate.wait(10)
        if self.broken:
            raise StoreError("the disk is full")
        assert delta.revision == len(self.deltas) + 1
        self.deltas.append(delta)
        if self.fails_after:
            raise StoreError("the directory cannot be synced")

    def allocate_producer_ids(self, count: int) -> int:
        self.next_producer_id += count
        return self.next_producer_id - count


class SilentLog:
    """A logger that remembers events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **values: self.events.append(event)


class LossyLink(ShardLink):
    """The supervisor's end of a shard, which loses messages of the type `cluster.dropped`."""

    def __init__(self, index: int, listener: socket.socket, cluster: Cluster) -> None:
        snapshot = cluster.controller.snapshot_frame
        super().__init__(index, listener, None, cluster.config, snapshot)
        self._cluster = cluster

    def send(self, message: Json) -> bool:
        return self._cluster.dropped == message["type"] or super().send(message)

    def send_delta(self, frame: bytes) -> None:
        if self._cluster.dropped != "delta":
            super().send_delta(frame)

    def send_snapshot(self) -> None:
        if self._cluster.dropped != "snapshot":
            super().send_snapshot()


def held_back(opened: asyncio.Event) -> Callable[[Delta | None, ClusterState], Awaitable[None]]:
    """A shard's callback that applies no change before `opened`, and its snapshot at once."""

    async def on_delta(delta: Delta | None, state: ClusterState) -> None:
        if delta is not None:
            await opened.wait()

    return on_delta


class Cluster:
    """A controller and shards in one loop; each shard has a replica over a socketpair."""

    def __init__(self, **config: Any) -> None:
        self.config = Config(**{"data_dir": Path("/data"), "smp": 2, **config})
        self.state = make_state()
        self.store = MemoryStore()
        self.log = SilentLog()
        self.failures: list[BaseException] = []  # of the controller's background work
        self.controller = Controller(
            self.config, self.state, self.store, new_id, self.log, self.failures.append
        )
        self.replicas: list[MetadataReplica] = []
        self.links: list[ShardLink] = []
        self.dropped = ""  # the type of the messages that get lost
        self._tasks: list[asyncio.Task[None]] = []

    async def add_shard(
        self,
        *on_delta: Callable[..., Awaitable[None] | None],
        queue_max: int = 1024,
        index: int | None = None,
        ready: bool = True,
    ) -> MetadataReplica:
        """One more shard, or with `index` a new life of one that is there; waits until it may
        serve, and says that it does if it is `ready`."""
        index = len(self.replicas) if index is None else index
        ours, theirs = socket.socketpair()
        listener = socket.socket()
        link = LossyLink(index, listener, self)

        async def on_message(message: Json) -> None:
            if message["type"] == "hello":
                self.controller.attach(index, link)
            elif message["type"] == "applied":
                self.controller.acknowledge(index, message["revision"])
            elif message["type"] == "ready":
                self.controller.serves(index)
            elif message["type"] == "snapshot_request":
                link.send_snapshot()
            elif message["type"] == "metrics":
                link.metrics_arrived(message)
            elif message["type"] == "request":
                self._tasks.append(asyncio.ensure_future(self._answer(link, message)))

        self._tasks.append(asyncio.ensure_future(link.run(ours, on_message)))
        replica = await open_replica(
            index,
            theirs,
            self.log,
            queue_max=queue_max,
            frame_bytes_max=self.config.control_frame_bytes_max,
            alive_interval_s=0.01,
        )
        replica.on_delta.extend(on_delta)
        self.replicas.append(replica)
        self.links.append(link)
        await replica.start()
        if ready:
            replica.ready()
        return replica

    async def _answer(self, link: ShardLink, message: Json) -> None:
        reply = await self.controller.handle(message)
        assert link.send({"type": "reply", "id": message["id"], **reply})

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.close()
        for link in self.links:
            link.listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.store.gate.set()
        await self.controller.close()


def run(scenario: Callable[[Cluster], Coroutine[Any, Any, None]], **config: Any) -> Cluster:
    async def main() -> Cluster:
        cluster = Cluster(**config)
        try:
            async with asyncio.timeout(20):
                await scenario(cluster)
        finally:
            await cluster.close()
        return cluster

    return asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)
