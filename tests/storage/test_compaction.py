"""Compaction against a model: the newest value of each key stays, in its place and as it came."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kafka_protocol.record_batch import (
    BatchHeader,
    Record,
    build_batch,
    iter_batches,
    iter_records,
    parse_header,
    set_log_append_time,
    verify_crc,
)
from storage.compaction import Compacted, CompactionConfig, Compactor, cleanable, grouped
from tests.storage.builder import BLOCK, NOW_MS, Driven, Host, contents, drive
from tests.storage.test_crash_model import tick

SEGMENT_BYTES = 24 * BLOCK
CONFIG = CompactionConfig(segment_bytes=SEGMENT_BYTES, dirty_ratio_min=0.0)
INFLATED = 1 << 24


@dataclass
class Keyed:
    """A log whose batches have keys, a clock that the test moves, and all records ever appended."""

    driven: Driven
    now_ms: int = NOW_MS
    records: list[Record] = field(default_factory=list)
    last_batches: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.driven.host.context.now_ms = lambda: self.now_ms
        self.compactor = Compactor(self.driven.log.rewriter)

    async def append(self, *pairs: tuple[bytes | None, bytes | None], **fields: Any) -> int:
        """One batch, durable; its producer's last batch is noted."""
        rows = [
            Record(i, self.now_ms - 1000 + i, key, value, [("h", b"1")] if i % 2 else [])
            for i, (key, value) in enumerate(pairs)
        ]
        batch = build_batch(rows, **fields)
        if fields.get("producer_id", -1) >= 0:
            self.last_batches[fields["producer_id"]] = self.driven.log.log_end_offset
        return await self.append_batch(batch)

    async def append_batch(self, batch: bytearray, epoch: int = 1) -> int:
        base = self.driven.append_batch(batch, epoch)
        await self.driven.durable()
        if not parse_header(batch).is_control:
            stored = self.driven.appended[-1].data
            self.records += list(iter_records(stored, INFLATED))
        return base

    async def roll(self) -> None:
        """Begin a new segment and have the old one sealed."""
        count = len(self.driven.segments)
        while len(self.driven.segments) == count:
            await self.append((b"filler", b"x" * 3 * BLOCK))
        await tick(20)

    async def compact(self, config: CompactionConfig = CONFIG) -> Compacted | None:
        found = await self.compactor.cleanable(config)
        if not found.due:
            return None
        done = await self.compactor.compact(found, config, self.last_batches.values())
        await tick(20)
        return done

    async def batches(self) -> list[tuple[BatchHeader, bytes]]:
        self.driven.forget_cache()
        data = await self.driven.read_all()
        found = []
        for pos, header in iter_batches(data, 0, len(data)):
            assert verify_crc(data, pos, header.size_bytes, header.crc)
            found.append((header, data[pos : pos + header.size_bytes]))
        return found

    async def read(self) -> list[Record]:
        """All records that a consumer sees."""
        return [
            record
            for header, batch in await self.batches()
            if header.record_count and not header.is_control
            for record in iter_records(batch, INFLATED)
        ]

    @property
    def clean_end(self) -> int:
        """The first offset that may not be cleaned: that of the active segment."""
        return self.driven.active.base_offset

    def expected(self, gone_tombstones: Iterable[int] = ()) -> list[Record]:
        """What is left of the records when all that may be cleaned was."""
        newest = {r.key: r.offset for r in self.records if r.offset < self.clean_end}
        gone = set(gone_tombstones)
        return [
            r
            for r in self.records
            if r.offset >= self.clean_end
            or (r.key is not None and newest[r.key] == r.offset and r.offset not in gone)
        ]

    async def check(self, gone_tombstones: Iterable[int] = ()) -> None:
        assert await self.read() == self.expected(gone_tombstones)
        headers = [header for header, _ in await self.batches()]
        ends = [header.last_offset for header in headers]
        assert ends == sorted(set(ends))
        for segment in self.driven.segments[:-1]:  # no offset is lost at a segment's end
            assert segment.next_offset - 1 in ends
        last = {h.producer_id: h for h in headers if h.producer_id >= 0}
        for producer_id, base in self.last_batches.items():
            assert last[producer_id].base_offset == base

    async def next_life(self) -> Keyed:
        driven = await self.driven.host.reopen(self.driven)
        return Keyed(driven, self.now_ms, self.records, self.last_batches)


