"""`rpk-py run -- COMMAND`: a throw-away broker for as long as a command runs.

Which processes:
    rpk-py run     this one: starts the others, waits for the command, returns its exit code
      guardian     in a session of its own, so that nothing sent to a group or by a terminal
                   reaches it: owns the temporary directory; ends the broker and removes the
                   directory when `rpk-py run` is gone, which it sees by the end of their socket
        broker     the supervisor, as `rpk-py start` runs it; its shards below it
      COMMAND      in the same process group and terminal as `rpk-py run`

Invariants: the broker ends with the guardian and its shards with it (PR_SET_PDEATHSIG). Whichever
of `rpk-py run` and the guardian is killed, the other one cleans up; a directory is locked as long
as one of them lives, and what both left when they were killed at once the next run removes.
The broker's settings come from this command line alone, so it is the same one everywhere.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from rpk_py import cores
from rpk_py.config import Config
from rpk_py.process_ties import adopt_orphans, die_with_parent
from rpk_py.setting import ConfigError
from rpk_py.settings_sources import load
from storage.disk import lock_exclusive
from storage.errors import LockTimeout

BROKER_FAILED, NOT_EXECUTABLE, NOT_FOUND, SIGNALLED = 125, 126, 127, 128  # as env(1) has them

DIRECTORY_PREFIX = "rpk-py-run-"
READY_S_MAX = 60.0
END_S_MAX = 5.0  # for a command whose broker died, until it is killed
_POLL_MS = 50  # a signal that comes while the broker starts waits so long at most
_LOG_SHOWN_BYTES = 8192
_LOG_SHOWN_LINES = 40

_TERMINAL = (signal.SIGINT, signal.SIGQUIT)  # from a terminal they go to the command as well
_STOPPING = (*_TERMINAL, signal.SIGTERM, signal.SIGHUP)
_FORWARDED = (*_STOPPING, signal.SIGUSR1, signal.SIGUSR2)
_SI_KERNEL = 0x80  # siginfo's si_code of what a terminal sends

# What is different from `rpk-py start`, and may be set.
_DEFAULTS = {
    "RPK_KAFKA_PORT": "0",
    "RPK_ADMIN_PORT": "0",
    "RPK_OVERPROVISIONED": "true",
    "RPK_LOG_FORMAT": "console",
}


class RunError(Exception):
    """The command could not be run to its end; the message is for the user."""

    def __init__(self, text: str, exit_code: int = BROKER_FAILED, log: str = "") -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.log = log


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--smp", metavar="N|auto", help="Shards of the broker. [default: 1]")
@click.option(
    "--set",
    "assignments",
    metavar="NAME=VALUE",
    multiple=True,
    help="Any setting of the broker, as rpk-py start takes it; may be repeated.",
)
@click.option(
    "--topic",
    "topics",
    metavar="NAME[:PARTITIONS]",
    multiple=True,
    help="Create this topic before the command starts; may be repeated.",
)
@click.option(
    "--log",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append the broker's log to this file. [default: shown if the broker fails]",
)
@click.argument(
    "command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARGS]..."
)
def run(
    smp: str | None,
    assignments: tuple[str, ...],
    topics: tuple[str, ...],
    log: Path | None,
    command: tuple[str, ...],
) -> None:
    """Run a command with a throw-away broker that ends, with its data, when the command does.

    The broker listens on free ports of 127.0.0.1 and keeps its data in the temporary directory
    ($TMPDIR). It takes its settings from this command line alone. The command finds it by

    \b
      KAFKA_BOOTSTRAP_SERVERS         Quarkus, Micronaut, and scripts by custom
      SPRING_KAFKA_BOOTSTRAP_SERVERS  Spring Boot
      KAFKA_BROKERS                   Redpanda Console
      RPK_BROKERS                     rpk-py, rpk
      KCAT_CONFIG                     kcat: a file that names the broker

    The command has this terminal, standard input, output and error to itself. Signals are passed
    on to it, and while it runs Ctrl-C is its own affair. If rpk-py run is killed by SIGKILL, the
    command is sent SIGTERM and the broker is removed nevertheless.

    \b
    Exit code:
      the command's own, or 128+N if signal N ended it
      125  the broker did not start, or died while the command ran (its log is shown)
      126  the command cannot be executed
      127  the command was not found

    \b
    Examples:
      rpk-py run -- pytest -q tests
      rpk-py run --topic orders:3 -- sh -c 'seq 9 | kcat -P -t orders && kcat -C -t orders -e'
      rpk-py run --smp 2 --set auto_create_topics=false -- ./gradlew test
      rpk-py run --log broker.log --set log_level=debug -- make integration-test
    """
    wanted = [_parse_topic(text) for text in topics]
    try:
        code = _run(_config_of(smp, assignments), wanted, log, command)
    except (ConfigError, RunError) as error:
        _say(f"rpk-py: {error}")
        if isinstance(error, RunError) and error.log:
            _say(error.log)
        code = getattr(error, "exit_code", 2)
    sys.exit(code)


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody reads it: the exit code remains


def _parse_topic(text: str) -> tuple[str, int]:
    """NAME[:PARTITIONS]; -1 leaves the number to the broker's default_partitions."""
    name, colon, count = text.partition(":")
    if not colon:
        return name, -1
    if not count.isascii() or not count.isdigit() or not 1 <= int(count) <= 2**31 - 1:
        raise click.BadParameter(
            f"{text!r}: the partitions must be a whole number, like orders:3", param_hint="--topic"
        )
    return name, int(count)


