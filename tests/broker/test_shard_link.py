"""The supervisor's end of a shard: what it queues, for which life, and how much of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rpk_py.config import Config
from rpk_py.log_setup import make_logger
from rpk_py.metadata.channel import encode_message, read_message
from rpk_py.metadata.state import Json
from rpk_py.shard_link import ShardLink
from rpk_py.supervisor import Supervisor

FRAME_BYTES_MAX = 1 << 20


class Link:
    """A ShardLink and the shard's end of its channel."""

    def __init__(self, snapshot: Callable[[], bytes] = bytes) -> None:
        self.config = Config(data_dir=Path("/data"), control_frame_bytes_max=FRAME_BYTES_MAX)
        self.listener = socket.socket()
        self.link = ShardLink(0, self.listener, None, self.config, snapshot)
        self.shard, self.ours = socket.socketpair()

    async def serve(self, on_message: Callable[[Json], Any]) -> None:
        """One life of the link."""
        await self.link.run(self.ours, on_message)

    async def received(self) -> str:
        """The type of the next message that the shard gets."""
        reader, _ = await asyncio.open_unix_connection(sock=self.shard)
        read = await read_message(reader, FRAME_BYTES_MAX)
        assert read is not None
        kind: str = read[0]["type"]
        return kind

    def close(self) -> None:
        for end in (self.listener, self.shard, self.ours):
            end.close()


def run(scenario: Callable[[Link], Coroutine[Any, Any, None]], **parts: Any) -> None:
    async def main() -> None:
        link = Link(**parts)
        try:
            async with asyncio.timeout(10):
                await scenario(link)
        finally:
            link.close()

    asyncio.run(main())


async def nothing(message: Json) -> None:
    """Take a message."""


def test_what_was_queued_for_one_life_does_not_reach_the_next() -> None:
    async def scenario(end: Link) -> None:
        end.link.send({"type": "serve", "revision": 1})
        end.link.send_snapshot()
        end.link.begin(1)
        end.link.send({"type": "stop"})
        serving = asyncio.ensure_future(end.serve(nothing))
        assert await end.received() == "stop"
        serving.cancel()
        await asyncio.wait([serving])

    run(scenario)


def test_deltas_beyond_the_bytes_of_a_message_give_way_to_a_snapshot() -> None:
    async def scenario(end: Link) -> None:
        delta = encode_message({"type": "delta", "padding": "x" * 300_000})
        for _ in range(3):
            end.link.send_delta(delta)
        assert end.link.queued_count == 3
        end.link.send({"type": "reply"})
        end.link.send_delta(delta)
        assert end.link.queued_count == 2  # the reply and the snapshot
        end.link.send_delta(delta)
        assert end.link.queued_count == 2

    run(scenario)


def test_a_message_that_is_too_large_is_not_sent() -> None:
    async def scenario(end: Link) -> None:
        assert not end.link.send({"type": "reply", "padding": "x" * FRAME_BYTES_MAX})
        assert end.link.queued_count == 0
        assert end.link.send({"type": "reply"})

    run(scenario)


def test_an_answer_that_is_too_large_becomes_one_that_says_so() -> None:
    async def scenario(end: Link) -> None:
        class Verbose:
            async def handle(self, message: Json) -> Json:
                return {"results": ["x" * FRAME_BYTES_MAX]}

        supervisor: Any = Supervisor.__new__(Supervisor)
        supervisor._controller = Verbose()
        supervisor._log = make_logger(Config())
        await supervisor._answer(end.link, {"op": "create_topics", "id": 7})
        [(_, frame)] = end.link._queue
        assert b'"id":7' in frame
        assert b"control_frame_bytes_max" in frame

    run(scenario)


def test_a_snapshot_that_cannot_be_made_ends_the_link_and_is_heard_of() -> None:
    def fails() -> bytes:
        raise MemoryError

    async def scenario(end: Link) -> None:
        end.link.send_snapshot()
        with pytest.raises(MemoryError):
            await end.serve(nothing)

    run(scenario, snapshot=fails)


def test_a_shard_that_goes_away_ends_the_link_quietly() -> None:
    async def scenario(end: Link) -> None:
        end.link.send_delta(encode_message({"type": "delta"}))
        end.shard.close()
        await end.serve(nothing)

    run(scenario)
