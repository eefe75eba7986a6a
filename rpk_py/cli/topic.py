"""`rpk-py topic`: create, list, change and delete topics; other modules have its larger commands.

Which process: the operator's. Words, options and columns are those of `rpk topic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from kafka_protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from kafka_protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from kafka_protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from kafka_protocol.messages.metadata import MetadataResponseTopic
from rpk_py.cli import LazyGroup, Loaders, group_brokers_option
from rpk_py.cli.client import Client, brokers_option
from rpk_py.cli.outcome import (
    REQUEST_TIMEOUT_MS,
    Outcome,
    error_text,
    finish,
    matching,
    name_of,
    names_argument,
    print_outcomes,
    regex_option,
)
from rpk_py.cli.output import (
    cell,
    format_option,
    note,
    print_json,
    print_rows,
    print_text,
    table,
)

TOPIC_RESOURCE = 2
SET, DELETE, APPEND, SUBTRACT = range(4)  # operations of IncrementalAlterConfigs


def _create() -> click.Command:
    return create


def _list() -> click.Command:
    return list_topics


def _describe() -> click.Command:
    from rpk_py.cli.topic_describe import describe

    return describe


def _alter_config() -> click.Command:
    return alter_config


def _add_partitions() -> click.Command:
    return add_partitions


def _delete() -> click.Command:
    return delete


def _trim_prefix() -> click.Command:
    from rpk_py.cli.topic_trim import trim_prefix

    return trim_prefix


def _produce() -> click.Command:
    from rpk_py.cli.topic_produce import produce

    return produce


def _consume() -> click.Command:
    from rpk_py.cli.topic_consume import consume

    return consume


_COMMANDS: Loaders = {
    "create": (_create, "Create topics."),
    "list": (_list, "List topics."),
    "describe": (_describe, "Show topics, their configs and their partitions."),
    "alter-config": (_alter_config, "Change configs of topics."),
    "add-partitions": (_add_partitions, "Add partitions to topics."),
    "delete": (_delete, "Delete topics."),
    "trim-prefix": (_trim_prefix, "Delete the oldest records of a topic."),
    "produce": (_produce, "Write records to a topic."),
    "consume": (_consume, "Read records of topics."),
}


@click.group(
    cls=LazyGroup,
    loaders=_COMMANDS,
    aliases={"ls": "list", "info": "describe", "trim": "trim-prefix"},
)
@group_brokers_option
def topic() -> None:
    """Create, look at, change and delete topics, of rpk-py or of any Kafka broker."""


def parse_pairs(option: str, pairs: Sequence[str]) -> dict[str, str]:
    """`key=value` or `key:value` of an option, as rpk takes them. Raises click.UsageError."""
    values = {}
    for pair in pairs:
        cut = min((at for at in (pair.find("="), pair.find(":")) if at >= 0), default=-1)
        key, value = pair[:cut].strip(), pair[cut + 1 :].strip()
        if cut < 0 or not key or not value:
            raise click.UsageError(f"{option} {pair!r} must be key=value, neither of them empty")
        values[key] = value
    return values


# --- create --------------------------------------------------------------------------------------


@click.command()
@names_argument()
@click.option(
    "--partitions",
    "-p",
    type=click.IntRange(-1, 2**31 - 1),
    default=-1,
    help="Partitions of each topic; -1 is the broker's default.",
)
@click.option(
    "--replicas",
    "-r",
    type=click.IntRange(-1, 2**15 - 1),
    default=-1,
    help="Replicas of each partition; -1 is the broker's default.",
)
@click.option(
    "--topic-config", "-c", "configs", metavar="KEY=VALUE", multiple=True, help="A config; repeat."
)
@click.option("--if-not-exists", is_flag=True, help="A topic that exists already is no failure.")
@click.option("--dry", "-d", is_flag=True, help="Only check whether it could be done.")
@format_option
@brokers_option
def create(
    names: list[str],
    partitions: int,
    replicas: int,
    configs: tuple[str, ...],
    if_not_exists: bool,
    dry: bool,
    output: str,
    brokers: list[str],
) -> None:
    """Create topics; all of them with the same partitions, replicas and configs.

    \b
    Example:  rpk-py topic create orders payments -p 6 -c retention.ms=86400000

    JSON: a list of {topic, status, message}. The status is OK, EXISTS (with --if-not-exists) or the
    name of Kafka's error code; the message is null where there is nothing to say.

    Exit code: 0 all were created, 1 one was not, 3 no broker answers.
    """
    values = parse_pairs("-c", configs)
    topics = [
        CreatableTopic(
            name,
            partitions,
            replicas,
            configs=[CreatableTopicConfig(key, value) for key, value in values.items()],
        )
        for name in names
    ]

    async def work() -> int:
        async with Client(brokers) as client:
            request = CreateTopicsRequest(topics, REQUEST_TIMEOUT_MS, dry)
            response = await client.controller(request)
        outcomes = []
        for answer in response.topics:
            if if_not_exists and answer.error_code == ErrorCode.TOPIC_ALREADY_EXISTS:
                outcomes.append(Outcome(answer.name, "EXISTS"))
            else:
                outcomes.append(Outcome.of(answer.name, answer.error_code, answer.error_message))
        return print_outcomes(sorted(outcomes, key=lambda o: names.index(o.topic)), output)

    finish(work())


# --- list ----------------------------------------------------------------------------------------


@click.command(name="list")
@names_argument(required=False)
@click.option("--detailed", "-d", is_flag=True, help="Show each partition as well.")
@click.option("--internal", "-i", is_flag=True, help="Show internal topics as well.")
@regex_option("list")
@format_option
@brokers_option
def list_topics(
    names: list[str], detailed: bool, internal: bool, regex: bool, output: str, brokers: list[str]
) -> None:
    """List all topics, or those that are named.

    An internal topic is listed with -i, or by its name.

    \b
    Example:  rpk-py topic list -d
              rpk-py topic list -r 'orders-.*'

    JSON: a list of {name, internal, partitions, replicas, error}; with -d also partition_list, a
    list of {partition, leader, epoch, replicas, isr, offline_replicas, error}. An error is null or
    text; leader is -1 where there is none.

    Exit code: 0 listed, 1 a name is no topic, 3 no broker answers.
    """
    if internal and regex:
        raise click.UsageError("-i and -r do not go together: -r never matches internal topics")
    if regex and not names:
        raise click.UsageError("-r needs an expression")

    async def work() -> int:
        async with Client(brokers) as client:
            wanted = await matching(client, names) if regex else names
            found = [] if regex and not wanted else (await client.metadata(wanted or None)).topics
        shown = [t for t in found if internal or wanted or not t.is_internal]
        return _print_list(sorted(shown, key=name_of), detailed, output)

    finish(work())


def _print_list(topics: Sequence[MetadataResponseTopic], detailed: bool, output: str) -> int:
    if output == "json":
        print_json([topic_facts(topic, detailed) for topic in topics])
    failed = [topic for topic in topics if topic.error_code]
    for each in failed:
        note(f"topic {name_of(each)}: {error_text(each.error_code)}")
    good = [topic for topic in topics if not topic.error_code]
    if output == "text" and detailed:
        print_text("\n\n".join(map(detailed_text, good)))
    elif output == "text":
        rows = [(name_of(topic), len(topic.partitions), replicas_of(topic)) for topic in good]
        print_rows(("NAME", "PARTITIONS", "REPLICAS"), rows, output)
    return int(bool(failed))


def replicas_of(topic: MetadataResponseTopic) -> int:
    """The number of replicas of a topic's first partition, 0 without partitions."""
    return len(topic.partitions[0].replica_nodes) if topic.partitions else 0


