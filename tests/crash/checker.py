"""What an acknowledgement promises, checked: a pure function over what was acked and what is read.

Every acknowledged record is in the log exactly once, at the offset it was acknowledged at, whole;
nothing is there twice; numbers rise by one from 0 in offset order, so that no record, acknowledged
or not, was lost ahead of a later one, as an idempotent producer guarantees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.crash.workload import decode_payload

SHOWN = 5  # examples of each kind of fault in a report


@dataclass(slots=True)
class Verdict:
    """The faults found, each a sentence; nothing in any list means that the promise was kept."""

    acked_count: int = 0
    read_count: int = 0
    lost: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, int]:
        """How many of each kind, without those that did not happen."""
        kinds = ("lost", "moved", "doubled", "torn", "disordered")
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}

    def report(self) -> str:
        """The faults in words."""
        lines = [f"{self.acked_count} acknowledged, {self.read_count} read: {self.faults}"]
        for kind in self.faults:
            lines += [f"  {kind}: {text}" for text in getattr(self, kind)[:SHOWN]]
        return "\n".join(lines)


def check(
    acked: Sequence[Mapping[int, tuple[int, int]]],
    log: Sequence[Sequence[tuple[int, bytes]]],
) -> Verdict:
    """Compare a topic's log with what its producer was told.

    Shapes:  acked  partition -> number -> (offset, cycle)
             log    partition -> (offset, value) as a consumer got them, from offset 0
    """
    verdict = Verdict()
    for partition, records in enumerate(log):
        _check_partition(verdict, partition, acked[partition], records)
    return verdict


def _check_partition(
    verdict: Verdict,
    partition: int,
    acked: Mapping[int, tuple[int, int]],
    records: Sequence[tuple[int, bytes]],
) -> None:
    where: dict[int, int] = {}
    last_offset, expected = -1, 0
    for offset, value in records:
        place = f"partition {partition} offset {offset}"
        if offset <= last_offset:
            verdict.disordered.append(f"{place} was served after offset {last_offset}")
        last_offset = offset
        number = decode_payload(value, partition)
        if number is None:
            verdict.torn.append(f"{place} is not what was written: {value[:40]!r}")
            continue
        if number in where:
            verdict.doubled.append(f"{place} holds record {number}, as offset {where[number]} does")
            continue
        if number != expected:
            verdict.disordered.append(f"{place} holds record {number}, expected {expected}")
        where[number] = offset
        expected = number + 1
    for number, (offset, cycle) in acked.items():
        found = where.get(number)
        text = f"partition {partition} record {number}, acknowledged in cycle {cycle} at {offset}"
        if found is None:
            verdict.lost.append(text)
        elif found != offset:
            verdict.moved.append(f"{text}, is at {found}")
    verdict.acked_count += len(acked)
    verdict.read_count += len(records)
