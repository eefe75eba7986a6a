"""How long a broker takes to be ready after SIGKILL, with 1 GiB in segments that were not sealed.

    python -m bench.storage.recovery [--rounds N] [--mib N] [--cold] [--data-dir DIR]

One broker with one shard and default settings on a fresh data directory. Each case fills its
partitions with batches of random bytes until MIB are acknowledged, kills all processes of the
broker right after the last acknowledgement, starts it again and asks each partition for its end.

one log          a partition; checkpoints, each 64 MiB, leave little of it to be read again
small batches    partitions of 60 MiB, none of which has had a checkpoint: all of it is read and
                 every record's CRC looked at; batches of 4 KiB as a client with little to say sends
large batches    the same with batches of 256 KiB

Figures, medians of the rounds: from exec to "ready" (broker.json), the shard's CPU until then and
what it read from the disk; `stopped`: the start after a clean stop that follows.
--cold drops the page cache before each start (root only): as after a boot of the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
from pathlib import Path

from bench.process import Broker, process_cpu_s, running
from bench.wire import Connection, Refused, create_topic, error_pos, produce_frame
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from kafka_protocol.record_batch import build_batch

MIB = 1 << 20
TOPIC = "recovery"
PARTITION_MIB = 60  # below what is appended between two checkpoints
IN_FLIGHT = 16  # requests
LIST_OFFSETS_VERSION = 6
LATEST = -1
CASES = {
    "one log": (1, 256 << 10),
    "small batches": (0, 4 << 10),
    "large batches": (0, 256 << 10),
}


def fill(broker: Broker, partitions: int, batch_bytes: int, total_bytes: int) -> list[int]:
    """Have `total_bytes` acknowledged; how many records each partition got. Raises Refused."""
    batch = build_batch([(None, os.urandom(batch_bytes - 100))])
    connection = Connection(broker.address)
    create_topic(connection, TOPIC, partitions)
    frames = [produce_frame(TOPIC, index, batch) for index in range(partitions)]
    count = total_bytes // len(batch)
    room = threading.Semaphore(IN_FLIGHT)

    def send() -> None:
        for i in range(count):
            room.acquire()
            connection.socket.sendall(frames[i % partitions])

    sender = threading.Thread(target=send)
    sender.start()
    at = error_pos(TOPIC)
    for _ in range(count):
        answer = connection.receive_frame()
        room.release()
        if error := int.from_bytes(answer[at : at + 2], "big"):
            raise Refused(f"produce: error {error}")
    sender.join()
    connection.close()
    return [len(range(index, count, partitions)) for index in range(partitions)]


def check(broker: Broker, ends: list[int]) -> None:
    """That each partition has what was acknowledged. Raises Refused."""
    connection = Connection(broker.address)
    asked = [ListOffsetsPartition(index, -1, LATEST) for index in range(len(ends))]
    request = ListOffsetsRequest(-1, 0, [ListOffsetsTopic(TOPIC, asked)])
    answer = connection.ask(request, LIST_OFFSETS_VERSION)
    connection.close()
    found = {one.partition_index: one.offset for one in answer.topics[0].partitions}
    if [found[index] for index in range(len(ends))] != ends:
        raise Refused(f"recovered up to {found}, acknowledged were {ends}")


def start(broker: Broker, cold: bool) -> dict[str, float]:
    """Start it on what is there."""
    if cold:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    broker.start()
    (pid,) = broker.shards
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    read_mib = int(io["read_bytes"]) / MIB
    return {"ready s": broker.ready_s, "CPU s": process_cpu_s(pid), "read MiB": read_mib}


def measure(case: str, options: argparse.Namespace) -> dict[str, float]:
    """One round of a case."""
    partitions, batch_bytes = CASES[case]
    partitions = partitions or -(-options.mib // PARTITION_MIB)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with running(options.data_dir) as broker:
        ends = fill(broker, partitions, batch_bytes, options.mib * MIB)
        broker.kill()
        figures = start(broker, options.cold)
        check(broker, ends)
        broker.stop()
        stopped = start(broker, options.cold)
        check(broker, ends)
        return figures | {"stopped s": stopped["ready s"]}


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=1024, help="acknowledged a case; default: 1024")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--cold", action="store_true", help="start with an empty page cache")
    parser.add_argument("--data-dir", type=Path, help="parent of the data directory")
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr)
        for case, rows in rounds.items():
            rows.append(measure(case, options))
    for case, rows in rounds.items():
        names = rows[0]
        texts = [f"{name} {statistics.median(row[name] for row in rows):,.3g}" for name in names]
        print(f"{case:14} {', '.join(texts)}")


if __name__ == "__main__":
    main()
