"""The control channel between supervisor and shard: JSON messages over a stream socketpair.

Which process: both ends.  Frame: 4-byte big-endian length, then one JSON object in UTF-8.
Invariants: a frame is never longer than `frame_bytes_max`; the reader awaits only the socket,
the writer never awaits, so neither end can hold up the other's loop.

Shard to supervisor: hello, ready, alive, request, applied, snapshot_request, metrics, answer.
Supervisor to shard: snapshot, delta, serve, all_ready, reply, metrics_request, ask, stop.
"""

from __future__ import annotations

import asyncio
import json
import struct

from rpk_py.metadata.state import Json

_LENGTH = struct.Struct(">I")


class ChannelError(Exception):
    """The other end sent something that is not a message; a bug, the channel is unusable."""


def encode_message(message: Json) -> bytes:
    """One framed message."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


async def read_message(
    reader: asyncio.StreamReader, frame_bytes_max: int
) -> tuple[Json, int] | None:
    """The next message and its size in bytes, or None when the other end is gone.

    Raises: ChannelError  for a frame that is too long or not a JSON object
    """
    try:
        (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if size > frame_bytes_max:
            raise ChannelError(f"control message of {size} bytes, at most {frame_bytes_max}")
        body = await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or too deep
        raise ChannelError(f"control message is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ChannelError("control message is not an object")
    return message, size
