"""Any order of writes, reads, cancelled reads and a close, on every backend, against a model.

The model knows for each block of one file the number written there last, and which blocks are being
written; bursts take more slots than there are. What is read, and what is in the file after the
close, must be what the model says wherever nothing was being written meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from storage.backend import BACKENDS
from storage.buffers import aligned_buffer
from storage.disk import Disk, open_segment
from storage.errors import DiskFailed
from storage.queued_disk import SLOTS, QueuedDisk
from tests.storage.conftest import open_or_skip

BLOCK = 4096
BLOCKS = 2 * SLOTS
Step: TypeAlias = tuple[Any, ...]

positions = st.integers(0, BLOCKS - 1)
steps = st.one_of(
    st.tuples(st.just("write"), positions, st.integers(1, 8)),
    st.tuples(st.just("burst"), positions, st.integers(1, SLOTS + 40)),
    st.tuples(st.just("read"), positions, st.integers(1, BLOCKS)),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.just("submit")),
    st.tuples(st.just("tick")),
    st.tuples(st.just("wait")),
)


class Model:
    """One file on one disk, and what must be in it."""

    def __init__(self, disk: Disk, fd: int) -> None:
        self.disk = disk
        self.fd = fd
        self.numbers = [0] * BLOCKS  # durable in each block
        self.changes = [0] * BLOCKS  # counts when a write of the block starts and ends
        self.written_count = 0
        self.pending_count = 0
        self.reads: list[asyncio.Task[None]] = []

    def write(self, start: int, count: int) -> None:
        end = min(start + count, BLOCKS)
        blocks = range(start, end)
        if any(self.changes[block] % 2 for block in blocks):
            return  # two writes of one block at once may end in any order
        self.written_count += 1
        number = self.written_count
        view = aligned_buffer(BLOCK * len(blocks), BLOCK)[1]
        view[:] = number.to_bytes(8, "big") * (len(view) // 8)
        size_bytes = len(view)
        for block in blocks:
            self.changes[block] += 1

        def done(res: int) -> None:
            assert res == size_bytes
            self.pending_count -= 1
            for block in blocks:
                assert self.changes[block] % 2
                self.changes[block] += 1
                self.numbers[block] = number

        self.pending_count += 1
        self.disk.write(self.fd, view, start * BLOCK, done)
        view.release()
        assert self.disk.in_flight >= self.pending_count

    async def read(self, start: int, count: int) -> None:
        end = min(start + count, BLOCKS)
        before = self.changes[start:end]
        content = await self.disk.read(self.fd, start * BLOCK, (end - start) * BLOCK)
        assert len(content) == (end - start) * BLOCK
        for block, changes in enumerate(before, start):
            if changes % 2 == 0 and changes == self.changes[block]:
                found = content[(block - start) * BLOCK :][:BLOCK]
                assert found == self.numbers[block].to_bytes(8, "big") * (BLOCK // 8)

    async def take(self, step: Step) -> None:
        match step:
            case ("write", start, count):
                self.write(start, count)
            case ("burst", start, count):
                for index in range(count):
                    self.write((start + index) % BLOCKS, 1)
            case ("read", start, count):
                self.reads.append(asyncio.ensure_future(self.read(start, count)))
            case ("cancel", index):
                if index < len(self.reads):
                    self.reads.pop(index).cancel()
            case ("submit",):
                self.disk.submit()
            case ("tick",):
                await asyncio.sleep(0)
            case ("wait",):
                await asyncio.gather(*self.reads)
                self.reads.clear()

    async def finish(self) -> None:
        """Close with everything on its way."""
        await asyncio.sleep(0)  # reads that were never started would be refused, and rightly so
        reads, _ = await asyncio.gather(asyncio.gather(*self.reads), self.disk.close())
        assert len(reads) == len(self.reads)
        assert (self.pending_count, self.disk.in_flight) == (0, 0)
        with pytest.raises(DiskFailed):
            self.write(0, 1)


@pytest.fixture(params=["direct", "buffered", "tmpfs"])
def model_path(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A file of BLOCKS blocks of zeros."""
    path = tmp_path / "blocks.wal"
    if request.param == "buffered":
        monkeypatch.setattr("storage.disk.O_DIRECT", 0)
    if request.param == "tmpfs":
        if not os.access("/dev/shm", os.W_OK):
            pytest.skip("there is no /dev/shm here")
        path = Path("/dev/shm", f"{tmp_path.name}.{os.getpid()}.wal")
    yield path
    path.unlink(missing_ok=True)


def check(backend: Any, path: Path, script: list[Step]) -> None:
    async def run() -> None:
        disk = open_or_skip(backend, asyncio.get_running_loop())
        model = Model(disk, fd)
        try:
            for step in script:
                await model.take(step)
        finally:
            await asyncio.wait_for(model.finish(), 30)
        content = os.pread(fd_to_check, BLOCKS * BLOCK, 0)
        found = [int.from_bytes(content[n * BLOCK :][:8], "big") for n in range(BLOCKS)]
        assert found == model.numbers

    path.write_bytes(bytes(BLOCKS * BLOCK))
    fd, _direct = open_segment(path)
    fd_to_check = os.open(path, os.O_RDONLY)
    try:
        asyncio.run(run())
    finally:
        os.close(fd)
        os.close(fd_to_check)


# More than all slots, reads that wait behind them, one cancelled while it waits and one while
# it is read.
CROWDED: list[Step] = [
    ("burst", 0, SLOTS + 40),
    ("read", 0, BLOCKS),
    ("read", 400, 10),
    ("tick",),
    ("cancel", 0),
    ("submit",),
    ("burst", 300, SLOTS),
    ("read", 500, 5),
    ("tick",),
    ("cancel", 1),
    ("write", 508, 8),
]


@pytest.mark.parametrize("backend", BACKENDS[1:])
@example(script=CROWDED)
@given(script=st.lists(steps, max_size=25))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_interleaving_reads_and_leaves_what_was_written(
    backend: str, model_path: Path, script: list[Step]
) -> None:
    check(backend, model_path, script)


def test_the_model_notices_a_write_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a disk that says "written" and writes elsewhere."""
    write_really = QueuedDisk.write

    def misdirect(self: QueuedDisk, fd: int, view: memoryview, pos: int, done: Any) -> None:
        write_really(self, fd, view, pos ^ BLOCK if pos == 3 * BLOCK else pos, done)

    monkeypatch.setattr(QueuedDisk, "write", misdirect)
    with pytest.raises(AssertionError):
        check("threads", tmp_path / "blocks.wal", [("write", 3, 1)])
