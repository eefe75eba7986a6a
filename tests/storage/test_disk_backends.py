"""Choosing a backend, and what only the io_uring backend has: a ring, slots, refused submits."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage import backend as backend_module
from storage.backend import open_disk, probe_liburing
from storage.buffers import aligned_buffer
from storage.disk import open_segment
from storage.errors import DiskUnavailable

BLOCK = 4096


def why_no_ring() -> str | None:
    return backend_module._why_not_liburing()


needs_ring = pytest.mark.skipif(why_no_ring() is not None, reason=str(why_no_ring()))


def ring_fds() -> list[str]:
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # the fd of the listing itself
    return [link for link in links if "[io_uring]" in link]


def with_disk(backend: Any, scenario: Callable[[Any], Awaitable[None]]) -> list[str]:
    """Run `scenario(disk)`; the messages of opening it."""
    messages: list[str] = []

    async def run() -> None:
        disk = open_disk(backend, asyncio.get_running_loop(), messages.append)
        try:
            await asyncio.wait_for(scenario(disk), 30)
        finally:
            await asyncio.wait_for(disk.close(), 30)

    asyncio.run(run())
    return messages


async def use_nothing(_disk: Any) -> None:
    """A scenario that only opens and closes."""


# --- choosing ----------------------------------------------------------------------------------


@needs_ring
def test_auto_takes_the_ring_without_a_word() -> None:
    async def scenario(disk: Any) -> None:
        assert disk.name == "liburing"
        assert len(ring_fds()) == 1

    before = ring_fds()
    assert before == []
    assert with_disk("auto", scenario) == []
    assert ring_fds() == []


def test_threads_use_no_ring() -> None:
    async def scenario(disk: Any) -> None:
        assert disk.name == "threads"
        assert ring_fds() == []

    assert with_disk("threads", scenario) == []


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (errno.ENOSYS, "no io_uring"),
        (errno.EPERM, "forbidden"),
        (errno.ENOMEM, "locked memory"),
        (errno.EINVAL, "EINVAL"),
    ],
)
def test_a_kernel_that_refuses_is_named_and_auto_falls_back(
    code: int, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(backend_module, "_libc", SimpleNamespace(syscall=refuse))

    async def scenario(disk: Any) -> None:
        assert disk.name == "threads"

    (message,) = with_disk("auto", scenario)
    assert cause in message
    assert "\n" not in message
    assert "as durable" in message  # what it costs, and what it does not
    assert cause in (probe_liburing() or "")
    with pytest.raises(DiskUnavailable, match=cause):
        with_disk("liburing", use_nothing)


@pytest.mark.parametrize(
    ("value", "named"), [("2\n", "io_uring_disabled is 2"), ("0\n", "seccomp")]
)
def test_a_refusal_says_who_refuses(
    value: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysctl = tmp_path / "io_uring_disabled"
    sysctl.write_text(value)
    monkeypatch.setattr(backend_module, "_DISABLED_SYSCTL", str(sysctl))
    assert named in backend_module._who_forbids()


def test_a_missing_binding_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "storage.uring", None)
    monkeypatch.setattr(backend_module, "_why_not_io_uring", lambda: None)
    (message,) = with_disk("auto", use_nothing)
    assert "pip install" in message
    with pytest.raises(DiskUnavailable, match="liburing is not installed"):
        with_disk("liburing", use_nothing)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(DiskUnavailable, match="unknown disk backend 'floppy'"):
        with_disk("floppy", use_nothing)


@needs_ring
def test_the_probe_finds_the_ring_usable_and_leaves_nothing_open() -> None:
    assert probe_liburing() is None
    assert ring_fds() == []


@needs_ring
def test_the_probe_survives_a_build_for_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.uring.try_ring", lambda: os.kill(os.getpid(), signal.SIGILL))
    reason = probe_liburing()
    assert reason is not None
    assert "SIGILL" in reason
    assert "pip install" in reason


FORBIDDEN_BY_SECCOMP = """
import asyncio, ctypes, struct, sys

# Load the system call's number; 425 (io_uring_setup) gets EPERM, all others are allowed.
program = b"".join(
    struct.pack("=HBBI", *row)
    for row in [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
)
memory = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(memory)))
libc = ctypes.CDLL(None)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filter):  # no new privileges; filter
    sys.exit(77)

