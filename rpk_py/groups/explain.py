"""Where to look next, from what happened to a group.

What:       a pure function from a group's timeline to a few sentences for its operator: each names
            whom, and the setting or log that answers the next question.
Where:      the coordinator of the group, when somebody asks for the history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from rpk_py.groups.timeline import Event, EventKind

RECENT_EVENTS: Final = 40
OFTEN: Final = 3  # joins of one host among the recent events: it does not stay
MEMBERS_TOLD: Final = 3
_ENDS: Final = (EventKind.STABLE, EventKind.EMPTY)


def look_next(events: Sequence[Event]) -> list[str]:
    """What to look at, most telling first; one sentence where nothing is wrong.

    Shapes:  events  oldest first
    """
    if not events:
        return ["nothing has happened since this coordinator has the group"]
    recent = list(events[-RECENT_EVENTS:])
    advice = [
        *_silent(recent),
        *_slow(recent),
        *_restless(recent),
        *_under_way(recent),
        *_left(recent),
    ]
    return advice or ["no member was lost lately: nothing to look for"]


def _silent(events: Sequence[Event]) -> list[str]:
    missed = [event for event in events if event.kind is EventKind.MISSED_HEARTBEAT]
    return [
        f"{_who(event)} sent no heartbeat for {max(event.duration_ms, 0) / 1000:.1f} s and was"
        " removed: see whether that process died, was paused or lost its network then; if it was"
        " only late, raise its session.timeout.ms"
        for event in _last_of_each(missed)
    ]


def _slow(events: Sequence[Event]) -> list[str]:
    kinds = (EventKind.MISSED_REBALANCE, EventKind.MISSED_SYNC)
    return [
        f"{_who(event)} did not take part in the rebalance in time: it was busy with records for"
        " too long, so see how long it works on one poll; lower max.poll.records or raise"
        " max.poll.interval.ms"
        for event in _last_of_each([each for each in events if each.kind in kinds])
    ]


def _restless(events: Sequence[Event]) -> list[str]:
    joins = Counter(
        (event.client_id, event.client_host)
        for event in events
        if event.kind in (EventKind.JOINED, EventKind.REPLACED)
    )
    return [
        f"clients {client_id or 'without an id'} of {host.lstrip('/') or 'an unknown host'} joined"
        f" {count} times lately: see whether they are restarted again and again; with a"
        " group.instance.id a restart moves no partition"
        for (client_id, host), count in joins.most_common(MEMBERS_TOLD)
        if count >= OFTEN
    ]


def _under_way(events: Sequence[Event]) -> list[str]:
    began = [i for i, event in enumerate(events) if event.kind is EventKind.REBALANCE_STARTED]
    if not began or any(event.kind in _ENDS for event in events[began[-1] :]):
        return []
    return [
        "a rebalance is under way: it waits for members to join again or to give up partitions, at"
        " most for the longest of their max.poll.interval.ms"
    ]


def _left(events: Sequence[Event]) -> list[str]:
    left = [event for event in events if event.kind is EventKind.LEFT]
    return [
        f"{_who(event)} left by itself{_because(event)}: its own log says more"
        for event in _last_of_each(left)[:1]
    ]


def _last_of_each(events: Sequence[Event]) -> list[Event]:
    """The newest event of each member, newest first, a few of them."""
    newest = {event.member: event for event in events}
    return sorted(newest.values(), key=lambda event: -event.at_ms)[:MEMBERS_TOLD]


def _who(event: Event) -> str:
    where = event.client_host.lstrip("/")
    return f"{event.member or event.client_id or 'a member'}{f' at {where}' if where else ''}"


def _because(event: Event) -> str:
    return f" ({event.reason})" if event.reason else ""