async def keyed(path: Path, **fields: Any) -> Keyed:
    host = Host(path, segment_bytes=SEGMENT_BYTES, **fields)
    host.pool.load()
    return Keyed(await host.open())


async def some_keys(path: Path, seed: int = 1, count: int = 60, keys: int = 12) -> Keyed:
    """A log of several segments, batches of several records, few keys."""
    log, rng = await keyed(path), random.Random(seed)
    for i in range(count):
        pairs = [
            (b"k%d" % rng.randrange(keys), b"%d.%d" % (i, j)) for j in range(rng.randint(1, 5))
        ]
        await log.append(*pairs, compression=rng.choice([0, 0, 1, 2, 3, 4]))
    await log.roll()
    assert len(log.driven.segments) > 3
    return log


# --- what stays -----------------------------------------------------------------------------------


def test_the_newest_record_of_each_key_stays_where_it_was(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await some_keys(tmp_path)
        done = await log.compact()
        assert done is not None
        assert done.dropped == len(log.records) - len(log.expected())
        assert done.bytes_after < done.bytes_before
        await log.check()
        assert len(log.driven.segments) == 2  # what was left fits in one
        log = await log.next_life()
        await log.check()
        assert await log.compactor.dirty_offset() == log.clean_end
        assert not (await log.compactor.cleanable(CONFIG)).due
        await log.driven.close()

    drive(scenario())


ACTIONS = st.lists(
    st.one_of(
        st.lists(
            st.tuples(
                st.sampled_from([b"a", b"b", b"c", b"key of more than fifteen bytes", b""]),
                st.one_of(st.none(), st.binary(max_size=20), st.just(b"x" * BLOCK)),
            ),
            min_size=1,
            max_size=6,
        ),
        st.sampled_from(["compact", "crash", "roll", "later", "dense"]),
    ),
    min_size=4,
    max_size=24,
)


@given(ACTIONS, st.sampled_from([0, 1, 2, 3, 4]), st.sampled_from([-1, 7]))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_happens_the_newest_of_each_key_is_there(
    tmp_path_factory: pytest.TempPathFactory,
    actions: list[Any],
    compression: int,
    producer_id: int,
) -> None:
    """Values, offsets, order, producers, tombstones by their horizon; over crashes; idempotent."""

    async def scenario(path: Path) -> None:
        log, sequence = await keyed(path), 0
        # When each batch with tombstones got its horizon, by base offset.
        for action in actions:
            if isinstance(action, list):
                fields: dict[str, Any] = {"compression": compression}
                if producer_id >= 0:
                    fields |= {"producer_id": producer_id, "producer_epoch": 0}
                    fields |= {"base_sequence": sequence}
                    sequence += len(action)
                await log.append(*action, **fields)
            elif action == "compact":
                await log.compact()
            elif action == "crash":
                log = await log.next_life()
            elif action == "roll":
                await log.roll()
            elif action == "later":
                log.now_ms += CONFIG.delete_retention_ms // 2
            elif action == "dense":
                await log.driven.log.rewriter.rewrite_padded()
            await check_view(log)
        await log.roll()
        await log.roll()  # the first one may have begun the log
        await log.compact()
        gone = {r.offset for r in log.records} - {r.offset for r in await log.read()}
        tombstones = [r for r in log.records if r.offset in gone and r.value is None]
        newest = {r.key: r.offset for r in log.records if r.offset < log.clean_end}
        await log.check(r.offset for r in tombstones if newest[r.key] == r.offset)
        batches = await log.batches()
        log.compactor._dirty_offset = 0
        assert await log.compact() is not None  # at most segments are merged
        assert await log.batches() == batches, "compacting twice changes nothing"
        files = {s.path: s.path.read_bytes() for s in log.driven.segments[:-1]}
        log.compactor._dirty_offset = 0
        assert await log.compact() is not None
        assert {s.path: s.path.read_bytes() for s in log.driven.segments[:-1]} == files

    drive(scenario(tmp_path_factory.mktemp("log")))


async def check_view(log: Keyed) -> None:
    """At any time: what is there is in order and as it came, and ends in the newest values."""
    seen = await log.read()
    by_offset = {r.offset: r for r in log.records}
    assert [r.offset for r in seen] == sorted({r.offset for r in seen})
    assert all(by_offset[r.offset] == r for r in seen)
    view = {r.key: r.value for r in seen if r.value is not None}
    for r in seen:
        if r.value is None:
            view.pop(r.key, None)
    truth: dict[bytes | None, bytes | None] = {}
    shown: dict[bytes | None, bytes | None] = {}
    for r in log.records:
        truth[r.key] = r.value
    for r in seen:
        shown[r.key] = r.value
    assert {k: v for k, v in shown.items() if v is not None} == {
        k: v for k, v in truth.items() if v is not None
    }


def test_tombstones_stay_until_their_horizon(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await keyed(tmp_path)
        await log.append((b"a", b"1"), (b"b", b"1"))
        tombstone = await log.append((b"a", None), (b"c", b"1"))
        await log.roll()
        await log.compact()
        await log.check()
        (marked,) = [h for h, _ in await log.batches() if h.base_offset == tombstone]
        horizon_ms = NOW_MS + CONFIG.delete_retention_ms
        assert marked.delete_horizon_ms == horizon_ms
        for later_ms, gone in ((1, []), (CONFIG.delete_retention_ms, [tombstone])):
            log.now_ms = NOW_MS + later_ms
            log.compactor._dirty_offset = 0
            await log.compact()
            await log.check(gone)
            (marked,) = [h for h, _ in await log.batches() if h.base_offset == tombstone]
            assert marked.delete_horizon_ms == horizon_ms
        assert b"a" not in {r.key for r in await log.read()}

    drive(scenario())


def test_records_without_a_key_go(tmp_path: Path) -> None:
    """They came before the topic was compacted."""

    async def scenario() -> None:
        log = await keyed(tmp_path)
        await log.append((None, b"1"), (b"a", b"2"))
        await log.append((None, b"3"))
        await log.roll()
        await log.compact()
        await log.check()
        assert (await log.read())[0].value == b"2"

    drive(scenario())


def test_control_batches_and_what_cannot_be_read_stay(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await keyed(tmp_path)
        await log.append((b"a", b"old"))
        marker = build_batch([(b"\0\0\0\1", b"\0\0\0\0\0\0")], control=True, producer_id=9)
        control = await log.append_batch(marker)
        nonsense = build_batch([(b"a", b"newer")], compression=1)
        nonsense[61:] = bytes(len(nonsense) - 61)
        offset = log.driven.append_batch(nonsense, 1)
        await log.driven.durable()
        before = {s.base_offset: s.data for s in log.driven.appended}
        await log.append((b"a", b"new"))
        await log.roll()
        assert await log.compact() is not None
        log.driven.forget_cache()
        data = await log.driven.read_all()
        left = {
            h.base_offset: data[p : p + h.size_bytes] for p, h in iter_batches(data, 0, len(data))
        }
        assert left[control] == before[control]
        assert left[offset] == before[offset]
        assert 0 not in left

    drive(scenario())


def test_the_last_batch_of_a_producer_stays_without_records(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await keyed(tmp_path)
        for i in range(4):
            await log.append(
                (b"a", b"1"), (b"b", b"1"), producer_id=5, producer_epoch=2, base_sequence=2 * i
            )
        await log.append((b"a", b"2"), (b"b", b"2"))
        await log.roll()
        assert await log.compact() is not None
        await log.check()
        (last,) = [h for h, _ in await log.batches() if h.producer_id == 5]
        assert (last.record_count, last.base_sequence, last.last_offset_delta) == (0, 6, 1)
        assert last.producer_epoch == 2
        end = log.driven.log.log_end_offset
        found = await log.driven.log.offset_for_timestamp(last.max_timestamp, end)
        assert found is not None
        assert found[0] > last.last_offset, "a batch without records has no timestamp"
        del log.last_batches[5]  # the producer was forgotten
        log.compactor._dirty_offset = 0
        await log.compact()
        assert not [h for h, _ in await log.batches() if h.producer_id == 5]

    drive(scenario())


def test_batches_without_records_hide_no_timestamp(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await keyed(tmp_path)
        for producer_id in range(8):
            fields = {"producer_id": producer_id, "producer_epoch": 0, "base_sequence": 0}
            await log.append((b"a", b"%d" % producer_id), **fields)
        last = await log.append((b"a", b"the newest"))
        await log.roll()
        assert await log.compact() is not None
        headers = [header for header, _ in await log.batches()]
        assert [header.record_count for header in headers[:9]] == [0] * 8 + [1]
        end = log.driven.log.log_end_offset
        found = await log.driven.log.offset_for_timestamp(headers[0].max_timestamp, end)
        assert found == (last, headers[8].max_timestamp)

    drive(scenario())


async def two_large_segments(path: Path, *pairs: tuple[bytes, bytes | None]) -> Keyed:
    """Two sealed segments too large for one; the first ends with these pairs, a batch each."""
    log = await keyed(path)
    await log.append((b"large 1", b"x" * 14 * BLOCK))
    for pair in pairs:
        await log.append(pair)
    await log.append((b"large 2", b"x" * 14 * BLOCK))
    await log.roll()
    sealed = log.driven.log.rewriter.sealed()
    assert sealed[0].next_offset == 1 + len(pairs)
    return log


def test_a_segment_whose_last_batch_goes_ends_where_it_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await two_large_segments(tmp_path, (b"b", b"1"), (b"large 2", b"superseded"))
        assert await log.compact() is not None
        await log.check()
        first = log.driven.segments[0]
        assert first.next_offset == 3
        (last,) = [h for h, _ in await log.batches() if h.last_offset == 2]
        assert last.record_count == 0
        await (await log.next_life()).check()

    drive(scenario())


def test_a_segment_with_nothing_but_new_tombstones_to_mark_is_written_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await two_large_segments(tmp_path, (b"b", None))
        assert await log.compact() is not None
        horizons = [header.delete_horizon_ms for header, _ in await log.batches()]
        assert horizons[:2] == [None, NOW_MS + CONFIG.delete_retention_ms]
        assert [s.header.replaced is None for s in log.driven.segments] == [False, True, True]

    drive(scenario())


def test_a_fetch_in_a_gap_gets_the_batch_behind_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await some_keys(tmp_path)
        await log.compact()
        end = log.driven.log.durable_offset
        ends = [h.last_offset for h, _ in await log.batches()]
        for forget in (False, True):
            for offset in range(end):
                if forget:
                    log.driven.forget_cache()
                slices, next_offset = await log.driven.log.read(offset, end, 1)
                header = parse_header(slices[0])
                assert header.last_offset == min(last for last in ends if last >= offset)
                assert next_offset == header.last_offset + 1

    drive(scenario())


def test_log_append_time_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await keyed(tmp_path)
        for i in range(3):
            batch = build_batch([(b"a", b"%d" % i), (b"b%d" % i, None)], timestamp_ms=NOW_MS)
            set_log_append_time(batch, 0, len(batch), NOW_MS + 100 * i)
            await log.append_batch(batch)
        await log.roll()
        await log.compact()
        await log.check()
        headers = [h for h, _ in await log.batches()][:3]
        assert [h.max_timestamp for h in headers] == [NOW_MS, NOW_MS + 100, NOW_MS + 200]
        assert all(h.timestamp_type for h in headers)
        end = log.driven.log.log_end_offset
        found = await log.driven.log.offset_for_timestamp(NOW_MS, end)
        assert found == (1, NOW_MS)  # of the first record that is there

    drive(scenario())


def test_epochs_are_known_from_what_is_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await keyed(tmp_path)
        for epoch in range(1, 5):
            for _ in range(3):
                batch = build_batch([(b"a", b"%d" % epoch), (b"e%d" % epoch, b"")])
                await log.append_batch(batch, epoch)
        await log.roll()  # in an epoch that is older: it does not begin one
        await log.compact()
        for path in log.driven.log.directory.glob("*.checkpoint"):
            path.unlink()
        ends = [log.driven.log.end_offset_for_epoch(epoch) for epoch in range(1, 4)]
        log = await log.next_life()
        for epoch, (found, end) in enumerate(ends, 1):
            again, later_end = log.driven.log.end_offset_for_epoch(epoch)
            assert again == found
            assert end <= later_end < end + 6, "a client must not think that records were lost"

    drive(scenario())


# --- when -----------------------------------------------------------------------------------------


def test_the_dirty_share_decides_and_what_waits_too_long(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await some_keys(tmp_path)
        sealed = log.driven.log.rewriter.sealed()
        at = sealed[-1].base_offset
        everything = sum(s.write_pos for s in sealed)
        ratio = sealed[-1].write_pos / everything

        def look(**fields: Any) -> tuple[bool, int]:
            config = CompactionConfig(SEGMENT_BYTES, **fields)
            found = cleanable(sealed, at, config, NOW_MS)
            return found.due, len(found.segments)

        assert look(dirty_ratio_min=ratio) == (False, len(sealed))
        assert look(dirty_ratio_min=ratio - 0.01) == (True, len(sealed))
        assert look(dirty_ratio_min=1.0, lag_ms_max=0) == (False, len(sealed))
        log.now_ms += 10
        assert cleanable(
            sealed, at, CompactionConfig(SEGMENT_BYTES, 1.0, lag_ms_max=9), log.now_ms
        ).due
        assert look(dirty_ratio_min=0.0, lag_ms_min=10_000) == (False, len(sealed) - 1)
        assert not cleanable(sealed, sealed[-1].next_offset, CONFIG, NOW_MS).due

    drive(scenario())


def test_segments_are_merged_up_to_segment_bytes() -> None:
    assert grouped([], 100) == []
    assert grouped([40, 60, 1], 100) == [(0, 2), (2, 3)]
    assert grouped([200, 1, 99, 100], 100) == [(0, 1), (1, 3), (3, 4)]


def test_what_is_too_young_supersedes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await keyed(tmp_path)
        await log.append((b"a", b"old"))
        await log.roll()
        log.now_ms += 100_000
        await log.append((b"a", b"new"))
        await log.roll()
        config = CompactionConfig(SEGMENT_BYTES, 0.0, lag_ms_min=50_000)
        assert await log.compact(config) is not None
        assert [r.value for r in await log.read() if r.key == b"a"] == [b"old", b"new"]
        log.now_ms += 100_000
        assert await log.compact(config) is not None
        assert [r.value for r in await log.read() if r.key == b"a"] == [b"new"]

    drive(scenario())


# --- what goes wrong ------------------------------------------------------------------------------


def test_without_room_everything_stays_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        log = await some_keys(tmp_path)
        before = contents(log.driven.log.directory)

        def full(*_args: Any) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("os.pwritev", full)
            assert await log.compact() is None
        assert contents(log.driven.log.directory) == before
        assert "No space left" in log.driven.host.messages[-1]
        assert not log.driven.log.rewriter.may_try
        log.now_ms += 600_000
        assert await log.compact() is not None
        await log.check()

    drive(scenario())


def test_a_lost_dirty_offset_costs_another_cleaning(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = await some_keys(tmp_path)
        await log.compact()
        for path in log.driven.log.directory.glob("*.cleaned"):
            path.unlink()
        log = await log.next_life()
        assert await log.compactor.dirty_offset() == 0
        assert await log.compact() is not None
        await log.check()

    drive(scenario())