def topic_facts(topic: MetadataResponseTopic, detailed: bool) -> dict[str, Any]:
    """One topic for JSON, with its partitions if `detailed`."""
    facts: dict[str, Any] = {
        "name": name_of(topic),
        "internal": topic.is_internal,
        "partitions": len(topic.partitions),
        "replicas": replicas_of(topic),
        "error": error_text(topic.error_code) if topic.error_code else None,
    }
    if detailed:
        facts["partition_list"] = partition_facts(topic)
    return facts


def partition_facts(topic: MetadataResponseTopic) -> list[dict[str, Any]]:
    """The partitions of a topic for JSON, in the order of their indexes."""
    return [
        {
            "partition": each.partition_index,
            "leader": each.leader_id,
            "epoch": each.leader_epoch,
            "replicas": sorted(each.replica_nodes),
            "isr": sorted(each.isr_nodes),
            "offline_replicas": sorted(each.offline_replicas),
            "error": error_text(each.error_code) if each.error_code else None,
        }
        for each in sorted(topic.partitions, key=lambda p: p.partition_index)
    ]


def detailed_text(topic: MetadataResponseTopic) -> str:
    """One topic with the table of its partitions; columns only where there is something to say."""
    facts = partition_facts(topic)
    columns = ["partition", "leader", "epoch", "replicas"]
    columns += [name for name in ("offline_replicas", "error") if any(f[name] for f in facts)]
    headers = ["", *(name.upper().replace("_", "-") for name in columns)]
    lines = table(headers, [["", *(each[name] for name in columns)] for each in facts])
    suffix = " (internal)" if topic.is_internal else ""
    counts = f"{len(facts)} partitions, {replicas_of(topic)} replicas"
    return f"{cell(name_of(topic))}{suffix}, {counts}\n{lines}"


# --- alter-config --------------------------------------------------------------------------------


