"""Fixtures of the crash tests: the broker that is killed, and the disk that loses power."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.backend import Backend, settle_backend
from storage.errors import DiskUnavailable
from tests.clients.broker import show_broker_logs
from tests.crash.cut_disk import CutDisk, CutDiskUnavailable


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the broker's log with a failed test."""
    report = yield
    show_broker_logs(item, report)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What each crash test did, its seed included, also where it passed."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, text in getattr(report, "user_properties", ()):
                if name == "crash" and report.when == "call":
                    terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {text}")


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say something about the run in the summary of the session."""

    def say(text: str) -> None:
        print(text)
        request.node.user_properties.append(("crash", text))

    return say


@pytest.fixture
def seed(note: Callable[[str], None]) -> int:
    """Decides when crashes happen; printed, and taken from RPK_PY_SEED to repeat a run."""
    value = int(os.environ.get("RPK_PY_SEED") or random.SystemRandom().randrange(2**32))
    note(f"RPK_PY_SEED={value}")
    return value


@pytest.fixture
def io_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """The broker's disk backend: auto, or what a test's marks name and this machine has."""
    backend: Backend = getattr(request, "param", "auto")
    try:
        settle_backend(backend, tmp_path)
    except DiskUnavailable as error:
        pytest.skip(str(error))
    return backend


@pytest.fixture
def cut_disk(tmp_path: Path) -> Iterator[CutDisk]:
    """A disk that can lose power, or a skip that says why there is none."""
    try:
        disk = CutDisk(tmp_path)
    except CutDiskUnavailable as error:
        pytest.skip(str(error))
    try:
        yield disk
    finally:
        disk.close()
