"""Admin HTTP: status, metrics, and what happens to a client that asks for nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from rpk_py.admin import AdminServer
from rpk_py.config import Config


class SilentLog:
    """A logger that remembers events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def exception(self, event: str, **values: object) -> None:
        self.events.append(event)


class Admin:
    """A server on a free port whose answers a test sets."""

    def __init__(self, **config: Any) -> None:
        self.config = Config(data_dir=Path("/data"), **config)
        self.status: tuple[bool, dict[str, Any]] = (True, {"status": "ready"})
        self.broken = False
        self.breaks_later = False
        self.exposition = b"rpk_up 1\n"
        self.piece_count = 1
        self.gate = asyncio.Event()  # before the end of an exposition
        self.gate.set()
        self.log = SilentLog()
        self.server = AdminServer(
            self.config, lambda: self.status, self.metrics, self.history, self.log
        )
        self.port = 0

    async def metrics(self) -> AsyncIterator[bytes]:
        if self.broken:
            raise RuntimeError("no metrics today")
        return self.pieces()

    async def history(self, group_id: str) -> dict[str, Any] | None:
        return {"group": group_id, "events": []} if group_id.startswith("known") else None

    async def pieces(self) -> AsyncIterator[bytes]:
        for _ in range(self.piece_count):
            yield self.exposition
        await self.gate.wait()
        if self.breaks_later:
            raise RuntimeError("no more of them")

    async def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        await self.server.start(listener)

    async def send(self, data: bytes) -> bytes:
        """Send bytes on a new connection and read until the server closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        answer = await reader.read()
        writer.close()
        return answer

    async def get(self, target: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """One request that asks for the connection to be closed."""
        request = f"{method} {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        return split(await self.send(request.encode()))


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(chunks(body))
    return int(status.split()[1]), headers, body


def chunks(body: bytes) -> Iterator[bytes]:
    """What a chunked body consists of; AssertionError if it is cut short."""
    while True:
        size_text, ended, rest = body.partition(b"\r\n")
        assert ended
        size = int(size_text, 16)
        if size == 0:
            return
        assert rest[size : size + 2] == b"\r\n"
        yield rest[:size]
        body = rest[size + 2 :]


def run(scenario: Callable[[Admin], Coroutine[Any, Any, None]], **config: Any) -> Admin:
    async def main() -> Admin:
        admin = Admin(**config)
        await admin.start()
        try:
            async with asyncio.timeout(10):
                await scenario(admin)
        finally:
            await admin.server.close()
        return admin

    return asyncio.run(main())


def test_a_ready_broker_answers_200_and_one_that_is_not_503() -> None:
    async def scenario(admin: Admin) -> None:
        status, headers, body = await admin.get("/v1/status/ready")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(body) == {"status": "ready"}
        admin.status = (False, {"status": "recovering"})
        status, _, body = await admin.get("/v1/status/ready")
        assert (status, json.loads(body)) == (503, {"status": "recovering"})

    run(scenario)


def test_the_history_of_a_group_whose_name_is_quoted_and_of_none() -> None:
    async def scenario(admin: Admin) -> None:
        status, headers, body = await admin.get("/v1/groups/known%2Fby%20name%25/history")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(body)["group"] == "known/by name%"
        status, _, body = await admin.get("/v1/groups/nobody/history")
        assert status == 404
        assert json.loads(body)["group"] == "nobody"
        assert "group list" in json.loads(body)["error"]
        status, _, _ = await admin.get("/v1/groups/known/history", "POST")
        assert status == 405
        status, _, _ = await admin.get("/v1/groups/a/b/history")
        assert status == 404

    run(scenario)


def test_metrics_are_text_and_a_query_is_ignored() -> None:
    async def scenario(admin: Admin) -> None:
        status, headers, body = await admin.get("/metrics?name[]=x")
        assert (status, body) == (200, b"rpk_up 1\n")
        assert headers["content-type"].startswith("text/plain; version=0.0.4")

    run(scenario)


def test_an_unknown_path_is_404_and_says_what_there_is() -> None:
    async def scenario(admin: Admin) -> None:
        status, _, body = await admin.get("/")
        assert status == 404
        assert b"GET /metrics" in body

    run(scenario)


def test_another_method_is_405_and_says_which_is_allowed() -> None:
    async def scenario(admin: Admin) -> None:
        status, headers, _ = await admin.get("/metrics", "DELETE")
        assert (status, headers["allow"]) == (405, "GET")

    run(scenario)


def test_a_connection_serves_many_requests_in_order() -> None:
    async def scenario(admin: Admin) -> None:
        one = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"
        last = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        answer = await admin.send(one + one + last)
        assert answer.count(b"rpk_up 1\n") == 2
        assert answer.count(b"HTTP/1.1 404") == 1

    run(scenario)


def test_a_request_with_a_body_is_answered_and_the_body_ignored() -> None:
    async def scenario(admin: Admin) -> None:
        head = (
            b"POST /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 3\r\n\r\n"
        )
        assert split(await admin.send(head + b"abc"))[0] == 405

    run(scenario)


def test_what_is_not_http_is_400() -> None:
    async def scenario(admin: Admin) -> None:
        assert split(await admin.send(b"\x00\x00\x00\x2a kafka?\r\n\r\n"))[0] == 400

    run(scenario)


def test_headers_beyond_the_limit_are_refused() -> None:
    async def scenario(admin: Admin) -> None:
        answer = await admin.send(b"GET / HTTP/1.1\r\na: " + b"x" * 2000)
        assert split(answer)[0] == 431

    run(scenario, admin_header_bytes_max=1000)


def test_an_idle_connection_is_closed() -> None:
    async def scenario(admin: Admin) -> None:
        assert await admin.send(b"GET / HTT") == b""

    run(scenario, admin_idle_s=0.05)


def test_a_client_that_does_not_read_makes_room_for_others() -> None:
    async def scenario(admin: Admin) -> None:
        admin.exposition = b"x" * (32 * 1024 * 1024)  # more than the kernel buffers
        deaf = socket.create_connection(("127.0.0.1", admin.port))
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(deaf, b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
        await loop.sock_recv(deaf, 1)
        status = 0
        while status != 200:
            answer = await admin.send(b"GET /v1/status/ready HTTP/1.0\r\nhost: a\r\n\r\n")
            status = split(answer)[0] if answer else 0
        got = 1
        while data := await loop.sock_recv(deaf, 1024 * 1024):
            got += len(data)
        assert got < len(admin.exposition)
        deaf.close()

    run(scenario, admin_connections_max=1, admin_idle_s=0.1)


def test_a_client_that_reads_too_slowly_is_cut_off_however_often_it_reads() -> None:
    async def scenario(admin: Admin) -> None:
        admin.exposition = b"x" * (64 * 1024)
        admin.piece_count = 1_000_000
        loop = asyncio.get_running_loop()
        slow = socket.create_connection(("127.0.0.1", admin.port))
        slow.setblocking(False)
        await loop.sock_sendall(slow, b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
        began = loop.time()
        with contextlib.suppress(ConnectionError):
            while await loop.sock_recv(slow, 64 * 1024):
                assert loop.time() < began + 5
        slow.close()

    run(scenario, admin_idle_s=0.3)


def test_a_few_clients_are_given_metrics_at_a_time() -> None:
    async def scenario(admin: Admin) -> None:
        admin.gate = asyncio.Event()
        request = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"
        clients = [await asyncio.open_connection("127.0.0.1", admin.port) for _ in range(4)]
        for reader, writer in clients:
            writer.write(request)
            await reader.readuntil(b"rpk_up 1\n")
        status, headers, body = await admin.get("/metrics")
        assert (status, headers["content-type"]) == (503, "application/json")
        assert b"4 clients are being given metrics" in body
        assert (await admin.get("/v1/status/ready"))[0] == 200
        clients[0][1].transport.abort()  # one that goes away makes room, and so do those that end
        admin.gate.set()
        for reader, _ in clients[1:]:
            await reader.readuntil(b"\r\n0\r\n")
        for reader, writer in clients[1:]:  # also on the same connection
            writer.write(request)
            await reader.readuntil(b"rpk_up 1\n")
        for _ in range(6):
            assert (await admin.get("/metrics"))[0] == 200
        for _, writer in clients[1:]:
            writer.close()

    run(scenario)


def test_more_connections_than_allowed_are_closed_at_once() -> None:
    async def scenario(admin: Admin) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
        await reader.readuntil(b"rpk_up 1\n")
        assert await admin.send(b"") == b""
        writer.close()

    run(scenario, admin_connections_max=1)


def test_a_failure_is_500_and_logged() -> None:
    async def scenario(admin: Admin) -> None:
        admin.broken = True
        status, _, body = await admin.get("/metrics")
        assert status == 500
        assert b"no metrics today" not in body

    assert run(scenario).log.events == ["an admin request failed"]


def test_a_failure_in_the_middle_cuts_the_reply_short_and_is_logged() -> None:
    async def scenario(admin: Admin) -> None:
        admin.breaks_later = True
        request = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
        writer.write(request)
        await reader.readuntil(b"rpk_up 1\n")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readuntil(b"\r\n0\r\n")
        writer.close()

    assert run(scenario).log.events == ["an admin request failed"]


def test_http_1_0_gets_the_metrics_without_chunks() -> None:
    async def scenario(admin: Admin) -> None:
        status, headers, body = split(await admin.send(b"GET /metrics HTTP/1.0\r\n\r\n"))
        assert (status, body) == (200, b"rpk_up 1\n")
        assert "transfer-encoding" not in headers

    run(scenario)
