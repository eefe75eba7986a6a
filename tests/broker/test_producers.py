"""rpk_py.producers: the rules one by one, the whole against a simple model, and the snapshot."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_protocol.errors import ErrorCode
from kafka_protocol.record_batch import BatchHeader, build_batch, parse_header
from rpk_py.producers import (
    NEW,
    SEQUENCE_MAX,
    WINDOW_BATCHES_MAX,
    Duplicate,
    Producers,
)

PID = 4001
OUT_OF_ORDER = ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
STALE_EPOCH = ErrorCode.INVALID_PRODUCER_EPOCH


def with_batches(*batches: tuple[int, int, int], epoch: int = 0) -> Producers:
    """Producer PID after batches of (base sequence, record count, base offset)."""
    producers = Producers()
    for base_sequence, record_count, base_offset in batches:
        producers.update(PID, epoch, base_sequence, record_count - 1, base_offset, 1_000)
    return producers


SIX_BATCHES = [(10 * n, 10, 100 + 10 * n) for n in range(6)]  # sequences 0..59, offsets 100..159


@pytest.mark.parametrize(
    ("epoch", "base_sequence", "record_count", "verdict"),
    [
        (0, 60, 10, NEW),
        (0, 60, 1, NEW),
        # the five in the window
        (0, 50, 10, Duplicate(150, 1_000)),
        (0, 30, 10, Duplicate(130, 1_000)),
        (0, 10, 10, Duplicate(110, 1_000)),
        # the sixth, older than the window: no offset is known for it
        (0, 0, 10, OUT_OF_ORDER),
        # the same first sequence with another length is another batch
        (0, 50, 9, OUT_OF_ORDER),
        (0, 50, 11, OUT_OF_ORDER),
        (0, 51, 9, OUT_OF_ORDER),
        # a batch that spans two of the window is neither of them
        (0, 40, 20, OUT_OF_ORDER),
        # gaps
        (0, 61, 1, OUT_OF_ORDER),
        (0, SEQUENCE_MAX, 1, OUT_OF_ORDER),
        (0, -1, 1, OUT_OF_ORDER),
        # epochs
        (1, 0, 10, NEW),
        (1, 60, 10, OUT_OF_ORDER),
        (1, 50, 10, OUT_OF_ORDER),
        (-1, 60, 10, STALE_EPOCH),
    ],
)
def test_a_batch_after_six_is_judged(
    epoch: int, base_sequence: int, record_count: int, verdict: ErrorCode | Duplicate
) -> None:
    producers = with_batches(*SIX_BATCHES)
    assert producers.check(PID, epoch, base_sequence, record_count - 1) == verdict


def test_check_changes_nothing() -> None:
    producers = with_batches(*SIX_BATCHES)
    before = producers.snapshot()
    for epoch, base_sequence in [(0, 60), (1, 0), (0, 77), (0, 50)]:
        producers.check(PID, epoch, base_sequence, 9)
    producers.check(PID + 1, 0, 0, 9)
    assert producers.snapshot() == before


@pytest.mark.parametrize("base_sequence", [0, 1, 12_345, SEQUENCE_MAX])
@pytest.mark.parametrize("epoch", [0, 7])
def test_an_unknown_producer_may_start_anywhere(epoch: int, base_sequence: int) -> None:
    producers = with_batches(*SIX_BATCHES)
    assert producers.check(PID + 1, epoch, base_sequence, 0) is NEW


def test_an_unknown_producer_with_a_negative_sequence_or_epoch_is_refused() -> None:
    assert Producers().check(PID, 0, -1, 0) is ErrorCode.INVALID_RECORD
    assert Producers().check(PID, -1, 0, 0) is STALE_EPOCH


def test_the_sequence_wraps_to_zero_after_the_largest() -> None:
    producers = with_batches((SEQUENCE_MAX - 9, 10, 500))
    assert producers.check(PID, 0, 0, 4) is NEW
    assert producers.check(PID, 0, 1, 4) is OUT_OF_ORDER


def test_a_batch_that_wraps_inside_is_followed_and_recognised() -> None:
    """Three records before the wrap and two after: last sequence 1, the next is 2."""
    producers = with_batches((SEQUENCE_MAX - 2, 5, 500))
    assert producers.check(PID, 0, 2, 0) is NEW
    assert producers.check(PID, 0, 0, 0) is OUT_OF_ORDER
    assert producers.check(PID, 0, SEQUENCE_MAX - 2, 4) == Duplicate(500, 1_000)


def test_a_new_epoch_clears_the_window_and_fences_the_old() -> None:
    producers = with_batches(*SIX_BATCHES)
    producers.update(PID, 3, 0, 9, 160, 2_000)
    assert producers.check(PID, 3, 10, 0) is NEW
    assert producers.check(PID, 3, 0, 9) == Duplicate(160, 2_000)
    assert producers.check(PID, 3, 50, 9) is OUT_OF_ORDER
    assert producers.check(PID, 2, 0, 0) is STALE_EPOCH
    assert producers.check(PID, 0, 50, 9) is STALE_EPOCH


def test_producers_do_not_see_each_other() -> None:
    producers = with_batches(*SIX_BATCHES)
    producers.update(PID + 1, 0, 0, 4, 160, 1_000)
    assert producers.check(PID + 1, 0, 5, 0) is NEW
    assert producers.check(PID, 0, 60, 0) is NEW
    assert producers.check(PID + 1, 0, 60, 0) is OUT_OF_ORDER


def header(
    base_sequence: int, record_count: int, base_offset: int, *, pid: int = PID, epoch: int = 0
) -> BatchHeader:
    """The header of a batch as recovery reads it from the log; its timestamps are of 1970."""
    batch = build_batch(
        [(None, b"value")] * record_count,
        base_offset=base_offset,
        timestamp_ms=1_000,
        producer_id=pid,
        producer_epoch=epoch,
        base_sequence=base_sequence,
    )
    return parse_header(batch)


def test_replay_trusts_the_log_and_never_raises() -> None:
    """A compacted log has gaps; only what check would never let pass is passed over."""
    producers = Producers()
    producers.replay(header(40, 10, 100, epoch=2))
    producers.replay(header(90, 1, 300, epoch=2))
    before = producers.snapshot()
    producers.replay(header(91, 1, 301, epoch=1))
    producers.replay(header(0, 1, 302, epoch=-1))
    producers.replay(header(-1, 1, 303, pid=PID + 1))
    producers.replay(header(-1, 1, 304, pid=-1, epoch=-1))
    assert producers.snapshot() == before
    assert producers.check(PID, 2, 91, 0) is NEW
    assert producers.check(PID, 2, 40, 9) == Duplicate(100, 1_000)


def test_a_replay_that_begins_before_the_snapshot_ends_adds_nothing_twice() -> None:
    producers = with_batches(*SIX_BATCHES)
    before = producers.snapshot()
    for base_sequence, record_count, base_offset in SIX_BATCHES[2:]:
        producers.replay(header(base_sequence, record_count, base_offset))
    assert producers.snapshot() == before
    producers.replay(header(60, 1, 160))
    assert producers.check(PID, 0, 61, 0) is NEW


def test_after_a_restart_the_expiry_runs_anew() -> None:
    """The records' timestamps may lie years back; the producer may have waited for the broker."""
    loaded, replayed = Producers(), Producers()
    loaded.load(with_batches(*SIX_BATCHES).snapshot())
    replayed.replay(header(0, 1, 100))
    for producers in (loaded, replayed):
        assert producers.expire(1_000_000_000, 60_000) == 0
        assert producers.expire(1_000_059_999, 60_000) == 0
        assert producers.expire(1_000_060_000, 60_000) == 1


