"""`rpk-py cluster health`: whether every node answers and every partition is served.

Which process: the operator's. Every node is asked for itself, and what any of them says is put
together: a node knows best which of its own logs are offline.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import click

from kafka_protocol.messages.describe_log_dirs import DescribeLogDirsRequest
from kafka_protocol.messages.metadata import MetadataRequest, MetadataResponse
from rpk_py.cli.client import Client, ClientError, NotServed, brokers_option
from rpk_py.cli.outcome import error_text, finish, name_of
from rpk_py.cli.output import format_option, print_json, print_section, print_text, table

_WATCH_PAUSE_S = 2.0
_NODE_S_MAX = 5.0  # for a node to answer

# JSON key -> how a person reads it
_LINES = {
    "healthy": "Healthy:",
    "unhealthy_reasons": "Unhealthy reasons:",
    "controller_id": "Controller ID:",
    "all_nodes": "All nodes:",
    "nodes_down": "Nodes down:",
    "leaderless_partitions": "Leaderless partitions ({}):",
    "under_replicated_partitions": "Under-replicated partitions ({}):",
    "offline_replicas": "Offline replicas ({}):",
    "failed_log_dirs": "Failed log directories ({}):",
}


@click.command()
@click.option("--watch", "-w", is_flag=True, help="Go on, and print each change.")
@click.option(
    "--exit-when-healthy", "-e", is_flag=True, help="Watch until all is well. Means --watch."
)
@format_option
@brokers_option
def health(watch: bool, exit_when_healthy: bool, output: str, brokers: list[str]) -> None:
    """Find out whether every node answers and every partition has a leader and all its replicas.

    Nodes that are down and partitions that are not well are named, as are log directories that a
    broker cannot use.

    \b
    Example:  rpk-py cluster health
              timeout 60 rpk-py cluster health --exit-when-healthy

    JSON: {healthy, unhealthy_reasons, controller_id, all_nodes, nodes_down, leaderless_partitions,
    under_replicated_partitions, offline_replicas, failed_log_dirs}; nodes are ids, partitions
    TOPIC/PARTITION, the others text. With --watch one such object a line.

    Exit code: 0 healthy, 1 not healthy, 3 no broker answers.
    """
    watch = watch or exit_when_healthy

    async def work() -> int:
        last: dict[str, Any] | None = None
        while True:
            try:
                overview = await look(brokers)
            except ClientError as error:
                if not watch:
                    raise
                overview = _overview(-1, [], {}, [str(error)])
            if overview != last:
                _print(overview, output, watch)
            last = overview
            if not watch or (exit_when_healthy and overview["healthy"]):
                return int(not overview["healthy"])
            await asyncio.sleep(_WATCH_PAUSE_S)

    finish(work())


async def look(brokers: Sequence[str]) -> dict[str, Any]:
    """Ask every node. Returns the overview, as JSON has it; raises Unreachable if none answers."""
    async with Client(brokers, timeout_s=_NODE_S_MAX) as client:
        first = await client.metadata(None)
        nodes = sorted(node.node_id for node in first.brokers)
        found = await asyncio.gather(*(_look_at(client, node_id) for node_id in nodes))
    down = {n: reason for n, (view, reason) in zip(nodes, found, strict=True) if view is None}
    views = [first, *(view for view, _ in found if view is not None)]
    failed = [reason for view, reason in found if view is not None and reason]
    overview = _overview(first.controller_id, nodes, down, [])
    for view in views:
        _add_view(overview, view)
    overview["failed_log_dirs"] = sorted(failed)
    return _judge(overview)


async def _look_at(client: Client, node_id: int) -> tuple[MetadataResponse | None, str]:
    """What a node knows, and what is wrong with its directories; or None, and why it is down."""
    try:
        view: MetadataResponse = await client.ask(
            MetadataRequest(None, allow_auto_topic_creation=False), node_id=node_id
        )
    except ClientError as error:
        return None, str(error)
    try:
        dirs = await client.ask(DescribeLogDirsRequest([]), node_id=node_id)
    except NotServed:
        return view, ""
    except ClientError as error:
        return None, str(error)
    failed = [
        f"node {node_id} {each.log_dir}: {error_text(each.error_code)}"
        for each in dirs.results
        if each.error_code
    ]
    if dirs.error_code:
        failed.append(f"node {node_id}: {error_text(dirs.error_code)}")
    return view, "; ".join(failed)


def _overview(
    controller_id: int, nodes: list[int], down: dict[int, str], reasons: list[str]
) -> dict[str, Any]:
    return {
        "healthy": False,
        "unhealthy_reasons": reasons + [f"node {n} is down: {why}" for n, why in down.items()],
        "controller_id": controller_id,
        "all_nodes": nodes,
        "nodes_down": sorted(down),
        "leaderless_partitions": [],
        "under_replicated_partitions": [],
        "offline_replicas": [],
        "failed_log_dirs": [],
    }


def _add_view(overview: dict[str, Any], view: MetadataResponse) -> None:
    """Add what one node says of the partitions to what others have said."""
    for topic in view.topics:
        for each in topic.partitions:
            name = f"{name_of(topic)}/{each.partition_index}"
            for key, is_so in (
                ("leaderless_partitions", each.leader_id < 0),
                ("under_replicated_partitions", len(each.isr_nodes) < len(each.replica_nodes)),
                ("offline_replicas", bool(each.offline_replicas)),
            ):
                if is_so and name not in overview[key]:
                    overview[key].append(name)


def _judge(overview: dict[str, Any]) -> dict[str, Any]:
    reasons = overview["unhealthy_reasons"]
    if overview["controller_id"] < 0:
        reasons.append("there is no controller")
    for key, text in (
        ("leaderless_partitions", "without a leader"),
        ("under_replicated_partitions", "with too few replicas in sync"),
        ("offline_replicas", "with offline replicas"),
    ):
        overview[key].sort()
        if overview[key]:
            reasons.append(f"{len(overview[key])} partitions {text}")
    if overview["failed_log_dirs"]:
        reasons.append("log directories have failed")
    overview["healthy"] = not reasons
    return overview


def _print(overview: dict[str, Any], output: str, watch: bool) -> None:
    if output == "json" and watch:
        print_text(json.dumps(overview))
    elif output == "json":
        print_json(overview)
    else:
        rows = [
            (line.format(len(value) if isinstance(value, list) else ""), value)
            for line, value in ((_LINES[key], value) for key, value in overview.items())
        ]
        print_section("CLUSTER HEALTH OVERVIEW", table((), rows))
