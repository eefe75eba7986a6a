"""How far the opening of a shard's logs is, for who waits for it. One shard, one instance."""

from __future__ import annotations

import time
from collections.abc import Callable

MIB = 1 << 20


class Progress:
    """What is to be opened and scanned as far as it is known, and what of it is done.

    Most partitions need no scan; the bytes of one that does are known when its turn comes, so the
    estimate is of what was found up to now.
    """

    __slots__ = ("_clock_s", "_started_s", "open", "partitions", "scan_bytes", "scanned_bytes")

    def __init__(self, clock_s: Callable[[], float] = time.perf_counter) -> None:
        self.partitions = self.open = 0
        self.scan_bytes = self.scanned_bytes = 0
        self._clock_s = clock_s
        self._started_s = clock_s()

    def facts(self) -> dict[str, float | None]:
        """partitions, partitions_open, scan_mib, scanned_mib, seconds, remaining_s (None: it
        cannot be told yet)."""
        seconds = self._clock_s() - self._started_s
        if self.scanned_bytes:
            done = self.scanned_bytes / self.scan_bytes
        else:
            done = self.open / self.partitions if self.partitions else 0.0
        return {
            "partitions": self.partitions,
            "partitions_open": self.open,
            "scan_mib": round(self.scan_bytes / MIB, 1),
            "scanned_mib": round(self.scanned_bytes / MIB, 1),
            "seconds": round(seconds, 1),
            "remaining_s": round(seconds / done - seconds, 1) if done else None,
        }
