"""Durations and points in time as rpk writes them.

Which process: the operator's. Pure: the clock is an argument. All is in milliseconds; what is
no such text is a ValueError that quotes it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION_MS_MAX = 365_250 * _UNITS_MS["d"]
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_POINT = re.compile(
    r"(?P<ms>\d{13})(?=:|$)|(?P<s>\d{9,10})(?=:|$)"
    r"|(?P<iso>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d))(?=:|$)"
    r"|(?P<day>\d{4}-\d\d-\d\d)(?=:|$)|(?P<end>end)(?=:|$)|(?P<duration>-?[0-9a-z.]+)(?=:|$)"
)


class Point(NamedTuple):
    """A point in time; timestamp_ms is None for `end`."""

    timestamp_ms: int | None
    is_absolute: bool


def duration_ms(text: str) -> int:
    """ "1h", "1m30s", "-250ms" -> milliseconds; a bare number is not a duration."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    pos, total = 0, 0.0
    while found := _DURATION.match(digits, pos):
        total += float(found[1]) * _UNITS_MS[found[2]]
        pos = found.end()
    if not digits or pos != len(digits):
        raise ValueError(f"{text!r} is no duration like 30s, 5m or 1h30m")
    if total > _DURATION_MS_MAX:
        raise ValueError(f"{text[:40]!r} is too long a duration: at most 1000 years")
    return sign * round(total)


def parse_point(text: str, base_ms: int) -> tuple[Point, str]:
    """The point in time at the start of a text, and what follows it: "" or a colon and more.

    13 digits are milliseconds, 9 or 10 seconds, then RFC 3339, a day (UTC), `end`, a duration that
    is added to base_ms.
    """
    found = _POINT.match(text)
    if not found:
        raise ValueError(
            f"{text!r} is no timestamp: 13 digits (ms), 10 digits (s), 2026-01-31, "
            "2026-01-31T12:00:00Z or a duration like -1h"
        )
    rest = text[found.end() :]
    kind, value = found.lastgroup, found[0]
    if kind == "ms":
        return Point(int(value), True), rest
    if kind == "s":
        return Point(int(value) * 1000, True), rest
    if kind == "end":
        return Point(None, True), rest
    if kind == "duration":
        return Point(base_ms + duration_ms(value), False), rest
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is no date: {error}") from error
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return Point(round(at.timestamp() * 1000), True), rest
