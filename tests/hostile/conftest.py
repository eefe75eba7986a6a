"""Fixtures: one broker of two shards for all of a file, and what its log may not say."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.clients.broker import RunningBroker, show_broker_logs
from tests.hostile.target import Target


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the broker's log with a failed test."""
    report = yield
    show_broker_logs(item, report)
    return report


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Two shards, so that there is a wrong one."""
    directory = tmp_path_factory.mktemp("broker")
    running = RunningBroker(directory / "data", directory / "broker.log", shards=2)
    try:
        running.start()
        yield running
        running.stop()
    finally:
        running.close()


@pytest.fixture(scope="module")
def target(broker: RunningBroker) -> Iterator[Target]:
    with Target("127.0.0.1", broker.port) as made:
        yield made


@pytest.fixture(scope="module")
def broker_log(broker: RunningBroker) -> BrokerLog:
    return BrokerLog(broker)
