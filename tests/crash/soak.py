"""Real clients under real crashes for as long as you like: what was acknowledged, is it kept?

    python -m tests.crash.soak --seconds 300 --shards 4 --seed 1

Producers and consumers of every client, a process each, share the 64 partitions of one topic. Each
shard is killed with -9 in turn, one is frozen for longer than clients wait, then the supervisor is
killed, then everything, again and again; every client must go on by itself. At the end the log is
compared with what the producers were told and with what the consumers were given (checker.py).
Exit code 1 on any fault.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.wire import Connection, leaders
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic
from tests.crash.checker import Verdict, check, check_reader
from tests.crash.soak_report import (
    FREEZE_SHARD,
    KILL_ALL,
    KILL_SHARD,
    KILL_SUPERVISOR,
    Crash,
    report_times,
)
from tests.crash.soak_workers import (
    ACK,
    CONSUMERS,
    PRODUCERS,
    READ,
    Job,
    Worker,
    probe,
)
from tests.crash.workload import decode_payload, read_log

TOPIC = "soak"
PROBE = "probe"
START_S_MAX = 60.0
END_S_MAX = 10.0
FREEZE_S = 3.0
PAUSE_S = (0.5, 1.5)  # load between that all went on and the next crash, at random
# What the broker is expected to say of a shard that was killed, and nothing else.
EXPECTED_EVENTS = {"a shard died and is started again"}


@dataclass(frozen=True)
class Options:
    """What a soak is. Shapes: configs  of the topic; crashes  kinds, in turn, None: all of them."""

    seconds: float
    shards: int
    seed: int
    directory: Path
    partitions: int = 64
    per_s: int = 400  # records of each producer
    probe_per_s: int = 100  # of each shard's probe
    go_on_s_max: float = 30.0  # after a crash, for every client and shard
    flush_s_max: float = 60.0  # at the end, for every client
    configs: dict[str, str] = field(default_factory=dict)
    crashes: tuple[str, ...] | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of crash that take turns."""
        each = (f"{KILL_SHARD} {index}" for index in range(self.shards))
        return self.crashes or (*each, FREEZE_SHARD, KILL_SUPERVISOR, KILL_ALL)


@dataclass
class Result:
    """What a soak showed; no faults and a verdict without faults: all promises were kept."""

    verdict: Verdict = field(default_factory=Verdict)
    faults: list[str] = field(default_factory=list)  # clients that failed or did not go on
    crashes: list[Crash] = field(default_factory=list)
    times: list[str] = field(default_factory=list)  # lines of the report

    @property
    def kept(self) -> bool:
        """Whether all promises were kept."""
        return not self.faults and not self.verdict.faults

    def report(self) -> str:
        """All of it in lines."""
        return "\n".join([*self.times, *self.faults, self.verdict.report()])


def run(options: Options, say: Callable[[str], None]) -> Result:
    """Run a soak; `say` is given a line for each step."""
    directory = options.directory
    broker = RunningBroker(directory / "data", directory / "broker.log", shards=options.shards)
    soak = Soak(options, broker.start(), say)
    try:
        soak.start_workers()
        soak.crash_in_turn()
        soak.finish()
    finally:
        broker.close()
    soak.check()
    return soak.result


