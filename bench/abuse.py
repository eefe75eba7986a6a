"""Clients that abuse a shard, one kind after the other, and what another client notices of it.

    python -m bench.abuse [--seconds 5] [--only NAME ...] [--data-dir DIR]

While a kind of abuse goes on, a probe sends one record (acks=all) and asks for metadata 100 times a
second each, on the same shard. It is an open loop: latency runs from when a request was due. The
first row is the probe alone, which is what the disk and the machine do by themselves. Abuse and
probe are processes of their own, so that neither delays the other's clock; where there are two
cores they share the one that the shard does not have, the probe with the higher priority.

A row: probe p50, p99 and largest latency in milliseconds, its errors, the shard's memory (PSS)
before and at its peak in MB, the shard's CPU in per cent of a core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import selectors
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, NamedTuple

from bench import abusers
from bench.process import Broker, running
from bench.wire import METADATA_VERSION, Connection, create_topic, produce_frame
from kafka_protocol.errors import ErrorCode
from kafka_protocol.frame import decode_response, encode_request
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_protocol.record_batch import build_batch

PROBES_PER_S = 100
WATCH_S = 0.05
P99_MS_MAX = 50.0  # what is promised
SETTLE_S = 0.5
LATE_S_MAX = 20.0  # after the last request was sent
PROBE_TOPIC = "probe"
_Context = multiprocessing.get_context("fork")


class Seen(NamedTuple):
    """What a probe saw: latencies in seconds, ascending, and requests that failed."""

    latencies_s: list[float]
    errors: list[str]


def probe(address: str, seconds: float) -> Seen:
    """A produce and a metadata request every 10 ms, sent when due, whatever is unanswered yet."""
    produce = produce_frame(PROBE_TOPIC, 0, build_batch([(None, b"probe")]))
    names = [MetadataRequestTopic(bytes(16), PROBE_TOPIC)]
    metadata = encode_request(MetadataRequest(names), METADATA_VERSION, 1, "probe")
    selector = selectors.DefaultSelector()
    idle: list[Connection] = []
    latencies_s: list[float] = []
    errors: list[str] = []
    waiting = 0
    start_s = time.perf_counter()
    due = ((start_s + n // 2 / PROBES_PER_S, n % 2) for n in range(int(seconds * PROBES_PER_S) * 2))
    next_one = next(due, None)
    while next_one is not None or (
        waiting and time.perf_counter() < start_s + seconds + LATE_S_MAX
    ):
        now_s = time.perf_counter()
        if next_one is not None and next_one[0] <= now_s:
            due_s, kind = next_one
            connection = idle.pop() if idle else Connection(address)
            connection.socket.sendall(metadata if kind else produce)
            selector.register(connection.socket, selectors.EVENT_READ, (connection, due_s, kind))
            waiting += 1
            next_one = next(due, None)
            continue
        wait_s = next_one[0] - now_s if next_one is not None else LATE_S_MAX
        for key, _ in selector.select(wait_s):
            connection, due_s, kind = key.data
            selector.unregister(connection.socket)
            waiting -= 1
            try:
                answer = connection.receive_frame()
            except OSError as error:
                errors.append(str(error))
                continue
            latencies_s.append(time.perf_counter() - due_s)
            errors += [] if kind else _produce_errors(answer)
            idle.append(connection)
    errors += ["not answered"] * waiting
    return Seen(sorted(latencies_s), errors)


def _produce_errors(frame: bytes) -> list[str]:
    _, answer = decode_response(0, 9, memoryview(frame))
    code = answer.responses[0].partition_responses[0].error_code
    return [ErrorCode(code).name] if code else []


def _probe_process(pipe: Pipe, address: str, seconds: float) -> None:
    os.nice(-10) if os.geteuid() == 0 else None
    pipe.send(probe(address, seconds))


def _abuse_process(abuse: Callable[[str], None], address: str) -> None:
    abuse(address)


class Row(NamedTuple):
    """One line of the table."""

    name: str
    seen: Seen
    before_mb: float
    peak_mb: float
    cpu_percent: float

    def quantile_ms(self, share: float) -> float:
        """A quantile of the probe's latencies."""
        found = self.seen.latencies_s
        return found[min(int(len(found) * share), len(found) - 1)] * 1e3 if found else float("inf")

    def __str__(self) -> str:
        figures = (self.quantile_ms(q) for q in (0.5, 0.99, 1.0))
        text = "".join(f"{value:9.1f}" for value in figures)
        text += f"{len(self.seen.errors):8}{self.before_mb:9.1f}{self.peak_mb:9.1f}"
        return f"{self.name:26}{text}{self.cpu_percent:7.0f}%"


HEAD = f"{'abuse':26}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'errors':>8}" + (
    f"{'MB':>9}{'peak MB':>9}{'CPU':>8}"
)


def measure(broker: Broker, name: str, abuse: Callable[[str], Any] | None, seconds: float) -> Row:
    """Let a kind of abuse go on for so long, with a probe beside it."""
    before_mb = broker.pss_mb()[0]
    abuser = None
    if abuse is not None:
        abuser = _Context.Process(target=_abuse_process, args=(abuse, broker.address))
        abuser.start()
        abuser.join(SETTLE_S)  # it goes on; it gets this much of a start
    receiver, sender = _Context.Pipe(duplex=False)
    prober = _Context.Process(target=_probe_process, args=(sender, broker.address, seconds))
    cpu_s, start_s = broker.cpu_s(), time.perf_counter()
    prober.start()
    peak_mb = before_mb
    try:
        while not receiver.poll(WATCH_S):
            peak_mb = max(peak_mb, broker.pss_mb()[0])
            if not prober.is_alive() and not receiver.poll():
                raise SystemExit(f"{name}: the probe ended without a result")
        seen = receiver.recv()
        wall_s, cpu_s = time.perf_counter() - start_s, broker.cpu_s() - cpu_s
    finally:
        if abuser is not None:
            if not abuser.is_alive():
                print(f"{name}: the abuser gave up")
            abuser.kill()
            abuser.join()
        prober.join()
    return Row(name, seen, before_mb, peak_mb, cpu_s / wall_s * 100)


def prepare(broker: Broker) -> None:
    """The topics that probe and abusers use."""
    connection = Connection(broker.address)
    create_topic(connection, PROBE_TOPIC, 1)
    abusers.prepare(connection)
    connection.close()


def main() -> None:
    """Run every kind in turn; exit code 1 where the promise was not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each kind of abuse")
    parser.add_argument("--only", nargs="*", choices=list(abusers.ABUSES), help="some kinds")
    parser.add_argument("--data-dir", type=Path, help="parent of the data directory")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    broken = []
    with running(options.data_dir) as broker:
        os.sched_setaffinity(0, cores[1:] or cores)  # the shard took the first core
        prepare(broker)
        print(HEAD)
        for name in ("none", *(options.only or abusers.ABUSES)):
            row = measure(broker, name, abusers.ABUSES.get(name), options.seconds)
            print(row, flush=True)
            for error in sorted(set(row.seen.errors)):
                print(f"    {error}")
            if row.seen.errors or (name != "none" and row.quantile_ms(0.99) > P99_MS_MAX):
                broken.append(name)
            time.sleep(SETTLE_S)
    if broken:
        raise SystemExit(f"the promise was not kept: {', '.join(broken)}")


if __name__ == "__main__":
    main()
