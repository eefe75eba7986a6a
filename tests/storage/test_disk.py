"""The Disk seam on a real disk: both backends keep the same promises, under both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from storage import queued_disk
from storage.buffers import aligned_buffer
from storage.disk import READ_ALIGNMENT, Disk, open_segment, read_whole

BLOCK = 4096
RunOnDisk = Callable[[Callable[[Disk], Awaitable[None]]], None]


def filled_block(number: int, blocks: int = 1) -> memoryview:
    _memory, view = aligned_buffer(BLOCK * blocks, BLOCK)
    view[:] = number.to_bytes(8, "big") * (BLOCK * blocks // 8)
    return view


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd, _direct = open_segment(path, create=True)
    try:
        yield fd
    finally:
        os.close(fd)


async def write(disk: Disk, fd: int, view: memoryview, pos: int) -> int:
    """Write, submit and wait: the result of the one write."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    disk.write(fd, view, pos, future.set_result)
    disk.submit()
    return await future


async def until_idle(disk: Disk) -> None:
    while disk.in_flight:  # noqa: ASYNC110 - a disk has no event for it, only close() waits
        await asyncio.sleep(0.001)


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- writes ------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(run_on_disk: RunOnDisk, segment_path: Path) -> None:
    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            await disk.allocate(fd, 0, 16 * BLOCK)
            assert await write(disk, fd, filled_block(7, 2), 4 * BLOCK) == 2 * BLOCK
            view = await disk.read(fd, 3 * BLOCK, 4 * BLOCK)
            assert view == bytes(BLOCK) + filled_block(7, 2) + bytes(BLOCK)
            assert (disk.writes, disk.write_bytes) == (1, 2 * BLOCK)
            assert (disk.reads, disk.read_bytes) == (1, 4 * BLOCK)

    run_on_disk(scenario)


def test_while_there_are_writes_reads_take_turns_piece_by_piece(
    run_on_disk: RunOnDisk, segment_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued_disk, "WRITES_RECENT_S", 60.0)
    size, readers = 128 * BLOCK, 3

    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            await disk.allocate(fd, 0, size)
            for number in range(0, 128, 16):
                await write(disk, fd, filled_block(number, 16), number * BLOCK)
            before = disk.reads
            reads = [asyncio.ensure_future(disk.read(fd, 0, size)) for _ in range(readers)]
            await asyncio.sleep(0)
            assert disk.in_flight == readers, "one is on its way, the others wait"
            for read in reads:
                view = await read
                assert view == b"".join(filled_block(n, 16) for n in range(0, 128, 16))
            assert disk.reads - before == readers * size // queued_disk.READ_PIECE_BYTES

    run_on_disk(scenario)


def test_a_read_only_view_can_be_written(run_on_disk: RunOnDisk, segment_path: Path) -> None:
    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            assert await write(disk, fd, filled_block(1).toreadonly(), 0) == BLOCK

    run_on_disk(scenario)


def test_a_thousand_queued_writes_start_in_order_and_all_finish(
    run_on_disk: RunOnDisk, segment_path: Path
) -> None:
    finished: list[int] = []

    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            await disk.allocate(fd, 0, 1000 * BLOCK)
            for number in range(1000):

                def done(res: int, number: int = number) -> None:
                    assert res == BLOCK
                    finished.append(number)

                disk.write(fd, filled_block(number), number * BLOCK, done)
            assert disk.in_flight == 1000
            disk.submit()
            await until_idle(disk)
            content = await disk.read(fd, 0, 1000 * BLOCK)
            for number in range(1000):
                assert content[number * BLOCK : (number + 1) * BLOCK] == filled_block(number)

    run_on_disk(scenario)
    assert sorted(finished) == list(range(1000))
    # At most 256 are in flight, so number n starts when n - 255 results are in, if kept in order.
    assert all(rank >= number - 255 for rank, number in enumerate(finished))


def test_nothing_is_called_back_inside_write_or_submit(
    run_on_disk: RunOnDisk, segment_path: Path
) -> None:
    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            results: list[int] = []
            for number in range(300):
                disk.write(fd, filled_block(number), number * BLOCK, results.append)
                assert results == []
            disk.submit()
            assert results == []
            await until_idle(disk)
            assert results == [BLOCK] * 300

    run_on_disk(scenario)


