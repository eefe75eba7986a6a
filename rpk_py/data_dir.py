"""The data directory: created, checked for writing, and locked against a second broker.

Which process: supervisor, before it forks; the lock's file descriptor is inherited by every
shard, so the lock outlives a killed supervisor until its last shard, with its writes in flight,
is gone.  Invariants: whoever holds the lock is the only broker that writes below the directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from rpk_py.startup_error import StartupError
from storage.device import mount_of
from storage.disk import fsync_dir, lock_exclusive
from storage.errors import LockTimeout
from storage.space import release_all

LOCK_NAME = ".lock"
RECYCLE = "recycle"  # retired segments, a directory a shard
JOURNAL = "journal"  # the shards' journals, likewise


def prepare(path: Path) -> list[Path]:
    """Create the directory where it is missing, durably, and check that it can be written.

    Returns: the directories that were made, the data directory first; for `undo`
    Raises:  StartupError
    """
    try:
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for directory in missing:
            fsync_dir(directory.parent)
    except OSError as error:
        raise StartupError(
            f"cannot create the data directory {path}: {error.strerror}"
            " (choose another with --data-dir)"
        ) from None
    if not path.is_dir():
        raise StartupError(f"the data directory {path} is not a directory")
    if not os.access(path, os.W_OK | os.X_OK):
        raise StartupError(
            f"the data directory {path} is not writable for user {os.geteuid()}"
            " (change its owner, or choose another with --data-dir)"
        )
    return missing


def file_system(path: Path) -> str:
    """The type of the file system that a path is on, like "ext4"; empty where it is not told."""
    try:
        mount = mount_of(path)
    except OSError:
        return ""
    return mount.kind if mount else ""  # every subvolume of btrfs has a device number of its own


def drop_unused_pools(path: Path, node_ids: Iterable[int]) -> None:
    """Delete the retired segments of shards that there are no more; nobody else would.

    Raises: OSError  they cannot be deleted
    """
    used = {str(node_id) for node_id in node_ids}
    for directory in (path / RECYCLE).glob("[0-9]*"):
        if directory.name not in used:
            shutil.rmtree(directory)


def drop_unused_journals(path: Path, node_ids: Iterable[int]) -> None:
    """Delete the journals of shards that there are no more, once segments hold all of them.

    Raises: OSError  they cannot be deleted
    """
    used = {str(node_id) for node_id in node_ids}
    for directory in (path / JOURNAL).glob("[0-9]*"):
        if directory.name not in used:
            shutil.rmtree(directory)


def undo(made: list[Path]) -> None:
    """Take back what `prepare` and `lock` made for a start that failed, if nothing else is there.

    The lock must still be held.
    """
    try:
        if made and os.listdir(made[0]) == [LOCK_NAME]:
            (made[0] / LOCK_NAME).unlink()
            for directory in made:
                directory.rmdir()
    except OSError:
        pass  # somebody uses it meanwhile: then it is not ours to remove


def lock(path: Path, wait_s: float, on_wait: Callable[[str], None]) -> int:
    """Take the data directory's lock and leave this process's id in it.

    A live owner is an error at once.  An owner that just died may have shards and writes on
    their way out, which keep the lock for a moment: that is waited for, at most `wait_s`.

    Returns: the file descriptor that holds the lock; keep it open
    Raises:  StartupError  naming the owner
    """
    file = path / LOCK_NAME
    try:
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StartupError(f"cannot open {file}: {error.strerror}") from None
    try:
        _take(fd, path, wait_s, on_wait)
        with contextlib.suppress(OSError):  # it is the space that counts, and others may have some
            release_all(path)
        if os.fstat(fd).st_nlink == 0:
            raise StartupError(f"{path} was removed while this start waited for it (start again)")
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {_start_time(os.getpid())}\n".encode(), 0)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            text = f"cannot write {file}: {error.strerror}"
            if error.errno == errno.ENOSPC:
                text = f"the disk of the data directory {path} is full"
            raise StartupError(text) from None
        raise
    return fd


def _take(fd: int, path: Path, wait_s: float, on_wait: Callable[[str], None]) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass
    pid, started = _owner(fd)
    if pid and _start_time(pid) == started:
        raise StartupError(
            f"the data directory {path} is in use by another rpk-py, pid {pid}"
            " (stop it, or choose another with --data-dir)"
        )
    try:
        lock_exclusive(fd, wait_s, on_wait)
    except LockTimeout:
        raise StartupError(
            f"the data directory {path} is still locked after {wait_s:g} s; its last owner was"
            f" pid {pid or 'unknown'}, which is gone or in another container"
        ) from None


def _owner(fd: int) -> tuple[int, str]:
    """The (pid, start time) that the lock's owner wrote; (0, "") if there is nothing usable."""
    pid, _, started = os.pread(fd, 64, 0).decode("ascii", "replace").strip().partition(" ")
    return (int(pid), started) if pid.isdigit() and started else (0, "")


def _start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot: tells it from a later one of the same
    id.  Empty for a process that does not exist or has already exited (a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the command name may hold blanks and brackets
    state, started = fields[0], fields[19]
    return "" if state in ("Z", "X") else started
