"""The memory that large frames arrive in."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpk_py.frame_limits import MAPPED_BYTES_MIN, new_buffer

MIB = 1 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("size", [1, 4096, MAPPED_BYTES_MIN - 1, MAPPED_BYTES_MIN, 3 * MIB + 1])
def test_a_buffer_has_the_size_asked_for_and_takes_bytes_at_both_ends(size: int) -> None:
    buffer = new_buffer(size)
    assert (len(buffer), buffer.format, buffer.readonly) == (size, "B", False)
    buffer[:1] = buffer[-1:] = b"x"
    assert bytes(buffer[:1]) == bytes(buffer[size - 1 :]) == b"x"


def test_a_large_buffer_costs_memory_only_for_what_arrived_and_gives_it_back() -> None:
    before = resident_bytes()
    buffer = new_buffer(256 * MIB)
    buffer[: 64 * MIB] = bytes(64 * MIB)
    assert 60 * MIB < resident_bytes() - before < 100 * MIB
    kept = buffer[:10]
    del buffer
    assert bytes(kept) == bytes(10), "a slice keeps it alive"
    del kept
    assert resident_bytes() - before < 32 * MIB
