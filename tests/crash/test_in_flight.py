"""A kill with more than 100 MiB of acks=all writes in flight, and an immediate restart.

Many connections pump batches of nearly 1 MiB to many partitions without waiting for answers. The
kernel goes on with writes of a killed process, so the restarted broker meets files that still
change. What was in flight is counted from below: bytes that the broker said it had received
before the kill, minus all bytes that were ever acknowledged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kafka_protocol.record_batch import build_batch
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic
from tests.clients.wire_client import ConnectionClosed, WireClient, produce_request
from tests.crash.checker import check
from tests.crash.workload import encode_payload, read_log

MIB = 1 << 20
CONNECTIONS = 16  # a partition each, so that a partition's numbers arrive in order
BATCHES = 30  # per connection
FILLER_BYTES = 1_000_000
IN_FLIGHT_BYTES_MIN = 100 * MIB
ACKED_BYTES_MIN = 16 * MIB
ATTEMPTS_MAX = 5
KILL_AT_BYTES = 170 * MIB  # more than that: some are acknowledged between the look and the kill
SETTINGS = {"inflight_bytes_max": 1 << 30, "connection_inflight_bytes_max": 1 << 30}


@pytest.fixture
def broker(tmp_path: Path, io_backend: str) -> Iterator[RunningBroker]:
    """The broker that is killed; it takes a GiB in before it pauses reading."""
    settings = {**SETTINGS, "io_backend": io_backend}
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", settings)
    try:
        yield running.start()
    finally:
        running.close()


class Pump:
    """One connection: sends all its batches at once and notes the acknowledgements."""

    def __init__(self, broker: RunningBroker, topic: str, partition: int) -> None:
        self.acked: dict[int, tuple[int, int]] = {}
        self.acked_bytes = 0
        self._client = WireClient(broker)
        self._frames = []
        filler = bytes(range(250)) * (FILLER_BYTES // 250)
        for number in range(BATCHES):
            value = encode_payload(number, partition, filler)
            batch = build_batch([(None, value)], timestamp_ms=number)
            request = produce_request(topic, partition, batch, -1)
            self._frames.append(self._client.encode(request, 9))
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._receiver = threading.Thread(target=self._receive, daemon=True)

    def start(self) -> None:
        """Begin pumping."""
        self._sender.start()
        self._receiver.start()

    def finish(self) -> None:
        """After the broker's death: everything that it ever acknowledged has been noted."""
        for thread in (self._sender, self._receiver):
            thread.join(20)
            assert not thread.is_alive()
        self._client.socket.close()

    def _send(self) -> None:
        try:
            for frame in self._frames:
                self._client.socket.sendall(frame)
        except OSError:
            return  # the broker was killed

    def _receive(self) -> None:
        try:
            for number in range(BATCHES):
                answer = self._client.receive()[1].responses[0].partition_responses[0]
                assert answer.error_code == 0
                self.acked[number] = (answer.base_offset, 0)
                self.acked_bytes += len(self._frames[number])
        except ConnectionClosed:
            return


def backlog_at(broker: RunningBroker, pumps: list[Pump], start_bytes: float) -> float | None:
    """Bytes received since `start_bytes` when much is in flight; None if all was acked sooner."""
    received_bytes: list[float] = []

    def is_the_moment() -> bool:
        values = broker.metrics()
        acked_bytes = sum(pump.acked_bytes for pump in pumps)
        if acked_bytes >= ACKED_BYTES_MIN and values["rpk_inflight_bytes"] >= KILL_AT_BYTES:
            received_bytes.append(values["rpk_received_bytes_total"] - start_bytes)
        return bool(received_bytes) or all(len(pump.acked) == BATCHES for pump in pumps)

    wait_until(is_the_moment, "a backlog, or its end")
    return received_bytes[0] if received_bytes else None


@pytest.mark.parametrize("io_backend", ["auto", "ring", "threads"], indirect=True)
def test_kill_with_100_mib_in_flight_keeps_what_was_acknowledged(
    broker: RunningBroker, note: Callable[[str], None]
) -> None:
    for _attempt in range(ATTEMPTS_MAX):  # the backlog is gone after 0.2 s: it may be missed
        topic = create_topic(broker, partitions=CONNECTIONS)
        pumps = [Pump(broker, topic, partition) for partition in range(CONNECTIONS)]
        start_bytes = broker.metrics()["rpk_received_bytes_total"]
        for pump in pumps:
            pump.start()
        received_bytes = backlog_at(broker, pumps, start_bytes)
        if received_bytes is not None:
            break
    else:
        pytest.fail(f"this disk was too fast in {ATTEMPTS_MAX} attempts: raise BATCHES")
    broker.kill()
    killed_s = time.monotonic()
    broker.start()
    ready_s = time.monotonic() - killed_s
    for pump in pumps:
        pump.finish()
    acked_bytes = sum(pump.acked_bytes for pump in pumps)
    verdict = check([pump.acked for pump in pumps], read_log(broker.address, topic, CONNECTIONS))
    note(
        f"{(received_bytes - acked_bytes) / MIB:.0f} MiB in flight at the kill,"
        f" {acked_bytes / MIB:.0f} MiB acknowledged, ready again after {ready_s:.2f} s:"
        f" {verdict.report()}"
    )
    assert received_bytes - acked_bytes >= IN_FLIGHT_BYTES_MIN
    assert not verdict.faults, verdict.report()
