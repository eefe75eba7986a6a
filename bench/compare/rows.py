"""The rows: what is measured, by which generator, and what counts.

A row's topic is made once for each column, before the first round; the rounds go over the columns
in turn. `measure` returns records, wall_s, broker_cpu_s and whatever the generator knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.compare.bench import Bench
from bench.generators.process import run_module
from bench.peers.server import Target

KIB = 1024
MIB = 1 << 20
DATA_RECORDS = 1 << 20  # of 1 KiB: 1 GiB, what is consumed cold
WARM_RECORDS = 24 << 10  # of 1 KiB: what every broker has in memory by its defaults
ONE_RECORD = {"batch.num.messages": "1", "linger.ms": "0", "max.in.flight": "1000"}
LZ4 = {"compression.type": "lz4"}
GROWTH_PARTITIONS = (1, 10, 100, 1000)
GROWTH_CONNECTIONS = (1, 10, 100, 1000, 2000)

Figures = dict[str, float]
Measure = Callable[[Bench, Target, str], Figures]


@dataclass(frozen=True)
class Row:
    """One line of the results.

    `counts`: the figures that the row is judged by. `size`: of a record, in bytes, where MB/s says
    something. `prepare` fills the topic. `fits`: whether a column can be measured at all.
    """

    name: str
    scenario: int
    title: str
    generator: str
    measure: Measure
    counts: tuple[str, ...]
    size: int = 0
    partitions: int = 1
    prepare: Callable[[Bench, Target, str], None] = lambda _bench, _target, _topic: None
    fits: Callable[[Target], bool] = lambda _target: True
    growth_of: str = ""  # of rows that must stay flat: which series
    one_in_flight: bool = False  # so that throughput is latency


THROUGHPUT = ("per_s", "cpu_us")
LATENCY = ("p50_ms", "p99_ms", "p99.9_ms")


def librdkafka_produce(
    size: int, settings: dict[str, str] | None = None, partitions: int = 1, outstanding: int = 0
) -> Measure:
    """Records of `size` bytes through librdkafka."""

    def measure(bench: Bench, target: Target, topic: str) -> Figures:
        return run_module(
            target, "librdkafka", bench.generator_cores, mode="produce", topic=topic,
            seconds=bench.seconds, size=size, partitions=partitions, outstanding=outstanding,
            settings=settings or {},
        )  # fmt: skip

    return measure


def java_produce(count: int, size: int) -> Measure:
    """`count` records through Kafka's ProducerPerformance."""

    def measure(bench: Bench, target: Target, topic: str) -> Figures:
        assert bench.java is not None
        return bench.java.produce(target, topic, int(count * bench.seconds), size)

    return measure


def closed(
    connections: int = 1, in_flight: int = 1, partitions: int = 1, active: int = 0
) -> Measure:
    """One record a request through the probe."""

    def measure(bench: Bench, target: Target, topic: str) -> Figures:
        return run_module(
            target, "probe", bench.generator_cores, mode="closed", topic=topic,
            seconds=bench.seconds, connections=connections, in_flight=in_flight,
            partitions=partitions, active=active,
        )  # fmt: skip

    return measure


def end_to_end(per_s: int) -> Measure:
    """A fixed rate through the probe."""

    def measure(bench: Bench, target: Target, topic: str) -> Figures:
        topic = f"{topic}-{bench.facts['round']}"  # its consumer starts with an empty topic
        target.create(topic)
        figures = run_module(
            target, "probe", bench.generator_cores, mode="end_to_end", topic=topic,
            per_s=per_s, seconds=2 * bench.seconds,
        )  # fmt: skip
        target.delete(topic)
        return figures

    return measure


def tail(consumers: int) -> Measure:
    """One producer and consumers at the tail, through the probe."""

    def measure(bench: Bench, target: Target, topic: str) -> Figures:
        topic = f"{topic}-{bench.facts['round']}"
        target.create(topic)
        figures = run_module(
            target, "probe", bench.generator_cores, mode="tail", topic=topic,
            seconds=bench.seconds, consumers=consumers,
        )  # fmt: skip
        target.delete(topic)
        return figures

    return measure


def java_end_to_end(bench: Bench, target: Target, topic: str) -> Figures:
    """Kafka's EndToEndLatency."""
    assert bench.java is not None
    return bench.java.end_to_end(target, topic, int(800 * bench.seconds), 100)


def fill(count: int) -> Callable[[Bench, Target, str], None]:
    """`count` records of 1 KiB, unmeasured."""

    def prepare(bench: Bench, target: Target, topic: str) -> None:
        run_module(
            target, "librdkafka", bench.generator_cores, mode="produce", topic=topic,
            seconds=0, size=KIB, records=count,
        )  # fmt: skip

    return prepare