class Soak:
    """One run; its methods are called in the order of `run`."""

    def __init__(self, options: Options, broker: RunningBroker, say: Callable[[str], None]) -> None:
        self.result = Result()
        self._options = options
        self._broker = broker
        self._say = say
        self._rng = random.Random(options.seed)
        self._started_s = time.monotonic()
        create_topic(broker, TOPIC, options.partitions, options.configs)
        connection = Connection(broker.address)
        led_by = leaders(connection, TOPIC)
        connection.close()
        self._shard_of = tuple(broker.addresses.index(address) for address in led_by)
        self._producers: list[Worker] = []
        self._consumers: list[Worker] = []
        self._last = ""  # the client that was the last to go on
        self._log: list[list[tuple[int, bytes]]] = []

    def _progress(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._started_s:7.2f} s  {text}")

    # -- the clients -----------------------------------------------------------------------

    def start_workers(self) -> None:
        """Start all clients; returns when each has got through to every shard."""
        works = [*PRODUCERS.items(), (PROBE, probe)]
        for writer, (client, work) in enumerate(works):
            rate = self._options.probe_per_s if client == PROBE else self._options.per_s
            worker = Worker(f"{client} producer", work, self._job(client, "acks", writer, rate))
            self._producers.append(worker)
        for client, work in CONSUMERS.items():
            if client == "kcat" and shutil.which("kcat") is None:
                self._progress("kcat is not installed: one consumer less")
                continue
            self._consumers.append(Worker(f"{client} consumer", work, self._job(client, "reads")))
        late = self._wait_for_all(0.0, range(self._options.shards), START_S_MAX)
        if late:
            self.result.faults.append(f"at the start nothing came through: {late}")
        self._progress(f"{len(self._producers)} producers and {len(self._consumers)} consumers run")

    def _job(self, client: str, kind: str, writer: int = 0, per_s: int = 0) -> Job:
        return Job(
            client,
            ",".join(self._broker.addresses),
            TOPIC,
            self._shard_of,
            self._options.directory / f"{client}.{kind}",
            writer,
            per_s,
            self._options.seed,
            self._options.flush_s_max,
        )

    def _wait_for_all(self, since_s: float, shards: Sequence[int], timeout_s: float) -> list[str]:
        """Wait until a record that was sent after `since_s` has come through every client on each
        of these shards; returns who has not got that far, `_last` is who was the last."""
        workers = [*self._producers, *self._consumers]
        late: list[str] = []
        last = ""

        def nobody_is_late() -> bool:
            nonlocal late, last
            late = [
                f"{worker.name} on shard {shard}"
                for worker in workers
                for shard in shards
                if worker.shared.reached[shard] <= since_s
            ]
            last = late[0] if late else last
            return not late or self._failed()

        try:
            wait_until(nobody_is_late, "all go on", timeout_s)
        except AssertionError:
            pass  # said by what is returned
        self._last = last
        return late

    def _failed(self) -> bool:
        return any(worker.ended for worker in (*self._producers, *self._consumers))

    # -- the crashes -----------------------------------------------------------------------

    def crash_in_turn(self) -> None:
        """Kill this and that until the time is over, each kind once at least."""
        kinds = self._options.kinds
        number = 0
        while not self.result.faults and not self._failed():
            over = time.monotonic() - self._started_s > self._options.seconds
            if over and number >= len(kinds):
                break
            kind = kinds[number % len(kinds)]
            number += 1
            self._pause(self._rng.uniform(*PAUSE_S))
            crash = self._crash(kind)
            self.result.crashes.append(crash)
            late = self._wait_for_all(crash.dead_s, crash.shards, self._options.go_on_s_max)
            all_s = time.monotonic() - crash.killed_s
            words = (
                f"not yet: {', '.join(late)}" if late else f"all clients go on, last {self._last}"
            )
            self._progress(f"#{number} {kind}; after {all_s:.2f} s {words}")
            if late:
                limit = f"within {self._options.go_on_s_max:g} s after #{number}, {kind}"
                self.result.faults.append(f"did not go on {limit}: {late}")

    def _pause(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        wait_until(lambda: self._failed() or time.monotonic() >= until_s, "a pause", seconds + 10)

    def _crash(self, kind: str) -> Crash:
        if kind.startswith(KILL_SHARD):
            return self._kill_shard(kind, int(kind.split()[-1]))
        if kind == FREEZE_SHARD:
            return self._freeze_shard(kind, self._rng.randrange(self._options.shards))
        every = tuple(range(self._options.shards))
        killed_s = time.monotonic()
        if kind == KILL_ALL:
            self._broker.kill()
        else:
            assert kind == KILL_SUPERVISOR
            self._broker.kill_supervisor()
        dead_s = time.monotonic()
        self._broker.start()
        return Crash(kind, every, killed_s, dead_s, time.monotonic())

    def _kill_shard(self, kind: str, shard: int) -> Crash:
        pid = self._broker.shard_pids[shard]
        killed_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        dead_s = time.monotonic()
        wait_until(lambda: self._broker.shard_pids[shard] != pid, f"{kind}: is back", START_S_MAX)
        return Crash(kind, (shard,), killed_s, dead_s, time.monotonic())

    def _freeze_shard(self, kind: str, shard: int) -> Crash:
        """Stop it for longer than clients wait for an answer: they ask again, on another
        connection, while the first request is still there to be read."""
        pid = self._broker.shard_pids[shard]
        killed_s = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        dead_s = time.monotonic()
        self._pause(FREEZE_S)
        os.kill(pid, signal.SIGCONT)
        return Crash(kind, (shard,), killed_s, dead_s, time.monotonic())

    # -- the end ---------------------------------------------------------------------------

    def finish(self) -> None:
        """End the load, read the log, let the consumers get to its end, stop the broker."""
        faults = self.result.faults
        for worker in self._producers:
            worker.shared.stop.set()
        for worker in self._producers:
            faults += worker.join(2 * self._options.flush_s_max + END_S_MAX)
        self._progress("all producers have ended")
        self._log = read_log(self._broker.address, TOPIC, self._options.partitions)
        for worker in self._consumers:
            for partition, records in enumerate(self._log):
                worker.shared.ends[partition] = records[-1][0] + 1 if records else 0
            worker.shared.stop.set()
        for worker in self._consumers:
            faults += worker.join(2 * self._options.flush_s_max + END_S_MAX)
        self._progress("all consumers have ended")
        self._broker.stop()
        for event in self._broker.log_events("error", "critical", "raw"):
            text = str(event.get("event", event.get("message", event)))
            if text not in EXPECTED_EVENTS:
                faults.append(f"the broker said: {event}")

    def check(self) -> None:
        """Compare what was promised and seen with the log."""
        partitions = self._options.partitions
        moments = [crash.killed_s for crash in self.result.crashes]
        acked: list[dict[int, tuple[int, int]]] = [{} for _ in range(partitions)]
        acks = {worker.job.client: list(worker.rows(ACK)) for worker in self._producers}
        for rows in acks.values():
            for partition, record, offset, _, acked_s in rows:
                cycle = sum(moment < acked_s for moment in moments)
                acked[partition][record] = (offset, cycle)
        self.result.verdict = verdict = check(acked, self._log)
        log = [
            {offset: decode_payload(value, partition) or 0 for offset, value in records}
            for partition, records in enumerate(self._log)
        ]
        for worker in self._consumers:
            seen: list[list[tuple[int, int]]] = [[] for _ in range(partitions)]
            for partition, offset, record in worker.rows(READ):
                seen[partition].append((offset, record))
            check_reader(verdict, worker.name, seen, log)
        self.result.times = report_times(acks, PROBE, self._shard_of, self.result.crashes)


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="default: 300")
    parser.add_argument("--shards", type=int, default=4, help="default: 4")
    parser.add_argument("--partitions", type=int, default=64, help="default: 64")
    parser.add_argument("--rate", type=int, default=400, help="records a second of each client")
    parser.add_argument("--seed", type=int, help="decides what is written and when it crashes")
    parser.add_argument("--directory", type=Path, help="parent of the data; kept after a fault")
    parser.add_argument("--keep", action="store_true", help="keep the data in any case")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    directory = Path(tempfile.mkdtemp(prefix="rpk-soak-", dir=options.directory))
    command = f"--seconds {options.seconds:g} --shards {options.shards} --seed {seed}"
    print(f"{command} in {directory}", flush=True)
    result = run(
        Options(
            options.seconds,
            options.shards,
            seed,
            directory,
            partitions=options.partitions,
            per_s=options.rate,
        ),
        lambda line: print(line, flush=True),
    )
    print(result.report())
    if not result.kept:
        print(f"NOT KEPT: {command}; all files are in {directory}")
        return 1
    if not options.keep:
        shutil.rmtree(directory)
    print("kept: nothing lost, doubled, moved, torn or out of order")
    return 0


if __name__ == "__main__":
    sys.exit(main())
