"""`rpk-py cluster` as a real process against a real broker of two shards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.rpk_process import Ended, rpk
from tests.clients.broker import RunningBroker, shared_broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with shared_broker(tmp_path_factory.mktemp("broker"), shards=2) as running:
        yield running


def cluster(broker: RunningBroker, *arguments: object) -> Ended:
    return rpk("cluster", *arguments, brokers=broker.address)


def test_info_names_the_brokers_and_marks_the_controller(broker: RunningBroker) -> None:
    info = cluster(broker, "info", "--format", "json").json
    assert set(info) == {"cluster_id", "controller_id", "brokers", "topics"}
    assert [node["id"] for node in info["brokers"]] == [0, 1]
    assert [node["port"] for node in info["brokers"]] == list(broker.ports)
    assert [node["controller"] for node in info["brokers"]].count(True) == 1
    text = cluster(broker, "info", "--print-brokers")
    assert text.out.splitlines()[0].split() == ["ID", "HOST", "PORT", "RACK"]
    assert [row[0].rstrip("*") for row in text.rows] == ["0", "1"]
    assert any(row[0].endswith("*") for row in text.rows)


def test_a_healthy_cluster_is_exit_code_0(broker: RunningBroker) -> None:
    health = cluster(broker, "health", "--format", "json")
    assert (health.code, health.json["healthy"]) == (0, True)
    assert health.json["all_nodes"] == [0, 1]
    assert cluster(broker, "health", "--exit-when-healthy").code == 0


def test_a_value_for_all_and_one_for_a_node(broker: RunningBroker) -> None:
    assert cluster(broker, "config", "set", "flush.ms", 50).code == 0
    assert cluster(broker, "config", "set", "flush.ms=60", "--node", 1).code == 0
    assert cluster(broker, "config", "get", "flush.ms").out == "50\n"
    assert cluster(broker, "config", "get", "flush.ms", "--node", 1).out == "60\n"
    status = cluster(broker, "config", "status", "--format", "json")
    assert status.code == 0
    assert status.json == [
        {"node": 0, "status": "OK", "own": [], "not_in_force": []},
        {"node": 1, "status": "OK", "own": ["flush.ms"], "not_in_force": []},
    ]
    for node in ((), ("--node", 1)):
        assert cluster(broker, "config", "set", "flush.ms", "", *node).code == 0
    (unset,) = cluster(broker, "config", "get", "flush.ms", "--format", "json").json
    assert (unset["source"], unset["read_only"]) == ("DEFAULT_CONFIG", False)


def test_a_list_has_what_can_be_changed_and_with_all_the_rest(broker: RunningBroker) -> None:
    some = cluster(broker, "config", "list", "--format", "json").json
    every = cluster(broker, "config", "list", "--all", "--format", "json").json
    assert not any(each["read_only"] for each in some)
    assert {"flush.ms", "message.max.bytes"} <= {each["name"] for each in some}
    assert "node.id" in {each["name"] for each in every} - {each["name"] for each in some}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("config", "set", "mesage.max.bytes", "5"), 1, "did you mean message.max.bytes?"),
        (("config", "set", "flush.ms", "soon"), 1, "INVALID_"),
        (("config", "set", "node.id", "7"), 1, "INVALID_REQUEST"),
        (("config", "set", "flush.ms"), 2, "KEY=VALUE"),
        (("config", "get", "nope"), 1, "there is no broker config nope"),
        (("config", "get", "flush.ms", "nope"), 1, "there is no broker config nope"),
        (("config", "list", "--node", "9"), 1, "node 9 is not among the brokers"),
        (("info", "nope"), 1, "UNKNOWN_TOPIC_OR_PARTITION"),
        (("health", "-b", "127.0.0.1:1"), 3, "no broker answers"),
    ],
)
def test_what_cannot_be_done_is_told_with_its_exit_code(
    broker: RunningBroker, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ended = cluster(broker, *arguments)
    assert ended.code == code, ended
    assert says in ended.err
