"""Of each key the newest record counts, however little of the keys fits in memory."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage import key_table
from storage.key_table import ENTRY_BYTES, Bits, KeyTable

KEYS = st.one_of(st.binary(max_size=3), st.binary(min_size=13, max_size=18))


@pytest.fixture
def spill_fd() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


def superseded(keys: list[bytes], buffer_bytes: int) -> set[int]:
    with tempfile.TemporaryFile() as file:
        table, bits = KeyTable(buffer_bytes, file.fileno()), Bits()
        for number, key in enumerate(keys):
            table.note(key, number)
        count = table.mark_superseded(bits)
        found = {i for i in range(len(keys)) if bits.slice(i, 1)}
        assert len(found) == count
        return found


def expected(keys: list[bytes]) -> set[int]:
    newest = {key: number for number, key in enumerate(keys)}
    return set(range(len(keys))) - set(newest.values())


@given(st.lists(KEYS, max_size=60), st.sampled_from([1, 3, 1000]))
@example([b"a" * 15, b"a" * 16, b"a" * 15, b"a" * 16], 1)
@example([b"", b"\0", b"", b"\0\0"], 1)
def test_all_but_the_newest_of_each_key_are_superseded(keys: list[bytes], fit: int) -> None:
    assert superseded(keys, fit * ENTRY_BYTES) == expected(keys)


@pytest.mark.parametrize("looked_at", [3, 50, 10_000])
def test_a_part_that_is_too_large_for_one_dict_is_gone_through_several_times(
    monkeypatch: pytest.MonkeyPatch, looked_at: int
) -> None:
    monkeypatch.setattr(key_table, "LOOKED_AT_MAX", looked_at)
    rng = random.Random(7)
    keys = [b"%d" % rng.randrange(5000) for _ in range(20_000)]
    assert superseded(keys, 3000 * ENTRY_BYTES) == expected(keys)


def test_what_was_spilled_and_is_gone_is_an_error(spill_fd: int) -> None:
    table = KeyTable(2 * ENTRY_BYTES, spill_fd)
    for number in range(10):
        table.note(b"%d" % number, number)
    assert table.spilled_bytes == 10 * ENTRY_BYTES
    os.truncate(spill_fd, 0)
    with pytest.raises(OSError, match="the spilled keys end"):
        table.mark_superseded(Bits())


@given(st.sets(st.integers(0, 200)), st.integers(0, 100), st.integers(0, 130))
def test_bits_are_read_where_they_were_set(ones: set[int], start: int, count: int) -> None:
    bits = Bits()
    for one in ones:
        bits.set(one)
    slice_ = bits.slice(start, count)
    assert slice_ == sum(1 << (i - start) for i in ones if start <= i < start + count)
