"""A partition's checkpoint: a checksummed snapshot of what a scan of the log would rebuild.

Written at each roll, each `checkpoint_bytes` of appends and at a clean close, to
`<next_offset, 20 digits>.checkpoint` (a new file, synced, renamed, directory synced); the newest
two are kept, so that a damaged one costs a longer scan and nothing else. It is written only
after everything before `pos` is durable: recovery starts its scan there, and anything missing
before it is damage and not a torn tail.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from kafka_protocol.checksum import crc32c
from storage.index import ENTRY_BYTES

_MAGIC = b"RPKC"
_VERSION = 1
# magic, version, flags (0), segment base offset, incarnation, pos, previous header CRC,
# next offset, log start offset, high watermark, epochs, bytes of index, bytes of producer state
_HEAD = struct.Struct(">4sHHqQQIqqqIII")
_EPOCH = struct.Struct(">iq")


@dataclass(slots=True)
class Checkpoint:
    """Everything before (`segment_base_offset`, `pos`) in one place.

    `next_offset` is the offset of the record that starts at `pos`; `epochs` are
    (leader_epoch, start_offset), ascending; `index` holds the entries of the segment's index before
    `pos` (SegmentIndex.encode_entries); `state` is the owner's opaque producer state.
    """

    segment_base_offset: int
    incarnation: int
    pos: int
    prev_header_crc: int
    next_offset: int
    log_start_offset: int = 0
    high_watermark: int = 0
    epochs: list[tuple[int, int]] = field(default_factory=list)
    index: bytes = b""
    state: bytes = b""

    def encode(self) -> bytes:
        """The file's bytes, CRC-32C last."""
        head = _HEAD.pack(
            _MAGIC, _VERSION, 0, self.segment_base_offset, self.incarnation, self.pos,
            self.prev_header_crc, self.next_offset, self.log_start_offset, self.high_watermark,
            len(self.epochs), len(self.index), len(self.state),
        )  # fmt: skip
        epochs = b"".join(_EPOCH.pack(*entry) for entry in self.epochs)
        body = b"".join((head, epochs, self.index, self.state))
        return body + struct.pack(">I", crc32c(body))


def decode_checkpoint(data: bytes) -> Checkpoint | None:
    """The checkpoint in `data`, or None where it is damaged or of another format."""
    if len(data) < _HEAD.size + 4 or crc32c(data[:-4]) != int.from_bytes(data[-4:], "big"):
        return None
    (
        magic, version, _flags, segment_base_offset, incarnation, pos, prev_header_crc,
        next_offset, log_start_offset, high_watermark, epoch_count, index_bytes, state_bytes,
    ) = _HEAD.unpack_from(data)  # fmt: skip
    epochs_end = _HEAD.size + _EPOCH.size * epoch_count
    index_end = epochs_end + index_bytes
    if index_bytes % ENTRY_BYTES:
        return None
    if magic != _MAGIC or version != _VERSION or len(data) != index_end + state_bytes + 4:
        return None
    epochs = [(epoch, start) for epoch, start in _EPOCH.iter_unpack(data[_HEAD.size : epochs_end])]
    return Checkpoint(
        segment_base_offset, incarnation, pos, prev_header_crc, next_offset, log_start_offset,
        high_watermark, epochs, data[epochs_end:index_end], data[index_end:-4],
    )  # fmt: skip
