"""The sparse offset and time index of one segment.

One entry covers the records that start in about INDEX_INTERVAL_BYTES of the file: the base
offset and position of its first record and the largest timestamp in it. A lookup gives the
position from which record headers are walked, which one cold read covers. The shard that owns
the segment appends to it; a sealed segment saves it beside the `.wal` file, and a missing or bad
index file is rebuilt from the records.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from itertools import islice

from kafka_protocol.checksum import crc32c
from storage.wal_format import SegmentHeader

INDEX_INTERVAL_BYTES = 64 * 1024
_MAGIC = b"RPKI"
_VERSION = 1
# magic, version, incarnation, base offset, end pos, next offset, last header CRC, entries
_HEAD = struct.Struct(">4sHQqQqII")
_ENTRY = struct.Struct(">qqq")  # base offset, position, max timestamp
ENTRY_BYTES = _ENTRY.size


class SegmentIndex:
    """Base offsets, positions and maximal timestamps, one entry per INDEX_INTERVAL_BYTES."""

    __slots__ = ("base_offsets", "max_timestamps", "positions")

    def __init__(self) -> None:
        self.base_offsets = array("q")
        self.positions = array("q")
        self.max_timestamps = array("q")

    def append(self, base_offset: int, pos: int, max_timestamp: int) -> None:
        """Note a record that starts at `pos`; records come in order."""
        positions = self.positions
        if not positions or pos - positions[-1] >= INDEX_INTERVAL_BYTES:
            self.base_offsets.append(base_offset)
            positions.append(pos)
            self.max_timestamps.append(max_timestamp)
        elif max_timestamp > self.max_timestamps[-1]:
            self.max_timestamps[-1] = max_timestamp

    def pos_for_offset(self, offset: int) -> int | None:
        """Position of a record at or before the one that holds `offset`; None where all are
        after it."""
        i = bisect_right(self.base_offsets, offset) - 1
        return self.positions[i] if i >= 0 else None

    def record_at(self, pos: int, limit_pos: int) -> tuple[int, int] | None:
        """Where a record starts: position and offset of the last one known in (pos, limit_pos],
        else of the first one behind; None where none is known behind `pos`."""
        positions = self.positions
        i = bisect_right(positions, limit_pos) - 1
        if i < 0 or positions[i] <= pos:
            i += 1
        return (positions[i], self.base_offsets[i]) if i < len(positions) else None

    def entry_for_timestamp(self, timestamp: int, start: int = 0) -> int | None:
        """The first entry from `start` on that holds a timestamp >= `timestamp`.

        Linear, because timestamps need not be in order (a producer sets them).
        """
        for i in range(start, len(self.max_timestamps)):
            if self.max_timestamps[i] >= timestamp:
                return i
        return None

    @property
    def max_timestamp(self) -> int:
        """The largest timestamp in the segment, -1 where it is empty."""
        return max(self.max_timestamps, default=-1)

    def encode(self, header: SegmentHeader, end_pos: int, next_offset: int, crc: int) -> bytes:
        """The index file of a sealed segment that ends at `end_pos` with `next_offset`.

        `crc` is the header CRC of its last record: the chain goes on from it.
        """
        entries = self.encode_entries()
        head = _HEAD.pack(
            _MAGIC, _VERSION, header.incarnation, header.base_offset, end_pos, next_offset, crc,
            len(entries) // _ENTRY.size,
        )  # fmt: skip
        return head + entries + struct.pack(">I", crc32c(head + entries))

    def encode_entries(self, end_pos: int | None = None) -> bytes:
        """The entries, or those of records before `end_pos`, as bytes for `from_entries`."""
        count = len(self.positions) if end_pos is None else bisect_left(self.positions, end_pos)
        columns = zip(self.base_offsets, self.positions, self.max_timestamps, strict=True)
        return b"".join(_ENTRY.pack(*entry) for entry in islice(columns, count))

    @classmethod
    def from_entries(cls, data: bytes) -> SegmentIndex:
        """The index whose entries are `data`, a whole number of them."""
        index = cls()
        for base_offset, pos, max_timestamp in _ENTRY.iter_unpack(data):
            index.base_offsets.append(base_offset)
            index.positions.append(pos)
            index.max_timestamps.append(max_timestamp)
        return index


class SealedIndex:
    """What an index file says: the index and where its segment ends."""

    __slots__ = ("end_pos", "index", "last_header_crc", "next_offset")

    def __init__(self, index: SegmentIndex, end_pos: int, next_offset: int, crc: int) -> None:
        self.index = index
        self.end_pos = end_pos
        self.next_offset = next_offset
        self.last_header_crc = crc


def decode_index(data: bytes, header: SegmentHeader) -> SealedIndex | None:
    """The index in `data`; None where it is damaged or belongs to another file."""
    if len(data) < _HEAD.size + 4 or crc32c(data[:-4]) != int.from_bytes(data[-4:], "big"):
        return None
    magic, version, incarnation, base_offset, end_pos, next_offset, crc, count = _HEAD.unpack_from(
        data
    )
    if magic != _MAGIC or version != _VERSION or incarnation != header.incarnation:
        return None
    if base_offset != header.base_offset or len(data) != _HEAD.size + _ENTRY.size * count + 4:
        return None
    index = SegmentIndex.from_entries(data[_HEAD.size : -4])
    return SealedIndex(index, end_pos, next_offset, crc)
