"""Fixtures of the storage tests: a Disk on a real file system, once per backend and event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.backend import Backend, open_disk
from storage.disk import Disk
from storage.errors import DiskUnavailable

Scenario = Callable[[Disk], Awaitable[None]]
BUFFERED = "-buffered"  # as where O_DIRECT is refused
LOOPS: dict[str, tuple[Backend, str]] = {
    "liburing": ("liburing", "asyncio"),
    "liburing-uvloop": ("liburing", "uvloop"),
    "liburing-buffered": ("liburing", "asyncio"),
    "ring": ("ring", "asyncio"),
    "ring-uvloop": ("ring", "uvloop"),
    "ring-buffered": ("ring", "asyncio"),
    "threads": ("threads", "asyncio"),
    "threads-uvloop": ("threads", "uvloop"),
    "threads-buffered": ("threads", "asyncio"),
}


def open_or_skip(backend: Any, loop: asyncio.AbstractEventLoop) -> Disk:
    try:
        return open_disk(backend, loop, pytest.fail)
    except DiskUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=list(LOOPS))
def run_on_disk(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Scenario], None]:
    """Runs `scenario(disk)` in a loop of its own and closes the disk, whatever happens.

    Whatever the loop's exception handler was told fails the test.
    """
    backend, loop_name = LOOPS[request.param]
    if request.param.endswith(BUFFERED):
        monkeypatch.setattr("storage.disk.O_DIRECT", 0)

    async def run(scenario: Scenario) -> None:
        loop = asyncio.get_running_loop()
        reported: list[dict[str, object]] = []
        loop.set_exception_handler(lambda _loop, context: reported.append(context))
        disk = open_or_skip(backend, loop)
        try:
            await asyncio.wait_for(scenario(disk), timeout=30)
        finally:
            await asyncio.wait_for(disk.close(), timeout=30)
        assert reported == []

    def run_in_new_loop(scenario: Scenario) -> None:
        if loop_name == "uvloop":
            uvloop = pytest.importorskip("uvloop")
            uvloop.run(run(scenario))
        else:
            asyncio.run(run(scenario))

    return run_in_new_loop


@pytest.fixture
def segment_path(tmp_path: Path) -> Iterator[Path]:
    """A path on the file system under test; the file is removed early, so that /tmp stays small."""
    path = tmp_path / "00000000000000000000.wal"
    yield path
    path.unlink(missing_ok=True)
