"""One connection of the command line to one broker: open, agree on versions, ask.

Which process: the operator's. A peer is not trusted: it may speak another protocol, lie about
sizes or answer what was not asked; all of that becomes one of the errors of this module, which say
what failed, where, and what to do.

Invariants: replies come in the order of the requests, so an asker reads its own reply when the ones
before it have been read; no task runs behind the asker's back. A connection on which anything went
wrong is closed, because nobody knows any more what its next bytes belong to.

Source: KIP-511 for how ApiVersions itself is negotiated.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, TypeVar

from kafka_protocol.api import SUPPORTED, ApiKey
from kafka_protocol.errors import DecodeError, ErrorCode
from kafka_protocol.frame import decode_response, encode_request
from kafka_protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from kafka_protocol.schema import info_of
from rpk_py import __version__

# A reply of records is as large as one batch at most above what was asked for.
REPLY_BYTES_MAX = 256 << 20
_READ_BYTES = 1 << 20

T = TypeVar("T")
_TLS_RECORDS = {0x14, 0x15, 0x16}  # change cipher spec, alert, handshake; a version 3.x follows


class ClientError(Exception):
    """Something that a person should know: what failed, where, and what to do."""

    exit_code = 1


class Unreachable(ClientError):
    """No broker answers, or the one that was asked has gone, or it speaks something else."""

    exit_code = 3


class Broken(Unreachable):
    """A broker says what cannot be: asking it again would not help."""

    exit_code = 1


class Refused(ClientError):
    """A broker answered with an error code."""

    def __init__(self, text: str, error_code: int, error_message: str | None = None) -> None:
        super().__init__(text)
        self.error_code = error_code
        self.error_message = error_message


class UnknownNode(Unreachable):
    """The metadata has no such node: there is one no more, or the person has mistyped its id."""

    exit_code = 1


class NotServed(ClientError):
    """The broker has no version of an API that we know as well."""


def error_name(error_code: int) -> str:
    """The name of an error code, or its number where it is newer than we are."""
    try:
        return ErrorCode(error_code).name
    except ValueError:
        return f"error code {error_code}"


def refused(
    what: str, error_code: int, message: str | None = None, hint: str | None = None
) -> Refused:
    """The error for a code in a reply: "<what>: <CODE>: <the broker's message> (<hint>)"."""
    text = f"{what}: {error_name(error_code)}"
    text += f": {message}" if message else ""
    text += f" ({hint})" if hint else ""
    return Refused(text, error_code, message)


class Link:
    """One connection; `versions` is what the broker serves: api key -> (lowest, highest)."""

    def __init__(
        self,
        address: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client_id: str,
    ) -> None:
        self.address = address
        self.versions: dict[int, tuple[int, int]] = {}
        self.api_versions: ApiVersionsResponse | None = None
        self._closed = False
        self._reader = reader
        self._writer = writer
        self._client_id = client_id
        self._correlation_id = 0
        self._turns = asyncio.Lock()  # fair, so askers read their replies in order

    @classmethod
    async def open(cls, host: str, port: int, client_id: str, timeout_s: float) -> Link:
        """Connect and agree on versions; Unreachable or NotServed if that fails in timeout_s."""
        address = address_text(host, port)
        link: Link | None = None
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(host, port, limit=_READ_BYTES)
                link = cls(address, reader, writer, client_id)
                await link._negotiate()
                return link
        except TimeoutError:
            what = "no answer to ApiVersions" if link else "no connection"
            hint = (
                "is it a Kafka broker, and not stuck?" if link else "does a firewall drop packets?"
            )
            if link:
                link.close()
            raise Unreachable(f"{address}: {what} within {timeout_s:g} s; {hint}") from None
        except UnicodeError:  # the codec of domain names: a label is empty, too long or no text
            raise Unreachable(f"{address}: this is no host name; check the spelling") from None
        except OSError as error:
            raise Unreachable(f"{address}: {connect_failure(error)}") from error
        except (OverflowError, ValueError) as error:  # a port, a name that no socket takes
            raise Broken(f"{address}: not an address to connect to: {error}") from error
        except BaseException:
            if link:
                link.close()
            raise

    @property
    def is_closed(self) -> bool:
        """Whether either side has closed it."""
        return self._closed or self._writer.is_closing() or self._reader.at_eof()

    async def ask(self, request: Any, timeout_s: float, version_max: int | None = None) -> Any:
        """Send a request in the highest version that both know, and return its reply.

        Askers may overlap: the requests leave in the order of the calls (pipelining).
        Raises NotServed (nothing was sent) and Unreachable (it may have been carried out).
        """
        return await self.ask_version(request, self.version_for(request, version_max), timeout_s)

    def version_for(self, request: Any, version_max: int | None = None) -> int:
        """The highest common version of a request's API; NotServed if there is none."""
        spec = SUPPORTED[info_of(type(request)).api_key]
        if spec.key not in self.versions:
            raise NotServed(f"{self.address}: the broker does not serve {spec.key.name}")
        low, high = self.versions[spec.key]
        version = min(high, spec.max_version)
        if version_max is not None:
            version = min(version, version_max)
        if version < max(low, spec.min_version):
            raise NotServed(
                f"{self.address}: the broker serves {spec.key.name} in versions {low} to {high}, "
                f"this client {spec.min_version} to {spec.max_version}"
            )
        return version

    async def ask_version(self, request: Any, version: int, timeout_s: float) -> Any:
        """Send a request in one version, whatever the broker says that it serves."""
        frame = await self._exchange(request, version, timeout_s)
        return self._decoded(info_of(type(request)).api_key, version, frame)

    def tell(self, request: Any, version_max: int | None = None) -> None:
        """Send a request that has no reply (Produce with acks=0)."""
        self._send(request, self.version_for(request, version_max))

    async def drain(self) -> None:
        """Wait until the kernel has all that was sent: back-pressure where no reply is.

        All of it, because what is still in the buffer at the command's end would be lost.
        """
        self._writer.transport.set_write_buffer_limits(high=0)
        try:
            await self._writer.drain()
        except OSError as error:
            self.close()
            raise Unreachable(f"{self.address}: the connection broke: {error}") from error

    def close(self) -> None:
        """Close the connection; whoever still waits for a reply gets Unreachable."""
        if not self._closed:
            self._closed = True
            self._writer.close()
            if not self._reader.at_eof():
                self._reader.feed_eof()

    # -- frames ----------------------------------------------------------------------------

    def _send(self, request: Any, version: int) -> int:
        if self.is_closed:
            raise Unreachable(f"{self.address}: the connection is closed")
        correlation_id = (self._correlation_id + 1) & 0x7FFF_FFFF
        try:
            frame = encode_request(request, version, correlation_id, self._client_id)
        except UnicodeEncodeError as error:
            raise ClientError(
                f"{error.object!r} is not UTF-8, as names and values of Kafka are"
            ) from None
        self._correlation_id = correlation_id
        self._writer.write(frame)
        return correlation_id

    async def _exchange(self, request: Any, version: int, timeout_s: float) -> memoryview:
        """Send, wait for the turn, and read the reply's frame; its correlation id is checked."""
        name = ApiKey(info_of(type(request)).api_key).name
        sent = self._send(request, version)
        try:
            async with asyncio.timeout(timeout_s), self._turns:
                frame = await self._receive(name)
        except TimeoutError:
            self.close()
            raise Unreachable(
                f"{self.address}: no answer to {name} within {timeout_s:g} s"
            ) from None
        except OSError as error:
            self.close()
            raise Unreachable(f"{self.address}: the connection broke: {error}") from error
        except BaseException:
            self.close()
            raise
        got = int.from_bytes(frame[:4], "big", signed=True)
        if got != sent:
            self.close()
            raise Broken(
                f"{self.address}: the broker broke the protocol: answer {got} where answer {sent} "
                f"to {name} is due"
            )
        return frame

    async def _receive(self, name: str) -> memoryview:
        """The next frame without its size; Unreachable says what came instead."""
        if self._closed:  # by another asker, whose reply may be half read
            raise Unreachable(
                f"{self.address}: the connection was closed before {name} was answered"
            )
        try:
            head = await self._reader.readexactly(4)
            size_bytes = int.from_bytes(head, "big", signed=True)
            if not 4 <= size_bytes <= REPLY_BYTES_MAX:
                raise Unreachable(f"{self.address}: {_not_kafka(head, size_bytes)}")
            return memoryview(await self._reader.readexactly(size_bytes))
        except asyncio.IncompleteReadError as error:
            where = (
                f"inside the answer to {name}" if error.partial else f"instead of answering {name}"
            )
            raise Unreachable(
                f"{self.address}: the connection was closed {where}"
                + self._closed_hint(error.partial)
            ) from None

    def _closed_hint(self, partial: bytes) -> str:
        if self.versions:
            return ""
        if partial and partial[0] in _TLS_RECORDS:
            return _TLS_HINT
        return "; is it a Kafka broker? A listener for TLS or SASL closes like this as well"

    def _decoded(self, api_key: int, version: int, frame: memoryview) -> Any:
        try:
            return decode_response(api_key, version, frame)[1]
        except DecodeError as error:
            self.close()
            name = ApiKey(api_key).name
            raise Broken(
                f"{self.address}: the broker broke the protocol: its answer to {name} v{version} "
                f"cannot be read: {error.reason}"
            ) from error

    async def _negotiate(self) -> None:
        """Ask for the broker's versions, in the highest version of asking that it knows."""
        software_version = __version__.replace("+", "-")
        request = ApiVersionsRequest("rpk-py", software_version)
        version = SUPPORTED[ApiKey.API_VERSIONS].max_version
        no_limit = 3600.0  # the caller's timeout counts
        frame = await self._exchange(request, version, no_limit)
        if frame[4:6] == int(ErrorCode.UNSUPPORTED_VERSION).to_bytes(2, "big"):
            # Such an answer is of version 0 and may name the versions of ApiVersions itself.
            answer = self._decoded(ApiKey.API_VERSIONS, 0, frame)
            version = next(
                (
                    min(each.max_version, version)
                    for each in answer.api_keys
                    if each.api_key == ApiKey.API_VERSIONS
                ),
                0,
            )
            frame = await self._exchange(request, max(version, 0), no_limit)
        answer = self._decoded(ApiKey.API_VERSIONS, max(version, 0), frame)
        if answer.error_code:
            raise refused(f"{self.address}: ApiVersions", answer.error_code)
        self.api_versions = answer
        self.versions = {
            each.api_key: (each.min_version, each.max_version) for each in answer.api_keys
        }


