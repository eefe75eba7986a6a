"""Server: accepts a shard's connections, knows them all, closes idle ones, stops gracefully."""

from __future__ import annotations

import asyncio
import socket

from rpk_py.connection import Connection
from rpk_py.context import Broker

SCRATCH_BYTES = 256 << 10  # one read of the shard; larger frames get a buffer of their own
STOP_S_MAX = 3.0  # how long a stop waits for requests to finish and replies to be taken
GOODBYE_S_MAX = 1.0  # and then for clients to close their side
POLL_S = 0.005


class Server:
    """All connections of one shard. Home shard only."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._connections: set[Connection] = set()
        # One for all: every read of the loop is handled before the next one starts.
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._listener: asyncio.Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None

    async def start(self, listener: socket.socket) -> None:
        """Accept connections on a socket that listens already."""
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted ones inherit it
        self._listener = await self._broker.loop.create_server(
            lambda: Connection(self._broker, self._scratch, self),
            sock=listener,
            backlog=self._broker.config.listen_backlog,  # the loop calls listen() once more
        )
        self._sweep_later()

    def admit(self, connection: Connection) -> bool:
        """Count a new connection; False at connections_max."""
        metrics, limit = self._broker.metrics, self._broker.config.connections_max
        if len(self._connections) >= limit or self._broker.stopping:
            metrics.connections_rejected += 1
            self._broker.log.warning(
                "connection refused", peer=connection.peer, connections_max=limit
            )
            return False
        self._connections.add(connection)
        metrics.connections_accepted += 1
        metrics.connections = len(self._connections)
        return True

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self._broker.metrics.connections = len(self._connections)
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def _sweep_later(self) -> None:
        interval_s = self._broker.config.connections_max_idle_s
        self._sweep_timer = self._broker.loop.call_later(interval_s, self._sweep)

    def _sweep(self) -> None:
        """Drop connections on which nothing moved for a whole interval, either way; among them
        those that wait for a peer that is gone, or that never takes its last replies."""
        for connection in list(self._connections):
            if not connection.moved():
                connection.abort()
        self._sweep_later()

    async def stop(self) -> None:
        """Stop accepting and reading, answer what is in flight, then close every connection.

        A client that takes its replies gets every acknowledgement before the connection ends;
        one that does not is dropped after STOP_S_MAX.
        """
        self._broker.stopping = True
        if self._listener is not None:
            self._listener.close()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in list(self._connections):
            connection.finish()
        deadline_s = self._broker.loop.time() + STOP_S_MAX
        while self._broker.loop.time() < deadline_s:
            if all(connection.idle for connection in self._connections):
                break
            await asyncio.sleep(POLL_S)
        self._emptied = self._broker.loop.create_future()
        for connection in list(self._connections):
            if connection.idle:
                connection.say_goodbye()
            else:
                connection.abort()
        if self._connections:
            await asyncio.wait([self._emptied], timeout=GOODBYE_S_MAX)
        for connection in list(self._connections):
            connection.abort()
