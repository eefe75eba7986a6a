"""The checker of the load bites: forged lives of members, each with one thing wrong."""

from __future__ import annotations

from tests.groups_load.history import check_group, check_settled, parse

MS = 1_000_000
WRITTEN = {0: 10, 1: 5}
FIRST = [
    f"assigned {1 * MS} 0,1",
    f"read {2 * MS} 0 0 6",
    f"read {2 * MS} 1 0 4",
    f"accepted {3 * MS}",
    f"revoked {4 * MS} 0,1",
]
SECOND = [f"assigned {5 * MS} 0,1", f"read {6 * MS} 0 5 9", f"accepted {7 * MS}"]


def faults(first: list[str], second: list[str]) -> list[str]:
    return check_group([parse("first", first), parse("second", second)], WRITTEN).faults


def test_a_proper_hand_over_passes() -> None:
    verdict = check_group([parse("first", FIRST), parse("second", SECOND)], WRITTEN)
    assert verdict.faults == []
    assert (verdict.records, verdict.redelivered) == (15, 2)
    assert (verdict.intervals, verdict.unproven) == (4, 0)


def test_two_owners_at_a_time_are_found() -> None:
    late = [*FIRST[:-1], f"accepted {8 * MS}", f"revoked {9 * MS} 0,1"]
    found = faults(late, SECOND)
    assert [text.split(" for ")[0] for text in found] == [
        "partition 0: second and first both owned it",
        "partition 1: second and first both owned it",
    ]


def test_what_a_frozen_member_believed_after_its_last_commit_is_not_counted() -> None:
    assert faults([*FIRST[:-1], f"revoked {9 * MS} 0,1"], SECOND) == []
    assert faults([*FIRST[:-1], f"left {9 * MS}"], SECOND) == []
    assert faults(FIRST[:-1], SECOND) == []  # killed


def test_an_overlap_behind_a_shorter_one_is_found() -> None:
    third = [f"assigned {2 * MS} 0", f"accepted {9 * MS}"]
    members = [parse("first", FIRST), parse("second", SECOND), parse("third", third)]
    assert len(check_group(members, WRITTEN).faults) == 2


def test_records_that_nobody_processed_are_named() -> None:
    without = [line for line in SECOND if not line.startswith("read")]
    assert faults(FIRST, without) == ["partition 0: nobody processed 7..9 of 10"]
    hole = [line.replace("0 5 9", "0 8 9") for line in SECOND]
    assert faults(FIRST, hole) == ["partition 0: nobody processed 7..7 of 10"]


def test_a_read_without_assignment_is_found() -> None:
    assert faults([*FIRST, f"read {5 * MS} 0 6 6"], SECOND) == [
        "first: 1 reads of partitions that it did not have"
    ]


def test_groups_are_settled_when_each_partition_has_one_owner_and_each_member_something() -> None:
    one, other = parse("one", ["assigned 1 0,1"]), parse("other", ["assigned 1 1"])
    assert check_settled([one], 2) == []
    assert check_settled([one, other], 2) == ["partition 1 is owned by ['one', 'other'] at the end"]
    assert check_settled([other], 2) == ["partition 0 is owned by nobody at the end"]
    assert check_settled([one, parse("new", [])], 2) == ["new has nothing"]
