"""A listener for tests that plays whatever a client may meet at an address."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def listening(serve: Callable[[Iterator[socket.socket]], None]) -> Iterator[str]:
    """HOST:PORT of a listener. `serve`, in a thread of its own, is given each connection as it
    comes, which it closes; there are no more once the test is over."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def connections() -> Iterator[socket.socket]:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                yield connection

        thread = threading.Thread(target=serve, args=(connections(),))
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
