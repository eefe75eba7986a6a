"""Choosing a backend where something is missing, and what the kernel does to a queue but rarely."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import storage.queued_disk as queued_disk_module
import storage.ring as ring_module
from storage import backend as backend_module
from storage.backend import BACKENDS, open_disk, settle_backend
from storage.buffers import aligned_buffer
from storage.disk import Disk, open_segment
from storage.errors import DiskUnavailable
from storage.ring import RingQueue

BLOCK = 4096
RINGS = ("liburing", "ring")
Scenario = Callable[[Disk], Awaitable[None]]


def ring_fds() -> list[str]:
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # the fd of the listing itself
    return [link for link in links if "[io_uring]" in link]


def with_disk(backend: Any, scenario: Scenario) -> list[str]:
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


async def use_nothing(_disk: Disk) -> None:
    """A scenario that only opens and closes."""


def name_of(backend: Any) -> tuple[str, list[str]]:
    """(the name of the disk that `backend` gives, the messages of opening it)"""
    names: list[str] = []

    async def scenario(disk: Disk) -> None:
        names.append(disk.name)

    messages = with_disk(backend, scenario)
    return names[0], messages


@pytest.fixture
def needs_ring() -> None:
    try:
        with_disk("ring", use_nothing)
    except DiskUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def needs_liburing() -> None:
    try:
        with_disk("liburing", use_nothing)
    except DiskUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=RINGS)
def uring(request: pytest.FixtureRequest) -> str:
    """Each of the backends that use io_uring."""
    backend: str = request.param
    request.getfixturevalue(f"needs_{backend}")
    return backend


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Call it with an errno, and every io_uring_setup of ours fails with that."""

    def refuse_with(code: int) -> None:
        def refuse(*_args: object) -> int:
            ctypes.set_errno(code)
            return -1

        monkeypatch.setattr(ring_module, "_setup", refuse)

    return refuse_with


# --- choosing ----------------------------------------------------------------------------------


def test_auto_takes_liburing_without_a_word(needs_liburing: None) -> None:
    assert settle_backend("auto") == ("auto", None)
    assert name_of("auto") == ("liburing", [])


def test_liburing_is_imported_without_its_scan_of_all_modules(needs_liburing: None) -> None:
    """Which takes long and writes to site-packages; others still have the real scanner."""
    code = "import sys, storage.uring; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    names = done.stdout.split()
    assert "liburing.queue" in names
    assert not [name for name in names if name.startswith("dynamic_import")]
    assert "liburing.socket" not in names


def test_auto_does_not_miss_a_liburing_that_is_not_installed(
    needs_ring: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("liburing", "liburing.common"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "storage.uring", raising=False)
    assert settle_backend("auto") == ("auto", None)
    assert name_of("auto") == ("ring", [])
    for forced in (settle_backend, name_of):
        with pytest.raises(DiskUnavailable, match=r"liburing is not installed .*pip install"):
            forced("liburing")


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_what_is_named_is_used_and_leaves_nothing_open(
    backend: Any, request: pytest.FixtureRequest
) -> None:
    if backend in RINGS:
        request.getfixturevalue(f"needs_{backend}")

    before = ring_fds()

    async def scenario(disk: Disk) -> None:
        assert disk.name == backend
        assert (ring_fds() != before) == (backend in RINGS)

    assert settle_backend(backend) == (backend, None)
    open_before = set(os.listdir("/proc/self/fd"))
    assert with_disk(backend, scenario) == []
    assert ring_fds() == before
    assert set(os.listdir("/proc/self/fd")) <= open_before


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (errno.ENOSYS, "no io_uring"),
        (errno.EPERM, "forbidden"),
        (errno.ENOMEM, "no memory for a ring"),
        (errno.EMFILE, r"EMFILE \(Too many open files\)"),
    ],
)
def test_a_kernel_that_refuses_is_named_and_only_auto_falls_back(
    code: int, cause: str, refused: Callable[[int], None]
) -> None:
    refused(code)
    name, messages = name_of("auto")
    assert name == "threads"
    settled, message = settle_backend("auto")
    assert settled == "threads"
    assert [message] == messages
    assert "\n" not in messages[0]
    assert "as durable" in messages[0]  # what it costs, and what it does not
    for backend in RINGS:
        for forced in (settle_backend, name_of):
            with pytest.raises(DiskUnavailable, match=f"{backend} was asked for, but .*{cause}"):
                forced(backend)


