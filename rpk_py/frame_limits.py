"""How large a frame may be, from its first bytes on, and the memory that it arrives in.

Which process: a shard.
"""

from __future__ import annotations

import mmap
from struct import Struct
from typing import Final

from kafka_protocol.api import request_bytes_max
from kafka_protocol.api_key import ApiKey

SIZE_BYTES: Final = 4
API_KEY_BYTES: Final = 2
API_KEY_END: Final = SIZE_BYTES + API_KEY_BYTES
PRODUCE_KEY: Final = int(ApiKey.PRODUCE).to_bytes(API_KEY_BYTES, "big")
SMALL_BYTES_MAX: Final = 4096
FRAME_BYTES_MIN: Final = 8  # api key, version, correlation id
BUFFER_BYTES_MIN: Final = 4096
MAPPED_BYTES_MIN: Final = 2 << 20  # beyond common requests, for which malloc is faster
READ_BYTES: Final = 256 << 10  # of a large frame in one read, after which others go first
READ_BYTES_MAX: Final = 1 << 20  # one read: about half a millisecond of copying
BUFFER_GROWTH: Final = 4  # a partial frame's buffer grows with what arrived, not as announced

read_size: Final = Struct(">i").unpack_from  # (size,) of the frame at a position


def frame_bytes_max(start: memoryview, limit: int) -> int:
    """The largest that the frame which begins with `start` may be: records alone may be large."""
    if len(start) >= API_KEY_END:
        api_key = int.from_bytes(start[SIZE_BYTES:API_KEY_END], "big", signed=True)
        limit = min(limit, request_bytes_max(api_key) or limit)
    return limit


def is_small(data: memoryview, pos: int) -> bool:
    """Whether the frame that begins at `pos` holds next to nothing: neither records nor much else.
    True as well where not enough of it has arrived to tell."""
    key_pos = pos + SIZE_BYTES
    if len(data) < key_pos + API_KEY_BYTES:
        return True
    is_produce = data[key_pos : key_pos + API_KEY_BYTES] == PRODUCE_KEY
    return not is_produce and read_size(data, pos)[0] <= SMALL_BYTES_MAX


def buffer_bytes(start: memoryview, limit: int) -> int:
    """Room for a frame of which `start` has arrived: more than that, and no more than it has.

    An impossible size is refused when its turn comes, and no memory goes into it.
    """
    arrived = len(start)
    room = max(BUFFER_GROWTH * arrived, BUFFER_BYTES_MIN)
    if arrived >= SIZE_BYTES:
        size = int.from_bytes(start[:SIZE_BYTES], "big", signed=True)
        if 0 < size <= frame_bytes_max(start, limit):
            room = min(SIZE_BYTES + size, room)
    return max(arrived + 1, room)


def new_buffer(size_bytes: int) -> memoryview:
    """Memory for a frame that arrives in parts.

    Large ones are mapped: a page costs nothing before bytes arrive for it, where a bytearray would
    be filled with zeros at once, and the kernel has all of it back at the end.
    """
    if size_bytes < MAPPED_BYTES_MIN:
        return memoryview(bytearray(size_bytes))
    return memoryview(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
