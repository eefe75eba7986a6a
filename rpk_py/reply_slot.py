"""A request's place in the order of its connection's replies.

Which process: a shard; one object a request, so it has slots and no behaviour to speak of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kafka_protocol.frame import RequestHeader, encode_response
from rpk_py.pending import Pending
from rpk_py.response_errors import error_codes

if TYPE_CHECKING:
    from rpk_py.connection import Connection


class Slot:
    """One request's place in the order of replies."""

    __slots__ = (
        "connection",
        "header",
        "parts",
        "pending",
        "ready",
        "replies",
        "size_bytes",
        "started_s",
    )

    def __init__(
        self, connection: Connection, header: RequestHeader, replies: bool, started_s: float
    ) -> None:
        self.connection = connection
        self.header = header  # of a large request, what is known before it is decoded
        self.started_s = started_s  # later by what the client asked it to wait
        self.size_bytes = 0
        self.replies = replies
        self.ready = False
        self.parts: list[Any] = []
        self.pending: Pending | None = None

    def complete(self, response: Any) -> None:
        """The response is known: encode it and let it leave when its turn comes."""
        assert self.pending is not None
        self.started_s += self.pending.waited_s
        self.connection.slot_ready(self, response)


def encode_reply(header: RequestHeader, response: Any) -> tuple[list[Any], list[int]]:
    """The buffers of a response, and the error codes in it. Pure: may run beside the loop."""
    parts = encode_response(header.api_key, header.api_version, header.correlation_id, response)
    return parts, error_codes(response)
