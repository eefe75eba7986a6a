"""A shard's fork that fails in a way that nobody foresaw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rpk_py.supervisor import Supervisor


class Quiesced:
    """The part of a controller that a fork holds up."""

    def __init__(self) -> None:
        self.commits = asyncio.Lock()

    @asynccontextmanager
    async def quiesced(self) -> AsyncIterator[None]:
        async with self.commits:
            yield


def test_a_fork_that_raises_is_heard_of_and_commits_go_on() -> None:
    async def scenario() -> None:
        supervisor: Any = Supervisor.__new__(Supervisor)
        supervisor._controller = Quiesced()
        supervisor._stop_wanted = asyncio.Event()

        def fork(shard: object) -> None:
            raise AssertionError("a thread is alive")

        supervisor._fork = fork
        with pytest.raises(AssertionError, match="a thread is alive"):
            await asyncio.wait_for(supervisor._fork_again(None), 5)
        assert not supervisor._controller.commits.locked()

    asyncio.run(scenario())
