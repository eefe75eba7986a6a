"""A disk that fails on demand: a FUSE file system in Python over a directory.

    python -m tests.crash.fuse_disk DIRECTORY MOUNTPOINT FAULT

Every operation is passed through to DIRECTORY but the ones of FAULT, a JSON object {op, nth, error,
times, path}: from the nth `op` on, counted over all files whose path fits `path`, `times` of them
fail with `error` (a name of errno), or with error "short" write half of what they were given.
DIRECTORY is what a healthy disk would hold: everything that was answered without an error, and
nothing else. A sync of a file that fails drops what was written to it since its last good one, and
the next sync has nothing to complain of, as Linux does it.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from storage.disk import allocate
from tests.clients.broker import ROOT, wait_until

READY_S_MAX = 20.0
HIDDEN = ".fuse_hidden"  # libfuse's names of open files that are removed or replaced
MET = ".met"  # behind the name of the backing directory: a file that is there once a fault was met


@dataclass(frozen=True, slots=True)
class Fault:
    """See the module."""

    op: str
    nth: int
    error: str
    times: int = 1
    path: str = "*"


class FuseUnavailable(Exception):
    """This machine cannot mount one; the message says why."""


class FuseDisk:
    """The mount and its process; `path` is where it is. Close it, whatever happens."""

    MODULE = "tests.crash.fuse_disk"  # what serves it

    def __init__(self, backing: Path, path: Path, fault: Fault | None) -> None:
        self.path = path
        self._met = Path(f"{backing}{MET}")
        path.mkdir(exist_ok=True)
        backing.mkdir(exist_ok=True)
        try:
            import mfusepy  # noqa: F401
        except (ImportError, OSError) as error:
            raise FuseUnavailable(f"FUSE needs mfusepy and libfuse3 (fuse3): {error}") from None
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise FuseUnavailable("FUSE needs /dev/fuse, and the right to use it")
        facts = json.dumps(asdict(fault) if fault is not None else {})
        command = [sys.executable, "-m", self.MODULE, str(backing), str(path), facts]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            wait_until(self._is_mounted, "the FUSE file system is mounted", READY_S_MAX)
        except AssertionError:
            self._process.kill()
            _, said = self._process.communicate()
            raise FuseUnavailable(f"FUSE cannot be mounted here: {said.strip()[-300:]}") from None

    @property
    def met(self) -> bool:
        """Whether anybody met the fault."""
        return self._met.exists()

    def _is_mounted(self) -> bool:
        assert self._process.poll() is None, "its process ended"
        return os.path.ismount(self.path)

    def close(self) -> None:
        """Unmount; its process ends. Who used it may take a moment to be gone."""
        try:
            wait_until(self._is_over, f"{self.path} is unmounted")
        except AssertionError:
            subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)
            self._process.kill()
            raise
        finally:
            self._process.communicate()

    def _is_over(self) -> bool:
        if os.path.ismount(self.path):
            subprocess.run(["umount", str(self.path)], capture_output=True, check=False)
        return self._process.poll() is not None


class PassThrough:
    """The kernel's words to the backing directory's files, but for the fault."""

    use_ns = True

    def __init__(
        self, backing: str, fault: Fault | None, refuse: Callable[[int], Exception]
    ) -> None:
        """`refuse`: makes the exception that gives an errno to the kernel."""
        self._backing = backing
        self._fault = fault
        self._refuse = refuse
        self._count = 0  # of the fault's operation
        self._hidden: dict[str, str] = {}  # the last name that libfuse hid, and its new one
        # By inode what was there before each write since the last sync: (size, position, bytes).
        self._unsynced: dict[int, list[tuple[int, int, bytes]]] = {}

    def _meet(self, op: str, path: str) -> bool:
        """Count an operation; raise where it fails. Returns whether it is to be cut short."""
        fault = self._fault
        if fault is None or fault.op != op or not fnmatch(path, fault.path):
            return False
        self._count += 1
        if not fault.nth <= self._count < fault.nth + fault.times:
            return False
        Path(self._backing + MET).touch()
        if fault.error == "short":
            return True
        raise self._refuse(getattr(errno, fault.error))

    def _real(self, path: str) -> str:
        return self._backing + path

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """lstat."""
        found = os.lstat(self._real(path))
        keys = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_blocks", "st_ino")
        facts = {key: getattr(found, key) for key in keys}
        times = {"st_atime", "st_mtime", "st_ctime"}
        return facts | {key: getattr(found, f"{key}_ns") for key in times}

    def readdir(self, path: str, fh: int) -> list[str]:
        """Names."""
        return [".", "..", *os.listdir(self._real(path))]

    def statfs(self, path: str) -> dict[str, int]:
        """As the backing directory's."""
        found = os.statvfs(self._real(path))
        keys = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree")
        return {key: getattr(found, key) for key in keys} | {"f_namemax": 255}

    def open(self, path: str, flags: int) -> int:
        """Without Direct I/O below: the kernel's buffers here are not aligned."""
        self._meet("open", path)
        return os.open(self._real(path), flags & ~os.O_DIRECT)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        """Likewise."""
        self._meet("create", path)
        return os.open(self._real(path), os.O_RDWR | os.O_CREAT, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """pread."""
        self._meet("read", path)
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """pwrite."""
        short = self._meet("write", path)
        status = os.fstat(fh)
        before = status.st_size, offset, os.pread(fh, len(data), offset)
        self._unsynced.setdefault(status.st_ino, []).append(before)
        return os.pwrite(fh, data[: len(data) // 2] if short else data, offset)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """fsync."""
        writes = self._unsynced.pop(os.fstat(fh).st_ino, [])
        try:
            self._meet("fsync", path)
        except Exception:
            for size, pos, data in reversed(writes):
                os.pwrite(fh, data, pos)
                os.ftruncate(fh, size)
            raise
        os.fsync(fh)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        """The same of a directory."""
        self._meet("fsyncdir", path)
        return 0

    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
        """fallocate."""
        self._meet("fallocate", path)
        allocate(fh, offset, size)
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """truncate."""
        self._meet("truncate", path)
        os.truncate(self._real(path), length)
        return 0

    def rename(self, old: str, new: str) -> int:
        """rename. Before the name of an open file goes to another one, libfuse renames that file to
        a name of its own: where the rename itself fails then, the file has both, as its own name
        has to stay. libfuse removes the other one when the file is closed."""
        hides = Path(new).name.startswith(HIDDEN)
        try:
            if not hides:
                self._meet("rename", new)
        except Exception:
            if new in self._hidden:
                os.link(self._real(self._hidden[new]), self._real(new))
            raise
        finally:
            self._hidden.clear()
        os.rename(self._real(old), self._real(new))
        if hides:
            self._hidden[old] = new
        return 0

    def unlink(self, path: str) -> int:
        """unlink."""
        self._meet("unlink", path)
        os.unlink(self._real(path))
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        """mkdir."""
        self._meet("mkdir", path)
        os.mkdir(self._real(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        """rmdir."""
        os.rmdir(self._real(path))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        """chmod."""
        os.chmod(self._real(path), mode)
        return 0

    def utimens(self, path: str, times: Any = None) -> int:
        """utime."""
        os.utime(self._real(path), ns=times)
        return 0

    def release(self, path: str, fh: int) -> int:
        """close."""
        os.close(fh)
        return 0


def main() -> None:
    """The process that serves the mount, until it is unmounted."""
    import mfusepy

    backing, mountpoint, text = sys.argv[1:]
    facts = json.loads(text)
    fault = Fault(**facts) if facts else None

    class Operations(PassThrough, mfusepy.Operations):  # type: ignore[misc]
        """What mfusepy looks for, and what it does with operations that are not there."""

    operations = Operations(backing, fault, mfusepy.FuseOSError)
    # Names are looked up each time: what they stand for changes without the kernel, see `rename`.
    mfusepy.FUSE(operations, mountpoint, foreground=True, nothreads=True, entry_timeout=0)


if __name__ == "__main__":
    main()
