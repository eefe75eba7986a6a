"""The controller with real replicas: commits, deltas, acknowledgements, timeouts and forks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from rpk_py.log_limit import ADDRESS_LINES_MAX
from rpk_py.metadata.config_plan import BROKER, TOPIC
from rpk_py.metadata.controller import start_leadership_blocking
from rpk_py.metadata.replica import AUTO_CREATING_MAX
from rpk_py.metadata.requests import ConfigResource, ConfigResult, PartitionsSpec, TopicSpec
from rpk_py.metadata.state import ClusterState, Delta, apply
from tests.broker.cluster import Cluster, MemoryStore, held_back, make_state, run, until


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
        one = await cluster.add_shard()
        two = await cluster.add_shard(held_back(opened))
        answer = asyncio.ensure_future(one.create_topics([TopicSpec("t")], 10_000, False))
        await until(lambda: "t" in one.state.topics and "t" in two.state.topics)
        assert not answer.done()
        opened.set()
        assert (await answer)[0].error_code == ErrorCode.NONE

    run(scenario)


def test_at_the_timeout_the_answer_is_request_timed_out_though_the_topic_exists() -> None:
    async def scenario(cluster: Cluster) -> None:
        never = asyncio.Event()
        one = await cluster.add_shard()
        await cluster.add_shard(held_back(never))
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
        one = await cluster.add_shard()
        await cluster.add_shard(held_back(never))
        answer = asyncio.ensure_future(one.create_topics([TopicSpec("t")], 10_000, False))
        await until(lambda: "t" in one.state.topics)
        cluster.controller.detach(1)
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


def test_a_commit_that_failed_and_holds_all_the_same_reaches_every_shard_and_commits_go_on() -> (
    None
):
    async def scenario(cluster: Cluster) -> None:
        one, two = await cluster.add_shard(), await cluster.add_shard()
        cluster.store.fails_after = True
        (result,) = await one.create_topics([TopicSpec("t")], 10_000, False)
        assert result.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        cluster.store.fails_after = False
        # Without another request: what is served must be what the next start would find.
        await until(lambda: "t" in one.state.topics and "t" in two.state.topics)
        assert set(one.state.nodes) == {0, 1}
        results = await two.create_topics([TopicSpec("t"), TopicSpec("u")], 10_000, False)
        assert [r.error_code for r in results] == [ErrorCode.TOPIC_ALREADY_EXISTS, 0]
        assert one.state == two.state == cluster.state

    run(scenario)


def test_nothing_is_changed_before_the_store_has_said_what_a_failed_commit_has_left() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        await one.create_topics([TopicSpec("a")], 10_000, False)
        cluster.store.fails_after = cluster.store.will_not_open = True
        await one.create_topics([TopicSpec("t")], 10_000, False)
        cluster.store.fails_after = False
        (result,) = await one.create_topics([TopicSpec("u")], 10_000, False)
        assert result.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert len(cluster.store.deltas) == 2
        cluster.store.will_not_open = False
        await until(lambda: "t" in one.state.topics)
        (result,) = await one.create_topics([TopicSpec("u")], 10_000, False)
        assert result.error_code == ErrorCode.NONE

    run(scenario, restart_backoff_s=0.001, restart_backoff_s_max=0.01)


def test_a_store_that_has_lost_a_commit_is_not_written_to() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        await one.create_topics([TopicSpec("t")], 10_000, False)
        cluster.store.deltas.clear()
        cluster.store.broken = True
        await one.create_topics([TopicSpec("u")], 10_000, False)
        cluster.store.broken = False
        (result,) = await one.create_topics([TopicSpec("u")], 10_000, False)
        assert "is at revision 0, and 1 was committed" in (result.error_message or "")
        assert not cluster.store.deltas

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
        cluster.dropped = "delta"
        await one.create_topics([TopicSpec("lost")], 0, False)
        cluster.dropped = ""
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


def test_names_that_cannot_be_created_do_not_fill_the_log() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        for number in range(50):
            one.auto_create(f"/{number}")
        await until(lambda: not one._auto_creating)

    events = run(scenario).log.events
    assert events.count("a topic could not be created automatically") == ADDRESS_LINES_MAX


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
        one.snapshot_metrics = lambda: [{"rows": {}}, {"partitions": []}]
        both = [cluster.links[0].fetch_metrics() for _ in range(2)]
        assert await asyncio.gather(*both) == [[{"rows": {}}, {"partitions": []}]] * 2
        stopped = asyncio.Event()
        one.on_stop = stopped.set
        cluster.links[0].send({"type": "stop"})
        await stopped.wait()

    run(scenario)


def test_a_snapshot_that_fails_half_way_is_none() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()

        def breaks() -> Iterator[dict[str, Any]]:
            yield {"rows": {}}
            raise RuntimeError("as a bug would")

        one.snapshot_metrics = breaks
        assert await cluster.links[0].fetch_metrics() is None
        one.snapshot_metrics = lambda: [{"rows": {}}]
        assert await cluster.links[0].fetch_metrics() == [{"rows": {}}]

    assert "a metrics snapshot failed" in run(scenario).log.events


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
    assert "the metadata store cannot be opened yet" in log.events


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
        cluster.dropped = "snapshot"
        starting = asyncio.ensure_future(cluster.add_shard())
        await until(lambda: 0 in cluster.controller._shards)
        cluster._tasks[0].cancel()
        with pytest.raises(ConnectionError, match="supervisor is gone"):
            await starting

    run(scenario)


def test_a_start_commits_the_next_leader_epochs_before_anyone_serves() -> None:
    state, store = make_state("a", "b"), MemoryStore()
    store.open()
    expected = make_state()
    expected.replace(state)
    start_leadership_blocking(store, state, [0, 1])
    (delta,) = store.deltas
    assert delta.revision == state.revision == 1
    assert {t.partitions[0].leader_epoch for t in state.topics.values()} == {1}


def test_a_start_without_topics_commits_nothing() -> None:
    store = MemoryStore()
    start_leadership_blocking(store, make_state(), [0, 1])
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


def test_create_partitions_is_answered_when_every_shard_has_the_new_ones() -> None:
    async def scenario(cluster: Cluster) -> None:
        one, two = await cluster.add_shard(), await cluster.add_shard()
        await one.create_topics([TopicSpec("t", 1)], 10_000, False)
        specs = [PartitionsSpec("t", 3), PartitionsSpec("nope", 1)]
        dry = await two.create_partitions(specs, 10_000, True)
        assert [r.error_code for r in dry] == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        assert len(one.state.topics["t"].partitions) == 1
        assert await two.create_partitions(specs, 10_000, False) == dry
        assert one.state == two.state == cluster.state
        assert [p.leader for p in one.state.topics["t"].partitions] == [0, 1, 0]

    run(scenario)


def test_altered_configs_reach_every_shard_and_bad_ones_nobody() -> None:
    async def scenario(cluster: Cluster) -> None:
        one, two = await cluster.add_shard(), await cluster.add_shard()
        await one.create_topics([TopicSpec("t")], 10_000, False)
        topic = ConfigResource(TOPIC, "t", [("flush.ms", 0, "7"), ("segment.bytes", 0, "1048576")])
        broker = ConfigResource(BROKER, "", [("message.max.bytes", 0, "2000")])
        bad = ConfigResource(BROKER, "1", [("no.such.thing", 0, "1")])
        results = await two.alter_configs([topic, broker, bad], True, False)
        assert [(r.kind, r.name) for r in results] == [(TOPIC, "t"), (BROKER, ""), (BROKER, "1")]
        assert [r.error_code == 0 for r in results] == [True, True, False]
        assert one.state == two.state == cluster.state
        assert one.state.topics["t"].configs == {"flush.ms": "7", "segment.bytes": "1048576"}
        assert one.state.broker_configs == {"": {"message.max.bytes": "2000"}}
        removed = ConfigResource(TOPIC, "t", [("flush.ms", 1, None)])
        assert await one.alter_configs([removed], True, True) == [ConfigResult(TOPIC, "t")]
        assert "flush.ms" in two.state.topics["t"].configs  # validate only
        await one.alter_configs([removed], True, False)
        assert two.state.topics["t"].configs == {"segment.bytes": "1048576"}

    run(scenario)


def test_configs_without_effect_are_reported_when_set_and_not_when_checked() -> None:
    async def scenario(cluster: Cluster) -> None:
        one = await cluster.add_shard()
        idle = "leader.replication.throttled.replicas"
        spec = TopicSpec("t", configs=[(idle, "0:1"), ("flush.ms", "7")])
        change = ConfigResource(TOPIC, "t", [(idle, 0, "0:2")])
        await one.create_topics([spec], 10_000, True)
        assert not cluster.log.events
        await one.create_topics([spec], 10_000, False)
        assert len(cluster.log.events) == 1
        await one.alter_configs([change], True, True)
        assert len(cluster.log.events) == 1
        await one.alter_configs([change], True, False)
        assert cluster.log.events == 2 * [
            "these topic configs are stored but have no effect in this version"
        ]
        others = [ConfigResource(TOPIC, "t", [("flush.ms", 0, "8"), (idle, 0, "0:2")])]
        assert [result.error_code for result in await one.alter_configs(others, True, False)] == [0]
        removed = [ConfigResource(TOPIC, "t", [(idle, 1, None)])]
        assert [result.error_code for result in await one.alter_configs(removed, True, False)] == [
            0
        ]
        assert len(cluster.log.events) == 2, "what is not set anew is not told anew"

    run(scenario)
