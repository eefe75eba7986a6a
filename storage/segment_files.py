"""The open segments of a shard: a bounded number, opened when they are used, closed when idle.

A segment that is open has a descriptor and, if it is sealed, its index in memory. Where there is no
room for one more, the one is closed that nobody has used for longest. Whoever uses a segment has it
pinned meanwhile, and one that is written stays open while a write is on its way, so a descriptor is
never closed under work. Who waits for room holds no other segment, so there will be some.

The lock goes with the descriptor. That is sound: the lock says that writes may still land, and of a
closed segment none is on its way. It is locked again before it is written again, and must be the
file that was closed, of the size that it had: else the log fails.

One a shard, on its loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from storage.disk import Disk
from storage.errors import CorruptRecord
from storage.index import ENTRY_BYTES
from storage.load_segment import load_sealed
from storage.segment import Segment, open_again

FILES_MIN = 16
SECOND_CHANCES_MAX = 64  # at one search, for segments that were written since the last
INDEX_BYTES_MAX = 64 << 20  # of sealed segments, in memory


class SegmentFiles:
    """See the module.

    files_max  segments that are open at a time; those that are just being made come on top
    """

    def __init__(
        self,
        disk: Disk,
        files_max: int,
        lock_wait_s: float,
        report: Callable[[str, str], None],
        index_bytes_max: int = INDEX_BYTES_MAX,
    ) -> None:
        self._disk = disk
        self.files_max = max(files_max, FILES_MIN)
        self._lock_wait_s = lock_wait_s
        self._report = report
        self._index_bytes_max = index_bytes_max
        # Oldest use first; where the writer of each stood when it was looked at last.
        self._open: OrderedDict[Segment, int] = OrderedDict()
        self._index_bytes: dict[Segment, int] = {}
        self._index_bytes_sum = 0
        self._opening: dict[Segment, asyncio.Task[None]] = {}
        self._waiting: deque[tuple[Segment, asyncio.Future[None]]] = deque()
        self.opened_count = 0  # again, after they had been closed or never opened

    def __len__(self) -> int:
        """How many are open, or being opened."""
        return len(self._open) + len(self._opening)

    def add(self, segment: Segment) -> None:
        """Count a segment that is open."""
        if segment not in self._open:
            self.make_room(1)  # before it is there: it is not to be closed at once
        segment.holder = self
        self._open[segment] = segment.write_pos
        if segment.sealed:
            size = len(segment.index.positions) * ENTRY_BYTES
            self._index_bytes_sum += size - self._index_bytes.get(segment, 0)
            self._index_bytes[segment] = size
        while self._index_bytes_sum > self._index_bytes_max and self._close_one(only_sealed=True):
            pass

    def make_room(self, count: int) -> None:
        """Close idle segments until there is room for `count` more, as far as that is possible."""
        while len(self) + count > self.files_max and self._close_one():
            pass

    async def use(self, segment: Segment, segments: Sequence[Segment]) -> None:
        """Have a segment open, which the caller has pinned; on return it is closed only if it was
        replaced meanwhile, and another one has its offsets.

        segments  of its log, in order; the last one was loaded
        Raises: OSError, LockTimeout  it cannot be opened
                CorruptRecord  it is damaged, or not the file that it was
        """
        if segment in self._open:
            self._open.move_to_end(segment)
        elif segment.fd < 0:
            segments = tuple(segments)  # it may be retired while it is opened
        while segment.fd < 0 and not segment.replaced:
            opening = self._opening.get(segment)
            if opening is None:
                if len(self) >= self.files_max and not self._close_one():
                    await self._wait_for_room(segment)
                    continue
                opening = asyncio.get_running_loop().create_task(self._load(segment, segments))
                self._opening[segment] = opening
                opening.add_done_callback(_look_at)
            await asyncio.shield(opening)

    async def _wait_for_room(self, segment: Segment) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((segment, waiter))
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake()  # the next one may have what was meant for this one
            raise

    @asynccontextmanager
    async def used(self, segment: Segment, segments: Sequence[Segment]) -> AsyncIterator[None]:
        """Have a segment open and pinned meanwhile. Raises as `use`."""
        segment.pin()
        try:
            await self.use(segment, segments)
            yield
        finally:
            segment.unpin()

    async def load(self, segment: Segment, segments: Sequence[Segment]) -> None:
        """Have looked into a segment: it has a header, and its largest timestamp is known.
        Raises as `use`."""
        if not segment.loaded or segment.known_max_timestamp is None:
            async with self.used(segment, segments):
                pass

    async def max_timestamp(self, segment: Segment, segments: Sequence[Segment]) -> int | None:
        """The largest timestamp in a segment, -1 where no record has one, None where it was
        replaced meanwhile. Raises as `use`."""
        if (known := segment.known_max_timestamp) is not None:
            return known
        async with self.used(segment, segments):
            return segment.index.max_timestamp if segment.fd >= 0 else None

    # -- Holder ----------------------------------------------------------------------------

    def closed(self, segment: Segment) -> None:
        """See Holder."""
        self._open.pop(segment, None)
        self._index_bytes_sum -= self._index_bytes.pop(segment, 0)
        self._wake()

    def released(self) -> None:
        """See Holder."""
        if self._waiting:
            self._wake()
        elif len(self._open) > self.files_max:  # those that were made while all others were busy
            self.make_room(0)

    def _wake(self) -> None:
        """Whoever waits longest looks again."""
        while self._waiting:
            _segment, waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _wake_all_of(self, opened: Segment) -> None:
        """It is open: who waits for room for it needs none, and might keep it pinned for ever."""
        for segment, waiter in self._waiting:
            if segment is opened and not waiter.done():
                waiter.set_result(None)

    # -- opening and closing ---------------------------------------------------------------

    async def _load(self, segment: Segment, segments: Sequence[Segment]) -> None:
        """Open it. Pinned, so that a log which is closed meanwhile closes it afterwards."""
        segment.pin()
        try:
            while segment.fd < 0 and not segment.replaced:
                try:
                    await self._open_file(segment, segments)
                except (CorruptRecord, FileNotFoundError):
                    if segment.moving is None and not segment.replaced:
                        raise
                    if segment.moving is not None:  # another may be in its place already
                        await asyncio.shield(segment.moving)
        finally:
            del self._opening[segment]
            if segment.fd >= 0:
                self.opened_count += 1
                self.add(segment)
                self._wake_all_of(segment)
            else:
                self._wake()  # its room is free again
            segment.unpin()

    async def _open_file(self, segment: Segment, segments: Sequence[Segment]) -> None:
        if not segment.has_index:
            await load_sealed(self._disk, self._report, self._lock_wait_s, segment, segments)
        else:
            segment.fd = await self._disk.run(_open_active, segment, self._lock_wait_s)

    def _close_one(self, only_sealed: bool = False) -> bool:
        """Close the segment that was not used for longest; False: all are in use.

        Appends do not tell that they use theirs: one that was written since it was last looked at
        counts as used just now.
        """
        chances = SECOND_CHANCES_MAX
        for _ in range(len(self._open) + chances):
            if not self._open:
                break
            segment, written = next(iter(self._open.items()))
            if segment.idle and (segment.sealed or not only_sealed):
                if segment.write_pos == written or not chances:
                    segment.close()
                    return True
                chances -= 1
            self._open[segment] = segment.write_pos
            self._open.move_to_end(segment)
        return False


def _look_at(opening: asyncio.Task[None]) -> None:
    """Who waited for it has its error; where nobody does any more, nobody misses it."""
    if not opening.cancelled():
        opening.exception()


def _open_active(segment: Segment, lock_wait_s: float) -> int:
    """The descriptor of a segment that was closed when it was not sealed yet. Blocks."""
    found = open_again(segment.path, segment.header, lock_wait_s)
    if found.allocated_bytes != segment.allocated_bytes:
        found.close()
        raise CorruptRecord(
            f"{segment.path} has {found.allocated_bytes} bytes, and had {segment.allocated_bytes} "
            "when it was closed"
        )
    return found.fd
