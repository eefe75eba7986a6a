"""librdkafka through confluent-kafka: a producer and a consumer at full speed.

Run by bench.generators.process. Every record must be acknowledged: an error of any of them ends
the run.
"""

from __future__ import annotations

import random
import string
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from bench.generators.process import Work, serve

PAYLOADS = 1000  # different ones, of random capitals as those of ProducerPerformance
OUTSTANDING_BYTES = 64 << 20
RECORDS_MAX = 200_000
RECORDS_A_TURN = 2  # to one of several partitions, before the next has its turn
SILENCE_S_MAX = 30.0
WARM_S = 0.3
WARM_S_A_PARTITION = 0.01  # each has a file by then


def produce(
    address: str,
    topic: str,
    seconds: float,
    size: int,
    partitions: int = 1,
    outstanding: int = 0,
    records: int = 0,
    settings: dict[str, str] | None = None,
) -> Callable[[], dict[str, float]]:
    """Records of `size` bytes for `seconds`, a few to each of the partitions in turn, at most
    `outstanding` of them unacknowledged (0: 64 MiB); ends when all are acknowledged. With
    `records`, exactly so many, however long that takes."""
    failed: list[Any] = []
    base: dict[str, Any] = {"bootstrap.servers": address, "acks": "all", "linger.ms": "5"}
    base |= {"queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 1_000_000}
    base |= {"delivery.report.only.error": True}
    producer = Producer(
        base | (settings or {}) | {"on_delivery": lambda error, _message: failed.append(error)}
    )
    letters = random.Random(1).choices(string.ascii_uppercase, k=size + PAYLOADS)
    text = "".join(letters).encode()
    outstanding = outstanding or max(min(OUTSTANDING_BYTES // size, RECORDS_MAX), 100)
    group = max(min(outstanding // 10, PAYLOADS), 1)
    if partitions > 1:
        group = RECORDS_A_TURN
    messages = [{"value": text[i : i + size]} for i in range(PAYLOADS)]
    turns = cycle(range(partitions))

    def send(duration_s: float) -> int:
        sent, until_s = 0, time.perf_counter() + duration_s
        while sent < records if records else time.perf_counter() < until_s:
            while len(producer) > outstanding - group:
                producer.poll(0.001)
            start = sent % (PAYLOADS - group + 1)
            chunk = messages[start : start + (min(group, records - sent) if records else group)]
            sent += producer.produce_batch(topic, chunk, partition=next(turns))
            if failed:
                raise SystemExit(f"a record was not acknowledged: {failed[0]}")
            producer.poll(0)
        if producer.flush(SILENCE_S_MAX) or failed:
            raise SystemExit(f"records were not acknowledged: {failed[:1]}")
        return sent

    if not records:
        send(WARM_S + partitions * WARM_S_A_PARTITION)

    def run() -> dict[str, float]:
        start_s = time.perf_counter()
        sent = send(seconds)
        wall_s = time.perf_counter() - start_s
        return {"records": sent, "wall_s": wall_s, "per_s": sent / wall_s}

    return run


def consume(
    address: str,
    topic: str,
    count: int,
    rounds: int = 1,
    settings: dict[str, str] | None = None,
) -> Callable[[], dict[str, float]]:
    """The first `count` records of partition 0, `rounds` times."""
    base: dict[str, Any] = {"bootstrap.servers": address, "group.id": "bench"}
    base |= {"enable.auto.commit": False, "check.crcs": False}
    if rounds > 1:  # what still waits at the end holds up the next round
        base["fetch.wait.max.ms"] = 5
    consumer = Consumer(base | (settings or {}))
    consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=SILENCE_S_MAX)  # connected

    def run() -> dict[str, float]:
        start_s = time.perf_counter()
        for _ in range(rounds):
            consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
            left = count
            while left > 0:
                messages = consumer.consume(min(left, 10_000), SILENCE_S_MAX)
                if not messages or messages[-1].error():
                    raise SystemExit(f"nothing more to consume, {left} records are missing")
                left -= len(messages)
        wall_s, records = time.perf_counter() - start_s, count * rounds
        return {"records": records, "wall_s": wall_s, "per_s": records / wall_s}

    return run


MODES: dict[str, Callable[..., Work]] = {"produce": produce, "consume": consume}

if __name__ == "__main__":
    serve(lambda mode, **arguments: MODES[mode](**arguments))