def consume(count: int, rounds: int = 1, cold: bool = False) -> Measure:
    """The first `count` records of 1 KiB through librdkafka."""

    def measure(bench: Bench, target: Target, topic: str) -> Figures:
        if cold and not bench.drop_page_cache():
            raise SystemExit("cold reads need root, to drop the page cache")
        return run_module(
            target, "librdkafka", bench.generator_cores, mode="consume", topic=topic,
            count=count, rounds=rounds,
        )  # fmt: skip

    return measure


def java_consume(bench: Bench, target: Target, topic: str) -> Figures:
    """Cold reads through Kafka's ConsumerPerformance."""
    assert bench.java is not None
    bench.drop_page_cache()
    return bench.java.consume(target, topic, DATA_RECORDS)


def has_disk(target: Target) -> bool:
    """Whether it keeps records on a disk."""
    return target.server.has_disk


def _produce_rows() -> list[Row]:
    rows = []
    for size, text, count in (
        (100, "100 B", 400_000),
        (KIB, "1 KiB", 100_000),
        (100 * KIB, "100 KiB", 1_500),
    ):
        for codec, settings in (("none", {}), ("lz4", LZ4)):
            name = f"bulk-{text.replace(' ', '')}-{codec}"
            title = f"bulk, {text}" + (", lz4" if settings else "")
            measure = librdkafka_produce(size, settings)
            rows.append(Row(name, 1, title, "librdkafka", measure, THROUGHPUT, size))
        name, title = f"bulk-{text.replace(' ', '')}-java", f"bulk, {text}"
        measure = java_produce(count, size)
        rows.append(Row(name, 1, title, "ProducerPerformance", measure, THROUGHPUT, size))
    return rows


def _growth_rows() -> list[Row]:
    rows = [
        Row(
            f"partitions-{count}", 7, f"one record a request over {count:,} partitions", "probe",
            closed(in_flight=16, partitions=count), ("cpu_us",), partitions=count,
            growth_of="partitions",
        )
        for count in GROWTH_PARTITIONS
    ]  # fmt: skip
    return rows + [
        Row(
            f"connections-{count}", 7, f"one record a request over {count:,} connections", "probe",
            closed(connections=count, active=16), ("cpu_us",), growth_of="connections",
        )
        for count in GROWTH_CONNECTIONS
    ]  # fmt: skip


ROWS: list[Row] = [
    *_produce_rows(),
    Row("sequential", 2, "one record a request, one in flight", "probe", closed(),
        ("per_s", "cpu_us", *LATENCY), one_in_flight=True),
    Row("pipelined", 2, "one record a request, pipelined", "librdkafka",
        librdkafka_produce(100, ONE_RECORD, outstanding=1000), THROUGHPUT),
    Row("connections-50", 2, "one record a request, 50 connections", "probe",
        closed(connections=50), ("per_s", "cpu_us", *LATENCY)),
    Row("end-to-end-1000", 3, "1,000 records/s, due to consumed", "probe", end_to_end(1000),
        (*LATENCY, "cpu_us")),
    Row("end-to-end-5000", 3, "5,000 records/s, due to consumed", "probe", end_to_end(5000),
        (*LATENCY, "cpu_us")),
    Row("end-to-end-java", 3, "produced to consumed, one at a time", "EndToEndLatency",
        java_end_to_end, ("mean_ms", "p99_ms")),
    Row("consume-memory", 4, "consume 24 MiB in memory, 1 KiB", "librdkafka",
        consume(WARM_RECORDS, rounds=40), THROUGHPUT, KIB, prepare=fill(WARM_RECORDS)),
    Row("consume-cold", 4, "consume 1 GiB from a cold disk, 1 KiB", "librdkafka",
        consume(DATA_RECORDS, cold=True), THROUGHPUT, KIB, prepare=fill(DATA_RECORDS),
        fits=has_disk),
    Row("consume-cold-java", 4, "consume 1 GiB from a cold disk, 1 KiB", "ConsumerPerformance",
        java_consume, THROUGHPUT, KIB, prepare=fill(DATA_RECORDS), fits=has_disk),
    Row("tail-1", 5, "one producer, 1 consumer at the tail", "probe", tail(1), THROUGHPUT, 100),
    Row("tail-10", 5, "one producer, 10 consumers at the tail", "probe", tail(10), THROUGHPUT, 100),
    Row("spread-200", 8, "over 200 partitions, 100 B", "librdkafka",
        librdkafka_produce(100, partitions=200, outstanding=20_000), THROUGHPUT, 100,
        partitions=200),
    *_growth_rows(),
]  # fmt: skip
BY_NAME = {row.name: row for row in ROWS}
