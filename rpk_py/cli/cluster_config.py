"""`rpk-py cluster config`: broker configs, those of all nodes or of one.

Which process: the operator's. A node is asked for its own configs; what holds for the cluster is
what a node has that is not set for it alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import click

from kafka_protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
)
from kafka_protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from rpk_py.cli import LazyGroup, Loaders, group_brokers_option
from rpk_py.cli.client import Client, ClientError, brokers_option
from rpk_py.cli.link import only
from rpk_py.cli.outcome import error_text, finish
from rpk_py.cli.output import cell, format_option, note, print_json, print_rows, print_text
from rpk_py.cli.topic import DELETE, SET
from rpk_py.cli.topic_describe import source_name

BROKER_RESOURCE = 4
ALL_NODES = ""
OF_NODE, OF_ALL = 2, 3  # config sources: set while running, for one node or for all
# Keys that Kafka takes, and lists only once they are set (DynamicBrokerConfig, QuotaConfig).
_UNLISTED = (
    "listener.name.",
    "leader.replication.throttled.rate",
    "follower.replication.throttled.rate",
    "replica.alter.log.dirs.io.max.bytes.per.second",
)

node_option = click.option(
    "--node", type=click.IntRange(0, 2**31 - 1), metavar="ID", help="Of this node, not of all."
)


def _list() -> click.Command:
    return list_configs


def _get() -> click.Command:
    return get


def _set() -> click.Command:
    return set_config


def _status() -> click.Command:
    return status


_COMMANDS: Loaders = {
    "list": (_list, "List the configs that can be changed while brokers run."),
    "get": (_get, "Print the value of configs."),
    "set": (_set, "Set configs, or unset them."),
    "status": (_status, "Show whether every node has what was set."),
}


@click.group(cls=LazyGroup, loaders=_COMMANDS)
@group_brokers_option
def config() -> None:
    """Show and change broker configs, those of all nodes or of one."""


def _value(entry: DescribeConfigsResourceResult) -> str | None:
    return "(sensitive)" if entry.is_sensitive else entry.value


def _facts(entry: DescribeConfigsResourceResult, node: int | None) -> dict[str, Any]:
    """A config as it holds on the node, or without one for the cluster."""
    value, source = _value(entry), entry.config_source
    if node is None and source == OF_NODE:
        rest = [s for s in entry.synonyms if s.source != OF_NODE]
        value, source = (rest[0].value, rest[0].source) if rest else (None, 5)
    return {
        "name": entry.name,
        "value": value,
        "source": source_name(source),
        "read_only": entry.read_only,
    }


async def _describe(
    client: Client, node: int | None, keys: list[str] | None = None
) -> dict[str, DescribeConfigsResourceResult]:
    """The configs of a node by name; without one, of the first node of the cluster that answers.

    Raises ClientError.
    """
    if node is not None:
        return await _describe_at(client, str(node), node, keys)
    await client.metadata([])
    failure: ClientError = ClientError("the cluster has no brokers")
    for node_id in sorted(client.nodes):
        try:
            return await _describe_at(client, str(node_id), node_id, keys)
        except ClientError as error:
            failure = error
    raise failure


async def _describe_at(
    client: Client, name: str, node_id: int, keys: list[str] | None = None
) -> dict[str, DescribeConfigsResourceResult]:
    resource = DescribeConfigsResource(BROKER_RESOURCE, name, keys)
    request = DescribeConfigsRequest([resource], include_synonyms=True)
    answer = await client.ask(request, node_id=node_id)
    result = only(answer.results, "DESCRIBE_CONFIGS")
    if result.error_code:
        said = error_text(result.error_code, result.error_message)
        raise ClientError(f"configs of node {node_id}: {said}")
    return {entry.name: entry for entry in result.configs}


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Why a key is refused, with the nearest one that exists."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; rpk-py cluster config list --all lists all"
    return f"there is no broker config {key}{hint}"


@click.command(name="list")
@click.option("--all", "-a", "everything", is_flag=True, help="Those that are read-only as well.")
@node_option
@format_option
@brokers_option
def list_configs(everything: bool, node: int | None, output: str, brokers: list[str]) -> None:
    """List the broker configs that can be changed while brokers run, with where each is set.

    \b
    Example:  rpk-py cluster config list
              rpk-py cluster config list --all --node 1

    JSON: a list of {name, value, source, read_only}; a value may be null.

    Exit code: 0 listed, 1 refused, 3 no broker answers.
    """

    async def work() -> int:
        async with Client(brokers) as client:
            found = await _describe(client, node)
        facts = [_facts(found[key], node) for key in sorted(found)]
        facts = [each for each in facts if everything or not each["read_only"]]
        if output == "json":
            print_json(facts)
        else:
            rows = [(each["name"], each["value"], each["source"]) for each in facts]
            print_rows(("NAME", "VALUE", "SOURCE"), rows, output)
        return 0

    finish(work())


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@node_option
@format_option
@brokers_option
def get(keys: tuple[str, ...], node: int | None, output: str, brokers: list[str]) -> None:
    """Print the value of broker configs; of a single one the bare value, for scripts.

    \b
    Example:  rpk-py cluster config get message.max.bytes

    JSON: a list of {name, value, source, read_only}, as for list.

    Exit code: 0 printed, 1 a key does not exist, 3 no broker answers.
    """

    async def work() -> int:
        async with Client(brokers) as client:
            found = await _describe(client, node)
        facts = [_facts(found[key], node) for key in keys if key in found]
        if output == "json":
            print_json(facts)
        elif len(keys) > 1:
            rows = [(each["name"], each["value"], each["source"]) for each in facts]
            print_rows(("NAME", "VALUE", "SOURCE"), rows, output)
        elif facts:
            value = facts[0]["value"]
            print_text("" if value is None else cell(value))
        for key in keys:
            if key not in found:
                note(unknown_key(key, list(found)))
        return int(any(key not in found for key in keys))

    finish(work())


def parse_assignments(words: Sequence[str]) -> dict[str, str]:
    """`KEY VALUE`, or `KEY=VALUE` as often as one likes. Raises click.UsageError."""
    if len(words) == 2 and "=" not in words[0]:
        return {words[0]: words[1]}
    pairs = [word.partition("=") for word in words]
    if any(not key or not equals for key, equals, _ in pairs):
        raise click.UsageError("give KEY VALUE or KEY=VALUE; an empty value unsets the key")
    return {key: value for key, _, value in pairs}


@click.command(name="set")
@click.argument("words", nargs=-1, required=True, metavar="KEY VALUE | KEY=VALUE...")
@node_option
@click.option("--dry", is_flag=True, help="Only check whether it could be done.")
@format_option
@brokers_option
def set_config(
    words: tuple[str, ...], node: int | None, dry: bool, output: str, brokers: list[str]
) -> None:
    """Set broker configs while brokers run, all of those that are given or none.

    An empty value unsets a config: what holds then is what the brokers were started with. What is
    set for one node wins there over what is set for all.

    \b
    Example:  rpk-py cluster config set message.max.bytes 4194304
              rpk-py cluster config set max.connections=500 --node 1
              rpk-py cluster config set message.max.bytes ''

    JSON: a list of {name, status, message}; the status is OK or the name of Kafka's error code.

    Exit code: 0 set, 1 refused, 3 no broker answers.
    """
    values = parse_assignments(words)

    async def work() -> int:
        async with Client(brokers) as client:
            known = await _describe(client, node)
            for key in values:
                if key not in known and not key.startswith(_UNLISTED):
                    raise ClientError(unknown_key(key, list(known)))
            changes = [
                AlterableConfig(key, SET if value else DELETE, value or None)
                for key, value in values.items()
            ]
            name = ALL_NODES if node is None else str(node)
            resource = AlterConfigsResource(BROKER_RESOURCE, name, changes)
            request = IncrementalAlterConfigsRequest([resource], dry)
            response = await client.ask(request, node_id=node)
            answer = only(response.responses, "INCREMENTAL_ALTER_CONFIGS")
        text = error_text(answer.error_code, answer.error_message) if answer.error_code else "OK"
        if output == "json":
            code, _, message = text.partition(": ")
            print_json(
                [{"name": key, "status": code, "message": message or None} for key in values]
            )
        elif not answer.error_code:
            print_rows(("NAME", "STATUS"), [(key, text) for key in values], output)
        if answer.error_code:
            note(text)
        return int(bool(answer.error_code))

    finish(work())


@click.command()
@format_option
@brokers_option
def status(output: str, brokers: list[str]) -> None:
    """Show of every node whether what was set for all is in force there, and what is its own.

    A node that is not in force what was set either does not know it yet, or it does not agree with
    other values of that node.

    \b
    Example:  rpk-py cluster config status

    JSON: a list of {node, status, own, not_in_force}; the last two are lists of names.

    Exit code: 0 every node has what was set, 1 one has not or does not answer, 3 no broker answers.
    """

    async def work() -> int:
        async with Client(brokers) as client:
            await client.metadata([])
            rows = [await _status_of(client, node_id) for node_id in sorted(client.nodes)]
        print_rows(("NODE", "STATUS", "OWN", "NOT-IN-FORCE"), rows, output)
        return int(any(row[1] != "OK" or row[3] for row in rows))

    finish(work())


async def _status_of(client: Client, node_id: int) -> tuple[int, str, list[str], list[str]]:
    try:
        wanted = await _describe_at(client, ALL_NODES, node_id)
        there = await _describe_at(client, str(node_id), node_id)
    except ClientError as error:
        return node_id, str(error), [], []
    own = sorted(name for name, entry in there.items() if entry.config_source == OF_NODE)
    missing = []
    for name, entry in wanted.items():
        synonyms = there[name].synonyms if name in there else []
        if entry.config_source == OF_ALL and not any(
            s.source == OF_ALL and (entry.is_sensitive or s.value == entry.value) for s in synonyms
        ):
            missing.append(name)
    return node_id, "OK", own, sorted(missing)
