"""One client connection: bytes -> frames -> handlers -> replies in request order.

Frames are parsed in place. A connection without a partial frame reads into the shard's scratch
buffer and holds no memory of its own; a partial frame moves to a buffer of the connection. What a
handler is given is valid until its first await.

Order and limits:
- replies leave in request order, each in the slot that its request took;
- one request at a time, as in Kafka: the next one waits until the reply before it was sent, so a
  peer that pipelines cannot hold the loop; produce requests alone go on, since their order is
  fixed when they are enqueued;
- reading pauses while the connection, or the shard, has too many request bytes unanswered, and
  while the client does not take its replies. Nothing queues without a bound.

A peer that breaks the protocol is closed, with a log line that says who and why.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from functools import partial
from typing import Any, Final

from kafka_protocol.api import request_bytes_max
from kafka_protocol.api_key import ApiKey
from kafka_protocol.errors import DecodeError, UnsupportedVersion
from kafka_protocol.frame import RequestHeader, decode_request, encode_response
from rpk_py.context import Broker, RequestContext
from rpk_py.handlers import HANDLERS
from rpk_py.handlers.api_versions import error_response
from rpk_py.pending import Pending
from rpk_py.response_errors import error_codes

SIZE_BYTES: Final = 4
API_KEY_END: Final = 6
FRAME_BYTES_MIN: Final = 8  # api key, version, correlation id
BUFFER_BYTES_MIN: Final = 4096
BUFFER_GROWTH: Final = 4  # a partial frame's buffer grows with what arrived, not as announced
REQUEST_OVERHEAD_BYTES: Final = 1024  # what an unanswered request holds beside its frame, about
WRITE_HIGH_BYTES: Final = 1 << 20  # unsent replies beyond which the connection is not read
WRITE_LOW_BYTES: Final = 256 << 10
_COUNT_THEIR_ERRORS: Final = frozenset({ApiKey.PRODUCE, ApiKey.FETCH})  # where they arise


class _Slot:
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
        self.header = header
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


class Connection(asyncio.BufferedProtocol):
    """The protocol object of one accepted socket. Home shard only."""

    __slots__ = (
        "_active",
        "_blocking",
        "_broker",
        "_buffer",
        "_context",
        "_ending",
        "_filled",
        "_flush_scheduled",
        "_inflight_bytes",
        "_paused_reading",
        "_scratch",
        "_server",
        "_slots",
        "_start",
        "_task",
        "_transport",
        "_unsent_before",
        "_unsent_bytes",
        "_waits_for_flush",
        "_writing_paused",
        "client_id",
        "closing",
        "local",
        "peer",
    )

    def __init__(self, broker: Broker, scratch: memoryview, server: Any) -> None:
        self._broker = broker
        self._scratch = scratch
        self._server = server
        self._transport: Any = None
        self._buffer: memoryview | None = None  # frames from _start to _filled wait in it
        self._start = 0
        self._filled = 0
        self._slots: deque[_Slot] = deque()
        self._blocking: _Slot | None = None  # the next request waits for this one's response
        self._waits_for_flush = False  # the next request waits until a ready reply was sent
        self._active = True  # something was read or sent since `moved` was asked
        self._unsent_before = 0
        self._ending = False  # no further request is handled; closed after the last reply
        self._paused_reading = False
        self._writing_paused = False
        self._flush_scheduled = False
        self._inflight_bytes = 0
        self._unsent_bytes = 0
        self._task: asyncio.Future[Any] | None = None
        self._context: RequestContext | None = None
        self.client_id: str | None = None
        self.closing = False
        self.peer = "?"
        self.local: tuple[str, int] = ("", 0)

    # -- asyncio's side --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or close it at the shard's limit."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if peer else "?"
        local = transport.get_extra_info("sockname")
        self.local = (local[0], local[1])
        if not self._server.admit(self):
            self.closing = True
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: behind a partial frame, or into the shard's scratch."""
        if self._buffer is None:
            return self._scratch
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` more have arrived: handle every whole frame that may be handled now."""
        self._broker.metrics.received_bytes += nbytes
        self._active = True
        if self._buffer is not None:
            self._filled += nbytes
            self._handle_buffered()
        elif not self._ending:
            data = self._scratch[:nbytes]
            consumed = self._handle_frames(data)
            if consumed < nbytes and not self.closing:
                self._keep(data[consumed:])

    def eof_received(self) -> bool:
        """The client sends no more: close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client; requests that it left behind finish without it."""
        self.closing = True
        self._server.forget(self)
        self._broker.paused.pop(self, None)
        self._broker.unsent_bytes -= self._unsent_bytes
        self._unsent_bytes = 0
        self._set_buffer(None)
        for slot in self._slots:
            # What is being written stays in flight until it is durable; nothing else goes on.
            if slot.pending is None or slot.ready:
                self._release(slot)
            elif not slot.pending.pipelined:
                slot.pending.cancel()
                self._release(slot)
        self._slots.clear()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """The client does not take its replies: read no more requests."""
        self._writing_paused = True
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._broker.unsent_bytes += self._unsent_bytes

    def resume_writing(self) -> None:
        """The client took its replies: go on."""
        self._writing_paused = False
        self._broker.unsent_bytes -= self._unsent_bytes
        self._unsent_bytes = 0
        self.resume()

    # -- frames ----------------------------------------------------------------------------

    def _handle_frames(self, data: memoryview) -> int:
        """Handle the whole frames at the start of `data`; returns how many bytes they had."""
        pos, end = 0, len(data)
        frame_bytes_max = self._broker.config.frame_bytes_max
        while end - pos >= SIZE_BYTES and not self._must_wait():
            size = int.from_bytes(data[pos : pos + SIZE_BYTES], "big", signed=True)
            frame_pos = pos + SIZE_BYTES
            whole = end - frame_pos >= size  # decode_request looks at the limit of its API
            bytes_max = frame_bytes_max if whole else self._frame_bytes_max(data[pos:end])
            if not FRAME_BYTES_MIN <= size <= bytes_max:
                self._refuse_size(size, data[pos:end])
                return end
            if not whole:
                break
            pos = frame_pos + size
            self._handle_frame(data[frame_pos:pos], size)
            if self.closing or self._ending:
                return end
        return pos

    def _handle_buffered(self) -> None:
        """Handle the frames in the connection's own buffer and keep what is left."""
        buffer = self._buffer
        assert buffer is not None
        self._start += self._handle_frames(buffer[self._start : self._filled])
        if self.closing:
            return
        if self._start >= self._filled or self._ending:
            self._set_buffer(None)
        elif self._must_wait():
            self._pause_reading()
        elif self._filled == len(buffer) or self._start > 0:
            self._keep(buffer[self._start : self._filled])

    def _keep(self, rest: memoryview) -> None:
        """Move a partial frame, or frames that must wait, to a buffer with room for more."""
        left = len(rest)
        room = max(BUFFER_GROWTH * left, BUFFER_BYTES_MIN)
        size = max(left + 1, min(self._frame_bytes(rest) or room, room))
        broker = self._broker
        mine = len(self._buffer) if self._buffer is not None else 0
        over = broker.partial_bytes - mine + size > broker.config.partial_frame_bytes_max
        if self._must_wait():
            size = left + 1  # reading pauses: it is one read at most, and its turn will come
        elif over:
            self._close(
                "too many bytes of partial frames on this shard",
                partial_frame_bytes_max=broker.config.partial_frame_bytes_max,
            )
            return
        buffer = memoryview(bytearray(size))
        buffer[:left] = rest
        self._set_buffer(buffer)
        self._filled = left
        if self._must_wait():
            self._pause_reading()

    def _set_buffer(self, buffer: memoryview | None) -> None:
        """Take another buffer, or none, and count it."""
        old, self._buffer = self._buffer, buffer
        self._start = self._filled = 0
        self._broker.partial_bytes += (len(buffer) if buffer is not None else 0) - (
            len(old) if old is not None else 0
        )

    def _frame_bytes(self, rest: memoryview) -> int:
        """Bytes of the frame that `rest` begins with, its size included; 0 if it is not known or
        impossible: that is refused when its turn comes, and no memory goes into it."""
        if len(rest) < SIZE_BYTES:
            return 0
        size = int.from_bytes(rest[:SIZE_BYTES], "big", signed=True)
        return SIZE_BYTES + size if 0 < size <= self._frame_bytes_max(rest) else 0

    def _frame_bytes_max(self, rest: memoryview) -> int:
        """How large the frame that `rest` begins with may be: records alone may be large."""
        limit = self._broker.config.frame_bytes_max
        if len(rest) >= API_KEY_END:
            api_key = int.from_bytes(rest[SIZE_BYTES:API_KEY_END], "big", signed=True)
            limit = min(limit, request_bytes_max(api_key) or limit)
        return limit

    # -- requests --------------------------------------------------------------------------

    def _handle_frame(self, frame: memoryview, size: int) -> None:
        broker = self._broker
        started_s = broker.clock_s()
        try:
            header, request = decode_request(frame)
        except DecodeError as error:
            self._close("the client broke the protocol", reason=str(error))
            broker.metrics.decode_errors += 1
            return
        except UnsupportedVersion as error:
            self._unsupported(error, size)
            return
        broker.metrics.requests[header.api_key] += 1
        replies = header.api_key != ApiKey.PRODUCE or request.acks != 0
        slot = _Slot(self, header, replies, started_s)
        self._slots.append(slot)
        self._charge(slot, size + REQUEST_OVERHEAD_BYTES)
        try:
            response = HANDLERS[header.api_key](self._request_context(header), request)
        except Exception as error:
            self._bug(header, error)
            return
        if isinstance(response, Pending):
            slot.pending = response
            if not response.pipelined:
                self._blocking = slot
            response.subscribe(slot.complete)
        elif inspect.isawaitable(response):
            self._blocking = slot
            self._task = asyncio.ensure_future(response, loop=broker.loop)
            self._task.add_done_callback(partial(self._answered, slot))
        else:
            self._waits_for_flush = header.api_key != ApiKey.PRODUCE
            self.slot_ready(slot, response)

    def _request_context(self, header: RequestHeader) -> RequestContext:
        """The context of this request; the one before it serves where nothing differs."""
        known = self._context
        version, client_id = header.api_version, header.client_id
        if known is None or known.api_version != version or known.client_id != client_id:
            self.client_id = client_id
            host, port = self.local
            known = RequestContext(self._broker, version, client_id, host, port, self.peer)
            self._context = known
        return known

    def _answered(self, slot: _Slot, task: asyncio.Future[Any]) -> None:
        """A coroutine has its response, has failed, or was cancelled since the client left."""
        self._task = None
        if task.cancelled():
            self._release(slot)
            if not self.closing:  # nobody cancels it but a client that left
                self.close()
        elif (error := task.exception()) is not None:
            self._release(slot)
            self._bug(slot.header, error)
        else:
            self.slot_ready(slot, task.result())

    def slot_ready(self, slot: _Slot, response: Any) -> None:
        """A response is known; replies leave from the front of the order."""
        self._release(slot)
        slot.ready = True
        if self.closing:
            return
        header = slot.header
        if slot.replies:
            try:
                slot.parts = encode_response(
                    header.api_key, header.api_version, header.correlation_id, response
                )
            except Exception as error:
                self._bug(header, error)
                return
            if header.api_key not in _COUNT_THEIR_ERRORS:
                for code in error_codes(response):
                    self._broker.metrics.count_error(header.api_key, code)
        elif codes := error_codes(response):
            # There is no reply to carry the error: closing makes the client look again.
            self._close("produce with acks=0 failed", error=codes[0])
        if self._slots[0] is not slot:  # a reply that waits for its turn is held, so it counts
            self._charge(slot, sum(map(len, slot.parts)) + REQUEST_OVERHEAD_BYTES)
        if slot is self._blocking:
            self._blocking = None
            self._waits_for_flush = True
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._broker.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send the replies whose turn has come; go on with what waited for that."""
        self._flush_scheduled = False
        if self.closing:
            return
        self._send_ready()
        self._waits_for_flush = False
        if self._ending and not self._slots:
            self.close()
        elif self._paused_reading or self._buffer is not None:
            self.resume()

    def _send_ready(self) -> None:
        """Send every reply whose turn has come, in one call."""
        slots, metrics = self._slots, self._broker.metrics
        now_s = self._broker.clock_s()
        parts: list[Any] = []
        while slots and slots[0].ready:
            slot = slots.popleft()
            parts += slot.parts
            metrics.observe_request(slot.header.api_key, now_s - slot.started_s)
            if slot.size_bytes:
                self._release(slot)
        if parts:
            self._active = True
            metrics.sent_bytes += sum(map(len, parts))
            if len(parts) == 1:
                self._transport.write(parts[0])
            else:
                self._transport.writelines(parts)

    # -- limits ----------------------------------------------------------------------------

    def _must_wait(self) -> bool:
        """Whether the next request has to wait."""
        if self._blocking is not None or self._waits_for_flush or self._writing_paused:
            return True
        if self._ending or self._broker.stopping:
            return True
        broker, config = self._broker, self._broker.config
        if self._inflight_bytes > config.connection_inflight_bytes_max:
            return True
        if broker.inflight_bytes > config.inflight_bytes_max:
            broker.paused.setdefault(self)
            return True
        return False

    def _charge(self, slot: _Slot, size: int) -> None:
        """Count what a request holds until it is released."""
        slot.size_bytes = size
        self._inflight_bytes += size
        self._broker.inflight_bytes += size

    def _release(self, slot: _Slot) -> None:
        """A request's bytes no longer count as in flight."""
        broker, size = self._broker, slot.size_bytes
        slot.size_bytes = 0
        self._inflight_bytes -= size
        broker.inflight_bytes -= size
        if broker.paused and broker.inflight_bytes <= broker.config.inflight_bytes_max:
            broker.loop.call_soon(_resume_paused, broker)

    def _pause_reading(self) -> None:
        if not self._paused_reading:
            self._paused_reading = True
            self._broker.metrics.reading_paused += 1
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on with requests that waited, and then with reading."""
        if self.closing or self._must_wait():
            return
        if self._buffer is not None:
            self._handle_buffered()
        if self._paused_reading and not self.closing and not self._must_wait():
            self._paused_reading = False
            self._transport.resume_reading()

    # -- the end ---------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """No request is unanswered and no reply is unsent."""
        return not self._slots and self._transport.get_write_buffer_size() == 0

    def finish(self) -> None:
        """The broker stops: read no more, and answer long polls now."""
        self._pause_reading()
        for slot in list(self._slots):
            if slot.pending is not None and not slot.ready:
                finish_now = getattr(slot.pending, "finish_now", None)
                if finish_now is not None:
                    finish_now()

    def close(self) -> None:
        """Close after the replies that are ready have left."""
        if not self.closing:
            self._send_ready()
            self.closing = True
            self._transport.close()

    def moved(self) -> bool:
        """Whether bytes moved, either way, since this was asked before."""
        unsent_bytes = self._transport.get_write_buffer_size()
        moved = self._active or unsent_bytes != self._unsent_before
        self._active = False
        self._unsent_before = unsent_bytes
        return moved

    def say_goodbye(self) -> None:
        """Send the end of the stream and throw away what still comes, until the peer closes too.

        A close with unread bytes would be a reset, and a reset discards replies that the peer
        has not read yet.
        """
        if not self.closing and self._transport.can_write_eof():
            self._ending = True
            self._set_buffer(None)
            self._transport.write_eof()
            if self._paused_reading:
                self._paused_reading = False
                self._transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection, whatever is unsent."""
        self.closing = True
        self._transport.abort()

    def _unsupported(self, error: UnsupportedVersion, size: int) -> None:
        if error.api_key == ApiKey.API_VERSIONS:
            # KIP-511: answered as version 0, so that the client can ask again.
            header = RequestHeader(error.api_key, 0, error.correlation_id, error.client_id)
            slot = _Slot(self, header, True, self._broker.clock_s())
            self._slots.append(slot)
            self._waits_for_flush = True
            self.slot_ready(slot, error_response())
            return
        self.client_id = error.client_id
        self._close(
            "the client asked for an API or version that is not served",
            api_key=error.api_key,
            api_version=error.api_version,
            fix="use a client that reads ApiVersions (Kafka 0.11 or newer), or a newer rpk-py",
        )

    def _refuse_size(self, size: int, data: memoryview) -> None:
        self._broker.metrics.decode_errors += 1
        self._close(
            "a frame of an impossible size: not a Kafka client, or not a plaintext one",
            size_bytes=size,
            size_bytes_max=self._frame_bytes_max(data),
            begins_with=bytes(data[:16]).hex(),
        )

    def _bug(self, header: RequestHeader, error: BaseException) -> None:
        """An exception that no handler should raise: say so and close; the shard lives on."""
        self._broker.log.error(
            "request failed",
            api_key=header.api_key,
            api_version=header.api_version,
            peer=self.peer,
            exc_info=error,
        )
        self.close()

    def _close(self, event: str, **facts: Any) -> None:
        """Say why, once, and close when everything that was asked before is answered."""
        if self._ending:
            return
        self._broker.log.warning(event, peer=self.peer, client_id=self.client_id, **facts)
        if not self._slots:
            self.close()
            return
        self._ending = True
        self._pause_reading()
        self._flush_soon()


def _resume_paused(broker: Broker) -> None:
    """Let connections go on that wait for the shard's budget, in turns: one that fills it again
    goes behind the others."""
    for _ in range(len(broker.paused)):
        if not broker.paused or broker.inflight_bytes > broker.config.inflight_bytes_max:
            return
        connection, _ = broker.paused.popitem(last=False)
        connection.resume()
