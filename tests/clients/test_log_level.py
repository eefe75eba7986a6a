"""The level of the log changes while two shards run, and what clients write forges no line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.frame import encode_request
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest
from kafka_protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from kafka_protocol.messages.metadata import MetadataRequest
from kafka_protocol.record_batch import Record, build_batch
from tests.clients.admins import BROKER, ConfluentAdmin
from tests.clients.broker import ROOT, RunningBroker, wait_until
from tests.clients.topics import new_topic_name
from tests.clients.wire_client import WireClient, fetch_request, produce_request

SUPERVISOR = None  # whose events have no shard
BATCH = build_batch([Record(0, 1_600_000_000_000, None, b"v", ())])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """Two shards that a test may restart; nothing may go wrong in them."""
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", shards=2)
    try:
        running.start()
        yield running
    finally:
        running.close()
    assert running.log_events("error", "critical", "raw") == []


def set_level(broker: RunningBroker, level: str, *arguments: str) -> None:
    """By the command line, as an operator does it."""
    command = [sys.executable, "-m", "rpk_py", "cluster", "config", "set", "-b", broker.address]
    subprocess.run(
        [*command, "log.level", level, *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
    )


def use(broker: RunningBroker) -> str:
    """What each shard and the supervisor have a debug event for; returns the topic created."""
    topic = new_topic_name()
    for shard in range(broker.shards):
        with WireClient(broker, shard) as client:
            client.ask(produce_request("no-such-topic", 7, BATCH, -1), 9)
            client.ask(fetch_request("no-such-topic", 7, 0), 12)
    with WireClient(broker) as client:
        client.ask(CreateTopicsRequest([CreatableTopic(topic, 1, 1)]), 5)
        client.ask(MetadataRequest([]), 8)
    return topic


def debug_events(broker: RunningBroker, since: int = 0) -> list[dict[str, Any]]:
    """Those after the first `since` events of any level."""
    return [event for event in broker.log_events()[since:] if event["level"] == "debug"]


def speakers(broker: RunningBroker, since: int) -> set[int | None]:
    """Whose debug events there are, after the first `since` events."""
    return {event.get("shard") for event in debug_events(broker, since)}


def told_of(broker: RunningBroker, message: str) -> list[dict[str, Any]]:
    """All events of a name."""
    return [event for event in broker.log_events() if event["message"] == message]


def test_the_level_changes_for_all_processes_at_once_and_survives_a_restart(
    broker: RunningBroker,
) -> None:
    use(broker)
    since = len(broker.log_events())
    set_level(broker, "debug")
    use(broker)
    everybody = {SUPERVISOR, 0, 1}
    wait_until(lambda: speakers(broker, since) == everybody, "all processes tell debug events")
    assert all(event["level"] != "debug" for event in broker.log_events()[:since])

    broker.restart()
    since = len(broker.log_events())
    use(broker)
    wait_until(lambda: speakers(broker, since) == everybody, "debug events after a restart")

    set_level(broker, "")
    wait_until(lambda: len(told_of(broker, "the log level was changed")) == 9, "all are back")
    since = len(broker.log_events())
    use(broker)
    broker.stop()
    assert debug_events(broker, since) == []


def test_one_shard_alone_can_be_made_to_speak(broker: RunningBroker) -> None:
    with ConfluentAdmin(broker.address) as admin:
        admin.set_configs(BROKER, "1", {"log.level": "debug"})
        since = len(broker.log_events())
        use(broker)
        wait_until(lambda: 1 in speakers(broker, since), "shard 1 tells debug events")
        assert speakers(broker, 0) == {1}
        assert admin.describe_configs(BROKER, "0")["log.level"] == "info"
        assert admin.describe_configs(BROKER, "1")["log.level"] == "debug"


def test_a_level_that_does_not_exist_is_refused(broker: RunningBroker) -> None:
    change = AlterableConfig("log.level", 0, "loud")
    with WireClient(broker) as client:
        request = IncrementalAlterConfigsRequest([AlterConfigsResource(4, "", [change])])
        [answer] = client.ask(request, 1).responses
    assert answer.error_code == ErrorCode.INVALID_REQUEST
    assert "debug, info, warning, error, critical" in answer.error_message


def test_debug_events_say_what_a_client_was_answered(broker: RunningBroker) -> None:
    set_level(broker, "debug")
    use(broker)
    name = "a request is answered with errors"
    found = wait_until(
        lambda: {event["api"]: event for event in told_of(broker, name) if event["shard"] == 1},
        "errors are told",
    )
    for api in ("PRODUCE", "FETCH"):
        assert found[api]["errors"] == ["no-such-topic 7 UNKNOWN_TOPIC_OR_PARTITION"]
        assert found[api]["client_id"] == "wire-client"
        assert found[api]["peer"].startswith("127.0.0.1:")
    wait_until(lambda: told_of(broker, "connection closed"), "a connection ends")
    assert told_of(broker, "connection closed")[-1]["ended_by"] == "client"
    status, text = broker.http_get("/metrics")
    assert status == 200
    [counted] = [
        line
        for line in text.splitlines()
        if line.startswith("rpk_errors_total") and 'api="Produce"' in line and 'shard="1"' in line
    ]
    assert float(counted.split()[-1]) == 1  # told, and not counted twice


def test_a_client_id_forges_no_line(broker: RunningBroker) -> None:
    set_level(broker, "debug")
    forged = '\n{"level": "error", "message": "forged"}\r\n\x1b[2J\u2028' + "x" * 32_000
    with WireClient(broker) as client:
        client.socket.sendall(encode_request(ApiVersionsRequest(forged, forged), 3, 1, forged))
        client.receive_frame()
    told = wait_until(
        lambda: [e for e in told_of(broker, "connection closed") if "forged" in str(e)],
        "the connection is told",
    )
    assert told[0]["client_id"] == forged[:200]
    text = broker.log_path.read_text()
    assert all(line.startswith('{"') for line in text.splitlines() if line)
    assert max(map(len, text.splitlines())) < 3000
    assert text.isascii()


def test_a_log_on_a_full_disk_is_lost_and_nothing_else(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    settings = {"log_level": "debug"}
    full = RunningBroker(tmp_path / "data", Path("/dev/full"), settings)
    try:
        full.start()
        topic = use(full)
        with WireClient(full) as client:
            answer = client.ask(produce_request(topic, 0, BATCH, -1), 9)
        assert answer.responses[0].partition_responses[0].error_code == 0
        full.stop()
    finally:
        full.close()
