"""Where `topic consume` starts and ends: rpk's --offset, parsed and looked up.

Which process: the operator's. A range is parsed once and then resolved against each partition's
start, end, and offsets by time, so that every partition gets a first and perhaps an end offset.

Invariants: end offsets are exclusive; an explicit offset outside a partition is moved to its edge,
which is said on standard error.
Source: rpk's help of `topic consume`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from rpk_py.cli.client import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, Client, TopicPartition
from rpk_py.cli.output import note
from rpk_py.cli.times import parse_point


class Edge(NamedTuple):
    """One end of a range: kind is start, end, offset (value) or time (value in ms)."""

    kind: str
    value: int = 0


class OffsetRange(NamedTuple):
    """From an edge (start and end with a distance in `value`) to an edge, or on and on (None)."""

    first: Edge
    end: Edge | None = None


class Span(NamedTuple):
    """What to read of one partition: from first up to and without end; None: on and on."""

    first: int
    end: int | None


_START = Edge("start")
_END = Edge("end")


def parse_range(text: str, now_ms: int) -> OffsetRange:
    """start, end, 47, +2, -3, 4:8, :end, @TIME, @TIME:TIME; ValueError names what is wrong."""
    if text.startswith("@"):
        return _time_range(text[1:], now_ms)
    if text in ("start", "oldest"):
        return OffsetRange(_START)
    if text in ("end", "newest"):
        return OffsetRange(_END)
    if text == ":end":
        return OffsetRange(_START, _END)
    if re.fullmatch(r"\+\d{1,18}", text):
        return OffsetRange(Edge("start", int(text)))
    if re.fullmatch(r"-\d{1,18}", text):
        return OffsetRange(Edge("end", int(text)))
    found = re.fullmatch(r"(\d{1,18})?(?:([:-])(\d{1,18}|end)?)?", text)
    if not found or not (found[1] or found[3]):
        raise ValueError(f"{text!r} is no offset: start, end, 47, +2, -3, 4:8, :end or @timestamp")
    first = Edge("offset", int(found[1])) if found[1] else _START
    if not found[3]:
        return OffsetRange(first)
    end = _END if found[3] == "end" else Edge("offset", int(found[3]))
    if first.kind == end.kind == "offset" and end.value <= first.value:
        raise ValueError(f"{text!r} ends before it starts")
    return OffsetRange(first, end)


def _time_range(text: str, now_ms: int) -> OffsetRange:
    first, base_ms, rest = _START, now_ms, text
    if not text.startswith(":"):
        point, rest = parse_point(text, now_ms)
        if point.timestamp_ms is None:
            raise ValueError("@end: a range of time does not start at the end")
        first = Edge("time", point.timestamp_ms)
        base_ms = point.timestamp_ms if point.is_absolute else now_ms
    if rest in ("", ":"):
        return OffsetRange(first)
    point, more = parse_point(rest[1:], base_ms)
    if more:
        raise ValueError(f"@{text}: {more!r} behind the second timestamp")
    if point.timestamp_ms is None:
        return OffsetRange(first, _END)
    return OffsetRange(first, Edge("time", point.timestamp_ms))


async def resolve(
    client: Client, wanted: OffsetRange, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, Span]:
    """Look up what a range is in each partition.

    Raises ClientError where a partition's offsets cannot be had.
    """
    keys = list(partitions)
    starts = await _offsets(client, keys, EARLIEST_TIMESTAMP)
    ends = await _offsets(client, keys, LATEST_TIMESTAMP)
    firsts = await _edge(client, wanted.first, keys, starts, ends)
    if wanted.first.kind == "offset":
        for (topic, index), first in firsts.items():
            if first != wanted.first.value:
                start, end = starts[topic, index], ends[topic, index]
                note(
                    f"topic {topic} partition {index}: offset {wanted.first.value} is out of range "
                    f"({start} to {end}), starting at {first}"
                )
    stops = None if wanted.end is None else await _edge(client, wanted.end, keys, starts, ends)
    return {key: Span(firsts[key], None if stops is None else stops[key]) for key in keys}


async def _edge(
    client: Client,
    edge: Edge,
    keys: list[TopicPartition],
    starts: dict[TopicPartition, int],
    ends: dict[TopicPartition, int],
) -> dict[TopicPartition, int]:
    if edge.kind == "time":
        found = await _offsets(client, keys, max(edge.value, 0))
        # Nothing is as young as that: the end.
        return {key: found[key] if found[key] >= 0 else ends[key] for key in keys}
    base = {"start": starts, "end": ends}.get(edge.kind)
    return {
        key: min(max((base[key] if base else 0) + edge.value, starts[key]), ends[key])
        for key in keys
    }


async def _offsets(
    client: Client, keys: list[TopicPartition], timestamp: int
) -> dict[TopicPartition, int]:
    answers = await client.list_offsets(dict.fromkeys(keys, timestamp))
    return {key: answers[key].offset for key in keys}
