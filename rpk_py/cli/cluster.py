"""`rpk-py cluster`: what a cluster consists of; other modules have its health and its configs.

Which process: the operator's. Words, options and columns are those of `rpk cluster`.
"""

from __future__ import annotations

from typing import Any

import click

from kafka_protocol.messages.metadata import MetadataResponse, MetadataResponseTopic
from rpk_py.cli import LazyGroup, Loaders, group_brokers_option
from rpk_py.cli.client import Client, brokers_option
from rpk_py.cli.outcome import error_text, finish, name_of, names_argument
from rpk_py.cli.output import (
    cell,
    format_option,
    note,
    print_json,
    print_section,
    print_text,
    table,
)
from rpk_py.cli.topic import detailed_text, replicas_of, topic_facts


def _info() -> click.Command:
    return info


def _health() -> click.Command:
    from rpk_py.cli.cluster_health import health

    return health


def _config() -> click.Command:
    from rpk_py.cli.cluster_config import config

    return config


_COMMANDS: Loaders = {
    "info": (_info, "Show the cluster's id, brokers and topics."),
    "health": (_health, "Find out whether all nodes and partitions are well."),
    "config": (_config, "Show and change broker configs."),
}


@click.group(cls=LazyGroup, loaders=_COMMANDS, aliases={"metadata": "info", "status": "info"})
@group_brokers_option
def cluster() -> None:
    """Look at a cluster of rpk-py or of any Kafka brokers, and change its configs."""


@click.command()
@names_argument(required=False)
@click.option("--print-cluster", "-c", "ids", is_flag=True, help="Print the cluster's id.")
@click.option("--print-brokers", "nodes", is_flag=True, help="Print the brokers.")
@click.option("--print-topics", "-t", "topics", is_flag=True, help="Print the topics.")
@click.option(
    "--print-internal-topics", "-i", "internal", is_flag=True, help="Internal topics as well: -t."
)
@click.option(
    "--print-detailed-topics", "-d", "detailed", is_flag=True, help="Each partition as well: -t."
)
@format_option
@brokers_option
def info(
    names: list[str],
    ids: bool,
    nodes: bool,
    topics: bool,
    internal: bool,
    detailed: bool,
    output: str,
    brokers: list[str],
) -> None:
    """Show the cluster's id, its brokers and its topics, or only some of these.

    The controller is marked with a star. With NAME only these topics are shown.

    \b
    Example:  rpk-py cluster info
              rpk-py cluster info -d orders

    JSON: {cluster_id, controller_id, brokers, topics}; of these only what was asked for. brokers is
    a list of {id, host, port, rack, controller}; topics is one as `topic list` has it.

    Exit code: 0 shown, 1 a name is no topic, 3 no broker answers.
    """
    topics = topics or bool(names) or internal or detailed
    if not (ids or nodes or topics):
        ids = nodes = topics = internal = True

    async def work() -> int:
        async with Client(brokers) as client:
            metadata = await client.metadata((names or None) if topics else [])
        shown = [t for t in metadata.topics if internal or names or not t.is_internal]
        shown.sort(key=name_of)
        if output == "json":
            print_json(_facts(metadata, shown, (ids, nodes, topics), detailed))
        else:
            _print_text(metadata, shown, (ids, nodes, topics), detailed)
        failed = [topic for topic in shown if topic.error_code]
        for each in failed:
            note(f"topic {name_of(each)}: {error_text(each.error_code)}")
        return int(bool(failed))

    finish(work())


def _facts(
    metadata: MetadataResponse,
    topics: list[MetadataResponseTopic],
    wanted: tuple[bool, bool, bool],
    detailed: bool,
) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if wanted[0]:
        facts["cluster_id"] = metadata.cluster_id
        facts["controller_id"] = metadata.controller_id
    if wanted[1]:
        facts["brokers"] = [
            {
                "id": node.node_id,
                "host": node.host,
                "port": node.port,
                "rack": node.rack,
                "controller": node.node_id == metadata.controller_id,
            }
            for node in sorted(metadata.brokers, key=lambda node: node.node_id)
        ]
    if wanted[2]:
        facts["topics"] = [topic_facts(topic, detailed) for topic in topics]
    return facts


def _print_text(
    metadata: MetadataResponse,
    topics: list[MetadataResponseTopic],
    wanted: tuple[bool, bool, bool],
    detailed: bool,
) -> None:
    sections: list[tuple[str, str]] = []
    if wanted[0]:
        sections.append(("CLUSTER", cell(metadata.cluster_id)))
    if wanted[1]:
        sections.append(("BROKERS", _brokers_text(metadata)))
    good = [topic for topic in topics if not topic.error_code]
    if wanted[2] and (good or len(sections) == 0):
        if detailed:
            text = "\n\n".join(map(detailed_text, good))
        else:
            rows = [(name_of(t), len(t.partitions), replicas_of(t)) for t in good]
            text = table(("NAME", "PARTITIONS", "REPLICAS"), rows)
        sections.append(("TOPICS", text))
    for title, text in sections:
        if len(sections) == 1:
            print_text(text)
        else:
            print_section(title, text)


def _brokers_text(metadata: MetadataResponse) -> str:
    nodes = sorted(metadata.brokers, key=lambda node: node.node_id)
    with_rack = any(node.rack is not None for node in nodes)
    rows = []
    for node in nodes:
        star = "*" if node.node_id == metadata.controller_id else ""
        row = [f"{node.node_id}{star}", node.host, node.port]
        rows.append([*row, node.rack] if with_rack else row)
    return table(["ID", "HOST", "PORT", *(["RACK"] if with_rack else [])], rows)
