"""The supervisor as a real process with fake shards: death, signals, locks and ports."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = Path(__file__).with_name("fake_broker.py")
DEADLINE_S = 20.0
REQUEST_TIMED_OUT = int(ErrorCode.REQUEST_TIMED_OUT)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Poll a condition of another process; its value once it is true."""
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    pytest.fail(f"{what} did not happen within {DEADLINE_S} s")


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


class Broker:
    """One supervisor process with fake shards."""

    def __init__(self, data_dir: Path, **options: Any) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(exist_ok=True)
        self._stderr = open(data_dir.parent / f"{data_dir.name}.log", "ab+")  # noqa: SIM115
        self._log_start = self._stderr.seek(0, os.SEEK_END)
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(data_dir), json.dumps(options)],
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    @property
    def log(self) -> str:
        return Path(self._stderr.name).read_text()[self._log_start :]

    def ready(self) -> dict[str, Any]:
        """Wait for broker.json and return it."""
        file = self.data_dir / "broker.json"

        def written() -> dict[str, Any] | None:
            if self.process.poll() is not None:
                pytest.fail(f"the broker ended: {self.log}")
            try:
                found = json.loads(file.read_text())
            except FileNotFoundError:  # not there yet, or an earlier broker's, which goes first
                return None
            return found if found["pid"] == self.process.pid else None

        result: dict[str, Any] = until(written, "broker.json")
        return result

    def ask(self, *command: Any, shard: int = 0) -> Any:
        """Send one command to a fake shard."""
        host, port = self.ready()["kafka_addrs"][shard].split(":")
        with socket.create_connection((host, int(port)), DEADLINE_S) as connection:
            connection.sendall(json.dumps(command).encode() + b"\n")
            line = connection.makefile().readline()
        return json.loads(line) if line else None

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def ended(self) -> int:
        """Wait for it to end by itself; the exit code."""
        return self.process.wait(DEADLINE_S)

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_S)
        self._stderr.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    brokers: list[Broker] = []

    def make(data_dir: Path | None = None, **options: Any) -> Broker:
        broker = Broker(data_dir or tmp_path / "data", **options)
        brokers.append(broker)
        return broker

    yield make
    for broker in brokers:
        broker.clean_up()


Start = Callable[..., Broker]


def test_a_ready_broker_names_its_addresses_and_processes(start: Start) -> None:
    broker = start(smp="2")
    status = broker.ready()
    assert status["pid"] == broker.process.pid
    assert len(status["shards"]) == 2
    assert status["kafka_addr"] == status["kafka_addrs"][0]
    for shard in (0, 1):
        seen = broker.ask("process", shard=shard)
        assert seen["pid"] == status["shards"][shard]
        assert seen["parent"] == broker.process.pid
        assert seen["node_id"] == shard


def test_metadata_names_the_real_ports_and_no_host_unless_one_is_advertised(start: Start) -> None:
    broker = start(smp="2")
    ports = [int(addr.rpartition(":")[2]) for addr in broker.ready()["kafka_addrs"]]
    rack = socket.gethostname()
    assert broker.ask("nodes") == [[0, None, ports[0], rack], [1, None, ports[1], rack]]


def test_an_advertised_address_counts_up_with_the_shards(start: Start) -> None:
    broker = start(smp="2", advertise_kafka_addr="broker.example:7000", settings=["rack=r1"])
    expected = [[0, "broker.example", 7000, "r1"], [1, "broker.example", 7001, "r1"]]
    assert broker.ask("nodes", shard=1) == expected


def test_a_shard_holds_only_its_own_descriptors(start: Start) -> None:
    broker = start(smp="2")
    fds = list(broker.ask("process", shard=1)["fds"].values())
    assert sum(path.endswith("/.lock") for path in fds) == 1
    assert not [path for path in fds if "metadata.db" in path]
    # its listener, its control socket, this test's connection, and the pair of its own loop
    assert sum(path.startswith("socket:") for path in fds) == 5


def test_an_overprovisioned_shard_may_run_on_every_core(start: Start) -> None:
    usable = sorted(os.sched_getaffinity(0))
    assert start().ask("process")["cores"] == usable


def test_a_pinned_shard_runs_on_one_core(start: Start) -> None:
    broker = start(overprovisioned=False)
    cores = broker.ask("process")["cores"]
    if "run without a core of their own" in broker.log:
        pytest.skip("other brokers on this machine have claimed all cores")
    assert len(cores) == 1


