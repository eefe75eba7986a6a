"""The system calls that storage makes, on the simulated file system; and `patched`, which puts them
in the place of `os`, `fcntl`, `time` and `Path` in every module of storage.

A call that storage makes and the simulator does not know is an AttributeError, never a call of the
real machine. Each call is a step: the process can die before it, a write that is under way can land
before it, and it can fail; `Machine` decides (machine.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import fnmatch
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any, ClassVar

import storage
from tests.sim.storage.file_system import FileSystem, Inode, Place

FD_FIRST = 1000
FDS_MAX = 4096
DEVICE = 0x5101
HOLE_BYTES = 4096


class Crash(BaseException):
    """The process does not exist any more."""


def failure(code: int, path: object) -> OSError:
    return OSError(code, os.strerror(code), str(path))


@dataclass(slots=True, eq=False)
class OpenFile:
    """An open file description. `in_flight` are operations that the kernel holds it for."""

    inode: Inode
    path: str
    durable: bool  # O_DSYNC
    is_open: bool = True
    in_flight: int = 0

    def release(self) -> None:
        if not self.is_open and not self.in_flight and self.inode.locked_by is self:
            self.inode.locked_by = None


class Kernel:
    """`os` of storage's modules. `before_call(name, path)` may raise OSError or Crash."""

    # What is no system call is the real thing.
    O_RDONLY, O_WRONLY, O_RDWR = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
    O_CREAT, O_TRUNC, O_EXCL = os.O_CREAT, os.O_TRUNC, os.O_EXCL
    O_CLOEXEC, O_DIRECTORY, O_DIRECT, O_DSYNC = (
        os.O_CLOEXEC,
        os.O_DIRECTORY,
        os.O_DIRECT,
        os.O_DSYNC,
    )
    SEEK_DATA, SEEK_HOLE = os.SEEK_DATA, os.SEEK_HOLE
    PathLike = os.PathLike
    strerror = staticmethod(os.strerror)
    fspath = staticmethod(os.fspath)
    major, minor = staticmethod(os.major), staticmethod(os.minor)

    def __init__(
        self,
        files: FileSystem,
        before_call: Callable[[str, str], None],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.files = files
        self._before_call = before_call
        self.urandom = random_bytes
        self.open_files: dict[int, OpenFile] = {}
        self.disposing = False  # of a dead process: what it does in the end touches nothing
        self.path = SimpleNamespace(samestat=os.path.samestat, splitext=os.path.splitext)
        # Whether the file system has direct I/O, and whether a file may have two names.
        self.direct = self.links = True

    def process_died(self) -> None:
        for file in self.open_files.values():
            file.is_open = False
            file.release()
        self.open_files = {}

    # -- names -----------------------------------------------------------------------------

    def _find(self, path: object) -> tuple[Place, Inode | None]:
        parts = os.fspath(path).strip("/").split("/")  # type: ignore[call-overload]
        directory = self.files.root
        for part in parts[:-1]:
            found = directory.entries.get(part)
            if found is None:
                raise failure(errno.ENOENT, path)
            if not found.is_directory:
                raise failure(errno.ENOTDIR, path)
            directory = found
        return Place(directory, parts[-1]), directory.entries.get(parts[-1])

    def _existing(self, path: object) -> tuple[Place, Inode]:
        place, inode = self._find(path)
        if inode is None:
            raise failure(errno.ENOENT, path)
        return place, inode

    def open(self, path: object, flags: int, mode: int = 0o777) -> int:
        place, inode = self._find(path)
        creates = inode is None and bool(flags & os.O_CREAT)
        self._before_call("create" if creates else "open", str(path))
        if flags & os.O_DIRECT and not self.direct:
            raise failure(errno.EINVAL, path)
        if len(self.open_files) >= FDS_MAX:
            raise failure(errno.EMFILE, path)
        if inode is None:
            if not creates:
                raise failure(errno.ENOENT, path)
            inode = self.files.new_inode(is_directory=False)
            self.files.rename(inode, place, source=None)
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise failure(errno.EEXIST, path)
        if flags & os.O_TRUNC and inode.data:
            self.files.resize(inode, 0)
        fd = FD_FIRST
        while fd in self.open_files:  # the lowest one, as the real one does
            fd += 1
        self.open_files[fd] = OpenFile(inode, str(path), bool(flags & os.O_DSYNC))
        return fd

    def close(self, fd: int) -> None:
        if self.disposing:
            return
        file = self.file(fd)
        self._before_call("close", file.path)
        assert not file.in_flight, f"{file.path} is closed, and a write or read of it is under way"
        del self.open_files[fd]
        file.is_open = False
        file.release()

    def file(self, fd: int) -> OpenFile:
        file = self.open_files.get(fd)
        if file is None:
            raise failure(errno.EBADF, f"descriptor {fd}")
        return file

    def rename(self, source: object, target: object) -> None:
        self._before_call("rename", f"{source} {target}")
        from_place, inode = self._existing(source)
        to_place, _replaced = self._find(target)
        if from_place != to_place:
            self.files.rename(inode, to_place, source=from_place)

    replace = rename

    def unlink(self, path: object) -> None:
        self._before_call("unlink", str(path))
        place, inode = self._existing(path)
        if inode.is_directory:
            raise failure(errno.EISDIR, path)
        self.files.rename(inode, None, source=place)

    def link(self, source: object, target: object) -> None:
        self._before_call("link", f"{source} {target}")
        _place, inode = self._existing(source)
        place, found = self._find(target)
        if not self.links:
            raise failure(errno.EPERM, target)
        if found is not None:
            raise failure(errno.EEXIST, target)
        self.files.rename(inode, place, source=None)

    def utime(self, fd: int, *, ns: tuple[int, int]) -> None:
        file = self.file(fd)
        self._before_call("utime", file.path)
        file.inode.changed_ns = ns[1]

    def mkdir(self, path: object, mode: int = 0o777) -> None:
        self._before_call("mkdir", str(path))
        place, inode = self._find(path)
        if inode is not None:
            raise failure(errno.EEXIST, path)
        self.files.rename(self.files.new_inode(is_directory=True), place, source=None)

    def rmdir(self, path: object) -> None:
        self._before_call("rmdir", str(path))
        place, inode = self._existing(path)
        if inode.entries:
            raise failure(errno.ENOTEMPTY, path)
        self.files.rename(inode, None, source=place)

    def listdir(self, path: object) -> list[str]:
        self._before_call("listdir", str(path))
        _place, inode = self._existing(path)
        if not inode.is_directory:
            raise failure(errno.ENOTDIR, path)
        return sorted(inode.entries, key=lambda name: name[::-1])  # a file system has its own order

    def stat(self, path: object) -> SimpleNamespace:
        if isinstance(path, int):
            return self.fstat(path)
        self._before_call("stat", str(path))
        return self._status(self._existing(path)[1])

    def fstat(self, fd: int) -> SimpleNamespace:
        file = self.file(fd)
        self._before_call("fstat", file.path)
        return self._status(file.inode)

    def _status(self, inode: Inode) -> SimpleNamespace:
        return SimpleNamespace(
            st_size=len(inode.data),
            st_ino=inode.number,
            st_dev=DEVICE,
            st_nlink=inode.names,
            st_mtime_ns=inode.changed_ns,
            st_mode=0o40755 if inode.is_directory else 0o100644,
            st_blksize=4096,
            st_blocks=-(-len(inode.data) // 512),
        )

    def readlink(self, path: str) -> str:
        return self.file(int(path.rpartition("/")[2])).path

    # -- bytes -----------------------------------------------------------------------------

    def write(self, fd: int, data: Any) -> int:
        """Only of files that are written from their start to their end."""
        file = self.file(fd)
        self._before_call("write", file.path)
        data = bytes(data)
        self.files.write(file.inode, len(file.inode.data), data, durable=file.durable)
        return len(data)

    def pwrite(self, fd: int, data: Any, pos: int) -> int:
        file = self.file(fd)
        self._before_call("pwrite", file.path)
        data = bytes(data)
        self.files.write(file.inode, pos, data, durable=file.durable)
        return len(data)

    def pread(self, fd: int, size: int, pos: int) -> bytes:
        file = self.file(fd)
        self._before_call("pread", file.path)
        return bytes(file.inode.data[pos : pos + size])

    def preadv(self, fd: int, views: list[memoryview], pos: int) -> int:
        (view,) = views
        data = self.pread(fd, len(view), pos)
        view[: len(data)] = data
        return len(data)

    def pwritev(self, fd: int, views: list[memoryview], pos: int) -> int:
        (view,) = views
        return self.pwrite(fd, view, pos)

    def lseek(self, fd: int, pos: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE, as if blocks of zeros had never been written."""
        file = self.file(fd)
        self._before_call("lseek", file.path)
        data, zeros = file.inode.data, bytes(HOLE_BYTES)
        while pos < len(data):
            block = data[pos & -HOLE_BYTES : (pos & -HOLE_BYTES) + HOLE_BYTES]
            if (whence == os.SEEK_DATA) == (block != zeros[: len(block)]):
                return pos
            pos = (pos & -HOLE_BYTES) + HOLE_BYTES
        if whence == os.SEEK_DATA:
            raise failure(errno.ENXIO, file.path)
        return len(data)

    def ftruncate(self, fd: int, size: int) -> None:
        file = self.file(fd)
        self._before_call("ftruncate", file.path)
        self.files.resize(file.inode, size)

    def fsync(self, fd: int) -> None:
        file = self.file(fd)
        try:
            self._before_call("fsync", file.path)
        except OSError:
            self.files.fail_sync(file.inode)
            raise
        self.files.sync(file.inode)

    fdatasync = fsync

    # -- what is not in os -----------------------------------------------------------------

    def fallocate(self, fd: int, _mode: int, pos: Any, size: Any) -> int:
        """As libc's: -1 and an errno."""
        file = self.file(fd)
        try:
            self._before_call("fallocate", file.path)
        except OSError as error:
            ctypes.set_errno(error.errno or errno.EIO)
            return -1
        end = pos.value + size.value
        if len(file.inode.data) < end:
            self.files.resize(file.inode, end)
        return 0

    def syncfs(self, fd: int) -> int:
        """As libc's."""
        file = self.file(fd)
        try:
            self._before_call("syncfs", file.path)
        except OSError as error:
            self.files.fail_sync(file.inode)
            ctypes.set_errno(error.errno or errno.EIO)
            return -1
        self.files.sync_all()
        return 0

    def flock(self, fd: int, operation: int) -> None:
        file = self.file(fd)
        self._before_call("flock", file.path)
        assert operation == fcntl.LOCK_EX | fcntl.LOCK_NB
        if file.inode.locked_by not in (None, file):
            raise BlockingIOError(errno.EAGAIN, "locked", file.path)
        file.inode.locked_by = file


class SimFile:
    """What Path.open gives, of files that are written from start to end, or read."""

    def __init__(self, kernel: Kernel, fd: int) -> None:
        self._kernel, self._fd, self._pos = kernel, fd, 0

    def __enter__(self) -> SimFile:
        return self

    def __exit__(self, *_what: object) -> None:
        self._kernel.close(self._fd)

    def write(self, data: Any) -> int:
        return self._kernel.write(self._fd, data)

    def seek(self, pos: int) -> None:
        self._pos = pos

    def read(self, size: int) -> bytes:
        data = self._kernel.pread(self._fd, size, self._pos)
        self._pos += len(data)
        return data


class SimPath(PurePosixPath):
    """`Path` of storage's modules."""

    __slots__ = ()
    kernel: ClassVar[Kernel]

    def stat(self) -> Any:
        return self.kernel.stat(self)

    def exists(self) -> bool:
        try:
            self.kernel.stat(self)
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        return self.exists() and self.stat().st_mode >> 12 == 4

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        if parents and not self.parent.exists():
            self.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.kernel.mkdir(self)
        except FileExistsError:
            if not exist_ok:
                raise

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self.kernel.unlink(self)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmdir(self) -> None:
        self.kernel.rmdir(self)

    def rename(self, target: Any) -> None:
        self.kernel.rename(self, target)

    replace = rename

    def iterdir(self) -> Iterator[SimPath]:
        return iter([self / name for name in self.kernel.listdir(self)])

    def glob(self, pattern: str) -> Iterator[SimPath]:
        try:
            names = self.kernel.listdir(self)
        except FileNotFoundError:
            names = []
        return iter([self / name for name in names if fnmatch.fnmatchcase(name, pattern)])

    def read_bytes(self) -> bytes:
        fd = self.kernel.open(self, os.O_RDONLY)
        try:
            return self.kernel.pread(fd, 1 << 40, 0)
        finally:
            self.kernel.close(fd)

    def open(self, mode: str) -> SimFile:
        flags = {"rb": os.O_RDONLY, "wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC}
        return SimFile(self.kernel, self.kernel.open(self, flags[mode]))

    def read_text(self) -> str:
        return self.read_bytes().decode()


class _Libc:
    """What storage/disk.py calls through ctypes."""

    def __init__(self, kernel: Kernel) -> None:
        self.fallocate = kernel.fallocate
        self.syncfs = kernel.syncfs


def _storage_modules() -> Iterable[Any]:
    for info in pkgutil.iter_modules(storage.__path__, "storage."):
        if info.name != "storage.uring":  # needs a binding that may be missing
            importlib.import_module(info.name)
    return [sys.modules[name] for name in sorted(sys.modules) if name.startswith("storage.")]


@contextlib.contextmanager
def patched(kernel: Kernel, clock: Any, constants: dict[str, int]) -> Iterator[None]:
    """Storage runs on `kernel`, on `clock`'s time, and with these values of its constants, so that
    what takes megabytes in life happens in kilobytes."""
    locks = SimpleNamespace(
        flock=kernel.flock, LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB, LOCK_UN=fcntl.LOCK_UN
    )
    stand_ins = {"os": kernel, "fcntl": locks, "time": clock, "Path": SimPath}
    SimPath.kernel = kernel
    undo: list[tuple[Any, str, Any]] = []
    try:
        for module in _storage_modules():
            for name, value in (stand_ins | constants | {"_libc": _Libc(kernel)}).items():
                if name in vars(module):
                    undo.append((module, name, vars(module)[name]))
                    setattr(module, name, value)
        yield
    finally:
        for module, name, value in undo:
            setattr(module, name, value)
