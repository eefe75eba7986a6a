"""A disk that fails at its n-th operation: EIO, ENOSPC and short writes, through FUSE.

    python -m tests.crash.failing [--step N] [--seed N]

The engine lives on fuse_disk.py, which fails one operation (ENOSPC: all from there on). Partitions
that meet it go offline and say why; the others go on. Then every log is opened on the directory
below, a healthy disk, and held to what was acknowledged.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from storage.errors import StorageError
from tests.crash.engine import PARTITIONS, Engine, Ledger, Lost, Shared, start_life
from tests.crash.fuse_disk import Fault, FuseDisk

APPENDS = 40
KINDS = (
    *(("write", "EIO"), ("write", "ENOSPC"), ("write", "short"), ("fsync", "EIO")),
    *(("fallocate", "ENOSPC"), ("fallocate", "EIO"), ("create", "ENOSPC"), ("rename", "EIO")),
    *(("read", "EIO"), ("truncate", "EIO"), ("unlink", "EIO"), ("mkdir", "ENOSPC")),
    ("fsyncdir", "EIO"),
)
FOR_EVER = 1 << 30


@dataclass(slots=True)
class Result:
    """`faults` that were met, by kind; `records` read back; of all lives, how many `partitions`
    went offline and how many `served` to their end; `lost` is what the judge said first.
    `control`: after how many faults an engine that acknowledges what it has not written was found
    out."""

    faults: dict[str, int] = field(default_factory=dict)
    records: int = 0
    offline: int = 0
    served: int = 0
    lost: str | None = None
    control: int | None = None


def run(
    folder: Path, seed: int, step: int = 1, kinds: tuple[tuple[str, str], ...] = KINDS,
    first: int = 1, say: Callable[[str], None] = lambda _text: None,
) -> Result:  # fmt: skip
    """Every `step`-th operation of each kind from `first` on, until one has no fault to meet."""
    result = Result()
    for op, error in kinds:
        for nth in itertools.count(first, step):
            fault = Fault(op, nth, error, FOR_EVER if error == "ENOSPC" else 1)
            met = _one(folder, seed, fault, result)
            if result.lost is not None:
                return result
            if not met:
                break
            key = f"{op} {error}"
            result.faults[key] = result.faults.get(key, 0) + 1
        say(f"{op} {error}: {result.faults.get(f'{op} {error}', 0)} faults")
    liar = Result()
    for number, nth in enumerate(range(4, 40, 4), 1):
        _one(folder, seed, Fault("write", nth, "EIO"), liar, lying=True)
        if liar.lost is not None:
            result.control = number
            break
    return result


def _one(folder: Path, seed: int, fault: Fault, result: Result, lying: bool = False) -> bool:
    """One life and its judgement; whether the fault was met: something did not go as ever."""
    place = folder / f"{fault.op}-{fault.error}-{fault.nth}-{lying}"
    place.mkdir()
    shared, ledger = Shared(), Ledger(seed)
    disk = FuseDisk(place / "below", place / "disk", fault)
    try:
        engine = Engine(place / "disk" / "data", "threads")
        pid = start_life(engine, shared, seed, 0, APPENDS, lying=lying)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        disk.close()
    served = sum(shared.get(i)[0] == APPENDS for i in range(PARTITIONS))
    result.served += served
    result.offline += PARTITIONS - served
    where = f"{fault}, seed {seed}"
    if code not in (0, 1):
        result.lost = f"{where}: the engine ended with code {code}"
    try:
        ledger.judge(Engine(place / "below" / "data", "threads"), shared, 0)
    except (Lost, StorageError) as error:
        result.lost = f"{where}: {error}"
    result.records += ledger.records
    met = disk.met
    shutil.rmtree(place)
    return met


def main() -> int:
    """The command; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="failing.") as folder:
        result = run(
            Path(folder), args.seed, args.step, KINDS, 1, lambda text: print(text, flush=True)
        )
    print(result)
    return int(result.lost is not None or result.control is None)


if __name__ == "__main__":
    sys.exit(main())
