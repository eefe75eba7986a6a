"""Bit rot: one bit after the other of everything that a shard has on disk is flipped.

    python -m tests.crash.rot [--step N] [--seed N]

A shard's files are made in several states (IMAGES). For each byte one bit is flipped, and the shard
starts anew and is read from start to end. What may come of it:

harmless   all that was acknowledged is served (padding, or a file that is rebuilt)
refused    the partition does not open, or no journal is taken where one is damaged; not a byte
           of the damaged files is changed
offline    a read meets it: the partition goes offline, and what it served until then is right
newest     the newest record of a shard that was killed, which nothing on disk proves to have been
           durable: it is the same as a torn write, and is cut

Everything else is a fault: wrong bytes served, an acknowledged record gone, a deleted one back,
another partition touched. And when the bit is put back, all is served again. The control is a
reader that does not check CRCs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from storage import cold_reader, rewrite
from storage import journal as journal_module
from storage.errors import StorageError
from storage.log import Log
from storage.log_start import START_SUFFIX
from storage.segment import SEGMENT_SUFFIX
from storage.wal_format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    decode_record_header,
    decode_segment_header,
    record_bytes,
)
from tests.storage.builder import BLOCK, Driven, HeldWrite, Host, batch_of_size, contents

PARTITIONS = 5
JOURNAL_BYTES = 12 * BLOCK
PADDING_STEP = 61  # of the bytes that nobody reads
NO_WRITE = HeldWrite(-1, memoryview(b""), 0, lambda _res: None)
CONTROL_STEP = 20
IMAGES = ("killed", "killed, both journals", "killed, no journal", "rewritten", "stopped")
SETTINGS = {"segment_bytes": 8 * BLOCK, "checkpoint_bytes": 3 * BLOCK, "cache_bytes": 0}


@dataclass(slots=True)
class Result:
    """Flips by kind of file; what became of them (see the module), `told` being refused or offline;
    `outcomes` the same by kind of file; `lost`: the first fault; `control`: after how many flips
    the reader that checks nothing was found out."""

    flips: dict[str, int] = field(default_factory=dict)
    told: int = 0
    harmless: int = 0
    newest: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    lost: str | None = None
    control: int | None = None


@dataclass(slots=True)
class Image:
    """A shard's files, and what it had acknowledged: partition -> (log start, bytes from there).

    newest  (file, first byte, last byte) of the records that may be taken for torn ones
    """

    name: str
    files: dict[str, bytes]
    promised: list[tuple[int, int, bytes]]
    newest: list[tuple[str, int, int]]


def run(
    folder: Path, seed: int, step: int = 1, images: tuple[str, ...] = IMAGES, first: int = 1,
    say: Callable[[str], None] = lambda _text: None,
) -> Result:  # fmt: skip
    """Flip a bit of every `step`-th byte from the `first` one on, until something is lost; then
    the control."""
    result, liar = Result(), Result()
    _run(folder / "made", seed, step, first, images, say, result)
    with mock.patch.object(cold_reader, "body_crc_holds", _holds):
        _run(folder / "control", seed, CONTROL_STEP, 1, images[-1:], lambda _text: None, liar)
    result.control = sum(liar.flips.values()) if liar.lost is not None else None
    return result


def _run(
    folder: Path, seed: int, step: int, first: int, images: tuple[str, ...],
    say: Callable[[str], None],
    result: Result,
) -> None:  # fmt: skip
    rng = random.Random(seed)
    data = folder / "data"
    data.mkdir(parents=True)
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(journal_module, "FILE_BYTES", JOURNAL_BYTES))
        patches.enter_context(mock.patch.object(rewrite, "SAVED_BYTES_MIN", 0))
        for number, name in enumerate(images):
            (folder / f"{number}").mkdir()
            image = asyncio.run(make_image(folder / f"{number}", name))
            for file, pos in places(image, first, step):
                restore(data, image.files)
                asyncio.run(_flip_one(result, data, image, file, pos, 1 << rng.randrange(8)))
                if result.lost is not None:
                    return
            say(f"{name}: {sum(result.flips.values())} flips; {result.outcomes}")


def _holds(_record: RecordHeader, _body: memoryview) -> bool:
    """As a reader that checks nothing."""
    return True


# -- what is flipped -----------------------------------------------------------------------------


async def make_image(directory: Path, name: str) -> Image:
    """A shard with everything on its disk: sealed segments, indexes, checkpoints, a log start,
    retired segments, journals that hold what no segment has."""
    host = Host(directory, **SETTINGS)  # type: ignore[arg-type]
    logs = [await host.open(f"rot-{i}", partition=i) for i in range(PARTITIONS)]
    if "no journal" not in name:
        host.begin_journal()
    for driven in logs[:2]:
        for size in (80, 300, BLOCK, 90, 200, 80, 120, 81, 150, 82, 83, 84):
            driven.append_batch(batch_of_size(size))
            await driven.durable()
    target = logs[0]
    await target.log.delete_records(target.appended[4].next_offset - 1)
    for size in (90, 400):
        for driven in logs:  # in one tick: they share a write to the journal
            driven.append_batch(batch_of_size(size + driven.log.partition))
        for driven in logs:
            await driven.durable()
    if name == "rewritten":
        for driven in logs[:2]:
            await driven.log.rewriter.rewrite_padded()
    if name == "killed, both journals":
        await _fill_both_journals(host, logs)
    promised = [promise(driven) for driven in logs]
    if name == "stopped":
        for driven in list(logs):
            await driven.close()
    await host.crash()
    files = {path: data for path, data in contents(directory).items() if "recycle" not in path}
    return Image(name, files, promised, [] if name == "stopped" else list(newest_records(files)))


async def _fill_both_journals(host: Host, logs: list[Driven]) -> None:
    """Nothing more gets to segments, until both of the journal's files hold acknowledged records;
    those of the last partition stand in the newest record of the first file alone."""
    journal, disk = host.context.committer.journal, host.held
    assert journal is not None
    disk.auto = False
    fds, first = {file.fd for file in journal._files}, journal._current
    while journal._current is first:
        is_last = 2 * BLOCK <= JOURNAL_BYTES - first.write_pos < 4 * BLOCK
        for driven in logs if is_last else logs[:-1]:
            driven.append_batch(batch_of_size(80))
        for _ in range(100):
            disk.land(*[write for write in disk.held if write.fd in fds] or [NO_WRITE])
            await asyncio.sleep(0)
        assert all(driven.log.durable_offset == driven.log.log_end_offset for driven in logs)


def promise(driven: Driven) -> tuple[int, int, bytes]:
    """(log start, log end, the bytes that are served from there on)."""
    log = driven.log
    return log.log_start_offset, log.log_end_offset, b"".join(s.data for s in driven.model)


def newest_records(files: dict[str, bytes]) -> Iterator[tuple[str, int, int]]:
    """(file, first, end) of what nothing proves: the journal's newest record, behind which nothing
    was written; where there is no journal, the newest record of each log."""
    newest: dict[str, tuple[int, str, int, int]] = {}
    for name, data in files.items():
        path = Path(name)
        if path.suffix not in (SEGMENT_SUFFIX, journal_module.SUFFIX):
            continue
        view = memoryview(data)
        header = decode_segment_header(view)
        assert not isinstance(header, str)
        for pos in range(BLOCK, len(data), BLOCK):
            record = decode_record_header(view[pos:], header, pos)
            if record is not None:
                end = pos + record_bytes(record.body_length, BLOCK)
                place = record.base_offset, name, pos, end
                newest[str(path.parent)] = max(place, newest.get(str(path.parent), place))
    journals = [place for place in newest.values() if place[1].endswith(journal_module.SUFFIX)]
    return (place[1:] for place in journals or newest.values())


def places(image: Image, first: int = 1, step: int = 1) -> Iterator[tuple[str, int]]:
    """(file, position) of every byte that is read, and of few of the zeros around them; a position
    in a log start's name for that. Of each file every `step`-th from the `first` one on."""
    for name, data in sorted(image.files.items()):
        path = Path(name)
        positions: Iterable[int] = range(len(data))
        if path.suffix == START_SUFFIX:
            positions = range(len(path.name))
        elif path.suffix in (SEGMENT_SUFFIX, journal_module.SUFFIX):
            positions = _bytes_that_are_read(data)
        yield from ((name, pos) for pos in itertools.islice(positions, first - 1, None, step))