def test_expired_producers_are_unknown_again() -> None:
    producers = with_batches(*SIX_BATCHES)
    producers.update(PID + 1, 0, 0, 0, 160, 1_500)
    assert producers.expire(1_999, 1_000) == 0
    assert producers.expire(2_000, 1_000) == 1
    assert PID not in producers
    assert PID + 1 in producers
    assert producers.check(PID, 0, 777, 0) is NEW


def test_a_truncated_log_takes_back_the_batches_above_its_end() -> None:
    producers = with_batches(*SIX_BATCHES)
    producers.truncate_to(140)
    assert producers.check(PID, 0, 40, 9) is NEW
    assert producers.check(PID, 0, 50, 9) is OUT_OF_ORDER
    assert producers.check(PID, 0, 30, 9) == Duplicate(130, 1_000)


def test_a_producer_with_no_batch_left_after_a_truncation_is_unknown() -> None:
    producers = with_batches(*SIX_BATCHES)
    producers.truncate_to(110)
    assert len(producers) == 0
    assert producers.check(PID, 0, 5, 0) is NEW


def test_a_full_table_forgets_the_least_recently_active() -> None:
    producers = Producers(producers_max=16)
    for n in range(16):
        producers.update(n, 0, 0, 0, n, 1_000 + n)
    producers.update(0, 0, 1, 0, 16, 2_000)
    producers.update(99, 0, 0, 0, 17, 2_001)
    assert len(producers) == 15  # an eighth made room for one
    assert 1 not in producers
    assert 2 not in producers
    assert all(n in producers for n in (0, 3, 15, 99))


