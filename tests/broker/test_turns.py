"""Long work in slices: who waits goes on in order, one in each turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from itertools import count

import pytest

from rpk_py.turns import Turns, at_once


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_one_who_waits_goes_on_in_each_turn_and_in_order() -> None:
    async def scenario() -> None:
        turns, seen = Turns(Clock(), 1), []
        for number in range(3):
            turns.later(lambda number=number: seen.append(number))  # type: ignore[misc]
        assert seen == []
        for number in range(3):
            await asyncio.sleep(0)
            assert seen == list(range(number + 1))

    asyncio.run(scenario())


def test_a_pause_is_none_while_the_slice_lasts() -> None:
    async def scenario() -> None:
        clock = Clock()
        turns = Turns(clock, 1)
        turns_seen = 0

        def count_turns() -> None:
            nonlocal turns_seen
            turns_seen += 1
            asyncio.get_running_loop().call_soon(count_turns)

        clock.now_s = 1.0
        await turns.pause()
        count_turns()
        before = turns_seen
        await turns.pause()
        assert turns_seen == before
        clock.now_s += turns.slice_s
        await turns.pause()
        assert turns_seen > before

    asyncio.run(scenario())


def test_two_who_work_long_take_turns() -> None:
    async def scenario() -> list[str]:
        turns = Turns(count(0, 1.0).__next__, 1)  # every look at the clock ends a slice
        seen: list[str] = []

        def work(name: str) -> Generator[None, None, str]:
            for _ in range(3):
                seen.append(name)
                yield
            return name * 2

        assert await asyncio.gather(turns.sliced(work("a")), turns.sliced(work("b"))) == [
            "aa",
            "bb",
        ]
        return seen

    assert asyncio.run(scenario()) == ["a", "b"] * 3


def test_a_generator_at_once_returns_what_it_returns() -> None:
    def work() -> Generator[None, None, int]:
        yield
        return 7

    assert at_once(work()) == 7


def test_large_work_waits_for_its_number_and_one_that_is_cancelled_gives_it_back() -> None:
    async def scenario() -> None:
        turns, gate = Turns(Clock(), 1), asyncio.Event()

        async def work() -> None:
            async with turns.large():
                await gate.wait()

        first, second, third = (asyncio.ensure_future(work()) for _ in range(3))
        await asyncio.sleep(0)
        assert turns.large_waiting == 2
        second.cancel()
        first.cancel()
        await asyncio.wait([first, second])
        gate.set()
        await third
        assert turns.large_waiting == 0

    asyncio.run(scenario())


def test_what_fails_beside_the_loop_fails_for_who_waits() -> None:
    async def scenario() -> None:
        turns = Turns(Clock(), 1)
        assert await turns.in_thread(int, "7") == 7
        with pytest.raises(ValueError, match="x"):
            await turns.in_thread(int, "x")
        turns.close()

    asyncio.run(scenario())
