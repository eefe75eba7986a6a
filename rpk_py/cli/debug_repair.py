"""`rpk-py debug rebuild-index`, `cut` and `journal`: the last resorts of an operator.

Which process: the operator's, while no broker runs: they take the data directory's lock. Nothing is
changed without `--yes`; without it they say what they would do.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rpk_py import data_dir
from rpk_py.cli.debug import DAMAGED, Inspection
from rpk_py.cli.debug_files import directories_argument, examine, journal_folders
from rpk_py.cli.output import format_option, note, print_json, print_rows, print_text
from rpk_py.data_dir import JOURNAL
from rpk_py.startup_error import StartupError
from storage.disk import fsync_dir, write_file_atomic
from storage.errors import CorruptRecord, LockTimeout
from storage.journal import read_journals
from storage.log_start import start_in
from storage.segment import CHECKPOINT_SUFFIX, INDEX_SUFFIX, SEGMENT_SUFFIX, cut
from storage.wal_format import record_bytes

yes_option = click.option(
    "--yes", is_flag=True, help="Do it; without, only say what would be done."
)


def _locked(path: Path) -> int:
    """The data directory's lock: no broker runs. Ends the command where one does."""
    try:
        return data_dir.lock(path, 0.0, lambda _text: None)
    except StartupError as error:
        note(str(error))
        sys.exit(2)


@click.command(name="rebuild-index")
@directories_argument
@yes_option
def rebuild_index(paths: tuple[Path, ...], yes: bool) -> None:
    """Write the index files of sealed segments anew where they are missing or not what the records
    make of them. A start does the same for those that it needs; no broker may run.

    Exit code: 0 done, or nothing to do; 1 a segment is damaged, and its index is left alone; 2 a
    broker runs, or a path is no partition.
    """
    code = 0
    for path in paths:
        fd = _locked(path.resolve().parent)
        report = examine(path)
        for segment in report.segments[:-1]:
            if segment.index.endswith("entries"):
                continue
            if segment.verdict != "clean":
                note(f"{path / segment.name} is damaged: its index is left alone")
                code = 1
                continue
            inspection = Inspection(path / segment.name, lambda _kind, _facts: None, 0)
            inspection.run()
            header, result = inspection.header, inspection.result
            assert header is not None
            assert result is not None
            crc, end = result.last_header_crc, result.next_offset
            data = inspection.index.encode(header, result.end_pos, end, crc)
            target = (path / segment.name).with_suffix(INDEX_SUFFIX)
            if yes:
                write_file_atomic(target, data)
            print_text(f"{target}: {'written' if yes else 'would be written'}, {len(data)} bytes")
        os.close(fd)
    sys.exit(code)


@click.command(name="cut")
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--at-offset", required=True, type=click.IntRange(min=0), help="The log's new end, exclusive."
)
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=False),
    help="Where the copy of all files as they are now goes. [default: PATH.before-cut]",
)
@click.option("--no-copy", is_flag=True, help="Keep no copy.")
@yes_option
def cut_log(path: Path, at_offset: int, keep: Path | None, no_copy: bool, yes: bool) -> None:
    """End a partition's log at an offset: everything from there on is lost, acknowledged or not.

    For a damaged partition of which there is no replica and no backup: what is before the damage
    can be served again. Only whole records on disk can be kept, so the new end is the largest one
    that is at most the offset. The whole directory is copied before. No broker may run.

    \b
    Example:  rpk-py debug partition /var/lib/rpk/orders-0         # where is the damage?
              rpk-py debug cut /var/lib/rpk/orders-0 --at-offset 4711
              rpk-py debug cut /var/lib/rpk/orders-0 --at-offset 4711 --yes

    Exit code: 0 done, or with --yes it would be; 1 it cannot be cut there; 2 a broker runs.
    """
    path = path.resolve()
    fd = _locked(path.parent)
    try:
        plan = _plan_cut(path, at_offset)
        copy = None if no_copy else keep or path.with_name(f"{path.name}.before-cut")
        if copy is not None and copy.exists():
            raise _CannotCut(f"{copy} exists already; name another with --keep")
        would = "" if yes else "would "
        print_text(
            f"{plan.last.name} {would}end{'s' if yes else ''} at position {plan.end_pos}; the log "
            f"{would}end{'s' if yes else ''} before offset {plan.end_offset}"
        )
        for each in plan.dropped:
            print_text(f"{each.name} {would or 'is '}{'be ' if would else ''}removed")
        if not yes:
            print_text("Nothing was changed; --yes does it.")
            return
        if copy is not None:
            shutil.copytree(path, copy)
            print_text(f"a copy is in {copy}")
        _carry_out(path, plan)
    except _CannotCut as error:
        note(str(error))
        sys.exit(1)
    finally:
        os.close(fd)


class _CannotCut(Exception):
    """Why; nothing was changed."""


@dataclass(slots=True)
class _Cut:
    """Where the log will end: in `last`, before `end_offset`; `dropped` are files that go."""

    last: Path
    end_pos: int
    end_offset: int
    dropped: list[Path]


