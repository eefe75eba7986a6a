"""What client commands have in common: a result for each name, leaders asked, names completed.

Which process: the operator's.
Invariants: what failed for one name or partition is told for that one and does not keep the others
from being done; the exit code is 1 then.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import click

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from kafka_protocol.messages.metadata import MetadataResponse, MetadataResponseTopic
from rpk_py.cli.client import DEFAULT_BROKERS, Client, ClientError, error_name, parse_brokers, run
from rpk_py.cli.output import note, print_rows

OK = "OK"
REQUEST_TIMEOUT_MS = 8_000  # for the broker to finish a change, less than the client waits
COMPLETION_S_MAX = 0.7
_PARTITIONS_PER_REQUEST = 1_000
_ROUNDS = 4  # to find a leader that is moving
_PAUSE_S = 0.25

Partition: TypeAlias = tuple[str, int]

_MEANINGS = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: "there is no such topic or partition",
    ErrorCode.INVALID_TOPIC_EXCEPTION: "a name has 1 to 249 letters, digits, dots, _ and -",
    ErrorCode.OFFSET_OUT_OF_RANGE: "the offset is beyond the high watermark or below 0",
    ErrorCode.LEADER_NOT_AVAILABLE: "the partition has no leader now",
    ErrorCode.NOT_LEADER_OR_FOLLOWER: "the leader has changed, try again",
    ErrorCode.KAFKA_STORAGE_ERROR: "the partition is offline, the broker's log says why",
    ErrorCode.REQUEST_TIMED_OUT: "not finished in time; it may still be done",
    ErrorCode.TOPIC_AUTHORIZATION_FAILED: "no permission for this topic",
    ErrorCode.CLUSTER_AUTHORIZATION_FAILED: "no permission",
    ErrorCode.POLICY_VIOLATION: "a policy of the broker does not allow it",
}


def error_text(code: int, message: str | None = None) -> str:
    """An error code for a person: its name, and what the broker says or what it means."""
    said = message or _MEANINGS.get(code, "")  # type: ignore[call-overload]
    return f"{error_name(code)}: {said}" if said else error_name(code)


def finish(work: Coroutine[Any, Any, int]) -> None:
    """Run a command's work, which prints and returns its exit code, and end with that code."""
    code = 0

    async def whole() -> None:
        nonlocal code
        code = await work

    run(whole())
    sys.exit(code)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one topic: OK, another good state, or the name of an error code."""

    topic: str
    status: str
    message: str | None = None
    failed: bool = False

    @classmethod
    def of(cls, topic: str, code: int, message: str | None = None) -> Outcome:
        if code == ErrorCode.NONE:
            return cls(topic, OK)
        said = message or _MEANINGS.get(code)  # type: ignore[call-overload]
        return cls(topic, error_name(code), said, failed=True)


def print_outcomes(outcomes: Iterable[Outcome], output: str) -> int:
    """Print the outcome of each topic. Returns the exit code."""
    outcomes = list(outcomes)
    if output == "json":
        rows: Iterable[Sequence[Any]] = ((o.topic, o.status, o.message) for o in outcomes)
        print_rows(("TOPIC", "STATUS", "MESSAGE"), rows, output)
    else:
        text = [(o.topic, f"{o.status}: {o.message}" if o.message else o.status) for o in outcomes]
        print_rows(("TOPIC", "STATUS"), text, output)
    return int(any(outcome.failed for outcome in outcomes))


# --- names ---------------------------------------------------------------------------------------


def distinct(_ctx: click.Context, _param: click.Parameter, names: Sequence[str]) -> list[str]:
    """Callback of an argument: each name once, in the order given."""
    return list(dict.fromkeys(names))


def complete_topics(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The topics that begin so, if a broker tells them in a moment; else none, silently."""
    try:
        brokers = ctx.params.get("brokers") or parse_brokers(DEFAULT_BROKERS)
        return asyncio.run(
            asyncio.wait_for(_names_beginning(brokers, incomplete), COMPLETION_S_MAX)
        )
    except (ClientError, click.ClickException, OSError, TimeoutError):
        return []


async def _names_beginning(brokers: Sequence[str], start: str) -> list[str]:
    async with Client(brokers, timeout_s=COMPLETION_S_MAX) as client:
        topics = (await client.metadata(None)).topics
        return sorted(name_of(topic) for topic in topics if name_of(topic).startswith(start))


def names_argument(required: bool = True) -> Callable[[Any], Any]:
    """The click argument NAME..., completed from the broker."""
    return click.argument(
        "names",
        nargs=-1,
        required=required,
        metavar="NAME..." if required else "[NAME...]",
        callback=distinct,
        shell_complete=complete_topics,
    )


def regex_option(verb: str) -> Callable[[Any], Any]:
    """The click option -r/--regex."""
    text = f"Take NAME as regular expressions; {verb} each topic that one matches as a whole."
    return click.option("--regex", "-r", is_flag=True, help=text)


def name_of(topic: MetadataResponseTopic) -> str:
    """The topic's name; Metadata tells none only for topics asked by id."""
    return topic.name or ""


