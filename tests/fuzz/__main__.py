"""`make fuzz`: every target, two processes, two engines; or one target for as long as you like.

The two processes take the targets in turn, one with the engine that is guided by coverage (where
atheris is installed; else with a second seed of ours), the other with our own. The seed is printed
first; a failure comes with its input, its seed and the command that tries it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.target import SCRATCH_VARIABLE, Limits, scratch
from tests.fuzz.targets import TARGETS

FAILURES = Path("build/fuzz")
SHOWN_EACH_S = 30.0
START_S = 2.0  # of a guided worker: imports are instrumented
_COVERAGE = re.compile(r"cov: (\d+) .*corp: (\d+)/")


@dataclass(slots=True)
class Totals:
    """Figures of a whole run; both threads add to it."""

    inputs: int = 0
    failures: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Worker:
    """One of the two processes: its engine on one target after the other."""

    def __init__(self, args: argparse.Namespace, engine: str, seed: str, totals: Totals) -> None:
        self._args = args
        self._engine = engine
        self._seed = seed
        self._totals = totals
        self._directory = Path(tempfile.mkdtemp(prefix="rpk-py-fuzz-", dir=scratch()))
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            names = [n for n in self._args.target if self._fits(n)] or self._args.target
            shares = sum(TARGETS[name].share for name in names)
            for name in names:
                if self._stopped:
                    break
                self._fuzz(name, self._args.seconds * TARGETS[name].share / shares)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    def stop(self) -> None:
        """End it now, without a report; its files are removed."""
        self._stopped = True
        if self._process is not None:
            self._process.terminate()

    def _fits(self, name: str) -> bool:
        return self._engine == "mutation" or not TARGETS[name].outside

    def _fuzz(self, name: str, seconds: float) -> None:
        engine, seed = self._engine, self._seed
        if not self._fits(name):
            engine, seed = "mutation", f"{seed}b"
        found = self._directory / "found" / name
        command = [sys.executable, "-m", "tests.fuzz.worker", engine, name]
        if engine == "guided":
            seconds = max(1.0, seconds - START_S)
        command += ["--seed", seed, "--seconds", f"{seconds:.1f}"]
        command += ["--failures", str(FAILURES), "--found", str(found)]
        environment = {**os.environ, SCRATCH_VARIABLE: str(self._directory)}
        started_s = time.monotonic()
        self._process = process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        )
        facts: dict[str, object] = {"inputs": 0, "corpus": 0, "covered": 0}
        tail: list[str] = []
        shown_s = started_s
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"'):
                facts.update(json.loads(line))
            elif match := _COVERAGE.search(line):
                facts["covered"], facts["corpus"] = int(match[1]), int(match[2])
            elif line.startswith("stat::number_of_executed_units:"):
                facts["inputs"] = int(line.split()[-1])
            else:
                tail = [*tail[-30:], line]
            if time.monotonic() - shown_s > SHOWN_EACH_S:
                shown_s = time.monotonic()
                self._show(name, engine, facts, shown_s - started_s, "")
        code = process.wait()
        if self._stopped:
            return
        self._show(name, engine, facts, time.monotonic() - started_s, " done")
        with self._totals.lock:
            self._totals.inputs += int(str(facts["inputs"]))
        if code or "failure" in facts:
            self._report(name, engine, seed, facts, code, tail)
        elif self._args.keep and engine == "guided":
            self._keep(name, found)

    def _show(
        self, name: str, engine: str, facts: dict[str, object], seconds: float, end: str
    ) -> None:
        inputs = int(str(facts["inputs"]))
        print(
            f"{name:<11} {engine:<8} {inputs:>9,} inputs {inputs / seconds:>8,.0f}/s   "
            f"covered {facts['covered'] or '-':>5}   corpus {facts['corpus']:>5}   "
            f"{seconds:>5.0f} s{end}",
            flush=True,
        )

    def _report(
        self,
        name: str,
        engine: str,
        seed: str,
        facts: dict[str, object],
        code: int,
        tail: list[str],
    ) -> None:
        with self._totals.lock:
            self._totals.failures += 1
            print(f"\nFAILED: target {name}, engine {engine}, seed {seed}, exit code {code}")
            print(facts.get("what") or "".join(tail))
            if "failure" in facts:
                print(f"input: {facts['failure']}")
                print(f"again: make fuzz ARGS='--target {name} {facts['failure']}'")
            print(
                f"or what led to it: make fuzz ARGS='--target {name} --engine {engine} "
                f"--seed {seed} --seconds {self._args.seconds:g}'\n",
                flush=True,
            )

    def _keep(self, name: str, found: Path) -> None:
        """Keep the smallest of what was found: each reached something new when it came."""
        known = {*TARGETS[name].seeds()}
        inputs = [path.read_bytes() for path in sorted(found.iterdir())]
        inputs = sorted({data for data in inputs if data not in known}, key=len)
        count = corpus.replace_found(name, inputs[: self._args.keep])
        print(f"{name}: {count} inputs kept in {corpus.DIRECTORY}")


def replay(name: str, files: list[Path]) -> int:
    """Try these inputs, in their order, on a fresh target."""
    paths = [p for file in files for p in (sorted(file.iterdir()) if file.is_dir() else [file])]
    with Limits(TARGETS[name]) as limits:
        for path in paths:
            limits.try_input(path.read_bytes())
    print(f"{name}: {len(paths)} inputs, nothing failed")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="default: all")
    parser.add_argument("--seconds", type=float, default=140.0, help="of the whole run")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--engine", choices=("both", "guided", "mutation"), default="both")
    parser.add_argument(
        "--keep", type=int, default=0, metavar="N", help="keep up to N new inputs a target"
    )
    parser.add_argument("files", nargs="*", type=Path, help="inputs to try on one --target")
    args = parser.parse_args()
    args.target = args.target or list(TARGETS)
    if args.files:
        return replay(args.target[0], args.files)
    print(f"seed {args.seed}", flush=True)
    FAILURES.mkdir(parents=True, exist_ok=True)
    has_atheris = importlib.util.find_spec("atheris") is not None
    if not has_atheris and args.engine != "mutation":
        print("atheris is not installed here: no coverage guides the inputs")
    engines = ["guided", "mutation"] if args.engine == "both" else [args.engine]
    totals = Totals()
    started_s = time.monotonic()
    workers = [
        Worker(
            args,
            engine if has_atheris else "mutation",
            args.seed if has_atheris or i == len(engines) - 1 else f"{args.seed}b",
            totals,
        )
        for i, engine in enumerate(engines)
    ]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for worker in workers:
            worker.thread.join()
    except KeyboardInterrupt:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.thread.join()
        return 130
    seconds = time.monotonic() - started_s
    print(f"{totals.inputs:,} inputs in {seconds:.0f} s, {totals.failures} failures")
    return 1 if totals.failures else 0


if __name__ == "__main__":
    sys.exit(main())