class Model:
    """Every batch of every producer, kept for ever and searched by the rules as they are told."""

    def __init__(self) -> None:
        self.appended: dict[int, list[tuple[int, list[int], int]]] = {}

    def check(self, pid: int, epoch: int, first: int, count: int) -> ErrorCode | Duplicate:
        sequences = [(first + n) % 2**31 for n in range(count)]
        history = self.appended.get(pid)
        if not history:
            return NEW
        last_epoch = history[-1][0]
        if epoch < last_epoch:
            return STALE_EPOCH
        if epoch > last_epoch:
            return NEW if first == 0 else OUT_OF_ORDER
        same_epoch = [batch for batch in history if batch[0] == epoch]
        for _, known, offset in same_epoch[-WINDOW_BATCHES_MAX:]:
            if known[0] == sequences[0] and known[-1] == sequences[-1]:
                return Duplicate(offset, offset + 5)
        following = (same_epoch[-1][1][-1] + 1) % 2**31
        return NEW if first == following else OUT_OF_ORDER

    def append(self, pid: int, epoch: int, first: int, count: int, offset: int) -> None:
        sequences = [(first + n) % 2**31 for n in range(count)]
        self.appended.setdefault(pid, []).append((epoch, sequences, offset))


# Small numbers, and the neighbourhood of the wrap, so that batches meet each other often.
SEQUENCES = st.one_of(
    st.integers(0, 12),
    st.integers(SEQUENCE_MAX - 8, SEQUENCE_MAX),
    st.just("next"),
    st.just("again"),
)
BATCHES = st.lists(
    st.tuples(st.integers(1, 2), st.integers(0, 2), SEQUENCES, st.integers(1, 4), st.booleans()),
    max_size=40,
)


@given(BATCHES)
def test_producers_agree_with_the_model(
    batches: list[tuple[int, int, int | str, int, bool]],
) -> None:
    """Random batches, in order and retried, give the model's verdicts, over restarts as well."""
    producers, model = Producers(), Model()
    offset = 0
    for pid, epoch, choice, count, restart in batches:
        first = choice if isinstance(choice, int) else 0
        history = model.appended.get(pid)
        if isinstance(choice, str) and history:
            epoch, sequences, _ = (
                history[-1] if choice == "next" else history[-count % len(history)]
            )
            first = (sequences[-1] + 1) % 2**31 if choice == "next" else sequences[0]
            count = count if choice == "next" else len(sequences)
        verdict = producers.check(pid, epoch, first, count - 1)
        assert verdict == model.check(pid, epoch, first, count)
        if verdict is NEW:
            producers.update(pid, epoch, first, count - 1, offset, offset + 5)
            model.append(pid, epoch, first, count, offset)
            offset += count
        if restart:
            reloaded = Producers()
            reloaded.load(producers.snapshot())
            producers = reloaded


