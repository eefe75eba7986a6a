"""A broker on a disk that fails: who meets it is answered KAFKA_STORAGE_ERROR, the others go on.

The data directory lies on fuse_disk.py, which refuses some operation on the files of one partition.
Afterwards the broker is started on the directory below, a healthy disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.record_batch import build_batch
from tests.clients.broker import RunningBroker
from tests.clients.topics import create_topic
from tests.clients.wire_client import WireClient, produce_request
from tests.crash.fuse_disk import Fault, FuseDisk, FuseUnavailable
from tests.crash.workload import read_log

TOPIC = "numbered"
PARTITIONS = 3
FAILING = 1
ROUNDS = 40
FOR_EVER = 1 << 30
OFFLINE = "a partition went offline"
WAITS = "a partition waits for disk space"
SETTINGS = {"segment_bytes": 64 * 1024, "io_backend": "threads"}
MakeBroker = Callable[[Path], RunningBroker]


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[MakeBroker]:
    """Brokers, one after the other, that end with the test."""
    made: list[RunningBroker] = []

    def make(data_dir: Path) -> RunningBroker:
        made.append(RunningBroker(data_dir, tmp_path / f"broker-{len(made)}.log", SETTINGS))
        return made[-1].start()

    yield make
    for broker in made:
        broker.close()


def value(partition: int, number: int) -> bytes:
    """It says what it is; three of them begin the next segment."""
    return b"%d of %d;" % (number, partition) * 2500


def produce(client: WireClient, partition: int, number: int) -> tuple[int, int]:
    """(error code, base offset) of one record with acks=all."""
    batch = build_batch([(None, value(partition, number))])
    answer = client.ask(produce_request(TOPIC, partition, batch, -1), 9)
    one = answer.responses[0].partition_responses[0]
    return one.error_code, one.base_offset


@pytest.mark.parametrize(
    ("op", "nth", "error", "times", "files", "told"),
    [
        ("write", 4, "EIO", 1, "*", OFFLINE),
        ("write", 4, "short", 1, "*", OFFLINE),
        ("write", 4, "ENOSPC", FOR_EVER, "*", WAITS),
        ("fsync", 4, "EIO", 1, "*", OFFLINE),
        ("fallocate", 4, "ENOSPC", FOR_EVER, "*", WAITS),
        ("rename", 3, "EIO", 1, "*.wal", OFFLINE),
    ],
)
def test_one_partition_refuses_and_nothing_is_lost(
    tmp_path: Path,
    make_broker: MakeBroker,
    op: str,
    nth: int,
    error: str,
    times: int,
    files: str,
    told: str,
) -> None:
    below, mount = tmp_path / "below", tmp_path / "disk"
    fault = Fault(op, nth, error, times, f"*/{TOPIC}-{FAILING}/{files}")
    try:
        disk = FuseDisk(below, mount, fault)
    except FuseUnavailable as missing:
        pytest.skip(str(missing))
    acked: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    with ExitStack() as at_end:
        at_end.callback(disk.close)
        broker = make_broker(mount / "data")
        at_end.callback(broker.kill)
        create_topic(broker, TOPIC, PARTITIONS, {})
        refused: set[int] = set()
        with WireClient(broker) as client:
            for number in range(ROUNDS):
                for partition in range(PARTITIONS):
                    code, offset = produce(client, partition, number)
                    if code:
                        assert (partition, code) == (FAILING, ErrorCode.KAFKA_STORAGE_ERROR)
                        refused.add(number)
                        continue
                    assert offset == len(acked[partition])
                    acked[partition].append(value(partition, number))
        assert disk.met
        assert refused, "the fault kept the partition from taking more"
        assert min(refused) > 0
        assert refused == set(range(min(refused), ROUNDS)), "and goes on keeping it"
        assert told in broker.log_text()
        assert len(acked[0]) == len(acked[2]) == ROUNDS, "the others go on"
    healthy = make_broker(below / "data")
    log = read_log(healthy.address, TOPIC, PARTITIONS)
    for partition, records in enumerate(log):
        there = [data for _offset, data in records]
        assert there[: len(acked[partition])] == acked[partition]
        if partition != FAILING:
            assert len(there) == ROUNDS
        assert len(there) - len(acked[partition]) <= 1, "only the refused write may have landed"
    with WireClient(healthy) as client:
        assert produce(client, FAILING, ROUNDS)[0] == 0
