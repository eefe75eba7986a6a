"""PartitionTable: it follows the metadata, on a real disk."""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.errors import DecodeError, ErrorCode
from rpk_py import partition_table as table_module
from rpk_py.metadata.state import (
    ClusterState,
    Delta,
    PartitionsChanged,
    PartitionState,
    TopicConfigsChanged,
    TopicCreated,
    TopicDeleted,
    TopicState,
    apply,
)
from rpk_py.topic_configs import log_settings
from storage.errors import CorruptRecord, LockTimeout
from storage.open_many import open_logs
from tests.broker.connection_fakes import NODE, OTHER_NODE, Shard, run, running, ticks, until
from tests.broker.request_builders import BATCH, batch_of, values_of


def leads(index: int, leader: int, epoch: int) -> PartitionState:
    return PartitionState(index, leader, epoch, [leader], [leader])


def recreated(old: TopicState) -> tuple[TopicDeleted, TopicCreated]:
    """The changes that delete a topic and make one of the same name."""
    new = TopicState(old.name, b"\1" * 16, [leads(0, NODE, 1)])
    return TopicDeleted(old.name, old.topic_id), TopicCreated(new)


def directories(directory: Path) -> set[str]:
    """The partitions' directories."""
    return {path.name for path in directory.iterdir()} - {"recycle", "trash"}


def discarded(directory: Path) -> bool:
    """Whether nothing of deleted partitions is left on the disk."""
    trash = directory / "trash"
    return not trash.exists() or not any(trash.iterdir())


# -- open, delete, recreate ----------------------------------------------------------------------


def test_a_created_topic_is_served_where_this_node_leads(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t", NODE, OTHER_NODE, NODE)
            table = shard.table
            assert len(table) == 2
            assert {(p.topic, p.index) for p in table} == {("t", 0), ("t", 2)}
            assert table.get("t", 1) is table.get("u", 0) is None
            assert table.get_by_id(topic.topic_id, 2) is table.get("t", 2)
            state = shard.controller.state
            error, elsewhere = table.why_missing(state, "t", None, 1)
            assert (error, elsewhere) == (ErrorCode.NOT_LEADER_OR_FOLLOWER, topic.partitions[1])
            assert directories(tmp_path) == set(), "a directory is made by the first write"
            await shard.fill("t", 1, 2)
            assert directories(tmp_path) == {"t-2"}

    run(scenario())


def test_a_deleted_topic_is_off_the_disk_when_the_delta_is_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t", NODE, NODE)
            await shard.create("t-1")  # its directory t-1-0 is not a part of t
            for name in ("t", "t-1"):
                await shard.fill(name, 1)
            await shard.controller.commit(TopicDeleted("t", topic.topic_id))
            assert directories(tmp_path) == {"t-1-0"}
            assert shard.table.get("t", 0) is None
            assert shard.table.get_by_id(topic.topic_id, 1) is None
            await until(lambda: discarded(tmp_path))
            answer = await shard.client().produce("t", BATCH)
            assert answer.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert len(values_of(await shard.client().fetch("t-1", 0))) == 1

    run(scenario())


def test_a_produce_that_waits_for_the_disk_is_told_of_the_deletion(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t")
            shard.disk.hold = True
            client = shard.client()
            asked = shard.loop.create_task(client.produce("t", BATCH))
            await until(lambda: shard.disk.held)
            deleting = shard.loop.create_task(
                shard.controller.commit(TopicDeleted("t", topic.topic_id))
            )
            answer = await asked
            assert answer.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            shard.disk.release()
            await deleting
            assert directories(tmp_path) == set()

    run(scenario())


def test_a_topic_created_again_has_a_new_id_and_no_old_data(tmp_path: Path) -> None:
    async def scenario() -> ClusterState:
        async with running(tmp_path) as shard:
            old = await shard.create("t")
            await shard.fill("t", 3)
            await shard.controller.commit(*recreated(old))
            assert shard.table.get_by_id(old.topic_id, 0) is None
            assert (await shard.client().fetch("t", 0)).high_watermark == 0
            await shard.fill("t", 1)
            return shard.state

    async def after(state: ClusterState) -> None:
        async with running(tmp_path, state=state) as shard:
            assert shard.partition("t").topic_id == b"\1" * 16
            assert (await shard.client().fetch("t", 0)).high_watermark == 1

    run(after(run(scenario())))


def test_a_topic_deleted_and_created_again_while_down_has_no_old_data(tmp_path: Path) -> None:
    async def before() -> ClusterState:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 3)
            return shard.state

    async def after(state: ClusterState) -> None:
        apply(state, Delta(state.revision + 1, recreated(state.topics["t"])))
        async with running(tmp_path, state=state) as shard:
            assert shard.partition("t").high_watermark == 0
            assert any("deleted topic" in event for event in shard.events)
            await shard.fill("t", 1)
        async with running(tmp_path, state=state) as shard:
            assert shard.partition("t").high_watermark == 1
            await until(lambda: discarded(tmp_path))

    run(after(run(before())))


# -- start ---------------------------------------------------------------------------------------


def test_directories_of_deleted_topics_are_discarded_at_the_start(tmp_path: Path) -> None:
    async def before() -> ClusterState:
        async with running(tmp_path) as shard:
            for name in ("gone", "kept", "kept-1"):
                await shard.create(name)
                await shard.fill(name, 1)
            return shard.state

    async def after(state: ClusterState) -> None:
        gone = TopicDeleted("gone", state.topics["gone"].topic_id)
        apply(state, Delta(state.revision + 1, (gone,)))
        left = tmp_path / "trash" / "0123"  # a deletion that a crash interrupted
        left.mkdir(parents=True)
        (left / "x.checkpoint").write_bytes(b"x")
        async with running(tmp_path, state=state) as shard:
            await until(lambda: discarded(tmp_path))
            assert directories(tmp_path) == {"kept-0", "kept-1-0"}
            assert len(values_of(await shard.client().fetch("kept-1", 0))) == 1
            assert shard.events == []

    run(after(run(before())))


def test_what_the_metadata_never_knew_is_left_alone(tmp_path: Path) -> None:
    async def before() -> None:
        async with running(tmp_path) as shard:
            await shard.create("orphan")
            await shard.fill("orphan", 1)

    async def after() -> None:
        (tmp_path / "lost+found").mkdir()
        (tmp_path / "backup-2024").mkdir()
        (tmp_path / "note-1").write_text("not a directory")
        async with running(tmp_path) as shard:
            assert directories(tmp_path) == {"orphan-0", "lost+found", "backup-2024", "note-1"}
            told = {facts["directory"] for _, facts in shard.log.lines}
            assert str(tmp_path / "orphan-0") in told
            assert discarded(tmp_path)

    run(before())
    run(after())


def test_a_new_topic_of_the_same_name_neither_serves_nor_removes_unknown_data(
    tmp_path: Path,
) -> None:
    async def before() -> bytes:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 3)
        (path,) = (tmp_path / "t-0").glob("*.wal")
        return path.read_bytes()

    async def after(data: bytes) -> None:
        async with running(tmp_path) as shard:  # the metadata knows nothing of it
            topic = await shard.create("t", topic_id=b"another topic id")
            answer = await shard.client().produce("t", BATCH)
            assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
            await shard.controller.commit(TopicDeleted("t", topic.topic_id))
            assert "the directory of a deleted partition is left alone" in shard.events
        (path,) = (tmp_path / "t-0").glob("*.wal")
        assert path.read_bytes() == data

    run(after(run(before())))


