"""Clients with retries do not notice what happens to the broker's processes.

Idempotent writers and readers of three libraries run on four shards while these stop, die or
stand still: no error reaches their user; every record is stored once, in order, and read so.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.clients.broker import RunningBroker, wait_until
from tests.clients.steady import END_S_MAX, READERS, WRITERS, Client, Writer, read_numbers
from tests.clients.topics import create_topic

SHARDS = 4
PARTITIONS = 8
STOPPED_S = 3.0
GAP_S_MAX = 2.0  # a busy machine has some; whoever waited for the supervisor shows STOPPED_S


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Four shards that go through everything of this file."""
    directory = tmp_path_factory.mktemp("going-on")
    settings = {"restart_backoff_s": 0.01, "shard_silent_s_max": 2.0}
    running = RunningBroker(directory / "data", directory / "broker.log", settings, shards=SHARDS)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The libraries log each connection that is lost or refused; a report needs none of that."""
    loggers = [logging.getLogger(name) for name in ("kafka", "aiokafka")]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield
    for logger in loggers:
        logger.setLevel(logging.NOTSET)


def restart_twice(broker: RunningBroker, go_on: Callable[[], None]) -> None:
    for _ in range(2):
        broker.restart()
        go_on()


def kill_each_shard(broker: RunningBroker, go_on: Callable[[], None]) -> None:
    for shard in range(SHARDS):
        broker.kill_shard(shard)
        go_on()


def hang_a_shard(broker: RunningBroker, go_on: Callable[[], None]) -> None:
    hung = broker.shard_pids[1]
    os.kill(hung, signal.SIGSTOP)
    create_topic(broker, partitions=PARTITIONS)  # waits for that shard, and so shows that it hangs
    wait_until(lambda: broker.shard_pids[1] != hung, "a new shard is ready")
    go_on()


def kill_the_supervisor(broker: RunningBroker, go_on: Callable[[], None]) -> None:
    broker.kill_supervisor()
    broker.start()
    go_on()


def change_smp(broker: RunningBroker, go_on: Callable[[], None]) -> None:
    for shards in (2, 3, SHARDS):
        broker.stop()
        broker.shards = shards
        broker.start()
        go_on()


@pytest.mark.parametrize(
    "disturb", [restart_twice, kill_each_shard, hang_a_shard, kill_the_supervisor, change_smp]
)
def test_clients_go_on_by_themselves(
    broker: RunningBroker, disturb: Callable[[RunningBroker, Callable[[], None]], None]
) -> None:
    with traffic(broker) as clients:

        def go_on() -> None:
            for client in clients:
                client.wait_for_more()

        go_on()
        disturb(broker, go_on)


def test_records_flow_while_the_supervisor_stands_still(broker: RunningBroker) -> None:
    with traffic(broker) as clients:
        for client in clients:
            client.wait_for_more(20)
        stopped_s = time.monotonic()
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: time.monotonic() > stopped_s + STOPPED_S, "the supervisor stood")
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        for client in clients:
            client.wait_for_more()
        gaps_s = {str(client): client.longest_gap_s(stopped_s) for client in clients}
        assert max(gaps_s.values()) < GAP_S_MAX, gaps_s
    assert broker.http_get("/v1/status/ready")[0] == 200


@contextmanager
def traffic(broker: RunningBroker) -> Iterator[list[Client]]:
    """A writer and a reader of each library, at work; verified when the caller has done its part.

    Each library has a topic of its own.
    """
    writers: list[Writer] = []
    readers: list[Client] = []
    with ExitStack() as running:
        for name, writer in WRITERS.items():
            topic = create_topic(broker, partitions=PARTITIONS)
            writers.append(writer(broker, topic, PARTITIONS))
            readers.append(READERS[name](broker, topic, PARTITIONS))
        for client in (*writers, *readers):
            running.enter_context(client)
        yield [*writers, *readers]
        for writer in writers:
            writer.stop_wanted.set()
        for writer, reader in zip(writers, readers, strict=True):
            writer.join(END_S_MAX)
            wait_until(lambda w=writer, r=reader: r.errors or r.counts() == w.sent, "all is read")
    for writer, reader in zip(writers, readers, strict=True):
        writer.check(read_numbers(broker, writer.topic, PARTITIONS))
        assert not reader.errors, f"{reader}: {reader.errors}"
        assert reader.seen == writer.seen, f"{reader}"
