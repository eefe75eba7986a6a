"""What takes long is done in another process: answers, errors, its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rpk_py.background_process import BackgroundProcess
from storage.background import Pace
from storage.errors import CorruptRecord, Stopped, StorageError


def told(job: str, pace: Pace) -> tuple[str, int, int]:
    pace(10)
    return job.upper(), os.getpid(), os.nice(0)


def fails(error: Exception, _pace: Pace) -> None:
    raise error


def dies(_job: None, _pace: Pace) -> None:
    os._exit(3)


def waits(path: Path, _pace: Pace) -> None:
    path.touch()
    os.read(os.pipe()[0], 1)


def prints(job: str, _pace: Pace) -> str:
    print("not an answer")
    return job


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - other processes tell nobody
        await asyncio.sleep(0.01)


def drive(tmp_path: Path, work: Callable[[BackgroundProcess], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        background = BackgroundProcess(tmp_path, lambda: 1e300)
        try:
            await asyncio.wait_for(work(background), 30)
        finally:
            await background.close()

    asyncio.run(run())


def test_work_is_done_by_one_process_that_gives_way(tmp_path: Path) -> None:
    async def scenario(background: BackgroundProcess) -> None:
        assert background.pid is None
        answers = await asyncio.gather(*(background.run(told, name) for name in ("a", "b", "c")))
        assert [name for name, _, _ in answers] == ["A", "B", "C"]
        assert {pid for _, pid, _ in answers} == {background.pid} != {os.getpid()}
        assert {nice for _, _, nice in answers} == {19}
        assert await background.run(prints, "x") == "x"

    drive(tmp_path, scenario)


@pytest.mark.parametrize("error", [CorruptRecord("damaged"), OSError(28, "No space left")])
def test_what_work_raises_is_raised_here(tmp_path: Path, error: Exception) -> None:
    async def scenario(background: BackgroundProcess) -> None:
        with pytest.raises(type(error), match=str(error.args[-1])):
            await background.run(fails, error)
        assert (await background.run(told, "goes on"))[0] == "GOES ON"

    drive(tmp_path, scenario)


def test_a_bug_of_the_work_is_an_error_with_words(tmp_path: Path) -> None:
    async def scenario(background: BackgroundProcess) -> None:
        with pytest.raises(StorageError, match="unexpected: ZeroDivisionError"):
            await background.run(fails, ZeroDivisionError("x"))

    drive(tmp_path, scenario)


def test_a_process_that_dies_is_replaced(tmp_path: Path) -> None:
    async def scenario(background: BackgroundProcess) -> None:
        _, first, _ = await background.run(told, "a")
        with pytest.raises(StorageError, match="ended early"):
            await background.run(dies, None)
        _, second, _ = await background.run(told, "a")
        assert first != second

    drive(tmp_path, scenario)


@pytest.mark.parametrize("how", ["cancelled", "closed"])
def test_work_that_is_not_wanted_any_more_ends_with_its_process(tmp_path: Path, how: str) -> None:
    async def scenario(background: BackgroundProcess) -> None:
        began = tmp_path / "began"
        running = asyncio.ensure_future(background.run(waits, began))
        await until(began.exists)
        pid = background.pid
        assert pid is not None
        if how == "cancelled":
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        else:
            await background.close()
            with pytest.raises(Stopped):
                await running
            with pytest.raises(Stopped):
                await background.run(told, "a")
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    drive(tmp_path, scenario)


def test_an_idle_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpk_py.background_process.IDLE_S", 0.01)

    async def scenario(background: BackgroundProcess) -> None:
        _, pid, _ = await background.run(told, "a")
        await until(lambda: background.pid is None and not Path(f"/proc/{pid}").exists())
        assert (await background.run(told, "b"))[0] == "B"

    drive(tmp_path, scenario)


def test_of_two_shards_one_works_at_a_time(tmp_path: Path) -> None:
    async def scenario(background: BackgroundProcess) -> None:
        other = BackgroundProcess(tmp_path, lambda: 1e300)
        began = tmp_path / "began"
        first = asyncio.ensure_future(background.run(waits, began))
        await until(began.exists)
        second = asyncio.ensure_future(other.run(told, "b"))
        await until(lambda: other.pid is not None and waits_for_lock(other.pid))
        assert not second.done()
        first.cancel()
        assert (await second)[0] == "B"
        await other.close()

    drive(tmp_path, scenario)


def waits_for_lock(pid: int) -> bool:
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f" {pid} " in line for line in lines)
