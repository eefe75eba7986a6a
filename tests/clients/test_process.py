"""What a running broker is, seen from outside: its files, ring and core in /proc, its HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.broker import RunningBroker
from tests.clients.records import plain
from tests.clients.topics import create_topic
from tests.clients.via_confluent import consume, produce

PARTITIONS = 3


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """A broker as it is started by default: its shard has a core of its own."""
    directory = tmp_path_factory.mktemp("pinned")
    running = RunningBroker(directory / "data", directory / "broker.log", pinned=True)
    try:
        running.start()
        topic = create_topic(running, partitions=PARTITIONS)
        for partition in range(PARTITIONS):
            produce(running, topic, plain(10), partition)
        yield running
    finally:
        running.close()


def descriptors(pid: int) -> dict[int, str]:
    """What a process has open: descriptor -> path or kind."""
    directory = Path(f"/proc/{pid}/fd")
    return {int(link.name): os.readlink(link) for link in directory.iterdir()}


def open_flags(pid: int, fd: int) -> int:
    for line in Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "flags":
            return int(value.strip(), 8)
    raise AssertionError(f"no flags of descriptor {fd}")


def test_segments_are_open_with_direct_io(pinned: RunningBroker) -> None:
    [shard] = pinned.shard_pids
    segments = {fd: path for fd, path in descriptors(shard).items() if path.endswith(".wal")}
    assert len(segments) == PARTITIONS
    for fd, path in segments.items():
        assert open_flags(shard, fd) & os.O_DIRECT, f"{path} goes through the page cache"


def test_the_shard_has_a_ring(pinned: RunningBroker) -> None:
    [shard] = pinned.shard_pids
    if any("io_uring is not used" in str(event) for event in pinned.log_events("warning")):
        pytest.skip("this machine has no io_uring; the broker said so and uses threads")
    assert "anon_inode:[io_uring]" in descriptors(shard).values()
    # Records never pass through the supervisor, so it has neither ring nor segment.
    held = descriptors(pinned.pid).values()
    assert not [path for path in held if "io_uring" in path or path.endswith(".wal")]


def test_the_shard_is_pinned_to_one_core(pinned: RunningBroker) -> None:
    if any("core of their own" in str(event) for event in pinned.log_events("warning")):
        pytest.skip("other brokers on this machine have claimed every core")
    [shard] = pinned.shard_pids
    assert len(os.sched_getaffinity(shard)) == 1
    assert os.sched_getaffinity(pinned.pid) == os.sched_getaffinity(0)


def test_an_overprovisioned_shard_is_not_pinned(broker: RunningBroker) -> None:
    [shard] = broker.shard_pids
    assert os.sched_getaffinity(shard) == os.sched_getaffinity(0)


def test_ready_and_metrics_answer_over_http(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    produce(broker, topic, plain(25))
    status, body = broker.http_get("/v1/status/ready")
    assert status == 200
    assert json.loads(body)["status"] == "ready"
    values = broker.metrics()
    assert values["rpk_up"] == 1
    assert values["rpk_produced_records_total"] >= 25
    assert values["rpk_write_bytes_total"] > 0
    assert values["rpk_group_commits_total"] > 0
    assert values["rpk_partitions_offline"] == 0


def test_http_refuses_what_it_does_not_have(broker: RunningBroker) -> None:
    assert broker.http_get("/no/such/path")[0] == 404
    assert broker.http_get("/metrics", "DELETE")[0] == 405


def test_a_second_broker_on_the_same_data_is_refused(broker: RunningBroker, tmp_path: Path) -> None:
    second = RunningBroker(broker.data_dir, tmp_path / "second.log")
    with pytest.raises(AssertionError, match=f"in use by another rpk-py, pid {broker.pid}"):
        second.start()


def test_a_second_broker_on_the_same_port_is_refused(broker: RunningBroker, tmp_path: Path) -> None:
    second = RunningBroker(tmp_path / "data", tmp_path / "second.log")
    second.port = broker.port
    with pytest.raises(AssertionError, match=f"{broker.port} is already in use by pid"):
        second.start()


def test_the_cache_is_not_what_serves_after_a_restart(own_broker: RunningBroker) -> None:
    own_broker.start()
    topic = create_topic(own_broker)
    produce(own_broker, topic, plain(500))
    own_broker.restart()
    assert [offset for offset, _ in consume(own_broker, topic)] == list(range(500))
    values = own_broker.metrics()
    assert values["rpk_cache_misses_total"] > 0
