"""`rpk-py debug verify` and `partition`: what a data directory holds, and whether it is whole.

Which process: the operator's, beside a running broker or without one. Files are only read. Every
record is looked at as `debug wal` does; here what stands beside the records is held to them.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from rpk_py.cli.debug import DAMAGED, Inspection
from rpk_py.cli.output import format_option, note, print_json, print_rows, print_text
from rpk_py.data_dir import JOURNAL, LOCK_NAME
from storage.checkpoint import decode_checkpoint
from storage.errors import CorruptRecord, LockTimeout
from storage.index import decode_index
from storage.journal import read_journals
from storage.log_start import start_in
from storage.segment import CHECKPOINT_SUFFIX, INDEX_SUFFIX, SEGMENT_SUFFIX

TOLD_EVERY_S = 2.0
WHOLE, TORN, DAMAGE = "whole", "torn tail", "damage"
_PARTITION = re.compile(r".+-\d+")

directories_argument = click.argument(
    "paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
yes_option = click.option(
    "--yes", is_flag=True, help="Do it; without, only say what would be done."
)


# --- verify --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Segment:
    """One segment as it was found. `verdict` is of its records, `index` of its index file."""

    name: str
    base_offset: int
    next_offset: int
    file_bytes: int
    end_pos: int
    records: int
    batches: int
    verdict: str
    index: str


@dataclass(slots=True)
class Report:
    """One partition. `problems` lose something or may; `notes` are mended by the next start."""

    partition: str
    path: str
    verdict: str = WHOLE
    log_start_offset: int = 0
    next_offset: int = 0
    segments: list[Segment] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        """Something that had been durable is not there as it was written."""
        self.verdict = DAMAGE
        self.problems.append(text)


@click.command()
@directories_argument
@format_option
def verify(paths: tuple[Path, ...], output: str) -> None:
    """Verify data directories, or single partitions: every record header and its chain, every body
    and batch by its CRC, indexes, checkpoints and the journal against the records, and that no
    segment is missing.

    Reads everything, with its progress on standard error; nothing is changed. Beside a running
    broker what it writes meanwhile may look torn.

    \b
    Example:  rpk-py debug verify /var/lib/rpk
              rpk-py debug verify /var/lib/rpk/orders-0 --format json

    JSON: {partitions, journal}; a partition is {partition, path, verdict, log_start_offset,
    next_offset, segments, checkpoints, problems, notes}; the journal {entries, problems}.

    Exit code: 0 all is whole, or ends in a torn tail that nobody was promised; 1 damage; 2 there is
    no partition.
    """
    found = [partition for path in paths for partition in _partitions(path)]
    if not found:
        raise click.UsageError(f"no partition is in {', '.join(map(str, paths))}")
    for path in paths:
        if _is_in_use(path):
            note(f"a broker uses {path}: what it writes meanwhile may look torn")
    progress = _Progress(sum(_bytes_of(path) for path in found))
    reports = []
    for path in found:
        reports.append(examine(path))
        progress.advance(_bytes_of(path), path)
    journal = _examine_journals([path for path in paths if (path / JOURNAL).is_dir()])
    if output == "json":
        print_json({"partitions": [asdict(report) for report in reports], "journal": journal})
    else:
        _print_reports(reports, journal)
    damaged = journal["problems"] or any(report.problems for report in reports)
    sys.exit(DAMAGED if damaged else 0)


@click.command()
@directories_argument
@format_option
def partition(paths: tuple[Path, ...], output: str) -> None:
    """Describe partitions: their segments, indexes, checkpoints, log start, and what is wrong.

    \b
    Example:  rpk-py debug partition /var/lib/rpk/orders-0

    JSON: a list of partitions as `debug verify` has them.

    Exit code: 0 whole or a torn tail, 1 damage, 2 a path is no partition.
    """
    for path in paths:
        if not any(path.glob(f"*{SEGMENT_SUFFIX}")):
            raise click.UsageError(f"{path} is no partition: there are no segments in it")
    reports = [examine(path) for path in paths]
    if output == "json":
        print_json([asdict(report) for report in reports])
    else:
        for report in reports:
            _print_partition(report)
    sys.exit(DAMAGED if any(report.problems for report in reports) else 0)


def examine(path: Path) -> Report:
    """Read a partition's directory, all of it. Raises OSError where it goes away meanwhile."""
    report = Report(path.name, str(path))
    names = sorted(os.listdir(path))
    try:
        report.log_start_offset = start_in(names)
    except CorruptRecord as error:
        report.problem(str(error))
    seen: dict[int, Inspection] = {}
    wals = [name for name in names if name.endswith(SEGMENT_SUFFIX)]
    expected = -1
    topic_ids = set()
    for name in wals:
        facts: dict[str, dict[str, Any]] = {}
        inspection = Inspection(path / name, facts.__setitem__, 0)
        code = inspection.run()
        if "error" in facts or inspection.header is None or inspection.result is None:
            report.problem(f"{name}: {facts['error']['reason']}")
            continue
        base, summary = inspection.header.base_offset, facts["summary"]
        rewritten = facts["segment"].get("rewritten")
        if base < expected and wals.index(name) > 0:
            report.notes.append(f"{name}: the segment before it stands for it; removed at a start")
            continue
        topic_ids.add(inspection.header.topic_id)
        if base > expected >= 0:
            report.problem(f"offsets {expected} to {base - 1} are missing before {name}")
        seen[base] = inspection
        expected = rewritten["next_offset"] if rewritten else summary["next_offset"]
        if code == DAMAGED:
            report.problem(f"{name}: {summary['what']} at position {summary['end_pos']}")
        elif summary["verdict"] == TORN and report.verdict == WHOLE:
            report.verdict = TORN
        report.segments.append(
            Segment(
                name, base, summary["next_offset"], summary["file_bytes"], summary["end_pos"],
                summary["records"], summary["batches"], summary["verdict"],
                _examine_index(path / name, inspection, name == wals[-1], report),
            )
        )  # fmt: skip
    if len(topic_ids) > 1:
        report.problem("its segments belong to different topics")
    report.next_offset = max(expected, 0)
    if report.segments and report.log_start_offset < report.segments[0].base_offset:
        report.problem(
            f"the log starts at offset {report.log_start_offset}, and the first segment begins at "
            f"{report.segments[0].base_offset}"
        )
    if report.log_start_offset > report.next_offset:
        report.problem(f"the log starts at offset {report.log_start_offset}, behind its end")
    _examine_checkpoints(path, names, seen, report)
    return report