def test_a_dead_shard_is_started_again_with_the_next_leader_epoch(start: Start) -> None:
    broker = start(smp="2")
    assert broker.ask("create", "t", 2)[0][0] == 0
    before = broker.ready()["shards"]
    os.kill(before[1], signal.SIGKILL)
    until(lambda: broker.ready()["shards"][-1] != before[1], "a new shard")
    assert broker.ready()["shards"][0] == before[0]
    expected = {"t": [[0, 0], [1, 1]]}
    assert broker.ask("topics", shard=1) == expected
    until(lambda: broker.ask("topics", shard=0) == expected, "the delta")
    assert broker.ask("create", "after", 1, shard=1)[0][0] == 0
    assert "signal 9" in broker.log


def test_a_shard_that_keeps_dying_is_started_with_growing_delays(start: Start) -> None:
    broker = start()
    broker.ready()
    (broker.data_dir / "shard-crashes").touch()
    broker.ask("exit", 3)

    def delays() -> list[float]:
        events = [json.loads(line) for line in broker.log.splitlines() if "delay_s" in line]
        return [event["delay_s"] for event in events]

    until(lambda: len(delays()) >= 3, "three restarts")
    assert delays()[:3] == [0.0, 0.1, 0.2]
    assert "crashed as asked" in broker.log
    (broker.data_dir / "shard-crashes").unlink()
    until(lambda: broker.log.count("a shard is ready") == 1, "the shard being ready again")
    assert broker.ask("topics") == {}


def status(broker: Broker, shard: int | None = None) -> dict[str, Any]:
    """What GET /v1/status/ready says, of all or of one shard."""
    url = f"http://{broker.ready()['admin_addr']}/v1/status/ready"
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            body = json.load(answer)
    except urllib.error.HTTPError as answer:  # 503: not ready
        body = json.load(answer)
    found: dict[str, Any] = body if shard is None else body["shards"][shard]
    return found


def node_ids(broker: Broker, shard: int = 0) -> list[int]:
    return [node[0] for node in broker.ask("nodes", shard=shard)]


def test_a_shard_that_cannot_start_is_left_out_of_the_metadata_until_it_does(start: Start) -> None:
    broker = start(smp="2", settings=["restart_backoff_s_max=0.2"])
    broker.ask("create", "t", 2)
    (broker.data_dir / "shard-crashes").touch()
    os.kill(broker.ready()["shards"][1], signal.SIGKILL)
    until(lambda: node_ids(broker) == [0], "the shard being left out")
    assert broker.ask("topics")["t"][1][0] == 1  # it keeps its partitions
    assert broker.ask("create", "u", 3)[0][0] == 0
    assert [leader for leader, _ in broker.ask("topics")["u"]] == [0, 0, 0]
    seen = status(broker, 1)
    assert seen["in_metadata"] is False
    assert seen["ended_by"] in ("signal 9", "exit code 70")
    assert status(broker, 0)["status"] == "ready"
    assert status(broker)["status"] == "degraded"
    assert "a shard does not serve" in broker.log
    (broker.data_dir / "shard-crashes").unlink()
    until(lambda: node_ids(broker) == [0, 1], "the shard being back")
    assert broker.ask("topics", shard=1) == broker.ask("topics")
    assert broker.ask("topics")["t"][0] == [0, 0]
    assert broker.ask("topics")["t"][1][0] == 1
    assert status(broker, 1)["in_metadata"] is True


def test_a_shard_that_keeps_dying_does_not_spin(start: Start) -> None:
    broker = start(settings=["restart_backoff_s=0.05", "restart_backoff_s_max=0.2"])
    broker.ready()
    (broker.data_dir / "shard-crashes").touch()
    begun_s = time.monotonic()
    broker.ask("exit", 3)
    until(lambda: broker.log.count("a shard died") >= 6, "six deaths")
    # after the first two at once and 0.05 s: 0.1, 0.2, 0.2
    assert time.monotonic() - begun_s > 0.5


def test_a_shard_that_recovers_holds_up_no_creation_and_knows_it_when_it_serves(
    start: Start,
) -> None:
    broker = start(smp="2", settings=["restart_backoff_s_max=60"])  # never left out
    before = broker.ready()["shards"][1]
    (broker.data_dir / "shard-recovers").touch()
    os.kill(before, signal.SIGKILL)
    until(lambda: status(broker, 1)["status"] == "recovering", "the recovery")
    for name in ("a", "b"):
        assert broker.ask("create", name, 2)[0][0] == 0
    assert status(broker, 1)["status"] == "recovering"
    (broker.data_dir / "shard-recovers").unlink()
    until(lambda: broker.ready()["shards"][-1] != before, "a new shard")
    assert broker.ask("topics", shard=1) == {"a": [[0, 0], [1, 0]], "b": [[0, 0], [1, 0]]}


