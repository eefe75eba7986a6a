"""A generator in a process of its own: started, told to go, and its figures taken.

A generator of ours is a module that is run with one JSON object as its argument. It prints `ready`
when it is warm, waits for a line, works, and prints a JSON object of numbers. So what it does
before is in nobody's CPU.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.peers.server import Target, reset_peak, tree_cpu_s, tree_peak_mb

READY = "ready"
GENERATOR_S_MAX = 300.0


Work = Callable[[], dict[str, float]]


class GeneratorFailed(Exception):
    """A generator that ended with an error; the text is what it said last."""


def measured(target: Target, work: Work) -> dict[str, float]:
    """`work`'s figures with the broker's CPU and peak memory meanwhile."""
    pid = target.server.pid
    reset_peak(pid)
    cpu_s, start_s = tree_cpu_s(pid), time.perf_counter()
    figures = work()
    figures.setdefault("wall_s", time.perf_counter() - start_s)
    figures["broker_cpu_s"] = tree_cpu_s(pid) - cpu_s
    figures["peak_mb"] = tree_peak_mb(pid)
    return figures


def run_module(target: Target, module: str, cores: list[int], **arguments: Any) -> dict[str, float]:
    """Run a generator of ours against `target`; its figures and the broker's."""
    watch = partial(measured, target)
    return run_generator(module, cores, watch, address=target.address, **arguments)


def run_generator(
    module: str,
    cores: list[int],
    watch: Callable[[Work], dict[str, float]] = lambda work: work(),
    **arguments: Any,
) -> dict[str, float]:
    """Run a generator of ours on `cores`; `watch` is given what happens from `go` on."""
    text = json.dumps(arguments)
    process = subprocess.Popen(
        [sys.executable, "-m", f"bench.generators.{module}", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    to, told = process.stdin, process.stdout

    def work() -> dict[str, float]:
        cpu_s = tree_cpu_s(process.pid)
        to.write("go\n")
        to.flush()
        line = told.readline()
        if not line.startswith("{"):
            raise GeneratorFailed(f"{module} failed: {text}")
        figures: dict[str, float] = json.loads(line)
        figures["generator_cpu_s"] = tree_cpu_s(process.pid) - cpu_s
        return figures

    try:
        if told.readline().strip() != READY:
            raise GeneratorFailed(f"{module} was not ready: {text}")
        return watch(work)
    finally:
        process.kill()
        process.wait()


def serve(work: Callable[..., Work]) -> None:
    """A generator's main: `work(**arguments)` gets warm and returns what measures."""
    run = work(**json.loads(sys.argv[1]))
    gc.collect()
    gc.disable()  # its pauses are no broker's; a run is short
    print(READY, flush=True)
    sys.stdin.readline()
    print(json.dumps(run()), flush=True)
