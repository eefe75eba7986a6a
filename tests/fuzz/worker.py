"""One target in one process with one engine; started by `python -m tests.fuzz`, a line of JSON each
few seconds and one at the end. A failure's input is a file in the directory that it names.

Engines: `guided` is atheris (libFuzzer): inputs that reach new branches of our code join the
corpus. `mutation` is our own, see mutation.py.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.fuzz import corpus
from tests.fuzz.target import HANG_S, Limits, Target

PROGRESS_S = 5.0
PACKAGES = ["kafka_protocol", "storage", "rpk_py"]


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def start_inputs(target: Target) -> list[bytes]:
    """What a run of a target begins with."""
    return [*corpus.found(target.name).values(), *target.seeds()]


def keep(directory: Path, target: str, data: bytes) -> Path:
    """Write an input to a file that is named after what it holds."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{target}-{hashlib.sha256(data).hexdigest()[:12]}.bin"
    path.write_bytes(data)
    return path


def mutation(name: str, seed: str, seconds: float, failures: Path) -> int:
    """Run our own engine; returns the exit code."""
    from tests.fuzz.mutation import Run, fuzz
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    told_s = time.monotonic()

    def on_progress(run: Run) -> None:
        nonlocal told_s
        if time.monotonic() - told_s > PROGRESS_S:
            told_s = time.monotonic()
            say(inputs=run.inputs, corpus=len(run.corpus), covered=run.lines)

    run = fuzz(target, start_inputs(target), seed, seconds, on_progress)
    say(inputs=run.inputs, corpus=len(run.corpus), covered=run.lines)
    if run.failure is None:
        return 0
    data, error = run.failure
    path = keep(failures, name, data)
    say(failure=str(path), what="".join(traceback.format_exception(error, limit=-8)))
    return 1


def guided(name: str, seed: str, seconds: float, failures: Path, found: Path) -> int:
    """Run atheris; new inputs of its corpus stay in `found`. Does not return."""
    import atheris

    with atheris.instrument_imports(include=PACKAGES):
        target: Target = importlib.import_module("tests.fuzz.targets").TARGETS[name]
    found.mkdir(parents=True, exist_ok=True)
    for data in start_inputs(target):
        (found / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:3], "big") + 1
    told_s = time.monotonic()
    inputs = 0
    limits = Limits(target)

    def run(data: bytes) -> None:
        nonlocal told_s, inputs
        inputs += 1
        try:
            limits.try_input(data)
        except Exception as error:
            path = keep(failures, name, data)
            what = "".join(traceback.format_exception(error, limit=-8))
            say(inputs=inputs, failure=str(path), what=what)
            raise
        if inputs % 64 == 0 and time.monotonic() - told_s > PROGRESS_S:
            told_s = time.monotonic()
            say(inputs=inputs)

    with limits:
        options = [f"-seed={number}", f"-max_total_time={max(1, round(seconds))}"]
        options += [f"-timeout={HANG_S + 10}", "-rss_limit_mb=4096", "-max_len=16384"]
        options += ["-print_final_stats=1", f"-artifact_prefix={failures}/{name}-"]
        atheris.Setup([sys.argv[0], *options, str(found)], run)
        atheris.Fuzz()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=("guided", "mutation"))
    parser.add_argument("target")
    parser.add_argument("--seed", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--failures", type=Path, required=True)
    parser.add_argument("--found", type=Path, required=True)
    args = parser.parse_args()
    if args.engine == "guided":
        return guided(args.target, args.seed, args.seconds, args.failures, args.found)
    return mutation(args.target, args.seed, args.seconds, args.failures)


if __name__ == "__main__":
    sys.exit(main())
