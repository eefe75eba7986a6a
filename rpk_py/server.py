"""Server: accepts a shard's connections, knows them all, and stops gracefully."""

from __future__ import annotations

import asyncio
import socket

from rpk_py.connection import Connection
from rpk_py.context import Broker

SCRATCH_BYTES = 256 << 10  # one read of the shard; larger frames get a buffer of their own
STOP_S_MAX = 10.0  # how long a stop waits for replies that clients do not take


class Server:
    """All connections of one shard. Home shard only."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._connections: set[Connection] = set()
        # One for all: every read of the loop is handled before the next one starts.
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._listener: asyncio.Server | None = None
        self._emptied: asyncio.Future[None] | None = None

    async def start(self, listener: socket.socket) -> None:
        """Accept connections on a socket that listens already."""
        self._listener = await self._broker.loop.create_server(
            lambda: Connection(self._broker, self._scratch, self),
            sock=listener,
            backlog=self._broker.config.listen_backlog,  # the loop calls listen() once more
        )

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

    async def stop(self) -> None:
        """Stop accepting and reading, answer what is in flight, then close every connection.

        A producer with retries sees a closed connection after its last acknowledgement.
        """
        self._broker.stopping = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.finish()
        deadline_s = self._broker.loop.time() + STOP_S_MAX
        while self._broker.loop.time() < deadline_s:
            busy = [connection for connection in self._connections if not connection.idle]
            if not busy:
                break
            await asyncio.sleep(0.005)
        self._emptied = self._broker.loop.create_future()
        for connection in list(self._connections):
            connection.close()
        if self._connections:
            await asyncio.wait([self._emptied], timeout=STOP_S_MAX)
