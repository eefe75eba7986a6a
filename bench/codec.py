"""How long the hot messages take: the functions by hand against the compiled closures.

    python bench/codec.py [VERSION_OF_PRODUCE VERSION_OF_FETCH]

Prints microseconds a message, the best of several runs, without header and size (frame.py adds
about 0.8 µs to a request). Each row says how many partitions and how many bytes of records.
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kafka_protocol import closures
from kafka_protocol.messages import fetch, produce
from kafka_protocol.record_batch import build_batch

TOPIC_ID = bytes(range(16))
KIB = 1024


def best_us(call: Callable[[], object]) -> float:
    """Microseconds a call: the fastest of 7 runs of about 20 ms each."""
    timer = timeit.Timer(call)
    number, seconds = timer.autorange()
    number = max(1, int(number * 0.02 / seconds))
    return min(timer.repeat(7, number)) / number * 1e6


def records(size_bytes: int) -> memoryview:
    return memoryview(bytes(build_batch([(b"key", bytes(size_bytes))])))


def produce_request(partitions: int, size_bytes: int) -> produce.ProduceRequest:
    data = [produce.PartitionProduceData(i, records(size_bytes)) for i in range(partitions)]
    topic = produce.TopicProduceData("a-topic", TOPIC_ID, data)
    return produce.ProduceRequest(None, -1, 30_000, [topic])


def produce_response(partitions: int) -> produce.ProduceResponse:
    data = [produce.PartitionProduceResponse(i, 0, 1_000_000 + i) for i in range(partitions)]
    return produce.ProduceResponse([produce.TopicProduceResponse("a-topic", TOPIC_ID, data)])


def fetch_request(partitions: int) -> fetch.FetchRequest:
    data = [fetch.FetchPartition(i, 3, 1_000_000, -1, -1, 1 << 20) for i in range(partitions)]
    topic = fetch.FetchTopic("a-topic", TOPIC_ID, data)
    return fetch.FetchRequest(max_wait_ms=500, min_bytes=1, topics=[topic])


def fetch_response(partitions: int, size_bytes: int) -> fetch.FetchResponse:
    data = [
        fetch.PartitionData(i, 0, 10, 10, 0, records=[records(size_bytes)])
        for i in range(partitions)
    ]
    topic = fetch.FetchableTopicResponse("a-topic", TOPIC_ID, data)
    return fetch.FetchResponse(responses=[topic])


def decode_row(message: Any, by_hand: Any, version: int) -> tuple[float, float]:
    out = bytearray()
    closures.compile_encoder(type(message), version)(out, message)
    buf = memoryview(bytes(out))
    hand = by_hand(version)
    compiled = closures.compile_decoder(type(message), version)
    assert hand(buf, 0) == compiled(buf, 0)
    return best_us(lambda: hand(buf, 0)), best_us(lambda: compiled(buf, 0))


def encode_row(message: Any, by_hand: Any, version: int) -> tuple[float, float]:
    hand = by_hand(version)
    compiled = closures.compile_encoder(type(message), version)
    out = bytearray()
    compiled(out, message)
    assert b"".join(hand(bytearray(), message)) == out
    return best_us(lambda: hand(bytearray(), message)), best_us(
        lambda: compiled(bytearray(), message)
    )


def main() -> None:
    versions = [int(arg) for arg in sys.argv[1:]] or [9, 12]
    p, f = versions
    rows: list[tuple[str, tuple[float, float]]] = []
    for n in (1, 20):
        name = f"Produce v{p} request decode, {n} x 1 KiB"
        rows.append((name, decode_row(produce_request(n, KIB), produce.request_decoder, p)))
    for n in (1, 20):
        name = f"Produce v{p} response encode, {n}"
        rows.append((name, encode_row(produce_response(n), produce.response_encoder, p)))
    for n in (1, 20):
        name = f"Fetch v{f} request decode, {n}"
        rows.append((name, decode_row(fetch_request(n), fetch.request_decoder, f)))
    for n, size in ((1, KIB), (20, KIB), (1, KIB * KIB)):
        name = f"Fetch v{f} response encode, {n} x {size // KIB} KiB"
        rows.append((name, encode_row(fetch_response(n, size), fetch.response_encoder, f)))
    print(f"{'µs a message':44} {'by hand':>9} {'closures':>9} {'ratio':>6}")
    for name, (hand, compiled) in rows:
        print(f"{name:44} {hand:9.2f} {compiled:9.2f} {compiled / hand:6.1f}")


if __name__ == "__main__":
    main()
