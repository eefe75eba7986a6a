"""The controller with real replicas over real socketpairs, and the plans it makes.

The store is a fake in memory, so that a test decides when a commit ends or fails.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from rpk_py.config import Config
from rpk_py.metadata.controller import Controller, take_leadership_blocking
from rpk_py.metadata.placement import led_by
from rpk_py.metadata.replica import AUTO_CREATING_MAX, MetadataReplica, open_replica
from rpk_py.metadata.requests import (
    TopicResult,
    TopicSpec,
    decode_topic_result,
    encode_topic_result,
)
from rpk_py.metadata.state import (
    ClusterState,
    Delta,
    Json,
    NodeState,
    TopicState,
    apply,
    encode_state,
)
from rpk_py.metadata.store import StoreError
from rpk_py.metadata.topic_plan import (
    make_topic_id,
    name_problem,
    plan_create_topics,
    plan_delete_topics,
)
from rpk_py.shard_link import ShardLink

ID_A = bytes(range(16))
CONFIG = Config(data_dir=Path("/data"), smp=2, default_partitions=3, partitions_per_topic_max=50)


def new_id() -> bytes:
    return os.urandom(16)


def make_state(*names: str) -> ClusterState:
    state = ClusterState(nodes={n: NodeState(n, None, 9092 + n) for n in (0, 1)})
    for name in names:
        state.add_topic(TopicState(name, make_topic_id(new_id, state), [led_by(0, 0, 0)]))
    return state


def create(state: ClusterState, *specs: TopicSpec, config: Config = CONFIG) -> list[TopicResult]:
    results, changes = plan_create_topics(state, specs, config, new_id)
    assert len(changes) == sum(result.error_code == 0 for result in results)
    return results


# Plans.


def test_a_created_topic_has_an_id_and_partitions_spread_over_the_nodes() -> None:
    (result,), (change,) = plan_create_topics(make_state(), [TopicSpec("t", 4)], CONFIG, new_id)
    assert result.error_code == ErrorCode.NONE
    assert result.num_partitions == 4
    assert result.replication_factor == 1
    assert result.topic_id == change.topic.topic_id != bytes(16)
    assert [p.leader for p in change.topic.partitions] == [0, 1, 0, 1]
    assert {p.leader_epoch for p in change.topic.partitions} == {0}


def test_minus_one_means_the_brokers_defaults() -> None:
    (result,) = create(make_state(), TopicSpec("t", -1, -1))
    assert result.num_partitions == 3
    assert result.replication_factor == 1


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (TopicSpec("old"), ErrorCode.TOPIC_ALREADY_EXISTS),
        (TopicSpec("o.d"), ErrorCode.INVALID_TOPIC_EXCEPTION),  # o_d exists
        (TopicSpec(""), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (TopicSpec("a/b"), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (TopicSpec("t", 0), ErrorCode.INVALID_PARTITIONS),
        (TopicSpec("t", -2), ErrorCode.INVALID_PARTITIONS),
        (TopicSpec("t", 51), ErrorCode.INVALID_PARTITIONS),
        (TopicSpec("t", 1, 0), ErrorCode.INVALID_REPLICATION_FACTOR),
        (TopicSpec("t", 1, -2), ErrorCode.INVALID_REPLICATION_FACTOR),
        (TopicSpec("t", 1, 2), ErrorCode.INVALID_REPLICATION_FACTOR),
        (TopicSpec("t", configs=[("no.such", "1")]), ErrorCode.INVALID_CONFIG),
        (TopicSpec("t", configs=[("segment.bytes", "x")]), ErrorCode.INVALID_CONFIG),
        (TopicSpec("t", configs=[("segment.bytes", None)]), ErrorCode.INVALID_CONFIG),
        (TopicSpec("t", 1, -1, [(0, [0])]), ErrorCode.INVALID_REQUEST),
        (TopicSpec("t", -1, 1, [(0, [0])]), ErrorCode.INVALID_REQUEST),
        (TopicSpec("t", assignments=[(0, [])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (TopicSpec("t", assignments=[(0, [7])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (TopicSpec("t", assignments=[(0, [0, 0])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (TopicSpec("t", assignments=[(0, [0, 1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (TopicSpec("t", assignments=[(1, [0])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (TopicSpec("t", assignments=[(0, [0]), (0, [1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ],
)
def test_what_kafka_refuses_is_refused_with_its_code(spec: TopicSpec, code: ErrorCode) -> None:
    (result,) = create(make_state("old", "o_d"), spec)
    assert result.error_code == code
    assert result.error_message
    assert result.topic_id == bytes(16)


def test_one_refused_topic_does_not_stop_the_others_and_the_order_is_kept() -> None:
    state = make_state("old")
    results = create(state, TopicSpec("b"), TopicSpec("old"), TopicSpec("a"))
    assert [r.name for r in results] == ["b", "old", "a"]
    assert [r.error_code for r in results] == [0, ErrorCode.TOPIC_ALREADY_EXISTS, 0]


def test_a_name_given_twice_is_refused_once_and_created_never() -> None:
    results = create(make_state(), TopicSpec("a"), TopicSpec("b"), TopicSpec("a"))
    assert [(r.name, r.error_code) for r in results] == [("a", ErrorCode.INVALID_REQUEST), ("b", 0)]


def test_names_of_one_request_that_collide_with_each_other_are_refused() -> None:
    results = create(make_state(), TopicSpec("a.b"), TopicSpec("a_b"))
    assert [r.error_code for r in results] == [0, ErrorCode.INVALID_TOPIC_EXCEPTION]


def test_a_manual_assignment_decides_the_leaders() -> None:
    spec = TopicSpec("t", assignments=[(1, [0]), (0, [1]), (2, [1])])
    _, (change,) = plan_create_topics(make_state(), [spec], CONFIG, new_id)
    assert [(p.index, p.leader) for p in change.topic.partitions] == [(0, 1), (1, 0), (2, 1)]


def test_one_request_cannot_create_more_partitions_than_one_topic_may_have() -> None:
    results = create(make_state(), TopicSpec("a", 30), TopicSpec("b", 30), TopicSpec("c", 20))
    assert [r.error_code for r in results] == [0, ErrorCode.POLICY_VIOLATION, 0]


def test_a_full_broker_creates_no_more_partitions() -> None:
    config = Config(data_dir=Path("/data"), partitions_max=2)
    results = create(make_state("old"), TopicSpec("a", 1), TopicSpec("b", 1), config=config)
    assert [r.error_code for r in results] == [0, ErrorCode.POLICY_VIOLATION]


def test_configs_are_stored_normalised_and_reported_with_their_sources() -> None:
    spec = TopicSpec("t", configs=[("write.caching", " TRUE ")])
    (result,), (change,) = plan_create_topics(make_state(), [spec], CONFIG, new_id)
    assert change.topic.configs == {"write.caching": "true"}
    assert ("write.caching", "true", False, 1, False) in result.configs
    assert decode_topic_result(encode_topic_result(result)) == result


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "a" * 249, "..."])
def test_names_that_kafka_takes_are_taken(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a" * 250, "a b", "ä", "a\n", "a:b"])
def test_names_that_kafka_refuses_have_a_problem(name: str) -> None:
    assert name_problem(name)


def test_a_topic_id_is_never_zero_in_use_or_like_an_option() -> None:
    state = ClusterState()
    state.add_topic(TopicState("a", ID_A, []))
    wanted = bytes([0xFC, *range(15)])
    ids = iter([bytes(16), ID_A, bytes([0xF8] * 16), bytes([0xFB] * 16), wanted])
    assert make_topic_id(lambda: next(ids), state) == wanted


def test_topics_are_deleted_by_name_and_by_id() -> None:
    state = make_state("a", "b")
    by_id = state.topics["b"].topic_id
    results, changes = plan_delete_topics(state, [("a", None), (None, by_id)])
    assert [(r.name, r.error_code) for r in results] == [("a", 0), ("b", 0)]
    assert [change.name for change in changes] == ["a", "b"]


def test_what_cannot_be_deleted_says_why() -> None:
    state = make_state("a", "b")
    id_b = state.topics["b"].topic_id
    asked: list[tuple[str | None, bytes | None]] = [
        ("nope", None),
        (None, ID_A),
        (None, None),
        ("a", id_b),
        ("b", None),
        (None, id_b),
    ]
    results, changes = plan_delete_topics(state, asked)
    assert not changes
    assert [r.error_code for r in results] == [
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_REQUEST,
    ]


# The controller and its replicas.


class MemoryStore:
    """A MetadataStore that a test can hold up, break, and look into."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.is_open = False
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False
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
        raise NotImplementedError

    def commit(self, delta: Delta) -> None:
        assert self.is_open
        assert self.gate.wait(10)
        if self.broken:
            raise StoreError("the disk is full")
        self.deltas.append(delta)

    def allocate_producer_ids(self, count: int) -> int:
        self.next_producer_id += count
        return self.next_producer_id - count


