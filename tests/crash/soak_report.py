"""How long things took in a soak: after each crash until its shards acknowledged again, and the
latency of the shards that were not touched. Pure functions over the producers' accounts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

KILL_SHARD = "kill shard"  # and its index
FREEZE_SHARD = "freeze shard"
KILL_SUPERVISOR = "kill supervisor"
KILL_ALL = "kill all"
GROUPS = (
    ("a shard killed", (KILL_SHARD,)),
    ("a shard frozen", (FREEZE_SHARD,)),
    ("supervisor or all killed", (KILL_SUPERVISOR, KILL_ALL)),
)

Ack = tuple[int, int, int, float, float]
"""Partition, identity, offset, sent at s, acknowledged at s."""


@dataclass(frozen=True)
class Crash:
    """One crash.

    Shapes:  kind      one of the names above
             shards    those that it took down
             killed_s  just before the signal; dead_s: the process cannot answer any more
             back_s    the broker said that all shards are ready, or the shard may run again
    """

    kind: str
    shards: tuple[int, ...]
    killed_s: float
    dead_s: float
    back_s: float


def report_times(
    acks: Mapping[str, Sequence[Ack]], probe: str, shard_of: Sequence[int], crashes: Sequence[Crash]
) -> list[str]:
    """The lines of the report. Shapes: acks  client -> its acknowledgements; probe  one of them."""
    by_client = {client: _by_shard(rows, shard_of) for client, rows in acks.items()}
    lines = [f"{len(crashes)} crashes; {sum(map(len, acks.values()))} acknowledgements"]
    for words, kinds in GROUPS:
        chosen = [crash for crash in crashes if crash.kind.startswith(kinds)]
        for client, shards in by_client.items():
            times = [
                first - crash.killed_s
                for crash in chosen
                for shard in crash.shards
                if (first := _first_ack(shards.get(shard, []), crash.dead_s)) is not None
            ]
            lines += _line(f"{words}: first new acknowledgement, {client}", times)
    during, calm = _latencies(by_client[probe], crashes)
    lines += _line("unaffected shards while another is down: latency", during)
    lines += _line("all shards while nothing is down: latency", calm)
    return lines


def _by_shard(rows: Iterable[Ack], shard_of: Sequence[int]) -> dict[int, list[tuple[float, float]]]:
    """Shard -> (sent at s, acknowledged at s), as sent."""
    shards: dict[int, list[tuple[float, float]]] = {}
    for partition, _, _, sent_s, acked_s in rows:
        shards.setdefault(shard_of[partition], []).append((sent_s, acked_s))
    for pairs in shards.values():
        pairs.sort()
    return shards


def _first_ack(pairs: Sequence[tuple[float, float]], since_s: float) -> float | None:
    """When the first record that was sent after `since_s` was acknowledged."""
    later = pairs[bisect_left(pairs, (since_s, 0.0)) :]
    return min((acked_s for _, acked_s in later), default=None)


def _latencies(
    probes: Mapping[int, Sequence[tuple[float, float]]], crashes: Sequence[Crash]
) -> tuple[list[float], list[float]]:
    """(of unaffected shards while another is down, of all shards while nothing is down)."""
    during: list[float] = []
    windows: list[tuple[float, float]] = []
    for crash in crashes:
        ends = [_first_ack(probes.get(shard, []), crash.dead_s) for shard in crash.shards]
        end_s = max([crash.back_s, *(end for end in ends if end is not None)])
        windows.append((crash.killed_s, end_s))
        for shard, pairs in probes.items():
            if shard not in crash.shards:
                during += [acked - sent for sent, acked in pairs if crash.killed_s <= sent <= end_s]
    calm = [
        acked_s - sent_s
        for pairs in probes.values()
        for sent_s, acked_s in pairs
        if not any(start_s - 0.1 <= sent_s <= end_s + 1.0 for start_s, end_s in windows)
    ]
    return during, calm


def _line(words: str, times_s: list[float]) -> list[str]:
    if not times_s:
        return []
    ordered = sorted(time_s * 1e3 for time_s in times_s)
    count = len(ordered)
    p50, p99 = ordered[count // 2], ordered[min(count * 99 // 100, count - 1)]
    numbers = f"p50 {p50:8.1f}  p99 {p99:8.1f}  max {ordered[-1]:8.1f} ms  of {count}"
    return [f"{words:66} {numbers}"]
