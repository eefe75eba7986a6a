"""Deleted partitions and retired segments, kept to be overwritten by new ones.

A durable write over blocks that were written before needs no journal commit of the file system,
so a retired segment is worth more as raw material than as free space, up to a budget. Its stale
records can never pass for new ones: a new segment has a new incarnation. The pool's methods block;
run them through `Disk.run`, whose threads they serialise. One pool a shard, with a directory of
its own.

Directories have the names of their topics, which come back with other ids, perhaps at another
shard. So whoever moves one away holds the lock of its newest segment while it does (flock, which
its owner holds as well), and looks whether that segment is in it.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import deque
from collections.abc import Container, Iterable
from pathlib import Path

from storage.disk import fsync_dir
from storage.errors import ForeignDirectory
from storage.segment import SEGMENT_SUFFIX
from storage.wal_format import REWRITTEN_HEADER_BYTES, decode_segment_header

RETIRED_BYTES_MIN = 64 * 1024


class SegmentPool:
    """Up to `bytes_max` of retired segments in `directory`."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._files: deque[tuple[Path, int]] = deque()
        self._bytes = 0
        self._sequence = 0
        self._lock = threading.Lock()
        self._keeps = True
        self.reused_count = 0

    def load(self) -> None:
        """Adopt what an earlier run left, and drop what does not fit the budget. Once."""
        assert not self._files
        # Names of an earlier run are never overwritten: the sequence goes on behind them.
        self._directory.mkdir(parents=True, exist_ok=True)
        paths = sorted(self._directory.iterdir())
        numbers = [int(path.stem) for path in paths if path.stem.isdecimal()]
        self._sequence = max(numbers, default=0)
        for path in paths:
            self.retire(path)

    def retire(self, path: Path) -> None:
        """Take over a segment's file that nobody writes any more: keep it or delete it."""
        with self._lock:
            size = os.stat(path).st_size
            too_much = self._bytes + size > self._bytes_max
            if size < RETIRED_BYTES_MIN or too_much or not self._keeps:
                os.unlink(path)
                return
            self._sequence += 1
            target = self._directory / f"{self._sequence:010d}.retired"
            os.rename(path, target)
            self._files.append((target, size))
            self._bytes += size

    def keep(self, keeps: bool) -> None:
        """Whether to keep files at all: not while the disk is nearly full. Raises OSError."""
        with self._lock:
            self._keeps = keeps
            while not keeps and self._files:
                path, size = self._files[0]
                os.unlink(path)
                self._files.popleft()
                self._bytes -= size

    def take(self, bytes_max: int) -> Path | None:
        """A retired file of at most `bytes_max` to overwrite, or None."""
        with self._lock:
            for i, (path, size) in enumerate(self._files):
                if size <= bytes_max:
                    del self._files[i]
                    self._bytes -= size
                    self.reused_count += 1
                    return path
        return None


def discard_directory(
    directory: Path, locked: Iterable[tuple[str, int]], trash: Path
) -> Path | None:
    """Move a partition's directory away durably: that which holds the segments of `locked`.

    locked   names of segments, the newest among them, and descriptors that hold their locks
    Returns: its new path; None: it is gone, and what may be there now is another topic's of that
             name.  While the newest segment is locked, nobody else can move its directory away, so
             what is looked at here is what is moved.
    Blocks.
    """
    segments = list(locked)
    if not segments or not all(_holds(directory, name, fd) for name, fd in segments):
        return None
    trash.mkdir(exist_ok=True)
    target = trash / os.urandom(16).hex()
    os.rename(directory, target)
    fsync_dir(directory.parent)
    return target


def _holds(directory: Path, name: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(directory / name), os.fstat(fd))
    except FileNotFoundError:
        return False


def discard_unopened(directory: Path, topic_ids: Container[bytes], trash: Path) -> Path | None:
    """Move a directory away if all of its segments are of these topics.

    Returns: its new path; None: it is gone, or somebody else works on it.  Blocks.
    Raises:  ForeignDirectory  there are no segments in it, or some of other topics
             OSError           it cannot be looked at or moved
    """
    locked: dict[str, int] = {}
    try:
        # Its owner may have rolled before its last lock was free: look again until nothing is new.
        while new := [path for path in _segments_in(directory) if path.name not in locked]:
            for path in new:
                locked[path.name] = fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                header = decode_segment_header(memoryview(os.pread(fd, REWRITTEN_HEADER_BYTES, 0)))
                if isinstance(header, str) or header.topic_id not in topic_ids:
                    raise ForeignDirectory(f"{path} is not known to be of a deleted topic")
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not locked and directory.exists():
            raise ForeignDirectory(f"{directory} holds no segments")
        return discard_directory(directory, locked.items(), trash)
    except (BlockingIOError, FileNotFoundError):
        return None
    finally:
        for fd in locked.values():
            os.close(fd)


def _segments_in(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{SEGMENT_SUFFIX}"))


def empty_directory(directory: Path, pool: SegmentPool) -> None:
    """Retire a discarded directory's segments, delete its other files and itself. Blocks."""
    try:
        for path in directory.iterdir():
            if path.suffix == SEGMENT_SUFFIX:
                pool.retire(path)
            else:
                path.unlink()
        directory.rmdir()
    except FileNotFoundError:
        return  # another shard empties the same trash
