"""`rpk-py group`: list, delete, and the loaders of its larger commands.

Which process: the operator's. Words and columns are those of `rpk group`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.delete_groups import DeleteGroupsRequest
from kafka_protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from rpk_py.cli import LazyGroup, Loaders, group_brokers_option
from rpk_py.cli.client import Client, ClientError, brokers_option, error_name
from rpk_py.cli.groups import ask, committed, listed
from rpk_py.cli.outcome import OK, error_text, finish
from rpk_py.cli.output import format_option, print_rows


def group_error(code: int) -> str:
    """An error code of a group API for a person."""
    meaning = _MEANINGS.get(code)  # type: ignore[call-overload]
    return f"{error_name(code)}: {meaning}" if meaning else error_text(code)


_MEANINGS = {
    ErrorCode.GROUP_ID_NOT_FOUND: "there is no such group",
    ErrorCode.NON_EMPTY_GROUP: "the group has members: stop them first",
    ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC: "members read the topic: stop them first",
    ErrorCode.UNKNOWN_MEMBER_ID: "the group has members: stop them first",
}


async def names_matching(client: Client, names: Sequence[str], regex: bool) -> list[str]:
    """The groups that are named, or those that an expression matches as a whole."""
    if not regex:
        return list(dict.fromkeys(names))
    try:
        expressions = [re.compile(name) for name in names]
    except re.error as error:
        raise click.UsageError(f"{error.pattern!r} is no regular expression: {error}") from error
    found = [each.group_id for _, each in await listed(client, ())]
    return [name for name in found if any(e.fullmatch(name) for e in expressions)]


regex_option = click.option(
    "--regex", "-r", is_flag=True, help="Take GROUP as regular expressions that match as a whole."
)


# --- list ----------------------------------------------------------------------------------------


@click.command(name="list")
@click.option("--states", "-s", metavar="STATE,...", help="Only groups in these states.")
@format_option
@brokers_option
def list_groups(states: str | None, output: str, brokers: list[str]) -> None:
    """List the groups of the cluster, with the broker that coordinates each.

    \b
    Example:  rpk-py group list
              rpk-py group list -s Empty,Stable

    JSON: a list of {broker, group, type, state}.

    Exit code: 0 listed, 1 a broker refuses, 3 no broker answers.
    """
    wanted = [state.strip() for state in states.split(",")] if states else []

    async def work() -> int:
        async with Client(brokers) as client:
            found = await listed(client, wanted)
        rows = [
            (node_id, each.group_id, each.group_type or "-", each.group_state or "-")
            for node_id, each in found
        ]
        print_rows(("BROKER", "GROUP", "TYPE", "STATE"), rows, output)
        return 0

    finish(work())


# --- delete --------------------------------------------------------------------------------------


@click.command()
@click.argument("groups", nargs=-1, required=True, metavar="GROUP...")
@regex_option
@format_option
@brokers_option
def delete(groups: tuple[str, ...], regex: bool, output: str, brokers: list[str]) -> None:
    """Delete groups that have no members, and all that they have committed.

    \b
    Example:  rpk-py group delete orders-reader
              rpk-py group delete -r 'test-.*'

    JSON: a list of {group, status}; a status is OK or the error.

    Exit code: 0 all were deleted, 1 one was not, 3 no broker answers.
    """

    async def work() -> int:
        rows: list[tuple[str, str]] = []
        async with Client(brokers) as client:
            for name in await names_matching(client, groups, regex):
                try:
                    _, answer = await ask(
                        client,
                        name,
                        DeleteGroupsRequest([name]),
                        lambda a: (each.error_code for each in a.results),
                    )
                except ClientError as error:
                    rows.append((name, str(error)))
                    continue
                code = answer.results[0].error_code
                rows.append((name, group_error(code) if code else OK))
        print_rows(("GROUP", "STATUS"), rows, output)
        return int(any(status != OK for _, status in rows))

    finish(work())


# --- offset-delete -------------------------------------------------------------------------------


@click.command(name="offset-delete")
@click.argument("group")
@click.option(
    "--topic",
    "-t",
    "topics",
    metavar="TOPIC[:N,...]",
    multiple=True,
    required=True,
    help="All that was committed of a topic, or of these partitions; repeat.",
)
@format_option
@brokers_option
def offset_delete(group: str, topics: tuple[str, ...], output: str, brokers: list[str]) -> None:
    """Forget committed offsets of topics that no member reads.

    \b
    Example:  rpk-py group offset-delete orders-reader -t orders:0,2 -t payments

    JSON: a list of {topic, partition, status}.

    Exit code: 0 all were deleted, 1 one was not, 2 wrong usage, 3 no broker answers.
    """
    wanted = [_topic_of(text) for text in topics]

    async def work() -> int:
        async with Client(brokers) as client:
            known = await committed(client, group)
            parts = {
                topic: indexes or [index for name, index in known if name == topic]
                for topic, indexes in wanted
            }
            request = OffsetDeleteRequest(
                group,
                [
                    OffsetDeleteRequestTopic(
                        topic, [OffsetDeleteRequestPartition(index) for index in indexes]
                    )
                    for topic, indexes in parts.items()
                ],
            )
            _, answer = await ask(client, group, request, lambda a: [a.error_code])
        if answer.error_code:
            raise ClientError(f"group {group}: {group_error(answer.error_code)}")
        rows = [
            (
                topic.name,
                each.partition_index,
                group_error(each.error_code) if each.error_code else OK,
            )
            for topic in answer.topics
            for each in topic.partitions
        ]
        print_rows(("TOPIC", "PARTITION", "STATUS"), rows, output)
        return int(any(status != OK for *_, status in rows))

    finish(work())


def _topic_of(text: str) -> tuple[str, list[int]]:
    name, colon, numbers = text.partition(":")
    texts = numbers.split(",") if colon else []
    if not name or not all(each.isascii() and each.isdigit() for each in texts):
        raise click.UsageError(f"-t {text!r} is not TOPIC or TOPIC:PARTITION,...")
    return name, [int(each) for each in texts]


def _describe() -> click.Command:
    from rpk_py.cli.group_describe import describe

    return describe


def _seek() -> click.Command:
    from rpk_py.cli.group_seek import seek

    return seek


_COMMANDS: Loaders = {
    "list": (lambda: list_groups, "List groups and their coordinators."),
    "describe": (_describe, "Show members, offsets and lag of groups, or what happened to them."),
    "seek": (_seek, "Change what a group without members has committed."),
    "delete": (lambda: delete, "Delete groups without members."),
    "offset-delete": (lambda: offset_delete, "Forget committed offsets of topics."),
}


@click.group(cls=LazyGroup, loaders=_COMMANDS, aliases={"ls": "list"})
@group_brokers_option
def group() -> None:
    """List, show, move and delete consumer groups."""
