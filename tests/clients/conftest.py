"""Fixtures of the client tests: one broker for all of a file, or one that a test may kill."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.broker import RunningBroker, shared_broker, show_broker_logs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the broker's log with a failed test."""
    report = yield
    show_broker_logs(item, report)
    return report


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """A broker that all tests of a file share; nothing may have gone wrong in it."""
    with shared_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running
    assert running.log_events("error", "critical", "raw") == []


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker of the test's own, to be killed and restarted; started by the test."""
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log")
    try:
        yield running
    finally:
        running.close()
