"""`rpk-py run`: the command's exit code, its environment, its signals, and that nothing is left."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.clients.broker import ROOT, free_ports, runs, wait_until

RUN = [sys.executable, "-m", "rpk_py", "run"]
TIMEOUT_S = 60.0


@pytest.fixture
def tmpdir_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs of this test have their temporary directories; empty again at its end."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return directory


@pytest.fixture(autouse=True)
def nothing_is_left(tmpdir_of_runs: Path) -> Iterator[None]:
    """After every test of this file."""
    yield
    wait_until(lambda: not list(tmpdir_of_runs.iterdir()), "the temporary directories are gone")


def completed(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A run that ended by itself."""
    return subprocess.run(
        [*RUN, *arguments], input=stdin, capture_output=True, timeout=TIMEOUT_S, check=False
    )


def python(source: str, *arguments: str) -> list[str]:
    """A command that runs a few lines of Python."""
    return ["--", sys.executable, "-c", source, *arguments]


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def descendants(pid: int) -> list[int]:
    """Its children, their children, and so on; the oldest of each first."""
    return [below for child in children(pid) for below in (child, *descendants(child))]


class Running:
    """A run whose command waits for the end of its standard input; a context manager."""

    def __init__(self, *options: str, command: Sequence[str] = ("cat",)) -> None:
        announce = f'echo "$KAFKA_BOOTSTRAP_SERVERS"; exec {" ".join(command)}'
        self.process = subprocess.Popen(
            [*RUN, *options, "--", "sh", "-c", announce],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().decode().strip()
        assert self.address, self.process.communicate()[1].decode()
        [self.guardian, self.command] = children(self.process.pid)
        [self.supervisor] = children(self.guardian)
        self.pids = [self.process.pid, *descendants(self.process.pid)]

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.stdin = None
        self.process.communicate(timeout=TIMEOUT_S)
        wait_until(lambda: not [pid for pid in self.pids if runs(pid)], "all processes are gone")

    def ended(self) -> tuple[int, str]:
        """Its exit code and what it wrote to standard error, when it has ended by itself."""
        assert self.process.stderr is not None
        code = self.process.wait(TIMEOUT_S)
        return code, self.process.stderr.read().decode()


# Exit codes and streams.


@pytest.mark.parametrize("code", [0, 3, 125])
def test_the_exit_code_of_the_command_is_passed_on(code: int) -> None:
    result = completed("--", "sh", "-c", f"exit {code}")
    assert (result.returncode, result.stdout, result.stderr) == (code, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_command_that_a_signal_ended_gives_128_and_the_signal(number: signal.Signals) -> None:
    assert completed("--", "sh", "-c", f"kill -{number} $$").returncode == 128 + number


def test_a_command_that_is_not_found_is_127() -> None:
    result = completed("--", "no-such-command-anywhere", "--help")
    assert result.returncode == 127
    assert result.stderr == b"rpk-py: no-such-command-anywhere: command not found\n"


def test_a_file_that_is_no_program_is_126(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("text\n")
    denied = completed(str(plain))
    assert denied.returncode == 126
    assert b"cannot be executed: Permission denied" in denied.stderr
    plain.chmod(0o755)
    assert completed(str(plain)).returncode == 126


def test_no_command_and_wrong_settings_are_wrong_usage() -> None:
    assert completed().returncode == 2
    wrong = completed("--set", "kafka_prot=1", "--", "true")
    assert wrong.returncode == 2
    assert b"did you mean kafka_port" in wrong.stderr
    assert completed("--set", "data_dir=/data", "--", "true").returncode == 2
    assert completed("--topic", "orders:many", "--", "true").returncode == 2


def test_options_behind_the_command_are_the_command_s() -> None:
    assert completed("echo", "--smp", "-h", "--", "--log").stdout == b"--smp -h -- --log\n"


def test_the_streams_are_the_command_s_own() -> None:
    data = bytes(range(256)) * 2000
    result = completed("--", "sh", "-c", "cat; echo done >&2", stdin=data)
    assert result.stdout == data
    assert result.stderr == b"done\n"


def test_standard_streams_that_are_closed_are_closed_for_the_command() -> None:
    look = "import os\nfor fd in 0, 1:\n try: os.fstat(fd); os._exit(1)\n except OSError: pass"
    line = f"exec \"$@\" <&- >&- -- {sys.executable} -c '{look}'"
    result = subprocess.run(["sh", "-c", line, "sh", *RUN], capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")


def test_nothing_of_a_broker_takes_the_number_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m rpk_py start --overprovisioned --data-dir {tmp_path}/data"
    command += " --kafka-addr 127.0.0.1:0 --admin-addr 127.0.0.1:0 <&- >&- 2>&-"
    broker = subprocess.Popen(["sh", "-c", command])
    try:
        status = tmp_path / "data" / "broker.json"
        wait_until(status.exists, "the broker is ready")
        for pid in (broker.pid, *children(broker.pid)):
            targets = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)}
            assert targets == {os.devnull}
        broker.terminate()
        assert broker.wait(TIMEOUT_S) == 0
    finally:
        broker.kill()
        broker.wait()


def test_descriptors_beyond_the_standard_ones_are_the_command_s_too() -> None:
    read_fd, write_fd = os.pipe()
    with open(read_fd, "rb") as answers:
        source = f"import os; os.write({write_fd}, b'through')"
        subprocess.run([*RUN, *python(source)], pass_fds=[write_fd], check=True)
        os.close(write_fd)
        assert answers.read() == b"through"  # to the end: nothing of the run holds it open


def test_a_reader_that_went_away_ends_the_command_by_sigpipe() -> None:
    process = subprocess.Popen([*RUN, "--", "yes"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(TIMEOUT_S) == 128 + signal.SIGPIPE


def test_a_child_that_the_command_leaves_behind_holds_nothing_up() -> None:
    process = subprocess.Popen(
        [*RUN, "--", "sh", "-c", "sleep 600 & echo $!"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    left_behind = int(process.stdout.readline())
    try:
        assert process.wait(TIMEOUT_S) == 0  # with its output still open in the child
        assert runs(left_behind)
    finally:
        os.kill(left_behind, signal.SIGKILL)
        process.stdout.close()


# What the command finds.

ROUND_TRIP = """
import os, sys
from confluent_kafka import Consumer, Producer
address = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
failed = []
producer = Producer({"bootstrap.servers": address})
for i in range(100):
    producer.produce("orders", str(i), on_delivery=lambda error, _: error and failed.append(error))
producer.flush(30)
consumer = Consumer({"bootstrap.servers": address, "group.id": "unused"})
from confluent_kafka import TopicPartition
consumer.assign([TopicPartition("orders", 0, 0)])
values = [consumer.poll(30).value().decode() for _ in range(100)]
print(*values, failed)
"""


def test_a_client_in_the_command_produces_and_consumes() -> None:
    result = completed(*python(ROUND_TRIP))
    assert result.stdout.decode().split() == [*map(str, range(100)), "[]"], result.stderr.decode()


def test_kcat_finds_the_broker_without_an_option() -> None:
    line = "seq 5 | kcat -P -t numbers 2>/dev/null && kcat -C -t numbers -e -q 2>/dev/null"
    assert completed("--", "sh", "-c", line).stdout.split() == [b"1", b"2", b"3", b"4", b"5"]


def test_every_shard_is_in_the_environment() -> None:
    names = "KAFKA_BOOTSTRAP_SERVERS SPRING_KAFKA_BOOTSTRAP_SERVERS KAFKA_BROKERS RPK_BROKERS"
    source = f"import os; print(*(os.environ[name] for name in '{names}'.split()), sep='\\n')"
    lines = completed("--smp", "2", *python(source)).stdout.decode().split()
    assert len(lines) == 4
    assert len(set(lines)) == 1
    assert len(lines[0].split(",")) == 2


def test_topics_exist_before_the_command_starts() -> None:
    options = ("--topic", "orders:3", "--topic", "plain", "--set", "auto_create_topics=false")
    text = completed(*options, "--", "kcat", "-L").stdout.decode()
    assert 'topic "orders" with 3 partitions' in text
    assert 'topic "plain" with 1 partitions' in text


def test_a_topic_that_is_refused_is_told() -> None:
    result = completed("--topic", "no/slash", "--", "echo", "started")
    assert (result.returncode, result.stdout) == (125, b"")
    assert result.stderr.startswith(b"rpk-py: cannot create the topic no/slash: ")


def test_settings_of_the_environment_do_not_reach_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RPK_KAFKA_PORT", "1")
    monkeypatch.setenv("RPK_NO_SUCH_SETTING", "1")
    assert completed("--", "sh", "-c", "echo $RPK_KAFKA_PORT").stdout == b"1\n"


def test_two_runs_at_once_have_a_broker_each() -> None:
    with Running() as first, Running() as second:
        assert first.address != second.address


# A broker that fails.


def test_a_broker_that_does_not_start_is_125_with_its_log() -> None:
    with Running() as first:
        port = first.address.rpartition(":")[2]
        result = completed("--set", f"kafka_port={port}", "--", "echo", "started")
    assert (result.returncode, result.stdout) == (125, b"")
    text = result.stderr.decode()
    assert text.startswith("rpk-py: the broker did not start; the end of its log:\n")
    assert f"{port} is already in use by pid" in text


def test_the_log_goes_to_a_file_where_one_is_named(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    assert completed("--log", str(log), "--", "true").stderr == b""
    assert "is ready" in log.read_text()
    assert completed("--log", str(tmp_path / "no" / "file"), "--", "true").returncode == 125


@pytest.mark.parametrize("who", ["supervisor", "guardian"])
def test_a_command_whose_broker_dies_is_ended(who: str) -> None:
    with Running() as running:
        os.kill(getattr(running, who), signal.SIGKILL)
        code, text = running.ended()
    assert code == 125
    assert text.startswith("rpk-py: the broker died while the command ran; the end of its log:\n")
    assert "is ready" in text


def test_a_shard_that_dies_is_no_end_of_the_broker() -> None:
    with Running(command=("kcat", "-L", "-q")) as running:
        pass
    assert running.process.returncode == 0
    with Running() as running:
        [shard] = children(running.supervisor)
        os.kill(shard, signal.SIGKILL)
        wait_until(lambda: children(running.supervisor) not in ([shard], []), "a new shard")
        running.pids += children(running.supervisor)
    assert running.process.returncode == 0


# Signals, and being killed.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on_to_the_command(number: signal.Signals) -> None:
    source = (
        "import signal\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [{number:d}])\n"
        "print('waits', flush=True)\n"
        f"signal.sigwait([{number:d}])\n"
        "raise SystemExit(7)"
    )
    process = subprocess.Popen([*RUN, *python(source)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"waits\n"
    process.send_signal(number)
    assert process.wait(TIMEOUT_S) == 7
    process.stdout.close()


def test_the_command_starts_with_the_signal_mask_of_its_parent() -> None:
    result = completed("--", "grep", "SigBlk", "/proc/self/status")
    assert int(result.stdout.split()[1], 16) == 0


COUNTS_INTERRUPTS = """
import signal, sys
count = 0
def caught(*_):
    global count
    count += 1
    print("caught", flush=True)
signal.signal(signal.SIGINT, caught)
print("waits", flush=True)
for line in sys.stdin:
    print("count", count, flush=True)
    sys.exit(9)
"""


def test_ctrl_c_reaches_the_command_once() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(RUN[0], [*RUN, *python(COUNTS_INTERRUPTS)])
    with os.fdopen(terminal, "r+b", buffering=0) as stream:
        seen = b""

        def wait_for(text: bytes) -> None:
            nonlocal seen
            while text not in seen:
                seen += stream.read(1024)

        wait_for(b"waits")
        stream.write(b"\x03")
        wait_for(b"caught")
        stream.write(b"now\n")
        wait_for(b"count 1\r\n")  # or else it fails at the end of what can be read
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 9


def test_a_stop_while_the_broker_starts_leaves_nothing(tmpdir_of_runs: Path) -> None:
    process = subprocess.Popen([*RUN, "--", "sleep", "600"])
    wait_until(lambda: list(tmpdir_of_runs.iterdir()), "the temporary directory is made")
    process.terminate()
    assert process.wait(TIMEOUT_S) == 128 + signal.SIGTERM


def test_a_run_that_is_killed_leaves_nothing(tmpdir_of_runs: Path) -> None:
    with Running("--smp", "2") as running:
        [shards] = [children(running.supervisor)]
        assert len(shards) == 2
        assert list(tmpdir_of_runs.iterdir())
        running.process.kill()
        code, text = running.ended()  # to the end of the pipe: no process holds it open
        assert (code, text) == (-signal.SIGKILL, "")
        wait_until(lambda: not any(map(runs, running.pids)), "all processes are gone")
        wait_until(lambda: not list(tmpdir_of_runs.iterdir()), "the directory is gone")


def test_what_a_killed_run_and_its_guardian_leave_the_next_run_removes(
    tmpdir_of_runs: Path,
) -> None:
    with Running() as running:
        os.kill(running.guardian, signal.SIGSTOP)  # so that it cannot clean up in between
        running.process.kill()
        os.kill(running.guardian, signal.SIGKILL)
        wait_until(lambda: not any(map(runs, running.pids)), "all processes are gone")
    assert len(list(tmpdir_of_runs.iterdir())) == 1
    with Running():
        assert len(list(tmpdir_of_runs.iterdir())) == 1


def test_the_directory_of_a_run_that_lives_is_left_alone() -> None:
    with Running() as first:
        assert completed("--", "true").returncode == 0
        first.process.stdin.write(b"x\n")  # type: ignore[union-attr]
        assert completed("--", "kcat", "-b", first.address, "-L", "-t", "t").returncode == 0


def test_a_fixed_port_is_free_again_at_once() -> None:
    port = free_ports()
    for _ in range(2):
        assert completed("--set", f"kafka_port={port}", "--", "true").returncode == 0