class SilentLog:
    """A logger that remembers events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **values: self.events.append(event)


class Cluster:
    """A controller and shards in one loop; each shard has a replica over a socketpair."""

    def __init__(self, **config: Any) -> None:
        self.config = Config(**{"data_dir": Path("/data"), "smp": 2, **config})
        self.state = make_state()
        self.store = MemoryStore()
        self.log = SilentLog()
        self.controller = Controller(self.config, self.state, self.store, new_id, self.log)
        self.replicas: list[MetadataReplica] = []
        self.links: list[ShardLink] = []
        self.dropped: Callable[[Json], bool] = lambda message: False
        self._tasks: list[asyncio.Task[None]] = []

    async def add_shard(
        self,
        on_delta: Callable[..., Awaitable[None] | None] | None = None,
        queue_max: int = 1024,
    ) -> MetadataReplica:
        index = len(self.replicas)
        ours, theirs = socket.socketpair()
        listener = socket.socket()
        link = ShardLink(index, listener, None, self.config, lambda: encode_state(self.state))
        send = link.send
        link.send = lambda m: None if self.dropped(m) else send(m)  # type: ignore[method-assign]

        async def on_message(message: Json) -> None:
            if message["type"] == "hello":
                self.controller.attach(index, link)
            elif message["type"] == "applied":
                await self.controller.acknowledge(index, message["revision"])
            elif message["type"] == "snapshot_request":
                self.controller.send_snapshot(index)
            elif message["type"] == "metrics":
                link.metrics_arrived(message)
            elif message["type"] == "request":
                self._tasks.append(asyncio.ensure_future(self._answer(link, message)))

        self._tasks.append(asyncio.ensure_future(link.run(ours, on_message)))
        replica = await open_replica(index, theirs, self.log, queue_max=queue_max)
        if on_delta is not None:
            replica.on_delta.append(on_delta)
        self.replicas.append(replica)
        self.links.append(link)
        await replica.start()
        return replica

    async def _answer(self, link: ShardLink, message: Json) -> None:
        reply = await self.controller.handle(message)
        link.send({"type": "reply", "id": message["id"], **reply})

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


def test_a_created_topic_is_known_to_every_shard_when_the_answer_comes() -> None:
    async def scenario(cluster: Cluster) -> None:
        one, two = await cluster.add_shard(), await cluster.add_shard()
        (result,) = await one.create_topics([TopicSpec("t", 2)], 10_000, False)
        assert result.error_code == ErrorCode.NONE
        assert one.state == two.state == cluster.state
        assert two.state.topics["t"].topic_id == result.topic_id
        assert len(cluster.store.deltas) == 1
        deleted = await two.delete_topics([("t", None)], 10_000)
        assert deleted == [("t", result.topic_id, 0, None)]
        assert one.state == two.state == cluster.state
        assert not one.state.topics

    run(scenario)


def test_the_answer_waits_until_the_slowest_shards_callback_has_finished() -> None:
    async def scenario(cluster: Cluster) -> None:
        opened = asyncio.Event()

        async def slow(delta: Delta | None, state: ClusterState) -> None:
            if delta is not None:
                await opened.wait()

        one = await cluster.add_shard()
        two = await cluster.add_shard(slow)
        answer = asyncio.ensure_future(one.create_topics([TopicSpec("t")], 10_000, False))
        await until(lambda: "t" in one.state.topics and "t" in two.state.topics)
        assert not answer.done()
        opened.set()
        assert (await answer)[0].error_code == ErrorCode.NONE

    run(scenario)


def test_at_the_timeout_the_answer_is_request_timed_out_though_the_topic_exists() -> None:
    async def scenario(cluster: Cluster) -> None:
        never = asyncio.Event()

        async def stuck(delta: Delta | None, state: ClusterState) -> None:
            if delta is not None:
                await never.wait()

        one = await cluster.add_shard()
        await cluster.add_shard(stuck)
        (result,) = await one.create_topics([TopicSpec("t")], 20, False)
        assert result.error_code == ErrorCode.REQUEST_TIMED_OUT
        assert (result.num_partitions, result.replication_factor) == (-1, -1)
        assert result.topic_id == bytes(16)
        assert not result.configs
        assert "t" in cluster.state.topics

    run(scenario)


def test_nobody_waits_for_a_shard_that_died() -> None:
    async def scenario(cluster: Cluster) -> None:
        never = asyncio.Event()

        async def stuck(delta: Delta | None, state: ClusterState) -> None:
            if delta is not None:
                await never.wait()

        one = await cluster.add_shard()
        await cluster.add_shard(stuck)
        answer = asyncio.ensure_future(one.create_topics([TopicSpec("t")], 10_000, False))
        await until(lambda: "t" in one.state.topics)
        await cluster.controller.detach(1)
        assert (await answer)[0].error_code == ErrorCode.NONE

    run(scenario)


def test_a_slow_supervisor_costs_a_timeout_and_holds_up_nothing_else() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        cluster.store.gate.clear()
        (result,) = await one.create_topics([TopicSpec("t")], 20, False)
        assert result.error_code == ErrorCode.REQUEST_TIMED_OUT
        assert "t" not in one.state.topics
        cluster.store.gate.set()
        await until(lambda: "t" in one.state.topics)  # it took effect later, as the message says

    run(scenario)


def test_a_failed_commit_changes_nothing_and_the_next_one_works() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        cluster.store.broken = True
        (result,) = await one.create_topics([TopicSpec("t")], 10_000, False)
        assert result.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert "disk is full" in (result.error_message or "")
        assert not cluster.state.topics
        cluster.store.broken = False
        (result,) = await one.create_topics([TopicSpec("t")], 10_000, False)
        assert result.error_code == ErrorCode.NONE

    run(scenario)


def test_validate_only_answers_without_committing() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        results = await one.create_topics([TopicSpec("t"), TopicSpec("/")], 10_000, True)
        assert [r.error_code for r in results] == [0, ErrorCode.INVALID_TOPIC_EXCEPTION]
        assert not cluster.store.deltas

    run(scenario)


def test_a_shard_that_missed_a_delta_gets_a_snapshot() -> None:
    async def scenario(cluster: Cluster) -> None:
        seen: list[int | None] = []

        def remember(delta: Delta | None, state: ClusterState) -> None:
            seen.append(None if delta is None else delta.revision)

        one = await cluster.add_shard(remember)
        cluster.dropped = lambda message: message["type"] == "delta"
        await one.create_topics([TopicSpec("lost")], 0, False)
        cluster.dropped = lambda message: False
        await one.create_topics([TopicSpec("next")], 10_000, False)
        assert one.state == cluster.state
        assert set(one.state.topics) == {"lost", "next"}
        assert seen == [None, None]

    run(scenario)


def test_a_shard_that_is_far_behind_gets_one_snapshot_instead_of_every_delta() -> None:
    async def scenario(cluster: Cluster) -> None:
        go = asyncio.Event()
        calls: list[int | None] = []

        async def slow(delta: Delta | None, state: ClusterState) -> None:
            calls.append(None if delta is None else delta.revision)
            if delta is not None:
                await go.wait()

        one = await cluster.add_shard()
        two = await cluster.add_shard(slow, queue_max=1)
        for number in range(40):
            padding = [("leader.replication.throttled.replicas", "x" * 20_000)]
            spec = TopicSpec(f"t{number}", 1, configs=padding)
            await one.create_topics([spec], 0, False)
            await until(lambda: len(one.state.topics) == len(cluster.state.topics))
        go.set()
        await until(lambda: two.state == cluster.state)
        assert len(calls) < 40
        assert None in calls[1:]

    run(scenario, control_queue_max=2)


def test_a_callback_that_fails_is_logged_and_does_not_stop_the_replica() -> None:
    async def scenario(cluster: Cluster) -> None:
        def broken(delta: Delta | None, state: ClusterState) -> None:
            raise RuntimeError("cannot open")

        one = await cluster.add_shard(broken)
        (result,) = await one.create_topics([TopicSpec("t")], 10_000, False)
        assert result.error_code == ErrorCode.NONE

    assert "applying a metadata change failed" in run(scenario).log.events


def test_auto_creation_asks_once_for_a_name_that_many_clients_want() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        for _ in range(5):
            one.auto_create("t")
        await until(lambda: "t" in one.state.topics)
        one.auto_create("t")
        assert len(cluster.store.deltas) == 1

    run(scenario)


def test_names_of_one_moment_are_created_by_one_request() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        for name in ("a", "b", "c"):
            one.auto_create(name)
        await until(lambda: len(one.state.topics) == 3)
        assert len(cluster.store.deltas) == 1
        await until(lambda: not one._auto_creating)
        one.auto_create("d")
        await until(lambda: "d" in one.state.topics)

    run(scenario)


def test_names_that_come_up_during_a_creation_are_created_after_it() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        cluster.store.gate.clear()
        one.auto_create("a")
        await until(lambda: bool(one._pending))
        one.auto_create("b")
        one.auto_create("c")
        one.auto_create("b")
        cluster.store.gate.set()
        await until(lambda: len(one.state.topics) == 3)
        assert len(cluster.store.deltas) == 2

    run(scenario)


def test_a_flood_of_unknown_names_leaves_room_for_other_requests() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        cluster.store.gate.clear()
        for number in range(2000):
            one.auto_create(f"t{number}")
        await until(lambda: bool(one._pending))
        assert len(one._pending) == 1
        ids = asyncio.ensure_future(one.allocate_producer_ids())
        created = asyncio.ensure_future(one.create_topics([TopicSpec("t")], 10_000, False))
        cluster.store.gate.set()
        assert await ids == (0, 1000)
        assert (await created)[0].error_code == ErrorCode.NONE
        assert len(one.state.topics) == AUTO_CREATING_MAX + 1

    run(scenario)


def test_producer_id_blocks_do_not_overlap() -> None:
    async def scenario(cluster: Cluster) -> None:
        one, two = await cluster.add_shard(), await cluster.add_shard()
        blocks = await asyncio.gather(one.allocate_producer_ids(), two.allocate_producer_ids())
        assert sorted(blocks) == [(0, 1000), (1000, 1000)]

    run(scenario)


def test_an_unknown_request_is_answered_and_not_fatal() -> None:
    async def scenario(cluster: Cluster) -> None:
        reply = await cluster.controller.handle({"op": "make_coffee"})
        assert reply["error_code"] == ErrorCode.UNKNOWN_SERVER_ERROR

    run(scenario)


def test_when_the_supervisor_dies_requests_end_and_the_shard_is_told() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        lost = asyncio.Event()
        one.on_lost = lost.set
        cluster.store.gate.clear()
        answer = asyncio.ensure_future(one.create_topics([TopicSpec("t")], 60_000, False))
        await until(lambda: bool(one._pending))
        cluster._tasks[0].cancel()
        await lost.wait()
        assert (await answer)[0].error_code == ErrorCode.REQUEST_TIMED_OUT

    run(scenario)


def test_a_stop_and_a_metrics_request_reach_the_shard() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        one.snapshot_metrics = lambda: {"values": {"connections": 3}}
        assert await cluster.links[0].fetch_metrics() == {"values": {"connections": 3}}
        stopped = asyncio.Event()
        one.on_stop = stopped.set
        cluster.links[0].send({"type": "stop"})
        await stopped.wait()

    run(scenario)


def test_while_quiesced_there_is_no_thread_and_no_open_store() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        await one.create_topics([TopicSpec("t")], 10_000, False)
        assert threading.active_count() > 1
        async with cluster.controller.quiesced():
            assert threading.active_count() == 1
            assert not cluster.store.is_open
        (result,) = await one.create_topics([TopicSpec("u")], 10_000, False)
        assert result.error_code == ErrorCode.NONE

    run(scenario)


def test_what_was_forked_is_kept_when_the_store_does_not_open_again() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        cluster.store.will_not_open = True
        async with cluster.controller.quiesced():
            pass  # raised StoreError at its end, and the caller lost the socket of its fork
        (result,) = await one.create_topics([TopicSpec("t")], 10_000, False)
        assert result.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert "another process" in (result.error_message or "")
        cluster.store.will_not_open = False
        (result,) = await one.create_topics([TopicSpec("t")], 10_000, False)
        assert result.error_code == ErrorCode.NONE

    log = run(scenario).log
    assert "the metadata store cannot be opened; the next commit tries again" in log.events


def test_the_store_is_opened_without_holding_up_the_loop() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.controller.quiesced():
            pass
        await until(lambda: cluster.store.is_open)  # without a commit that needs it

    opened_by = run(scenario).store.opened_by
    assert opened_by
    assert threading.main_thread().name not in opened_by


def test_a_shard_whose_supervisor_dies_before_the_first_snapshot_does_not_wait_forever() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.dropped = lambda message: message["type"] == "snapshot"
        starting = asyncio.ensure_future(cluster.add_shard())
        await until(lambda: 0 in cluster.controller._links)
        cluster._tasks[0].cancel()
        with pytest.raises(ConnectionError, match="supervisor is gone"):
            await starting

    run(scenario)


def test_a_start_commits_the_next_leader_epochs_before_anyone_serves() -> None:
    state, store = make_state("a", "b"), MemoryStore()
    store.open()
    expected = make_state()
    expected.replace(state)
    take_leadership_blocking(store, state, [0, 1])
    (delta,) = store.deltas
    assert delta.revision == state.revision == 1
    assert {t.partitions[0].leader_epoch for t in state.topics.values()} == {1}


def test_a_start_without_topics_commits_nothing() -> None:
    store = MemoryStore()
    take_leadership_blocking(store, make_state(), [0, 1])
    assert not store.deltas


def test_a_restarted_shards_new_epochs_reach_the_other_shards() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        await one.create_topics([TopicSpec("t", 2)], 10_000, False)
        await cluster.controller.take_leadership(1)
        await until(lambda: one.state.revision == 2)
        epochs = [p.leader_epoch for p in one.state.topics["t"].partitions]
        assert epochs == [0, 1]

    run(scenario)


def test_applying_the_committed_deltas_gives_the_controllers_state() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        await one.create_topics([TopicSpec("a", 2), TopicSpec("b")], 10_000, False)
        await one.delete_topics([("a", None)], 10_000)
        replayed = make_state()
        for delta in cluster.store.deltas:
            apply(replayed, delta)
        assert replayed == cluster.state

    run(scenario)
