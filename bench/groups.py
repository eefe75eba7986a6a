"""Consumer groups: how fast they form, what a commit costs, what a dead coordinator costs, memory.

    python -m bench.groups [--only NAME ...] [--kafka-jars DIR] [--data-dir DIR]

    join      time from the first join until all members share all partitions in one generation or
              epoch (512 partitions), for 1, 20 and 500 members of a classic and of a KIP-848 group;
              once with the heartbeats of real clients (3 s classic, KIP-848 as the broker says),
              where a member hears of a rebalance at its next one, and once with one every 0.1 s,
              where the rest is the broker's own work; and the broker's CPU for it (median and
              mean of some rounds)
    commit    OffsetCommits a second and the broker's CPU for each, one at a time and pipelined,
              on 1 and on 16 connections; each commits one partition with the commit of a member
              that has no generation, so that nothing but the commit is measured
    recover   10,000 groups with an offset each; kill -9 of all, start, until OffsetFetch answers
              for a group of each coordinator partition with the right offset
    memory    proportional memory of 1,000 groups of one member and of one group of 500, each
              after as many others and without that of their connections
    many      one group that commits 10,000 partitions in one request and fetches them again

One broker with one shard, settings of a fresh start. With --kafka-jars the same is asked of Apache
Kafka from the jars in that directory (bench/peers/kafka.py), one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import selectors
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.group_members import WAIT, ClassicMember, ConsumerMember, Link, is_settled
from bench.peers.kafka import KafkaServer, running_kafka
from bench.process import Broker, running
from bench.wire import CLIENT_ID, METADATA_VERSION, Connection, create_topic
from kafka_protocol.errors import ErrorCode
from kafka_protocol.frame import encode_request
from kafka_protocol.messages.find_coordinator import FindCoordinatorRequest
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from kafka_protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
)

TOPIC = "groups"
SMALL = "small"
WIDE = ("wide-a", "wide-b")
PARTITIONS = 512
SMALL_PARTITIONS = 12
WIDE_PARTITIONS = 5000  # of each
SIZES = (1, 20, 500)
ROUNDS = {1: 20, 20: 10, 500: 3}  # of QUICK_S; the others are few, since they mostly wait
SLOW_ROUNDS = 3
CLASSIC_HEARTBEAT_S = 3.0  # the default of Java's consumer and of librdkafka
QUICK_S = 0.1
JOIN_S_MAX = 120.0
LOOK_S = 0.005
COMMIT_S = 4.0
CONNECTIONS = (1, 16)
IN_FLIGHT = 64
GROUPS = 10_000
MEMORY_GROUPS = 1000
READY_S_MAX = 60.0
COMMIT_VERSION = 8
FETCH_VERSION = 8
FIND_VERSION = 3
Server = Broker | KafkaServer


def prepare(server: Server) -> None:
    """The topic, and a coordinator that answers."""
    connection = Connection(server.address)
    create_topic(connection, TOPIC, PARTITIONS)
    await_coordinator(connection)
    connection.close()


def await_coordinator(connection: Connection) -> None:
    """Ask until __consumer_offsets exists and its partitions are led."""
    deadline_s = time.perf_counter() + READY_S_MAX
    while True:
        answer = connection.ask(FindCoordinatorRequest("any", 0), FIND_VERSION)
        if not answer.error_code and fetch_offset(connection, "any", 0) is not None:
            return
        if time.perf_counter() > deadline_s:
            raise SystemExit(f"no coordinator: {ErrorCode(answer.error_code).name}")
        time.sleep(LOOK_S)


def commit_request(group: str, topic: str, partitions: Sequence[int], offset: int) -> Any:
    """The commit of a client that is no member."""
    commits = [OffsetCommitRequestPartition(index, offset, -1, "") for index in partitions]
    return OffsetCommitRequest(
        group_id=group, topics=[OffsetCommitRequestTopic(topic, bytes(16), commits)]
    )


def fetch_offset(connection: Connection, group: str, partition: int) -> int | None:
    """The committed offset, -1 without one; None where the coordinator is not ready."""
    topics = [OffsetFetchRequestTopic(TOPIC, bytes(16), [partition])]
    groups = [OffsetFetchRequestGroup(group, topics=topics)]
    answer = connection.ask(OffsetFetchRequest(groups=groups), FETCH_VERSION).groups[0]
    if answer.error_code in WAIT:
        return None
    if answer.error_code:
        raise SystemExit(f"OffsetFetch: {ErrorCode(answer.error_code).name}")
    return int(answer.topics[0].partitions[0].committed_offset)


def print_row(name: str, **figures: float) -> None:
    """One line of the report."""
    text = "".join(f"  {key} {value:,.4g}" for key, value in figures.items())
    print(f"{name:44}{text}", flush=True)


# -- join ------------------------------------------------------------------------------------


async def form_group(
    server: Server, group: str, kind: str, count: int, every_s: float | None
) -> tuple[float, float]:
    """Seconds until `count` members that join at once have settled, and the broker's CPU."""
    links = await asyncio.gather(*(Link.connect(server.address) for _ in range(count)))
    topic_id = await _topic_id(links[0], TOPIC)
    members: list[ClassicMember | ConsumerMember] = []
    for link in links:
        if kind == "classic":
            interval_s = CLASSIC_HEARTBEAT_S if every_s is None else every_s
            members.append(ClassicMember(link, group, TOPIC, PARTITIONS, interval_s))
        else:
            members.append(ConsumerMember(link, group, TOPIC, topic_id, every_s))
    cpu_s, start_s = server.cpu_s(), time.perf_counter()
    tasks = [asyncio.create_task(member.run()) for member in members]
    try:
        while not is_settled(members, PARTITIONS):
            for task in tasks:
                if task.done():
                    await task
            if time.perf_counter() - start_s > JOIN_S_MAX:
                raise SystemExit(f"{count} {kind} members did not settle in {JOIN_S_MAX:g} s")
            await asyncio.sleep(LOOK_S)
        return time.perf_counter() - start_s, server.cpu_s() - cpu_s
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in links:
            link.close()


