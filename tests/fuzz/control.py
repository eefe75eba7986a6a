"""Targets: what supervisor and shards tell each other, changes of the metadata, and settings."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from kafka_protocol.errors import ErrorCode
from rpk_py.config import Config
from rpk_py.metadata import requests
from rpk_py.metadata.channel import ChannelError, encode_message, read_message
from rpk_py.metadata.config_plan import plan_alter_configs
from rpk_py.metadata.requests import ConfigResource, PartitionsSpec, TopicSpec
from rpk_py.metadata.state import (
    ClusterState,
    Delta,
    NodeState,
    apply,
    decode_delta,
    decode_state,
    encode_delta,
    encode_state,
)
from rpk_py.metadata.topic_plan import (
    plan_create_partitions,
    plan_create_topics,
    plan_delete_topics,
)
from rpk_py.setting import ConfigError
from rpk_py.settings_sources import as_toml, load
from rpk_py.startup_error import StartupError
from tests.fuzz.target import Target

FRAME_BYTES_MAX = 100_000
STEPS_MAX = 24
CONFIG = Config(data_dir=Path("/data"), smp=2, partitions_per_topic_max=50, partitions_max=200)

# -- the control channel ---------------------------------------------------------------------


async def _read_all(data: bytes) -> list[tuple[dict[str, Any], int]]:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    found = []
    while (message := await read_message(reader, FRAME_BYTES_MAX)) is not None:
        found.append(message)
    return found


def read_channel(data: bytes) -> None:
    """Messages until the end, or ChannelError; a message survives being sent on."""
    with suppress(ChannelError):
        found = asyncio.run(_read_all(data))
        again = asyncio.run(_read_all(b"".join(encode_message(m) for m, _ in found)))
        assert repr([m for m, _ in again]) == repr([m for m, _ in found])  # NaN is not itself


def channel_seeds() -> Iterator[bytes]:
    state = _new_state()
    yield encode_message({"type": "hello", "pid": 7})
    yield encode_message({"type": "snapshot", "state": encode_state(state)})
    results, created = plan_create_topics(state, [TopicSpec("t", 3)], CONFIG, _Ids().next)
    assert results[0].error_code == 0
    delta = encode_delta(Delta(1, tuple(created)))
    yield encode_message({"type": "delta", **delta}) + encode_message({"type": "stop"})


# -- metadata --------------------------------------------------------------------------------


class _Ids:
    """Topic ids that differ."""

    def __init__(self) -> None:
        self._count = 0

    def next(self) -> bytes:
        self._count += 1
        return self._count.to_bytes(16, "big")


class _Choices:
    """Decisions from an input; zeros once it is used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    @property
    def left(self) -> bool:
        return self._pos < len(self._data)

    def number(self) -> int:
        """A small one mostly, and sometimes any of 32 bits."""
        byte = self._byte()
        if byte < 0xF0:
            return byte % 12 - 2
        return int.from_bytes(self._take(4), "big", signed=True)

    def text(self) -> str:
        """One of few, so that names meet again, or any."""
        byte = self._byte()
        if byte < 0xE0:
            return _WORDS[byte % len(_WORDS)]
        return self._take(byte - 0xE0).decode("utf-8", "replace")

    def several(self, make: Any) -> list[Any]:
        return [make() for _ in range(self._byte() % 4)]

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, size: int) -> bytes:
        taken = self._data[self._pos : self._pos + size]
        self._pos += size
        return taken.ljust(size, b"\0")


_WORDS = (
    "orders", "t", "", ".", "..", "a/b", "x" * 249, "x" * 250, "__consumer_offsets", "0", "1", "-1",
    "max.message.bytes", "cleanup.policy", "compact", "delete", "1048588", "retention.ms", "true",
    "write.caching", "message.timestamp.type", "LogAppendTime", "min.insync.replicas", "a.b", "a_b",
    "log.retention.ms", "compression.type", "producer", "1e999", " 5", "9223372036854775808",
)  # fmt: skip


def _new_state() -> ClusterState:
    return ClusterState(
        cluster_id="c2hhcmQtb2YtYS1icm9rZX",
        nodes={n: NodeState(n, None, 9092 + n, "host-0") for n in (0, 1)},
    )


def change_metadata(data: bytes) -> None:
    """Requests as clients may write them against the controller's plans: each is answered in
    order, what is refused changes nothing, and two holders of the state agree by deltas alone."""
    choices, ids = _Choices(data), _Ids()
    here, there = _new_state(), _new_state()
    for _ in range(STEPS_MAX):
        if not choices.left:
            break
        before = encode_state(here)
        changes = _plan(choices, here, ids)
        assert encode_state(here) == before, "a plan changed the state"
        if not changes:
            continue
        delta = Delta(here.revision + 1, tuple(changes))
        sent = decode_delta(json.loads(json.dumps(encode_delta(delta))))
        apply(here, delta)
        apply(there, sent)
        assert here == there
        _check(here)
    assert decode_state(json.loads(json.dumps(encode_state(here)))) == here


