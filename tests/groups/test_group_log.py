"""What stands in the log of a partition of groups, with every turn of the loop used against it.

The disk is a list here: what is appended becomes durable a turn later. Turns end at once, so that
whatever gives way meets other requests at the worst moment.
"""

from __future__ import annotations

import asyncio
from typing import Any

from kafka_protocol import group_records
from kafka_protocol.errors import ErrorCode
from kafka_protocol.record_batch import BatchHeader, iter_records
from rpk_py.groups.classic_values import GroupSettings
from rpk_py.groups.consumer_values import ConsumerSettings
from rpk_py.groups.group import GroupFactory
from rpk_py.groups.group_log import CHUNK_RECORDS, GroupLog
from rpk_py.groups.offsets import OffsetToCommit
from rpk_py.groups.records import partitions_of, topics_of
from rpk_py.groups.settings import CoordinatorSettings
from rpk_py.metadata.state import ClusterState
from rpk_py.turns import Turns
from storage.errors import DiskFailed

GROUPS = 3 * CHUNK_RECORDS
SETTINGS = CoordinatorSettings(
    GroupSettings(topics_of, partitions_of), ConsumerSettings(), 1, 1 << 30, 1 << 40, 1e9, 4096
)


class Disk:
    """A partition and its log in memory."""

    topic, index, max_message_bytes = "__consumer_offsets", 0, 1 << 20

    def __init__(self) -> None:
        self.batches: list[tuple[int, bytes]] = []
        self.log_end_offset = self.high_watermark = self.log_start_offset = 0
        self.size_bytes = 0
        self.failed: DiskFailed | None = None
        self.log = self
        self._waiting: list[tuple[int, Any, object]] = []

    def append(self, batch: memoryview, header: BatchHeader, now_ms: int) -> int:
        if self.failed is not None:
            raise self.failed
        self.batches.append((self.log_end_offset, bytes(batch)))
        self.log_end_offset += header.record_count
        self.size_bytes += len(batch)
        return self.log_end_offset - header.record_count

    def when_visible(self, end_offset: int, waiter: Any, token: object) -> bool:
        if end_offset <= self.high_watermark:
            return True
        self._waiting.append((end_offset, waiter, token))
        asyncio.get_running_loop().call_later(0.001, self._durable)
        return False

    def _durable(self) -> None:
        if self._waiting:
            end_offset, waiter, token = self._waiting.pop(0)
            self.high_watermark = max(self.high_watermark, end_offset)
            waiter.settle(token, ErrorCode.NONE)

    def fail(self) -> None:
        """As a Partition does: who waits is told before anything else can be appended."""
        self.failed = DiskFailed("gone")
        waiting, self._waiting = self._waiting, []
        for _, waiter, token in waiting:
            waiter.settle(token, ErrorCode.KAFKA_STORAGE_ERROR)

    async def delete_records(self, before_offset: int) -> None:
        await asyncio.sleep(0)
        self.log_start_offset = before_offset
        self.batches = [each for each in self.batches if each[0] >= before_offset]

    async def read(self, offset: int, limit: int, max_bytes: int) -> tuple[list[memoryview], int]:
        wanted = [memoryview(data) for base, data in self.batches if base >= offset]
        return wanted, limit

    def values(self) -> list[tuple[bytes, bytes | None]]:
        """All records, in the order of the log."""
        return [
            (record.key or b"", record.value)
            for _, data in self.batches
            for record in iter_records(data, 1 << 24)
        ]


class Log(list[str]):
    """Events, by name."""

    def info(self, event: str, **facts: object) -> None:
        self.append(event)

    error = warning = info


def make(disk: Disk) -> GroupLog:
    loop = asyncio.get_running_loop()
    factory = GroupFactory(SETTINGS, ClusterState(), loop, loop.create_task)
    turns = Turns(lambda: 0.0, 1)
    turns.slice_s = 0.0
    return GroupLog(disk, factory, turns, loop, Log())  # type: ignore[arg-type]


def commit(log: GroupLog, group_id: str, offset: int, done: Any = lambda error: None) -> None:
    group = log.groups.get(group_id)
    if group is None:
        group = log.groups[group_id] = log.factory.make(group_id, log)
    wanted = [OffsetToCommit("t", 0, offset)]
    _, records = group.offsets.plan_commit(wanted, log.factory.now_ms())
    group.write_offsets(records, done)


def committed(log: GroupLog) -> dict[str, int]:
    return {
        group_id: value.committed_offset
        for group_id, group in log.groups.items()
        if (value := group.offsets.fetch("t", 0)) is not None
    }