async def _topic_id(link: Link, topic: str) -> bytes:
    wanted = [MetadataRequestTopic(bytes(16), topic)]
    answer = await link.ask(MetadataRequest(wanted), METADATA_VERSION)
    return bytes(answer.topics[0].topic_id)


def join(server: Server) -> None:
    """Groups of several sizes and both kinds."""
    for kind in ("classic", "consumer"):
        for count in SIZES:
            for every_s, label in ((None, "as clients do"), (QUICK_S, f"{QUICK_S:g} s")):
                rounds = SLOW_ROUNDS if every_s is None else ROUNDS[count]
                runs = [
                    asyncio.run(
                        form_group(server, f"{kind}-{count}-{label}-{n}", kind, count, every_s)
                    )
                    for n in range(rounds)
                ]
                print_row(
                    f"{kind}, {count} members, heartbeats {label}",
                    ms=statistics.median(took_s for took_s, _ in runs) * 1000,
                    cpu_ms=statistics.mean(cpu_s for _, cpu_s in runs) * 1000,
                )


# -- commit ----------------------------------------------------------------------------------


def commit_rate(server: Server, connections: int, in_flight: int, seconds: float) -> None:
    """Commits as fast as they are answered; every answer of the last is looked at."""
    links = [Connection(server.address) for _ in range(connections)]
    frames, answer_bytes = [], 0
    for index, link in enumerate(links):
        request = commit_request(f"commit-{index}", TOPIC, [index], 1)
        answer = link.ask(request, COMMIT_VERSION)
        if code := answer.topics[0].partitions[0].error_code:
            raise SystemExit(f"OffsetCommit: {ErrorCode(code).name}")
        frames.append(encode_request(request, COMMIT_VERSION, 1, CLIENT_ID))
        answer_bytes = 4 + len(link.ask_frame(frames[index]))
    selector = selectors.DefaultSelector()
    unanswered = [in_flight] * connections
    pending_bytes = [0] * connections
    cpu_s, start_s = server.cpu_s(), time.perf_counter()
    for index, link in enumerate(links):
        selector.register(link.socket, selectors.EVENT_READ, index)
        link.socket.sendall(frames[index] * in_flight)
    done = 0
    while any(unanswered):
        goes_on = time.perf_counter() - start_s < seconds
        for key, _ in selector.select(READY_S_MAX):
            index = key.data
            pending_bytes[index] += len(links[index].socket.recv(1 << 18))
            count, pending_bytes[index] = divmod(pending_bytes[index], answer_bytes)
            done += count
            unanswered[index] -= count
            if goes_on and count:
                links[index].socket.sendall(frames[index] * count)
                unanswered[index] += count
    wall_s, cpu_s = time.perf_counter() - start_s, server.cpu_s() - cpu_s
    name = f"{connections} connections, {in_flight} in flight each"
    print_row(name, per_s=done / wall_s, cpu_us=cpu_s / done * 1e6)
    for link in links:
        link.close()