def _plan(choices: _Choices, state: ClusterState, ids: _Ids) -> list[Any]:
    number, text, several = choices.number, choices.text, choices.several
    match number() % 5:
        case 0 | 1:
            specs = several(
                lambda: TopicSpec(
                    text(),
                    number(),
                    number(),
                    several(lambda: (number(), several(number))),
                    several(lambda: (text(), text())),
                )
            )
            sent = [json.loads(json.dumps(requests.encode_topic_spec(s))) for s in specs]
            assert [requests.decode_topic_spec(row) for row in sent] == specs
            results, changes = plan_create_topics(state, specs, CONFIG, ids.next)
            rows = [json.loads(json.dumps(requests.encode_topic_result(r))) for r in results]
            assert [requests.decode_topic_result(row) for row in rows] == results
            _check_results(specs, results)
            return list(changes)
        case 2:
            specs = several(
                lambda: PartitionsSpec(
                    text(), number(), several(lambda: several(number)) if number() % 2 else None
                )
            )
            results, changes = plan_create_partitions(state, specs, CONFIG)
            _check_results(specs, results)
            return list(changes)
        case 3:
            ids_or_names = several(
                lambda: (
                    (text(), None)
                    if number() % 2
                    else (None, (number() % 2**16).to_bytes(16, "big"))
                )
            )
            results, changes = plan_delete_topics(state, ids_or_names)
            _check_results(ids_or_names, results)
            return list(changes)
        case _:
            resources = several(
                lambda: ConfigResource(
                    number(), text(), several(lambda: (text(), number(), text()))
                )
            )
            incremental = bool(number() % 2)
            results, changes = plan_alter_configs(state, CONFIG, resources, incremental)
            _check_results(resources, results)
            return list(changes)


def _check_results(asked: list[Any], results: list[Any]) -> None:
    """What is named twice is answered once."""
    for result in results:
        ErrorCode(result.error_code)
    assert len(results) <= len(asked)
    if asked and hasattr(asked[0], "name"):
        assert {row.name for row in results} == {row.name for row in asked}


def _check(state: ClusterState) -> None:
    assert {t.name: t.topic_id for t in state.topics.values()} == {
        t.name: topic_id for topic_id, t in state.topics_by_id.items()
    }
    for name, topic in state.topics.items():
        assert topic.name == name
        assert 0 < len(topic.partitions) <= CONFIG.partitions_per_topic_max
        assert [p.index for p in topic.partitions] == list(range(len(topic.partitions)))
        assert all(p.leader in state.nodes for p in topic.partitions)
        assert not state.deleted_topic_ids.keys() & {topic.topic_id}
        assert name not in (".", "..")
        assert "/" not in name
    assert sum(len(t.partitions) for t in state.topics.values()) <= CONFIG.partitions_max


def metadata_seeds() -> Iterator[bytes]:
    for what in range(2, 7):  # number() takes 2 off
        create = bytes((2, 1, 0, 5, 3, 0, 0))
        yield create + bytes((what, 1, 0, 6, 4, 0, 0, 0))
        yield create + bytes((what, 2, 0, 6, 3, 1, 12, 16, 1, 0xE3, 97, 98, 99, 4, 4, 0, 0))
        yield create * 3 + bytes((what, 1, 4, 0, 1, 13, 4, 14, 3))


# -- settings --------------------------------------------------------------------------------


def load_settings(data: bytes) -> None:
    """A TOML file, variables and options, split at zero bytes: a configuration that can be written
    down and loaded again, or an error for a person."""
    toml, *rest = data.split(b"\0")
    texts = [part.decode("utf-8", "replace") for part in rest]
    flags = {"data_dir": "/data"}
    environment = {f"RPK_{t.partition('=')[0]}": t.partition("=")[2] for t in texts[1:2]}
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(toml)
        file.flush()
        try:
            loaded = load(flags, texts[:1], environment, Path(file.name), lambda: 2)
        except (ConfigError, StartupError):
            return
        text = as_toml(loaded)
        file.seek(0)
        file.truncate()
        file.write(text.encode())
        file.flush()
        assert load({}, (), {}, Path(file.name), lambda: 2).config == loaded.config


def settings_seeds() -> Iterator[bytes]:
    yield b""
    yield b"smp = 2\nkafka_addr = '[::1]:9092'\nlog_level = 'debug'\n\0smp=auto\0KAFKA_PORT=1"
    yield as_toml(load({}, (), {}, None, lambda: 2)).encode()
    yield b"\0partitions_max=7"
    yield b"admin_addr = '127.0.0.1:0'\ncache_bytes = 1_000_000\n\0kafka_host=x\0SMP=4"


TARGETS = [
    Target("channel", read_channel, channel_seeds, share=0.3),
    Target("metadata", change_metadata, metadata_seeds),
    Target("settings", load_settings, settings_seeds, share=0.3),
]
