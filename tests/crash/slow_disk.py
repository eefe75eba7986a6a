"""A disk that is slow, hangs or loses power on command: fuse_disk.py's, with a gate before it.

    python -m tests.crash.slow_disk DIRECTORY MOUNTPOINT

Every operation passes the gate. A rule, a JSON object {op, path, delay_ms}, holds those whose kind
and path fit it for that time, or without one until the rules are replaced. Standard input takes
commands, a line each: the list of all rules, `[]` opens the gate; or "cut", a power cut: what was
written to a file since its last sync is undone, and nothing is answered any more but with EIO.
Threads serve the mount, so what is held holds up only what the kernel has behind it.

What passes is told in the order of events, a line each in DIRECTORY.events: `begin NUMBER OP PATH`
when it comes to the gate, `end NUMBER OP PATH` when it is done, before its caller hears of it; of
operations that nobody holds, only writes and syncs of files.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from tests.clients.broker import wait_until
from tests.crash.fuse_disk import FuseDisk, PassThrough

EVENTS = ".events"  # behind the name of the backing directory
CUT = "cut"
_RULES = "rules"
_GATED = (
    *("getattr", "readdir", "statfs", "open", "create", "read", "write", "fsync", "fsyncdir"),
    *("fallocate", "truncate", "rename", "unlink", "mkdir", "rmdir", "chmod", "utimens"),
)
_NOTED = ("write", "fsync")


@dataclass(frozen=True, slots=True)
class Slow:
    """One rule; `delay_ms` None: until the rules are replaced."""

    op: str = "*"
    path: str = "*"
    delay_ms: int | None = None


class Event(NamedTuple):
    """A line of what passed; `what` is begin, end, rules or cut."""

    what: str
    number: int
    op: str
    path: str


class SlowDisk(FuseDisk):
    """The mount and its process; see the module."""

    MODULE = "tests.crash.slow_disk"

    def __init__(self, backing: Path, path: Path) -> None:
        self._events = Path(f"{backing}{EVENTS}")
        self._events.touch()
        self._commands = 0
        super().__init__(backing, path, None)

    def hold(self, *rules: Slow) -> None:
        """Have these rules from now on, and no others."""
        self._command([asdict(rule) for rule in rules])

    def go_on(self) -> None:
        """A disk as quick as any."""
        self._command([])

    def cut(self) -> None:
        """Lose power; returns when what was not synced is gone."""
        self._command(CUT)

    def _command(self, command: object) -> None:
        assert self._process.stdin is not None
        self._commands += 1
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        number = self._commands
        wait_until(
            lambda: any(e.what == _RULES and e.number == number for e in self.events()),
            f"the disk has taken {command}",
        )

    def events(self) -> list[Event]:
        """All that has passed so far."""
        lines = self._events.read_text().split("\n")[:-1]
        facts = (line.split(" ", 3) for line in lines)
        return [Event(what, int(number), op, path) for what, number, op, path in facts]

    def held(self, op: str, path: str) -> list[Event]:
        """What has begun and not ended."""
        fits = [e for e in self.events() if fnmatch(e.op, op) and fnmatch(e.path, path)]
        ended = {e.number for e in fits if e.what == "end"}
        return [e for e in fits if e.what == "begin" and e.number not in ended]

    def wait_held(self, op: str, path: str) -> None:
        """Until such an operation is under way."""
        wait_until(lambda: self.held(op, path), f"{op} of {path} is held")

    def close(self) -> None:
        """Open the gate, and unmount."""
        if self._process.poll() is None:
            self.go_on()
        super().close()


class Gate:
    """Holds operations by the rules in force; says what passes."""

    def __init__(self, events: Path, refuse: Callable[[int], Exception]) -> None:
        self._refuse = refuse
        self._file = events.open("a", buffering=1)
        self._changed = threading.Condition()
        self._rules: tuple[Slow, ...] = ()
        self._number = 0
        self._inside = 0  # operations that have passed and are not done
        self._cut = False

    def pass_through(self, op: str, path: str, work: Callable[[], Any]) -> Any:
        """Do `work` when the rules let it. Raises what it raises, EIO after a cut."""
        number = self._enter(op, path)
        try:
            result = work()
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()
        if number:
            self._note("end", number, op, path)
        return result

    def _enter(self, op: str, path: str) -> int:
        began_s = time.monotonic()
        with self._changed:
            number = 0
            if self._held_s(op, path) or op in _NOTED:
                self._number = number = self._number + 1
                self._note("begin", number, op, path)
            while not self._cut and (hold_s := self._held_s(op, path)):
                left_s = began_s + hold_s - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
            if self._cut and op != "getattr":  # by which a mount is known
                raise self._refuse(errno.EIO)
            self._inside += 1
        return number

    def _held_s(self, op: str, path: str) -> float:
        """For how long an operation is held, 0 for not at all."""
        for rule in self._rules:
            if fnmatch(op, rule.op) and fnmatch(path, rule.path):
                return threading.TIMEOUT_MAX if rule.delay_ms is None else rule.delay_ms / 1000
        return 0.0

    def _note(self, what: str, number: int, op: str, path: str) -> None:
        self._file.write(f"{what} {number} {op} {path}\n")

    def obey(self, lines: Sequence[str] | Any, on_cut: Callable[[], None]) -> None:
        """Take commands until there are no more."""
        for number, line in enumerate(lines, 1):
            command = json.loads(line)
            with self._changed:
                if command == CUT:
                    self._cut = True
                    self._changed.wait_for(lambda: not self._inside)
                    on_cut()
                else:
                    self._rules = tuple(Slow(**rule) for rule in command)
                self._changed.notify_all()
                self._note(_RULES, number, "-", "-")


class SlowPassThrough(PassThrough):
    """The operations, through the gate."""

    def __init__(self, backing: str, refuse: Callable[[int], Exception]) -> None:
        super().__init__(backing, None, refuse)
        self.gate = Gate(Path(backing + EVENTS), refuse)
        self._kept: dict[int, int] = {}  # descriptors of files with unsynced writes, by inode

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """pwrite; the file is kept open until its sync, for a power cut."""
        ino = os.fstat(fh).st_ino
        if ino not in self._kept:
            self._kept[ino] = os.dup(fh)
        return super().write(path, data, offset, fh)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """fsync."""
        done = super().fsync(path, datasync, fh)
        if (kept := self._kept.pop(os.fstat(fh).st_ino, -1)) >= 0:
            os.close(kept)
        return done

    def cut(self) -> None:
        """Undo what is not synced."""
        for ino, fd in self._kept.items():
            for size, pos, data in reversed(self._unsynced.pop(ino, [])):
                os.pwrite(fd, data, pos)
                os.ftruncate(fd, size)


def gated(name: str) -> Callable[..., Any]:
    """The operation of that name, through the gate; rename is known by its new name."""

    def operation(self: SlowPassThrough, path: str, *args: Any) -> Any:
        work = getattr(SlowPassThrough, name)
        shown = args[0] if name == "rename" else path
        return self.gate.pass_through(name, shown, lambda: work(self, path, *args))

    return operation


def main() -> None:
    """The process that serves the mount, until it is unmounted."""
    import mfusepy

    backing, mountpoint, _fault = sys.argv[1:]
    facts = {name: gated(name) for name in _GATED}
    operations = type("Operations", (SlowPassThrough, mfusepy.Operations), facts)(
        backing, mfusepy.FuseOSError
    )
    work = operations.gate.obey, (sys.stdin, operations.cut)
    threading.Thread(target=work[0], args=work[1], daemon=True).start()
    mfusepy.FUSE(operations, mountpoint, foreground=True, nothreads=False)


if __name__ == "__main__":
    main()