def test_while_the_supervisor_is_stopped_shards_serve_and_its_answers_time_out(
    start: Start,
) -> None:
    broker = start(smp="2")
    broker.ask("create", "t", 2)
    broker.ready()
    broker.process.send_signal(signal.SIGSTOP)
    try:
        for shard in (0, 1):
            assert list(broker.ask("topics", shard=shard)) == ["t"]
            assert broker.ask("create", "later", 1, 50, shard=shard)[0][0] == REQUEST_TIMED_OUT
    finally:
        broker.process.send_signal(signal.SIGCONT)
    assert broker.ask("create", "now", 1)[0][0] == 0
    for shard in (0, 1):
        assert list(broker.ask("topics", shard=shard)) == ["t", "now"]  # nobody waits for "later"


def test_a_shard_that_hangs_while_changes_wait_for_it_is_killed_and_started_again(
    start: Start,
) -> None:
    broker = start(smp="2", settings=["shard_silent_s_max=0.2"])
    hung = broker.ready()["shards"][1]
    os.kill(hung, signal.SIGSTOP)
    # It is answered by the death of the shard, and not at the timeout of the request.
    begun_s = time.monotonic()
    assert broker.ask("create", "t", 2, 60_000)[0][0] == 0
    assert time.monotonic() - begun_s < DEADLINE_S
    until(lambda: broker.ready()["shards"][1] != hung, "a new shard")
    assert broker.ask("topics", shard=1) == broker.ask("topics")
    assert "a shard hangs: it is killed" in broker.log
    url = f"http://{broker.ready()['admin_addr']}/metrics"
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
        assert b'rpk_shard_hung_total{shard="1"} 1' in answer.read()


def test_a_shard_that_hangs_and_owes_nothing_is_left_alone(start: Start) -> None:
    broker = start(smp="2", settings=["shard_silent_s_max=0.1"])
    before = broker.ready()["shards"]
    os.kill(before[1], signal.SIGSTOP)
    for _ in range(20):  # at shard 0, which answers all the while
        assert broker.ask("topics") == {}
        time.sleep(0.02)
    os.kill(before[1], signal.SIGCONT)
    assert broker.ask("topics", shard=1) == {}
    assert broker.ready()["shards"] == before


def test_a_shard_that_recovers_for_long_is_not_taken_for_one_that_hangs(start: Start) -> None:
    broker = start(settings=["shard_silent_s_max=0.1"])
    before = broker.ready()["shards"][0]
    (broker.data_dir / "shard-recovers").touch()
    os.kill(before, signal.SIGKILL)
    until(lambda: status(broker, 0)["status"] == "recovering", "the recovery")
    pid = status(broker, 0)["pid"]
    begun_s = time.monotonic()
    until(lambda: time.monotonic() - begun_s > 0.5, "five times what silence may last")
    assert status(broker, 0)["pid"] == pid
    (broker.data_dir / "shard-recovers").unlink()
    assert broker.ask("topics") == {}
    assert "hangs" not in broker.log


