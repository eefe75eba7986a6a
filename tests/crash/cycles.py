"""The crash loop that every crash test shares: load, crash at a random moment, restart, verdict.

The tests differ in what a crash is and in the topic's settings, so the negative control runs the
very same producer, loop and checker as the tests that must pass.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient

from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic
from tests.crash.checker import Verdict, check
from tests.crash.workload import NumberedProducer, read_log

TOPIC = "numbered"
PARTITIONS = 4
CYCLES = 20
CYCLES_OF_A_BACKEND = 4  # one of each kind, for backends that auto does not take here
ACKS_BETWEEN = 5_000
RETIRED_RECORDS = 20_000
CRASH_AFTER_MS_MAX = 40  # beyond the 5,000 acks, at random

# Every second crash waits, from its random moment on, until a file of this kind is being made:
# a roll prepares the next segment, and a checkpoint is written, under a temporary name.
AIMS = {"roll": "*.wal.tmp", "checkpoint": "*.checkpoint.tmp"}
AIM_S_MAX = 0.5
AIMED_MIN = 3  # of five tries each: the thing aimed at may be over when it is seen

SETTINGS = {
    # Small files, so that a run has hundreds of rolls and checkpoints.
    "segment_bytes": 128 * 1024,
    "checkpoint_bytes": 32 * 1024,
    "auto_create_topics": False,  # else a producer's look at a deleted topic makes it again
}


@dataclass(slots=True)
class Outcome:
    """What a run of cycles showed; `crashed_in` counts what was under way at the crash."""

    verdict: Verdict
    cycles: int
    producer_errors: list[str]
    crashed_in: Counter[str]
    seconds: float

    def summary(self) -> str:
        """One line: what was done and found."""
        found = self.verdict
        return (
            f"{self.cycles} crashes in {self.seconds:.1f} s, {dict(self.crashed_in)} under way;"
            f" {found.acked_count} acknowledged, {found.read_count} read,"
            f" faults {found.faults}, producer errors {len(self.producer_errors)}"
        )

    def assert_kept(self, cycles: int = CYCLES) -> None:
        """All promises were kept, over so many crashes."""
        assert not self.producer_errors, self.producer_errors
        assert not self.verdict.faults, self.verdict.report()
        assert self.cycles == cycles
        for aim in AIMS:
            aimed_min = AIMED_MIN * cycles // CYCLES
            assert self.crashed_in[aim] >= aimed_min, f"only {self.crashed_in} of {cycles} crashes"


def create_numbered_topic(
    broker: RunningBroker, partitions: int = PARTITIONS, **configs: str
) -> None:
    """The topic of the workload; config names are given with underscores for dots."""
    dotted = {name.replace("_", "."): value for name, value in configs.items()}
    create_topic(broker, TOPIC, partitions, dotted)


def retire_segments(broker: RunningBroker, seed: int) -> None:
    """Leave the broker segments to recycle, full of records that look just like those to come.

    The topic's own name and partitions, so that only what recovery must check tells old from new.
    """
    create_numbered_topic(broker)
    producer = NumberedProducer(broker.address, TOPIC, PARTITIONS, seed)
    producer.start()
    producer.wait_for_acks(RETIRED_RECORDS)
    producer.stop()
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.delete_topics([TOPIC])[TOPIC].result(timeout=20)
    wait_until(lambda: len(list(broker.data_dir.glob("recycle/*/*"))) >= 20, "retired segments")


def run_cycles(
    broker: RunningBroker,
    crash_and_restart: Callable[[], None],
    seed: int,
    stop_at_loss: bool = False,
    cycles: int = CYCLES,
    partitions: int = PARTITIONS,
) -> Outcome:
    """Crash a running broker `cycles` times under load.

    crash_and_restart  called with produces in flight; the broker serves again when it returns
    stop_at_loss       look for losses after each cycle and stop at the first (negative control)
    """
    rng = random.Random(seed)
    producer = NumberedProducer(broker.address, TOPIC, partitions, seed)
    started_s = time.monotonic()
    crashed_in: Counter[str] = Counter()
    done = 0
    try:
        producer.start()
        for producer.cycle in range(1, cycles + 1):
            producer.wait_for_acks(ACKS_BETWEEN)
            aim = (None, "roll", None, "checkpoint")[producer.cycle % 4]
            delay_s = rng.uniform(0, CRASH_AFTER_MS_MAX / 1000)
            crashed_in.update(_wait_for_moment(delay_s, aim, broker.data_dir))
            if producer.failed:
                break
            assert producer.in_flight_count > 0
            crash_and_restart()
            done += 1
            if stop_at_loss and _lost(broker, producer):
                break
    finally:
        producer.stop(drain=not stop_at_loss)
    verdict = check(producer.acked, read_log(broker.address, TOPIC, partitions))
    seconds = time.monotonic() - started_s
    return Outcome(verdict, done, producer.errors, crashed_in, seconds)


def _wait_for_moment(delay_s: float, aim: str | None, data_dir: Path) -> set[str]:
    """Wait until it is time to crash; returns what is under way then."""
    moment_s = time.monotonic() + delay_s
    wait_until(lambda: time.monotonic() >= moment_s, "the moment of the crash")
    while True:  # without a pause: what is looked for takes a millisecond or less
        seen = {name for name in AIMS if _is_under_way(name, data_dir)}
        if aim is None or aim in seen or time.monotonic() > moment_s + AIM_S_MAX:
            return seen


def _is_under_way(aim: str, data_dir: Path) -> bool:
    return any(True for _ in data_dir.glob(f"{TOPIC}-*/{AIMS[aim]}"))


def _lost(broker: RunningBroker, producer: NumberedProducer) -> bool:
    """Whether a record acknowledged until now is missing; the producer goes on meanwhile."""
    acked = [dict(numbers) for numbers in producer.acked]
    return bool(check(acked, read_log(broker.address, TOPIC, len(acked))).lost)
