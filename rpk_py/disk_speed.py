"""Says when the disk is slow: what is under way for long, and what took long, in the log.

Which process: a shard; one task, which looks twice a second and costs requests nothing. Durable
writes that are done are counted by the metrics already; what hangs is seen in the disk's slots and
threads. Nothing else is done about it: the loop never waits for the disk, replies wait for what
they promise, and producers are held back by inflight_bytes_max.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from rpk_py.log_setup import Log
from rpk_py.metric_types import WRITE_BOUNDS
from rpk_py.metrics import ShardMetrics

SLOW_S: Final = 0.5  # a bound of rpk_write_seconds
CHECK_S: Final = 0.5
TOLD_S: Final = 10.0  # between two lines
FIX: Final = (
    "see what else the disk does (iostat -x 1, rpk-py durability) and whether its kernel driver "
    "complains (dmesg); nothing in the broker makes it faster"
)
_FIRST_SLOW: Final = bisect_left(WRITE_BOUNDS, SLOW_S) + 1
assert WRITE_BOUNDS[_FIRST_SLOW - 1] == SLOW_S


class DiskSpeed:
    """See the module. `slowest`: the disk's operation that is under way for longest."""

    def __init__(
        self,
        slowest: Callable[[], tuple[float, str]],
        metrics: ShardMetrics,
        log: Log,
        clock_s: Callable[[], float],
    ) -> None:
        self._slowest = slowest
        self._metrics = metrics
        self._log = log
        self._clock_s = clock_s
        self._counted = 0  # slow writes that were seen
        self._untold = 0  # of these in no line yet
        self._told_s = self._last_s = self._since_s = -TOLD_S
        self._is_slow = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.look()

    def look(self) -> None:
        """Look once; say it if it is slow and was not said lately, or is no longer."""
        now_s = self._clock_s()
        seconds, what = self._slowest()
        slow_writes = self._metrics.writes_slower_than(_FIRST_SLOW)
        self._untold += slow_writes - self._counted
        if seconds >= SLOW_S or slow_writes > self._counted:
            self._last_s = now_s
            if not self._is_slow:
                self._is_slow, self._since_s = True, now_s
            if now_s - self._told_s >= TOLD_S:
                self._told_s = now_s
                self._log.warning(
                    "the disk is slow",
                    under_way=what or None,
                    under_way_s=round(seconds, 1),
                    slow_writes=self._untold,
                    fix=FIX,
                )
                self._untold = 0
        elif self._is_slow and now_s - self._last_s >= TOLD_S:
            self._is_slow, self._untold = False, 0
            self._log.info(
                "the disk is quick again", slow_for_s=round(self._last_s - self._since_s, 1)
            )
        self._counted = slow_writes
