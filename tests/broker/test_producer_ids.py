"""rpk_py.producer_ids: no id twice, one request at a time, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from rpk_py.producer_ids import ProducerIds


class Controller:
    """Allocates blocks of `count` ids from `first`; holds its answers while `gate` is not set."""

    def __init__(self, first: int = 1_000, count: int = 4) -> None:
        self.first, self.count = first, count
        self.calls = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def allocate_producer_ids(self) -> tuple[int, int]:
        self.calls += 1
        await asyncio.sleep(0)  # a request is never answered within its own call
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        block = (self.first, self.count)
        self.first += self.count
        return block


async def take(ids: ProducerIds) -> int:
    while (producer_id := ids.next_id()) is None:
        await ids.reserve()
    return producer_id


def test_there_is_no_id_before_the_first_block() -> None:
    async def scenario() -> None:
        controller = Controller()
        ids = ProducerIds(controller)
        assert ids.next_id() is None
        await ids.reserve()
        assert [ids.next_id() for _ in range(5)] == [1_000, 1_001, 1_002, 1_003, None]

    asyncio.run(scenario())


def test_reserve_asks_for_nothing_while_ids_are_left() -> None:
    async def scenario() -> None:
        controller = Controller()
        ids = ProducerIds(controller)
        await ids.reserve()
        ids.next_id()
        await ids.reserve()
        assert controller.calls == 1
        assert ids.next_id() == 1_001

    asyncio.run(scenario())


def test_many_at_once_share_requests_and_get_different_ids() -> None:
    async def scenario() -> None:
        controller = Controller()
        ids = ProducerIds(controller)
        got = await asyncio.gather(*(take(ids) for _ in range(10)))
        assert sorted(got) == list(range(1_000, 1_010))
        assert controller.calls == 3

    asyncio.run(scenario())


def test_an_error_reaches_everybody_who_shared_the_request_and_the_next_try_works() -> None:
    async def scenario() -> None:
        controller = Controller()
        controller.error = ConnectionError("the controller is gone")
        ids = ProducerIds(controller)
        outcomes = await asyncio.gather(*(take(ids) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(outcome, ConnectionError) for outcome in outcomes)
        assert controller.calls == 1
        controller.error = None
        assert await take(ids) == 1_000

    asyncio.run(scenario())


@pytest.mark.parametrize("cancelled", [0, 1], ids=["who asked", "who shared"])
def test_a_client_that_leaves_does_not_take_the_others_with_it(cancelled: int) -> None:
    async def scenario() -> None:
        controller = Controller()
        controller.gate.clear()
        ids = ProducerIds(controller)
        tasks = [asyncio.create_task(take(ids)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[cancelled].cancel()
        await asyncio.sleep(0)
        controller.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[cancelled], asyncio.CancelledError)
        survivors = [outcome for outcome in outcomes if isinstance(outcome, int)]
        assert sorted(survivors) == [1_000, 1_001]

    asyncio.run(scenario())