def test_nothing_moves_before_submit(run_on_disk: RunOnDisk, segment_path: Path) -> None:
    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            results: list[int] = []
            disk.write(fd, filled_block(1), 0, results.append)
            for _ in range(50):
                await asyncio.sleep(0)
            assert results == []
            assert os.fstat(fd).st_size == 0
            assert disk.in_flight == 1
            disk.submit()
            disk.submit()  # with nothing queued: no system call
            assert disk.submits == 1

    run_on_disk(scenario)


def test_a_read_goes_ahead_where_unsubmitted_writes_have_every_slot(
    run_on_disk: RunOnDisk, segment_path: Path
) -> None:
    segment_path.write_bytes(b"x" * BLOCK)

    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            for number in range(300):
                disk.write(fd, filled_block(number), (number + 1) * BLOCK, lambda res: None)
            assert await disk.read(fd, 0, BLOCK) == b"x" * BLOCK
            await disk.close()

    run_on_disk(scenario)


def test_a_callback_may_write_again(run_on_disk: RunOnDisk, segment_path: Path) -> None:
    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            results: list[int] = []

            def done(res: int) -> None:
                results.append(res)
                if len(results) < 20:
                    disk.write(fd, filled_block(len(results)), len(results) * BLOCK, done)
                    disk.submit()

            disk.write(fd, filled_block(0), 0, done)
            disk.submit()
            await disk.close()  # waits for those written by callbacks too
            assert results == [BLOCK] * 20

    run_on_disk(scenario)


def test_a_callback_that_raises_costs_no_other_its_result(
    run_on_disk: RunOnDisk, segment_path: Path
) -> None:
    async def scenario(disk: Disk) -> None:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: reported.append(context["exception"])
        )
        with opened(segment_path) as fd:
            results: list[int] = []
            bug = RuntimeError("a bug in a callback")

            def fail(_res: int) -> None:
                raise bug

            for number in range(40):
                done = fail if number % 4 == 1 else results.append
                disk.write(fd, filled_block(number), number * BLOCK, done)
            disk.submit()
            await disk.close()
        assert results == [BLOCK] * 30
        assert reported == [bug] * 10

    run_on_disk(scenario)


def test_errors_arrive_as_negative_errno(run_on_disk: RunOnDisk, segment_path: Path) -> None:
    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            read_only = os.open(segment_path, os.O_RDONLY | os.O_DIRECT)
            closed = os.dup(fd)
            os.close(closed)
            assert await write(disk, read_only, filled_block(1), 0) == -errno.EBADF
            assert await write(disk, closed, filled_block(1), 0) == -errno.EBADF
            assert await write(disk, -1, filled_block(1), 0) == -errno.EBADF
            os.close(read_only)
            # One failure does not touch the next write.
            assert await write(disk, fd, filled_block(1), 0) == BLOCK

    run_on_disk(scenario)


def test_a_failing_write_leaves_its_neighbours_alone(
    run_on_disk: RunOnDisk, segment_path: Path
) -> None:
    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            results: dict[int, int] = {}
            for number in range(10):
                target = -1 if number == 4 else fd
                disk.write(
                    target,
                    filled_block(number),
                    number * BLOCK,
                    lambda res, number=number: results.update({number: res}),
                )
            disk.submit()
            await disk.close()
            assert results == {n: -errno.EBADF if n == 4 else BLOCK for n in range(10)}

    run_on_disk(scenario)