from storage.backend import open_disk, probe_liburing

async def main():
    disk = open_disk("auto", asyncio.get_running_loop(), print)
    print(disk.name)
    await disk.close()

print(probe_liburing())
asyncio.run(main())
"""


def test_inside_a_container_that_forbids_rings_the_broker_gets_threads() -> None:
    child = subprocess.run(
        [sys.executable, "-c", FORBIDDEN_BY_SECCOMP],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
    )
    if child.returncode == 77:
        pytest.skip("this machine lets nobody install a seccomp filter")
    assert child.returncode == 0, child.stderr
    reason, message, name = child.stdout.splitlines()
    assert "seccomp" in reason
    assert reason in message
    assert name == "threads"


@needs_ring
def test_the_probe_reports_a_ring_that_fails_in_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.uring.try_ring", lambda: os._exit(1))
    assert "trial ring" in (probe_liburing() or "")


# --- the ring ----------------------------------------------------------------------------------


@pytest.fixture
def fd(segment_path: Path) -> Any:
    number, _direct = open_segment(segment_path, create=True)
    yield number
    os.close(number)


def block() -> memoryview:
    return aligned_buffer(BLOCK, BLOCK)[1]


@needs_ring
def test_a_submit_that_the_kernel_refuses_for_now_is_repeated(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import storage.uring as uring

    submit_really = uring.io_uring_submit
    refusals = [0]

    def refuse_three_times(ring: object) -> int:
        if refusals[0] < 3:
            refusals[0] += 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return int(submit_really(ring))

    monkeypatch.setattr(uring, "io_uring_submit", refuse_three_times)
    results: list[int] = []

    async def scenario(disk: Any) -> None:
        for number in range(5):
            disk.write(fd, block(), number * BLOCK, results.append)
            disk.submit()
        await disk.close()

    with_disk("liburing", scenario)
    assert refusals == [3]
    assert results == [BLOCK] * 5


@needs_ring
def test_a_kernel_that_takes_nothing_for_long_fails_every_write(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import storage.uring as uring

    def refuse(_ring: object) -> int:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(uring, "io_uring_submit", refuse)
    monkeypatch.setattr(uring, "_SUBMIT_RETRIES_MAX", 3)
    results: list[int] = []

    async def scenario(disk: Any) -> None:
        for number in range(300):
            disk.write(fd, block(), number * BLOCK, results.append)
        disk.submit()
        await disk.close()
        assert results == [-errno.EIO] * 300

    async def write_after(disk: Any) -> None:
        disk.write(fd, block(), 0, results.append)
        disk.submit()
        while disk.in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        disk.write(fd, block(), 0, results.append)
        assert len(results) == 301
        await asyncio.sleep(0)
        assert results[301:] == [-errno.EIO]
        with pytest.raises(OSError, match="Input/output error"):
            await disk.read(fd, 0, BLOCK)

    with_disk("liburing", scenario)
    with_disk("liburing", write_after)


@needs_ring
def test_an_argument_that_the_binding_refuses_costs_no_slot(fd: int) -> None:
    async def scenario(disk: Any) -> None:
        with pytest.raises(TypeError):
            disk.write("not a number", block(), 0, print)
        with pytest.raises(AssertionError, match="unaligned"):
            disk.write(fd, block()[:100], 0, print)
        assert disk.in_flight == 0

    with_disk("liburing", scenario)


@needs_ring
def test_an_older_kernel_gets_a_ring_without_the_newer_flags(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import storage.uring as uring

    init_really = uring.io_uring_queue_init
    flags_seen: list[int] = []

    def refuse_flags(entries: int, ring: object, flags: int) -> int:
        flags_seen.append(flags)
        return int(init_really(entries, ring, 1 << 31 if flags else 0))

    monkeypatch.setattr(uring, "io_uring_queue_init", refuse_flags)
    results: list[int] = []

    async def scenario(disk: Any) -> None:
        disk.write(fd, block(), 0, results.append)
        await disk.close()

    with_disk("liburing", scenario)
    assert len(flags_seen) == 2
    assert flags_seen[1] == 0
    assert results == [BLOCK]
