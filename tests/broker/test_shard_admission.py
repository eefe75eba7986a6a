"""Which shards an answer waits for, when a shard may serve, and when Metadata names it."""

from __future__ import annotations

import asyncio
import math

from kafka_protocol.errors import ErrorCode
from rpk_py.metadata.requests import TopicSpec
from rpk_py.metadata.state import ClusterState, Delta
from tests.broker.cluster import Cluster, held_back, run, until


class Recovery:
    """A shard's callback that takes until it is told to end."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.calls: list[int | None] = []

    async def __call__(self, delta: Delta | None, state: ClusterState) -> None:
        self.calls.append(None if delta is None else delta.revision)
        await self.ended.wait()


def test_nobody_waits_for_a_shard_that_recovers_and_when_it_serves_it_knows_it_all() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        recovery = Recovery()
        starting = asyncio.ensure_future(cluster.add_shard(recovery))
        await until(lambda: recovery.calls == [None])
        for name in ("a", "b"):
            (result,) = await one.create_topics([TopicSpec(name)], 10_000, False)
            assert result.error_code == ErrorCode.NONE
        assert not starting.done()
        recovery.ended.set()
        two = await starting
        assert recovery.calls == [None, 1, 2]
        assert two.state == cluster.state

    run(scenario)


def test_a_shard_does_not_serve_before_what_was_answered_while_it_caught_up() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        recovery, held = Recovery(), {1: asyncio.Event(), 2: asyncio.Event()}

        async def catch_up(delta: Delta | None, state: ClusterState) -> None:
            if delta is not None:
                await held[delta.revision].wait()

        starting = asyncio.ensure_future(cluster.add_shard(recovery, catch_up))
        await until(lambda: recovery.calls == [None])
        await one.create_topics([TopicSpec("a")], 10_000, False)
        recovery.ended.set()
        await until(lambda: recovery.calls == [None, 1])
        # It has recovered but is behind, so this one does not wait for it either.
        (result,) = await one.create_topics([TopicSpec("b")], 10_000, False)
        assert result.error_code == ErrorCode.NONE
        held[1].set()
        await until(lambda: recovery.calls == [None, 1, 2])
        await until(lambda: cluster.controller._shards[1].live)
        late = asyncio.ensure_future(one.create_topics([TopicSpec("c")], 10_000, False))
        await until(lambda: "c" in one.state.topics)
        assert not starting.done()
        assert not late.done()
        held[3] = held[2]
        held[2].set()
        assert {"a", "b"} <= set((await starting).state.topics)
        assert (await late)[0].error_code == ErrorCode.NONE

    run(scenario)


def test_from_the_moment_a_shard_may_serve_answers_wait_for_it() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        held = asyncio.Event()
        await cluster.add_shard(held_back(held))
        answer = asyncio.ensure_future(one.create_topics([TopicSpec("t")], 10_000, False))
        await until(lambda: "t" in one.state.topics)
        assert not answer.done()
        held.set()
        assert (await answer)[0].error_code == ErrorCode.NONE

    run(scenario)


def test_a_commit_under_way_does_not_hold_up_a_shard_and_its_answer_waits_for_it() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        cluster.store.gate.clear()
        answer = asyncio.ensure_future(one.create_topics([TopicSpec("t")], 10_000, False))
        await until(lambda: cluster.controller._commit_lock.locked())
        held = asyncio.Event()
        two = await cluster.add_shard(held_back(held))
        assert not two.state.topics
        cluster.store.gate.set()
        await until(lambda: "t" in one.state.topics and "t" in two.state.topics)
        await until(lambda: cluster.controller._shards[0].applied == 1)
        assert not answer.done()
        held.set()
        assert (await answer)[0].error_code == ErrorCode.NONE

    run(scenario)


def test_a_new_life_of_a_shard_owes_its_own_acknowledgements() -> None:
    async def scenario(cluster: Cluster) -> None:
        one, two = await cluster.add_shard(), await cluster.add_shard()
        await one.create_topics([TopicSpec("t")], 10_000, False)
        cluster.controller.detach(1)
        await two.close()
        recovery = Recovery()
        again = asyncio.ensure_future(cluster.add_shard(recovery, index=1))
        await until(lambda: recovery.calls == [None])
        await one.create_topics([TopicSpec("u")], 10_000, False)  # nobody waits for the new life
        assert not again.done()
        recovery.ended.set()
        assert (await again).state == cluster.state

    run(scenario)


def test_a_shard_that_overflows_while_it_recovers_serves_after_the_snapshot() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        recovery = Recovery()
        starting = asyncio.ensure_future(cluster.add_shard(recovery, queue_max=1))
        await until(lambda: recovery.calls == [None])
        for number in range(30):
            padding = [("leader.replication.throttled.replicas", "x" * 20_000)]
            spec = TopicSpec(f"t{number}", 1, configs=padding)
            (result,) = await one.create_topics([spec], 10_000, False)
            assert result.error_code == ErrorCode.NONE
        recovery.ended.set()
        assert (await starting).state == cluster.state
        assert len(recovery.calls) < 30

    run(scenario, control_queue_max=2)


# Shards that do not serve are not in Metadata.


def test_a_shard_that_is_left_out_keeps_its_partitions_and_gets_no_new_ones() -> None:
    async def scenario(cluster: Cluster) -> None:
        one, two = await cluster.add_shard(), await cluster.add_shard()
        await one.create_topics([TopicSpec("t", 2)], 10_000, False)
        assert not await cluster.controller.leave_out(1)
        assert set(cluster.state.nodes) == {0, 1}  # it serves
        cluster.controller.detach(1)
        await two.close()
        assert await cluster.controller.leave_out(1)
        assert not await cluster.controller.leave_out(1)  # which it is already
        await until(lambda: set(one.state.nodes) == {0})
        await cluster.controller.take_leadership(0)
        await one.create_topics([TopicSpec("u", 2)], 10_000, False)
        leaders = {t.name: [p.leader for p in t.partitions] for t in one.state.topics.values()}
        assert leaders == {"t": [0, 1], "u": [0, 0]}
        again = await cluster.add_shard(index=1)
        await until(lambda: set(one.state.nodes) == set(again.state.nodes) == {0, 1})

    run(scenario)


def test_a_shard_that_dies_again_and_again_before_it_serves_is_not_named() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        await cluster.add_shard(ready=False)
        assert await cluster.controller.leave_out(1)  # though it may serve
        await until(lambda: set(one.state.nodes) == {0})
        for _ in range(3):
            cluster.controller.detach(1)
            await cluster.add_shard(index=1, ready=False)
            assert not await cluster.controller.leave_out(1)
        assert len(cluster.store.deltas) == 1
        cluster.replicas[-1].ready()
        await until(lambda: set(one.state.nodes) == {0, 1})

    run(scenario)


def test_a_shard_that_died_is_not_named_by_what_its_last_life_has_said() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.add_shard()
        await cluster.add_shard(ready=False)
        assert await cluster.controller.leave_out(1)
        async with cluster.controller._commit_lock:  # as a commit before does
            cluster.controller.serves(1)
            cluster.controller.detach(1)
            await cluster.add_shard(index=1, ready=False)
        await asyncio.sleep(0)
        assert not await cluster.controller.leave_out(1)
        assert set(cluster.state.nodes) == {0}

    run(scenario)


def test_a_shard_that_cannot_be_named_yet_serves_and_is_named_once_it_can() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        await cluster.controller.leave_out(1)
        cluster.store.broken = True
        await cluster.add_shard()
        text = "a shard serves and Metadata cannot name it yet"
        await until(lambda: text in cluster.log.events)
        assert set(one.state.nodes) == {0}
        cluster.store.broken = False
        await until(lambda: set(one.state.nodes) == {0, 1})

    run(scenario, restart_backoff_s=0.001, restart_backoff_s_max=0.01)


def test_what_nobody_foresaw_when_a_shard_is_named_is_heard_of() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.controller.leave_out(0)

        def fails(delta: Delta) -> None:
            raise ZeroDivisionError

        cluster.store.commit = fails  # type: ignore[method-assign]
        await cluster.add_shard()
        await until(lambda: bool(cluster.failures))

    assert [type(error) for error in run(scenario).failures] == [ZeroDivisionError]


def test_a_delta_and_a_snapshot_are_encoded_once_for_all_shards() -> None:
    async def scenario(cluster: Cluster) -> None:
        frames: list[bytes] = []
        for link in [(await cluster.add_shard(), cluster.links[-1])[1] for _ in range(2)]:
            link.send_delta = frames.append  # type: ignore[method-assign]
        controller = cluster.controller
        assert controller.snapshot_frame() is controller.snapshot_frame()
        await controller.handle(
            {
                "op": "create_topics",
                "topics": [["t", 1, 1, [], []]],
                "timeout_ms": 0,
                "give_up_s": math.inf,
            }
        )
        assert len(frames) == 2
        assert frames[0] is frames[1]
        assert b'"t"' in controller.snapshot_frame()

    run(scenario)
