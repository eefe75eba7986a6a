"""Clients that abuse a shard in a real process: another client is served throughout without an
error, memory stays bounded, and what gave way is counted. How fast is measured by bench/abuse.py.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import abusers
from bench.wire import Connection
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_protocol.record_batch import build_batch
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic
from tests.clients.wire_client import ConnectionClosed, WireClient, produce_request

PROBES = 100
SHARD_MB_MAX = 700  # interpreter 70, cache 64, partial frames 256, replies 128; twice for the heap
_Context = multiprocessing.get_context("fork")


@contextmanager
def abused(broker: RunningBroker, abuse: Callable[[str], None]) -> Iterator[None]:
    """While an abuser, in a process of its own, does its worst."""
    abuser = _Context.Process(target=abuse, args=(broker.address,), daemon=True)
    abuser.start()
    try:
        yield
        assert abuser.is_alive(), "the abuser gave up"
    finally:
        abuser.kill()
        abuser.join()


def probe(broker: RunningBroker, topic: str, count: int) -> None:
    """Produce and ask, and be answered without an error each time."""
    batch = build_batch([(None, b"probe")])
    with WireClient(broker) as client:
        for _ in range(count):
            produced = client.ask(produce_request(topic, 0, batch, -1), 9)
            assert produced.responses[0].partition_responses[0].error_code == 0
            names = [MetadataRequestTopic(bytes(16), topic)]
            assert client.ask(MetadataRequest(names), 12).topics[0].error_code == 0


def pss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no Pss")


def counted(broker: RunningBroker, name: str, **labels: str) -> float:
    status, text = broker.http_get("/metrics")
    assert status == 200
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.partition("{")[0] == name and all(label in line for label in wanted)
    )


@pytest.fixture(scope="module")
def prepared(broker: RunningBroker) -> RunningBroker:
    """The topics of the abusers."""
    connection = Connection(broker.address)
    abusers.prepare(connection)
    connection.close()
    return broker


@pytest.mark.parametrize("name", list(abusers.ABUSES))
def test_another_client_is_served_without_an_error_and_memory_is_bounded(
    prepared: RunningBroker, name: str
) -> None:
    topic = f"probe-{list(abusers.ABUSES).index(name)}"
    create_topic(prepared, topic)
    with abused(prepared, abusers.ABUSES[name]):
        for _ in range(PROBES // 10):
            probe(prepared, topic, 10)
            assert pss_mb(prepared.shard_pids[0]) < SHARD_MB_MAX
    probe(prepared, topic, 1)


def test_at_the_limit_of_untaken_replies_and_partial_frames_some_are_dropped_and_counted(
    prepared: RunningBroker,
) -> None:
    for name, reason in (("never reads", "untaken_replies"), ("huge frames", "partial_frames")):
        with abused(prepared, abusers.ABUSES[name]):
            wait_until(
                lambda reason=reason: counted(  # type: ignore[misc]
                    prepared, "rpk_connections_dropped_total", reason=reason
                ),
                f"nobody was dropped: {reason}",
            )


def test_a_flood_of_garbage_leaves_few_lines_that_say_who(prepared: RunningBroker) -> None:
    with abused(prepared, abusers.garbage):
        wait_until(
            lambda: counted(prepared, "rpk_log_lines_suppressed_total") > 100, "no line was spared"
        )
    lines = [
        line for line in prepared.log_events("warning") if "impossible size" in line["message"]
    ]
    assert 0 < len(lines) < 100
    assert all(line["peer"].startswith("127.0.0.1:") for line in lines)


def test_the_log_names_the_software_of_a_client_that_breaks_the_protocol(
    own_broker: RunningBroker,
) -> None:
    own_broker.start()
    with WireClient(own_broker) as client:
        client.ask(ApiVersionsRequest("some-client", "1.2.3"), 3)
        client.socket.sendall(b"\x00\x00\x00\x0a" + b"\x00\x03\x00\x09" + bytes(6))
        assert client.is_closed_by_broker()
    (line,) = [line for line in own_broker.log_events("warning") if "protocol" in str(line)]
    assert line["software"] == "some-client 1.2.3"
    assert line["client_id"] == "wire-client"


def test_one_address_has_a_limit_of_connections(tmp_path: Path) -> None:
    settings = {"connections_per_address_max": 5}
    with started(RunningBroker(tmp_path / "data", tmp_path / "broker.log", settings)) as broker:
        kept = [WireClient(broker) for _ in range(5)]
        for client in kept:
            client.ask(MetadataRequest(None), 12)
        refused = WireClient(broker)
        assert refused.is_closed_by_broker()
        kept.pop().socket.close()
        wait_until(lambda: can_ask(broker), "its place was not given back")
        reason = "connections_per_address_max"
        assert counted(broker, "rpk_connections_rejected_total", reason=reason) >= 1
        for client in (*kept, refused):
            client.socket.close()


def test_where_files_run_out_clients_are_refused_and_partitions_are_still_opened(
    tmp_path: Path,
) -> None:
    few = ("sh", "-c", 'ulimit -n 200; exec "$0" -m rpk_py "$@"', sys.executable)
    with started(RunningBroker(tmp_path / "data", tmp_path / "broker.log", command=few)) as broker:
        assert any("200 files" in str(line) for line in broker.log_events("warning"))
        admin = Connection(broker.address)
        clients = [WireClient(broker) for _ in range(300)]
        wait_until(
            lambda: counted(broker, "rpk_connections_rejected_total", reason="open_files") >= 150,
            "nobody was refused",
        )
        abusers.create_topic(admin, "late", 20)
        answer = admin.ask(MetadataRequest([MetadataRequestTopic(bytes(16), "late")]), 12)
        assert [one.error_code for one in answer.topics[0].partitions] == [0] * 20
        for client in clients:
            client.socket.close()
        wait_until(lambda: can_ask(broker), "nobody is let in")
        admin.close()


def can_ask(broker: RunningBroker) -> bool:
    """Whether a new connection is served."""
    with WireClient(broker) as client:
        try:
            client.ask(MetadataRequest(None), 12)
        except (ConnectionClosed, ConnectionError):
            return False
        return True


@contextmanager
def started(broker: RunningBroker) -> Iterator[RunningBroker]:
    """A broker of the test's own."""
    try:
        yield broker.start()
    finally:
        broker.close()