def _examine_index(path: Path, inspection: Inspection, is_last: bool, report: Report) -> str:
    """What the index file says, beside what the records make of it."""
    header, result = inspection.header, inspection.result
    assert header is not None
    assert result is not None
    try:
        data = path.with_suffix(INDEX_SUFFIX).read_bytes()
    except FileNotFoundError:
        if not is_last:
            report.notes.append(f"{path.name}: its index is missing; a start rebuilds it")
        return "-" if is_last else "missing"
    sealed = decode_index(data, header)
    if sealed is None:
        report.notes.append(f"{path.name}: its index is damaged; a start rebuilds it")
        return "damaged"
    said = sealed.end_pos, sealed.next_offset, sealed.last_header_crc, sealed.index.encode_entries()
    found = result.end_pos, result.next_offset, result.last_header_crc
    if said != (*found, inspection.index.encode_entries()):
        report.problem(
            f"{path.name}: its index says that it ends at position {sealed.end_pos} before offset "
            f"{sealed.next_offset}, its records end at {result.end_pos} before {result.next_offset}"
        )
        return "differs"
    return f"{len(sealed.index.positions)} entries"


def _examine_checkpoints(
    path: Path, names: Sequence[str], seen: dict[int, Inspection], report: Report
) -> None:
    for name in [name for name in names if name.endswith(CHECKPOINT_SUFFIX)]:
        checkpoint = decode_checkpoint((path / name).read_bytes())
        if checkpoint is None:
            report.notes.append(f"{name} is damaged: a start takes an older one, or scans")
            continue
        inspection = seen.get(checkpoint.segment_base_offset)
        if inspection is None or inspection.header is None or inspection.result is None:
            report.notes.append(f"{name} fits no segment: a start takes another, or scans")
            continue
        report.checkpoints.append(checkpoint.next_offset)
        if inspection.header.incarnation == checkpoint.incarnation and (
            inspection.result.end_pos < checkpoint.pos
        ):
            report.problem(
                f"{name} says that everything before position {checkpoint.pos} had been durable, "
                f"and the records end at {inspection.result.end_pos}"
            )