def test_an_empty_snapshot_loads() -> None:
    producers = with_batches(*SIX_BATCHES)
    producers.load(Producers().snapshot())
    assert len(producers) == 0


def test_snapshot_bytes_are_these() -> None:
    """Golden: a snapshot of today must load in every later version."""
    producers = with_batches((3, 2, 100), (5, 1, 102), epoch=7)
    golden = bytes.fromhex(
        "0001 00000001"
        "0000000000000fa1 0007 00000000000003e8 02"
        "00000003 00000004 0000000000000064 00000000000003e8"
        "00000005 00000005 0000000000000066 00000000000003e8"
    )
    assert producers.snapshot() == golden
    reloaded = Producers()
    reloaded.load(memoryview(golden))
    assert reloaded.snapshot() == golden
    assert reloaded.check(PID, 7, 6, 0) is NEW
    assert reloaded.check(PID, 7, 3, 1) == Duplicate(100, 1_000)


def test_a_snapshot_larger_than_the_limit_keeps_the_most_recently_active() -> None:
    producers = Producers()
    for n in range(40):
        producers.update(n, 0, 0, 0, n, 1_000 - n)
    small = Producers(producers_max=8)
    small.load(producers.snapshot())
    assert len(small) <= 8
    assert 0 in small
    assert 39 not in small


def producer_bytes(
    pid: int = PID, epoch: int = 0, batches: tuple[tuple[int, int, int], ...] = ((0, 9, 100),)
) -> bytes:
    head = struct.pack(">qhqB", pid, epoch, 0, len(batches))
    return head + b"".join(struct.pack(">iiqq", *batch, 0) for batch in batches)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut short"),
        (b"\0\1\0\0\0", "cut short"),
        (struct.pack(">HI", 2, 0), "version 2"),
        (struct.pack(">HI", 0, 0), "version 0"),
        (struct.pack(">HI", 1, 0) + b"\0", "1 bytes too many"),
        (struct.pack(">HI", 1, 2**32 - 1), "cut short"),
        (struct.pack(">HI", 1, 2) + producer_bytes(), "cut short"),
        (struct.pack(">HI", 1, 2) + producer_bytes() * 2, "repeated id"),
        (struct.pack(">HI", 1, 1) + producer_bytes(pid=-1), "invalid"),
        (struct.pack(">HI", 1, 1) + producer_bytes(epoch=-1), "epoch -1"),
        (struct.pack(">HI", 1, 1) + producer_bytes(batches=()), "0 batches"),
        (struct.pack(">HI", 1, 1) + producer_bytes(batches=((0, 0, 1),) * 6), "6 batches"),
        (struct.pack(">HI", 1, 1) + producer_bytes(batches=((-1, 0, 1),)), "negative"),
        (struct.pack(">HI", 1, 1) + producer_bytes(batches=((0, -1, 1),)), "negative"),
        (struct.pack(">HI", 1, 1) + producer_bytes(batches=((0, 0, -1),)), "descend"),
        (struct.pack(">HI", 1, 1) + producer_bytes(batches=((0, 9, 5), (10, 10, 14))), "descend"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(data: bytes, message: str) -> None:
    producers = with_batches(*SIX_BATCHES)
    before = producers.snapshot()
    with pytest.raises(ValueError, match=message):
        producers.load(data)
    assert producers.snapshot() == before


@given(st.binary(max_size=120))
def test_any_bytes_load_or_raise_value_error(data: bytes) -> None:
    producers = Producers()
    try:
        producers.load(data)
    except ValueError:
        return
    assert producers.snapshot() == data