def _config_of(smp: str | None, assignments: tuple[str, ...]) -> Callable[[Path], Config]:
    """What makes the broker's Config once its data directory is known.

    Raises: ConfigError  a setting is wrong
    """
    flags = {} if smp is None else {"smp": smp}

    def config_of(data_dir: Path) -> Config:
        options = flags | {"data_dir": str(data_dir)}
        return load(options, assignments, _DEFAULTS, None, cores.usable_count).config

    if any(assignment.startswith("data_dir=") for assignment in assignments):
        raise ConfigError("--set", "data_dir", "the data directory of rpk-py run is its own")
    config_of(Path("data"))  # what is wrong is told before anything is made
    return config_of


def _run(
    config_of: Callable[[Path], Config],
    topics: list[tuple[str, int]],
    log_file: Path | None,
    command: tuple[str, ...],
) -> int:
    """Start the broker, run the command, remove the broker.  Returns the exit code.

    Raises: RunError
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored by some parents: no exit code then
    # From here on signals are looked at, one after the other, where they can be acted on.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, (*_FORWARDED, signal.SIGCHLD))
    place = _make_place(log_file)
    broker = _start_guardian(config_of(place.directory / "data"), place)
    try:
        addresses = broker.wait_until_ready()
        if isinstance(addresses, int):
            return SIGNALLED + addresses
        if topics:
            _create_topics(addresses, topics)
        environment = _environment(addresses, place.directory)
        return _wait(_start(command, environment, unblocked), broker)
    finally:
        broker.end()


# The directory.


@dataclass(frozen=True, slots=True)
class _Place:
    """A temporary directory that is ours as long as `lock_fd` is open in any process."""

    directory: Path
    lock_fd: int
    log_fd: int
    log_path: Path | None  # None: in the directory, and removed with it

    def log_tail(self) -> str:
        """The end of the broker's log."""
        try:
            size = os.fstat(self.log_fd).st_size
            data = os.pread(self.log_fd, _LOG_SHOWN_BYTES, max(0, size - _LOG_SHOWN_BYTES))
        except OSError:
            return ""  # a pipe or a terminal: it was seen there
        lines = data.decode(errors="replace").splitlines()[-_LOG_SHOWN_LINES:]
        return "\n".join(f"  {line}" for line in lines)


