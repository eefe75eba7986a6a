"""`rpk-py topic describe`: a topic's summary, its configs and its partitions with their offsets.

Which process: the operator's. Sections and columns are those of `rpk topic describe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from kafka_protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
)
from kafka_protocol.messages.metadata import MetadataResponse
from rpk_py.cli.client import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, Client, brokers_option
from rpk_py.cli.outcome import (
    Answer,
    Partition,
    error_text,
    finish,
    list_offsets,
    matching,
    name_of,
    names_argument,
    regex_option,
)
from rpk_py.cli.output import (
    format_option,
    note,
    print_json,
    print_section,
    print_text,
    table,
)
from rpk_py.cli.topic import TOPIC_RESOURCE, partition_facts, replicas_of

SOURCES = {
    1: "DYNAMIC_TOPIC_CONFIG",
    2: "DYNAMIC_BROKER_CONFIG",
    3: "DYNAMIC_DEFAULT_BROKER_CONFIG",
    4: "STATIC_BROKER_CONFIG",
    5: "DEFAULT_CONFIG",
    6: "DYNAMIC_BROKER_LOGGER_CONFIG",
}
_TOPICS_PER_REQUEST = 500  # of DescribeConfigs: some 40 configs a topic

Section = tuple[str, str]  # its title and its text


@click.command()
@names_argument()
@click.option("--print-summary", "-s", "summary", is_flag=True, help="Print the summary.")
@click.option("--print-configs", "-c", "configs", is_flag=True, help="Print the configs.")
@click.option("--print-partitions", "-p", "partitions", is_flag=True, help="Print the partitions.")
@click.option("--print-all", "-a", "everything", is_flag=True, help="Print all of these.")
@regex_option("describe")
@format_option
@brokers_option
def describe(
    names: list[str],
    summary: bool,
    configs: bool,
    partitions: bool,
    everything: bool,
    regex: bool,
    output: str,
    brokers: list[str],
) -> None:
    """Show topics: by default the summary and the configs, each config with where it is set.

    \b
    Example:  rpk-py topic describe orders -p
              rpk-py topic describe -r 'orders-.*' -a

    JSON: always all of it, a list of {summary, configs, partitions}. A summary is {name, internal,
    partitions, replicas, error}; configs is a list of {key, value, source}; partitions is a list of
    {partition, leader, epoch, replicas, isr, offline_replicas, error, log_start_offset,
    high_watermark}. Offsets that are not known are -1, and the error says why.

    Exit code: 0 described, 1 a name is no topic or something about it could not be found out, 3 no
    broker answers.
    """
    wanted = {"summary": summary, "configs": configs, "partitions": partitions}
    if everything or output == "json":
        wanted = dict.fromkeys(wanted, True)
    elif not any(wanted.values()):
        wanted |= {"summary": True, "configs": True}

    async def work() -> int:
        async with Client(brokers) as client:
            topics = await matching(client, names) if regex else names
            facts = await _facts(client, topics, wanted) if topics else []
        if output == "json":
            print_json(facts)
        else:
            _print_text(facts, wanted)
        return _complain(facts)

    finish(work())


async def _facts(
    client: Client, names: Sequence[str], wanted: Mapping[str, bool]
) -> list[dict[str, Any]]:
    metadata = await client.metadata(names)
    existing = [name_of(topic) for topic in metadata.topics if not topic.error_code]
    configs = await _configs(client, existing) if wanted["configs"] else {}
    starts, ends = await _offsets(client, metadata) if wanted["partitions"] else ({}, {})
    facts = []
    for topic in sorted(metadata.topics, key=lambda topic: names.index(name_of(topic))):
        name = name_of(topic)
        described = configs.get(name, [])
        error = error_text(topic.error_code) if topic.error_code else None
        if isinstance(described, str):
            error, described = f"its configs cannot be shown: {described}", []
        summary = {
            "name": name,
            "internal": topic.is_internal,
            "partitions": len(topic.partitions),
            "replicas": replicas_of(topic),
            "error": error,
        }
        partitions = partition_facts(topic)
        if wanted["partitions"]:
            for each in partitions:
                _add_offsets(each, starts, ends, (name, each["partition"]))
        facts.append({"summary": summary, "configs": described, "partitions": partitions})
    return facts


Offsets = dict[Partition, Answer]


async def _offsets(client: Client, metadata: MetadataResponse) -> tuple[Offsets, Offsets]:
    """The starts, then the ends: so no start is shown beyond its end."""
    partitions = [
        (name_of(topic), each.partition_index)
        for topic in metadata.topics
        for each in topic.partitions
    ]
    starts = await list_offsets(client, metadata, partitions, EARLIEST_TIMESTAMP)
    answered = [partition for partition in partitions if not starts[partition].error]
    return starts, await list_offsets(client, metadata, answered, LATEST_TIMESTAMP)


def _add_offsets(
    facts: dict[str, Any], starts: Offsets, ends: Offsets, partition: Partition
) -> None:
    start, end = starts.get(partition, Answer()), ends.get(partition, Answer())
    facts["error"] = facts["error"] or start.error or end.error
    facts["log_start_offset"], facts["high_watermark"] = start.value, end.value


async def _configs(
    client: Client, names: Sequence[str]
) -> dict[str, list[dict[str, str | None]] | str]:
    """Of each topic its configs, or why they cannot be told."""
    found: dict[str, list[dict[str, str | None]] | str] = {}
    for start in range(0, len(names), _TOPICS_PER_REQUEST):
        resources = [
            DescribeConfigsResource(TOPIC_RESOURCE, name, None)
            for name in names[start : start + _TOPICS_PER_REQUEST]
        ]
        for result in (await client.ask(DescribeConfigsRequest(resources))).results:
            if result.error_code:
                told: Any = error_text(result.error_code, result.error_message)
            else:
                told = config_rows(result.configs)
            found[result.resource_name] = told
    return found


def config_rows(configs: Iterable[DescribeConfigsResourceResult]) -> list[dict[str, str | None]]:
    """Configs for JSON, by name: what is secret is not shown."""
    return [
        {
            "key": config.name,
            "value": "(sensitive)" if config.is_sensitive else config.value,
            "source": source_name(config.config_source),
        }
        for config in sorted(configs, key=lambda config: config.name)
    ]


def source_name(source: int) -> str:
    """Where a config is set, in Kafka's words."""
    return SOURCES.get(source, f"UNKNOWN_{source}")


