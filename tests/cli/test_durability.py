"""`rpk-py durability` as a real process on a real disk, with and without a broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpk_py.cli.durability import _warnings
from storage.device import BlockDevice
from tests.cli.rpk_process import rpk
from tests.clients.broker import RunningBroker
from tests.clients.topics import create_topic

SHORT = ("--seconds", "0.2", "--format", "json")


def test_it_measures_where_the_broker_writes_and_leaves_nothing(tmp_path: Path) -> None:
    done = rpk("durability", "--data-dir", tmp_path, *SHORT)
    facts = done.json
    assert done.code == (1 if facts["warnings"] else 0), done.err
    for key in ("durable_write_ms", "fdatasync_ms"):
        times = facts[key]
        assert times["writes"] > 0
        assert 0 < times["p50"] <= times["p99"] <= times["max"]
    assert facts["data_dir"] == str(tmp_path)
    assert facts["block_bytes"] >= 512
    assert facts["topics"] is None, "no broker runs there"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm here")
def test_memory_is_no_disk() -> None:
    done = rpk("durability", "--data-dir", "/dev/shm", *SHORT)
    assert done.code == 1
    assert "in memory" in done.json["warnings"][0]


def test_the_topics_of_the_broker_that_runs_there(own_broker: RunningBroker) -> None:
    own_broker.start()
    safe = create_topic(own_broker)
    fast = create_topic(own_broker, configs={"write.caching": "true", "flush.ms": "7"})
    done = rpk("durability", "--data-dir", own_broker.data_dir, *SHORT)
    assert done.code == 1, "a topic may lose what was acknowledged"
    topics = {each["topic"]: each for each in done.json["topics"]}
    assert topics[safe]["acknowledged"] == "durable"
    assert (topics[fast]["acknowledged"], topics[fast]["flush_ms"]) == ("in memory", 7)
    text = rpk("durability", "--data-dir", own_broker.data_dir, "--seconds", "0.2")
    assert f"{fast}" in text.out
    assert "up to 7 ms or 262144 bytes a partition" in text.out


def test_a_broker_that_is_named_and_does_not_answer(tmp_path: Path) -> None:
    done = rpk("durability", "--data-dir", tmp_path, "--seconds", "0.2", brokers="127.0.0.1:1")
    assert done.code == 3
    assert "127.0.0.1:1" in done.err


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    done = rpk("durability", "--data-dir", tmp_path / "missing", *SHORT)
    assert done.code == 2
    assert "missing" in done.err


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"file_system": "nfs4"}, "other end"),
        ({"file_system": "overlay"}, "use a volume"),
        ({"direct_io": False}, "refuses Direct I/O"),
        ({"mount_options": ["rw", "barrier=0"]}, "without barriers"),
        ({"durable_write_ms": {"p50": 0.004}}, "answers before it has written"),
    ],
)
def test_what_makes_a_sync_worth_less_is_told(changed: dict[str, object], text: str) -> None:
    facts = {
        "file_system": "ext4",
        "direct_io": True,
        "mount_options": ["rw"],
        "durable_write_ms": {"p50": 0.1},
    }
    device = BlockDevice("sda", write_cache="write back")
    assert _warnings(facts, device) == []
    [warning] = _warnings(facts | changed, device)
    assert text in warning


def test_a_device_that_does_not_tell_its_cache() -> None:
    facts = {
        "file_system": "xfs",
        "direct_io": True,
        "mount_options": [],
        "durable_write_ms": {"p50": 0.1},
    }
    mapped = BlockDevice("dm-0", write_cache="write back", below=[BlockDevice("sda")])
    [warning] = _warnings(facts, mapped)
    assert "volatile write cache" in warning
