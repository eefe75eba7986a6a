"""What a target is, and how one input is judged, whichever engine made it.

A target is `run(data: bytes) -> None`: it returns, or it raises, and then the input is a finding.
`Limits` adds what a target cannot see of itself: an input that takes too long or too much memory.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

SCRATCH_VARIABLE = "RPK_PY_FUZZ_DIR"
HANG_S = 20  # an input that takes longer is interrupted
MEMORY_BYTES_MAX = 256 << 20  # that one input may add to the largest size of the process


class TooSlow(Exception):
    """An input took longer than its target allows."""


class TooLarge(Exception):
    """An input made the process grow too much."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to be fuzzed.

    run       judges one input
    seeds     inputs to start from, made from the project's own golden cases
    seconds   what one input may take; generous, for a machine that does other things too
    share     of the time of a run over all targets
    outside   the code under test runs in another process: no coverage of it here
    close     ends what `run` started, if anything
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    seconds: float = 2.0
    share: float = 1.0
    outside: bool = False
    close: Callable[[], None] = field(default=lambda: None)


class Limits:
    """Judges inputs of one target by time and memory, too; a context manager."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._peak_bytes = 0

    def __enter__(self) -> Limits:
        signal.signal(signal.SIGALRM, _interrupt)
        _forget_peak()
        self._peak_bytes = _peak_bytes()
        return self

    def __exit__(self, *exc: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        with contextlib.suppress(ProcessLookupError):
            self._target.close()

    def try_input(self, data: bytes) -> None:
        """Run one input. Raises what the target raises, TooSlow, TooLarge."""
        target = self._target
        signal.setitimer(signal.ITIMER_REAL, HANG_S)
        started_s = time.process_time() if not target.outside else time.monotonic()
        target.run(data)
        ended_s = time.process_time() if not target.outside else time.monotonic()
        if ended_s - started_s > target.seconds:
            raise TooSlow(f"{ended_s - started_s:.1f} s, {target.seconds:g} s allowed")
        peak_bytes = _peak_bytes()
        grown_bytes, self._peak_bytes = peak_bytes - self._peak_bytes, peak_bytes
        if grown_bytes > MEMORY_BYTES_MAX:
            raise TooLarge(f"{grown_bytes >> 20} MiB more than before")


def scratch() -> Path:
    """Where targets keep files: what the run made and will remove, else memory where it is."""
    given = os.environ.get(SCRATCH_VARIABLE)
    memory = Path("/dev/shm")
    return Path(given) if given else memory if memory.is_dir() else Path("/tmp")


def _forget_peak() -> None:
    """The peak is what the process holds now: growth below an older peak counts, too (proc(5))."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlow(f"no end within {HANG_S} s")
