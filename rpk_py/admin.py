"""Admin HTTP: GET /v1/status/ready and live, GET /metrics and GET /v1/groups/GROUP/history.

Which process: supervisor.  HTTP/1.1 by h11 (sans-io) over asyncio streams; h11 is imported with
the first request, to keep it out of the start.  Invariants: a connection that does not complete a
request within admin_idle_s, or does not take the whole reply in that time, is closed; headers are
bounded; no more than admin_connections_max connections are open, and of their replies no more than
SCRAPES_MAX are metrics, which are large; nothing here can change the broker.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

from rpk_py.config import Config
from rpk_py.metadata.state import Json

if TYPE_CHECKING:
    import h11

_JSON = "application/json"
_READ_BYTES = 16 * 1024
_GROUP_HISTORY = re.compile(r"/v1/groups/([^/]*)/history")
READY, LIVE = "/v1/status/ready", "/v1/status/live"
SCRAPES_MAX = 4  # each holds the snapshots of all shards until its client has taken the reply

_Body: TypeAlias = bytes | AsyncIterator[bytes]


class AdminServer:
    """Serves what `status` and `metrics` return.

    status   (ready, JSON body)
    metrics  Prometheus exposition text, in pieces
    history  of a consumer group, a JSON body; None where there is no such group
    """

    def __init__(
        self,
        config: Config,
        status: Callable[[], tuple[bool, Json]],
        metrics: Callable[[], Awaitable[AsyncIterator[bytes]]],
        history: Callable[[str], Awaitable[Json | None]],
        log: Any,
    ) -> None:
        self._config = config
        self._status = status
        self._metrics = metrics
        self._history = history
        self._log = log
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._scrapes: set[object] = set()  # the connections that are given metrics

    async def start(self, listener: socket.socket) -> None:
        """Serve on a bound socket."""
        self._server = await asyncio.start_server(self._accept, sock=listener)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= self._config.admin_connections_max:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Connection(self, reader, writer).run()
        except ConnectionError:
            pass  # the client is gone
        except TimeoutError:
            # Idle, or it does not read: a close would wait for it to take the rest of its reply.
            writer.transport.abort()
        finally:
            writer.close()

    async def answer(self, client: object, method: str, target: str) -> tuple[int, str, _Body]:
        """The reply to one request: (HTTP status, content type, body). Call `answered` when it
        is sent, or was not."""
        path = target.partition("?")[0]
        group = _GROUP_HISTORY.fullmatch(path)
        if group is None and path not in (READY, LIVE, "/metrics"):
            known = f"GET {READY}, GET {LIVE}, GET /metrics, GET /v1/groups/GROUP/history"
            return 404, _JSON, _error(f"there is no {path} here, only: {known}")
        if method != "GET":
            return 405, _JSON, _error(f"{path} answers to GET only, not to {method}")
        if group is not None:
            return await self._answer_history(unquote(group[1], errors="replace"))
        if path == "/metrics":
            if len(self._scrapes) >= SCRAPES_MAX:
                text = f"{SCRAPES_MAX} clients are being given metrics already; try again"
                return 503, _JSON, _error(text)
            self._scrapes.add(client)
            return 200, "text/plain; version=0.0.4; charset=utf-8", await self._metrics()
        ready, body = self._status()
        return (200 if ready or path == LIVE else 503), _JSON, json.dumps(body).encode() + b"\n"

    async def _answer_history(self, group_id: str) -> tuple[int, str, _Body]:
        history = await self._history(group_id)
        if history is None:
            text = "no shard that serves has this group; `rpk-py group list` names all groups"
            history = {"group": group_id, "error": text}
            return 404, _JSON, json.dumps(history).encode() + b"\n"
        return 200, _JSON, json.dumps(history).encode() + b"\n"

    def answered(self, client: object) -> None:
        """What `answer` returned is no longer needed."""
        self._scrapes.discard(client)

    @property
    def config(self) -> Config:
        """Limits of a connection."""
        return self._config

    def failed(self, target: str) -> None:
        """Log that answering a request raised; called while the exception is handled."""
        self._log.exception("an admin request failed", target=target)


class _Connection:
    """One client: requests in, replies out, one after the other."""

    def __init__(
        self, server: AdminServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        import h11

        self._h11 = h11
        self._server = server
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(
            h11.SERVER, max_incomplete_event_size=server.config.admin_header_bytes_max
        )

    async def run(self) -> None:
        h11 = self._h11
        while True:
            try:
                async with asyncio.timeout(self._server.config.admin_idle_s):
                    request = await self._read_request()
            except h11.RemoteProtocolError as error:
                if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    await self._reply(error.error_status_hint, _JSON, _error(str(error)))
                return
            if request is None:
                return
            try:
                if not await self._serve(request):
                    return
            finally:
                self._server.answered(self)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _serve(self, request: h11.Request) -> bool:
        """Answer one request; False if the reply was cut short."""
        target = request.target.decode("ascii", "replace")
        answer: tuple[int, str, _Body]
        try:
            answer = await self._server.answer(self, request.method.decode("ascii"), target)
        except Exception:
            self._server.failed(target)
            answer = 500, _JSON, _error("the broker failed to answer; its log says why")
        try:
            async with asyncio.timeout(self._server.config.admin_idle_s):
                await self._reply(*answer)
        except OSError:
            raise  # the client is gone, or does not read
        except Exception:
            self._server.failed(target)
            self._writer.transport.abort()  # the client sees that the reply is cut short
            return False
        return True

    async def _read_request(self) -> h11.Request | None:
        """The next request, its body skipped; None when the client is done."""
        h11 = self._h11
        request = None
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    return request  # nothing here takes a body: answer without asking for it
                self._http.receive_data(await self._reader.read(_READ_BYTES))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return None

    async def _reply(self, status: int, content_type: str, body: _Body) -> None:
        h11 = self._h11
        headers = [("content-type", content_type)]
        if isinstance(body, bytes):
            headers.append(("content-length", str(len(body))))
        if status == 405:
            headers.append(("allow", "GET"))
        await self._send(h11.Response(status_code=status, headers=headers))
        if isinstance(body, bytes):
            await self._send(h11.Data(data=body))
        else:
            async for piece in body:
                await self._send(h11.Data(data=piece))
        await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
            await self._writer.drain()


def _error(text: str) -> bytes:
    return json.dumps({"error": text}).encode() + b"\n"