def commit(server: Server) -> None:
    """One at a time and pipelined."""
    for connections in CONNECTIONS:
        for in_flight in (1, IN_FLIGHT):
            commit_rate(server, connections, in_flight, COMMIT_S)


# -- recover ---------------------------------------------------------------------------------


def commit_many_groups(server: Server, count: int) -> float:
    """One commit of each group; returns seconds. The offset is the group's number."""
    connection = Connection(server.address)
    start_s = time.perf_counter()
    for first in range(0, count, IN_FLIGHT):
        numbers = range(first, min(first + IN_FLIGHT, count))
        frames = [
            encode_request(
                commit_request(f"recover-{number}", TOPIC, [0], number),
                COMMIT_VERSION,
                1,
                CLIENT_ID,
            )
            for number in numbers
        ]
        connection.socket.sendall(b"".join(frames))
        for _ in numbers:
            connection.receive_frame()
    connection.close()
    return time.perf_counter() - start_s


def recover(server: Server) -> None:
    """Kill everything under 10,000 groups and ask for one of each coordinator partition."""
    written_s = commit_many_groups(server, GROUPS)
    before_mb = server.pss_mb()[0]
    killed_s = time.perf_counter()
    server.kill()
    server.start()
    started_s = time.perf_counter()
    connection = Connection(server.address)
    for number in (*range(64), GROUPS - 1):  # 64 groups fall on all 16 partitions
        while (found := fetch_offset(connection, f"recover-{number}", 0)) is None:
            time.sleep(LOOK_S)
        if found != number:
            raise SystemExit(f"group recover-{number} is at {found} after the restart")
    answered_s = time.perf_counter()
    connection.close()
    print_row(
        f"{GROUPS} groups after kill -9",
        write_s=written_s,
        start_s=started_s - killed_s,
        then_answers_ms=(answered_s - started_s) * 1000,
        all_s=answered_s - killed_s,
        pss_before_mb=before_mb,
        pss_after_mb=server.pss_mb()[0],
    )


# -- memory ----------------------------------------------------------------------------------


async def memory_of(
    server: Server, name: str, kind: str, groups: int, count: int, partitions: int
) -> None:
    """Memory of groups of `count` members each, all in and settled; without a name it is only
    to warm up: the buffers of the coordinator's logs, and code that runs for the first time."""
    links = await asyncio.gather(*(Link.connect(server.address) for _ in range(groups * count)))
    topic = TOPIC if partitions == PARTITIONS else SMALL
    for link in links:  # each has asked something, as the connection of a client has
        topic_id = await _topic_id(link, topic)
    before_mb, start_s = server.pss_mb()[0], time.perf_counter()
    cpu_s = server.cpu_s()
    members: list[ClassicMember | ConsumerMember] = []
    for index, link in enumerate(links):
        group = f"memory-{name}-{kind}-{count}-{index // count}"
        if kind == "classic":
            members.append(ClassicMember(link, group, topic, partitions, CLASSIC_HEARTBEAT_S))
        else:
            members.append(ConsumerMember(link, group, topic, topic_id, None))
    tasks = [asyncio.create_task(member.run()) for member in members]
    try:
        each = [members[first : first + count] for first in range(0, len(members), count)]
        while not all(is_settled(group, partitions) for group in each):
            for task in tasks:
                if task.done():
                    await task
            if time.perf_counter() - start_s > JOIN_S_MAX:
                raise SystemExit(f"{groups} groups did not settle within {JOIN_S_MAX:g} s")
            await asyncio.sleep(QUICK_S)
        took_s = time.perf_counter() - start_s
        grown_kb = (server.pss_mb()[0] - before_mb) * 1024
        if name:
            print_row(
                f"{kind}, {name}",
                settled_s=took_s,
                cpu_s=server.cpu_s() - cpu_s,
                kb_a_member=grown_kb / len(members),
            )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in links:
            link.close()