def _make_place(log_file: Path | None) -> _Place:
    """Raises RunError where the directory or the log cannot be made."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        log_fd = None if log_file is None else os.open(log_file, flags, 0o644)
        directory, lock_fd = _make_directory()
        if log_fd is None:
            log_fd = os.open(directory / "broker.log", flags, 0o600)
    except OSError as error:
        where = error.filename or tempfile.gettempdir()
        raise RunError(f"cannot create {where}: {error.strerror}") from None
    return _Place(directory, lock_fd, log_fd, log_file)


def _make_directory() -> tuple[Path, int]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX))
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another run took it for an abandoned one, before it was locked
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return directory, fd
        os.close(fd)


def _remove_abandoned(parent: Path) -> None:
    """Remove the directories of runs of which no process was left to do so."""
    for directory in parent.glob(f"{DIRECTORY_PREFIX}*"):
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # another user's, or gone meanwhile
        try:
            if os.fstat(fd).st_uid == os.geteuid():
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            pass  # its run is alive
        finally:
            os.close(fd)


# The guardian and the broker.


@dataclass(slots=True)
class _Broker:
    """The broker as `rpk-py run` sees it: what the guardian says, and whether it lives."""

    guardian_pid: int
    guardian: socket.socket  # its other end sees that we are gone
    place: _Place
    is_gone: bool = False

    def wait_until_ready(self) -> str | int:
        """The addresses of its shards, "HOST:PORT,...", or the signal that came before them.

        Raises: RunError  it did not start
        """
        deadline_s = time.monotonic() + READY_S_MAX
        poll = select.poll()
        poll.register(self.guardian, select.POLLIN)
        while not poll.poll(_POLL_MS):
            for number in signal.sigpending() & set(_STOPPING):
                return int(number)
            if time.monotonic() > deadline_s:
                raise self.failed(f"the broker is not ready after {READY_S_MAX:g} s")
        addresses = self.guardian.recv(65536).decode()
        if not addresses:
            raise self.failed("the broker did not start")
        return addresses

    def look(self) -> None:
        """Note whether the guardian ended, which it does when the broker died."""
        if not self.is_gone:
            self.is_gone = os.waitpid(self.guardian_pid, os.WNOHANG)[0] != 0

    def failed(self, what: str) -> RunError:
        """The error that shows the end of the broker's log."""
        tail = self.place.log_tail()
        where = f", all of it in {self.place.log_path}" if self.place.log_path else ""
        return RunError(f"{what}; the end of its log{where}:" if tail else what, log=tail)

    def end(self) -> None:
        """Return when broker, guardian and directory are gone."""
        self.guardian.close()
        if not self.is_gone:
            os.waitpid(self.guardian_pid, 0)
            self.is_gone = True
        if self.place.directory.exists():  # the guardian was killed
            _remove(self.place.directory)


def _remove(directory: Path) -> None:
    """Remove the directory of a broker that is being killed, when its last process is gone."""
    try:
        with open(directory / "data" / ".lock", "rb") as lock:
            lock_exclusive(lock.fileno(), END_S_MAX)
    except (OSError, LockTimeout):
        pass  # there is none yet; or the kernel cannot end it, and removing is all that is left
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        _say(f"rpk-py: cannot remove all of {directory}")


def _start_guardian(config: Config, place: _Place) -> _Broker:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid:
        theirs.close()
        return _Broker(pid, ours, place)
    try:
        ours.close()
        _guard(theirs, config, place)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _guard(parent: socket.socket, config: Config, place: _Place) -> None:
    """In the guardian: until the parent or the broker is gone, then remove what is left."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(place.log_fd, 1)
    os.dup2(place.log_fd, 2)
    adopt_orphans()  # of the supervisor: its shards are waited for too
    says, said_by_broker = os.pipe()
    guardian_pid = os.getpid()
    broker_pid = os.fork()
    if broker_pid == 0:
        parent.close()
        os.close(says)
        _serve(config, said_by_broker, guardian_pid)
    os.close(said_by_broker)
    try:
        _remove_abandoned(place.directory.parent)
        _pass_on(says, parent)
    finally:
        os.kill(broker_pid, signal.SIGKILL)
        for _ in _ended_children():
            pass
        shutil.rmtree(place.directory)


def _pass_on(says: int, parent: socket.socket) -> None:
    """Tell the parent what the broker says; returns when one of them is gone."""
    poll = select.poll()
    poll.register(says, select.POLLIN)
    poll.register(parent, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            text = os.read(says, 65536) if fd == says else b""
            if not text:
                return
            try:
                parent.sendall(text)
            except OSError:
                return


def _ended_children() -> Iterator[int]:
    """Wait for every child, adopted ones too."""
    while True:
        try:
            yield os.wait()[0]
        except ChildProcessError:
            return


def _serve(config: Config, says: int, guardian_pid: int) -> NoReturn:
    """In the broker's process: be the supervisor."""
    code = 1
    try:
        die_with_parent(guardian_pid)
        from rpk_py import shard, supervisor
        from rpk_py.cli.start import print_banner
        from rpk_py.startup_error import StartupError

        def on_ready(info: supervisor.BrokerInfo) -> None:
            print_banner(config, info)
            os.write(says, ",".join(info.kafka).encode())

        try:
            code = supervisor.run(config, shard.run, on_ready)
        except StartupError as error:
            _say(f"rpk-py: {error}")
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


