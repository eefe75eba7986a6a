"""`rpk-py doctor connect`: every way in which a client's path is wrong names its hop and its fix.

The listeners are real: brokers that advertise what is wrong, our admin server, TLS of the ssl
module, processes that are stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kafka_protocol.api_key import ApiKey
from kafka_protocol.frame import encode_response
from kafka_protocol.messages.api_versions import ApiVersion, ApiVersionsResponse
from kafka_protocol.messages.metadata import MetadataRequest
from rpk_py.cli import root
from tests.cli.listener import listening
from tests.clients.broker import ROOT, RunningBroker, free_ports
from tests.clients.topics import create_topic
from tests.clients.wire_client import WireClient

ROUND_TRIP = ["create topic", "leader", "produce", "consume", "delete topic"]


def report_on(address: str, *options: str, exit_code: int) -> dict[str, Any]:
    """What `doctor connect` says as JSON."""
    arguments = ["doctor", "connect", address, "--format", "json", *options]
    result = CliRunner().invoke(root, arguments)
    assert result.exit_code == exit_code, (result.output, result.exception)
    report: dict[str, Any] = json.loads(result.output)
    assert report["ok"] == (exit_code == 0)
    return report


def wrong_hop(address: str, *options: str) -> tuple[str, str, str]:
    """The only wrong hop: its name, cause and fix; every hop before it was all right."""
    hops = report_on(address, "--timeout", "2", *options, exit_code=1)["hops"]
    [wrong] = [hop for hop in hops if not hop["ok"]]
    assert all(hop["cause"] is None for hop in hops if hop["ok"])
    return wrong["hop"], wrong["cause"], wrong["fix"]


def topics_of(broker: RunningBroker) -> list[str]:
    with WireClient(broker) as client:
        return [topic.name for topic in client.ask(MetadataRequest(None), 12).topics]


@contextlib.contextmanager
def broker_with(directory: Path, shards: int = 1, **settings: object) -> Iterator[RunningBroker]:
    broker = RunningBroker(directory / "data", directory / "log", settings, shards=shards)
    try:
        yield broker.start()
    finally:
        broker.close()


@contextlib.contextmanager
def listener_that(says: bytes) -> Iterator[str]:
    """Accepts connections and, to each, says this and nothing else."""

    def serve(connections: Iterator[socket.socket]) -> None:
        held = []
        with contextlib.suppress(OSError):
            for connection in connections:
                held.append(connection)
                connection.sendall(says)
        for connection in held:
            connection.close()

    with listening(serve) as address:
        yield address


@contextlib.contextmanager
def tls_listener() -> Iterator[str]:
    """A TLS server; without a certificate it answers each hello with an alert."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def serve(connections: Iterator[socket.socket]) -> None:
        for connection in connections:
            with contextlib.suppress(OSError):  # what is no TLS is closed
                context.wrap_socket(connection, server_side=True)
            connection.close()

    with listening(serve) as address:
        yield address


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """A broker that is as it should be."""
    with broker_with(tmp_path_factory.mktemp("healthy")) as running:
        yield running


# All is well.


def test_a_healthy_broker_passes_every_hop_and_nothing_is_left(broker: RunningBroker) -> None:
    before = topics_of(broker)
    report = report_on(broker.address, exit_code=0)
    node = [f"node 0 {hop}" for hop in ("resolve", "connect", "api versions", "identity")]
    assert [hop["hop"] for hop in report["hops"]] == [
        *("resolve", "connect", "api versions", "metadata"),
        *node,
        "controller",
        *ROUND_TRIP,
    ]
    assert all(hop["ms"] > 0 for hop in report["hops"])
    assert topics_of(broker) == before


def test_without_writing_the_record_is_left_out(broker: RunningBroker) -> None:
    report = report_on(broker.address, "--no-write", exit_code=0)
    assert report["hops"][-1]["hop"] == "controller"


def test_every_shard_is_a_node_that_is_looked_at(tmp_path: Path) -> None:
    with broker_with(tmp_path, shards=2) as broker:
        for address in broker.addresses:
            hops = [hop["hop"] for hop in report_on(address, exit_code=0)["hops"]]
            assert [hop for hop in hops if "identity" in hop] == [
                "node 0 identity",
                "node 1 identity",
            ]


