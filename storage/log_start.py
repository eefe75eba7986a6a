"""Where a log starts: `<log start offset, 20 digits>-<its CRC-32C, 8 hex digits>.start`, an empty
file whose name is the fact.

A name is whole or absent after a power cut, and the largest one counts, so the start moves to the
new offset or stays at the old one and never goes back. Not every file system notices a bit that
turned in a name, and another start would have acknowledged records be given up: hence the
CRC. It is durable before any segment below it
is given up: of those that lie wholly below the start recovery looks at none before the segment
that the newest checkpoint points into, whether it is still there, gone, or overwritten in another
partition by then. The functions block; run them through `Disk.run`.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path

from kafka_protocol.checksum import crc32c
from storage.disk import fsync_dir
from storage.errors import CorruptRecord, DiskFailed
from storage.recycle import SegmentPool
from storage.segment import INDEX_SUFFIX, SEGMENT_SUFFIX, file_name

START_SUFFIX = ".start"


def start_name(start_offset: int) -> str:
    """The name that says that a log starts there."""
    digits = f"{start_offset:020d}"
    return f"{digits}-{crc32c(digits.encode()):08x}{START_SUFFIX}"


def start_in(names: Iterable[str]) -> int:
    """The log start offset that a directory's file names say, 0 where none does.
    Raises CorruptRecord for a name that is damaged."""
    return max((offset for offset, _name in _starts(names)), default=0)


def readable_start_in(names: Iterable[str]) -> int:
    """The same for a tool that is not about the start: 0 where its name is damaged."""
    try:
        return start_in(names)
    except CorruptRecord:
        return 0


def _starts(names: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(offset, name) of each log start."""
    for name in names:
        if name.endswith(START_SUFFIX) and len(name) == _NAME_LENGTH:
            digits = name[:20]
            if not digits.isdecimal() or start_name(int(digits)) != name:
                raise CorruptRecord(
                    f"{name}: the name says where the log starts, and its checksum does not match"
                )
            yield int(digits), name


_NAME_LENGTH = len(start_name(0))


def names_below(names: Iterable[str], start_offset: int) -> list[str]:
    """Segments that lie wholly below the start, and indexes of such, oldest first."""
    if start_offset == 0:
        return []
    files = list(names)
    first = max(
        (base for base in _offsets(files, SEGMENT_SUFFIX) if base <= start_offset), default=0
    )
    return [
        file_name(base, suffix)
        for suffix in (INDEX_SUFFIX, SEGMENT_SUFFIX)
        for base in sorted(_offsets(files, suffix))
        if base < first
    ]


def move_start(directory: Path, start_offset: int) -> None:
    """Make `start_offset` the log's start, durably.

    Raises: OSError     nothing was synced: a file could not be made or opened
            DiskFailed  the sync failed, which is final
    """
    path = directory / start_name(start_offset)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fsync_dir(directory)
        # XFS that has shut itself down meanwhile says of a directory that it is synced (seen on
        # Linux 6.18), though the name is lost; of a file it says EIO.
        os.fsync(fd)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # fsync(2) has no such error: an open's
            raise
        raise DiskFailed(f"cannot make the log start durable in {directory}: {error}") from error
    finally:
        os.close(fd)


def remove_superseded(directory: Path, start_offset: int) -> None:
    """Remove the names that `start_offset` supersedes, and no later ones, which may be under way.
    Raises OSError."""
    for offset, name in _starts(os.listdir(directory)):
        if offset < start_offset:
            (directory / name).unlink(missing_ok=True)


def give_up(directory: Path, names: list[str], pool: SegmentPool) -> None:
    """Retire the segments among `names` and delete the others. Raises OSError."""
    for name in names:
        path = directory / name
        if path.suffix == SEGMENT_SUFFIX:
            pool.retire(path)
        else:
            path.unlink(missing_ok=True)


def trim_epochs(epochs: list[tuple[int, int]], start_offset: int) -> None:
    """Forget epochs that ended at or below the start; the one it lies in begins there.

    As in LeaderEpochFileCache.truncateFromStart of Apache Kafka.
    """
    i = bisect_right(epochs, start_offset, key=lambda entry: entry[1]) - 1
    if i >= 0:
        epochs[: i + 1] = [(epochs[i][0], start_offset)]


def _offsets(names: Iterable[str], suffix: str) -> list[int]:
    stems = [name.removesuffix(suffix) for name in names if name.endswith(suffix)]
    return [int(stem) for stem in stems if stem.isdecimal()]
