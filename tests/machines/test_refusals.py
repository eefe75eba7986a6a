"""Machines that refuse something: the broker starts, says what it does without, and keeps its word.

Each case takes one thing away, from Python (without.py) or in the kernel (refuse.py), and then does
what matters: acknowledged records are there after a kill -9. Where something cannot be done
without, the start ends with one line that says what.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.clients import via_kafka_python
from tests.clients.broker import ROOT, RunningBroker, wait_until
from tests.clients.records import numbered, plain
from tests.clients.topics import create_topic
from tests.machines.refuse import is_possible

RECORDS = 200
LACKS = (sys.executable, "-m", "tests.machines.without")
REFUSES = (sys.executable, "-m", "tests.machines.refuse")
RPK_PY = (sys.executable, "-m", "rpk_py")

BUFFERED = r"Direct I/O is not used"
NO_RING = r"io_uring is not used"
NOT_PINNED = r"shards are not pinned to cores because sched_setaffinity is refused"
SLOW_LOOP = r"the event loop is asyncio's and not uvloop because it cannot make a loop here"


@dataclass(frozen=True)
class Machine:
    """What it lacks, what the broker must say of it, and which disk the banner must name.

    lacks    names for without.py;  refuses  CALL=ERRNO for refuse.py
    says     a pattern for one warning; None: nothing is lost, so nothing may be said
    """

    name: str
    says: str | None
    disk: str
    lacks: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    pinned: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def command(self) -> tuple[str, ...]:
        """What stands before "start"."""
        if self.lacks:
            return (*LACKS, *self.lacks, "--")
        return (*REFUSES, *self.refuses, "--", *RPK_PY)


RING = r"io_uring \((liburing|built in)\), Direct I/O"
BUFFERED_DISK = r"(io_uring \((liburing|built in)\)|threads), buffered"
THREADS = {"io_backend": "threads"}
MACHINES = (
    Machine("lacks-O_DIRECT", BUFFERED, BUFFERED_DISK, lacks=("os.O_DIRECT",)),
    Machine("lacks-fdatasync", None, RING, lacks=("os.fdatasync",)),
    Machine("lacks-posix_fallocate", None, RING, lacks=("os.posix_fallocate",)),
    Machine("lacks-sched_setaffinity", "not pinned", RING, ("os.sched_setaffinity",), pinned=True),
    Machine("lacks-sched_getaffinity", "not pinned", RING, ("os.sched_getaffinity",), pinned=True),
    Machine("lacks-statx", None, RING, lacks=("ctypes.statx",)),
    Machine("lacks-RWF_DSYNC", None, "threads", ("os.RWF_DSYNC",), settings=THREADS),
    Machine("refuses-O_DIRECT", BUFFERED, BUFFERED_DISK, refuses=("O_DIRECT=EINVAL",)),
    Machine("refuses-sched_setaffinity", NOT_PINNED, RING, (), ("sched_setaffinity=EPERM",), True),
    Machine("refuses-eventfd", SLOW_LOOP, RING, refuses=("eventfd2=ENOSYS",)),
    Machine("lacks-eventfd", None, "threads", ("os.eventfd",), settings=THREADS),
    Machine("refuses-fallocate", None, RING, refuses=("fallocate=EOPNOTSUPP",)),
    Machine("has-no-fallocate", None, RING, refuses=("fallocate=ENOSYS",)),
    Machine("refuses-statx", None, RING, refuses=("statx=ENOSYS",)),
    Machine("refuses-io_uring", NO_RING, "threads, Direct I/O", refuses=("io_uring_setup=EPERM",)),
    Machine("has-no-io_uring", NO_RING, "threads, Direct I/O", refuses=("io_uring_setup=ENOSYS",)),
    Machine(
        "refuses-pwritev2",
        NO_RING,
        "threads, Direct I/O",
        refuses=("io_uring_setup=EPERM", "pwritev2=EOPNOTSUPP"),
    ),
    Machine(
        "refuses-all-of-it",
        NO_RING,
        "threads, buffered",
        refuses=(
            "io_uring_setup=EPERM",
            "O_DIRECT=EINVAL",
            "pwritev2=ENOSYS",
            "eventfd2=ENOSYS",
            "fallocate=ENOSYS",
            "statx=ENOSYS",
            "sched_setaffinity=EPERM",
        ),
        pinned=True,
    ),
)


@pytest.fixture(params=MACHINES, ids=lambda machine: machine.name)
def machine(request: pytest.FixtureRequest) -> Machine:
    """One of MACHINES, if this one can play it."""
    found: Machine = request.param
    if found.refuses and not is_possible():
        pytest.skip("the numbers of this architecture's system calls are not known")
    return found


@pytest.fixture
def broker(machine: Machine, tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker on that machine, started by the test."""
    running = RunningBroker(
        tmp_path / "data",
        tmp_path / "broker.log",
        machine.settings,
        pinned=machine.pinned,
        command=machine.command,
    )
    try:
        yield running
    finally:
        running.close()


def test_what_was_acknowledged_survives_a_kill_on_any_machine(
    machine: Machine, broker: RunningBroker
) -> None:
    broker.start()
    topic = create_topic(broker)
    records = plain(RECORDS)
    via_kafka_python.produce(broker, topic, records)
    broker.kill()
    broker.start()
    assert via_kafka_python.consume(broker, topic) == numbered(records)
    broker.stop()
    assert broker.log_events("error", "critical") == []


def test_what_a_machine_costs_is_said_once_at_the_start(
    machine: Machine, broker: RunningBroker
) -> None:
    broker.start()
    ready = wait_until(lambda: _banner(broker), "the banner")
    assert re.match(machine.disk, ready["disk"])
    assert ready["durability"] == "acknowledged means durable: on disk before the reply"
    # Whether a core is free depends on what else runs here, and costs another line.
    warnings = [
        str(event)
        for event in broker.log_events("warning")
        if "without a core of their own" not in str(event)
    ]
    if machine.says is None:
        assert warnings == []
    else:
        assert sum(bool(re.search(machine.says, warning)) for warning in warnings) == 1
    broker.stop()


def _banner(broker: RunningBroker) -> dict[str, Any] | None:
    """It comes a moment after the status file."""
    events = broker.log_events("info")
    return next((event for event in events if event["message"] == "rpk-py is ready"), None)


@pytest.mark.skipif(not is_possible(), reason="the numbers of system calls are not known")
def test_without_any_sync_the_start_is_refused_with_a_reason(tmp_path: Path) -> None:
    """SQLite has no other way to make a commit durable, and none may be pretended."""
    ended = subprocess.run(
        (*REFUSES, "fdatasync=ENOSYS", "--", *RPK_PY, "start", "--data-dir", tmp_path / "data"),
        env=os.environ | {"RPK_KAFKA_PORT": "0", "RPK_ADMIN_PORT": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert re.fullmatch(
        r"rpk-py: cannot open .*metadata\.db: .*SQLITE_IOERR_FSYNC.*\n", ended.stderr
    )
