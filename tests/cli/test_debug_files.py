"""`rpk-py debug verify`, `partition`, `rebuild-index`, `cut` and `journal` on real directories."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from rpk_py.data_dir import JOURNAL
from tests.cli.rpk_process import Ended, rpk
from tests.clients.broker import RunningBroker
from tests.clients.topics import create_topic
from tests.storage.builder import Host, batch_of_size, drive, flip

BATCHES = 60
SMALL = {"segment_bytes": 200_000}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningBroker, str]]:
    """A stopped broker and its topic: partition 0 has several segments, 1 a single one."""
    folder = tmp_path_factory.mktemp("made")
    broker = RunningBroker(folder / "data", folder / "log", SMALL).start()
    topic = create_topic(broker, partitions=2)
    producer = Producer({"bootstrap.servers": broker.address})
    for number in range(BATCHES):
        producer.produce(topic, b"%06d" % number + bytes(20_000), partition=0)
        producer.produce(topic, b"%06d" % number, partition=1)
        assert producer.flush(20) == 0
    broker.stop()
    yield broker, topic
    broker.close()


@pytest.fixture
def data(made: tuple[RunningBroker, str], tmp_path: Path) -> Path:
    """A copy of its data directory."""
    return Path(shutil.copytree(made[0].data_dir, tmp_path / "data"))


def debug(*arguments: object) -> Ended:
    return rpk("debug", *arguments)


def wals(data: Path, topic: str, partition: int = 0) -> list[Path]:
    return sorted((data / f"{topic}-{partition}").glob("*.wal"))


def test_a_whole_directory(data: Path, made: tuple[RunningBroker, str]) -> None:
    topic = made[1]
    done = debug("verify", data, "--format", "json")
    assert done.code == 0, done.out
    first, second = done.json["partitions"]
    assert (first["partition"], first["verdict"]) == (f"{topic}-0", "whole")
    assert (first["log_start_offset"], first["next_offset"]) == (0, BATCHES)
    assert sum(segment["batches"] for segment in first["segments"]) == BATCHES
    assert len(first["segments"]) == len(wals(data, topic)) > 3
    assert [segment["index"].split()[-1] for segment in first["segments"]][:-1] == ["entries"] * (
        len(first["segments"]) - 1
    )
    assert first["checkpoints"][-1] == BATCHES
    assert second["next_offset"] == BATCHES
    assert "are whole" in debug("verify", data).out


def test_a_partition_is_described(data: Path, made: tuple[RunningBroker, str]) -> None:
    topic = made[1]
    done = debug("partition", data / f"{topic}-0")
    assert done.code == 0
    assert f"offsets 0 to {BATCHES - 1}" in done.out
    for path in wals(data, topic):
        assert path.name in done.out
    assert debug("partition", data).code == 2, "it is no partition"


def test_a_flipped_byte_is_damage_and_says_where(
    data: Path, made: tuple[RunningBroker, str]
) -> None:
    first = wals(data, made[1])[0]
    flip(first, first.stat().st_size // 2)
    done = debug("verify", data, "--format", "json")
    assert done.code == 1
    damaged, other = done.json["partitions"]
    assert (damaged["verdict"], other["verdict"]) == ("damage", "whole")
    assert first.name in damaged["problems"][0]


def test_a_missing_segment_is_damage(data: Path, made: tuple[RunningBroker, str]) -> None:
    segments = wals(data, made[1])
    segments[1].unlink()
    done = debug("verify", data / f"{made[1]}-0", "--format", "json")
    assert done.code == 1
    start, end = int(segments[1].stem), int(segments[2].stem) - 1
    assert f"offsets {start} to {end} are missing" in " ".join(
        done.json["partitions"][0]["problems"]
    )


def test_an_index_that_lies_is_damage_and_one_that_is_bad_is_rebuilt_on_request(
    data: Path, made: tuple[RunningBroker, str]
) -> None:
    folder = data / f"{made[1]}-0"
    indexes = sorted(folder.glob("*.index"))
    whole = [path.read_bytes() for path in indexes]
    indexes[0].unlink()
    flip(indexes[1], 40)
    done = debug("verify", folder, "--format", "json")
    assert done.code == 0, "a start rebuilds them"
    assert len(done.json["partitions"][0]["notes"]) == 2
    assert "would be written" in debug("rebuild-index", folder).out
    assert not indexes[0].exists()
    assert debug("rebuild-index", folder, "--yes").code == 0
    assert [path.read_bytes() for path in indexes] == whole
    assert debug("rebuild-index", folder, "--yes").out == "", "nothing is left to do"


def test_a_damaged_partition_is_cut_before_the_damage_and_served(
    data: Path, made: tuple[RunningBroker, str], tmp_path: Path
) -> None:
    topic, folder = made[1], data / f"{made[1]}-0"
    victim = wals(data, topic)[2]
    base = int(victim.stem)
    flip(victim, 4096 + 6 * 4096 + 4096 + 100)  # the body of its second record
    broker = RunningBroker(data, tmp_path / "log", SMALL)
    planned = debug("cut", folder, "--at-offset", base + 3)
    assert planned.code == 0
    assert "Nothing was changed" in planned.out
    assert f"before offset {base + 1}" in planned.out, "the second record is damaged"
    files = sorted(path.name for path in folder.iterdir())
    assert victim.name in files
    done = debug("cut", folder, "--at-offset", base + 3, "--yes")
    assert done.code == 0, done.err
    assert sorted(path.name for path in (data / f"{topic}-0.before-cut").iterdir()) == files
    assert debug("verify", folder).code == 0
    try:
        broker.start()
        producer = Producer({"bootstrap.servers": broker.address})
        producer.produce(topic, b"after", partition=0)
        assert producer.flush(20) == 0
        assert read(broker, topic) == [b"%06d" % n for n in range(base + 1)] + [b"after"]
        refused = debug("cut", folder, "--at-offset", 1, "--yes")
        assert refused.code == 2
        assert "in use" in refused.err
        broker.stop()
    finally:
        broker.close()


def read(broker: RunningBroker, topic: str) -> list[bytes]:
    """The first bytes of each record of partition 0."""
    settings = {"bootstrap.servers": broker.address, "group.id": "reader"}
    consumer = Consumer(settings | {"enable.partition.eof": True, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values: list[bytes] = []
    while (message := consumer.poll(20)) is not None and message.error() is None:
        value = message.value()
        assert value is not None
        values.append(value[:6])
    consumer.close()
    return values


def test_what_cannot_be_cut_is_left_alone(data: Path, made: tuple[RunningBroker, str]) -> None:
    folder = data / f"{made[1]}-1"
    done = debug("cut", folder, "--at-offset", BATCHES, "--yes", "--no-copy")
    assert done.code == 0, "at its end: nothing goes"
    assert debug("verify", folder, "--format", "json").json["partitions"][0]["next_offset"] == (
        BATCHES
    )
    assert debug("verify", data / JOURNAL).code == 2


def test_a_damaged_journal_is_named_and_set_aside_on_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path)
        host.begin_journal()
        logs = [await host.open(f"events-{i}", partition=i) for i in range(8)]
        for _ in range(3):
            for log in logs:
                log.append_batch(batch_of_size(300))
            for log in logs:
                await log.durable()
        await host.crash()

    drive(scenario())
    (tmp_path / "trash").mkdir(exist_ok=True)
    shown = debug("journal", tmp_path, "--format", "json").json
    assert not shown["problems"]
    assert {entry["partition"] for entry in shown["entries"]} == set(range(8))
    assert debug("verify", tmp_path / "events-0").code in (0, 2)
    journal = next((tmp_path / JOURNAL / "0").glob("0.journal"))
    flip(journal, 4096 + 4096 + 10)  # in the first record's body
    damaged = debug("journal", tmp_path, "--format", "json")
    assert damaged.code == 1
    assert "0.journal" in damaged.json["problems"][0]
    assert debug("journal", tmp_path, "--set-aside").code == 1
    assert journal.exists(), "not without --yes"
    done = debug("journal", tmp_path, "--set-aside", "--yes", "--format", "json")
    assert done.code == 0
    assert not (tmp_path / JOURNAL).exists()
    assert (Path(done.json["set_aside"]) / "0" / "0.journal").exists()
