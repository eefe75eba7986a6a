"""Retired segments, kept to be overwritten by new ones.

A durable write over blocks that were written before needs no journal commit of the file system,
so a retired segment is worth more as raw material than as free space, up to a budget. Its stale
records can never pass for new ones: a new segment has a new incarnation. The methods block; run
them through `Disk.run`, whose threads they serialise. One instance a shard, with a directory of
its own.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path

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
        """Adopt what an earlier run left, and drop what does not fit the budget."""
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
