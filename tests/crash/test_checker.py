"""The checker finds every kind of broken promise: one log for each, and one where all is well."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash.checker import check
from tests.crash.workload import encode_payload

Records = list[tuple[int, bytes]]


def whole_log(count: int = 6) -> Records:
    return [(number, encode_payload(number, 0, b"filler")) for number in range(count)]


ACKED = {number: (number, 1) for number in range(4)}  # records 4 and 5 are not acknowledged


def lose(records: Records) -> Records:
    return records[:3]


def lose_all(records: Records) -> Records:
    return []


def lose_inside(records: Records) -> Records:
    return records[:1] + [(offset - 1, value) for offset, value in records[2:]]


def double(records: Records) -> Records:
    return [*records, (6, records[3][1])]


def move(records: Records) -> Records:
    return [(offset + 1, value) for offset, value in records]


def tear(records: Records) -> Records:
    whole = records[2][1]
    records[2] = (2, whole[:8] + bytes(len(whole) - 8))
    return records


def exchange(records: Records) -> Records:
    records[1], records[2] = (1, records[2][1]), (2, records[1][1])
    return records


def lose_unacknowledged_before_a_later_one(records: Records) -> Records:
    return [*records[:4], (4, records[5][1])]


def take_from_another_partition(records: Records) -> Records:
    records[0] = (0, encode_payload(0, 1, b"filler"))
    return records


BROKEN: list[tuple[Callable[[Records], Records], set[str]]] = [
    (lose, {"lost"}),
    (lose_all, {"lost"}),
    (lose_inside, {"lost", "moved", "disordered"}),
    (double, {"doubled"}),
    (move, {"moved"}),
    (tear, {"torn", "lost", "disordered"}),
    (exchange, {"moved", "disordered"}),
    (lose_unacknowledged_before_a_later_one, {"disordered"}),
    (take_from_another_partition, {"torn", "lost", "disordered"}),
]


def test_a_log_that_kept_its_promises_has_no_faults() -> None:
    verdict = check([ACKED], [whole_log()])
    assert verdict.faults == {}
    assert (verdict.acked_count, verdict.read_count) == (4, 6)


@pytest.mark.parametrize("records", [whole_log(4), whole_log(5)])
def test_what_was_not_acknowledged_may_be_missing_at_the_end(records: Records) -> None:
    assert check([ACKED], [records]).faults == {}


@pytest.mark.parametrize(("damage", "kinds"), BROKEN)
def test_a_broken_promise_is_found(damage: Callable[[Records], Records], kinds: set[str]) -> None:
    verdict = check([ACKED], [damage(whole_log())])
    assert set(verdict.faults) == kinds
    assert all(kind in verdict.report() for kind in kinds)
