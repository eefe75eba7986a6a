"""`rpk-py topic trim-prefix`: delete the records before an offset, a time or the end.

Which process: the operator's. What would be deleted is shown and confirmed before anything is;
DeleteRecords then goes to the leader of each partition. Words and columns are those of `rpk`.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from kafka_protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopic,
)
from kafka_protocol.messages.metadata import MetadataResponse
from rpk_py.cli.client import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    Client,
    ClientError,
    brokers_option,
    run,
)
from rpk_py.cli.link import only
from rpk_py.cli.outcome import (
    REQUEST_TIMEOUT_MS,
    Answer,
    Exchange,
    Partition,
    ask_leaders,
    by_topic,
    complete_topics,
    error_text,
    finish,
    list_offsets,
    name_of,
)
from rpk_py.cli.output import format_option, print_rows, table
from rpk_py.cli.times import parse_point

_FORMS = "end, an offset, or @ and a time: 10 or 13 digits since 1970, 2026-01-31, or -1h30m"


def _indexes(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> list[int]:
    """Callback of -p: `0,2` and -p 0 -p 2 mean the same."""
    texts = [text.strip() for value in values for text in value.split(",")]
    for text in texts:
        if not (text.isascii() and text.isdigit() and int(text) < 2**31):
            message = f"{text!r} is no partition: a number, or several with commas"
            raise click.BadParameter(message, ctx, param)
    return sorted({int(text) for text in texts})


@click.command(name="trim-prefix")
@click.argument("name", required=False, metavar="[NAME]", shell_complete=complete_topics)
@click.option("--offset", "-o", metavar="OFFSET", help=f"The new start: {_FORMS}.")
@click.option(
    "--partitions",
    "-p",
    metavar="N,...",
    multiple=True,
    callback=_indexes,
    help="The partitions; all of the topic's without it.",
)
@click.option(
    "--from-file",
    "-f",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Lines of topic, partition and offset, or a JSON list of such objects.",
)
@click.option("--no-confirm", is_flag=True, help="Do not ask.")
@format_option
@brokers_option
def trim_prefix(
    name: str | None,
    offset: str | None,
    partitions: list[int],
    file: Path | None,
    no_confirm: bool,
    output: str,
    brokers: list[str],
) -> None:
    """Delete the records of a topic that lie before a new start; it cannot be undone.

    With a time the new start is the first record of that time or later. Without --no-confirm the
    plan is shown and confirmed on the terminal; where there is none, nothing is done.

    \b
    Example:  rpk-py topic trim-prefix orders -o 120 -p 1
              rpk-py topic trim-prefix orders -o @-24h --no-confirm
              rpk-py topic trim-prefix -f starts.txt

    JSON: a list of {topic, partition, new_start_offset, error}; the offset is -1 beside an error.

    Exit code: 0 all were trimmed, 1 one was not or the question was answered with no, 2 there is
    no terminal to ask on, 3 no broker answers.
    """
    if (file is None) == (offset is None):
        raise click.UsageError("give either --offset or --from-file")
    if file is not None and partitions:
        raise click.UsageError("--from-file names partitions itself: leave out --partitions")
    if file is None and name is None:
        raise click.UsageError("give the NAME of a topic")
    if not (no_confirm or sys.stdin.isatty()):
        raise click.UsageError("there is no terminal to confirm on: say --no-confirm")
    given = read_starts(file, name) if file is not None else None
    target = None if offset is None else parse_target(offset, time.time_ns() // 1_000_000)
    starts: dict[Partition, int] = {}

    async def plan() -> None:
        async with Client(brokers) as client:
            metadata = await client.metadata([name or ""] if given is None else _topics(given))
            if given is not None:
                starts.update(given)
            else:
                starts.update(await _resolve(client, metadata, target or (0, None), partitions))
            if not no_confirm:
                prior = await list_offsets(client, metadata, starts, EARLIEST_TIMESTAMP)
                _show(starts, prior)

    async def work() -> int:
        async with Client(brokers) as client:
            found = await _delete(client, await client.metadata(_topics(starts)), starts)
        rows = [(*partition, a.value, a.error) for partition, a in sorted(found.items())]
        if output == "text":
            rows = [(n, i, None if error else v, error) for n, i, v, error in rows]  # type: ignore[misc]
        print_rows(("TOPIC", "PARTITION", "NEW-START-OFFSET", "ERROR"), rows, output)
        return int(any(answer.error for answer in found.values()))

    run(plan())
    if not no_confirm and not _confirmed():
        click.echo("Trimming canceled.", err=True)
        sys.exit(1)
    finish(work())


def _confirmed() -> bool:
    try:
        question = "Confirm deletion of all data before the new start offsets?"
        return click.confirm(question, err=True)
    except click.Abort:  # Ctrl-C or the end of input
        click.echo(err=True)
        return False


def _show(starts: Mapping[Partition, int], prior: Mapping[Partition, Answer]) -> None:
    rows = [
        (*partition, prior[partition].error or prior[partition].value, start)
        for partition, start in sorted(starts.items())
    ]
    headers = ("TOPIC", "PARTITION", "PRIOR-START-OFFSET", "NEW-START-OFFSET")
    click.echo(f"{table(headers, rows)}\n", err=True)


def _topics(starts: Mapping[Partition, int]) -> list[str]:
    return sorted({topic for topic, _ in starts})


async def _resolve(
    client: Client,
    metadata: MetadataResponse,
    target: tuple[int, int | None],
    indexes: Sequence[int],
) -> dict[Partition, int]:
    """The new start of each partition. Raises ClientError for what cannot be found out."""
    topic = only(metadata.topics, "METADATA")
    if topic.error_code:
        raise ClientError(f"topic {name_of(topic)}: {error_text(topic.error_code)}")
    present = sorted(each.partition_index for each in topic.partitions)
    if missing := sorted(set(indexes) - set(present)):
        text = ", ".join(map(str, missing))
        raise ClientError(f"topic {name_of(topic)} has no partition {text}")
    partitions = [(name_of(topic), index) for index in indexes or present]
    offset, timestamp = target
    if timestamp is None:
        return dict.fromkeys(partitions, offset)
    found = await list_offsets(client, metadata, partitions, timestamp)
    late = [p for p in partitions if found[p].value < 0 and not found[p].error]
    if late:  # nothing is that young: all of it goes
        found |= await list_offsets(client, metadata, late, LATEST_TIMESTAMP)
    for (name, index), answer in found.items():
        if answer.error:
            raise ClientError(f"topic {name}, partition {index}: {answer.error}")
    return {partition: answer.value for partition, answer in found.items()}


async def _delete(
    client: Client, metadata: MetadataResponse, starts: Mapping[Partition, int]
) -> dict[Partition, Answer]:
    def request(some: Sequence[Partition]) -> DeleteRecordsRequest:
        topics = [
            DeleteRecordsTopic(
                name, [DeleteRecordsPartition(index, starts[name, index]) for index in indexes]
            )
            for name, indexes in by_topic(some).items()
        ]
        return DeleteRecordsRequest(topics, REQUEST_TIMEOUT_MS)

    def answers(response: DeleteRecordsResponse) -> Iterator[tuple[Partition, int, int]]:
        for topic in response.topics:
            for each in topic.partitions:
                yield (topic.name, each.partition_index), each.low_watermark, each.error_code

    return await ask_leaders(client, metadata, starts, Exchange(request, answers))


def parse_target(text: str, now_ms: int) -> tuple[int, int | None]:
    """-o: (an offset, None), or (0, the timestamp in ms, or LATEST_TIMESTAMP).

    Raises: click.UsageError
    """
    if text == "end":
        return 0, LATEST_TIMESTAMP
    if text.startswith("@"):
        try:
            point, rest = parse_point(text[1:], now_ms)
        except ValueError as error:
            raise click.UsageError(f"--offset: {error}") from None
        if not rest and point.timestamp_ms is not None and point.timestamp_ms >= 0:
            return 0, point.timestamp_ms
    elif re.fullmatch("[0-9]{1,19}", text) and int(text) < 2**63:
        return int(text), None
    raise click.UsageError(f"--offset {text!r} must be {_FORMS}")


def read_starts(file: Path, name: str | None) -> dict[Partition, int]:
    """The new starts that a file names; a topic beside it stands for a missing column.

    Raises click.UsageError with the place of what is wrong.
    """
    try:
        text = file.read_text(encoding="utf-8")
        entries: list[tuple[str, list[object]]] = []
        if text.lstrip().startswith("["):
            for number, entry in enumerate(json.loads(text), 1):
                fields = [entry.get("topic", name), entry.get("partition"), entry.get("offset")]
                entries.append((f"entry {number}", fields))
        else:
            for number, line in enumerate(text.splitlines(), 1):
                words: list[object] = [*line.split()]
                if words:
                    entries.append((f"line {number}", [name, *words] if len(words) == 2 else words))
    except (OSError, ValueError, AttributeError) as error:
        raise click.UsageError(f"{file} cannot be read: {error}") from None
    starts: dict[Partition, int] = {}
    for place, fields in entries:
        starts.update([_start_of(f"{file}, {place}", fields, name)])
    if not starts:
        raise click.UsageError(f"{file} names no partition")
    return starts


def _start_of(place: str, fields: Sequence[object], name: str | None) -> tuple[Partition, int]:
    topic = fields[0] if len(fields) == 3 else None
    if not isinstance(topic, str):
        raise click.UsageError(f"{place}: must be topic, partition and offset")
    if name is not None and topic != name:
        raise click.UsageError(f"{place}: it names topic {topic} and not {name}")
    texts = [str(field) for field in fields[1:]]
    index, offset = (int(text) if re.fullmatch(r"[0-9]{1,19}", text) else -1 for text in texts)
    if not 0 <= index < 2**31 or not 0 <= offset < 2**63:
        raise click.UsageError(f"{place}: partition and offset must be whole numbers")
    return (topic, index), offset