def test_a_directory_that_cannot_be_read_does_not_keep_the_others_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def before() -> ClusterState:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 1)
            return shard.state

    async def after(state: ClusterState) -> None:
        (tmp_path / "foreign-1").mkdir()
        async with running(tmp_path, state=state) as shard:
            assert shard.partition("t").high_watermark == 1
            assert "cannot look at a directory" in shard.events

    def refused(directory: Path, _topic_ids: object, _trash: Path) -> None:
        raise PermissionError(13, "Permission denied", str(directory))

    state = run(before())
    monkeypatch.setattr(table_module, "discard_unopened", refused)
    run(after(state))


@pytest.mark.parametrize(
    "error",
    [
        CorruptRecord("it is damaged"),
        LockTimeout("it is locked"),
        PermissionError(13, "Permission denied"),
        ValueError("a snapshot is nonsense"),
        DecodeError("a batch is nonsense"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_partition_that_cannot_be_opened_is_offline_and_the_others_serve(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_some(context: Any, wanted: Any, *rest: Any) -> list[Any]:
        logs = await open_logs(context, wanted, *rest)
        return [
            error if one.directory.name == "bad-1" else log
            for one, log in zip(wanted, logs, strict=True)
        ]

    monkeypatch.setattr(table_module, "open_logs", open_some)

    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("bad", NODE, NODE)
            await shard.create("good")
            ((_, facts),) = [line for line in shard.log.lines if line[0] == "partition is offline"]
            assert facts["partition"] == "bad-1"
            client = shard.client()
            answer = await client.produce("bad", BATCH, index=1)
            assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
            assert answer.error_message == str(error)
            found = await client.fetch("bad", 0, index=1)
            assert found.error_code == ErrorCode.KAFKA_STORAGE_ERROR
            for name in ("bad", "good"):
                assert (await client.produce(name, BATCH)).error_code == 0
            await shard.controller.commit(TopicDeleted("bad", topic.topic_id))
            assert len(shard.table) == 1

    run(scenario())


def test_real_damage_takes_one_partition_offline_and_deletion_removes_it(tmp_path: Path) -> None:
    async def before() -> ClusterState:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE)
            for index in (0, 1):
                await shard.fill("t", 3, index)
            return shard.state

    async def after(state: ClusterState) -> None:
        (path,) = (tmp_path / "t-1").glob("*.wal")
        os.truncate(path, 8192)
        async with running(tmp_path, state=state) as shard:
            assert {p.index: p.offline for p in shard.table} == {0: False, 1: True}
            assert path.stat().st_size == 8192, "nothing is cut"
            await shard.controller.commit(TopicDeleted("t", state.topics["t"].topic_id))
            assert directories(tmp_path) == set()

    run(after(run(before())))


# -- changes -------------------------------------------------------------------------------------


def test_leadership_that_moves_away_closes_the_log_and_back_opens_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE)
            await shard.fill("t", 2)
            log = shard.log_of("t")
            await shard.move("t", OTHER_NODE)
            assert len(shard.table) == 0
            assert all(segment.fd == -1 for segment in log._segments)
            assert list((tmp_path / "t-0").glob("*.checkpoint"))
            answer = await shard.client().produce("t", BATCH)
            assert answer.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
            await shard.move("t", NODE)
            partition = shard.partition("t")
            assert (partition.leader_epoch, partition.high_watermark) == (5, 2)
            await shard.fill("t", 1)
            assert shard.log_of("t").epochs == [(3, 0), (5, 2)]

    run(scenario())


def test_a_new_epoch_and_new_partitions_are_taken_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t")
            await shard.fill("t", 1)
            log = shard.log_of("t")
            changed = (leads(0, NODE, 7), leads(1, NODE, 0), leads(2, OTHER_NODE, 0))
            await shard.controller.commit(PartitionsChanged(topic.topic_id, changed))
            assert shard.log_of("t") is log, "it is not opened anew"
            assert shard.partition("t").leader_epoch == 7
            assert log.epochs == [(3, 0), (7, 1)]
            assert sorted(p.index for p in shard.table) == [0, 1]
            await shard.fill("t", 1, index=1)

    run(scenario())


def test_configs_that_change_take_effect_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t")
            partition = shard.partition("t")
            configs = {"max.message.bytes": "100", "message.timestamp.type": "LogAppendTime"}
            await shard.controller.commit(TopicConfigsChanged(topic.topic_id, configs))
            assert (partition.max_message_bytes, partition.log_append_time) == (100, True)
            await shard.controller.commit(TopicConfigsChanged(topic.topic_id, {}))
            limit = shard.config.max_message_bytes
            assert (partition.max_message_bytes, partition.log_append_time) == (limit, False)

    run(scenario())


def test_without_write_caching_the_high_watermark_stays_and_acknowledgements_wait(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            never = str(2**63 - 1)
            topic = await shard.create("t", write_caching="true", flush_ms=never, flush_bytes=never)
            shard.disk.hold = True
            await shard.fill("t", 2)
            partition, log = shard.partition("t"), shard.log_of("t")
            assert (partition.high_watermark, log.durable_offset) == (2, 0)
            await shard.controller.commit(TopicConfigsChanged(topic.topic_id, {}))
            assert partition.high_watermark == 2
            producing = asyncio.create_task(shard.client().produce("t", BATCH))
            await until(lambda: shard.disk.held)
            await ticks()
            assert (partition.high_watermark, producing.done()) == (2, False)
            shard.disk.release()
            assert (await producing).base_offset == 2
            assert partition.high_watermark == log.durable_offset == 3

    run(scenario())


def test_changed_broker_settings_reach_the_topics_that_do_not_set_their_own(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("own", flush_ms="7")
            await shard.create("broker")
            changed = replace(shard.config, flush_ms=55, segment_bytes=1 << 20, write_caching=True)
            await shard.table.configure(changed, shard.state)
            await shard.create("later")
            found = {
                name: (config.flush_ms, config.segment_bytes, config.write_caching)
                for name in ("own", "broker", "later")
                for config in [shard.log_of(name).config]
            }
            assert found == {
                "own": (7, 1 << 20, True),
                "broker": (55, 1 << 20, True),
                "later": (55, 1 << 20, True),
            }

    run(scenario())


@pytest.mark.parametrize("how", ["broker", "topic"])
def test_a_change_of_many_partitions_lets_others_run_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(table_module, "SLICE_PARTITIONS", 5)
    read: list[object] = []

    def counted(*args: Any) -> Any:
        read.append(args)
        return log_settings(*args)

    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t", *[NODE, OTHER_NODE] * 20)
            monkeypatch.setattr(table_module, "log_settings", counted)
            if how == "broker":
                changed = replace(shard.config, flush_ms=55)
                work: Any = shard.table.configure(changed, shard.state)
            else:
                work = shard.controller.commit(
                    TopicConfigsChanged(topic.topic_id, {"flush.ms": "55"})
                )
            changing = asyncio.create_task(work)
            done: list[int] = []
            while not changing.done():
                await asyncio.sleep(0)
                configs = [p.log.config for p in shard.table if p.log is not None]
                done.append(sum(config.flush_ms == 55 for config in configs))
            assert done[-1] == len(shard.table) == 20
            steps = [after - before for before, after in itertools.pairwise(done)]
            assert max(done[0], *steps) <= 5
            assert len(read) == 1, "once a topic"

    run(scenario())


# -- a whole new state, after a gap --------------------------------------------------------------


def test_after_a_gap_every_kind_of_change_is_made_up_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            for name in ("gone", "moved", "led", "changed", "same"):
                await shard.create(name)
                await shard.fill(name, 1)
            same = shard.log_of("same")
            topics = shard.controller.state.topics
            topics["moved"].partitions[0] = leads(0, OTHER_NODE, 4)
            topics["led"].partitions[0] = leads(0, NODE, 9)
            topics["changed"].configs["max.message.bytes"] = "100"
            gone = topics["gone"]
            apply(
                shard.state, Delta(shard.state.revision + 1, (TopicDeleted("gone", gone.topic_id),))
            )
            new = TopicState("new", b"\1" * 16, [leads(0, NODE, 1)])
            shard.controller.state.add_topic(new)
            await shard.controller.replace()
            assert {p.topic for p in shard.table} == {"led", "changed", "same", "new"}
            assert shard.partition("led").leader_epoch == 9
            assert shard.partition("changed").max_message_bytes == 100
            assert shard.log_of("same") is same
            await until(lambda: discarded(tmp_path))
            assert directories(tmp_path) == {"moved-0", "led-0", "changed-0", "same-0"}
            await shard.fill("new", 1)
            assert shard.events == []

    run(scenario())


def test_after_a_gap_retired_segments_can_still_be_used(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            old = [await shard.create(name) for name in ("a", "b")]
            for topic in old:
                await shard.fill(topic.name, 1)  # 64 KiB of space: enough to be kept
            await shard.controller.commit(*(TopicDeleted(t.name, t.topic_id) for t in old))
            pool = shard.context.pool
            await until(lambda: discarded(tmp_path) and len(pool._files) == 2)
            await shard.controller.replace()
            for i in range(3):
                await shard.create(f"new{i}")
                await shard.fill(f"new{i}", 1)
            assert pool.reused_count == 2
            assert shard.events == []

    run(scenario())


# -- the end -------------------------------------------------------------------------------------


def test_close_makes_everything_durable_and_checkpoints_it(tmp_path: Path) -> None:
    async def before() -> ClusterState:
        shard = Shard(tmp_path)
        await shard.start()
        await shard.create("t", NODE, NODE, write_caching="true", flush_ms="100000")
        client = shard.client()
        for index in (0, 1):
            await client.produce("t", batch_of(b"%d" % index), index=index)
            assert shard.log_of("t", index).durable_offset == 0
        await shard.stop()
        assert [p.log.durable_offset for p in shard.table if p.log] == [1, 1]
        for index in (0, 1):
            assert list((tmp_path / f"t-{index}").glob("*.checkpoint"))
            (wal,) = (tmp_path / f"t-{index}").glob("*.wal")
            assert wal.stat().st_size == 3 * 4096, "no preallocated space is left to scan"
        return shard.state

    async def after(state: ClusterState) -> None:
        async with running(tmp_path, state=state) as shard:
            for index in (0, 1):
                found = await shard.client().fetch("t", 0, index=index)
                assert values_of(found) == [(0, b"%d" % index)]
            assert shard.events == []

    run(after(run(before())))


@pytest.mark.parametrize("when", ["at the end", "as leadership moves", "as it is deleted"])
def test_a_partition_that_cannot_be_closed_does_not_keep_the_others_open(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t", NODE, NODE, NODE)
            for index in range(3):
                await shard.fill("t", 1, index)
            logs = [shard.log_of("t", index) for index in range(3)]

            async def fails(*_: object) -> None:
                raise OSError(5, "Input/output error")

            monkeypatch.setattr(logs[1], "close", fails)
            monkeypatch.setattr(logs[1], "delete", fails)
            if when == "at the end":
                await shard.table.close()
            elif when == "as leadership moves":
                await shard.move("t", OTHER_NODE)
                assert len(shard.table) == 0
            else:
                await shard.controller.commit(TopicDeleted("t", topic.topic_id))
                assert len(shard.table) == 0
            for log in (logs[0], logs[2]):
                assert all(segment.fd == -1 for segment in log._segments)
            assert any("Input/output error" in str(facts) for _, facts in shard.log.lines)
            monkeypatch.undo()
            await logs[1].close()

    run(scenario())
