"""How large a frame may be, from its first bytes on: asked before any memory goes into it.

Which process: a shard.  Pure.
"""

from __future__ import annotations

from typing import Final

from kafka_protocol.api import request_bytes_max

SIZE_BYTES: Final = 4
API_KEY_BYTES: Final = 2
API_KEY_END: Final = SIZE_BYTES + API_KEY_BYTES
FRAME_BYTES_MIN: Final = 8  # api key, version, correlation id
BUFFER_BYTES_MIN: Final = 4096
BUFFER_GROWTH: Final = 4  # a partial frame's buffer grows with what arrived, not as announced


def frame_bytes_max(start: memoryview, limit: int) -> int:
    """The largest that the frame which begins with `start` may be: records alone may be large."""
    if len(start) >= API_KEY_END:
        api_key = int.from_bytes(start[SIZE_BYTES:API_KEY_END], "big", signed=True)
        limit = min(limit, request_bytes_max(api_key) or limit)
    return limit


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
