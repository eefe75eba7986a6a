"""The checker finds every kind of broken promise: one log for each, and one where all is well."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash.checker import Verdict, check, check_reader
from tests.crash.workload import encode_payload, identity

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


def mixed_log(writers: list[int]) -> Records:
    """What several writers wrote in this order, each with numbers of its own."""
    numbers = dict.fromkeys(writers, 0)
    records: Records = []
    for offset, writer in enumerate(writers):
        records.append((offset, encode_payload(identity(writer, numbers[writer]), 0, b"")))
        numbers[writer] += 1
    return records


def test_each_writer_has_numbers_of_its_own() -> None:
    acked = {identity(0, 1): (3, 0), identity(1, 0): (1, 0), identity(2, 0): (4, 0)}
    assert check([acked], [mixed_log([0, 1, 1, 0, 2])]).faults == {}


def test_what_another_writer_wrote_does_not_stand_for_a_lost_record() -> None:
    acked = {identity(1, 1): (2, 0)}
    verdict = check([acked], [mixed_log([0, 1, 0])])
    assert set(verdict.faults) == {"lost"}
    assert "record 1 of writer 1" in verdict.report()


def test_one_writers_gap_is_found_among_the_records_of_others() -> None:
    records = mixed_log([0, 1, 0, 1, 0])
    del records[2]  # record 1 of writer 0, which was not acknowledged
    assert set(check([{}], [records]).faults) == {"disordered"}


LOG = {offset: identity(0, offset) for offset in range(5)}
READ = list(LOG.items())
MISREAD: list[tuple[str, list[tuple[int, int]]]] = [
    ("came where 2 was expected", READ[:2] + READ[3:]),
    ("came where 3 was expected", READ[:3] + READ[2:]),
    ("came where 1 was expected", [READ[0], READ[2], READ[1], *READ[3:]]),
    ("was record 7 of writer 0, is record 4", [*READ[:4], (4, identity(0, 7))]),
    ("is not in the log any more", [*READ, (5, identity(0, 5))]),
    ("got no further than 4 of 5", READ[:4]),
    ("got no further than 0 of 5", []),
]


def test_a_consumer_that_got_the_whole_log_has_no_faults() -> None:
    verdict = Verdict()
    check_reader(verdict, "reader", [READ], [LOG])
    assert verdict.faults == {}


@pytest.mark.parametrize(("words", "seen"), MISREAD)
def test_a_consumer_that_got_something_else_is_found(
    words: str, seen: list[tuple[int, int]]
) -> None:
    verdict = Verdict()
    check_reader(verdict, "reader", [seen], [LOG])
    assert set(verdict.faults) == {"misread"}
    assert words in verdict.report()
