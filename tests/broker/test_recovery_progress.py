"""A start that takes long says how far it is: in the log, and to probes, which find it alive."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from storage.progress import MIB, Progress
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic
from tests.storage.builder import Host, batch_of_size, drive

PARTITIONS = 3


def test_the_estimate_follows_what_is_scanned_or_else_what_is_open() -> None:
    now_s = 100.0
    progress = Progress(lambda: now_s)
    assert progress.facts()["remaining_s"] is None
    progress.partitions, progress.open = 100, 20
    now_s = 102.0
    assert progress.facts()["remaining_s"] == 8.0
    progress.scan_bytes, progress.scanned_bytes = 40 * MIB, 10 * MIB
    facts = progress.facts()
    assert (facts["scan_mib"], facts["scanned_mib"], facts["seconds"]) == (40, 10, 2)
    assert facts["remaining_s"] == 6.0


def test_a_scan_counts_every_byte_that_it_reads(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        for _ in range(40):
            driven.append_batch(batch_of_size(200_000))
        await driven.durable()
        again = await driven.host.reopen(driven)
        progress = again.host.context.progress
        assert progress.scanned_bytes == progress.scan_bytes
        assert progress.scanned_bytes >= 40 * 200_000

    drive(scenario())


def test_probes_see_a_broker_that_recovers(tmp_path: Path) -> None:
    settings = {"shard_silent_s_max": 1.0, "lock_wait_s": 60}
    broker = RunningBroker(tmp_path / "data", tmp_path / "log", settings).start()
    started, done = threading.Event(), threading.Event()

    def start() -> None:
        broker.start()
        started.set()
        done.wait(60)  # it ends with the thread that started it

    starting = threading.Thread(target=start)
    try:
        topic = create_topic(broker, partitions=PARTITIONS)
        producer = Producer({"bootstrap.servers": broker.address})
        for index in range(PARTITIONS):
            producer.produce(topic, b"x", partition=index)
        assert producer.flush(20) == 0
        broker.kill()
        [segment] = (tmp_path / "data" / f"{topic}-1").glob("*.wal")
        fd = os.open(segment, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)  # as the writes of the killed one may still do
        starting.start()

        def recovers() -> dict[str, Any] | None:
            try:
                status, body = broker.http_get("/v1/status/ready")
            except OSError:
                return None  # it does not listen yet
            assert status == 503
            shard: dict[str, Any] = json.loads(body)["shards"][0]
            return shard.get("recovery") or None

        recovery = wait_until(recovers, "a start that recovers")
        assert recovery is not None
        assert recovery["partitions"] == PARTITIONS
        assert recovery["partitions_open"] < PARTITIONS
        status, body = broker.http_get("/v1/status/live")
        assert (status, json.loads(body)["status"]) == (200, "recovering")
        wait_until(
            lambda: any(e["message"] == "recovering" for e in broker.log_events("info")),
            "a line in the log",
        )
        os.close(fd)
        assert started.wait(30)
        status, body = broker.http_get("/v1/status/ready")
        assert status == 200
        assert "recovery" not in json.loads(body)["shards"][0]
    finally:
        broker.close()
        done.set()
        if starting.ident is not None:
            starting.join(30)
