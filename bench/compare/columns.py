"""The brokers of a comparison, as columns of its results."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.peers import kafka, redpanda, tansu
from bench.peers.rpk_py import RpkPyServer
from bench.peers.server import Server, Target

RPK_PY, CACHING, SHARDS_2 = "rpk-py", "rpk-py, write.caching", "rpk-py, 2 shards"
KAFKA, KAFKA_FLUSH, TANSU, REDPANDA = "Kafka", "Kafka, flush a message", "Tansu", "Redpanda"
FLUSH = ("log.flush.interval.messages=1",)


@dataclass(frozen=True)
class Kind:
    """How a column's server is made. `same_as`: it is another column's server."""

    name: str
    durable: bool
    make: Callable[[Path], Server]
    same_as: str = ""
    configs: tuple[tuple[str, str], ...] = ()
    only_growth: bool = False


def kinds(jars: Path | None) -> list[Kind]:
    """All that can run here."""
    two_shards = partial(RpkPyServer, options=("--overprovisioned",), shards=2)
    found = [
        Kind(RPK_PY, True, RpkPyServer),
        Kind(CACHING, False, RpkPyServer, same_as=RPK_PY, configs=(("write.caching", "true"),)),
        Kind(SHARDS_2, True, two_shards, only_growth=True),
    ]
    if jars is not None:
        flush = partial(kafka.KafkaServer, jars=jars, properties=FLUSH)
        found.append(Kind(KAFKA_FLUSH, True, flush))
        found.append(Kind(KAFKA, False, partial(kafka.KafkaServer, jars=jars)))
    if (binary := tansu.find_binary()) is not None:
        found.append(Kind(TANSU, False, partial(tansu.TansuServer, binary=binary)))
    if (binary := redpanda.find_binary()) is not None:
        found.append(Kind(REDPANDA, True, partial(redpanda.RedpandaServer, binary=binary)))
    return found


@contextmanager
def running(wanted: list[Kind], directory: Path, cores: list[int]) -> Iterator[list[Target]]:
    """The columns with their servers, all on `cores`, on fresh data directories."""
    servers: dict[str, Server] = {}
    mine = os.sched_getaffinity(0)
    targets = []
    try:
        for kind in wanted:
            name = kind.same_as or kind.name
            if name not in servers:
                home = directory / name.replace(", ", "-").replace(" ", "-")
                home.mkdir()
                server = kind.make(home)
                os.sched_setaffinity(0, cores)  # what it starts inherits it
                try:
                    server.start()
                finally:
                    os.sched_setaffinity(0, mine)
                servers[name] = server
            targets.append(Target(kind.name, servers[name], kind.durable, dict(kind.configs)))
        yield targets
    finally:
        for server in servers.values():
            server.stop()
        for child in directory.iterdir():
            shutil.rmtree(child, ignore_errors=True)
