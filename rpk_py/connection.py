"""One client connection: bytes -> frames -> handlers -> replies in request order.

Frames are parsed in place. A connection without a partial frame reads into the shard's scratch
buffer and holds no memory of its own; a partial frame moves to a buffer of the connection. What a
handler is given is valid until its first await.

Order and limits:
- replies leave in request order, each in the slot that its request took;
- one request at a time, as in Kafka: the next one waits until the reply before it was sent, so a
  peer that pipelines cannot hold the loop; produce requests alone go on, since their order is
  fixed when they are enqueued;
- reading pauses while the connection, or the shard, has too many request bytes unanswered (who has
  none may ask small things), and while the client does not take its replies: no queue is unbounded;
- a connection whose requests took longer than a slice of the loop's time waits for its turn, and
  what is large is decoded and encoded beside the loop (turns.py);
- a peer that breaks the protocol is closed, with a log line that says who and why.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Final

from kafka_protocol.api_key import ApiKey
from kafka_protocol.errors import DecodeError, TooManyItems, UnsupportedVersion
from kafka_protocol.frame import RequestHeader, decode_request, encode_response
from rpk_py import frame_limits
from rpk_py.client_peer import ClientPeer
from rpk_py.context import Broker
from rpk_py.frame_limits import API_KEY_BYTES, FRAME_BYTES_MIN, SIZE_BYTES, read_size
from rpk_py.handlers import HANDLERS
from rpk_py.handlers import produce as produce_handler
from rpk_py.handlers.api_versions import error_response
from rpk_py.pending import Pending
from rpk_py.reply_slot import Slot, encode_reply
from rpk_py.response_errors import error_codes
from rpk_py.turns import Large

REQUEST_OVERHEAD_BYTES: Final = 1024  # what an unanswered request holds beside its frame, about
LARGE_BYTES: Final = 16 << 10  # a frame without records that takes about a millisecond to decode
_NOTHING: Final = memoryview(b"")


class Connection(asyncio.BufferedProtocol):
    """The protocol object of one accepted socket. Home shard only."""

    __slots__ = (
        "_active",
        "_blocking",
        "_broker",
        "_buffer",
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
        "_waits_for_flush",
        "_waits_for_turn",
        "_writing_paused",
        "client",
        "closing",
        "unsent_bytes",
    )

    def __init__(self, broker: Broker, scratch: memoryview, server: Any) -> None:
        self._broker = broker
        self._scratch = scratch
        self._server = server
        self._transport: Any = None
        self._buffer: memoryview | None = None  # frames from _start to _filled wait in it
        self._start = 0
        self._filled = 0
        self._slots: deque[Slot] = deque()
        self._blocking: Slot | None = None  # the next request waits for this one's response
        self._waits_for_flush = False  # the next request waits until a ready reply was sent
        self._waits_for_turn = False  # the last ones took long: others go first
        self._active = True  # something was read or sent since `moved` was asked
        self._unsent_before = 0
        self._ending = False  # no further request is handled; closed after the last reply
        self._paused_reading = False
        self._writing_paused = False
        self._flush_scheduled = False
        self._inflight_bytes = 0
        self.unsent_bytes = 0  # of replies that the client has not taken
        self._task: asyncio.Future[Any] | None = None
        self.client = ClientPeer(broker)
        self.closing = False

    # -- asyncio's side --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or close it at the shard's limit."""
        self._transport = transport
        self.client.connected(transport)
        if not self._server.admit(self):
            self.closing = True
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(0, 0)  # what the kernel does not take is counted

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: behind a partial frame, or into the shard's scratch."""
        if self._buffer is None:
            return self._scratch
        return self._buffer[self._filled : self._filled + frame_limits.READ_BYTES_MAX]

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` more have arrived: handle every whole frame that may be handled now."""
        self._broker.metrics.received_bytes += nbytes
        self._active = True
        if self._buffer is not None:
            self._filled += nbytes
            self._handle_buffered()
            if nbytes > frame_limits.READ_BYTES and self._buffer is not None and not self.closing:
                self._give_way()  # a large frame, of which more has arrived
                self._pause_reading()
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
        self._server.forget(self)
        self.closing = True
        self._broker.paused.pop(self, None)
        self._let_go()
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
        self._count_unsent()

    def resume_writing(self) -> None:
        """The client took its replies: go on."""
        self._writing_paused = False
        self._count_unsent()
        self.resume()

    def _count_unsent(self) -> None:
        """Count what the client has not taken; at the shard's limit who holds the most goes."""
        broker, before = self._broker, self.unsent_bytes
        self.unsent_bytes = self._transport.get_write_buffer_size()
        broker.unsent_bytes += self.unsent_bytes - before
        if broker.unsent_bytes > broker.config.reply_bytes_max:
            broker.loop.call_soon(self._server.drop_untaken_replies)

    # -- frames ----------------------------------------------------------------------------

    def _handle_frames(self, data: memoryview) -> int:
        """Handle the whole frames at the start of `data`; returns how many bytes they had."""
        pos, end = 0, len(data)
        broker = self._broker
        limit = broker.config.frame_bytes_max
        began_s = now_s = broker.clock_s()
        while end - pos >= SIZE_BYTES and not self._must_wait(data, pos):
            (size,) = read_size(data, pos)
            frame_pos = pos + SIZE_BYTES
            whole = end - frame_pos >= size  # decode_request looks at the limit of its API
            bytes_max = limit if whole else frame_limits.frame_bytes_max(data[pos:end], limit)
            if not FRAME_BYTES_MIN <= size <= bytes_max:
                self._refuse_size(size, data[pos:end])
                return end
            if not whole:
                break
            pos = frame_pos + size
            self._handle_frame(data[frame_pos:pos], size, now_s)
            if self.closing or self._ending:
                return end
            now_s = broker.clock_s()
            if now_s - began_s > broker.turns.slice_s:
                self._give_way()
        return pos

    def _give_way(self) -> None:
        """Others go first: no further request, until its turn comes."""
        if not self._waits_for_turn:
            self._waits_for_turn = True
            self._broker.turns.later(self._take_turn)

    def _take_turn(self) -> None:
        self._waits_for_turn = False
        self.resume()

    def _handle_buffered(self) -> None:
        """Handle the frames in the connection's own buffer and keep what is left."""
        buffer = self._buffer
        assert buffer is not None
        self._start += self._handle_frames(buffer[self._start : self._filled])
        if self.closing:
            return
        if self._start >= self._filled or self._ending:
            self._set_buffer(None)
        elif self._must_wait(buffer[: self._filled], self._start):
            self._pause_reading()
        elif self._filled == len(buffer) or self._start > 0:
            self._keep(buffer[self._start : self._filled])

    def _keep(self, rest: memoryview) -> None:
        """Move a partial frame, or frames that must wait, to a buffer with room for more."""
        left = len(rest)
        size = frame_limits.buffer_bytes(rest, self._broker.config.frame_bytes_max)
        if waits := self._must_wait(rest):
            size = left + 1  # reading pauses: it is one read at most, and its turn will come
        elif not self._server.make_room(self, size):
            return
        buffer = frame_limits.new_buffer(size)
        buffer[:left] = rest
        self._set_buffer(buffer)
        self._filled = left
        if waits:
            self._pause_reading()

    @property
    def partial_bytes(self) -> int:
        """What it holds of frames that wait or have arrived in part."""
        return 0 if self._buffer is None else len(self._buffer)

    def _set_buffer(self, buffer: memoryview | None) -> None:
        """Take another buffer, or none, and count it."""
        old, self._buffer = self._buffer, buffer
        self._start = self._filled = 0
        self._broker.partial_bytes += (len(buffer) if buffer is not None else 0) - (
            len(old) if old is not None else 0
        )

    # -- requests --------------------------------------------------------------------------

    def _handle_frame(self, frame: memoryview, size: int, started_s: float) -> None:
        if size > LARGE_BYTES and frame[:API_KEY_BYTES] != frame_limits.PRODUCE_KEY:
            header = RequestHeader(int.from_bytes(frame[:API_KEY_BYTES], "big"), 0, 0, None)
            slot = self._new_slot(header, True, started_s, size)
            return self._await(slot, self._decode_large(slot, bytes(frame)))
        try:
            header, request = decode_request(frame, self._broker.config.request_items_max)
        except (DecodeError, UnsupportedVersion) as error:
            return self._refuse(error)
        self._broker.metrics.requests[header.api_key] += 1
        replies = header.api_key != ApiKey.PRODUCE or request.acks != 0
        slot = self._new_slot(header, replies, started_s, size)
        context = self.client.context(header, request)
        try:
            if size > LARGE_BYTES and produce_handler.is_large(request):
                if self._buffer is None:  # it is handled in slices: the scratch is filled again
                    _, request = decode_request(memoryview(bytes(frame)), len(frame))
                response = produce_handler.handle_large(context, request)
            else:
                response = HANDLERS[header.api_key](context, request)
        except Exception as error:
            return self._bug(header, error)
        self._respond(slot, response)

    def _new_slot(self, header: RequestHeader, replies: bool, started_s: float, size: int) -> Slot:
        """The next place in the order."""
        slot = Slot(self, header, replies, started_s)
        self._slots.append(slot)
        self._charge(slot, size + REQUEST_OVERHEAD_BYTES)
        return slot

    def _respond(self, slot: Slot, response: Any) -> None:
        """A handler has returned: a response, or what will have one."""
        if isinstance(response, Pending):
            slot.pending = response
            if not response.pipelined:
                self._blocking = slot
            response.subscribe(slot.complete)
        elif isinstance(response, Large):
            self._await(slot, self._make_large(slot, response))
        elif inspect.isawaitable(response):
            self._await(slot, response)
        else:
            self._waits_for_flush = slot.header.api_key != ApiKey.PRODUCE
            self.slot_ready(slot, response)

    def _await(self, slot: Slot, work: Awaitable[Any]) -> None:
        """Have a coroutine give the response, or None where it answers by itself; the next request
        waits."""
        self._blocking = slot
        self._task = asyncio.ensure_future(work, loop=self._broker.loop)
        self._task.add_done_callback(partial(self._answered, slot))

    async def _decode_large(self, slot: Slot, frame: bytes) -> None:
        """A large frame: decode it beside the loop, then go on as with any other."""
        turns = self._broker.turns
        async with turns.large():
            try:
                limit = self._broker.config.request_items_max
                header, request = await turns.in_thread(decode_request, memoryview(frame), limit)
            except (DecodeError, UnsupportedVersion) as error:
                self._slots.remove(slot)
                self._release(slot)
                self._blocking = None
                return self._refuse(error)
            slot.header = header
            self._broker.metrics.requests[header.api_key] += 1
            response = HANDLERS[header.api_key](self.client.context(header, request), request)
            if isinstance(response, Large):
                return await self._encode_large(slot, await response.make())
        if not isinstance(response, Pending) and inspect.isawaitable(response):
            result = await response  # often the controller's, which takes its time
            async with turns.large():
                return await self._encode_large(slot, result)
        self._blocking = None
        self._respond(slot, response)

    async def _make_large(self, slot: Slot, response: Large) -> None:
        """A large reply: make it when few others are made."""
        async with self._broker.turns.large():
            await self._encode_large(slot, await response.make())

    async def _encode_large(self, slot: Slot, response: Any) -> None:
        parts, codes = await self._broker.turns.in_thread(encode_reply, slot.header, response)
        self._reply_ready(slot, parts if slot.replies else [], codes, response)

    def _answered(self, slot: Slot, task: asyncio.Future[Any]) -> None:
        """A coroutine is done, has failed, or was cancelled since the client left."""
        if self._task is task:  # else the next request's is under way already
            self._task = None
        if task.cancelled():
            self._release(slot)
            if not self.closing:  # nobody cancels it but a client that left
                self.close()
        elif (error := task.exception()) is not None:
            self._release(slot)
            self._bug(slot.header, error)
        elif (response := task.result()) is not None:
            self.slot_ready(slot, response)

    def slot_ready(self, slot: Slot, response: Any) -> None:
        """A response is known: encode it."""
        if self.closing:
            self._reply_ready(slot, [], (), None)
            return
        header = slot.header
        parts: list[Any] = []
        if slot.replies:
            try:
                parts = encode_response(
                    header.api_key, header.api_version, header.correlation_id, response
                )
            except Exception as error:
                self._release(slot)
                self._bug(header, error)
                return
        skipped = slot.replies and header.api_key in self._broker.skips_errors_of
        self._reply_ready(slot, parts, () if skipped else error_codes(response), response)

    def _reply_ready(
        self, slot: Slot, parts: list[Any], codes: Sequence[int], response: Any
    ) -> None:
        """A reply is encoded; replies leave from the front of the order.

        codes  error codes in the response, where it was searched for them
        """
        self._release(slot)
        slot.ready = True
        slot.parts = parts
        if self.closing:
            return
        if slot.replies:
            if codes:
                self.client.answered_with(slot.header, codes, response)
        elif codes:
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
            if self._writing_paused:
                self._count_unsent()

    # -- limits ----------------------------------------------------------------------------

    def _must_wait(self, data: memoryview = _NOTHING, pos: int = 0) -> bool:
        """Whether the next request, which begins at `pos` as far as it is here, has to wait."""
        if self._blocking is not None or self._waits_for_flush or self._writing_paused:
            return True
        if self._ending or self._waits_for_turn or self._broker.stopping:
            return True
        broker, config = self._broker, self._broker.config
        if len(self._slots) >= config.connection_requests_max:
            return True
        if self._inflight_bytes > config.connection_inflight_bytes_max:
            return True
        if broker.inflight_bytes <= config.inflight_bytes_max or (
            not self._slots and frame_limits.is_small(data, pos)
        ):
            return False
        broker.paused.setdefault(self)
        return True

    def _charge(self, slot: Slot, size: int) -> None:
        """Count what a request holds until it is released."""
        slot.size_bytes = size
        self._inflight_bytes += size
        self._broker.inflight_bytes += size

    def _release(self, slot: Slot) -> None:
        """A request's bytes no longer count as in flight."""
        broker, size = self._broker, slot.size_bytes
        slot.size_bytes = 0
        self._inflight_bytes -= size
        broker.inflight_bytes -= size
        if broker.paused and broker.inflight_bytes <= broker.config.inflight_bytes_max:
            broker.loop.call_soon(broker.resume_paused)

    def _pause_reading(self) -> None:
        if not self._paused_reading:
            self._paused_reading = True
            self._broker.metrics.reading_paused += 1
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on with requests that waited, and then with reading."""
        if self.closing:
            return
        if self._buffer is not None:
            if self._must_wait(self._buffer[: self._filled], self._start):
                return
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
            if not slot.ready and (finish_now := getattr(slot.pending, "finish_now", None)):
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
        self._let_go()
        self._transport.abort()

    def _let_go(self) -> None:
        """Give back what it holds of partial frames and unsent replies."""
        self._broker.unsent_bytes -= self.unsent_bytes
        self.unsent_bytes = 0
        self._set_buffer(None)

    def drop(self, event: str, **facts: Any) -> None:
        """Abort for the sake of the others, and say so."""
        self.client.warn(event, **facts)
        self.abort()

    def _refuse(self, error: DecodeError | UnsupportedVersion) -> None:
        """A frame that no handler will see."""
        if isinstance(error, UnsupportedVersion):
            return self._unsupported(error)
        too_many = isinstance(error, TooManyItems)
        self._broker.metrics.requests_too_large += too_many
        self._broker.metrics.decode_errors += not too_many
        self._close("the client broke the protocol", reason=str(error))

    def _unsupported(self, error: UnsupportedVersion) -> None:
        if error.api_key == ApiKey.API_VERSIONS:
            # KIP-511: answered as version 0, so that the client can ask again.
            header = RequestHeader(error.api_key, 0, error.correlation_id, error.client_id)
            slot = Slot(self, header, True, self._broker.clock_s())
            self._slots.append(slot)
            self._waits_for_flush = True
            self.slot_ready(slot, error_response())
            return
        self.client.client_id = error.client_id
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
            size_bytes_max=frame_limits.frame_bytes_max(data, self._broker.config.frame_bytes_max),
            begins_with=bytes(data[:16]).hex(),
        )

    def _bug(self, header: RequestHeader, error: BaseException) -> None:
        """An exception that no handler should raise: say so and close; the shard lives on."""
        self.client.failed(header, error)
        self.close()

    def _close(self, event: str, **facts: Any) -> None:
        """Say why, once, and close when everything that was asked before is answered."""
        if self._ending:
            return
        self.client.warn(event, **facts)
        if not self._slots:
            self.close()
            return
        self._ending = True
        self._pause_reading()
        self._flush_soon()