_TLS_HINT = "; it speaks TLS, this client does not: use a plaintext listener"


def _not_kafka(head: bytes, size_bytes: int) -> str:
    if head == b"HTTP":
        return "an HTTP server answered, not a Kafka broker; is it the admin port?"
    if head[0] in _TLS_RECORDS and head[1] == 3:
        return "the answer is TLS" + _TLS_HINT
    if head.isascii() and head.decode().isprintable():
        return f"the answer begins with {head.decode()!r}: this is not a Kafka broker"
    if size_bytes > REPLY_BYTES_MAX:
        return (
            f"the answer says that it has {size_bytes} bytes, {REPLY_BYTES_MAX} are allowed; "
            "is it a Kafka broker?"
        )
    return f"the answer says that it has {size_bytes} bytes: this is not a Kafka broker"


def connect_failure(error: OSError) -> str:
    """Why a connection could not be made, and what to look at."""
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve ({error.strerror}); check the spelling and DNS"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; does a broker run there, on this port?"
    if isinstance(error, ConnectionResetError):
        return "connection reset"
    text = error.strerror or str(error)
    if isinstance(error, OSError) and "Multiple exceptions" in text and "refused" in text:
        return "connection refused; does a broker run there, on this port?"
    return text[:1].lower() + text[1:]


def only(answers: Sequence[T], name: str) -> T:
    """The one result of a request about one thing; Unreachable if there are others or none."""
    if len(answers) != 1:
        text = f"its answer to {name} has {len(answers)} results where 1 is due"
        raise Unreachable(f"the broker broke the protocol: {text}")
    return answers[0]


def address_text(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
