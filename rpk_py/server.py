"""Server: accepts a shard's connections, knows them all, closes some, stops gracefully.

A connection is refused at the shard's limit, at that of its address, and where the process is about
to run out of files: a client that is refused tries again, a partition that cannot be opened is
offline. Closed are those that are idle, and at the limits of what connections hold the one that
holds the most, the newest among equals: never merely whoever comes next.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

from rpk_py.connection import Connection
from rpk_py.context import Broker
from rpk_py.file_limit import last_file_for_clients

SCRATCH_BYTES = 256 << 10  # one read of the shard; larger frames get a buffer of their own
STOP_S_MAX = 3.0  # how long a stop waits for requests to finish and replies to be taken
GOODBYE_S_MAX = 1.0  # and then for clients to close their side
POLL_S = 0.005


class Server:
    """All connections of one shard. Home shard only."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._connections: dict[Connection, None] = {}  # by age
        self._of_address: Counter[str] = Counter()
        self._file_max = last_file_for_clients()
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
        """Count a new connection; False where it is one too many."""
        metrics = self._broker.metrics
        reason = self._why_not(connection)
        if reason is not None:
            metrics.connections_rejected[reason] += 1
            connection.client.warn(
                "connection refused",
                reason=reason,
                connections=len(self._connections),
                of_address=self._of_address[connection.client.address],
            )
            return False
        self._connections[connection] = None
        self._of_address[connection.client.address] += 1
        metrics.connections_accepted += 1
        metrics.connections = len(self._connections)
        connection.client.debug("connection opened")
        return True

    def _why_not(self, connection: Connection) -> str | None:
        """The limit that a new connection meets, as rpk_connections_rejected_total names it."""
        config = self._broker.config
        if self._broker.stopping:
            return "stopping"
        if len(self._connections) >= config.connections_max:
            return "connections_max"
        if self._of_address[connection.client.address] >= config.connections_per_address_max:
            return "connections_per_address_max"
        # The kernel gives the lowest number that is free, so this one tells how many are in use.
        return "open_files" if connection.client.file_number > self._file_max else None

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        if connection in self._connections:
            del self._connections[connection]
            ended_by = "broker" if connection.closing else "client"
            connection.client.debug("connection closed", ended_by=ended_by)
            self._of_address[connection.client.address] -= 1
            if not self._of_address[connection.client.address]:
                del self._of_address[connection.client.address]
        self._broker.metrics.connections = len(self._connections)
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def make_room(self, connection: Connection, size_bytes: int) -> bool:
        """Let `connection` hold so many bytes of a partial frame: those that hold more go.

        False: that is the connection itself, which is closed by now.
        """
        broker = self._broker
        limit = broker.config.partial_frame_bytes_max
        while broker.partial_bytes - connection.partial_bytes + size_bytes > limit:
            # Newest first, and max() takes the first of equals.
            largest = max(reversed(self._connections), key=lambda each: each.partial_bytes)
            if largest.partial_bytes <= size_bytes:
                largest = connection
            broker.metrics.connections_dropped["partial_frames"] += 1
            largest.drop(
                "too many bytes of partial frames on this shard", partial_frame_bytes_max=limit
            )
            if largest is connection:
                return False
        return True

    def drop_untaken_replies(self) -> None:
        """At reply_bytes_max: close who leaves the most replies untaken."""
        broker = self._broker
        limit = broker.config.reply_bytes_max
        while broker.unsent_bytes > limit and self._connections:
            largest = max(reversed(self._connections), key=lambda each: each.unsent_bytes)
            if not largest.unsent_bytes:
                return
            broker.metrics.connections_dropped["untaken_replies"] += 1
            largest.drop(
                "too many bytes of replies that clients do not take",
                unsent_bytes=largest.unsent_bytes,
                reply_bytes_max=limit,
            )

    def _sweep_later(self) -> None:
        interval_s = self._broker.config.connections_max_idle_s
        self._sweep_timer = self._broker.loop.call_later(interval_s, self._sweep)

    def _sweep(self) -> None:
        """Drop connections on which nothing moved for a whole interval, either way; among them
        those that wait for a peer that is gone, or that never takes its last replies."""
        for connection in list(self._connections):
            if not connection.moved():
                self._broker.metrics.connections_dropped["idle"] += 1
                connection.client.debug("an idle connection is closed")
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