def _bytes_that_are_read(data: bytes) -> Iterator[int]:
    for start in range(0, len(data), BLOCK):
        block = data[start : start + BLOCK]
        used = len(block.rstrip(b"\0"))
        if used:  # headers end in zeros that are read as well
            used = max(used, SEGMENT_HEADER_BYTES, RECORD_HEADER_BYTES)
        for pos in range(len(block)):
            if pos < used or not pos % PADDING_STEP:
                yield start + pos


def restore(directory: Path, files: dict[str, bytes]) -> None:
    """Make the directory hold exactly these files."""
    there = contents(directory)
    for name in there.keys() - files.keys():
        (directory / name).unlink()
    for name, data in files.items():
        if there.get(name) != data:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(data)


# -- what comes of it ----------------------------------------------------------------------------


async def _flip_one(
    result: Result, data: Path, image: Image, name: str, pos: int, mask: int
) -> None:
    where = f"{image.name}: {name} byte {pos} mask {mask:#x}"
    path = Path(name)
    if path.suffix == START_SUFFIX:
        turned = bytearray(path.name.encode())
        turned[pos] ^= mask
        if turned[pos] in b"/\0":
            return
        (data / name).rename((data / name).with_name(turned.decode("latin-1")))
    else:
        turn(data / name, pos, mask)
    rotten = contents(data)
    found, newest = await outcomes(data, image, name, pos)
    worst = next((outcome for outcome in found.values() if outcome != "harmless"), "harmless")
    faults = [outcome for outcome in found.values() if outcome.startswith("fault")]
    own = partition_of(name)
    if own is not None and any(p != own and found[p] != "harmless" for p in found):
        faults.append(f"other partitions are touched: {found}")
    files = f"rot-{own}/" if own is not None else "journal/"
    if worst == "refused" and _below(contents(data), files) != _below(rotten, files):
        faults.append("refused, and yet files were changed")
    if worst in ("refused", "offline"):
        put_back(data, image, name, pos, mask)
        again, _newest = await outcomes(data, image, "", 0)
        if set(again.values()) != {"harmless"}:
            faults.append(f"with the bit put back: {again}")
    kind = path.suffix.removeprefix(".")
    result.flips[kind] = result.flips.get(kind, 0) + 1
    outcome = "fault" if faults else "newest" if newest else worst
    key = f"{kind} {outcome}"
    result.outcomes[key] = result.outcomes.get(key, 0) + 1
    result.told += outcome in ("refused", "offline")
    result.harmless += outcome == "harmless"
    result.newest += outcome == "newest"
    if faults:
        result.lost = f"{where}: {faults[0]}"


