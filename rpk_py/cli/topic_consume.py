"""`topic consume`: records of topics to standard output, as JSON or in a format.

Which process: the operator's. Groups are not served yet. JSON has the fields that rpk's has;
what is not UTF-8 is base64 and a field beside it says so, and null is null.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from kafka_protocol.messages.fetch import PartitionData
from kafka_protocol.record_batch import BatchHeader, Record
from rpk_py.cli.client import Client, ClientError, TopicPartition, brokers_option, run
from rpk_py.cli.consumer import Consumer
from rpk_py.cli.offset_range import OffsetRange, parse_range, resolve
from rpk_py.cli.record_format import Printer, Shown, output_format

# Control characters that JSON does not escape by itself; inside strings only, where this is valid.
_CONTROLS = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def json_format(indent: int | None, has_value: bool = True) -> Printer:
    """A printer of one JSON object a record, on one line without an indent."""

    def show(record: Shown) -> bytes:
        shown: dict[str, Any] = {"topic": record.topic}
        _put(shown, "key", record.key)
        if has_value:
            _put(shown, "value", record.value)
        else:
            shown["value_size"] = len(record.value or b"")
        headers = []
        for name, value in record.headers:
            header: dict[str, Any] = {"key": name}
            _put(header, "value", value)
            headers.append(header)
        shown["headers"] = headers
        shown["timestamp"] = record.timestamp
        shown["partition"] = record.partition
        shown["offset"] = record.offset
        text = json.dumps(shown, ensure_ascii=False, indent=indent)
        return text.translate(_CONTROLS).encode() + b"\n"

    return show


def _put(shown: dict[str, Any], name: str, value: bytes | None) -> None:
    """The text of some bytes; where they are not UTF-8 base64, and NAME_encoding says so."""
    if value is None:
        shown[name] = None
        return
    try:
        shown[name] = value.decode()
    except UnicodeDecodeError:
        shown[name] = base64.b64encode(value).decode()
        shown[f"{name}_encoding"] = "base64"


class Printed:
    """Writes records to standard output, up to so many (0: all)."""

    def __init__(self, show: Printer, count_max: int) -> None:
        self._show = show
        self._count_max = count_max
        self._count = 0
        self._write: Callable[[bytes], object] = sys.stdout.buffer.write
        self.flush: Callable[[], None] = sys.stdout.buffer.flush

    def take(self, topic: str, data: PartitionData, header: BatchHeader, record: Record) -> bool:
        """Print one record; True when there have been enough."""
        self._count += 1
        shown = Shown(
            topic,
            data.partition_index,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            record.headers,
            header.partition_leader_epoch,
            header.producer_id,
            header.producer_epoch,
            header.attributes,
            data.log_start_offset,
            data.last_stable_offset,
            data.high_watermark,
            self._count,
        )
        self._write(self._show(shown))
        return self._count == self._count_max


async def _consume(
    brokers: list[str],
    topics: list[str],
    wanted: OffsetRange,
    partitions: list[int] | None,
    printed: Printed,
) -> None:
    async with Client(brokers) as client:
        found = await client.partitions(topics)
        spans = await resolve(client, wanted, _chosen(found, partitions))
        await Consumer(client, spans, printed.take, printed.flush).run()


def _chosen(found: dict[str, list[int]], partitions: list[int] | None) -> list[TopicPartition]:
    for topic, indexes in found.items():
        if not indexes:
            raise ClientError(f"topic {topic}: the broker names no partitions")
        for missing in set(partitions or ()).difference(indexes):
            raise ClientError(
                f"topic {topic} has no partition {missing}: it has {len(indexes)}, from 0 on"
            )
    return [
        (topic, index)
        for topic, indexes in found.items()
        for index in (indexes if partitions is None else partitions)
    ]


# --- the command -----------------------------------------------------------------------------


def _range(_ctx: click.Context, _param: click.Parameter, value: str) -> OffsetRange:
    try:
        return parse_range(value, time.time_ns() // 1_000_000)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _partition_list(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> list[int] | None:
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise click.BadParameter(f"{value!r} is no list of partitions like 0,2,5")
    return sorted({int(part) for part in parts})


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("topics", metavar="TOPIC...", nargs=-1, required=True)
@brokers_option
@click.option(
    "-o",
    "--offset",
    "wanted",
    metavar="RANGE",
    default="start",
    show_default=True,
    callback=_range,
    help="Where to start, and perhaps end; see above.",
)
@click.option(
    "-n", "--num", type=click.IntRange(0), default=0, help="Stop after so many records. [0: never]"
)
@click.option(
    "-p",
    "--partitions",
    metavar="N,...",
    callback=_partition_list,
    help="Only these partitions. [default: all]",
)
@click.option(
    "-f",
    "--format",
    "layout",
    metavar="FORMAT",
    help="json: one object a line; else a format of verbs, see above. [default: indented JSON]",
)
@click.option("--meta-only", is_flag=True, help="In JSON, the size of a value instead of it.")
def consume(
    topics: tuple[str, ...],
    brokers: list[str],
    wanted: OffsetRange,
    num: int,
    partitions: list[int] | None,
    layout: str | None,
    meta_only: bool,
) -> None:
    """Print the records of topics, as they come, until Ctrl-C.

    RANGE is start, end, 47, +2 (after the start), -3 (before the end), 4:8, :end (stop at the
    present end), or by time @1767225600000, @2026-01-31, @2026-01-31T12:00:00Z, @-1h, @-2h:-1h.

    FORMAT has the verbs %t topic, %k key, %v value, %p partition, %o offset, %d timestamp in ms,
    %h{...} headers, %T %K %V %H lengths, %e leader epoch, %i count, and with modifiers %v{hex},
    %k{base64}, %V{big32}, %d{strftime[%F %T]}, %h{%k=%v }, %a{compression}; \\n \\t \\xNN; %%.

    \b
    Example:  rpk-py topic consume orders -o :end -f '%p %o %k %v\\n'
              rpk-py topic consume orders -o @-1h -f json | jq .value
    """
    if meta_only and layout not in (None, "json"):
        raise click.UsageError("--meta-only is for JSON; leave it out with --format")
    if layout in (None, "json"):
        show = json_format(2 if layout is None else None, not meta_only)
    else:
        show = output_format(layout)
    names = list(dict.fromkeys(topics))
    # Ctrl-C is how following ends, so it is no failure.
    run(_consume(brokers, names, wanted, partitions, Printed(show, num)), interrupted=0)
