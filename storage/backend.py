"""Which backend of the Disk this machine gets: io_uring, by liburing or by ourselves, or threads.

`open_disk` runs in each shard, after the fork. `settle_backend` runs once in the supervisor,
before any shard, thread or ring exists: only there is a fork for a trial cheap and safe. The trial
is needed because some builds of liburing use instructions that the processor lacks, and those kill
the process (SIGILL) instead of raising.
"""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import importlib.util
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from storage.device import forgets_syncs, mount_of
from storage.errors import DiskUnavailable
from storage.queued_disk import IoQueue, QueuedDisk
from storage.ring import RingQueue
from storage.threaded import ThreadQueue

Backend: TypeAlias = Literal["auto", "liburing", "ring", "threads"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)  # what a configuration may name

_DISABLED_SYSCTL = "/proc/sys/kernel/io_uring_disabled"
# Measured by bench/disk_write.py; docs/adr/0002-liburing-pin-and-uring-extra.md has the table.
_COST_OF_THREADS = (
    "disk writes go through threads: as durable, but each costs two to five times the CPU, and "
    "half as many small ones fit in a second"
)
_COST_OF_RING = "io_uring goes by the built-in ring: as durable, at the same CPU a write"


def open_disk(
    backend: Backend, loop: asyncio.AbstractEventLoop, on_message: Callable[[str], None]
) -> QueuedDisk:
    """The shard's disk. "auto" takes the best that works and tells `on_message` what it lost.

    A backend named explicitly never falls back: raises DiskUnavailable with the reason.
    """
    if backend == "auto":
        return QueuedDisk(loop, _open_best(on_message))
    if backend not in BACKENDS:
        raise DiskUnavailable(f"unknown disk backend {backend!r}: use one of {BACKENDS}")
    try:
        return QueuedDisk(loop, _open_queue(backend))
    except DiskUnavailable as error:
        raise _refused(backend, error) from None


def settle_backend(backend: Backend, directory: Path | None = None) -> tuple[Backend, str | None]:
    """Find out before any shard starts what works here, for files in `directory`.

    Forks a child for a trial of liburing, so call it before any thread exists; that takes about
    50 ms. If all is well, liburing is imported on return: shards forked from here share it.
    Returns: (the backend to give to `open_disk`, what was lost and its cost or None)
    Raises:  DiskUnavailable  the backend was named and does not work
    """
    if backend == "threads":
        return backend, None
    try:
        if directory is not None:
            _check_syncs(directory)
        _check_io_uring()
        wants_liburing = backend == "liburing" or _is_liburing_installed()
        if backend == "ring" or not wants_liburing:
            return backend, None
    except DiskUnavailable as error:
        if backend != "auto":
            raise _refused(backend, error) from None
        return "threads", _without_io_uring(error)
    try:
        _try_liburing_in_child()
        _import_liburing()
    except DiskUnavailable as error:
        if backend != "auto":
            raise _refused(backend, error) from None
        return "ring", _without_liburing(error)
    return backend, None


def _check_syncs(directory: Path) -> None:
    """That io_uring's durable writes are durable there. Raises DiskUnavailable."""
    try:
        mount = mount_of(directory)
    except OSError:
        return  # nothing is told of it
    if mount is not None and forgets_syncs(mount.kind):
        raise DiskUnavailable(
            f"{directory} is on {mount.kind} ({mount.point}), where Linux says that a write of "
            "io_uring is durable before it is"
        )


def _open_best(on_message: Callable[[str], None]) -> IoQueue:
    """The first of the backends that works; a liburing that is not installed is not missed."""
    try:
        if _is_liburing_installed():
            try:
                return _open_queue("liburing")
            except DiskUnavailable as error:
                lost = _without_liburing(error)
                queue = _open_queue("ring")
                on_message(lost)
                return queue
        return _open_queue("ring")
    except DiskUnavailable as error:
        on_message(_without_io_uring(error))
        return ThreadQueue()


def _open_queue(backend: Backend) -> IoQueue:
    """Raises DiskUnavailable."""
    if backend == "threads":
        return ThreadQueue()
    if backend == "ring":
        try:
            return RingQueue()
        except OSError as error:
            raise DiskUnavailable(_why_no_ring(error)) from None
    _check_io_uring()  # the binding does not tell the errno reliably
    _import_liburing()
    from storage.uring import LiburingQueue

    return LiburingQueue()


def _check_io_uring() -> None:
    """Have a ring from the kernel and give it back. Raises DiskUnavailable."""
    _open_queue("ring").close()


def _is_liburing_installed() -> bool:
    return importlib.util.find_spec("liburing") is not None


def _import_liburing() -> None:
    """Raises DiskUnavailable."""
    try:
        import storage.uring  # noqa: F401
    except ImportError as error:
        raise DiskUnavailable(
            f"liburing is not installed ({error}); pip install 'rpk-py[uring]' brings it"
        ) from None


def _try_liburing_in_child() -> None:
    """Where a wrong build dies, it dies alone. Raises DiskUnavailable."""
    pid = os.fork()
    if pid == 0:
        _try_liburing_and_exit()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        raise DiskUnavailable(
            f"the installed liburing dies of {signal.Signals(-code).name} on this processor; "
            "install the release that pyproject.toml pins (pip install 'rpk-py[uring]')"
        )
    if code == _CHILD_FAILED:
        raise DiskUnavailable("liburing could not set up a trial ring in a process of its own")


_CHILD_FAILED = 1
_CHILD_HAS_NO_LIBURING = 2  # the import in this process will say why


def _try_liburing_and_exit() -> None:
    """In the forked child: import the binding, set up a ring, leave without any clean-up."""
    code = _CHILD_FAILED
    try:
        faulthandler.disable()  # a trial that dies is an answer and not a crash to report
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            from storage.uring import LiburingQueue
        except ImportError:
            code = _CHILD_HAS_NO_LIBURING
        else:
            LiburingQueue().close()
            code = 0
    finally:
        os._exit(code)


def _refused(backend: Backend, error: DiskUnavailable) -> DiskUnavailable:
    return DiskUnavailable(
        f"the disk backend {backend} was asked for, but {error}; use another or auto instead"
    )


def _without_io_uring(error: DiskUnavailable) -> str:
    return f"io_uring is not used because {error}; {_COST_OF_THREADS}"


def _without_liburing(error: DiskUnavailable) -> str:
    return f"liburing is not used because {error}; {_COST_OF_RING}"


def _why_no_ring(error: OSError) -> str:
    """As the middle of a sentence."""
    code = error.errno
    if code == errno.ENOSYS:
        return "this kernel has no io_uring (Linux 5.8 or newer is needed)"
    if code in (errno.EPERM, errno.EACCES):
        return f"io_uring is forbidden here ({_who_forbids()})"
    if code == errno.ENOMEM:
        return "there is no memory for a ring (before Linux 5.12, ulimit -l bounds it: raise that)"
    return f"io_uring cannot be set up: {errno.errorcode.get(code or 0, code)} ({error.strerror})"


def _who_forbids() -> str:
    try:
        with open(_DISABLED_SYSCTL, encoding="ascii") as file:
            value = int(file.read())
    except (OSError, ValueError):
        value = 0
    if value:
        return f"sysctl kernel.io_uring_disabled is {value}; 0 allows it"
    return "by a seccomp profile, as container runtimes set one by default"
