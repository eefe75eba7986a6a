"""Run the storage simulator: `python -m tests.sim.storage --seed 7`, or `--seconds 300`.

Without --seed or --seeds a run begins with a seed of its own, so that no two runs are alike.

One seed prints its trace's hash; a run of many prints its progress and, at the end, how many lives,
operations and faults there were. The first seed that fails ends it: the end of its trace is
printed, and the command that does the same again. Exit code 1 then.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.sim.storage.world import World, simulate

COMMAND = "python -m tests.sim.storage"
PROGRESS_S = 10.0
SEEDS_A_TURN = 20


class Outcome(NamedTuple):
    """Of some seeds, up to the first that failed."""

    seeds: int
    counts: Counter[str]
    failure: str


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns its exit code."""
    options = _parser().parse_args(arguments)
    if options.seed is not None:
        return _run_one(options.seed)
    first, _colon, last = (options.seeds or f"{time.time_ns() // 1000}:").partition(":")
    seeds = range(int(first), int(last) if last else sys.maxsize)
    print(f"first seed {seeds[0]}, {options.jobs} processes", flush=True)
    return _run_many(seeds, options.seconds, options.jobs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=COMMAND, description="the storage simulator")
    parser.add_argument("--seed", type=int, help="run this one and print its hash")
    parser.add_argument("--seeds", metavar="A:B", help="from A, up to before B; default: new ones")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after that long")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    return parser


def _run_one(seed: int) -> int:
    print(f"seed {seed}", flush=True)
    outcome = run_seeds([seed])
    if outcome.failure:
        print(outcome.failure)
        return 1
    print(_report(outcome.counts))
    return 0


def run_seeds(seeds: Iterable[int]) -> Outcome:
    """Run them one after the other."""
    counts: Counter[str] = Counter()
    done = 0
    for seed in seeds:
        try:
            world = simulate(seed)
        except Exception as error:
            return Outcome(done, counts, _describe(seed, error))
        done += 1
        counts.update(world.machine.counts)
        counts["operations"] += world.operations
        counts["steps"] += world.machine.trace.lines
        counts[f"trace {world.machine.trace.digest}"] += 1
    if done > 1:  # hashes are for one seed
        for name in [name for name in counts if name.startswith("trace ")]:
            del counts[name]
    return Outcome(done, counts, "")


def _describe(seed: int, error: Exception) -> str:
    world: World | None = getattr(error, "world", None)
    lines = [] if world is None else [f"  {line}" for line in world.machine.trace.tail]
    return "\n".join(
        [
            *lines,
            "".join(traceback.format_exception(error)),
            f"seed {seed} failed: {error}",
            f"to see it again: {COMMAND} --seed {seed}",
        ]
    )


def _turns(seeds: range, deadline_s: float) -> Iterator[range]:
    for start in range(seeds.start, seeds.stop, SEEDS_A_TURN):
        if time.monotonic() > deadline_s:
            return
        yield range(start, min(start + SEEDS_A_TURN, seeds.stop))


def _run_many(seeds: range, seconds: float, jobs: int) -> int:
    started_s = told_s = time.monotonic()
    total: Counter[str] = Counter()
    done = 0
    turns = _turns(seeds, started_s + seconds)
    with multiprocessing.Pool(jobs) as pool:
        waiting: list[Any] = []
        while True:
            while len(waiting) < 2 * jobs and (turn := next(turns, None)) is not None:
                waiting.append(pool.apply_async(run_seeds, (turn,)))
            if not waiting:
                break
            outcome = waiting.pop(0).get()
            done += outcome.seeds
            total.update(outcome.counts)
            if outcome.failure:
                print(outcome.failure)
                return 1
            if time.monotonic() - told_s > PROGRESS_S:
                told_s = time.monotonic()
                crashes = total["crashes"]
                print(f"{told_s - started_s:.0f} s: {done} seeds, {crashes} crashes", flush=True)
    print(f"{done} seeds in {time.monotonic() - started_s:.0f} s, no violation")
    print(_report(total))
    return 0


def _report(counts: Counter[str]) -> str:
    return "\n".join(f"  {name:44} {count:>12,}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
