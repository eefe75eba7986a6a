"""A broker on a disk that is slow or hangs: nothing is acknowledged early, nothing else waits.

The data directory lies on slow_disk.py, which holds operations until a test says so, and tells what
has begun and ended. What is claimed is the order of events; no time is measured.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import Producer

from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from kafka_protocol.messages.metadata import MetadataRequest
from kafka_protocol.record_batch import build_batch
from tests.clients.broker import RunningBroker, runs, wait_until
from tests.clients.topics import create_topic
from tests.clients.wire_client import (
    ConnectionClosed,
    WireClient,
    fetch_request,
    produce_request,
    stored_batches,
)
from tests.crash.fuse_disk import FuseUnavailable
from tests.crash.slow_disk import Slow, SlowDisk
from tests.crash.workload import read_log

MIB = 1 << 20
EXIT_S_MAX = 12.0  # of a stop: its time limit, and what killed shards get
MakeBroker = Callable[..., RunningBroker]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SlowDisk]:
    """The slow disk, quick at first; or a skip that says why there is none."""
    try:
        made = SlowDisk(tmp_path / "below", tmp_path / "disk")
    except FuseUnavailable as missing:
        pytest.skip(str(missing))
    yield made
    made.close()


@pytest.fixture
def make_broker(disk: SlowDisk, tmp_path: Path) -> Iterator[MakeBroker]:
    """Brokers, one after the other, that end with the test and before the disk."""
    with ExitStack() as at_end:

        def make(data_dir: Path | None = None, **settings: object) -> RunningBroker:
            place = data_dir or disk.path / "data"
            made = RunningBroker(place, tmp_path / "broker.log", settings)
            at_end.callback(made.close)
            return made.start()

        yield make
        disk.go_on()


def files(topic: str, partition: int = 0) -> str:
    """A pattern of the files of a partition."""
    return f"*/{topic}-{partition}/*"


def send(client: WireClient, topic: str, value: bytes, partition: int = 0) -> None:
    """A produce request with acks=all, whose answer is not waited for."""
    client.send(produce_request(topic, partition, build_batch([(None, value)]), -1), 9)


def answer(client: WireClient) -> int:
    """The base offset of the next answer, which must be a good one."""
    one = client.receive()[1].responses[0].partition_responses[0]
    assert one.error_code == 0
    return int(one.base_offset)


def says_nothing(client: WireClient) -> bool:
    """Whether nothing has come from the broker."""
    client.socket.setblocking(False)
    try:
        client.socket.recv(1)
    except BlockingIOError:
        return True
    finally:
        client.socket.settimeout(20)
    return False


def use_memory(broker: RunningBroker, topic: str) -> None:
    """Everything that needs no disk is answered on a new connection, a scrape as well."""
    with WireClient(broker) as client:
        assert client.ask(ApiVersionsRequest("test", "1"), 3).error_code == 0
        assert client.ask(MetadataRequest(None), 9).topics[0].error_code == 0
        asked = ListOffsetsTopic(topic, [ListOffsetsPartition(0, -1, -1)])
        offsets = client.ask(ListOffsetsRequest(-1, 0, [asked]), 5)
        assert offsets.topics[0].partitions[0].offset == 1
        data = client.ask(fetch_request(topic, 0, 0), 12).responses[0].partitions[0]
        assert (data.error_code, data.high_watermark) == (0, 1)
        assert b"in memory" in bytes(data.records)
    assert broker.http_get("/metrics")[0] == 200


def test_an_acknowledgement_waits_for_its_sync_and_nothing_else_does(
    disk: SlowDisk, make_broker: MakeBroker
) -> None:
    broker = make_broker()
    assert "writes go through threads" in broker.log_text(), "io_uring has no syncs on FUSE"
    topic = create_topic(broker, partitions=2)
    with WireClient(broker) as waits, WireClient(broker) as other:
        send(waits, topic, b"in memory")
        assert answer(waits) == 0
        disk.hold(Slow("fsync", files(topic)))
        send(waits, topic, b"is being synced")
        disk.wait_held("fsync", files(topic))
        use_memory(broker, topic)
        send(other, topic, b"to another file", 1)
        assert answer(other) == 0
        disk.hold(Slow())  # every operation of the whole disk
        send(other, topic, b"to another file", 1)
        disk.wait_held("write", files(topic, 1))
        wait_until(lambda: "the disk is slow" in broker.log_text(), "the log says so")
        use_memory(broker, topic)
        assert broker.metrics()["rpk_disk_wait_seconds"] >= 0.5
        assert disk.held("fsync", files(topic))
        assert disk.held("write", files(topic, 1))
        assert says_nothing(waits)
        assert says_nothing(other)
        disk.go_on()
        assert answer(waits) == 1
        assert answer(other) == 1
        assert not disk.held("fsync", files(topic))
    assert broker.metrics()["rpk_disk_wait_seconds"] < 0.5
    assert broker.metrics()["rpk_partitions_offline"] == 0
    (told,) = [e for e in broker.log_events("warning") if e["message"] == "the disk is slow"]
    assert told["under_way_s"] >= 0.5
    broker.stop()


def test_a_power_cut_of_a_slow_disk_takes_nothing_acknowledged(
    disk: SlowDisk, make_broker: MakeBroker
) -> None:
    broker = make_broker()
    topic = create_topic(broker)
    cached = create_topic(broker, configs={"write.caching": "true", "flush.ms": "1"})
    disk.hold(Slow("fsync", files(topic), 200), Slow("fsync", files(cached)))
    acked: list[int] = []
    with WireClient(broker) as client, WireClient(broker) as early:
        for number in range(40):
            send(client, topic, b"number %d" % number)
            if number % 8 == 0:  # in some commits, one after the other
                acked.append(answer(client))
        send(early, cached, b"acknowledged from memory")
        assert answer(early) == 0
        disk.wait_held("fsync", files(cached))
        disk.cut()
        try:
            while len(acked) < 40:  # what came before the cut, and then the cut's error
                one = client.receive()[1].responses[0].partition_responses[0]
                if one.error_code:
                    break
                acked.append(one.base_offset)
        except ConnectionClosed:
            pass
        assert acked == list(range(len(acked)))
        assert 5 <= len(acked) < 40, "the cut came too late"
    broker.kill()
    healthy = make_broker(disk.path.parent / "below" / "data")
    (found,) = read_log(healthy.address, topic, 1)
    assert [value for _, value in found[: len(acked)]] == [b"number %d" % n for n in acked]
    (lost,) = read_log(healthy.address, cached, 1)
    assert lost == [], "the control: what was acknowledged before its sync is not there"


IN_FLIGHT = 8 * MIB
CACHE = 4 * MIB
BATCHES = 24  # of nearly 1 MiB, of each connection
CONNECTIONS = 6
# Each batch once in a receive buffer and once in a record buffer, which may be half empty; a frame
# that is half there; the cache; and what the allocator keeps.
MEMORY_MAX = 3 * IN_FLIGHT + 2 * CONNECTIONS * MIB + CACHE + 16 * MIB


def memory_peak(pid: int) -> int:
    """Bytes, since it was reset."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kib) << 10


