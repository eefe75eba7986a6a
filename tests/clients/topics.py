"""Topics for tests: made through the admin API, each with a name that no other test uses."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.clients.broker import RunningBroker

_serial = itertools.count(1)


def new_topic_name(prefix: str = "topic") -> str:
    """A name that this run has not used yet."""
    return f"{prefix}-{next(_serial)}"


def create_topic(
    broker: RunningBroker,
    name: str = "",
    partitions: int = 1,
    configs: Mapping[str, str] | None = None,
    shard: int = 0,
) -> str:
    """Create a topic, with a new name unless one is given; returns its name.

    shard  the one that is asked for it
    """
    name = name or new_topic_name()
    admin = AdminClient({"bootstrap.servers": broker.addresses[shard]})
    topic = NewTopic(name, partitions, 1, config=dict(configs or {}))
    admin.create_topics([topic])[name].result(timeout=20)
    return name
