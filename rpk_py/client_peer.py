"""Who is at the other end of a connection: its address, what it says it is, what the log calls it.

Which process: a shard.  What a client says about itself is text of its own choice: it is cut before
it is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from kafka_protocol.api_key import ApiKey
from kafka_protocol.frame import RequestHeader
from rpk_py.context import COUNT_THEIR_ERRORS, Broker, RequestContext
from rpk_py.response_errors import located_errors

LOGGED_CHARS_MAX: Final = 200  # of a name that the client made up
LOGGED_ERRORS_MAX: Final = 5  # of one response


class ClientPeer:
    """One client. `name` is its address with its port; `file_number` that of its socket among the
    open files, -1 where there is none."""

    __slots__ = (
        "_broker",
        "_context",
        "_local",
        "address",
        "client_id",
        "file_number",
        "name",
        "software",
    )

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._context: RequestContext | None = None
        self._local = ("", 0)
        self.address = self.name = "?"
        self.client_id: str | None = None
        self.file_number = -1
        self.software: str | None = None  # what it said it is, with its version

    def connected(self, transport: asyncio.BaseTransport) -> None:
        """Take its address, and the one it came to."""
        peer = transport.get_extra_info("peername")
        if peer:
            self.address, self.name = peer[0], f"{peer[0]}:{peer[1]}"
        local = transport.get_extra_info("sockname")
        self._local = (local[0], local[1])
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self.file_number = sock.fileno()

    def context(self, header: RequestHeader, request: Any) -> RequestContext:
        """The context of a request; that of the one before serves where nothing differs."""
        known = self._context
        version, client_id = header.api_version, header.client_id
        if known is None or known.api_version != version or known.client_id != client_id:
            if header.api_key == ApiKey.API_VERSIONS and request.client_software_name:
                software = f"{request.client_software_name} {request.client_software_version}"
                self.software = software[:LOGGED_CHARS_MAX]
            self.client_id = client_id
            known = RequestContext(self._broker, version, client_id, *self._local, self.name)
            self._context = known
        return known

    def warn(self, event: str, **facts: Any) -> None:
        """Log what is wrong with this client, unless there are too many such lines.

        event  one of a fixed set of names; what differs is in the facts
        """
        self._broker.warn_of(self.name, event, **self._told(), **facts)

    def failed(self, header: RequestHeader, error: BaseException) -> None:
        """Log that a request of it met a bug of ours."""
        broker, event = self._broker, "request failed"
        suppressed = broker.log_limit.admit(event, self.address, broker.clock_s())
        if suppressed is not None:
            broker.log.error(
                "request failed",
                api_key=header.api_key,
                api_version=header.api_version,
                peer=self.name,
                **self._told(),
                suppressed=suppressed,
                exc_info=error,
            )

    def debug(self, event: str, **facts: Any) -> None:
        """Log what it does, where debug events are written."""
        if self._broker.log.debugs:
            self._broker.debug_of(self.name, event, **self._told(), **facts)

    def answered_with(self, header: RequestHeader, codes: Sequence[int], response: Any) -> None:
        """Count the error codes of a response, unless its handler has; tell who debugs."""
        broker = self._broker
        if header.api_key not in COUNT_THEIR_ERRORS:
            for code in codes:
                broker.metrics.count_error(header.api_key, code)
        if broker.log.debugs:
            self.debug(
                "a request is answered with errors",
                api=ApiKey(header.api_key).name,
                api_version=header.api_version,
                errors=located_errors(response, LOGGED_ERRORS_MAX),
                errors_count=len(codes),
            )

    def _told(self) -> dict[str, str | None]:
        """What it says it is."""
        client_id = self.client_id and self.client_id[:LOGGED_CHARS_MAX]
        return {"client_id": client_id, "software": self.software}