def test_a_producer_that_does_not_wait_is_held_back(
    disk: SlowDisk, make_broker: MakeBroker
) -> None:
    settings = {"inflight_bytes_max": IN_FLIGHT, "connection_inflight_bytes_max": IN_FLIGHT // 2}
    broker = make_broker(cache_bytes=CACHE, **settings)
    topic = create_topic(broker, partitions=CONNECTIONS)
    (pid,) = broker.shard_pids
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew; see proc(5)
    before_bytes, received_bytes = memory_peak(pid), broker.metrics()["rpk_received_bytes_total"]
    batch = build_batch([(None, bytes(range(250)) * 4000)])
    disk.hold(Slow("write", f"*/{topic}-*"))
    with ExitStack() as at_end:
        clients = [at_end.enter_context(WireClient(broker)) for _ in range(CONNECTIONS)]
        senders = []
        for partition, client in enumerate(clients):
            request = produce_request(topic, partition, batch, -1)
            frames = [client.encode(request, 9) for _ in range(BATCHES)]
            work = b"".join(frames)
            senders.append(threading.Thread(target=client.socket.sendall, args=(work,)))
            senders[-1].start()
        wait_until(
            lambda: broker.metrics()["rpk_inflight_bytes"] > IN_FLIGHT, "the budget is used up"
        )
        metrics = broker.metrics()
        taken_bytes = metrics["rpk_received_bytes_total"] - received_bytes
        assert taken_bytes <= IN_FLIGHT + 3 * CONNECTIONS * MIB
        assert metrics["rpk_reading_paused_total"] > 0
        assert all(sender.is_alive() for sender in senders), "none could get rid of all"
        with WireClient(broker) as client:
            client.ask(ApiVersionsRequest("test", "1"), 3)
        assert disk.held("write", f"*/{topic}-*")
        disk.go_on()
        for client in clients:
            assert [answer(client) for _ in range(BATCHES)] == list(range(BATCHES))
        for sender in senders:
            sender.join()
    grown_bytes = memory_peak(pid) - before_bytes
    print(f"{CONNECTIONS * BATCHES} MiB sent, memory grew by {grown_bytes / MIB:.0f} MiB at most")
    assert grown_bytes <= MEMORY_MAX < CONNECTIONS * BATCHES * MIB


def test_a_client_that_loses_patience_writes_once(disk: SlowDisk, make_broker: MakeBroker) -> None:
    broker = make_broker()
    topic = create_topic(broker)
    failures: list[object] = []
    producer = Producer(
        {
            "bootstrap.servers": broker.address,
            "enable.idempotence": True,
            "request.timeout.ms": 300,  # what it asks of the broker
            "socket.timeout.ms": 300,  # what it waits itself
            "retry.backoff.ms": 10,
            "linger.ms": 0,
        }
    )

    def reported(error: object, _message: object) -> None:
        if error is not None:
            failures.append(error)

    producer.produce(topic, b"first", on_delivery=reported)
    assert producer.flush(20) == 0
    disk.hold(Slow("fsync", files(topic)))
    for number in range(3):
        producer.produce(topic, b"number %d" % number, on_delivery=reported)
    disk.wait_held("fsync", files(topic))

    def sent_again() -> bool:
        producer.poll(0)
        return broker.metrics()["rpk_duplicate_batches_total"] > 0

    wait_until(sent_again, "the client sends again what is under way")
    disk.go_on()
    assert producer.flush(20) == 0
    assert failures == []
    (found,) = read_log(broker.address, topic, 1)
    assert [value for _, value in found] == [b"first", b"number 0", b"number 1", b"number 2"]


def threads(pid: int) -> int:
    """How many of a process's threads have not ended. The first one may have, before others."""
    return sum(runs(int(task.name)) for task in Path(f"/proc/{pid}/task").glob("*"))


def test_a_stop_ends_though_the_disk_hangs(disk: SlowDisk, make_broker: MakeBroker) -> None:
    broker = make_broker(shutdown_timeout_s=0.3)
    topic = create_topic(broker)
    (shard,) = broker.shard_pids
    with WireClient(broker) as client:
        send(client, topic, b"before")
        assert answer(client) == 0
        disk.hold(Slow("fsync", files(topic)))
        send(client, topic, b"waits")
        disk.wait_held("fsync", files(topic))
        broker.signal(signal.SIGTERM)
        assert broker.wait_end(EXIT_S_MAX) == 1
        assert says_nothing(client)
    events = [event["message"] for event in broker.log_events("error")]
    assert events == [
        "shards are killed: they did not stop in time",
        "shards that were killed do not end: the disk does not answer",
    ]
    assert disk.held("fsync", files(topic))
    assert threads(shard) == 1, "the kernel does not let go who waits for the disk"
    disk.go_on()
    wait_until(lambda: not threads(shard), "the shard ends with its last operation")
    broker.start()
    assert 1 <= len(stored_batches(broker, topic)) <= 2
    broker.stop()
