"""What bounds the traffic between shards and controller: bytes, time, and signs of life."""

from __future__ import annotations

import asyncio
import socket

import pytest

from kafka_protocol.errors import ErrorCode
from rpk_py.metadata import replica as replica_module
from rpk_py.metadata.controller import STATE_SHARE_MAX
from rpk_py.metadata.replica import open_replica
from rpk_py.metadata.requests import TopicSpec
from rpk_py.metadata.state import ClusterState, Delta
from tests.broker.cluster import Cluster, SilentLog, held_back, run, until


def test_what_nobody_waits_for_any_more_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "_REPLY_GRACE_S", 0.0)

    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        async with cluster.controller._commit_lock:  # as a slow commit before does
            (late,) = await one.create_topics([TopicSpec("late")], 20, False)
        assert late.error_code == ErrorCode.REQUEST_TIMED_OUT
        (result,) = await one.create_topics([TopicSpec("t")], 10_000, False)
        assert result.error_code == ErrorCode.NONE
        assert list(cluster.state.topics) == ["t"]

    run(scenario)


def test_clients_cannot_make_the_metadata_larger_than_a_shard_can_be_sent() -> None:
    limit = 1 << 20

    async def scenario(cluster: Cluster) -> None:
        one, two = await cluster.add_shard(), await cluster.add_shard()
        codes = []
        for number in range(5):
            spec = TopicSpec(f"t{number}", 10_000)
            (dry,) = await two.create_topics([spec], 60_000, True)
            (result,) = await one.create_topics([spec], 60_000, False)
            refused = result.error_code == ErrorCode.POLICY_VIOLATION
            assert refused == ("control_frame_bytes_max" in (result.error_message or ""))
            assert dry.error_code == result.error_code
            codes.append(result.error_code)
        fit = codes.index(ErrorCode.POLICY_VIOLATION)
        assert codes == [0] * fit + [ErrorCode.POLICY_VIOLATION] * (5 - fit)
        assert limit // 2 < len(cluster.controller.snapshot_frame()) < limit * STATE_SHARE_MAX
        # What makes it smaller is never refused, and makes room.
        await two.delete_topics([("t0", None), ("t1", None)], 60_000)
        (result,) = await one.create_topics([TopicSpec("again", 10_000)], 60_000, False)
        assert result.error_code == 0
        assert one.state == two.state == cluster.state

    run(scenario, control_frame_bytes_max=limit, partitions_max=1_000_000)


def test_a_request_that_is_too_large_for_the_channel_is_refused_and_the_shard_lives() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        spec = TopicSpec("t", configs=[("cleanup.policy", "x" * (1 << 20))])
        (result,) = await one.create_topics([spec], 10_000, False)
        assert result.error_code == ErrorCode.POLICY_VIOLATION
        (result,) = await one.create_topics([TopicSpec("t")], 10_000, False)
        assert result.error_code == ErrorCode.NONE

    run(scenario, control_frame_bytes_max=1 << 20)


def test_requests_do_not_pile_up_for_a_supervisor_that_stands_still() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with ours:
            replica = await open_replica(0, theirs, SilentLog(), frame_bytes_max=1 << 20)
            spec = TopicSpec("t", configs=[("cleanup.policy", "x" * 100_000)])
            asking = [
                asyncio.ensure_future(replica.create_topics([spec], 60_000, False))
                for _ in range(100)
            ]
            await asyncio.sleep(0)
            assert 0 < replica._unsent_bytes <= 1 << 20
            refused = [task.result()[0] for task in asking if task.done()]
            assert {result.error_code for result in refused} == {ErrorCode.REQUEST_TIMED_OUT}
            assert 80 < len(refused) < 100
            await replica.close()
            await asyncio.gather(*asking)

    asyncio.run(scenario())


def test_a_stop_is_heard_by_a_shard_that_cannot_keep_up() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        never, stopped = asyncio.Event(), asyncio.Event()

        async def stuck(delta: Delta | None, state: ClusterState) -> None:
            await never.wait()

        starting = asyncio.ensure_future(cluster.add_shard(stuck, queue_max=2))
        await until(lambda: len(cluster.replicas) == 2)
        cluster.replicas[1].on_stop = stopped.set
        for number in range(10):
            await one.create_topics([TopicSpec(f"t{number}")], 10_000, False)
        cluster.links[1].send({"type": "stop"})
        await stopped.wait()
        starting.cancel()

    run(scenario)


def test_a_shard_that_applies_for_long_shows_that_it_lives() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        held = asyncio.Event()
        await cluster.add_shard(held_back(held))
        answer = asyncio.ensure_future(one.create_topics([TopicSpec("t")], 10_000, False))
        await until(lambda: "t" in one.state.topics)
        await until(lambda: not cluster.controller.is_behind(0))
        for _ in range(3):
            cluster.links[1].heard = False
            await until(lambda: cluster.links[1].heard)
            assert cluster.controller.is_behind(1)
        held.set()
        await answer
        assert not cluster.controller.is_behind(1)

    run(scenario)