def _print_text(facts: Sequence[dict[str, Any]], wanted: Mapping[str, bool]) -> None:
    for topic in facts:
        if topic["summary"]["error"] and not topic["summary"]["partitions"]:
            continue  # told on standard error
        sections: list[Section] = []
        if wanted["summary"]:
            summary = topic["summary"]
            rows = [
                (key.upper(), value)
                for key, value in summary.items()
                if key not in ("internal", "error") or value
            ]
            sections.append(("SUMMARY", table((), rows)))
        if wanted["configs"]:
            rows = [tuple(config.values()) for config in topic["configs"]]
            sections.append(("CONFIGS", table(("KEY", "VALUE", "SOURCE"), rows)))
        if wanted["partitions"]:
            sections.append(("PARTITIONS", _partitions_text(topic["partitions"])))
        for title, text in sections:
            if len(sections) == 1 and len(facts) == 1:
                print_text(text)
            elif len(sections) == 1:
                print_section(topic["summary"]["name"], text)
            else:
                print_section(title, text)


def _partitions_text(facts: Sequence[dict[str, Any]]) -> str:
    columns = ["partition", "leader", "epoch", "replicas"]
    columns += [name for name in ("offline_replicas", "error") if any(f[name] for f in facts)]
    columns += ["log_start_offset", "high_watermark"]
    headers = [name.upper().replace("_", "-") for name in columns]
    rows = [
        [None if n in columns[-2:] and f[n] == -1 else f[n] for n in columns]  # -1: not known
        for f in facts
    ]
    return table(headers, rows)


def _complain(facts: Sequence[dict[str, Any]]) -> int:
    """Tell what could not be found out. Returns the exit code."""
    code = 0
    for topic in facts:
        name = topic["summary"]["name"]
        if topic["summary"]["error"]:
            note(f"topic {name}: {topic['summary']['error']}")
            code = 1
        elif bad := [each for each in topic["partitions"] if each["error"]]:
            first = f"partition {bad[0]['partition']}: {bad[0]['error']}"
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            note(f"topic {name}, {first}{more}")
            code = 1
    return code
