"""`rpk-py topic` as a real process against a real broker of two shards."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest
from kafka import KafkaProducer

from rpk_py.cli.topic import parse_pairs
from rpk_py.cli.topic_trim import parse_target, read_starts
from tests.cli.rpk_process import Ended, rpk
from tests.clients.broker import RunningBroker, free_ports, shared_broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with shared_broker(tmp_path_factory.mktemp("broker"), shards=2) as running:
        yield running


@pytest.fixture(scope="module")
def existing(broker: RunningBroker) -> str:
    """A topic of two partitions, one on each shard, with ten records in each."""
    assert on(broker, "topic", "create", "existing", "-p", 2).code == 0
    fill(broker, "existing", [0, 1])
    return "existing"


def on(broker: RunningBroker, *arguments: object) -> Ended:
    return rpk(*arguments, brokers=broker.address)


def fill(broker: RunningBroker, topic: str, partitions: list[int]) -> None:
    """Ten records, with timestamps 1000 to 1009, in each of these partitions."""
    producer = KafkaProducer(bootstrap_servers=broker.addresses)
    for index in partitions:
        for number in range(10):
            producer.send(topic, b"x", partition=index, timestamp_ms=1000 + number)
    producer.flush(30)
    producer.close()


def test_topics_are_created_listed_and_deleted(broker: RunningBroker) -> None:
    created = on(broker, "topic", "create", "one", "two", "-p", 3, "-c", "retention.ms=9")
    assert (created.code, created.rows) == (0, [["one", "OK"], ["two", "OK"]])
    listed = on(broker, "topic", "list", "one", "two", "--format", "json")
    facts = {"internal": False, "partitions": 3, "replicas": 1, "error": None}
    assert listed.json == [{"name": "one"} | facts, {"name": "two"} | facts]
    deleted = on(broker, "topic", "delete", "-r", "one|tw.", "--format", "json")
    ok = {"status": "OK", "message": None}
    assert deleted.json == [{"topic": "one"} | ok, {"topic": "two"} | ok]
    assert on(broker, "topic", "list", "one").code == 1


def test_a_topic_that_exists_fails_unless_that_is_fine(
    broker: RunningBroker, existing: str
) -> None:
    again = on(broker, "topic", "create", existing, "third", "--format", "json")
    assert again.code == 1
    assert [(each["topic"], each["status"]) for each in again.json] == [
        (existing, "TOPIC_ALREADY_EXISTS"),
        ("third", "OK"),
    ]
    fine = on(broker, "topic", "create", existing, "--if-not-exists")
    assert (fine.code, fine.rows) == (0, [[existing, "EXISTS"]])


def test_a_dry_run_changes_nothing(broker: RunningBroker, existing: str) -> None:
    assert on(broker, "topic", "create", "dry", "--dry").code == 0
    assert on(broker, "topic", "list", "dry").code == 1
    assert on(broker, "topic", "alter-config", existing, "-s", "flush.ms=7", "--dry").code == 0
    assert config_of(broker, existing, "flush.ms")["source"] == "DEFAULT_CONFIG"


def config_of(broker: RunningBroker, topic: str, key: str) -> dict[str, str]:
    (described,) = on(broker, "topic", "describe", topic, "--format", "json").json
    return next(config for config in described["configs"] if config["key"] == key)


def test_a_list_tells_leaders_and_columns_are_those_of_rpk(
    broker: RunningBroker, existing: str
) -> None:
    (topic,) = on(broker, "topic", "list", existing, "-d", "--format", "json").json
    assert {each["leader"] for each in topic["partition_list"]} == {0, 1}
    assert set(topic["partition_list"][0]) == {
        *("partition", "leader", "epoch", "replicas", "isr", "offline_replicas", "error"),
    }
    text = on(broker, "topic", "list", existing, "-d").out.splitlines()
    assert text[0] == f"{existing}, 2 partitions, 1 replicas"
    assert text[1].split() == ["PARTITION", "LEADER", "EPOCH", "REPLICAS"]


def test_a_description_has_offsets_of_every_leader(broker: RunningBroker, existing: str) -> None:
    described = on(broker, "topic", "describe", existing, "-p")
    headers = described.out.splitlines()[0].split()
    assert headers[-2:] == ["LOG-START-OFFSET", "HIGH-WATERMARK"]
    assert [row[-1] for row in described.rows] == ["10", "10"]
    both = on(broker, "topic", "describe", existing, "nope", "--format", "json")
    assert both.code == 1
    assert [set(each) for each in both.json] == [{"summary", "configs", "partitions"}] * 2
    assert both.json[1]["summary"]["error"].startswith("UNKNOWN_TOPIC_OR_PARTITION")
    assert both.err.startswith("rpk-py: topic nope: UNKNOWN_TOPIC_OR_PARTITION")


def test_configs_are_set_and_unset(broker: RunningBroker, existing: str) -> None:
    done = on(broker, "topic", "alter-config", existing, "nope", "--set", "retention.ms=5")
    assert done.code == 1
    assert [row[:2] for row in done.rows] == [
        [existing, "OK"],
        ["nope", "UNKNOWN_TOPIC_OR_PARTITION:"],
    ]
    config = config_of(broker, existing, "retention.ms")
    assert (config["value"], config["source"]) == ("5", "DYNAMIC_TOPIC_CONFIG")
    assert on(broker, "topic", "alter-config", existing, "-d", "retention.ms").code == 0
    assert config_of(broker, existing, "retention.ms")["source"] == "STATIC_BROKER_CONFIG"


def test_partitions_are_added_to_what_there_is(broker: RunningBroker) -> None:
    assert on(broker, "topic", "create", "grows", "-p", 2).code == 0
    added = on(broker, "topic", "add-partitions", "grows", "nope", "-n", 3)
    assert (added.code, added.rows[0]) == (1, ["grows", "OK"])
    assert on(broker, "topic", "list", "grows").rows == [["grows", "5", "1"]]


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        (("-o", 4), ["4", "4"]),
        (("-o", 4, "-p", 1), ["0", "4"]),
        (("-o", "end"), ["10", "10"]),
        (("-o", "@0000000001005"), ["5", "5"]),
        (("-o", "@-1h"), ["10", "10"]),  # nothing is that young
    ],
)
def test_records_are_trimmed_on_every_shard(
    broker: RunningBroker, arguments: tuple[object, ...], starts: list[str]
) -> None:
    assert on(broker, "topic", "create", "trimmed", "-p", 2).code == 0
    fill(broker, "trimmed", [0, 1])
    done = on(broker, "topic", "trim-prefix", "trimmed", *arguments, "--no-confirm")
    assert done.code == 0, done
    assert all(row[2] in starts for row in done.rows)
    rows = on(broker, "topic", "describe", "trimmed", "-p").rows
    assert [row[-2] for row in rows] == starts
    assert on(broker, "topic", "delete", "trimmed").code == 0


def test_a_trim_of_a_file_tells_each_partition(
    broker: RunningBroker, existing: str, tmp_path: Path
) -> None:
    file = tmp_path / "starts.json"
    file.write_text(json.dumps([{"topic": existing, "partition": n, "offset": 99} for n in (0, 7)]))
    done = on(broker, "topic", "trim-prefix", "-f", file, "--no-confirm", "--format", "json")
    assert done.code == 1
    assert [each["error"].split(":")[0] for each in done.json] == [
        "OFFSET_OUT_OF_RANGE",
        "UNKNOWN_TOPIC_OR_PARTITION",
    ]


@pytest.mark.parametrize(("said", "code", "start"), [("y\n", 0, "3"), ("n\n", 1, "0")])
def test_a_trim_is_confirmed_on_a_terminal(
    broker: RunningBroker, said: str, code: int, start: str
) -> None:
    topic = f"asked-{code}"
    assert on(broker, "topic", "create", topic).code == 0
    fill(broker, topic, [0])
    ours, theirs = pty.openpty()
    try:
        os.write(ours, said.encode())
        done = subprocess.run(
            [sys.executable, "-m", "rpk_py", "topic", "trim-prefix", topic, "-o", "3"],
            env={**os.environ, "RPK_BROKERS": broker.address},
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code
    assert "PRIOR-START-OFFSET" in done.stderr
    assert on(broker, "topic", "describe", topic, "-p").rows[0][-2] == start


REFUSED = [
    (("list", "nope"), 1, "UNKNOWN_TOPIC_OR_PARTITION"),
    (("list", "a/b"), 1, "INVALID_TOPIC_EXCEPTION"),
    (("describe", "nope"), 1, "UNKNOWN_TOPIC_OR_PARTITION"),
    (("create", "a/b"), 1, "INVALID_TOPIC_EXCEPTION"),
    (("create", "x", "-c", "nope=1"), 1, "INVALID_CONFIG"),
    (("create", "x", "-r", "3"), 1, "INVALID_REPLICATION_FACTOR"),
    (("delete", "nope"), 1, "UNKNOWN_TOPIC_OR_PARTITION"),
    (("add-partitions", "nope", "-n", "1"), 1, "UNKNOWN_TOPIC_OR_PARTITION"),
    (("alter-config", "nope", "-s", "flush.ms=1"), 1, "UNKNOWN_TOPIC_OR_PARTITION"),
    (("trim-prefix", "nope", "-o", "1", "--no-confirm"), 1, "UNKNOWN_TOPIC_OR_PARTITION"),
    (("trim-prefix", "existing", "-o", "1", "-p", "9", "--no-confirm"), 1, "no partition 9"),
    (("trim-prefix", "existing", "-o", "1"), 2, "--no-confirm"),
    (("trim-prefix", "existing"), 2, "--offset or --from-file"),
    (("trim-prefix", "existing", "-o", "soon", "--no-confirm"), 2, "'soon'"),
    (("create",), 2, "Missing argument"),
    (("create", "x", "-p", "many"), 2, "'many' is not a valid integer"),
    (("create", "x", "-c", "nope"), 2, "must be key=value"),
    (("alter-config", "existing"), 2, "nothing to change"),
    (("list", "-r", "("), 2, "no regular expression"),
    (("list", "-r", "-i", "x"), 2, "do not go together"),
    (("delete", "-r", "no-such-.*"), 0, "no topic matches"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), REFUSED)
def test_what_cannot_be_done_is_told_with_its_exit_code(
    broker: RunningBroker, existing: str, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ended = on(broker, "topic", *arguments)
    assert ended.code == code, ended
    assert says in ended.out + ended.err
    assert "Traceback" not in ended.err


def test_no_broker_is_exit_code_3_and_one_line() -> None:
    ended = rpk("topic", "list", "-b", f"127.0.0.1:{free_ports()}")
    assert ended.code == 3
    assert ended.out == ""
    assert ended.err.startswith("rpk-py: no broker answers: 127.0.0.1:")
    assert ended.err.count("\n") == 1


def test_an_http_server_is_told_apart(broker: RunningBroker) -> None:
    ended = rpk("topic", "list", "-b", f"127.0.0.1:{broker.admin_port}")
    assert (ended.code, "HTTP" in ended.err) == (3, True), ended


def test_a_leader_that_is_gone_costs_its_own_partitions_alone(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path / "data", tmp_path / "log", shards=2)
    try:
        broker.start()
        assert on(broker, "topic", "create", "half", "-p", 2).code == 0
        os.kill(broker.shard_pids[1], signal.SIGSTOP)
        with ThreadPoolExecutor() as pool:  # both wait for a time-out
            health = pool.submit(on, broker, "cluster", "health", "--format", "json").result
            described = pool.submit(on, broker, "topic", "describe", "half", "--format", "json")
            topic = described.result()
        assert topic.code == 1
        partitions = {each["leader"]: each for each in topic.json[0]["partitions"]}
        assert (partitions[0]["error"], partitions[0]["high_watermark"]) == (None, 0)
        assert "no answer" in partitions[1]["error"]
        assert health().code == 1
        assert (health().json["healthy"], health().json["nodes_down"]) == (False, [1])
    finally:
        broker.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ("-b", "{}", "topic", "list"),
        ("topic", "-b", "{}", "list"),
        ("topic", "list", "-b", "{}"),
        ("--brokers", "127.0.0.1:1", "topic", "list", "--brokers", "{}"),
    ],
)
def test_brokers_stand_before_or_behind_the_command(
    broker: RunningBroker, arguments: tuple[str, ...]
) -> None:
    ended = rpk(*(each.format(broker.address) for each in arguments), brokers="127.0.0.1:1")
    assert ended.code == 0, ended


def test_names_of_topics_are_completed(broker: RunningBroker, existing: str) -> None:
    words = {"COMP_WORDS": "rpk-py topic describe exi", "COMP_CWORD": "3"}
    asked = {"_RPK_PY_COMPLETE": "bash_complete", **words}
    assert rpk(brokers=broker.address, **asked).out == f"plain,{existing}\n"
    silent = rpk(brokers=f"127.0.0.1:{free_ports()}", **asked)
    assert (silent.out.strip(), silent.err) == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_script(shell: str) -> None:
    assert "_RPK_PY_COMPLETE" in rpk("completion", shell).out


def test_client_commands_import_nothing_of_the_server(broker: RunningBroker) -> None:
    code = (
        "import sys; from rpk_py.cli import root\n"
        "try: root.main(['topic', 'list'], prog_name='rpk-py')\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RPK_BROKERS": broker.address},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    ours = {name for name in done.stderr.split() if name.startswith("rpk_py.")}
    assert "rpk_py.cli.topic" in ours
    assert {name for name in ours if not name.startswith("rpk_py.cli")} == set()
    forbidden = {"storage", "uvloop", "sqlite3", "structlog", "prometheus_client", "liburing"}
    assert forbidden.isdisjoint(done.stderr.split())


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("end", (0, -1)),
        ("120", (120, None)),
        ("@1700000000000", (0, 1_700_000_000_000)),
        ("@1700000000", (0, 1_700_000_000_000)),
        ("@1970-01-02", (0, 86_400_000)),
        ("@-1h30m", (0, 10_000_000 - 5_400_000)),
    ],
)
def test_a_new_start_has_the_forms_of_rpk(text: str, target: tuple[int, int | None]) -> None:
    assert parse_target(text, now_ms=10_000_000) == target


@pytest.mark.parametrize("text", ["", "-1", "@", "@end", "@soon", "@-9999999h", "9" * 20, "1.5"])
def test_what_is_no_start_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="--offset"):
        parse_target(text, now_ms=10_000_000)


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("t 0 5\n\nt 1 6\n", {("t", 0): 5, ("t", 1): 6}),
        ("0 5\n", {("t", 0): 5}),
        ('[{"partition": 1, "offset": 2}]', {("t", 1): 2}),
    ],
)
def test_a_file_of_starts_is_text_or_json(
    tmp_path: Path, text: str, starts: dict[tuple[str, int], int]
) -> None:
    file = tmp_path / "starts"
    file.write_text(text)
    assert read_starts(file, "t") == starts


@pytest.mark.parametrize("text", ["", "u 0 5", "t 0", "t 0 x", "t -1 5", "[1]", "[", '[{"a": 1}]'])
def test_a_wrong_file_of_starts_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    file = tmp_path / "starts"
    file.write_text(text)
    with pytest.raises(click.UsageError, match="starts"):
        read_starts(file, "t")


def test_pairs_split_at_their_first_separator() -> None:
    assert parse_pairs("-c", ["a=b:c", "d:e=f"]) == {"a": "b:c", "d": "e=f"}
