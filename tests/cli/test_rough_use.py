"""The command line in rough hands: one line that says what is wrong, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafka_protocol.api_key import ApiKey
from kafka_protocol.messages.describe_configs import DescribeConfigsResponse
from kafka_protocol.messages.metadata import MetadataResponse, MetadataResponseBroker
from tests.cli.rpk_process import Ended, rpk
from tests.cli.scripted_broker import PORT, scripted_broker
from tests.clients.broker import ROOT, RunningBroker

RPK = [sys.executable, "-m", "rpk_py"]
NO_TEXT = "\udcff"  # how Python has the byte 0xff of an argument
HUGE = "9" * 5000  # more digits than Python turns into a number
NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    directory = tmp_path_factory.mktemp("broker")
    running = RunningBroker(directory / "data", directory / "broker.log")
    try:
        yield running.start()
    finally:
        running.close()


def last_line(ended: Ended) -> str:
    """The error. Nothing but click's usage stands before it."""
    assert "Traceback" not in ended.err, ended.err
    *usage, error = ended.err.splitlines()
    assert all(not line or line.startswith(("Usage: ", "Try ")) for line in usage), ended.err
    return error


@pytest.mark.parametrize(
    "arguments",
    [
        ("topic", "create", NO_TEXT),
        ("topic", "list", NO_TEXT),
        ("topic", "alter-config", "t", "--set", f"retention.ms={NO_TEXT}"),
        ("topic", "delete", NO_TEXT),
        ("topic", "consume", NO_TEXT),
        ("topic", "produce", NO_TEXT),
        ("cluster", "info", NO_TEXT),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_name_or_value_that_is_not_utf_8_is_refused(
    broker: RunningBroker, arguments: tuple[str, ...]
) -> None:
    ended = rpk(*arguments, brokers=broker.address)
    assert (ended.code, ended.out) == (1, "")
    assert "is not UTF-8" in last_line(ended)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("topic", "list", "-b", "a..b"), 3, "a..b:9092: this is no host name"),
        (("topic", "list", "-b", "x" * 300), 3, "this is no host name"),
        (("topic", "list", "-b", f"{NO_TEXT}:9"), 3, "this is no host name"),
        (("topic", "list", "-b", f"a:{HUGE}"), 2, "the port is a number from 1 to 65535"),
        (("doctor", "connect", f"a:{HUGE}"), 2, "the port is a number from 1 to 65535"),
        (("doctor", "connect", "[::1"), 2, "[IPV6]:PORT"),
        (("doctor", "connect", NOWHERE, "--timeout", "inf"), 2, "at most 3600 seconds"),
        (("doctor", "connect", NOWHERE, "--timeout", "nan"), 2, "at most 3600 seconds"),
        (("topic", "produce", "t", "-H", f"{NO_TEXT}:x"), 2, "is not UTF-8"),
        (("topic", "trim-prefix", "t", "-o", HUGE, "--no-confirm"), 2, "must be end, an offset"),
        (("topic", "trim-prefix", "t", "-o", f"@{HUGE}h", "--no-confirm"), 2, "too long"),
        (("topic", "consume", "t", "-o", f"@-{HUGE}h"), 2, "too long"),
        (("topic", "consume", "t", "-p", HUGE), 2, "is no list of partitions"),
    ],
)
def test_what_cannot_be_meant_is_told_in_a_line(
    arguments: tuple[str, ...], code: int, says: str
) -> None:
    ended = rpk(*arguments, brokers=NOWHERE)
    assert ended.code == code, ended.err
    assert says in last_line(ended)


@pytest.mark.parametrize(
    "arguments",
    [("topic", "list"), ("topic", "produce", "full"), ("cluster", "health"), ("--help",)],
    ids=" ".join,
)
def test_output_on_a_full_disk_is_an_error_in_a_line(
    broker: RunningBroker, arguments: tuple[str, ...]
) -> None:
    rpk("topic", "create", "full", brokers=broker.address)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*RPK, *arguments],
            input=b"a\n",
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "RPK_BROKERS": broker.address},
            cwd=ROOT,
            timeout=60,
            check=False,
        )
    message = b"rpk-py: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_standard_input_that_is_closed_is_an_empty_one(broker: RunningBroker) -> None:
    assert rpk("topic", "create", "closed", brokers=broker.address).code == 0
    command = [*RPK, "topic", "produce", "closed", "-b", broker.address]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command],
        capture_output=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# -- brokers that are not well ---------------------------------------------------------------------


def test_health_names_a_partition_that_is_damaged(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path / "data", tmp_path / "broker.log", shards=2)
    try:
        broker.start()
        assert rpk("topic", "create", "t", "-p", 2, brokers=broker.address).code == 0
        lines = "a\n" * 3
        for index in (0, 1):
            written = rpk("topic", "produce", "t", "-p", index, brokers=broker.address, stdin=lines)
            assert written.code == 0, written.err
        broker.stop()
        (segment,) = (broker.data_dir / "t-1").glob("*.wal")
        os.truncate(segment, 8192)
        broker.start()
        health = rpk("cluster", "health", "--format", "json", brokers=broker.address)
        text = rpk("cluster", "health", brokers=broker.address)
    finally:
        broker.close()
    assert (health.code, text.code) == (1, 1)
    assert health.json["healthy"] is False
    assert health.json["leaderless_partitions"] == ["t/1"]
    assert health.json["nodes_down"] == []
    assert any("without a leader" in reason for reason in health.json["unhealthy_reasons"])
    assert "[t/1]" in text.out


def test_an_answer_without_the_one_result_is_told() -> None:
    node = MetadataResponse(brokers=[MetadataResponseBroker(0, "127.0.0.1", PORT)], controller_id=0)
    bent = {
        ApiKey.METADATA: lambda _: node,
        ApiKey.DESCRIBE_CONFIGS: lambda _: DescribeConfigsResponse(),
    }
    with scripted_broker(bent) as address:
        doctor = rpk("doctor", "connect", address)
        config = rpk("cluster", "config", "get", "flush.ms", "--node", 0, brokers=address)
    assert (doctor.code, doctor.err) == (1, "")
    assert "Wrong hop: node 0 identity" in doctor.out
    assert "its answer has 0 results where 1 is due" in doctor.out
    assert config.code == 3
    assert "its answer to DESCRIBE_CONFIGS has 0 results where 1 is due" in last_line(config)