def test_a_short_write_is_reported_as_it_is(run_on_disk: RunOnDisk, segment_path: Path) -> None:
    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd, file_size_limit(3 * BLOCK):
            assert await write(disk, fd, filled_block(1, 2), 2 * BLOCK) == BLOCK
            assert await write(disk, fd, filled_block(1, 2), 3 * BLOCK) == -errno.EFBIG
            assert os.fstat(fd).st_size == 3 * BLOCK

    run_on_disk(scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a file system of 64 KiB")
def test_a_full_disk_is_enospc(run_on_disk: RunOnDisk, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k none '{small}' 2>/dev/null"):
        pytest.skip("mounting is not allowed here")

    async def scenario(disk: Disk) -> None:
        with opened(small / "full.wal") as fd:
            with pytest.raises(OSError, match=r"allocating .*full\.wal") as caught:
                await disk.allocate(fd, 0, 1 << 20)
            assert caught.value.errno == errno.ENOSPC
            assert await write(disk, fd, filled_block(1, 15), 0) == 15 * BLOCK
            assert await write(disk, fd, filled_block(1, 2), 15 * BLOCK) == BLOCK
            assert await write(disk, fd, filled_block(1), 16 * BLOCK) == -errno.ENOSPC

    try:
        run_on_disk(scenario)
    finally:
        os.system(f"umount '{small}'")


def test_a_buffer_outlives_the_callers_references(
    run_on_disk: RunOnDisk, segment_path: Path
) -> None:
    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            await disk.allocate(fd, 0, 64 * 16 * BLOCK)
            for number in range(64):
                view = filled_block(number, 16)
                disk.write(fd, view, number * 16 * BLOCK, lambda res: None)
                if number % 2:
                    view.release()
                del view
            gc.collect()
            disk.submit()
            # Memory that was freed too early would be handed out again here and overwritten.
            garbage = [filled_block(0xDEAD, 16) for _ in range(64)]
            await until_idle(disk)
            content = await disk.read(fd, 0, 64 * 16 * BLOCK)
            for number in range(64):
                start = number * 16 * BLOCK
                assert content[start : start + 16 * BLOCK] == filled_block(number, 16)
            del garbage

    run_on_disk(scenario)


def test_the_buffer_is_freed_once_the_result_is_in(
    run_on_disk: RunOnDisk, segment_path: Path
) -> None:
    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            view = filled_block(3)
            owner = view.obj
            assert isinstance(owner, bytearray)
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            disk.write(fd, view, 0, future.set_result)
            view.release()
            disk.submit()
            with pytest.raises(BufferError):
                owner.append(0)  # the disk holds it
            assert await future == BLOCK
            owner.append(0)

    run_on_disk(scenario)


# --- reads and allocation ----------------------------------------------------------------------


def test_a_read_stops_at_the_end_of_the_file(run_on_disk: RunOnDisk, segment_path: Path) -> None:
    segment_path.write_bytes(b"x" * (2 * BLOCK + 100))

    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            assert await disk.read(fd, BLOCK, 8 * BLOCK) == b"x" * (BLOCK + 100)
            assert await disk.read(fd, 0, 2 * BLOCK) == b"x" * 2 * BLOCK
            assert len(await disk.read(fd, 4 * BLOCK, BLOCK)) == 0
            assert len(await disk.read(fd, 0, 0)) == 0

    run_on_disk(scenario)


def test_a_read_gives_a_read_only_aligned_view(run_on_disk: RunOnDisk, segment_path: Path) -> None:
    segment_path.write_bytes(b"x" * BLOCK)

    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            view = await disk.read(fd, 0, BLOCK)
            assert view.readonly
            # Direct I/O accepts it as it is: compaction writes what it has read.
            assert await write(disk, fd, view, BLOCK) == BLOCK

    run_on_disk(scenario)


def test_many_reads_at_once_each_get_their_own_bytes(
    run_on_disk: RunOnDisk, segment_path: Path
) -> None:
    segment_path.write_bytes(b"".join(bytes(filled_block(n)) for n in range(400)))

    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            views = await asyncio.gather(*(disk.read(fd, n * BLOCK, BLOCK) for n in range(400)))
            for number, view in enumerate(views):
                assert view == filled_block(number)

    run_on_disk(scenario)


def test_a_failed_read_raises_with_errno_and_path(
    run_on_disk: RunOnDisk, segment_path: Path
) -> None:
    segment_path.write_bytes(b"x" * BLOCK)

    async def scenario(disk: Disk) -> None:
        write_only = os.open(segment_path, os.O_WRONLY)
        with pytest.raises(OSError, match=segment_path.name) as caught:
            await disk.read(write_only, 0, BLOCK)
        os.close(write_only)
        assert caught.value.errno == errno.EBADF

    run_on_disk(scenario)


def test_a_cancelled_reader_leaves_no_trace(run_on_disk: RunOnDisk, segment_path: Path) -> None:
    segment_path.write_bytes(b"x" * (1 << 20))

    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            task = asyncio.ensure_future(disk.read(fd, 0, 1 << 20))
            await asyncio.sleep(0)
            assert disk.in_flight == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await disk.close()
            assert disk.in_flight == 0

    run_on_disk(scenario)


def test_allocate_reserves_extends_and_keeps_what_is_there(
    run_on_disk: RunOnDisk, segment_path: Path
) -> None:
    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            assert await write(disk, fd, filled_block(5), 0) == BLOCK
            await disk.allocate(fd, 0, 64 * BLOCK)
            status = os.fstat(fd)
            assert status.st_size == 64 * BLOCK
            assert status.st_blocks * 512 >= 64 * BLOCK
            assert await disk.read(fd, 0, BLOCK) == filled_block(5)
            with pytest.raises(OSError, match=segment_path.name):
                await disk.allocate(fd, 0, 1 << 60)

    run_on_disk(scenario)


def test_run_calls_in_a_thread_and_passes_exceptions_on(run_on_disk: RunOnDisk) -> None:
    async def scenario(disk: Disk) -> None:
        assert await disk.run(divmod, 17, 5) == (3, 2)
        with pytest.raises(FileNotFoundError):
            await disk.run(os.stat, "/does/not/exist")

    run_on_disk(scenario)


def test_close_waits_for_what_is_in_flight_and_refuses_more(
    run_on_disk: RunOnDisk, segment_path: Path
) -> None:
    async def scenario(disk: Disk) -> None:
        with opened(segment_path) as fd:
            results: list[int] = []
            for number in range(600):
                disk.write(fd, filled_block(number), number * BLOCK, results.append)
            await asyncio.gather(disk.close(), disk.close())
            assert results == [BLOCK] * 600
            assert disk.in_flight == 0
            with pytest.raises(Exception, match="disk is closed"):
                disk.write(fd, filled_block(1), 0, results.append)
            with pytest.raises(Exception, match="disk is closed"):
                await disk.read(fd, 0, BLOCK)
            await disk.close()

    run_on_disk(scenario)


# --- read_whole: what the kernel does rarely ---------------------------------------------------


class PiecewiseFile:
    """Serves a real file's bytes in pieces as short as `pieces` says; records the positions."""

    def __init__(self, path: Path, pieces: list[int]) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        self.pieces = pieces
        self.positions: list[int] = []

    async def read_some(self, fd: int, view: memoryview, pos: int) -> int:
        self.positions.append(pos)
        piece = self.pieces.pop(0) if self.pieces else len(view)
        if piece < 0:
            return piece
        return os.preadv(fd, [view[:piece]], pos)

    def read(self, pos: int, size: int) -> memoryview:
        try:
            return asyncio.run(self._read(pos, size))
        finally:
            os.close(self.fd)

    async def _read(self, pos: int, size: int) -> memoryview:
        return await read_whole(self.read_some, self.fd, pos, size)


@pytest.fixture
def four_blocks(tmp_path: Path) -> Path:
    path = tmp_path / "blocks"
    path.write_bytes(b"".join(bytes(filled_block(n)) for n in range(4)))
    return path


def test_a_short_read_inside_the_file_goes_on_from_an_aligned_position(four_blocks: Path) -> None:
    file = PiecewiseFile(four_blocks, [READ_ALIGNMENT + 512, 2 * READ_ALIGNMENT])
    assert file.read(0, 4 * BLOCK) == four_blocks.read_bytes()
    assert file.positions == [0, READ_ALIGNMENT, 3 * READ_ALIGNMENT]


def test_reading_without_progress_inside_the_file_is_an_error(four_blocks: Path) -> None:
    file = PiecewiseFile(four_blocks, [512] * 4)
    with pytest.raises(OSError, match="makes no progress") as caught:
        file.read(0, 4 * BLOCK)
    assert caught.value.errno == errno.EIO


def test_a_file_that_grew_after_the_read_is_read_on(four_blocks: Path) -> None:
    file = PiecewiseFile(four_blocks, [BLOCK, 0])
    assert file.read(0, 4 * BLOCK) == four_blocks.read_bytes()


def test_an_error_after_a_short_read_is_raised(four_blocks: Path) -> None:
    with pytest.raises(OSError, match="reading") as caught:
        PiecewiseFile(four_blocks, [BLOCK, -errno.EIO]).read(0, 4 * BLOCK)
    assert caught.value.errno == errno.EIO
