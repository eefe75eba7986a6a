"""One TCP connection to one listener of a Kafka node, for commands that care which one it is.

Which process: a client command. Invariants: one request at a time; a frame is bounded; whatever
goes wrong is a NodeError whose `kind` says at which step; after one the connection is of no use.
Source: version negotiation as in KIP-511: a node that does not know our version of ApiVersions
answers with error 35 in the layout of version 0.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, Literal, TypeAlias

from kafka_protocol.api import SUPPORTED
from kafka_protocol.api_key import ApiKey
from kafka_protocol.errors import DecodeError, ErrorCode
from kafka_protocol.frame import decode_response, encode_request
from kafka_protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from kafka_protocol.schema import info_of
from rpk_py import __version__

FRAME_BYTES_MAX = 128 << 20
_CLIENT_ID = "rpk-py"
_API_VERSIONS = 3  # the newest that brokers of today all know; older ones say that they do not

# refused, unreachable: by the machine or the network; silent: nothing within the time; closed: by
# the node; strange: what came is not Kafka's protocol; unserved: no version of an API in common
Kind: TypeAlias = Literal["refused", "unreachable", "silent", "closed", "strange", "unserved"]


class NodeError(Exception):
    """A step of the conversation failed; `received` is what came instead, where that is told."""

    def __init__(self, kind: Kind, reason: str, received: bytes = b"") -> None:
        super().__init__(reason)
        self.kind = kind
        self.received = received


class NodeConnection:
    """See the module.  Made by `connect`; close it with `close`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout_s = timeout_s
        self._peer: tuple[str, int] = writer.get_extra_info("peername")[:2]
        self._correlation_id = 0
        self._served: dict[int, tuple[int, int]] = {}  # by `negotiate`

    @property
    def peer(self) -> tuple[str, int]:
        """The IP address and port at the other end."""
        return self._peer

    def close(self) -> None:
        self._writer.close()

    async def negotiate(self) -> int:
        """Ask which APIs the node serves.  Returns their number.  Raises NodeError."""
        request = ApiVersionsRequest(_CLIENT_ID, __version__)
        frame = await self._exchange(request, _API_VERSIONS)
        unknown = frame[4:6] == ErrorCode.UNSUPPORTED_VERSION.to_bytes(2, "big")
        answer: ApiVersionsResponse = self._decode(ApiKey.API_VERSIONS, 0 if unknown else 3, frame)
        if answer.error_code and not unknown:
            raise NodeError("strange", f"it answers {ErrorCode(answer.error_code).name}")
        self._served = {api.api_key: (api.min_version, api.max_version) for api in answer.api_keys}
        return len(self._served)

    async def ask(self, request: Any, timeout_s: float | None = None) -> Any:
        """Send a request in the highest version that both know.  Returns the answer.

        Raises: NodeError
        """
        spec = SUPPORTED[info_of(type(request)).api_key]
        lowest, highest = self._served.get(spec.key, (0, -1))
        version = min(highest, spec.max_version)
        if version < max(lowest, spec.min_version):
            raise NodeError("unserved", f"it serves no version of {spec.key.name} that we know")
        return self._decode(spec.key, version, await self._exchange(request, version, timeout_s))

    def _decode(self, api_key: int, version: int, frame: memoryview) -> Any:
        try:
            correlation_id, answer = decode_response(api_key, version, frame)
        except DecodeError as error:
            reason = f"its answer is not what Kafka answers: {error.reason}"
            raise NodeError("strange", reason, bytes(frame[:64])) from None
        if correlation_id != self._correlation_id:
            raise NodeError("strange", "it answers something that was not asked")
        return answer

    async def _exchange(
        self, request: Any, version: int, timeout_s: float | None = None
    ) -> memoryview:
        self._correlation_id += 1
        limit_s = timeout_s or self._timeout_s
        head = b""
        try:
            async with asyncio.timeout(limit_s):
                data = encode_request(request, version, self._correlation_id, _CLIENT_ID)
                self._writer.write(data)
                head = await self._reader.read(4)
                while 0 < len(head) < 4 and (more := await self._reader.read(4 - len(head))):
                    head += more
                if len(head) < 4:
                    raise NodeError("closed", "it closes the connection instead of answering", head)
                size = int.from_bytes(head, "big", signed=True)
                if not 4 <= size <= FRAME_BYTES_MAX:
                    received = head + await self._rest()
                    raise NodeError("strange", "its answer is not Kafka's protocol", received)
                return memoryview(await self._reader.readexactly(size))
        except TimeoutError:
            raise NodeError("silent", f"no answer within {limit_s:g} s", head) from None
        except (OSError, asyncio.IncompleteReadError):
            reason = "it closes the connection instead of answering"
            raise NodeError("closed", reason, head) from None

    async def _rest(self) -> bytes:
        """What more has come, for telling who this is."""
        try:
            async with asyncio.timeout(0.2):
                return await self._reader.read(256)
        except (TimeoutError, OSError):
            return b""


async def connect(host: str, port: int, timeout_s: float) -> NodeConnection:
    """Connect to an IP address.  Raises NodeError: refused, unreachable or silent."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        raise NodeError("silent", f"no connection within {timeout_s:g} s") from None
    except ConnectionRefusedError:
        raise NodeError("refused", "connection refused") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise NodeError("unreachable", reason) from None
    return NodeConnection(reader, writer, timeout_s)


async def resolve(host: str) -> list[str]:
    """All IP addresses of a name, in the order in which clients try them.

    Raises: NodeError  unreachable: it has none
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NodeError("unreachable", reason) from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def first_bytes(host: str, port: int, said: bytes, timeout_s: float) -> bytes:
    """What a listener answers to some bytes; empty where it says nothing or cannot be asked."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(said)
                return await reader.read(64)
            finally:
                writer.close()
    except (TimeoutError, OSError):
        return b""
