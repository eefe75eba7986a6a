"""When a segment has had its time, and when it is old enough to be left for a new one; pure.

A timestamp is its producer's: one in the future keeps its segment until then.
Source: UnifiedLog.deleteRetentionMsBreachedSegments and LogSegment.timeWaitedForRoll of Apache
Kafka 4.1.
"""

from __future__ import annotations

from typing import Final

FUTURE_MS: Final = 3_600_000  # a clock that is ahead by more is wrong


def is_old(largest_ms: int, retention_ms: int, now_ms: int) -> bool:
    """Whether records of which the youngest has that timestamp are older than is to be kept.
    A negative `retention_ms` keeps all."""
    return retention_ms >= 0 and now_ms - largest_ms > retention_ms


def must_roll(first_ms: int | None, timestamp_ms: int, roll_ms: int) -> bool:
    """Whether a batch of that largest timestamp no longer belongs into the segment whose first
    batch has `first_ms` (None: there is none). Where that has no timestamp, `rolls_by_clock`
    decides."""
    return first_ms is not None and first_ms >= 0 and timestamp_ms - first_ms > roll_ms


def rolls_by_clock(first_ms: int | None, created_ms: int, roll_ms: int, now_ms: int) -> bool:
    """Whether a segment whose first batch has no timestamp is to be left for the next batch."""
    return first_ms is not None and first_ms < 0 and now_ms - created_ms > roll_ms


def first_timestamp(indexed_ms: int, created_ms: int) -> int:
    """What a start takes for the timestamp of a segment's first batch, which it does not read.

    indexed_ms  of the first entry of its index: the largest of the first few records
    created_ms  when the segment was made: when its first batch came. Where producers write what
                happens now, that is it; where they write what is old, the other is smaller.
    """
    return min(indexed_ms, created_ms)


def jittered(segment_ms: int, jitter_ms: int, random: float) -> int:
    """How long one segment is written to, with `random` between 0 and 1."""
    return segment_ms - int(min(jitter_ms, segment_ms) * random)
