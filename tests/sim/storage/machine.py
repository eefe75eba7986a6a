"""The simulated machine: a disk that takes its time and fails, and the deaths of its processes.

`Machine` decides what happens at each step: it counts the steps to the death that was planned,
lands writes early, and has calls fail. Every step is told to the trace. `SimQueue` is the IoQueue
of the real QueuedDisk. What can happen is said in file_system.py.
"""

from __future__ import annotations

import errno
import hashlib
import random
from collections import Counter, deque
from dataclasses import dataclass
from types import SimpleNamespace

from storage import wal_format
from tests.sim.storage.event_loop import SimLoop
from tests.sim.storage.file_system import SECTOR, FileSystem
from tests.sim.storage.kernel import Crash, Kernel, OpenFile, failure

TRACE_LINES_KEPT = 80
DATA = "/data"

# What may fail, and how. "write" and "read" are the disk's, the others are system calls.
FAULTS: tuple[tuple[str, int], ...] = (
    ("write", errno.EIO),
    ("write", errno.ENOSPC),
    ("short write", 0),
    ("read", errno.EIO),
    ("submit", errno.EAGAIN),
    ("open", errno.EMFILE),
    ("create", errno.EMFILE),
    ("create", errno.ENOSPC),
    ("os.write", errno.ENOSPC),
    ("os.write", errno.EIO),
    ("pwrite", errno.EIO),
    ("pwrite", errno.ENOSPC),
    ("fallocate", errno.ENOSPC),
    ("fsync", errno.EIO),
    ("fsync", errno.EIO),
    ("fsync", errno.EIO),
    ("pread", errno.EIO),
    ("rename", errno.ENOSPC),
    ("mkdir", errno.ENOSPC),
    ("unlink", errno.EIO),
    ("link", errno.EIO),
    ("ftruncate", errno.EIO),
    ("slow", 0),
)
SLOW_S = 1.0
STEPS_FOREVER = 1 << 60
FATAL_CALLS = ("rename", "rename", "mkdir", "create", "fsync", "ftruncate", "unlink")


class Violation(AssertionError):
    """An invariant does not hold."""


class Trace:
    """What happened: the last lines, and a hash over all of them."""

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=TRACE_LINES_KEPT)
        self._hash = hashlib.blake2b(digest_size=8)
        self.lines = 0

    def note(self, line: str) -> None:
        self.lines += 1
        self.tail.append(line)
        self._hash.update(line.encode())

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


@dataclass(slots=True, eq=False)
class Operation:
    """A read or a write that the kernel was given."""

    slot: int
    is_write: bool
    fd: int
    view: memoryview
    pos: int
    file: OpenFile | None = None
    data: bytes = b""
    landed: bool = False


