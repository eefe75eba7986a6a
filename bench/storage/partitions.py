"""What ten thousand partitions on one shard cost: starts, memory, files, disk, and writing to them.

    python -m bench.storage.partitions [--partitions N] [--rounds N] [--cold] [--data-dir DIR]

One broker with one shard and default settings on a fresh data directory; the shard has a core of
its own where there are two. Figures are the medians of the rounds, but for `max`.

created   topics of 1,000 partitions each, one CreateTopics a topic; then what idle ones cost
filled    the first record of each partition, 1,000 partitions at a time; then what these cost
paced     1,000 different partitions each second, one record each, evenly spaced, each second the
          next 1,000; latency counts from when a record was due, so a stall is not left out
bursts    1,000 different partitions at once, until all are acknowledged, again and again
scrape    GET /metrics, and a Metadata of all topics
start     from exec to "ready" (broker.json), to the first answered Fetch (of the last partition)
          and Produce, and until every partition has answered a Fetch with its records; after a
          clean stop, and after SIGKILL of all processes right after the last acknowledgement.
          `read MB` is what the shard's system calls have read until it was ready, `cpu s` its CPU
stop      SIGTERM until the process has ended

--cold drops the page cache before each start (root only): as after a boot of the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from bench.broker import quantiles
from bench.process import Broker, process_cpu_s, process_pss_mb, running
from bench.wire import (
    CLIENT_ID,
    FETCH_VERSION,
    METADATA_VERSION,
    Connection,
    Refused,
    create_topic,
    error_pos,
    produce_frame,
)
from kafka_protocol.frame import encode_request
from kafka_protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from kafka_protocol.messages.metadata import MetadataRequest
from kafka_protocol.record_batch import build_batch

TOPIC_PARTITIONS = 1_000
ACTIVE = 1_000  # partitions that are written to at once, or in one second
FETCHED = 100  # partitions of one Fetch
VALUE = bytes(100)

Partition = tuple[str, int]


class Rows:
    """Figures by row and name, one a round."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, list[float]]] = {}

    def add(self, row: str, figures: dict[str, float]) -> None:
        """Add a round's figures, and print them as they come."""
        print(f"  {row:24}" + _text(figures), file=sys.stderr)
        for name, value in figures.items():
            self._rows.setdefault(row, {}).setdefault(name, []).append(value)

    def print(self) -> None:
        """One line a row."""
        for row, series in self._rows.items():
            figures = {
                name: max(values) if "max" in name else statistics.median(values)
                for name, values in series.items()
            }
            print(f"{row:26}" + _text(figures))


def _text(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())


class Clients:
    """A connection, and a ready-made Produce request of one record for each partition."""

    def __init__(self, broker: Broker, partitions: list[Partition]) -> None:
        self.connection = Connection(broker.address)
        batch = build_batch([(None, VALUE)])
        self._frames = [produce_frame(topic, index, batch) for topic, index in partitions]
        self._error_at = [error_pos(topic) for topic, _index in partitions]

    def produce(self, numbers: list[int], per_s: float) -> list[float]:
        """A record to each of these partitions, `per_s` of them sent each second (0: at once);
        the seconds from when each was due to its acknowledgement. Raises Refused."""
        due_s: deque[float] = deque()
        first_s = time.perf_counter()

        def send() -> None:
            socket = self.connection.socket
            if not per_s:
                due_s.extend(first_s for _ in numbers)
                socket.sendall(b"".join(self._frames[number] for number in numbers))
                return
            for i, number in enumerate(numbers):
                at_s = first_s + i / per_s
                while (wait_s := at_s - time.perf_counter()) > 0:
                    time.sleep(wait_s)
                due_s.append(at_s)
                socket.sendall(self._frames[number])

        sender = threading.Thread(target=send)
        sender.start()
        latencies_s = []
        for number in numbers:
            answer = self.connection.receive_frame()
            at = self._error_at[number]
            if error := int.from_bytes(answer[at : at + 2], "big"):
                raise Refused(f"partition number {number}: error {error}")
            latencies_s.append(time.perf_counter() - due_s.popleft())
        sender.join()
        return latencies_s

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def fetch(connection: Connection, wanted: Iterable[Partition]) -> None:
    """Read the first record of each of these partitions. Raises Refused where one has none."""
    topics: dict[str, list[FetchPartition]] = {}
    for name, index in wanted:
        one = FetchPartition(index, fetch_offset=0, partition_max_bytes=1)
        topics.setdefault(name, []).append(one)
    asked = [FetchTopic(topic=name, partitions=some) for name, some in topics.items()]
    while any(topic.partitions for topic in asked):
        answer = connection.ask(FetchRequest(max_wait_ms=0, topics=asked), FETCH_VERSION)
        for topic, answered in zip(asked, answer.responses, strict=True):
            for one in answered.partitions:
                if one.error_code:
                    raise Refused(f"{topic.topic}-{one.partition_index}: {one.error_code}")
                if one.records:
                    topic.partitions = [
                        left for left in topic.partitions if left.partition != one.partition_index
                    ]
        asked = [topic for topic in asked if topic.partitions]