def memory(server: Server) -> None:
    """A thousand groups of one, on few partitions and on many, and one group of 500."""
    connection = Connection(server.address)
    create_topic(connection, SMALL, SMALL_PARTITIONS)
    connection.close()
    thousand, most = MEMORY_GROUPS, SIZES[-1]
    for kind in ("classic", "consumer"):
        asyncio.run(memory_of(server, "", kind, thousand, 1, SMALL_PARTITIONS))
        for partitions in (SMALL_PARTITIONS, PARTITIONS):
            name = f"{thousand} groups of 1, {partitions} partitions"
            asyncio.run(memory_of(server, name, kind, thousand, 1, partitions))
        name = f"1 group of {most}, {PARTITIONS} partitions"
        asyncio.run(memory_of(server, name, kind, 1, most, PARTITIONS))


# -- many ------------------------------------------------------------------------------------


def many(server: Server) -> None:
    """10,000 partitions in one commit and one fetch."""
    connection = Connection(server.address)
    request = OffsetCommitRequest(group_id="many")
    for topic in WIDE:  # two, since Kafka's controller writes less than 10,000 records at once
        create_topic(connection, topic, WIDE_PARTITIONS)
        request.topics += commit_request("many", topic, range(WIDE_PARTITIONS), 7).topics
    while True:  # a new topic's last partitions may not be known yet
        start_s, cpu_s = time.perf_counter(), server.cpu_s()
        answer = connection.ask(request, COMMIT_VERSION)
        commit_s, commit_cpu_s = time.perf_counter() - start_s, server.cpu_s() - cpu_s
        codes = {one.error_code for topic in answer.topics for one in topic.partitions}
        if codes == {0}:
            break
        if codes - {0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}:
            raise SystemExit(f"OffsetCommit: {codes}")
    start_s, cpu_s = time.perf_counter(), server.cpu_s()
    groups = [OffsetFetchRequestGroup("many", topics=None)]
    found = connection.ask(OffsetFetchRequest(groups=groups), FETCH_VERSION).groups[0]
    fetch_s, fetch_cpu_s = time.perf_counter() - start_s, server.cpu_s() - cpu_s
    offsets = [one.committed_offset for topic in found.topics for one in topic.partitions]
    if offsets != [7] * WIDE_PARTITIONS * len(WIDE):
        raise SystemExit(f"OffsetFetch: {len(offsets)} partitions, offsets {set(offsets)}")
    connection.close()
    print_row(
        f"{len(offsets)} partitions",
        commit_ms=commit_s * 1000,
        commit_cpu_ms=commit_cpu_s * 1000,
        fetch_ms=fetch_s * 1000,
        fetch_cpu_ms=fetch_cpu_s * 1000,
    )


WORKS: dict[str, Callable[[Server], None]] = {
    "join": join,
    "commit": commit,
    "recover": recover,
    "memory": memory,
    "many": many,
}


@contextmanager
def _server(name: str, jars: Path | None, parent: Path | None) -> Iterator[Server]:
    if name == "kafka":
        assert jars is not None
        with running_kafka(jars, parent) as peer:
            yield peer
    else:
        with running(parent) as broker:
            yield broker


def main() -> None:
    """Measure everything that was asked for, each on a fresh broker."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(WORKS), help="some of them")
    parser.add_argument("--kafka-jars", type=Path, help="Apache Kafka's jars, for a peer")
    parser.add_argument("--data-dir", type=Path, help="parent of the data directory")
    options = parser.parse_args()
    names = ["rpk-py"] + (["kafka"] if options.kafka_jars is not None else [])
    cores = sorted(os.sched_getaffinity(0))
    for work in options.only or WORKS:
        for name in names:
            with _server(name, options.kafka_jars, options.data_dir) as server:
                if name == "rpk-py":
                    os.sched_setaffinity(0, cores[1:] or cores)  # the shard took the first core
                prepare(server)
                print(f"{work}, {name}", flush=True)
                WORKS[work](server)
            os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
