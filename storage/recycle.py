"""Deleted partitions and retired segments, kept to be overwritten by new ones.

A durable write over blocks that were written before needs no journal commit of the file system,
so a retired segment is worth more as raw material than as free space, up to a budget. Its stale
records can never pass for new ones: a new segment has a new incarnation. The methods block; run
them through `Disk.run`, whose threads they serialise. One instance a shard, with a directory of
its own.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import deque
from collections.abc import Container
from pathlib import Path

from storage.disk import fsync_dir
from storage.segment import SEGMENT_SUFFIX
from storage.wal_format import SEGMENT_HEADER_BYTES, decode_segment_header

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
            if size < RETIRED_BYTES_MIN or self._bytes + size > self._bytes_max:
                os.unlink(path)
                return
            self._sequence += 1
            target = self._directory / f"{self._sequence:010d}.retired"
            os.rename(path, target)
            self._files.append((target, size))
            self._bytes += size

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


def directory_belongs_to(directory: Path, topic_ids: Container[bytes]) -> bool:
    """Whether there are segments in `directory` and all are of these topics, and nobody has one
    of them locked. Blocks."""
    paths = sorted(directory.glob(f"*{SEGMENT_SUFFIX}"))
    for path in paths:
        with path.open("rb") as file:
            header = decode_segment_header(memoryview(file.read(SEGMENT_HEADER_BYTES)))
            if isinstance(header, str) or header.topic_id not in topic_ids:
                return False
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return bool(paths)


def discard_directory(directory: Path, trash: Path) -> Path | None:
    """Move a partition's directory away durably. Returns its new path, None if there is none.
    Blocks."""
    if not directory.exists():
        return None
    trash.mkdir(exist_ok=True)
    target = trash / os.urandom(16).hex()
    os.rename(directory, target)
    fsync_dir(directory.parent)
    return target


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
