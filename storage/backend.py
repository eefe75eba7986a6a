"""Which Disk this machine gets: io_uring through liburing, or threads.

`open_disk` runs in each shard, after the fork. `probe_liburing` runs once in the supervisor,
before any shard, thread or ring exists: only there is a fork for a trial cheap and safe. The trial
is needed because some builds of liburing use instructions that the processor lacks, and those kill
the process (SIGILL) instead of raising.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import faulthandler
import os
import resource
import signal
from collections.abc import Callable

from storage.disk import Disk
from storage.errors import DiskUnavailable
from storage.threaded import ThreadedDisk

BACKENDS = ("auto", "liburing", "threads")  # what a configuration may name

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_IO_URING_SETUP = 425  # the same number on every architecture with Python wheels
_DISABLED_SYSCTL = "/proc/sys/kernel/io_uring_disabled"
_COST = (
    "disk writes go through threads: as durable, but each costs about four times the CPU and fewer "
    "of them fit in a second"
)


def open_disk(
    backend: str, loop: asyncio.AbstractEventLoop, on_message: Callable[[str], None]
) -> Disk:
    """The shard's disk. "auto" takes the best that works and tells `on_message` what it lost.

    A backend named explicitly never falls back: raises DiskUnavailable with the reason.
    """
    if backend == "threads":
        return ThreadedDisk(loop)
    if backend not in BACKENDS:
        raise DiskUnavailable(f"unknown disk backend {backend!r}: use one of {BACKENDS}")
    reason = _why_not_liburing()
    if reason is None:
        from storage.uring import UringDisk

        try:
            return UringDisk(loop)
        except DiskUnavailable as error:
            reason = str(error)
    if backend == "liburing":
        raise DiskUnavailable(
            f"the disk backend liburing was asked for, but {reason}; use auto or threads instead"
        )
    on_message(f"io_uring is not used because {reason}; {_COST}")
    return ThreadedDisk(loop)


def probe_liburing() -> str | None:
    """Why liburing cannot be used here, as the middle of a sentence, or None if it can.

    Forks a child for the trial, so call it before any thread exists; it takes about 50 ms. If all
    is well, liburing is imported on return.
    """
    reason = _why_not_liburing(import_it=False)
    if reason is not None:
        return reason
    pid = os.fork()
    if pid == 0:
        _try_ring_and_exit()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        name = signal.Signals(-code).name
        return (
            f"the installed liburing dies of {name} on this processor; install the release that "
            "pyproject.toml pins (pip install 'rpk-py[uring]')"
        )
    # The import that the trial has shown to be safe: shards forked from here share it.
    reason = _why_not_liburing()
    if reason is None and code:
        return "a trial ring in a process of its own could not be set up"
    return reason


def _try_ring_and_exit() -> None:
    """In the forked child: import the binding, set up a ring, leave without any clean-up."""
    code = 1
    try:
        faulthandler.disable()  # a trial that dies is an answer and not a crash to report
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from storage.uring import try_ring

        try_ring()
        code = 0
    finally:
        os._exit(code)


def _why_not_liburing(*, import_it: bool = True) -> str | None:
    """What is missing, found without a risk to this process; as the middle of a sentence."""
    reason = _why_not_io_uring()
    if reason is None and import_it:
        try:
            import storage.uring  # noqa: F401
        except ImportError as error:
            return f"liburing is not installed ({error}); pip install 'rpk-py[uring]' brings it"
    return reason


def _why_not_io_uring() -> str | None:
    """Ask the kernel for a ring of one entry: the binding does not tell the errno reliably."""
    params = ctypes.create_string_buffer(120)  # struct io_uring_params
    fd = _libc.syscall(_SYS_IO_URING_SETUP, 1, params)
    if fd >= 0:
        os.close(fd)
        return None
    code = ctypes.get_errno()
    if code == errno.ENOSYS:
        return "this kernel has no io_uring (Linux 5.8 or newer is needed)"
    if code == errno.EPERM:
        return f"io_uring is forbidden here ({_who_forbids()})"
    if code == errno.ENOMEM:
        return "the limit of locked memory is too low for a ring (raise ulimit -l)"
    return f"io_uring_setup fails with {errno.errorcode.get(code, code)} ({os.strerror(code)})"


def _who_forbids() -> str:
    try:
        with open(_DISABLED_SYSCTL, encoding="ascii") as file:
            value = int(file.read())
    except (OSError, ValueError):
        value = 0
    if value:
        return f"sysctl kernel.io_uring_disabled is {value}; 0 allows it"
    return "by a seccomp profile, as container runtimes set one by default"
