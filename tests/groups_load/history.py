"""What members of a group told while they lived, and what must hold of it; pure.

A member appends lines to a file of its own, each by one write, so that a member that is killed
loses none that it finished. All times are CLOCK_MONOTONIC, which the processes of a machine share.

    assigned T P,P,...     the client was given partitions (the start of its callback)
    revoked T P,P,...      it was told to give them up, or that it had lost them
    read T P FIRST LAST    records FIRST..LAST of partition P are processed
    accepted T             the coordinator accepted a commit that was sent at T
    left T                 it is about to leave the group

What counts as ownership, the same for eager and cooperative classic groups and for KIP-848: from
`assigned` to the last commit that the coordinator accepted before the partition was given up, lost
or the member ended. A coordinator accepts a commit from a member of the current generation or
epoch only, so up to that moment it was the owner in the coordinator's own eyes. What comes after
is not counted: a member that is killed or frozen cannot know when its session was over. Members
commit several times a second, and once more in the callback that takes partitions away, so that
little is left out; `unproven` says how often nothing could be counted at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

FAULTS_SHOWN = 5


class Interval(NamedTuple):
    """A partition's owner for certain, from `start_ns` to `end_ns`."""

    start_ns: int
    end_ns: int
    member: str


@dataclass
class Member:
    """One process's life as a member, from its lines."""

    name: str
    intervals: dict[int, list[Interval]] = field(default_factory=lambda: defaultdict(list))
    reads: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    owned: set[int] = field(default_factory=set)  # at the end of its lines
    assigned_ns: list[int] = field(default_factory=list)  # when it was given partitions
    unproven: int = 0
    bad_lines: int = 0


def parse(name: str, lines: Iterable[str]) -> Member:
    """The life that these lines tell."""
    member = Member(name)
    held: dict[int, tuple[int, int]] = {}  # partition -> assigned, proven until

    def give_up(partitions: Iterable[int]) -> None:
        for partition in partitions:
            start_ns, end_ns = held.pop(partition, (0, 0))
            if end_ns > start_ns:
                member.intervals[partition].append(Interval(start_ns, end_ns, name))
            elif start_ns:
                member.unproven += 1

    for line in lines:
        kind, *words = line.split()
        now_ns = int(words[0])
        if kind == "assigned":
            member.assigned_ns.append(now_ns)
            for partition in _partitions(words):
                held.setdefault(partition, (now_ns, now_ns))
        elif kind == "revoked":
            give_up(_partitions(words))
        elif kind == "read":
            partition, first, last = map(int, words[1:])
            member.reads[partition].append((first, last))
            member.bad_lines += partition not in held
        elif kind == "accepted":
            for partition, (start_ns, end_ns) in held.items():
                held[partition] = (start_ns, max(end_ns, now_ns))
        elif kind == "left":
            give_up(list(held))
        else:
            member.bad_lines += 1
    member.owned = set(held)
    give_up(list(held))
    return member


def _partitions(words: Sequence[str]) -> list[int]:
    return [int(text) for text in words[1].split(",")] if len(words) > 1 else []


def load(path: Path) -> Member:
    """The life in a file; without one it has not begun. An unfinished line is left out."""
    text = path.read_text() if path.exists() else ""
    return parse(path.stem, text[: text.rfind("\n") + 1].splitlines())


@dataclass
class GroupVerdict:
    """What was found of one group; `faults` in words."""

    records: int = 0  # different ones that were processed
    redelivered: int = 0
    members: int = 0
    assignments: int = 0
    intervals: int = 0
    unproven: int = 0
    owned_s: float = 0.0  # proven ownership, summed over partitions
    faults: list[str] = field(default_factory=list)


def check_group(members: Sequence[Member], written: Mapping[int, int]) -> GroupVerdict:
    """Every record processed, no partition owned twice, nothing read without being assigned.

    written  partition -> how many records it has, numbered from 0
    """
    verdict = GroupVerdict(members=len(members))
    for partition, count in sorted(written.items()):
        _check_reads(verdict, partition, count, members)
        _check_owners(verdict, partition, [i for m in members for i in m.intervals[partition]])
    for member in members:
        verdict.assignments += len(member.assigned_ns)
        verdict.unproven += member.unproven
        if member.bad_lines:
            verdict.faults.append(
                f"{member.name}: {member.bad_lines} reads of partitions that it did not have"
            )
    return verdict


def _check_reads(
    verdict: GroupVerdict, partition: int, count: int, members: Sequence[Member]
) -> None:
    runs = sorted(run for member in members for run in member.reads[partition])
    next_number = read = distinct = 0
    missing: list[str] = []
    for first, last in runs:
        if first > next_number:
            missing.append(f"{next_number}..{first - 1}")
        distinct += max(0, last + 1 - max(first, next_number))
        read += last + 1 - first
        next_number = max(next_number, last + 1)
    if next_number < count:
        missing.append(f"{next_number}..{count - 1}")
    verdict.records += distinct
    verdict.redelivered += read - distinct
    if missing:
        shown = ", ".join(missing[:FAULTS_SHOWN])
        verdict.faults.append(f"partition {partition}: nobody processed {shown} of {count}")


def _check_owners(verdict: GroupVerdict, partition: int, intervals: list[Interval]) -> None:
    held: Interval | None = None
    for interval in sorted(intervals):
        verdict.intervals += 1
        verdict.owned_s += (interval.end_ns - interval.start_ns) / 1e9
        if held is not None and interval.start_ns < held.end_ns:
            both_s = (min(held.end_ns, interval.end_ns) - interval.start_ns) / 1e9
            verdict.faults.append(
                f"partition {partition}: {interval.member} and {held.member} both owned it for "
                f"{both_s:.3f} s from {interval.start_ns / 1e9:.3f} s on"
            )
        if held is None or interval.end_ns > held.end_ns:
            held = interval


def check_settled(members: Sequence[Member], partitions: int) -> list[str]:
    """Whether the members that live at the end share all partitions, and each has some."""
    owners: dict[int, list[str]] = defaultdict(list)
    for member in members:
        for partition in member.owned:
            owners[partition].append(member.name)
    wrong = [
        f"partition {partition} is owned by {owners[partition] or 'nobody'} at the end"
        for partition in range(partitions)
        if len(owners[partition]) != 1
    ]
    return wrong + [f"{member.name} has nothing" for member in members if not member.owned]