@click.command(name="alter-config")
@names_argument()
@click.option("--set", "-s", "sets", metavar="KEY=VALUE", multiple=True, help="Set; repeat.")
@click.option("--delete", "-d", "deletes", metavar="KEY", multiple=True, help="Unset; repeat.")
@click.option("--append", metavar="KEY=VALUE", multiple=True, help="Add to a list; repeat.")
@click.option("--subtract", metavar="KEY=VALUE", multiple=True, help="Take from a list; repeat.")
@click.option("--dry", is_flag=True, help="Only check whether it could be done.")
@format_option
@brokers_option
def alter_config(
    names: list[str],
    sets: tuple[str, ...],
    deletes: tuple[str, ...],
    append: tuple[str, ...],
    subtract: tuple[str, ...],
    dry: bool,
    output: str,
    brokers: list[str],
) -> None:
    """Set, unset, extend and shorten configs of topics; of each topic all of them or none.

    What is unset has the broker's value again.

    \b
    Example:  rpk-py topic alter-config orders --set retention.ms=3600000 --delete flush.ms

    JSON: a list of {topic, status, message}, as for create.

    Exit code: 0 all were changed, 1 one was not, 3 no broker answers.
    """
    configs = [
        AlterableConfig(key, operation, value)
        for option, operation, pairs in (
            ("--set", SET, sets),
            ("--append", APPEND, append),
            ("--subtract", SUBTRACT, subtract),
        )
        for key, value in parse_pairs(option, pairs).items()
    ]
    configs += [AlterableConfig(key, DELETE, None) for key in deletes]
    if not configs:
        raise click.UsageError("nothing to change: give --set, --delete, --append or --subtract")

    async def work() -> int:
        resources = [AlterConfigsResource(TOPIC_RESOURCE, name, configs) for name in names]
        async with Client(brokers) as client:
            response = await client.controller(IncrementalAlterConfigsRequest(resources, dry))
        return print_outcomes(
            (
                Outcome.of(r.resource_name, r.error_code, r.error_message)
                for r in response.responses
            ),
            output,
        )

    finish(work())


# --- add-partitions ------------------------------------------------------------------------------


@click.command(name="add-partitions")
@names_argument()
@click.option(
    "--num",
    "-n",
    type=click.IntRange(1, 2**31 - 1),
    required=True,
    help="How many partitions to add to each topic.",
)
@click.option("--force", "-f", is_flag=True, help="To internal topics as well.")
@format_option
@brokers_option
def add_partitions(
    names: list[str], num: int, force: bool, output: str, brokers: list[str]
) -> None:
    """Add partitions to topics that exist.

    Records with keys go to other partitions than before.

    \b
    Example:  rpk-py topic add-partitions orders --num 3

    JSON: a list of {topic, status, message}, as for create.

    Exit code: 0 all have them, 1 one has not, 3 no broker answers.
    """

    async def work() -> int:
        outcomes = []
        wanted = []
        async with Client(brokers) as client:
            for each in (await client.metadata(names)).topics:
                name = name_of(each)
                if each.error_code:
                    outcomes.append(Outcome.of(name, each.error_code))
                elif each.is_internal and not force:
                    text = "an internal topic is changed only with --force"
                    outcomes.append(Outcome(name, "INTERNAL", text, failed=True))
                else:
                    count = len(each.partitions) + num
                    wanted.append(CreatePartitionsTopic(name, count, None))
            if wanted:
                request = CreatePartitionsRequest(wanted, REQUEST_TIMEOUT_MS)
                response = await client.controller(request)
                outcomes += [
                    Outcome.of(r.name, r.error_code, r.error_message) for r in response.results
                ]
        return print_outcomes(sorted(outcomes, key=lambda o: names.index(o.topic)), output)

    finish(work())


# --- delete --------------------------------------------------------------------------------------


@click.command()
@names_argument()
@regex_option("delete")
@format_option
@brokers_option
def delete(names: list[str], regex: bool, output: str, brokers: list[str]) -> None:
    """Delete topics and all of their records, at once and for good.

    `topic list -r` shows what `topic delete -r` would delete; internal topics are never matched.

    \b
    Example:  rpk-py topic delete orders payments
              rpk-py topic delete -r 'test-.*'

    JSON: a list of {topic, status, message}, as for create.

    Exit code: 0 all were deleted, or none matched; 1 one was not, 3 no broker answers.
    """

    async def work() -> int:
        async with Client(brokers) as client:
            wanted = await matching(client, names) if regex else names
            outcomes = []
            if wanted:
                request = DeleteTopicsRequest(
                    [DeleteTopicState(name) for name in wanted], wanted, REQUEST_TIMEOUT_MS
                )
                response = await client.controller(request)
                outcomes = [
                    Outcome.of(r.name or "", r.error_code, r.error_message)
                    for r in response.responses
                ]
        return print_outcomes(sorted(outcomes, key=lambda o: wanted.index(o.topic)), output)

    finish(work())
