"""How often clients may make the log speak: a flood can neither fill a disk nor hold a loop.

Which process: a shard.  Pure; the clock is passed in.  Of each event an address may cause a few
lines an interval, and all addresses together some more; the first line afterwards says how many
there would have been.  What is remembered is bounded, whoever connects.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

INTERVAL_S: Final = 10.0
ADDRESS_LINES_MAX: Final = 5  # of one event, by one address, in an interval
EVENT_LINES_MAX: Final = 20  # of one event in an interval
DEBUG_TIMES: Final = 50  # so many times more, for who asked for debug events
KEYS_MAX: Final = 4096  # pairs of event and address that are remembered; the oldest is forgotten


class _Count:
    """Lines of one interval."""

    __slots__ = ("began_s", "lines", "suppressed")

    def __init__(self, now_s: float) -> None:
        self.began_s = now_s
        self.lines = 0
        self.suppressed = 0

    def room(self, now_s: float, lines_max: int) -> bool:
        """Whether one more line may be written; begins a new interval where the last is over."""
        if now_s - self.began_s >= INTERVAL_S:
            self.began_s, self.lines = now_s, 0
        return self.lines < lines_max


class LogLimit:
    """Decides line by line. `suppressed` counts all that were not written."""

    __slots__ = ("_addresses", "_events", "suppressed")

    def __init__(self) -> None:
        self._events: dict[str, _Count] = {}
        self._addresses: OrderedDict[tuple[str, str], _Count] = OrderedDict()
        self.suppressed = 0

    def admit(self, event: str, address: str, now_s: float, times: int = 1) -> int | None:
        """None: be silent. Else how many lines of this event were suppressed since the last one.

        Shapes:  event    one of a fixed set of names
                 address  of the client, without its port
                 times    how many times the lines of others this event may have
        """
        of_all = self._events.setdefault(event, _Count(now_s))
        key = event, address
        of_address = self._addresses.get(key)
        if of_address is None:
            of_address = self._addresses[key] = _Count(now_s)
            if len(self._addresses) > KEYS_MAX:
                self._addresses.popitem(last=False)
        # Both are asked, so that both begin their next interval.
        room = (
            of_address.room(now_s, ADDRESS_LINES_MAX * times),
            of_all.room(now_s, EVENT_LINES_MAX * times),
        )
        if not all(room):
            of_all.suppressed += 1
            self.suppressed += 1
            return None
        of_address.lines += 1
        of_all.lines += 1
        suppressed, of_all.suppressed = of_all.suppressed, 0
        return suppressed
