"""`rpk-py durability`: what an acknowledgement means on this machine, measured.

Which process: the operator's, on the broker's machine. Writes one temporary file in the data
directory, as the broker writes (the same backend, Direct I/O, RWF_DSYNC), and removes it. Topics
are asked of the broker that runs there, or of the one that --brokers names.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from kafka_protocol.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from rpk_py.cli import BROKERS
from rpk_py.cli.client import Client, ClientError, brokers_option, run
from rpk_py.cli.outcome import name_of
from rpk_py.cli.output import format_option, note, print_json, print_section, print_text, table
from rpk_py.cli.topic import TOPIC_RESOURCE
from rpk_py.config import Config
from rpk_py.prepare import STATUS_FILE
from storage.backend import BACKENDS, Backend, open_disk, settle_backend
from storage.buffers import aligned_buffer
from storage.device import IN_MEMORY, LAYERED, NETWORK, BlockDevice, device_of, mount_of
from storage.disk import alignment, allocate, open_segment
from storage.errors import DiskUnavailable

WRITES_MAX = 20_000
FILE_BYTES = 8 << 20
PLAUSIBLE_MS = 0.015  # no flush that leaves the machine's memory is known to be faster
_CONFIGS = ("write.caching", "flush.ms", "flush.bytes")
_TOPICS_PER_REQUEST = 500


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Config().data_dir,
    show_default=True,
    help="The broker's data directory, or any on the same disk.",
)
@click.option(
    "--io-backend",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="How to write, as in `start`.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1, max=60),
    default=2.0,
    show_default=True,
    help="How long to measure.",
)
@format_option
@brokers_option
def durability(
    data_dir: Path, io_backend: Backend, seconds: float, output: str, brokers: list[str]
) -> None:
    """Tell what an acknowledgement means on this machine: what is synced, how, on which device,
    what that takes, and which topics may lose what.

    Writes 8 MiB of a temporary file in the data directory, over and over, as the broker writes lone
    small batches, one after the other; then the same by write and fdatasync. A broker that runs
    there is asked for its topics, unless --brokers names another.

    \b
    Example:  rpk-py durability --data-dir /var/lib/rpk
              rpk-py durability --data-dir /var/lib/rpk --format json

    JSON: {data_dir, file_system, mount_point, mount_options, devices, direct_io, block_bytes,
    backend, durable_write_ms, fdatasync_ms, warnings, topics}. The times are {writes, p50, p99,
    max}. A topic is {topic, acknowledged, flush_ms, flush_bytes}; topics is null where no broker
    was asked.

    Exit code: 0 acknowledged means durable, as far as can be known; 1 it does not, or there is a
    warning; 2 the directory cannot be written; 3 the broker of --brokers does not answer.
    """
    try:
        facts = _describe(data_dir, io_backend, seconds)
    except (OSError, DiskUnavailable) as error:
        raise click.UsageError(f"cannot write in {data_dir}: {error}") from None
    facts["topics"] = None
    context = click.get_current_context()
    source = context.get_parameter_source("brokers")
    if source is not click.core.ParameterSource.DEFAULT or BROKERS in context.meta:
        run(_add_topics(facts, brokers))
    elif running := _running_on(data_dir):
        try:
            asyncio.run(_add_topics(facts, running))
        except ClientError as error:
            note(f"the broker that runs there does not tell its topics: {error}")
    if output == "json":
        print_json(facts)
    else:
        _print_text(facts)
    cached = [each for each in facts["topics"] or () if each["acknowledged"] != "durable"]
    sys.exit(1 if facts["warnings"] or cached else 0)


# --- this machine --------------------------------------------------------------------------------


def _describe(data_dir: Path, backend: Backend, seconds: float) -> dict[str, Any]:
    mount, device = mount_of(data_dir), device_of(data_dir)
    facts: dict[str, Any] = {
        "data_dir": str(data_dir.resolve()),
        "file_system": mount.kind if mount else None,
        "mount_point": mount.point if mount else None,
        "mount_options": mount.options if mount else [],
        "devices": [asdict(device)] if device else [],
    }
    backend, lost = settle_backend(backend, data_dir)
    if lost is not None:
        note(lost)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".durability.") as folder:
        facts |= asyncio.run(_measure(Path(folder), backend, seconds))
    facts["warnings"] = list(_warnings(facts, device))
    return facts


async def _measure(folder: Path, backend: Backend, seconds: float) -> dict[str, Any]:
    """Lone small batches, as the broker writes them: a header block and a block, durable each."""
    fd, direct = open_segment(folder / "durability", create=True)
    lost: list[str] = []
    try:
        block_bytes = alignment(fd)
        allocate(fd, 0, FILE_BYTES)
        disk = open_disk(backend, asyncio.get_running_loop(), lost.append)
        _memory, view = aligned_buffer(2 * block_bytes, block_bytes)
        note(f"measuring for {seconds:g} s")
        try:
            waits_s: list[float] = []
            pos, until_s = 0, time.perf_counter() + seconds / 2
            while time.perf_counter() < until_s and len(waits_s) < WRITES_MAX:
                future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
                start_s = time.perf_counter()
                disk.write(fd, view, pos, future.set_result)
                disk.submit()
                written = await future
                waits_s.append(time.perf_counter() - start_s)
                if written != len(view):
                    raise OSError(-written if written < 0 else errno.EIO, "a durable write failed")
                pos = (pos + len(view)) % FILE_BYTES
            synced_s: list[float] = []
            until_s = time.perf_counter() + seconds / 2
            while time.perf_counter() < until_s and len(synced_s) < WRITES_MAX:
                start_s = time.perf_counter()
                os.pwrite(fd, view, pos)
                os.fdatasync(fd)
                synced_s.append(time.perf_counter() - start_s)
                pos = (pos + len(view)) % FILE_BYTES
        finally:
            await disk.close()
    finally:
        os.close(fd)
    for each in lost:
        note(each)
    return {
        "direct_io": direct,
        "block_bytes": block_bytes,
        "backend": disk.name,
        "durable_write_ms": _quantiles(waits_s),
        "fdatasync_ms": _quantiles(synced_s),
    }


def _quantiles(waits_s: Sequence[float]) -> dict[str, float]:
    waits = sorted(waits_s)
    at = {"p50": 0.5, "p99": 0.99}
    figures = {name: round(waits[int(len(waits) * q)] * 1000, 3) for name, q in at.items()}
    return {"writes": len(waits)} | figures | {"max": round(waits[-1] * 1000, 3)}


def _warnings(facts: dict[str, Any], device: BlockDevice | None) -> list[str]:
    kind, warnings = facts["file_system"], []
    if kind in IN_MEMORY:
        warnings.append(f"{kind} is in memory: nothing outlives this machine's uptime")
    elif kind in NETWORK:
        warnings.append(f"{kind}: a sync is worth what the machine at the other end makes of it")
    elif kind in LAYERED:
        warnings.append(f"{kind}: use a volume; what a container writes here goes with it")
    if not facts["direct_io"] and kind not in IN_MEMORY:
        warnings.append(f"{kind} refuses Direct I/O: writes go through the page cache, then a sync")
    options = facts["mount_options"]
    if "nobarrier" in options or "barrier=0" in options:
        warnings.append("mounted without barriers: a sync does not reach the device's medium")
    p50_ms = facts["durable_write_ms"]["p50"]
    if p50_ms < PLAUSIBLE_MS and kind not in IN_MEMORY:
        warnings.append(
            f"a durable write takes {p50_ms:g} ms, less than any device is known to need: "
            "something below answers before it has written (a disk image with cache=unsafe)"
        )
    if device is not None and any(leaf.write_cache is None for leaf in device.leaves()):
        warnings.append("the device does not say whether it has a volatile write cache")
    return warnings


# --- topics --------------------------------------------------------------------------------------


def _running_on(data_dir: Path) -> list[str]:
    """The address of the broker that runs there, if one does."""
    try:
        status = json.loads((data_dir / STATUS_FILE).read_bytes())
        os.kill(status["pid"], 0)
        return [str(status["kafka_addr"])]
    except (OSError, ValueError, LookupError, TypeError):
        return []


async def _add_topics(facts: dict[str, Any], brokers: Sequence[str]) -> None:
    async with Client(brokers) as client:
        metadata = await client.metadata(None)
        names = sorted(name_of(topic) for topic in metadata.topics if not topic.error_code)
        rows: list[dict[str, Any]] = []
        for start in range(0, len(names), _TOPICS_PER_REQUEST):
            some = names[start : start + _TOPICS_PER_REQUEST]
            resources = [
                DescribeConfigsResource(TOPIC_RESOURCE, name, list(_CONFIGS)) for name in some
            ]
            answer = await client.ask(DescribeConfigsRequest(resources))
            rows += [_topic(result) for result in answer.results if not result.error_code]
    facts["topics"] = rows


def _topic(result: Any) -> dict[str, Any]:
    """What a broker without write.caching (Kafka) leaves out counts as durable only by its flush
    settings, which it has as well."""
    values = {config.name: config.value for config in result.configs}
    caching = values.get("write.caching")
    acknowledged = {"true": "in memory", "false": "durable"}.get(caching or "", "not told")
    return {
        "topic": result.resource_name,
        "acknowledged": acknowledged,
        "flush_ms": int(values.get("flush.ms") or -1),
        "flush_bytes": int(values.get("flush.bytes") or -1),
    }


# --- text ----------------------------------------------------------------------------------------


def _print_text(facts: dict[str, Any]) -> None:
    direct = "Direct I/O" if facts["direct_io"] else "through the page cache"
    rows = [
        ("data directory", facts["data_dir"]),
        ("file system", f"{facts['file_system']} at {facts['mount_point']}"),
        ("mount options", ",".join(facts["mount_options"])),
        ("writes", f"{facts['backend']}, {direct}, blocks of {facts['block_bytes']} bytes"),
        ("an acknowledgement", "follows a write with RWF_DSYNC: data and what finds it"),
    ]
    print_section("WRITES", table((), rows))
    devices = list(_device_rows(facts["devices"], 0))
    if devices:
        columns = ("DEVICE", "MODEL", "WRITE-CACHE", "FUA", "ROTATIONAL", "PHYSICAL-BLOCK")
        print_section("DEVICES", table(columns, devices))
    headers: tuple[str, ...] = ("", "WRITES", "P50-MS", "P99-MS", "MAX-MS")
    times = [
        (text, *(facts[key][column] for column in ("writes", "p50", "p99", "max")))
        for key, text in (("durable_write_ms", "as the broker"), ("fdatasync_ms", "fdatasync"))
    ]
    print_section("MEASURED", table(headers, times))
    if facts["topics"] is None:
        note("no broker runs on this directory; name one with --brokers to see its topics")
    elif facts["topics"]:
        headers = ("TOPIC", "ACKNOWLEDGED", "A-POWER-CUT-TAKES")
        topics = [(each["topic"], each["acknowledged"], _window(each)) for each in facts["topics"]]
        print_section("TOPICS", table(headers, topics))
    for warning in facts["warnings"]:
        print_text(f"WARNING: {warning}")
    if not facts["warnings"]:
        print_text("Acknowledged means durable, as far as this machine tells.")


def _window(topic: dict[str, Any]) -> str:
    if topic["acknowledged"] == "durable":
        return "nothing acknowledged"
    if topic["acknowledged"] == "not told":
        return "not told: this broker has no write.caching"
    return f"up to {topic['flush_ms']} ms or {topic['flush_bytes']} bytes a partition"


def _device_rows(devices: Sequence[dict[str, Any]], depth: int) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for device in devices:
        cache = {"write back": "volatile, flushed", "write through": "none"}
        told = device["write_cache"]
        rows.append((
            "  " * depth + device["name"], device["model"], cache.get(told, told), device["fua"],
            device["rotational"], device["physical_block_bytes"],
        ))  # fmt: skip
        rows += _device_rows(device["below"], depth + 1)
    return rows
