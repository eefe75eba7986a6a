"""What an acknowledgement promises, checked: a pure function over what was acked and what is read.

Every acknowledged record is in the log exactly once, at the offset it was acknowledged at, whole;
nothing is there twice; each writer's numbers rise by one from 0 in offset order, so that no record,
acknowledged or not, was lost ahead of a later one, as an idempotent producer guarantees. A consumer
gets all of that, once and in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.crash.workload import decode_payload, writer_and_number

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
    misread: list[str] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, int]:
        """How many of each kind, without those that did not happen."""
        kinds = ("lost", "moved", "doubled", "torn", "disordered", "misread")
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
    """Compare a topic's log with what its producers were told.

    Shapes:  acked  partition -> record's identity -> (offset, cycle)
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
    expected: dict[int, int] = {}  # writer -> the number of its next record
    last_offset = -1
    for offset, value in records:
        place = f"partition {partition} offset {offset}"
        if offset <= last_offset:
            verdict.disordered.append(f"{place} was served after offset {last_offset}")
        last_offset = offset
        record = decode_payload(value, partition)
        if record is None:
            verdict.torn.append(f"{place} is not what was written: {value[:40]!r}")
            continue
        if record in where:
            text = f"{place} holds {name(record)}, as offset {where[record]} does"
            verdict.doubled.append(text)
            continue
        writer, number = writer_and_number(record)
        wanted = expected.get(writer, 0)
        if number != wanted:
            verdict.disordered.append(f"{place} holds {name(record)}, expected {wanted}")
        where[record] = offset
        expected[writer] = number + 1
    for record, (offset, cycle) in acked.items():
        found = where.get(record)
        text = f"partition {partition} {name(record)}, acknowledged in cycle {cycle} at {offset}"
        if found is None:
            verdict.lost.append(text)
        elif found != offset:
            verdict.moved.append(f"{text}, is at {found}")
    verdict.acked_count += len(acked)
    verdict.read_count += len(records)


def check_reader(
    verdict: Verdict,
    reader: str,
    seen: Sequence[Sequence[tuple[int, int]]],
    log: Sequence[Mapping[int, int]],
) -> None:
    """Compare what a consumer was given while all went on with what is in the log at the end.

    It must have got the whole log: every record once, in order, and none that was lost later.

    Shapes:  seen  partition -> (offset, record's identity), in the order they came
             log   partition -> offset -> record's identity
    """
    for partition, records in enumerate(seen):
        expected = 0
        for offset, record in records:
            place = f"{reader}, partition {partition} offset {offset}"
            if offset != expected:
                verdict.misread.append(f"{place} came where {expected} was expected")
            there = log[partition].get(offset)
            if there is None:
                verdict.misread.append(f"{place} is not in the log any more: {name(record)}")
            elif there != record:
                verdict.misread.append(f"{place} was {name(record)}, is {name(there)} in the log")
            expected = offset + 1
        end = max(log[partition], default=-1) + 1
        if expected < end:
            text = f"{reader}, partition {partition} got no further than {expected} of {end}"
            verdict.misread.append(text)


def name(record: int) -> str:
    """A record in a report."""
    writer, number = writer_and_number(record)
    return f"record {number} of writer {writer}"
