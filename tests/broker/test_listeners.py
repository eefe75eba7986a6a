"""rpk_py.listeners: a port that is taken is named with its owner."""

from __future__ import annotations

import re

import pytest

from rpk_py import listeners
from rpk_py.config import Config
from rpk_py.startup_error import StartupError


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_port_that_the_broker_has_itself_is_not_blamed_on_another_process(host: str) -> None:
    with listeners.bind("127.0.0.1", 0, 16, "--kafka-addr") as bound:
        port = bound.getsockname()[1]
        says = (
            f"{host}:{port} is already in use by this broker itself: another of its listeners has"
            " this port (choose another address with --admin-addr)"
        )
        with pytest.raises(StartupError, match=f"^{re.escape(says)}$"):
            listeners.bind(host, port, 16, "--admin-addr")


def test_every_shard_has_a_port_of_its_own() -> None:
    sockets = listeners.bind_shards(Config(kafka_port=0, smp=3))
    assert len({bound.getsockname()[1] for bound in sockets}) == 3
    for bound in sockets:
        bound.close()
