"""The load itself: who joins, leaves, dies or freezes when, and which shard is killed.

The seed decides the schedule. A step is the next thing that happens to one member; each group keeps
two members at least, so that there is always somebody to take over. Shards are killed with -9 in
turn. At the end everybody is started again, the producer stops, and then within a bounded time
every partition must have one owner in every group, stay with it, and have no lag.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.clients.broker import RunningBroker, wait_until
from tests.groups_load import history
from tests.groups_load.members import CLIENTS, MEMBERS, SESSION_MS, Job, Process, produce

TOPIC = "load"
MEMBERS_MIN = 2  # of a group, that are left alone
FREEZE_S = SESSION_MS / 1000 + 2  # longer than a session
END_S_MAX = 60.0  # for a process that was asked to end
QUIET_S = 3.0  # without an assignment: the rebalances have settled
START_S_MAX = 60.0
PROGRESS_S = 10.0
# What the broker is expected to say of a shard that was killed, and nothing else.
EXPECTED_EVENTS = {"a shard died and is started again"}
BROKER_SETTINGS = {
    "group_consumer_session_timeout_ms": SESSION_MS,
    "group_consumer_heartbeat_interval_ms": 1000,
}


@dataclass(frozen=True)
class Options:
    """What a load is. Shapes: brokers  of a cluster that runs already: no shard is killed."""

    seconds: float
    seed: int
    directory: Path
    members: int = 20  # of all groups together
    partitions: int = 12
    shards: int = 2
    per_s: int = 4000  # records
    step_s: float = 1.5  # between two steps, on average
    shard_kill_s: float = 20.0  # between two kills of a shard; 0: none
    settle_s_max: float = 60.0
    clients: tuple[str, ...] = CLIENTS
    brokers: str = ""


@dataclass
class Result:
    """What a load showed; without faults all promises were kept."""

    written: int = 0
    events: Counter[str] = field(default_factory=Counter)
    shard_back_s: list[float] = field(default_factory=list)
    settled_s: float = 0.0  # from the last step to quiet groups without lag
    groups: dict[str, history.GroupVerdict] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def all_faults(self) -> list[str]:
        """Of the load and of all groups."""
        return self.faults + [
            f"{name}: {fault}" for name, group in self.groups.items() for fault in group.faults
        ]

    def report(self) -> dict[str, Any]:
        """All of it, for JSON."""
        figures = {
            name: {key: value for key, value in asdict(group).items() if key != "faults"}
            for name, group in self.groups.items()
        }
        return {
            "kept": not self.all_faults,
            "written": self.written,
            "processed": sum(group.records for group in self.groups.values()),
            "events": dict(self.events),
            "shard_back_s": [round(seconds, 3) for seconds in self.shard_back_s],
            "settled_s": round(self.settled_s, 3),
            "groups": figures,
            "faults": self.all_faults,
        }


def run(options: Options, say: Callable[[str], None]) -> Result:
    """Run a load; `say` is given a line for each step."""
    if options.brokers:
        load = Load(options, options.brokers, None, say)
        load.run()
        return load.result
    broker = RunningBroker(
        options.directory / "data",
        options.directory / "broker.log",
        settings=BROKER_SETTINGS,
        shards=options.shards,
    )
    try:
        load = Load(options, ",".join(broker.start().addresses), broker, say)
        load.run()
        broker.stop()
    finally:
        broker.close()
    for event in broker.log_events("error", "critical", "raw"):
        if event["message"] not in EXPECTED_EVENTS:
            load.result.faults.append(f"the broker said: {event}")
    return load.result


class Load:
    """One run."""

    def __init__(
        self,
        options: Options,
        servers: str,
        broker: RunningBroker | None,
        say: Callable[[str], None],
    ) -> None:
        self.result = Result()
        self._options = options
        self._servers = servers
        self._broker = broker
        self._say_line = say
        self._rng = random.Random(options.seed)
        self._started_s = time.monotonic()
        self._topic = f"{TOPIC}-{options.seed}"
        self._admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        self._slots = [
            (options.clients[index % len(options.clients)], index // len(options.clients))
            for index in range(options.members)
        ]
        self._lives: Counter[tuple[str, int]] = Counter()
        self._running: dict[tuple[str, int], Process] = {}
        self._frozen: dict[tuple[str, int], float] = {}  # until when
        self._ending: list[tuple[Process, float]] = []  # and by when they must have ended
        self._producer: Process | None = None
        self._last_step_s = 0.0
        self._written: dict[int, int] = {}
        self._shard = 0
        self._shard_killed: tuple[float, int] | None = None  # when, and its process id

    def _say(self, text: str) -> None:
        self._say_line(f"{time.monotonic() - self._started_s:7.2f} s  {text}")

    def _group(self, client: str) -> str:
        return f"{client}-{self._options.seed}"

    def _job(self, client: str, name: str) -> Job:
        where = self._options.directory / f"{name}.life"
        partitions, per_s = self._options.partitions, self._options.per_s
        return Job(
            client, self._servers, self._topic, self._group(client), where, partitions, per_s
        )

    # -- the run ---------------------------------------------------------------------------

    def run(self) -> None:
        """All of it, and the verdict."""
        topic = NewTopic(self._topic, self._options.partitions, 1)
        self._admin.create_topics([topic])[self._topic].result(timeout=START_S_MAX)
        self._producer = Process(produce, self._job("producer", "producer"))
        try:
            for slot in self._slots:
                self._start(slot)
            self._disturb()
            self._start_all()
            self._finish()
        finally:
            for process in [*self._running.values(), *(one for one, _ in self._ending)]:
                process.kill()
            if self._producer is not None:
                self._producer.kill()
        self._judge()

    def _disturb(self) -> None:
        options = self._options
        end_s = self._started_s + options.seconds
        step_s = time.monotonic() + options.step_s
        kill_s = time.monotonic() + options.shard_kill_s
        progress_s = time.monotonic() + PROGRESS_S
        while (now_s := time.monotonic()) < end_s and not self.result.faults:
            if now_s >= step_s:
                self._step()
                step_s = now_s + options.step_s * self._rng.uniform(0.5, 1.5)
            if self._broker is not None and options.shard_kill_s and now_s >= kill_s:
                self._kill_shard()
                kill_s = now_s + options.shard_kill_s
            if now_s >= progress_s:
                self._say(f"{len(self._running)} members run, {dict(self.result.events)}")
                progress_s = now_s + PROGRESS_S
            self._look(now_s)
            time.sleep(0.02)

    def _look(self, now_s: float) -> None:
        """Thaw who was frozen long enough; note who ended, and the shard that is back."""
        for slot in [slot for slot, until_s in self._frozen.items() if until_s <= now_s]:
            self._thaw(slot)
        for slot, process in list(self._running.items()):
            if not process.runs:
                del self._running[slot]
                self._failed(process, f"ended by itself with {process.exit_code}")
        for process, deadline_s in list(self._ending):
            if not process.runs:
                self._ending.remove((process, deadline_s))
                if process.exit_code:
                    self._failed(process, f"ended with {process.exit_code}")
            elif now_s > deadline_s:
                self._ending.remove((process, deadline_s))
                process.kill()
                self._failed(process, f"did not leave within {END_S_MAX:g} s")
        if self._producer is not None and not self._producer.runs:
            self._failed(self._producer, f"ended by itself with {self._producer.exit_code}")
            self._producer = None
        self._look_for_shard(now_s)

    def _look_for_shard(self, now_s: float) -> None:
        if self._shard_killed is None or self._broker is None:
            return
        killed_s, pid = self._shard_killed
        if pid not in self._broker.shard_pids:
            self.result.shard_back_s.append(now_s - killed_s)
            self._shard_killed = None
        elif now_s > killed_s + START_S_MAX:
            self.result.faults.append(f"the shard of process {pid} is not back")
            self._shard_killed = None

    def _failed(self, process: Process, what: str) -> None:
        log = process.job.account.with_suffix(".log")
        self.result.faults.append(f"{process.name} {what}: {log.read_text()[-1000:]}")

    # -- steps -----------------------------------------------------------------------------

    def _step(self) -> None:
        slot = self._rng.choice(self._slots)
        action = self._rng.choice(("kill", "kill", "leave", "leave", "freeze"))
        if slot in self._frozen:
            return
        if slot not in self._running:
            self._start(slot)
            return
        awake = sum(
            client == slot[0] and (client, index) not in self._frozen
            for client, index in self._running
        )
        if awake <= MEMBERS_MIN:
            return
        process = self._running[slot]
        self.result.events[action] += 1
        self._say(f"{action} {process.name}")
        if action == "freeze":
            os.kill(process.pid, signal.SIGSTOP)
            self._frozen[slot] = time.monotonic() + FREEZE_S
            return
        del self._running[slot]
        self._ending.append((process, time.monotonic() + END_S_MAX))
        if action == "leave":
            process.stop.set()
            return
        process.kill()
        process.join(END_S_MAX)
        self._ending.pop()

    def _start(self, slot: tuple[str, int]) -> None:
        client, index = slot
        self._lives[slot] += 1
        self.result.events["start"] += 1
        name = f"{client}-{index}-{self._lives[slot]}"
        self._running[slot] = Process(MEMBERS[client], self._job(client, name))

    def _thaw(self, slot: tuple[str, int]) -> None:
        del self._frozen[slot]
        if slot in self._running:
            os.kill(self._running[slot].pid, signal.SIGCONT)

    def _kill_shard(self) -> None:
        assert self._broker is not None
        if self._shard_killed is not None:
            return
        pid = self._broker.shard_pids[self._shard]
        self._say(f"kill -9 of shard {self._shard}")
        self.result.events["kill of a shard"] += 1
        self._shard_killed = (time.monotonic(), pid)
        os.kill(pid, signal.SIGKILL)
        self._shard = (self._shard + 1) % self._options.shards

    # -- the end ---------------------------------------------------------------------------

    def _start_all(self) -> None:
        self._last_step_s = time.monotonic()
        for slot in list(self._frozen):
            self._thaw(slot)
        for slot in self._slots:
            if slot not in self._running:
                self._start(slot)
        self._say("everybody is started, nobody is disturbed any more")

    def _finish(self) -> None:
        producer = self._producer
        if producer is None or self.result.faults:
            return
        producer.stop.set()
        if producer.join(END_S_MAX + START_S_MAX):
            self._failed(producer, f"ended with {producer.exit_code}")
            return
        self._producer = None
        counts = map(int, producer.job.account.read_text().split())
        self._written = dict(enumerate(counts))
        self.result.written = sum(self._written.values())
        self._say(f"{self.result.written} records are written")
        open_questions: list[str] = ["nobody asked yet"]

        def settled() -> bool:
            nonlocal open_questions
            self._look(time.monotonic())
            open_questions = self._unsettled() or self._lag()
            return not open_questions or bool(self.result.faults)

        try:
            wait_until(settled, "settled", self._options.settle_s_max)
        except AssertionError:
            limit = f"not settled after {self._options.settle_s_max:g} s"
            self.result.faults += [f"{limit}: {one}" for one in open_questions]
        self.result.settled_s = time.monotonic() - self._last_step_s
        for process in self._running.values():
            process.stop.set()
        for process in self._running.values():
            if process.join(END_S_MAX) != 0:
                self._failed(process, f"ended with {process.exit_code}")
        self._say(f"settled after {self.result.settled_s:.1f} s")

    def _unsettled(self) -> list[str]:
        """What keeps the groups from being settled: partitions without one owner, or news."""
        found = []
        quiet_since_ns = time.monotonic_ns() - int(QUIET_S * 1e9)
        for client in self._options.clients:
            members = [
                history.load(process.job.account)
                for (of, _), process in self._running.items()
                if of == client
            ]
            found += [
                f"{client}: {text}"
                for text in history.check_settled(members, self._options.partitions)
            ]
            latest_ns = max((max(m.assigned_ns, default=0) for m in members), default=0)
            if latest_ns > quiet_since_ns:
                found.append(f"{client}: assigned less than {QUIET_S:g} s ago")
        return found

    def _lag(self) -> list[str]:
        """Partitions whose committed offset is not their end."""
        found = []
        wanted = [TopicPartition(self._topic, index) for index in self._written]
        for client in self._options.clients:
            name = self._group(client)
            asked = self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(name, wanted)]
            )
            for one in asked[name].result(timeout=START_S_MAX).topic_partitions:
                if one.error is not None or one.offset != self._written[one.partition]:
                    end = self._written[one.partition]
                    found.append(f"{client}: {one.partition} at {one.offset} of {end} {one.error}")
        return found

    def _judge(self) -> None:
        if not self.result.written:
            return
        for client in self._options.clients:
            lives = sorted(self._options.directory.glob(f"{client}-[0-9]*.life"))
            members = [history.load(path) for path in lives]
            self.result.groups[client] = history.check_group(members, self._written)
