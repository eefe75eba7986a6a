"""`rpk-py group describe`: members, offsets and lag; with --history what happened, and why.

Which process: the operator's. The history is the coordinator's and comes by HTTP from the admin
port, the rest by Kafka's protocol.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click

from rpk_py.cli.client import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    Client,
    ClientError,
    TopicPartition,
    Unreachable,
    brokers_option,
    parse_address,
)
from rpk_py.cli.group import names_matching, regex_option
from rpk_py.cli.groups import GroupInfo, GroupMember, committed
from rpk_py.cli.groups import describe as describe_one
from rpk_py.cli.outcome import finish
from rpk_py.cli.output import format_option, note, print_json, print_text, table

DEFAULT_ADMIN = "127.0.0.1:9644"
HISTORY_BYTES_MAX = 16 << 20
_TIMEOUT_S = 10.0

Facts = dict[str, Any]


@click.command()
@click.argument("groups", nargs=-1, required=True, metavar="GROUP...")
@click.option("--print-summary", "-s", is_flag=True, help="Only the summary.")
@click.option("--print-commits", "-c", is_flag=True, help="Only the offsets of partitions.")
@click.option("--print-lag-per-topic", "-t", is_flag=True, help="The lag of each topic instead.")
@click.option("--history", is_flag=True, help="What happened to the group, and where to look next.")
@click.option(
    "--admin",
    metavar="HOST:PORT",
    envvar="RPK_ADMIN",
    default=DEFAULT_ADMIN,
    show_default=True,
    help="With --history: the broker's admin port; also RPK_ADMIN.",
)
@regex_option
@format_option
@brokers_option
def describe(
    groups: tuple[str, ...],
    print_summary: bool,
    print_commits: bool,
    print_lag_per_topic: bool,
    history: bool,
    admin: str,
    regex: bool,
    output: str,
    brokers: list[str],
) -> None:
    """Show groups: who is in them, what they have committed, and how far behind they are.

    \b
    Example:  rpk-py group describe orders-reader
              rpk-py group describe orders-reader --history

    JSON: a list of {group, coordinator, type, state, assignor, epoch, members, total_lag,
    partitions}; a partition is {topic, partition, current_offset, log_start_offset,
    log_end_offset, lag, member_id, instance_id, client_id, host}, null where there is none. With
    --history a list of what GET /v1/groups/GROUP/history says.

    Exit code: 0 shown, 1 a group does not exist or could not be asked for, 3 no broker answers.
    """
    if print_summary + print_commits + print_lag_per_topic + history > 1:
        raise click.UsageError("-s, -c, -t and --history do not go together")

    async def work() -> int:
        async with Client(brokers) as client:
            names = await names_matching(client, groups, regex)
            if history:
                return _print_histories(names, admin, output)
            found = [(name, await facts_of(client, name)) for name in names]
        missing = [name for name, facts in found if facts is None]
        for name in missing:
            note(f"group {name}: there is no such group")
        shown = [facts for _, facts in found if facts is not None]
        if output == "json":
            print_json(shown)
        elif shown:
            which = (print_summary, print_commits, print_lag_per_topic)
            print_text("\n\n".join(_text(facts, *which) for facts in shown))
        return int(bool(missing))

    finish(work())


# --- facts ---------------------------------------------------------------------------------------


async def facts_of(client: Client, name: str) -> Facts | None:
    """A group for JSON; None if there is neither a group nor an offset of it."""
    info = await describe_one(client, name)
    offsets = await committed(client, name)
    if info is None:
        if not offsets:
            return None
        info = GroupInfo(name, -1, "classic", "Empty")
    owners: dict[TopicPartition, GroupMember] = {
        partition: member for member in info.members for partition in member.partitions
    }
    wanted = sorted(owners.keys() | offsets.keys())
    starts = await client.list_offsets(dict.fromkeys(wanted, EARLIEST_TIMESTAMP)) if wanted else {}
    ends = await client.list_offsets(dict.fromkeys(wanted, LATEST_TIMESTAMP)) if wanted else {}
    partitions: list[Facts] = []
    for key in wanted:
        offset = offsets[key][0] if key in offsets else None
        start, end = starts[key].offset, ends[key].offset
        owner = owners.get(key)
        partitions.append(
            {
                "topic": key[0],
                "partition": key[1],
                "current_offset": offset,
                "log_start_offset": start,
                "log_end_offset": end,
                # Nothing committed: all that there is. Committed and deleted since: what is left.
                "lag": max(end - max(start if offset is None else offset, start), 0),
                "member_id": owner.member_id if owner else None,
                "instance_id": owner.instance_id if owner else None,
                "client_id": owner.client_id if owner else None,
                "host": owner.host if owner else None,
            }
        )
    return {
        "group": name,
        "coordinator": info.coordinator,
        "type": info.kind,
        "state": info.state,
        "assignor": info.assignor or None,
        "epoch": info.epoch if info.epoch >= 0 else None,
        "members": len(info.members),
        "total_lag": sum(each["lag"] for each in partitions),
        "partitions": partitions,
    }


def _text(facts: Facts, summary: bool, commits: bool, per_topic: bool) -> str:
    keys = ["group", "coordinator", "type", "state", "assignor", "epoch", "members", "total_lag"]
    head = table(
        (),
        (
            (key.upper().replace("_", "-"), facts[key])
            for key in keys
            if key != "epoch" or facts[key] is not None
        ),
    )
    if summary:
        return head
    if per_topic:
        lags: dict[str, int] = {}
        for each in facts["partitions"]:
            lags[each["topic"]] = lags.get(each["topic"], 0) + each["lag"]
        return head + "\n\n" + table(("TOPIC", "LAG"), lags.items())
    columns = ["topic", "partition", "current_offset", "log_start_offset", "log_end_offset", "lag"]
    columns += ["member_id"]
    columns += ["instance_id"] if any(each["instance_id"] for each in facts["partitions"]) else []
    columns += ["client_id", "host"]
    body = table(
        [name.upper().replace("_", "-") for name in columns],
        ([each[name] for name in columns] for each in facts["partitions"]),
    )
    return body if commits else f"{head}\n\n{body}" if facts["partitions"] else head


# --- history -------------------------------------------------------------------------------------


def _print_histories(names: Sequence[str], admin: str, output: str) -> int:
    found = [(name, _fetch_history(admin, name)) for name in names]
    for name, history in found:
        if history is None:
            note(f"group {name}: there is no such group at {admin}")
    shown = [history for _, history in found if history is not None]
    if output == "json":
        print_json(shown)
    elif shown:
        print_text("\n\n".join(map(history_text, shown)))
    return int(len(shown) < len(found))


def _fetch_history(admin: str, name: str) -> Facts | None:
    host, port = parse_address(admin)
    hint = "say where the admin port of the broker is: --admin or RPK_ADMIN"
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", f"/v1/groups/{quote(name, safe='')}/history")
        reply = connection.getresponse()
        body = reply.read(HISTORY_BYTES_MAX + 1)
        told = json.loads(body)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"admin port {admin}: {error}; {hint}") from error
    except ValueError as error:
        raise ClientError(f"admin port {admin} does not answer as rpk-py does; {hint}") from error
    finally:
        connection.close()
    if reply.status == 404 and isinstance(told, dict) and told.get("group") == name:
        return None
    if reply.status != 200 or not isinstance(told, dict):
        problem = told.get("error") if isinstance(told, dict) else None
        raise ClientError(f"admin port {admin}: {reply.status}: {problem or 'no history'}; {hint}")
    return told


def history_text(history: Facts) -> str:
    """A history for a person: one line an event, and where to look next."""
    title = f"{history['group']} ({history['type']}, {history['state']})"
    if history["dropped"]:
        title += f", {history['dropped']} older events are gone"
    rows = [
        (
            _clock(event["at_ms"]),
            event["generation"],
            event["kind"],
            _who(event),
            _what(event),
        )
        for event in history["events"]
    ]
    lines = [title, table(("TIME", "GENERATION", "EVENT", "WHO", "WHAT"), rows)]
    lines += [f"look next: {text}" for text in history["look_next"]]
    return "\n".join(lines)


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _who(event: Facts) -> str:
    where = event["client_host"].lstrip("/")
    named = event["member"] or "-"
    return f"{named} at {where}" if where else named


def _what(event: Facts) -> str:
    words: list[str] = []
    if event["reason"]:
        words.append(event["reason"])
    if event["duration_ms"] >= 0:
        words.append(f"after {event['duration_ms'] / 1000:.3f} s")
    if event["moved_count"]:
        words.append(f"{event['moved_count']} partitions moved: {_moves(event['moves'])}")
        if len(event["moves"]) < event["moved_count"]:
            words.append("and others")
    return "; ".join(words) or "-"


def _moves(moves: Iterable[Facts]) -> str:
    return ", ".join(
        f"{move['topic']}-{move['partition']} {move['before'] or 'nobody'} -> "
        f"{move['after'] or 'nobody'}"
        for move in moves
    )