def test_in_a_stop_nobody_waits_for_a_shard_that_has_ended(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shard-ignores-stop").touch()
    broker = start(smp="2")
    other = broker.ready()["shards"][1]
    (broker.data_dir / "shard-ignores-stop").unlink()
    os.kill(other, signal.SIGKILL)  # its next life stops when it is told
    until(lambda: broker.ready()["shards"][1] != other, "a new shard")
    other = broker.ready()["shards"][1]
    broker.process.send_signal(signal.SIGTERM)
    until(lambda: not alive(other), "the end of one shard")
    begun_s = time.monotonic()
    assert broker.ask("create", "t", 2, 60_000)[0][0] == 0
    assert time.monotonic() - begun_s < DEADLINE_S
    assert broker.end() == 1  # at once: the other one does not stop


def test_a_stop_while_a_shard_is_started_again_makes_no_noise(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shard-ignores-stop").touch()  # so the stop takes longer than the delay
    broker = start(smp="2", settings=["restart_backoff_s=0.3", "shutdown_timeout_s=0.8"])
    broker.ready()
    (broker.data_dir / "shard-crashes").touch()
    broker.ask("exit", 3, shard=1)
    until(lambda: '"delay_s": 0.3' in broker.log, "a delay before the next start")
    assert broker.end() == 1
    after = broker.log.partition('"stopping"')[2]
    assert after.count('"level": "error"') == 1
    assert "did not stop in time" in after


def test_metadata_that_no_shard_can_be_sent_refuses_the_start(start: Start) -> None:
    broker = start(settings=["partitions_max=100000"])
    for name in "abcdefg":
        assert broker.ask("create", name, 10_000)[0][0] == 0
    assert broker.end() == 0
    refused = start(settings=["control_frame_bytes_max=1048576"])
    assert refused.ended() == 1
    (line,) = refused.log.splitlines()
    assert "the metadata takes" in line
    assert "control_frame_bytes_max is 1048576 (set it to" in line


def test_a_status_file_that_cannot_be_removed_is_one_clear_line(start: Start) -> None:
    broker = start()
    status_file = Path(broker.data_dir) / "broker.json"
    broker.ready()
    status_file.unlink()
    status_file.mkdir()
    assert broker.end() == 0
    assert "cannot remove broker.json" in broker.log
    assert "Traceback" not in broker.log
    refused = start()
    assert refused.ended() == 1
    (line,) = refused.log.splitlines()
    assert f"cannot remove {status_file}" in line


def test_retired_segments_of_shards_that_are_no_more_are_deleted(start: Start) -> None:
    broker = start(smp="2")
    broker.ready()
    broker.end()
    for node_id in (0, 1, 5):
        (broker.data_dir / "recycle" / str(node_id)).mkdir(parents=True)
        (broker.data_dir / "recycle" / str(node_id) / "0000000001.retired").touch()
    start().ready()
    left = [path.relative_to(broker.data_dir) for path in broker.data_dir.glob("recycle/*/*")]
    assert left == [Path("recycle/0/0000000001.retired")]


def test_clients_wait_in_the_backlog_while_their_shard_is_away(start: Start) -> None:
    broker = start()
    host, port = broker.ready()["kafka_addr"].split(":")
    os.kill(broker.ready()["shards"][0], signal.SIGKILL)
    with socket.create_connection((host, int(port)), DEADLINE_S) as connection:
        connection.sendall(b'["topics"]\n')
        assert connection.makefile().readline() == "{}\n"


def test_a_shard_that_says_it_cannot_run_ends_the_broker(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shard-is-fatal").touch()
    broker = start()
    assert broker.ended() == 1
    assert "a shard cannot run" in broker.log


def test_shards_do_not_outlive_a_killed_supervisor(start: Start) -> None:
    broker = start(smp="2")
    shards = broker.ready()["shards"]
    broker.end(signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in shards), "the end of the shards")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_gracefully(start: Start, number: signal.Signals) -> None:
    broker = start(smp="2")
    shards = broker.ready()["shards"]
    assert broker.end(number) == 0
    assert not any(alive(pid) for pid in shards)
    assert not (broker.data_dir / "broker.json").exists()
    assert "Traceback" not in broker.log


def test_a_signal_to_the_whole_group_still_stops_gracefully(start: Start) -> None:
    broker = start()
    (shard,) = broker.ready()["shards"]
    os.kill(shard, signal.SIGTERM)  # as an init system does, before or after the supervisor
    os.kill(shard, signal.SIGINT)
    assert broker.ask("topics") == {}
    assert broker.end() == 0


def test_a_shard_that_does_not_stop_in_time_is_killed(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shard-ignores-stop").touch()
    broker = start(settings=["shutdown_timeout_s=0.2"])
    shards = broker.ready()["shards"]
    assert broker.end() == 1
    assert "did not stop in time" in broker.log
    assert not any(alive(pid) for pid in shards)


def test_a_second_signal_stops_at_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shard-ignores-stop").touch()
    broker = start()
    broker.ready()
    broker.process.send_signal(signal.SIGTERM)
    until(lambda: '"stopping"' in broker.log, "the graceful stop")
    assert broker.end(signal.SIGINT) == 1


def test_topics_survive_a_restart_with_their_ids_and_the_next_leader_epoch(start: Start) -> None:
    broker = start()
    ((code, topic_id),) = broker.ask("create", "t", 2)
    assert code == 0
    assert topic_id != "0" * 32
    assert broker.end() == 0
    again = start()
    assert again.ask("topics") == {"t": [[0, 1], [0, 1]]}
    assert again.ask("create", "t", 1)[0][0] == 36


def test_topics_survive_a_killed_supervisor_and_an_immediate_restart(start: Start) -> None:
    broker = start(smp="2")
    broker.ask("create", "t", 2)
    broker.end(signal.SIGKILL)
    assert start(smp="2").ask("topics", shard=1) == {"t": [[0, 1], [1, 1]]}


def test_partitions_follow_the_number_of_shards(start: Start) -> None:
    broker = start(smp="2")
    broker.ask("create", "t", 2)
    broker.end()
    fewer = start()
    assert fewer.ask("topics") == {"t": [[0, 1], [0, 1]]}
    fewer.end()
    assert start(smp="2").ask("topics", shard=1) == {"t": [[0, 2], [1, 2]]}


def test_partitions_without_their_metadata_are_not_started_over(
    start: Start, tmp_path: Path
) -> None:
    broker = start()
    broker.ask("create", "kept", 1)
    assert broker.end() == 0
    metadata = (broker.data_dir / "metadata.db").read_bytes()
    (broker.data_dir / "metadata.db").unlink()
    for name in ("kept-0", "kept-1"):
        (broker.data_dir / name).mkdir()
        (broker.data_dir / name / "00000000000000000000.wal").touch()
    for _ in range(2):
        refused = start()
        assert refused.ended() == 1
        assert "metadata.db is missing or was replaced" in refused.log
        assert "2 partition directories here, like kept-0 (restore it" in refused.log
        assert refused.log.count("\n") == 1
    (broker.data_dir / "metadata.db").write_bytes(metadata)
    assert start().ask("topics") == {"kept": [[0, 1]]}


def test_old_files_that_are_no_partitions_do_not_stop_a_first_start(
    start: Start, tmp_path: Path
) -> None:
    for name in ("recycle/0", "trash/old-1", "notes-1", "lost+found"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data" / "recycle" / "0" / "1.wal").touch()
    (tmp_path / "data" / "trash" / "old-1" / "1.wal").touch()
    (tmp_path / "data" / "notes-2").touch()
    assert start().ask("topics") == {}


def test_a_second_broker_on_the_same_directory_is_refused_in_one_line(start: Start) -> None:
    first = start()
    first.ready()
    second = start()
    assert second.ended() == 1
    (line,) = second.log.splitlines()
    assert f"is in use by another rpk-py, pid {first.process.pid}" in line
    assert first.ask("topics") == {}
    assert first.ready()["pid"] == first.process.pid


def test_a_lock_that_a_dead_broker_left_behind_is_waited_for(start: Start) -> None:
    first = start()
    (shard,) = first.ready()["shards"]
    # This lock stands for writes in flight: it outlives the broker.
    lock = os.open(first.data_dir / ".lock", os.O_RDWR)
    first.end(signal.SIGKILL)
    until(lambda: not alive(shard), "the end of the shard")
    fcntl.flock(lock, fcntl.LOCK_EX)
    second = start()
    until(lambda: "waiting up to" in second.log, "the wait")
    assert second.process.poll() is None
    os.close(lock)
    second.ready()


def test_a_lock_that_is_never_released_ends_the_wait_with_one_line(start: Start) -> None:
    first = start()
    first.ready()
    first.end()
    lock = os.open(first.data_dir / ".lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    second = start(settings=["lock_wait_s=0.1"])
    assert second.ended() == 1
    assert "still locked after 0.1 s" in second.log.splitlines()[-1]
    os.close(lock)


@pytest.mark.parametrize("option", ["kafka_addr", "admin_addr"])
def test_a_port_in_use_is_named_with_its_owner(start: Start, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        broker = start(**{option: f"127.0.0.1:{port}"})
        assert broker.ended() == 1
    (line,) = broker.log.splitlines()
    assert f"127.0.0.1:{port} is already in use by pid {os.getpid()}" in line
    assert f"--{option.replace('_', '-')}" in line


@pytest.mark.parametrize(
    ("addr", "says"),
    [("no-such-host.invalid:1", "cannot resolve"), ("192.0.2.1:1", "cannot listen on 192.0.2.1:1")],
)
def test_an_address_that_is_not_ours_is_one_clear_line(start: Start, addr: str, says: str) -> None:
    broker = start(kafka_addr=addr)
    assert broker.ended() == 1
    (line,) = broker.log.splitlines()
    assert says in line


def test_a_data_directory_that_is_a_file_is_one_clear_line(tmp_path: Path, start: Start) -> None:
    broker = start()
    broker.ready()
    broker.end()
    path = broker.data_dir / "metadata.db" / "below"
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(path), "{}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=DEADLINE_S,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("rpk-py: cannot create the data directory")
    assert result.stderr.count("\n") == 1
