"""The checkpoint file: what goes in comes out, and anything else is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage.checkpoint import Checkpoint, decode_checkpoint
from storage.index import ENTRY_BYTES

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
UINT64 = st.integers(0, (1 << 64) - 1)

checkpoints = st.builds(
    Checkpoint,
    segment_base_offset=INT64,
    incarnation=UINT64,
    pos=UINT64,
    prev_header_crc=st.integers(0, (1 << 32) - 1),
    next_offset=INT64,
    log_start_offset=INT64,
    high_watermark=INT64,
    epochs=st.lists(st.tuples(st.integers(-(1 << 31), (1 << 31) - 1), INT64), max_size=5),
    index=st.integers(0, 4).map(lambda entries: bytes(range(ENTRY_BYTES)) * entries),
    state=st.binary(max_size=100),
)


@given(checkpoints)
def test_a_checkpoint_comes_back_as_it_was(checkpoint: Checkpoint) -> None:
    assert decode_checkpoint(checkpoint.encode()) == checkpoint


def test_a_checkpoint_with_any_byte_changed_or_missing_is_refused() -> None:
    data = Checkpoint(7, 8, 4096, 9, 10, epochs=[(1, 0)], index=b"i" * 24, state=b"s").encode()
    assert decode_checkpoint(data) is not None
    for pos in range(len(data)):
        assert decode_checkpoint(data[:pos] + bytes([data[pos] ^ 1]) + data[pos + 1 :]) is None
        assert decode_checkpoint(data[:pos]) is None
    assert decode_checkpoint(data + b"\0") is None


def test_an_index_that_is_no_whole_number_of_entries_is_refused() -> None:
    assert decode_checkpoint(Checkpoint(7, 8, 4096, 9, 10, index=b"i" * 25).encode()) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert decode_checkpoint(data) is None
