"""The crash loop that every crash test shares: load, crash at a random moment, restart, verdict.

The tests differ in what a crash is and in the topic's settings, so the negative control runs the
very same producer, loop and checker as the tests that must pass.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic
from tests.crash.checker import Verdict, check
from tests.crash.workload import NumberedProducer, read_log

TOPIC = "numbered"
PARTITIONS = 4
CYCLES = 20
ACKS_BETWEEN = 5_000
CRASH_AFTER_MS_MAX = 40  # beyond the 5,000 acks, at random

# Small files, so that a crash meets rolls and checkpoints: hundreds of each in a run.
SETTINGS = {"segment_bytes": 512 * 1024, "checkpoint_bytes": 64 * 1024}


@dataclass(slots=True)
class Outcome:
    """What a run of cycles showed."""

    verdict: Verdict
    cycles: int
    producer_errors: list[str]

    def assert_kept(self) -> None:
        """All promises were kept."""
        assert not self.producer_errors, self.producer_errors
        assert not self.verdict.faults, self.verdict.report()


def create_numbered_topic(broker: RunningBroker, **configs: str) -> None:
    """The topic of the workload; config names are given with underscores for dots."""
    dotted = {name.replace("_", "."): value for name, value in configs.items()}
    create_topic(broker, TOPIC, PARTITIONS, dotted)


def run_cycles(
    broker: RunningBroker,
    crash_and_restart: Callable[[], None],
    seed: int,
    stop_at_loss: bool = False,
    cycles: int = CYCLES,
) -> Outcome:
    """Crash a running broker `cycles` times under load.

    crash_and_restart  called with produces in flight; the broker serves again when it returns
    stop_at_loss       look for losses after each cycle and stop at the first (negative control)
    """
    rng = random.Random(seed)
    producer = NumberedProducer(broker.address, TOPIC, PARTITIONS, seed)
    started_s = time.monotonic()
    done = 0
    try:
        producer.start()
        for producer.cycle in range(1, cycles + 1):
            producer.wait_for_acks(ACKS_BETWEEN)
            crash_at_s = time.monotonic() + rng.uniform(0, CRASH_AFTER_MS_MAX / 1000)
            _wait_for(crash_at_s)
            if producer.failed:
                break
            assert producer.in_flight_count > 0
            crash_and_restart()
            done += 1
            if stop_at_loss and _lost(broker, producer):
                break
    finally:
        producer.stop(drain=not stop_at_loss)
    verdict = check(producer.acked, read_log(broker.address, TOPIC, PARTITIONS))
    print(
        f"{done} crashes in {time.monotonic() - started_s:.1f} s:"
        f" {verdict.report()}; producer: {producer.errors or 'no error'}"
    )
    return Outcome(verdict, done, producer.errors)


def _wait_for(moment_s: float) -> None:
    wait_until(lambda: time.monotonic() >= moment_s, "the moment of the crash")


def _lost(broker: RunningBroker, producer: NumberedProducer) -> bool:
    """Whether a record acknowledged until now is missing; the producer goes on meanwhile."""
    acked = [dict(numbers) for numbers in producer.acked]
    return bool(check(acked, read_log(broker.address, TOPIC, PARTITIONS)).lost)