@pytest.mark.parametrize(
    ("value", "named"), [("2\n", "io_uring_disabled is 2"), ("0\n", "seccomp")]
)
def test_a_refusal_says_who_refuses(
    value: str,
    named: str,
    refused: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sysctl = tmp_path / "io_uring_disabled"
    sysctl.write_text(value)
    monkeypatch.setattr(backend_module, "_DISABLED_SYSCTL", str(sysctl))
    refused(errno.EPERM)
    assert named in str(settle_backend("auto")[1])


def test_an_io_uring_that_is_too_old_is_not_used(
    needs_ring: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_module, "_FEATURES_NEEDED", 1 << 31)
    before = ring_fds()
    with pytest.raises(DiskUnavailable, match=r"Linux 5\.8 or newer"):
        name_of("ring")
    assert ring_fds() == before


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(DiskUnavailable, match="unknown disk backend 'floppy'"):
        name_of("floppy")


@pytest.mark.parametrize(
    ("die", "cause"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGILL), "dies of SIGILL .*pip install"),
        (lambda: os._exit(1), "could not set up a trial ring"),
    ],
)
def test_a_liburing_that_dies_in_its_trial_is_replaced_by_the_ring(
    needs_liburing: None, die: Callable[[], None], cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.uring.LiburingQueue", die)
    settled, message = settle_backend("auto")
    assert settled == "ring"
    assert message is not None
    assert "as durable" in message
    with pytest.raises(DiskUnavailable, match=f"liburing was asked for, but .*{cause}"):
        settle_backend("liburing")


def test_a_liburing_that_fails_in_a_shard_is_replaced_by_the_ring(
    needs_liburing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.uring.SETUP_FLAGS", (1 << 31,))
    name, messages = name_of("auto")
    assert name == "ring"
    assert len(messages) == 1
    assert "liburing is not used because the kernel refused" in messages[0]


# A process on which the kernel itself imposes the limit. The filter: load the system call's
# number; NUMBER gets the errno CODE, all others are allowed.
FORBIDDEN = """
import asyncio, ctypes, os, struct, sys

number, code = int(sys.argv[1]), int(sys.argv[2])
program = b"".join(
    struct.pack("=HBBI", *row)
    for row in [
        (0x20, 0, 0, 0), (0x15, 0, 1, number),
        (0x06, 0, 0, 0x50000 | code), (0x06, 0, 0, 0x7FFF0000),
    ]
)
memory = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(memory)))
libc = ctypes.CDLL(None)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filter):  # no new privileges; filter
    sys.exit(77)

from storage.backend import open_disk, settle_backend

async def main():
    disk = open_disk("auto", asyncio.get_running_loop(), print)
    print(disk.name)
    await disk.close()

print(settle_backend("auto"))
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("number", "code", "cause"),
    [
        (425, errno.EPERM, "seccomp"),  # io_uring_setup, as container runtimes do it
        (425, errno.ENOSYS, "no io_uring"),
        (425, errno.ENOMEM, "no memory"),
        (426, errno.EPERM, "seccomp"),  # io_uring_enter alone
    ],
)
def test_inside_a_container_that_forbids_rings_the_broker_gets_threads(
    number: int, code: int, cause: str
) -> None:
    child = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, str(number), str(code)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
    )
    if child.returncode == 77:
        pytest.skip("this machine lets nobody install a seccomp filter")
    assert child.returncode == 0, child.stderr
    settled, message, name = child.stdout.splitlines()
    assert cause in message
    assert settled == str(("threads", message))
    assert name == "threads"


@pytest.mark.skipif(os.geteuid() != 0, reason="root first gives up its right to lock memory")
def test_without_memory_to_lock_a_disk_still_opens() -> None:
    """Before Linux 5.12 a ring counts as locked memory: then it is the threads, with a reason."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            settled, message = settle_backend("auto")
            name, messages = name_of(settled)
            assert (settled == "threads") == ("no memory for a ring" in str(message))
            assert (name, messages) == (name_of("ring")[0] if message is None else "threads", [])
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- the kernel refuses what was queued --------------------------------------------------------


@pytest.fixture
def fd(segment_path: Path) -> Iterator[int]:
    number, _direct = open_segment(segment_path, create=True)
    yield number
    os.close(number)


def block() -> memoryview:
    return aligned_buffer(BLOCK, BLOCK)[1]


def refuse_submits(
    monkeypatch: pytest.MonkeyPatch, backend: str, codes: list[int] | int
) -> list[int]:
    """Let submits fail with these errnos first, or with one for ever; returns those met."""
    met: list[int] = []

    def failing(really: Callable[..., int], fail: Callable[[int], int]) -> Callable[..., int]:
        def submit(*args: Any) -> int:
            if isinstance(codes, list) and len(met) == len(codes):
                return really(*args)
            met.append(codes[len(met)] if isinstance(codes, list) else codes)
            return fail(met[-1])

        return submit

    def raise_it(code: int) -> int:
        raise OSError(code, os.strerror(code))

    def set_it(code: int) -> int:
        ctypes.set_errno(code)
        return -1

    if backend == "liburing":
        import storage.uring as uring

        monkeypatch.setattr(uring, "io_uring_submit", failing(uring.io_uring_submit, raise_it))
    else:
        monkeypatch.setattr(ring_module, "_enter", failing(ring_module._enter, set_it))
    return met


def test_a_submit_that_the_kernel_refuses_for_now_is_repeated(
    uring: str, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    results: list[int] = []

    async def scenario(disk: Disk) -> None:
        met = refuse_submits(monkeypatch, uring, [errno.EAGAIN, errno.EBUSY, errno.EINTR])
        for number in range(5):
            disk.write(fd, block(), number * BLOCK, results.append)
            disk.submit()
        await disk.close()
        assert met == [errno.EAGAIN, errno.EBUSY, errno.EINTR]

    with_disk(uring, scenario)
    assert results == [BLOCK] * 5


def test_a_submit_of_which_the_kernel_takes_a_part_goes_on(
    needs_ring: None, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    enter_really = ring_module._enter

    def take_two(call: int, ring: int, count: int, *rest: Any) -> int:
        counts.append(count)
        return int(enter_really(call, ring, min(count, 2), *rest))

    results: list[int] = []

    async def scenario(disk: Disk) -> None:
        monkeypatch.setattr(ring_module, "_enter", take_two)
        for number in range(5):
            disk.write(fd, block(), number * BLOCK, results.append)
        disk.submit()
        await disk.close()

    with_disk("ring", scenario)
    assert counts == [5, 3, 1]
    assert results == [BLOCK] * 5


def test_a_kernel_that_takes_nothing_for_long_fails_every_operation(
    uring: str, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued_disk_module, "_SUBMIT_RETRIES_MAX", 3)
    results: list[int] = []

    async def scenario(disk: Disk) -> None:
        refuse_submits(monkeypatch, uring, errno.EBUSY)
        for number in range(300):
            disk.write(fd, block(), number * BLOCK, results.append)
        disk.submit()
        while disk.in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert results == [-errno.EIO] * 300
        disk.write(fd, block(), 0, results.append)
        assert len(results) == 300
        await asyncio.sleep(0)
        assert results[300:] == [-errno.EIO]
        with pytest.raises(OSError, match="Input/output error"):
            await disk.read(fd, 0, BLOCK)

    with_disk(uring, scenario)


def test_late_completions_of_a_failed_disk_find_nobody_and_keep_their_memory(
    uring: str, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued_disk_module, "_SUBMIT_RETRIES_MAX", 1)
    readable, writable = os.pipe()
    results: list[int] = []

    async def scenario(disk: Any) -> None:
        view = block()
        owner = view.obj
        assert isinstance(owner, bytearray)
        late = disk._read_some(readable, view, 0)  # the kernel has it, and waits
        view.release()
        refuse_submits(monkeypatch, uring, errno.EBUSY)
        disk.write(fd, block(), 0, results.append)
        disk.submit()
        assert await late == -errno.EIO
        assert results == [-errno.EIO]
        await disk.close()
        with pytest.raises(BufferError):
            owner.append(0)  # the kernel may still write there
        os.write(writable, b"late")
        while True:  # the loop goes on taking completions; only then is the memory free
            try:
                owner.append(0)
                break
            except BufferError:
                await asyncio.sleep(0.001)
        assert owner.count(b"late") == 1
        assert results == [-errno.EIO]

    with_disk(uring, scenario)
    os.close(readable)
    os.close(writable)


def test_threads_that_cannot_start_now_start_later(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_really = threading.Thread.start
    refusals: list[str] = []

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("disk-") and len(refusals) < 3:
            refusals.append(thread.name)
            raise RuntimeError("can't start new thread")
        start_really(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    results: list[int] = []

    async def scenario(disk: Disk) -> None:
        disk.write(fd, block(), 0, results.append)
        disk.submit()
        await disk.close()

    with_disk("threads", scenario)
    assert refusals == ["disk-0"] * 3
    assert results == [BLOCK]


def test_threads_without_rwf_dsync_sync_the_file(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.threaded._RWF_DSYNC", 0)
    synced: list[int] = []
    sync_really = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(fd), sync_really(fd)))
    results: list[int] = []

    async def scenario(disk: Disk) -> None:
        disk.write(fd, block(), 0, results.append)
        await disk.close()

    with_disk("threads", scenario)
    assert (results, synced) == ([BLOCK], [fd])


def test_an_argument_that_no_operation_can_have_costs_no_slot(uring: str, fd: int) -> None:
    async def scenario(disk: Disk) -> None:
        with pytest.raises((TypeError, struct.error)):
            disk.write("not a number", block(), 0, print)  # type: ignore[arg-type]
        with pytest.raises(AssertionError, match="unaligned"):
            disk.write(fd, block()[:100], 0, print)
        assert disk.in_flight == 0

    with_disk(uring, scenario)


def test_an_older_kernel_gets_a_ring_without_the_newer_flags(
    uring: str, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "storage.ring" if uring == "ring" else "storage.uring"
    monkeypatch.setattr(f"{module}.SETUP_FLAGS", (1 << 31, 0))
    results: list[int] = []

    async def scenario(disk: Disk) -> None:
        disk.write(fd, block(), 0, results.append)
        await disk.close()

    with_disk(uring, scenario)
    assert results == [BLOCK]


# --- the built-in ring's memory ----------------------------------------------------------------


@pytest.mark.parametrize("processor", ["x86_64", "aarch64"])
@pytest.mark.parametrize("single_mmap", [1, 0])
def test_the_ring_works_however_it_is_mapped_and_ordered(
    processor: str,
    single_mmap: int,
    needs_ring: None,
    segment_path: Path,
    fd: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ring_module, "_FEAT_SINGLE_MMAP", single_mmap)
    monkeypatch.setattr("platform.machine", lambda: processor)
    before = ring_fds()
    results: list[int] = []

    async def scenario(disk: Disk) -> None:
        for number in range(600):  # more than either queue has entries
            view = block()
            view[:8] = number.to_bytes(8, "big")
            disk.write(fd, view, number * BLOCK, results.append)
        await disk.close()

    with_disk("ring", scenario)
    assert results == [BLOCK] * 600
    content = segment_path.read_bytes()
    assert [int.from_bytes(content[n * BLOCK :][:8], "big") for n in range(600)] == [*range(600)]
    assert ring_fds() == before


def test_the_rings_counters_wrap(needs_ring: None) -> None:
    """After 2**32 operations; the kernel starts at 0, so the words are set here, by hand."""
    queue = RingQueue()
    start = 2**32 - 3
    queue._head = queue._tail = queue._sq_words[queue._sq_head] = start
    queue._words[queue._cq_head] = start
    for slot in range(1, 6):
        queue.prepare(slot, True, 0, block(), slot * BLOCK)
        at = queue._cq_base + (start + slot - 1 & queue._cq_mask) * 4
        queue._cqes[at : at + 4] = memoryview(struct.pack("@Qii", slot, -slot, 0)).cast("i")
    assert queue._tail == 2
    assert queue._tail - queue._sq_words[queue._sq_head] & 0xFFFFFFFF == 5
    entry = (2**32 - 1 & queue._sq_mask) * 64  # where the third of them belongs
    assert struct.unpack_from("@Q", queue._sqes, entry + 32) == (3,)
    queue._words[queue._cq_tail] = 2
    assert queue.completions() == [(slot, -slot) for slot in range(1, 6)]
    assert queue._words[queue._cq_head] == 2
    assert queue.completions() == []
    queue.close()
