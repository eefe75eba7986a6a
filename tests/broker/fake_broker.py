"""A broker whose shards are fakes: the real supervisor, for tests of processes.

Run as a script. Each fake shard takes part in the control channel and answers commands, one JSON
list a line, on its listening socket, so that a test can ask it what it sees and make it fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from rpk_py import supervisor
from rpk_py.config import Config
from rpk_py.log_setup import make_logger
from rpk_py.metadata.replica import MetadataReplica, OnDelta, open_replica
from rpk_py.metadata.requests import TopicSpec
from rpk_py.metadata.state import ClusterState, Delta
from rpk_py.metrics import ShardMetrics, snapshot_parts
from rpk_py.setting import ConfigError
from rpk_py.settings_sources import load
from rpk_py.shard_process import FATAL_EXIT
from rpk_py.startup_error import StartupError

OPTIONS: dict[str, Any] = {
    "kafka_addr": "127.0.0.1:0",
    "admin_addr": "127.0.0.1:0",
    "overprovisioned": True,
    "io_backend": "threads",
    "log_format": "json",
    "log_level": "debug",
}


def run(
    config: Config,
    shard_index: int,
    node_id: int,
    listener: socket.socket,
    control: socket.socket,
    others_run: bool,
) -> int:
    """The fake's entry point; files in the data directory change how it behaves."""
    if (config.data_dir / "shard-is-fatal").exists():
        return FATAL_EXIT
    if (config.data_dir / "shard-crashes").exists():
        raise RuntimeError("crashed as asked")
    return asyncio.run(serve(config, node_id, listener, control))


async def serve(
    config: Config, node_id: int, listener: socket.socket, control: socket.socket
) -> int:
    """Answer commands until told to stop."""
    stop = asyncio.Event()
    alive_interval_s = config.shard_silent_s_max / 10
    replica = await open_replica(
        node_id, control, make_logger(config), alive_interval_s=alive_interval_s
    )
    replica.on_lost = stop.set
    if not (config.data_dir / "shard-ignores-stop").exists():
        replica.on_stop = stop.set
    metrics = ShardMetrics()
    metrics.requests[0] += 1
    metrics.observe_write(0.003, 1, 4096)
    replica.snapshot_metrics = lambda: snapshot_parts(metrics, [])
    if (config.data_dir / "shard-recovers").exists():
        replica.on_delta.append(recovery(config.data_dir / "shard-recovers"))
    await replica.start()
    opened: set[asyncio.Task[None]] = set()

    async def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        opened.add(task)
        while line := await reader.readline():
            answer = await command(replica, *json.loads(line))
            writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()

    server = await asyncio.start_server(on_client, sock=listener)
    replica.ready(backend="fake", direct=True)
    await stop.wait()
    server.close()
    for task in opened:
        task.cancel()
    await asyncio.gather(*opened, return_exceptions=True)
    await replica.close()
    return 0


def recovery(file: Path) -> OnDelta:
    """A callback that recovers until somebody removes the file."""

    async def on_delta(delta: Delta | None, state: ClusterState) -> None:
        while delta is None and file.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.005)

    return on_delta


async def command(replica: MetadataReplica, name: str, *args: Any) -> Any:
    """What a test asks for."""
    if name == "create":
        topic, count, *timeout_ms = args
        specs = [TopicSpec(topic, count)]
        results = await replica.create_topics(specs, *(timeout_ms or [10_000]), False)
        return [[result.error_code, result.topic_id.hex()] for result in results]
    if name == "topics":
        return {
            topic.name: [[p.leader, p.leader_epoch] for p in topic.partitions]
            for topic in replica.state.topics.values()
        }
    if name == "nodes":
        nodes = replica.state.nodes.values()
        return [[node.node_id, node.host, node.port, node.rack] for node in nodes]
    if name == "process":
        fds = {fd: link(fd) for fd in os.listdir("/proc/self/fd")}
        return {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "node_id": replica.node_id,
            "cores": sorted(os.sched_getaffinity(0)),
            "fds": fds,
        }
    assert name == "exit"
    os._exit(args[0])


def link(fd: str) -> str:
    """What a descriptor of this process leads to."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def main(data_dir: str, options: str) -> int:
    """Run a broker with OPTIONS, changed by a JSON object; "settings" is a list for --set."""
    changed = {**OPTIONS, **json.loads(options)}
    try:
        settings = changed.pop("settings", ())
        flags = {name: str(value) for name, value in changed.items()}
        loaded = load({"data_dir": data_dir, **flags}, settings, {}, None, lambda: 1)
        return supervisor.run(loaded.config, run, lambda info: None)
    except (ConfigError, StartupError) as error:
        print(f"rpk-py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
