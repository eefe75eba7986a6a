"""`rpk-py group seek`: change what a group has committed, while it has no members.

Which process: the operator's. What was there before is shown beside what is there now, so that it
can be undone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from kafka_protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from rpk_py.cli.client import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    Client,
    ClientError,
    TopicPartition,
    brokers_option,
)
from rpk_py.cli.group import group_error
from rpk_py.cli.groups import BY_NAME, ask, committed, describe
from rpk_py.cli.outcome import by_topic, finish
from rpk_py.cli.output import format_option, print_rows
from rpk_py.cli.times import parse_point


@click.command()
@click.argument("group")
@click.option(
    "--to",
    metavar="start|end|TIME",
    help="The start or end of each partition, or the first record of a time: 10 or 13 digits "
    "since 1970, 2026-01-31, -1h30m.",
)
@click.option("--to-group", metavar="GROUP", help="Where another group is.")
@click.option(
    "--to-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Lines of topic, partition and offset.",
)
@click.option("--topics", metavar="TOPIC,...", help="Only these topics.")
@click.option(
    "--allow-new-topics", is_flag=True, help="Topics, too, that the group has committed nothing of."
)
@format_option
@brokers_option
def seek(
    group: str,
    to: str | None,
    to_group: str | None,
    to_file: Path | None,
    topics: str | None,
    allow_new_topics: bool,
    output: str,
    brokers: list[str],
) -> None:
    """Change the committed offsets of a group that has no members.

    \b
    Example:  rpk-py group seek orders-reader --to start
              rpk-py group seek orders-reader --to -1h --topics orders
              rpk-py group seek copy --to-group orders-reader --allow-new-topics

    JSON: a list of {topic, partition, prior_offset, current_offset, error}; an offset is -1 where
    there is none, an error null.

    Exit code: 0 all was committed, 1 something was not or the group has members, 2 wrong usage, 3
    no broker answers.
    """
    if sum(each is not None for each in (to, to_group, to_file)) != 1:
        raise click.UsageError("give one of --to, --to-group and --to-file")
    named = [name.strip() for name in topics.split(",")] if topics else []
    at = _timestamp(to) if to is not None else None
    lines = _read(to_file) if to_file is not None else None

    async def work() -> int:
        async with Client(brokers) as client:
            info = await describe(client, group)
            if info is not None and info.members:
                raise ClientError(
                    f"group {group} is {info.state} with {len(info.members)} members: stop them "
                    "first, since they would go on from where they are"
                )
            prior = {key: offset for key, (offset, _) in (await committed(client, group)).items()}
            if lines is not None:
                wanted = lines
            elif to_group is not None:
                other = await committed(client, to_group)
                if not other:
                    raise ClientError(f"group {to_group} has committed nothing")
                wanted = {key: offset for key, (offset, _) in other.items()}
            else:
                assert at is not None
                wanted = await _at(client, await _partitions(client, prior, named), at)
            known = {topic for topic, _ in prior}
            wanted = {
                key: offset
                for key, offset in wanted.items()
                if (not named or key[0] in named) and (allow_new_topics or key[0] in known)
            }
            if not wanted:
                raise ClientError(
                    f"nothing to do: group {group} has committed nothing of these topics; "
                    "--allow-new-topics commits to them all the same"
                )
            return _print(prior, wanted, await _commit(client, group, wanted), output)

    finish(work())


def _timestamp(to: str) -> int:
    if to in ("start", "end"):
        return EARLIEST_TIMESTAMP if to == "start" else LATEST_TIMESTAMP
    try:
        point, rest = parse_point(to, time.time_ns() // 1_000_000)
    except ValueError as error:
        raise click.UsageError(f"--to is start, end or a time: {error}") from error
    if rest or point.timestamp_ms is None:
        raise click.UsageError(f"--to {to!r} is not start, end or one time")
    return point.timestamp_ms


def _read(path: Path) -> dict[TopicPartition, int]:
    wanted: dict[TopicPartition, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or not all(word.isascii() and word.isdigit() for word in words[1:]):
            raise click.UsageError(f"{path}:{number}: not a topic, a partition and an offset")
        wanted[words[0], int(words[1])] = int(words[2])
    return wanted


async def _partitions(
    client: Client, prior: Mapping[TopicPartition, int], named: Sequence[str]
) -> list[TopicPartition]:
    """All partitions of the topics that are named, or that the group has committed something of."""
    names = list(named) or sorted({topic for topic, _ in prior})
    found = await client.partitions(names) if names else {}
    return [(topic, index) for topic, indexes in found.items() for index in indexes]


async def _at(
    client: Client, partitions: Sequence[TopicPartition], timestamp_ms: int
) -> dict[TopicPartition, int]:
    """The offset of a time in each partition; its end where nothing is as new."""
    if not partitions:
        return {}
    found = await client.list_offsets(dict.fromkeys(partitions, timestamp_ms))
    offsets = {key: each.offset for key, each in found.items()}
    late = [key for key, offset in offsets.items() if offset < 0]
    if late:
        ends = await client.list_offsets(dict.fromkeys(late, LATEST_TIMESTAMP))
        offsets.update((key, each.offset) for key, each in ends.items())
    return offsets


async def _commit(
    client: Client, group: str, wanted: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The error code of each partition."""
    request = OffsetCommitRequest(
        group_id=group,
        generation_id_or_member_epoch=-1,
        member_id="",
        topics=[
            OffsetCommitRequestTopic(
                name=topic,
                partitions=[
                    OffsetCommitRequestPartition(index, wanted[topic, index], -1, "")
                    for index in indexes
                ],
            )
            for topic, indexes in by_topic(wanted).items()
        ],
    )
    _, answer = await ask(
        client,
        group,
        request,
        lambda a: (each.error_code for topic in a.topics for each in topic.partitions),
        BY_NAME,
    )
    return {
        (topic.name, each.partition_index): each.error_code
        for topic in answer.topics
        for each in topic.partitions
    }


def _print(
    prior: Mapping[TopicPartition, int],
    wanted: Mapping[TopicPartition, int],
    codes: Mapping[TopicPartition, int],
    output: str,
) -> int:
    rows: list[tuple[object, ...]] = []
    for key in sorted(wanted):
        code = codes.get(key, -1)
        now = prior.get(key, -1) if code else wanted[key]
        rows.append((*key, prior.get(key, -1), now, group_error(code) if code else None))
    headers = ["TOPIC", "PARTITION", "PRIOR-OFFSET", "CURRENT-OFFSET", "ERROR"]
    failed = any(row[-1] for row in rows)
    if output == "text" and not failed:
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    print_rows(headers, rows, output)
    return int(failed)