async def matching(client: Client, expressions: Sequence[str]) -> list[str]:
    """The topics, internal ones left out, that an expression matches as a whole.

    Raises: click.UsageError  for what is no regular expression
    """
    try:
        patterns = [re.compile(text) for text in expressions]
    except re.error as error:
        message = f"{error.pattern!r} is no regular expression: {error}"
        raise click.UsageError(message) from None
    topics = (await client.metadata(None)).topics
    names = [name_of(topic) for topic in topics if not topic.is_internal]
    found = sorted(name for name in names if any(p.fullmatch(name) for p in patterns))
    if not found:
        note("no topic matches")
    return found


# --- leaders -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What a leader says of one partition: a value, or why there is none."""

    value: int = -1
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One kind of request to leaders: how it is made, and what its answer says.

    answers  (partition, value, error code) of each partition in a response
    """

    request: Callable[[Sequence[Partition]], Any]
    answers: Callable[[Any], Iterator[tuple[Partition, int, int]]]


async def ask_leaders(
    client: Client, metadata: MetadataResponse, partitions: Iterable[Partition], exchange: Exchange
) -> dict[Partition, Answer]:
    """Ask the leader of each partition, those of one leader together, leaders at once.

    A leader that moves meanwhile is looked for again, a bounded number of times. Nothing is raised
    for a broker that does not answer: its partitions' answers say so.
    """
    found: dict[Partition, Answer] = {}
    left = list(dict.fromkeys(partitions))
    for turn in range(_ROUNDS):
        if turn:
            await asyncio.sleep(_PAUSE_S)
            metadata = await client.metadata(sorted({name for name, _ in left}))
        groups: dict[int, list[Partition]] = {}
        leaders = leaders_of(metadata)
        for partition in left:
            leader, code = leaders.get(partition, (-1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
            if leader < 0:
                missing = code or ErrorCode.LEADER_NOT_AVAILABLE
                found[partition] = Answer(error=error_text(missing))
            else:
                groups.setdefault(leader, []).append(partition)
        moved = await _gather(
            _ask_one(client, leader, some, exchange, found)
            for leader, group in groups.items()
            for some in _slices(group)
        )
        left = [partition for some in moved for partition in some]
        if not left:
            break
    return found


async def _gather(work: Iterable[Awaitable[list[Partition]]]) -> list[list[Partition]]:
    return list(await asyncio.gather(*work))


def _slices(partitions: list[Partition]) -> Iterator[list[Partition]]:
    for start in range(0, len(partitions), _PARTITIONS_PER_REQUEST):
        yield partitions[start : start + _PARTITIONS_PER_REQUEST]


async def _ask_one(
    client: Client,
    leader: int,
    partitions: list[Partition],
    exchange: Exchange,
    found: dict[Partition, Answer],
) -> list[Partition]:
    """Ask one leader and note its answers. Returns the partitions that have moved."""
    try:
        response = await client.ask(exchange.request(partitions), node_id=leader)
    except ClientError as error:
        found.update((partition, Answer(error=str(error))) for partition in partitions)
        return []
    moved = []
    wanted = set(partitions)
    for partition, value, code in exchange.answers(response):
        if partition not in wanted:
            continue
        wanted.discard(partition)
        found[partition] = Answer(error=error_text(code)) if code else Answer(value)
        if code in (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.LEADER_NOT_AVAILABLE):
            moved.append(partition)
    found.update(
        (partition, Answer(error="the broker's answer leaves it out")) for partition in wanted
    )
    return moved


def leaders_of(metadata: MetadataResponse) -> dict[Partition, tuple[int, int]]:
    """The leader of every partition, -1 for none, and its error code."""
    return {
        (name_of(topic), partition.partition_index): (partition.leader_id, partition.error_code)
        for topic in metadata.topics
        for partition in topic.partitions
    }


def by_topic(partitions: Iterable[Partition]) -> dict[str, list[int]]:
    """The partitions' indexes under the names of their topics."""
    topics: dict[str, list[int]] = {}
    for name, index in partitions:
        topics.setdefault(name, []).append(index)
    return topics


async def list_offsets(
    client: Client, metadata: MetadataResponse, partitions: Iterable[Partition], timestamp: int
) -> dict[Partition, Answer]:
    """The offset at a timestamp (milliseconds, or one of client.py); -1 where nothing is later."""

    def request(some: Sequence[Partition]) -> ListOffsetsRequest:
        topics = [
            ListOffsetsTopic(
                name,
                [ListOffsetsPartition(index, timestamp=timestamp) for index in indexes],
            )
            for name, indexes in by_topic(some).items()
        ]
        return ListOffsetsRequest(-1, topics=topics, timeout_ms=REQUEST_TIMEOUT_MS)

    def answers(response: ListOffsetsResponse) -> Iterator[tuple[Partition, int, int]]:
        for topic in response.topics:
            for each in topic.partitions:
                yield (topic.name, each.partition_index), each.offset, each.error_code

    return await ask_leaders(client, metadata, partitions, Exchange(request, answers))