async def settled(log: GroupLog) -> None:
    done = asyncio.get_running_loop().create_future()
    log.append((), done.set_result)
    assert await done == ErrorCode.NONE


def test_nothing_goes_back_while_all_is_written_anew() -> None:
    async def scenario() -> None:
        disk = Disk()
        log = make(disk)
        log.loading = False
        names = [f"g{number}" for number in range(GROUPS)]
        offsets = dict.fromkeys(names, 1)
        for name in names:
            commit(log, name, 1)
        await settled(log)
        rewrite = asyncio.ensure_future(log.rewrite())
        turn = 0
        while not rewrite.done():
            turn += 1
            for name in names[turn % 7 :: 7]:
                offsets[name] += 1
                commit(log, name, offsets[name])
            await asyncio.sleep(0)
        await settled(log)
        assert turn > 3
        assert disk.log_start_offset > 0
        seen: dict[bytes, int] = {}
        for key_bytes, value_bytes in disk.values():
            key = group_records.decode_key(key_bytes)
            assert key is not None
            assert value_bytes is not None
            value = group_records.decode_value(key, value_bytes)
            assert isinstance(value, group_records.OffsetCommitValue)
            assert value.offset >= seen.get(key_bytes, 0), "an offset goes back"
            seen[key_bytes] = value.offset
        assert committed(log) == offsets
        assert sorted(seen.values()) == sorted(offsets.values()), "something is missing"

    asyncio.run(scenario())


def test_a_group_that_goes_while_all_is_written_anew_does_not_come_back() -> None:
    async def scenario() -> None:
        disk = Disk()
        log = make(disk)
        log.loading = False
        names = [f"g{number}" for number in range(GROUPS)]
        for name in names:
            commit(log, name, 1)
        await settled(log)
        rewrite = asyncio.ensure_future(log.rewrite())
        gone: list[str] = []
        while not rewrite.done():
            await asyncio.sleep(0)
            for name in names[len(gone) : len(gone) + 20]:
                group = log.groups.pop(name)
                group.write_offsets(group.offsets.plan_delete_all(), lambda error: None)
                gone.append(name)
        await settled(log)
        assert gone
        last = dict(disk.values())
        for name in gone:
            key = group_records.encode_key(group_records.OffsetCommitKey(name, "t", 0))
            assert last.get(key) is None, f"{name} is back"

    asyncio.run(scenario())


def test_appends_end_in_order_and_one_that_is_too_large_ends_alone() -> None:
    async def scenario() -> None:
        log = make(Disk())
        ends: list[tuple[str, ErrorCode]] = []

        def append(name: str, size: int, bytes_max: int) -> None:
            log.append([(b"k", b"v" * size)], lambda error: ends.append((name, error)), bytes_max)

        append("first", 10, 100)
        append("large", 200, 100)
        append("last", 10, 100)
        await settled(log)
        assert ends == [
            ("first", ErrorCode.NONE),
            ("large", ErrorCode.MESSAGE_TOO_LARGE),
            ("last", ErrorCode.NONE),
        ]

    asyncio.run(scenario())


def test_a_disk_that_fails_ends_every_append_and_the_groups() -> None:
    async def scenario() -> None:
        disk = Disk()
        log = make(disk)
        ends: list[ErrorCode] = []
        commit(log, "g", 1, ends.append)
        log.flush()
        disk.fail()
        assert ends == [ErrorCode.KAFKA_STORAGE_ERROR]
        assert log.groups == {}
        log.append([(b"k", b"v")], ends.append)
        log.flush()
        assert ends[1:] == [ErrorCode.NOT_COORDINATOR]
        assert log.error == ErrorCode.NOT_COORDINATOR

    asyncio.run(scenario())


def test_what_is_loaded_is_what_was_there_and_foreign_records_are_kept() -> None:
    async def scenario() -> None:
        disk = Disk()
        log = make(disk)
        foreign = (b"\x00\x63key", b"\x00\x00value")  # type 99: of a later version
        log.append([foreign], lambda error: None)
        for offset in (1, 2, 3):
            commit(log, "g", offset)
        await settled(log)
        again = make(disk)
        again.factory.state.topics["t"] = type("T", (), {"topic_id": bytes(15) + b"1"})()
        await again.load()
        assert committed(again) == {"g": 3}
        await again.rewrite()
        assert foreign in disk.values()
        assert len(disk.values()) == 2

    asyncio.run(scenario())