class Machine:
    """Everything below storage. One a run."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"machine {seed}")
        self.files = FileSystem(self.rng, lambda: int(self.time_s() * 1e9))
        self.kernel = Kernel(self.files, self.before_call, self.rng.randbytes)
        self.trace = Trace()
        self.counts: Counter[str] = Counter()
        self.loop: SimLoop | None = None
        self.dead = False
        self.steps_left = STEPS_FOREVER  # to the death of the process
        self._fatal_call = self._last_call = ""
        self._fatal_calls_left = 0
        self.died_behind_call = False
        self.faults: list[tuple[str, int]] = []
        self.fault_chance = 0.0
        self.excuses: set[str] = set()  # directories of which a call failed in this life
        self.in_flight: list[Operation] = []
        self.now_s = 1_700_000_000.0
        self.lies = False  # a planted bug: durable writes are not synced
        self.clock = SimpleNamespace(
            monotonic=self.time_s,
            perf_counter=self.time_s,
            time=self.time_s,
            time_ns=lambda: int(self.time_s() * 1e9),
            sleep=self._sleep,
        )

    def time_s(self) -> float:
        return self.loop.time() if self.loop is not None else self.now_s

    # -- lives -----------------------------------------------------------------------------

    def begin_life(self, steps: int, faults: list[tuple[str, int]], chance: float) -> SimLoop:
        self.dead = False
        self.steps_left = steps
        # Now and then it dies right behind a certain call, where a step in a thousand would not.
        is_due = not self.died_behind_call and self.rng.random() < 0.4
        self._fatal_call = self.rng.choice(FATAL_CALLS) if is_due else ""
        self._fatal_calls_left = int(24 ** self.rng.random())
        self.died_behind_call = False
        self._last_call = ""
        self.faults = list(faults)
        self.fault_chance = chance
        self.excuses = set()
        self.loop = SimLoop(self.rng, self.now_s, self.step)
        return self.loop

    def end_life(self, *, power_cut: bool) -> None:
        """Nothing of the process runs any more; what it had under way may still land."""
        assert self.loop is not None
        self.dead = True
        self.kernel.disposing = True
        self.loop.dispose()
        self.kernel.disposing = False
        self.now_s = self.loop.time()
        self.loop = None
        self.trace.note("power cut" if power_cut else "killed")
        for operation in self.in_flight:
            if not operation.is_write and operation.file is not None:
                operation.file.in_flight -= 1
        self.in_flight = [one for one in self.in_flight if one.is_write]
        if power_cut:
            self.rng.shuffle(self.in_flight)
            for operation in self.in_flight:
                self._tear(operation)
            self.in_flight.clear()
        else:
            self.orphan()
        self.kernel.process_died()
        if power_cut:
            self.files.power_cut()
        else:
            self.files.process_died()

    def step(self) -> bool:
        """One callback of the loop, or one call; False: the process is dead."""
        self.steps_left -= 1
        if self.steps_left <= 0 and not self.dead:
            self.dead = True
        return not self.dead

    def before_call(self, name: str, path: str) -> None:
        """Before each system call. Raises Crash, OSError."""
        if self.dead:
            raise Crash
        self.trace.note(f"{name} {path}")
        if not self.step() or self._is_fatal(name):
            raise Crash
        if self.in_flight and self.rng.random() < 0.1:
            self.land(self.rng.choice(self.in_flight))
        code = self.fault("os.write" if name == "write" else name, path)
        if code:
            raise failure(code, path)

    def _is_fatal(self, name: str) -> bool:
        last, self._last_call = self._last_call, name
        if last and last == self._fatal_call and self.steps_left < STEPS_FOREVER // 2:
            self._fatal_calls_left -= 1
            self.dead = self.died_behind_call = self._fatal_calls_left == 0
        return self.dead

    def fault(self, call: str, path: str) -> int:
        """An errno if this call fails now."""
        if not self.faults or self.rng.random() >= self.fault_chance:
            return 0
        for i, (which, code) in enumerate(self.faults):
            if which == "slow" and self.loop is not None:
                del self.faults[i]
                self.counts["slow calls"] += 1
                self.loop.pass_time(SLOW_S)
                return 0
            if which == call and (which, path) != ("fsync", DATA):
                del self.faults[i]
                return self._excused(call, code, path)
        return 0

    def _excused(self, call: str, code: int, path: str) -> int:
        name = errno.errorcode.get(code, "")
        self.trace.note(f"fault: {call} {name} {path}")
        self.counts[f"{call} {name}".strip()] += 1
        self.excuse(path)
        return code or -1

    def excuse(self, path: str) -> None:
        """Whoever uses this file may fail in this life."""
        for part in path.split():
            below = part.removeprefix(DATA).strip("/")
            self.excuses.add(below.split("/")[0] or ".")

    def _sleep(self, seconds: float) -> None:
        """time.sleep of a process that polls a lock: what holds it may end meanwhile."""
        if self.dead:
            raise Crash
        assert self.loop is not None
        self.loop.pass_time(seconds)
        for operation in [one for one in self.in_flight if one.slot < 0]:
            if self.rng.random() < 0.05:
                self.land(operation)
        if not self.step():
            raise Crash

    # -- writes ----------------------------------------------------------------------------

    def land(self, operation: Operation) -> None:
        """A write can be read; it is not durable yet, and nobody was told."""
        file = operation.file
        if not operation.is_write or operation.landed or file is None:
            return
        operation.landed = True
        self.trace.note(f"landed {file.path} {operation.pos} {len(operation.data)}")
        self.files.write(file.inode, operation.pos, operation.data, durable=False)
        if operation.slot < 0:  # of a process that is dead
            self.counts["writes that landed after their process"] += 1
            self.finish(operation)

    def finish(self, operation: Operation) -> None:
        """The kernel lets go of it."""
        self.in_flight.remove(operation)
        if operation.file is not None:
            operation.file.in_flight -= 1
            operation.file.release()

    def orphan(self) -> None:
        """Nobody waits for what is under way: its process was killed."""
        for operation in self.in_flight:
            operation.slot = -1
        for operation in [one for one in self.in_flight if one.landed]:
            self.finish(operation)

    def note_proof(self, operation: Operation) -> None:
        data, file = operation.data, operation.file
        assert file is not None
        if data[8:12] == wal_format.RECORD_MAGIC:
            durable_pos = wal_format._RECORD.unpack_from(data)[11]
            if durable_pos >= file.inode.proven_end:
                file.inode.proven_end, file.inode.proof_pos = durable_pos, operation.pos

    def _tear(self, operation: Operation) -> None:
        """A write is under way when the power goes."""
        file = operation.file
        if file is None:
            return
        self.counts["writes under way at a power cut"] += 1
        if self.rng.random() < 0.05:
            path, inode = self.rng.choice(sorted(self.files.files(), key=lambda one: one[0]))
            room = len(inode.data) - inode.written_end - len(operation.data)
            if path.endswith((".wal", ".journal")) and inode.written_end and room >= 0:
                pos = inode.written_end + self.rng.randint(0, room // SECTOR) * SECTOR
                self.trace.note(f"misdirected to {path} {pos}: {file.path} {operation.pos}")
                self.counts["misdirected writes"] += 1
                end = inode.written_end
                self.files.land_some(inode, pos, operation.data)
                inode.written_end = end
                return
        self.files.land_some(file.inode, operation.pos, operation.data)


class SimQueue:
    """IoQueue of one process on the machine's disk."""

    name = "sim"
    fd = 7

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._queued: list[Operation] = []
        self._results: list[tuple[int, int]] = []
        self._was_short = False

    def prepare(self, slot: int, is_write: bool, fd: int, view: memoryview, pos: int) -> None:
        assert not (pos | len(view)) % SECTOR, "unaligned"
        self._queued.append(Operation(slot, is_write, fd, view[:], pos))

    def submit(self) -> int:
        machine, queued = self._machine, self._queued
        if machine.dead:
            raise Crash
        code = machine.fault("submit", "")
        if code:
            raise OSError(code, "no memory for requests")
        taken = len(queued) if machine.rng.random() < 0.95 else machine.rng.randint(0, len(queued))
        for operation in queued[:taken]:
            self._start(operation)
        del queued[:taken]
        return taken

    def completions(self) -> list[tuple[int, int]]:
        results, self._results = self._results, []
        return results

    def close(self) -> None:
        assert not self._queued

    def _start(self, operation: Operation) -> None:
        machine = self._machine
        assert machine.loop is not None
        operation.file = machine.kernel.file(operation.fd)
        operation.file.in_flight += 1
        if operation.is_write:
            operation.data = bytes(operation.view)
        machine.in_flight.append(operation)
        what = "write" if operation.is_write else "read"
        path, size = operation.file.path, len(operation.view)
        machine.trace.note(f"{what} {path} {operation.pos} {size}")
        mean_s = 0.05 if machine.rng.random() < 0.02 else 0.0005
        machine.loop.call_later(machine.rng.expovariate(1 / mean_s), self._complete, operation)

    def _complete(self, operation: Operation) -> None:
        machine, file = self._machine, operation.file
        assert file is not None
        assert machine.loop is not None
        machine.trace.note(f"done {file.path} {operation.pos}")
        res = self._write(operation) if operation.is_write else self._read(operation)
        machine.finish(operation)
        self._results.append((operation.slot, res))
        machine.loop.readable(self.fd)

    def _write(self, operation: Operation) -> int:
        machine, file, data = self._machine, operation.file, operation.data
        assert file is not None
        if bytes(operation.view) != data:
            raise Violation(f"{file.path}: memory changed while it was written")
        code = machine.fault("write", file.path)
        if code:
            machine.files.fail_write(file.inode, operation.pos, data)
            return -code
        if machine.fault("short write", file.path):
            sectors = machine.rng.randrange(len(data) // SECTOR)
            machine.files.fail_write(file.inode, operation.pos, data)
            return sectors * SECTOR
        machine.files.write(file.inode, operation.pos, data, durable=not machine.lies)
        machine.note_proof(operation)
        machine.counts["durable writes"] += 1
        return len(data)

    def _read(self, operation: Operation) -> int:
        machine, file = self._machine, operation.file
        assert file is not None
        code = machine.fault("read", file.path)
        if code:
            return -code
        size = len(operation.view)
        self._was_short = not self._was_short and machine.rng.random() < 0.05
        if self._was_short:  # the kernel may return less, and goes on when it is asked again
            size = machine.rng.randint(1, size)
        data = file.inode.data[operation.pos : operation.pos + size]
        operation.view[: len(data)] = data
        machine.counts["reads"] += 1
        return len(data)
