"""A reply that is not ready yet: what a handler returns instead of a response.

The connection keeps the reply's place in the order; the handler completes it later. `pipelined`
says whether the connection may go on with the next request meanwhile: produce may (its order was
fixed when it was enqueued), a long-polling fetch may not, as in Kafka.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Pending:
    """One reply to come. `complete` once; the connection subscribes at most once, before or
    after."""

    __slots__ = ("_subscriber", "completed", "pipelined", "response", "waited_s")

    def __init__(self, pipelined: bool) -> None:
        self.pipelined = pipelined
        self.completed = False
        self.response: Any = None
        self.waited_s = 0.0  # of its time, what the client asked it to wait
        self._subscriber: Callable[[Any], None] | None = None

    def complete(self, response: Any) -> None:
        """Hand over the response."""
        assert not self.completed
        self.completed = True
        self.response = response
        # Forgotten before it is called: it refers to whoever holds this object, and a cycle a
        # request is what the garbage collector would be kept busy with.
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            subscriber(response)

    def subscribe(self, subscriber: Callable[[Any], None]) -> None:
        """Have `subscriber(response)` called at the completion, which has not been yet."""
        assert not self.completed
        self._subscriber = subscriber

    def cancel(self) -> None:
        """The client is gone: give up waiting for anything that only it wanted."""


def reply_of(start: Callable[[Callable[[Any], None]], None], *, pipelined: bool = False) -> Any:
    """What a handler returns whose answer comes by a callback: the response, or a Pending.

    start  called with `answer`, which it or somebody later calls once with the response
    """
    pending = Pending(pipelined)
    start(pending.complete)
    return pending.response if pending.completed else pending
