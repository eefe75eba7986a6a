"""Fixtures: one broker of two shards for all of a file, and what its log may not say."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.clients.broker import RunningBroker, shared_broker
from tests.clients.conftest import pytest_runtest_makereport
from tests.hostile.target import Target

__all__ = ["broker", "broker_log", "pytest_runtest_makereport", "target"]


class BrokerLog:
    """What a broker logged since this was asked before."""

    def __init__(self, broker: RunningBroker) -> None:
        self._path = broker.log_path
        self._seen_bytes = 0

    def complaints(self) -> list[str]:
        """New lines that no input of a client may cause: errors, and what is no event at all."""
        with self._path.open("rb") as file:
            file.seek(self._seen_bytes)
            text = file.read()
        self._seen_bytes += len(text)
        lines = text.decode(errors="replace").splitlines()
        return [line for line in lines if not _is_calm(line)]


def _is_calm(line: str) -> bool:
    if not line.startswith("{"):
        return False
    return json.loads(line)["level"] in ("debug", "info", "warning")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Two shards, so that there is a wrong one."""
    with shared_broker(tmp_path_factory.mktemp("broker"), shards=2) as running:
        yield running


@pytest.fixture(scope="module")
def target(broker: RunningBroker) -> Iterator[Target]:
    with Target("127.0.0.1", broker.port) as made:
        yield made


@pytest.fixture(scope="module")
def broker_log(broker: RunningBroker) -> BrokerLog:
    return BrokerLog(broker)