def test_hops_are_told_in_the_terminal(broker: RunningBroker) -> None:
    command = [sys.executable, "-m", "rpk_py", "doctor", "connect", broker.address]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    *hops, _, verdict = result.stdout.splitlines()
    assert verdict == f"All is well: {len(hops)} hops."
    assert all(line.startswith("ok ") and " ms " in line for line in hops)
    refused = subprocess.run(
        [*command[:-1], f"127.0.0.1:{free_ports()}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "WRONG  connect" in refused.stdout
    assert "\nWrong hop: connect, " in refused.stdout
    assert "\nFix:       start the broker there" in refused.stdout


# The first address.


def test_a_name_that_does_not_resolve() -> None:
    hop, cause, fix = wrong_hop("no-such-host.invalid:9092")
    assert hop == "resolve"
    assert "no-such-host.invalid cannot be resolved" in cause
    assert "DNS or /etc/hosts" in fix


def test_a_port_where_nothing_listens() -> None:
    port = free_ports()
    hop, cause, fix = wrong_hop(f"127.0.0.1:{port}")
    assert hop == "connect"
    assert f"nothing listens on port {port}" in cause
    assert f"rpk-py start --kafka-addr 0.0.0.0:{port}" in fix
    assert f"docker run -p {port}:{port}" in fix


def test_the_admin_port_is_told_to_be_http(broker: RunningBroker) -> None:
    hop, cause, fix = wrong_hop(f"127.0.0.1:{broker.admin_port}")
    assert (hop, "HTTP server" in cause) == ("api versions", True)
    assert "9092" in fix


def test_a_tls_listener_is_told() -> None:
    with tls_listener() as address:
        hop, cause, fix = wrong_hop(address)
    assert (hop, "speaks TLS" in cause) == ("api versions", True)
    assert "security.protocol=SSL" in fix


def test_an_ssh_server_is_told() -> None:
    with listener_that(says=b"SSH-2.0-OpenSSH_9.2\r\n") as address:
        hop, cause, _ = wrong_hop(address)
    assert (hop, cause) == ("api versions", "this is an SSH server")


def test_a_listener_that_says_something_else_is_no_kafka() -> None:
    with listener_that(says=b"\x00\x00\x00\x10garbage, garbage") as address:
        hop, cause, fix = wrong_hop(address)
    assert (hop, "not what Kafka answers" in cause) == ("api versions", True)
    assert "port of a Kafka listener" in fix


def test_a_listener_that_says_nothing() -> None:
    with listener_that(says=b"") as address:
        hop, cause, fix = wrong_hop(address, "--timeout", "0.3")
    assert (hop, "says nothing: no answer within 0.3 s" in cause) == ("api versions", True)
    assert "SIGSTOP" in fix


def test_a_listener_of_controllers_is_told() -> None:
    # As Apache Kafka's KRaft controllers: ApiVersions is served there, and Metadata is not.
    answer = ApiVersionsResponse(0, [ApiVersion(ApiKey.API_VERSIONS, 0, 4)])
    first_correlation_id = 1
    says = b"".join(encode_response(ApiKey.API_VERSIONS, 3, first_correlation_id, answer))
    with listener_that(says) as address:
        hop, cause, fix = wrong_hop(address)
    assert (hop, "a listener of controllers" in cause) == ("metadata", True)
    assert "broker's listener" in fix


@pytest.mark.parametrize("shard", [0, 1])
def test_a_node_that_is_stopped(tmp_path: Path, shard: int) -> None:
    with broker_with(tmp_path, shards=2) as broker:
        os.kill(broker.shard_pids[shard], signal.SIGSTOP)
        hop, cause, fix = wrong_hop(broker.address, "--timeout", "0.5")
    assert hop == ("api versions" if shard == 0 else "node 1 api versions")
    assert broker.addresses[shard] in cause
    assert "SIGSTOP" in fix


@pytest.mark.parametrize("address", ["", ":9092", "host:0", "host:70000", "host:x", "[::1]:"])
def test_what_is_no_address_is_wrong_usage(address: str) -> None:
    assert CliRunner().invoke(root, ["doctor", "connect", address]).exit_code == 2


# What nodes advertise.


def test_an_advertised_name_that_does_not_resolve(tmp_path: Path) -> None:
    with broker_with(tmp_path, advertise_host="kafka-1.invalid") as broker:
        hop, cause, fix = wrong_hop(broker.address)
    assert hop == "node 0 resolve"
    assert "advertises kafka-1.invalid, which cannot be resolved here" in cause
    assert "rpk-py start --advertise-kafka-addr" in fix
    assert "advertised.listeners=" in fix


def test_an_advertised_port_where_nothing_listens(tmp_path: Path) -> None:
    port = free_ports()
    with broker_with(tmp_path, advertise_host="127.0.0.1", advertise_port=port) as broker:
        hop, cause, fix = wrong_hop(broker.address)
    assert hop == "node 0 connect"
    assert f"advertises 127.0.0.1:{port}, which cannot be reached from here" in cause
    assert "rpk-py start --advertise-kafka-addr" in fix


def test_an_advertised_address_of_another_cluster(broker: RunningBroker, tmp_path: Path) -> None:
    with broker_with(tmp_path, advertise_port=broker.port) as misled:
        hop, cause, fix = wrong_hop(misled.address)
    assert (hop, "leads to another cluster" in cause) == ("node 0 identity", True)
    assert "rpk-py start --advertise-kafka-addr" in fix


def test_an_advertised_address_of_another_node(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path / "data", tmp_path / "log", shards=2)
    broker._settings["advertise_port"] = broker.ports[1]  # so node 0 has the address of node 1
    try:
        broker.start()
        hop, cause, fix = wrong_hop(broker.address)
    finally:
        broker.close()
    assert (hop, "leads to another node" in cause) == ("node 0 identity", True)
    assert "an address of its own" in fix


def test_an_advertised_wildcard(tmp_path: Path) -> None:
    with broker_with(tmp_path, advertise_host="0.0.0.0") as broker:
        hop, cause, fix = wrong_hop(broker.address)
    assert (hop, "advertises 0.0.0.0" in cause) == ("node 0 address", True)
    assert "rpk-py start --advertise-kafka-addr" in fix


def test_an_advertised_admin_port_is_told_to_be_http(broker: RunningBroker, tmp_path: Path) -> None:
    with broker_with(tmp_path, advertise_port=broker.admin_port) as misled:
        hop, cause, _ = wrong_hop(misled.address)
    assert (hop, "HTTP server" in cause) == ("node 0 api versions", True)


# The record.


def test_a_topic_that_may_not_be_created_is_told_and_not_deleted(tmp_path: Path) -> None:
    with broker_with(tmp_path, partitions_max=1) as broker:
        create_topic(broker)
        report = report_on(broker.address, exit_code=1)
        assert report["hops"][-1]["hop"] == "create topic"
        assert "the topic is refused" in report["hops"][-1]["cause"]
        report_on(broker.address, "--no-write", exit_code=0)


def test_a_record_that_is_refused_is_told_and_its_topic_deleted(tmp_path: Path) -> None:
    with broker_with(tmp_path, max_message_bytes=80) as broker:
        report = report_on(broker.address, exit_code=1)
        [wrong] = [hop for hop in report["hops"] if not hop["ok"]]
        assert (wrong["hop"], "MESSAGE_TOO_LARGE" in wrong["cause"]) == ("produce", True)
        assert report["hops"][-1]["hop"] == "delete topic"
        assert topics_of(broker) == []


@pytest.mark.parametrize(
    "bytes_max", [4096, 1], ids=["the log can be written", "the log cannot be written"]
)
def test_a_disk_that_takes_nothing_is_told(tmp_path: Path, bytes_max: int) -> None:
    with broker_with(tmp_path) as broker:
        [shard] = broker.shard_pids
        resource.prlimit(shard, resource.RLIMIT_FSIZE, (bytes_max, bytes_max))
        report = report_on(broker.address, exit_code=1)
        [wrong] = [hop for hop in report["hops"] if not hop["ok"]]
        assert (wrong["hop"], "KAFKA_STORAGE_ERROR" in wrong["cause"]) == ("produce", True)
        assert "its disk is full or failed" in wrong["fix"]
        assert topics_of(broker) == []
