"""Where to look next: a row for each thing that can have happened."""

from __future__ import annotations

import pytest

from rpk_py.groups.explain import look_next
from rpk_py.groups.timeline import Event, EventKind

WHO = {"member": "orders-7", "client_id": "orders", "client_host": "/10.0.0.7"}


def event(kind: EventKind, at_ms: int = 0, **more: object) -> Event:
    return Event(at_ms, kind, 1, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], ["nothing has happened"]),
        ([event(EventKind.JOINED, **WHO), event(EventKind.STABLE)], ["no member was lost"]),
        (
            [event(EventKind.MISSED_HEARTBEAT, duration_ms=45_000, **WHO)],
            ["orders-7 at 10.0.0.7", "45.0 s", "session.timeout.ms"],
        ),
        ([event(EventKind.MISSED_REBALANCE, **WHO)], ["orders-7", "max.poll.interval.ms"]),
        ([event(EventKind.MISSED_SYNC, **WHO)], ["orders-7", "max.poll.interval.ms"]),
        (
            [event(EventKind.JOINED, at_ms, **WHO) for at_ms in range(3)],
            ["clients orders of 10.0.0.7 joined 3 times", "group.instance.id"],
        ),
        ([event(EventKind.REBALANCE_STARTED)], ["a rebalance is under way"]),
        ([event(EventKind.REBALANCE_STARTED), event(EventKind.STABLE, 1)], ["no member was lost"]),
        (
            [event(EventKind.LEFT, reason="the consumer is being closed", **WHO)],
            ["orders-7 at 10.0.0.7 left by itself (the consumer is being closed)"],
        ),
    ],
)
def test_what_happened_says_where_to_look(events: list[Event], words: list[str]) -> None:
    text = "\n".join(look_next(events))
    assert all(word in text for word in words), text


def test_what_is_most_telling_comes_first_and_is_bounded() -> None:
    lost = [event(EventKind.MISSED_HEARTBEAT, at_ms, member=f"m{at_ms}") for at_ms in range(10)]
    advice = look_next([event(EventKind.LEFT, **WHO), *lost])
    assert len(advice) == 4
    assert [each.partition(" ")[0] for each in advice] == ["m9", "m8", "m7", "orders-7"]