def _plan_cut(path: Path, at_offset: int) -> _Cut:
    names = sorted(os.listdir(path))
    wals = [name for name in names if name.endswith(SEGMENT_SUFFIX)]
    kept = [name for name in wals if int(Path(name).stem) <= at_offset]
    if not kept:
        raise _CannotCut(f"{path}: the log begins behind offset {at_offset}: nothing would be left")
    last, records = path / kept[-1], []

    def note_record(kind: str, facts: dict[str, Any]) -> None:
        if kind == "record" and facts["crc"] == "ok":
            records.append(facts)

    inspection = Inspection(last, note_record, 0)
    inspection.run()
    header = inspection.header
    if header is None:
        raise _CannotCut(
            f"{last} has no header that can be read; cut at {int(last.stem)} or before"
        )
    end_pos, end_offset = header.block_bytes, header.base_offset
    for facts in records:
        if facts["last_offset"] >= at_offset:
            break
        end_pos = facts["pos"] + record_bytes(facts["body_bytes"], header.block_bytes)
        end_offset = facts["last_offset"] + 1
    if getattr(header, "replaced", None) is not None and not _is_all(inspection, end_offset):
        raise _CannotCut(f"{last} was rewritten and can be kept as a whole only")
    try:
        start_offset = start_in(names)
    except CorruptRecord as error:
        raise _CannotCut(f"{path}: {error}") from None
    if start_offset > end_offset:
        raise _CannotCut(f"{path}: the log starts at offset {start_offset}: nothing would be left")
    held = _journaled_behind(path.parent, header.topic_id, header.partition, end_offset)
    if held:
        raise _CannotCut(
            f"{path.parent / JOURNAL} goes on to offset {held - 1} of this partition: start the "
            "broker once, so that the other partitions take theirs, stop it, and set the journal "
            f"aside: rpk-py debug journal {path.parent} --set-aside --yes"
        )
    dropped = [path / name for name in wals if name not in kept]
    dropped += [each.with_suffix(INDEX_SUFFIX) for each in [last, *dropped]]
    for name in names:
        if name.endswith(CHECKPOINT_SUFFIX) and int(Path(name).stem) > end_offset:
            dropped.append(path / name)
    return _Cut(last, end_pos, end_offset, [each for each in dropped if each.exists()])


def _is_all(inspection: Inspection, end_offset: int) -> bool:
    return inspection.result is not None and inspection.result.next_offset == end_offset


def _carry_out(path: Path, plan: _Cut) -> None:
    """The later files first, so that a crash in between leaves a log that ends earlier or is as
    damaged as it was."""
    for each in sorted(plan.dropped, reverse=True):
        each.unlink()
    fsync_dir(path)
    fd = os.open(plan.last, os.O_RDWR | os.O_CLOEXEC)
    try:
        cut(fd, plan.end_pos)
    finally:
        os.close(fd)


def _journaled_behind(directory: Path, topic_id: bytes, index: int, end_offset: int) -> int:
    """Up to which offset the journals go on behind `end_offset`, 0 where they do not."""
    folders = journal_folders(directory)
    try:
        entries = read_journals(folders, 0.0).get((topic_id, index), [])
    except (CorruptRecord, LockTimeout):
        return 0
    ends = [entry.next_offset for entry in entries if entry.next_offset > end_offset]
    return max(ends, default=0)


# --- the journal ---------------------------------------------------------------------------------


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--set-aside",
    is_flag=True,
    help="Move the journal away, so that a start goes on without it: what only it holds is lost.",
)
@yes_option
@format_option
def journal(path: Path, set_aside: bool, yes: bool, output: str) -> None:
    """Show what the journals of a data directory hold: what was acknowledged and may not be in its
    segments yet, by partition; or set them aside where they are damaged.

    A start appends it to the segments. A damaged journal stops a start, since what it held may have
    been acknowledged: restore it, or set it aside and lose that. No broker may run.

    JSON: {entries, problems, set_aside}; an entry is {journal, topic_id, partition, base_offset,
    next_offset, bytes}; set_aside is where it is now, or null.

    Exit code: 0 whole, 1 damaged, 2 a broker runs.
    """
    path = path.resolve()
    fd = _locked(path)
    entries: list[dict[str, Any]] = []
    problems: list[str] = []
    for folder in journal_folders(path):
        try:
            found = read_journals([folder], 0.0)
        except CorruptRecord as error:
            problems.append(str(error))
            continue
        for (topic_id, index), some in sorted(found.items()):
            entries += [
                {
                    "journal": folder.name,
                    "topic_id": topic_id.hex(),
                    "partition": index,
                    "base_offset": entry.base_offset,
                    "next_offset": entry.next_offset,
                    "bytes": len(entry.data),
                }
                for entry in some
            ]
    target = None
    if set_aside and yes and (path / JOURNAL).exists():
        target = path / f"{JOURNAL}.aside-{int(time.time())}"
        os.rename(path / JOURNAL, target)
        fsync_dir(path)
    os.close(fd)
    if output == "json":
        print_json({"entries": entries, "problems": problems, "set_aside": target and str(target)})
    else:
        headers = ("JOURNAL", "TOPIC-ID", "PARTITION", "BASE-OFFSET", "NEXT-OFFSET", "BYTES")
        print_rows(headers, [tuple(entry.values()) for entry in entries], "text")
        for text in problems:
            print_text(f"DAMAGE {text}")
        if target is not None:
            print_text(f"set aside: {target}")
        elif set_aside:
            print_text("Nothing was changed; --yes sets it aside.")
    sys.exit(DAMAGED if problems and target is None else 0)