def chunks(items: list[Partition], size: int) -> Iterator[list[Partition]]:
    """Lists of at most `size`."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def costs(broker: Broker, data_dir: Path, partitions: int) -> dict[str, float]:
    """Memory, descriptors and disk of a broker as it stands."""
    (pid,) = broker.shards
    used: dict[str, int] = {".wal": 0, ".checkpoint": 0}
    entries = 0
    for directory in data_dir.glob("many-*"):
        with os.scandir(directory) as files:
            for entry in files:
                suffix = os.path.splitext(entry.name)[1]
                used[suffix] = used.get(suffix, 0) + entry.stat().st_blocks * 512
        entries += os.stat(directory).st_blocks * 512
    per_kib = 1024 * partitions
    return {
        "shard MB": process_pss_mb(pid),
        "supervisor MB": process_pss_mb(broker.process.pid),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "disk KiB/partition": (sum(used.values()) + entries) / per_kib,
        "of it .wal": used[".wal"] / per_kib,
    }


def measure_start(
    rows: Rows, name: str, broker: Broker, partitions: list[Partition], cold: bool
) -> None:
    """Start it on what is there, and have every partition serve."""
    if cold:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    started_s = time.perf_counter()
    broker.start()
    os.sched_setaffinity(0, cores)
    (pid,) = broker.shards
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    figures = {"ready s": broker.ready_s, "cpu s": process_cpu_s(pid)}
    clients = Clients(broker, partitions)
    fetch(clients.connection, partitions[-1:])
    figures["fetch s"] = time.perf_counter() - started_s
    clients.produce([len(partitions) // 2], 0)
    figures["produce s"] = time.perf_counter() - started_s
    for some in chunks(partitions, FETCHED):
        fetch(clients.connection, some)
    figures["all s"] = time.perf_counter() - started_s
    figures["read MB"] = int(io["rchar"]) / 1e6
    figures["shard MB"] = process_pss_mb(pid)
    figures["descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
    clients.close()
    rows.add(name, figures)


def measure_stop(rows: Rows, broker: Broker) -> None:
    """A clean stop."""
    started_s = time.perf_counter()
    broker.stop()
    rows.add("stop", {"s": time.perf_counter() - started_s})


def measure_writes(rows: Rows, broker: Broker, partitions: list[Partition], seconds: int) -> None:
    """Paced and in bursts."""
    (pid,) = broker.shards
    clients = Clients(broker, partitions)
    count = len(partitions)
    for name, per_s in (("paced", float(ACTIVE)), ("bursts", 0.0)):
        cpu_s, started_s = process_cpu_s(pid), time.perf_counter()
        latencies_s: list[float] = []
        for second in range(seconds):
            numbers = [(second * ACTIVE + i) % count for i in range(min(ACTIVE, count))]
            latencies_s += clients.produce(numbers, per_s)
        wall_s = time.perf_counter() - started_s
        figures = {"per s": len(latencies_s) / wall_s} | quantiles(latencies_s)
        figures["max_ms"] = max(latencies_s) * 1e3
        figures["cpu us"] = (process_cpu_s(pid) - cpu_s) / len(latencies_s) * 1e6
        rows.add(name, figures)
    clients.close()


def measure_scrape(rows: Rows, broker: Broker) -> None:
    """What walks over all partitions."""
    started_s = time.perf_counter()
    with urllib.request.urlopen(f"http://{broker.admin_address}/metrics") as answer:
        size = len(answer.read())
    scraped_s = time.perf_counter()
    connection = Connection(broker.address)
    request = encode_request(MetadataRequest(None), METADATA_VERSION, 1, CLIENT_ID)
    asked_s = time.perf_counter()
    answered = len(connection.ask_frame(request))
    figures = {"metrics s": scraped_s - started_s, "metrics MB": size / 1e6}
    figures |= {"metadata ms": (time.perf_counter() - asked_s) * 1e3}
    rows.add("scrape", figures | {"metadata KB": answered / 1e3})
    connection.close()


def measure(rows: Rows, options: argparse.Namespace) -> None:
    """One round."""
    count = options.partitions
    partitions = [
        (f"many-{number // TOPIC_PARTITIONS}", number % TOPIC_PARTITIONS) for number in range(count)
    ]
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with running(options.data_dir) as broker:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[1:] or cores)  # the shard took the first core
        rows.add("idle", costs(broker, broker.data_dir, count))
        connection = Connection(broker.address)
        started_s = time.perf_counter()
        for first in range(0, count, TOPIC_PARTITIONS):
            size = min(TOPIC_PARTITIONS, count - first)
            create_topic(connection, f"many-{first // TOPIC_PARTITIONS}", size)
        taken = {"s": time.perf_counter() - started_s}
        connection.close()
        rows.add("created", taken | costs(broker, broker.data_dir, count))
        clients = Clients(broker, partitions)
        started_s = time.perf_counter()
        for first in range(0, count, ACTIVE):
            clients.produce(list(range(first, min(first + ACTIVE, count))), 0)
        taken = {"s": time.perf_counter() - started_s}
        clients.close()
        rows.add("filled", taken | costs(broker, broker.data_dir, count))
        measure_writes(rows, broker, partitions, options.seconds)
        measure_scrape(rows, broker)
        measure_stop(rows, broker)
        measure_start(rows, "start after a stop", broker, partitions, options.cold)
        measure_writes(rows, broker, partitions, options.seconds)
        broker.kill()
        measure_start(rows, "start after SIGKILL", broker, partitions, options.cold)
        rows.add("started", costs(broker, broker.data_dir, count))
        measure_stop(rows, broker)


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--partitions", type=int, default=10_000, help="default: 10,000")
    parser.add_argument("--rounds", type=int, default=1, help="default: 1")
    parser.add_argument("--seconds", type=int, default=10, help="of each way to write; default: 10")
    parser.add_argument("--cold", action="store_true", help="start with an empty page cache")
    parser.add_argument("--data-dir", type=Path, help="parent of the data directory")
    options = parser.parse_args()
    rows = Rows()
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr)
        measure(rows, options)
    rows.print()


if __name__ == "__main__":
    main()
