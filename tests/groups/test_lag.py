"""Lag in records and in seconds: samples of high watermarks, joined with what is committed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rpk_py.groups.lag import SAMPLES_MAX, Lag, Watermarks, lag_rows, lagging


def test_the_age_is_that_of_the_first_sample_beyond_the_offset() -> None:
    marks = Watermarks()
    for offset, at_ms in ((0, 1_000), (10, 2_000), (25, 5_000)):
        marks.note("t", 0, offset, at_ms)
    ages = [marks.age_s("t", 0, offset, 9_000) for offset in (0, 9, 10, 24, 25)]
    assert ages == [7.0, 7.0, 4.0, 4.0, None]
    assert marks.age_s("t", 1, 0, 9_000) is None


def test_a_partition_that_starts_anew_forgets_what_was() -> None:
    marks = Watermarks()
    marks.note("t", 0, 100, 1_000)
    marks.note("t", 0, 5, 2_000)
    assert marks.age_s("t", 0, 3, 2_500) == 0.5
    marks.forget({})
    assert marks.age_s("t", 0, 3, 2_500) is None


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=300))
def test_samples_are_bounded_and_never_make_a_record_older_than_it_is(steps: list[int]) -> None:
    marks, offset, seen = Watermarks(), 0, []
    for second, step in enumerate(steps):
        offset += step
        marks.note("t", 0, offset, second * 1000)
        seen.append((offset, second * 1000))
    offsets, _ = marks._samples["t", 0]
    assert len(offsets) <= SAMPLES_MAX
    now_ms = len(steps) * 1000
    for end, at_ms in seen:
        age = marks.age_s("t", 0, end - 1, now_ms)
        assert age is not None
        assert age <= (now_ms - at_ms) / 1000


def test_what_is_committed_is_joined_with_where_partitions_end() -> None:
    committed = [("g", "t", 0, 4), ("g", "t", 1, 9), ("g", "gone", 0, 1), ("h", "t", 0, 1)]
    ends = {("t", 0): (0, 2, 10), ("t", 1): (1, 0, 9)}
    assert lagging(committed, ends) == {0: [["t", 0, 4], ["t", 0, 2]]}
    rows = list(lag_rows(committed, ends, {("t", 0, 4): 1.5}))
    assert rows == [
        Lag("g", "t", 0, 4, 6, 1.5),
        Lag("g", "t", 1, 9, 0, 0.0),
        Lag("h", "t", 0, 1, 8, None),
    ]
