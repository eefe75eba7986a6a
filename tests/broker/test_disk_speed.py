"""What the log says of a disk that is slow, and when it is quick again."""

from __future__ import annotations

from typing import Any

from rpk_py.disk_speed import SLOW_S, TOLD_S, DiskSpeed
from rpk_py.metrics import ShardMetrics


class Watched:
    """A DiskSpeed whose disk, clock and log are the test's."""

    def __init__(self) -> None:
        self.now_s, self.under_way = 100.0, (0.0, "")
        self.metrics = ShardMetrics()
        self.said: list[tuple[str, dict[str, Any]]] = []
        log: Any = self
        self.speed = DiskSpeed(lambda: self.under_way, self.metrics, log, lambda: self.now_s)

    def warning(self, event: str, **facts: Any) -> None:
        self.said.append((event, facts))

    info = warning

    def look(self, after_s: float = 0.5) -> list[tuple[str, dict[str, Any]]]:
        """What is said after so long."""
        self.now_s += after_s
        self.said.clear()
        self.speed.look()
        return list(self.said)


def test_an_operation_that_takes_long_is_told_once_in_a_while() -> None:
    watched = Watched()
    assert watched.look() == []
    watched.under_way = (SLOW_S, "write")
    ((event, facts),) = watched.look()
    assert event == "the disk is slow"
    assert (facts["under_way"], facts["under_way_s"], facts["slow_writes"]) == ("write", SLOW_S, 0)
    assert watched.look(TOLD_S - 1) == []
    ((event, _),) = watched.look(1)
    assert event == "the disk is slow"


def test_durable_writes_that_took_long_are_counted_between_two_lines() -> None:
    watched = Watched()
    watched.metrics.observe_write(SLOW_S / 2, 1, 4096)
    assert watched.look() == []
    watched.metrics.observe_write(SLOW_S * 1.1, 1, 4096)
    ((_, facts),) = watched.look()
    assert (facts["under_way"], facts["slow_writes"]) == (None, 1)
    for _ in range(3):
        watched.metrics.observe_write(100.0, 1, 4096)
        assert watched.look(1) == []
    watched.metrics.observe_write(100.0, 1, 4096)
    ((_, facts),) = watched.look(TOLD_S - 3)
    assert facts["slow_writes"] == 4


def test_a_disk_that_is_quick_again_is_told_once() -> None:
    watched = Watched()
    watched.under_way = (SLOW_S, "write")
    watched.look()
    watched.under_way = (3.0, "write")
    assert watched.look(2.5) == []
    watched.under_way = (0.0, "")
    assert watched.look(TOLD_S - 1) == []
    assert watched.look(1) == [("the disk is quick again", {"slow_for_s": 2.5})]
    assert watched.look(TOLD_S) == []
