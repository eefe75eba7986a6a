"""The engine that is always there: seeded variants of the corpus, guided where that is cheap.

On Python 3.12 and later `sys.monitoring` tells the first time that a line runs, at no cost after
that, so an input that reaches a new line joins the corpus. On 3.11 the corpus stays as it is.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from tests.fuzz.mutator import mutate
from tests.fuzz.target import Limits, Target

ROOTS = ("/kafka_protocol/", "/storage/", "/rpk_py/")  # whose lines count
_LOOK_EACH = 64  # inputs between two looks at the clock
_TOOL = "fuzz"


@dataclass(slots=True)
class Run:
    """What a run of one target came to. `failure` is (input, what was raised)."""

    inputs: int = 0
    corpus: list[bytes] = field(default_factory=list)
    lines: int = 0
    seconds: float = 0.0
    failure: tuple[bytes, BaseException] | None = None


class Lines:
    """Counts lines that ran for the first time, where this Python can; a context manager."""

    def __init__(self) -> None:
        self.count = 0
        self._monitoring: Any = getattr(sys, "monitoring", None)

    def __enter__(self) -> Lines:
        if self._monitoring is not None:
            tool = self._monitoring.COVERAGE_ID
            self._monitoring.use_tool_id(tool, _TOOL)
            self._monitoring.register_callback(tool, self._monitoring.events.LINE, self._on_line)
            self._monitoring.set_events(tool, self._monitoring.events.LINE)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._monitoring is not None:
            tool = self._monitoring.COVERAGE_ID
            self._monitoring.set_events(tool, 0)
            self._monitoring.register_callback(tool, self._monitoring.events.LINE, None)
            self._monitoring.free_tool_id(tool)

    def _on_line(self, code: CodeType, _line: int) -> Any:
        if any(root in code.co_filename for root in ROOTS):
            self.count += 1
        return self._monitoring.DISABLE


def fuzz(
    target: Target,
    corpus: list[bytes],
    seed: str,
    seconds: float,
    on_progress: Callable[[Run], None] = lambda _run: None,
    inputs_max: int = 1 << 62,
) -> Run:
    """Try the corpus, then variants of it, until time or inputs are over or one fails."""
    rng = random.Random(f"{seed}/{target.name}")
    run = Run(corpus=list(corpus))
    started_s = time.monotonic()
    with Limits(target) as limits, Lines() as lines:
        while run.inputs < inputs_max:
            if run.inputs < len(corpus):
                data = corpus[run.inputs]
            else:
                data = mutate(rng.choice(run.corpus), run.corpus, rng)
            before = lines.count
            try:
                limits.try_input(data)
            except Exception as error:
                run.failure = (data, error)
                break
            run.inputs += 1
            if lines.count > before and run.inputs > len(corpus):
                run.corpus.append(data)
            if run.inputs % _LOOK_EACH == 0:
                run.lines, run.seconds = lines.count, time.monotonic() - started_s
                on_progress(run)
                if run.seconds >= seconds:
                    break
    run.lines, run.seconds = lines.count, time.monotonic() - started_s
    return run