def _below(files: dict[str, bytes], directory: str) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.startswith(directory)}


def turn(path: Path, pos: int, mask: int) -> None:
    """Flip bits of one byte."""
    with path.open("r+b") as file:
        file.seek(pos)
        (old,) = file.read(1)
        file.seek(pos)
        file.write(bytes([old ^ mask]))


def put_back(data: Path, image: Image, name: str, pos: int, mask: int) -> None:
    """As the operator's backup would."""
    if Path(name).suffix == START_SUFFIX:
        for path in (data / name).parent.glob("*"):
            if str(path.relative_to(data)) not in image.files and path.stat().st_size == 0:
                path.unlink()
        (data / name).touch()
    elif (data / name).exists():
        turn(data / name, pos, mask)


def partition_of(name: str) -> int | None:
    """The partition that a file belongs to, None for a journal."""
    directory = Path(name).parent.name
    return int(directory.removeprefix("rot-")) if directory.startswith("rot-") else None


async def outcomes(data: Path, image: Image, name: str, pos: int) -> tuple[dict[int, str], bool]:
    """What comes of each partition after a restart, and whether a newest record was cut."""
    host = Host(data, life=2, **SETTINGS)  # type: ignore[arg-type]
    found: dict[int, str] = {}
    newest = False
    excused = any(n == name and first <= pos < last for n, first, last in image.newest)
    try:
        host.read_journal()
    except StorageError:
        return dict.fromkeys(range(PARTITIONS), "refused"), False
    for index, (start, end, whole) in enumerate(image.promised):
        try:
            driven = await host.open(f"rot-{index}", partition=index)
        except StorageError:
            found[index] = "refused"
            continue
        except Exception as error:
            found[index] = f"fault: wrong bytes taken in: {error!r}"
            continue
        log = driven.log
        served, error = await serve(log)
        if not whole.startswith(served) and not (excused and served.startswith(whole)):
            found[index] = f"fault: wrong bytes served, {len(served)} of {len(whole)}"
        elif log.log_start_offset != start:
            found[index] = f"fault: the log starts at {log.log_start_offset}, not at {start}"
        elif error is not None:
            found[index] = "offline"
        elif log.log_end_offset == end and served == whole:
            found[index] = "harmless"
        elif excused:
            found[index], newest = "harmless", True
        else:
            found[index] = f"fault: lost: the log ends at {log.log_end_offset}, not at {end}"
    await host.crash()
    return found, newest


async def serve(log: Log) -> tuple[bytes, StorageError | None]:
    """What a consumer gets from the start on, and what it is refused with."""
    offset, parts = log.log_start_offset, []
    try:
        while offset < log.durable_offset:
            slices, offset = await log.read(offset, log.durable_offset, 1)  # a batch at a time
            parts += [bytes(view) for view in slices]
    except StorageError as error:
        return b"".join(parts), error
    return b"".join(parts), None


def main() -> int:
    """The command; exit code 1 where something was lost, or the control was not found out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--images", default=";".join(IMAGES), help="by semicolons")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    where = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="rot.", dir=where) as folder:
        images = tuple(args.images.split(";"))
        result = run(
            Path(folder), args.seed, args.step, images, 1, lambda text: print(text, flush=True)
        )
    print(result)
    return int(result.lost is not None or result.control is None)


if __name__ == "__main__":
    sys.exit(main())