# The command.


def _environment(addresses: str, directory: Path) -> dict[str, str]:
    kcat = directory / "kcat.conf"
    kcat.write_text(f"bootstrap.servers={addresses}\n", encoding="ascii")
    return os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": addresses,
        "SPRING_KAFKA_BOOTSTRAP_SERVERS": addresses,
        "KAFKA_BROKERS": addresses,
        "RPK_BROKERS": addresses,
        "KCAT_CONFIG": str(kcat),
    }


def _create_topics(addresses: str, topics: list[tuple[str, int]]) -> None:
    """Raises RunError where the broker refuses one."""
    import asyncio

    from kafka_protocol.errors import ErrorCode
    from kafka_protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest
    from rpk_py.cli.node_connection import NodeError, connect

    async def create() -> None:
        host, _, port = addresses.partition(",")[0].rpartition(":")
        connection = await connect(host.strip("[]"), int(port), READY_S_MAX)
        try:
            await connection.negotiate()
            wanted = [CreatableTopic(name, partitions, -1) for name, partitions in topics]
            answer = await connection.ask(CreateTopicsRequest(wanted))
        finally:
            connection.close()
        for topic in answer.topics:
            if topic.error_code:
                reason = topic.error_message or ErrorCode(topic.error_code).name
                raise RunError(f"cannot create the topic {topic.name}: {reason}")

    try:
        asyncio.run(create())
    except NodeError as error:
        raise RunError(f"cannot create topics: {error}") from None


def _start(
    command: tuple[str, ...], environment: Mapping[str, str], unblocked: set[int | signal.Signals]
) -> subprocess.Popen[bytes]:
    """Raises RunError where there is no such program, or it is none."""
    parent_pid = os.getpid()

    def in_child() -> None:
        die_with_parent(parent_pid, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)

    program = command[0]
    try:
        # Descriptors beyond the standard ones are the command's too: a job server, <(...).
        return subprocess.Popen(command, env=environment, close_fds=False, preexec_fn=in_child)
    except FileNotFoundError:
        raise RunError(f"{program}: command not found", NOT_FOUND) from None
    except OSError as error:
        text = f"{program}: cannot be executed: {error.strerror}"
        raise RunError(text, NOT_EXECUTABLE) from None


def _wait(command: subprocess.Popen[bytes], broker: _Broker) -> int:
    """Pass signals on until the command has ended.  Returns its exit code as a shell has it.

    Raises: RunError  the broker died before
    """
    while True:
        caught = signal.sigwaitinfo((*_FORWARDED, signal.SIGCHLD))
        code = command.poll()
        if code is not None:
            return SIGNALLED - code if code < 0 else code
        broker.look()
        if broker.is_gone:
            _end(command)
            raise broker.failed("the broker died while the command ran")
        from_terminal = caught.si_code == _SI_KERNEL and caught.si_signo in _TERMINAL
        if caught.si_signo != signal.SIGCHLD and not from_terminal:
            command.send_signal(caught.si_signo)


def _end(command: subprocess.Popen[bytes]) -> None:
    """End a command that has lost its broker."""
    command.terminate()
    try:
        command.wait(END_S_MAX)
    except subprocess.TimeoutExpired:
        command.kill()
        command.wait()