def _examine_journals(paths: Sequence[Path]) -> dict[str, Any]:
    entries, problems = 0, []
    for path in paths:
        try:
            found = read_journals(journal_folders(path), 0.0)
        except LockTimeout:
            note(f"{path / JOURNAL}: in use by a broker, not looked at")
            continue
        except CorruptRecord as error:
            problems.append(str(error))
            continue
        entries += sum(map(len, found.values()))
    return {"entries": entries, "problems": problems}


def journal_folders(directory: Path) -> list[Path]:
    """The journals of a data directory, one a shard."""
    folder = directory / JOURNAL
    return [each for each in sorted(folder.iterdir()) if each.is_dir()] if folder.is_dir() else []


def _partitions(path: Path) -> list[Path]:
    """The partition directories in a data directory, or the path itself."""
    if any(path.glob(f"*{SEGMENT_SUFFIX}")):
        return [path]
    found = [each for each in sorted(path.iterdir()) if _PARTITION.fullmatch(each.name)]
    return [each for each in found if any(each.glob(f"*{SEGMENT_SUFFIX}"))]


def _bytes_of(path: Path) -> int:
    return sum(each.stat().st_size for each in path.glob(f"*{SEGMENT_SUFFIX}"))


def _is_in_use(path: Path) -> bool:
    try:
        fd = os.open(path / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class _Progress:
    """What is verified, told every few seconds on standard error."""

    def __init__(self, total_bytes: int) -> None:
        self._total = max(total_bytes, 1)
        self._done = 0
        self._started_s = self._told_s = time.monotonic()

    def advance(self, size: int, path: Path) -> None:
        """So many bytes more are verified, those of `path`."""
        self._done += size
        now_s = time.monotonic()
        if now_s - self._told_s < TOLD_EVERY_S or not self._done:
            return
        self._told_s = now_s
        seconds = now_s - self._started_s
        left_s = seconds / self._done * (self._total - self._done)
        note(
            f"{self._done / 2**20:,.0f} of {self._total / 2**20:,.0f} MiB, "
            f"{self._done / 2**20 / seconds:,.0f} MiB/s, about {left_s:.0f} s left, "
            f"last {path.name}"
        )


def _print_reports(reports: Sequence[Report], journal: dict[str, Any]) -> None:
    headers = ("PARTITION", "VERDICT", "SEGMENTS", "LOG-START", "NEXT-OFFSET", "BATCHES", "MIB")
    rows = [
        (
            each.partition, each.verdict, len(each.segments), each.log_start_offset,
            each.next_offset, sum(s.batches for s in each.segments),
            round(sum(s.file_bytes for s in each.segments) / 2**20, 1),
        )
        for each in reports
    ]  # fmt: skip
    print_rows(headers, rows, "text")
    for each in reports:
        for text in each.problems:
            print_text(f"DAMAGE {each.partition}: {text}")
        for text in each.notes:
            print_text(f"note   {each.partition}: {text}")
    for text in journal["problems"]:
        print_text(f"DAMAGE journal: {text}")
    damaged = sum(bool(each.problems) for each in reports)
    if damaged or journal["problems"]:
        print_text(
            "Nothing was changed. Keep a copy, then restore the partition from a replica or a "
            "backup, or see `rpk-py debug cut --help`."
        )
    else:
        print_text(f"{len(reports)} partitions are whole.")


def _print_partition(report: Report) -> None:
    print_text(
        f"{report.path}: {report.verdict}, offsets {report.log_start_offset} to "
        f"{report.next_offset - 1}, checkpoints at {report.checkpoints or 'none'}"
    )
    headers = ("SEGMENT", "OFFSETS", "FILE-BYTES", "END", "RECORDS", "BATCHES", "VERDICT", "INDEX")
    rows = [
        (
            s.name, f"{s.base_offset}..{s.next_offset - 1}", s.file_bytes, s.end_pos, s.records,
            s.batches, s.verdict, s.index,
        )
        for s in report.segments
    ]  # fmt: skip
    print_rows(headers, rows, "text")
    for text in report.problems:
        print_text(f"DAMAGE {text}")
    for text in report.notes:
        print_text(f"note   {text}")
