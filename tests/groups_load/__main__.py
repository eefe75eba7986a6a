"""The command: python -m tests.groups_load --seconds 300 --members 20 --seed 1

Several groups, a client library each, read one topic while their members join, leave, freeze, are
killed with -9 and come back, and while the broker's shards are killed with -9 in turn. Progress
goes to stderr, one JSON document to stdout; exit code 1 if a promise was broken. history.py says
what is checked and how ownership is counted.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.groups_load.load import Options, run
from tests.groups_load.members import CLIENTS


def main() -> int:
    """Run it. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="of disturbance")
    parser.add_argument("--members", type=int, default=20, help="of all groups together")
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rate", type=int, default=4000, help="records written a second")
    parser.add_argument("--seed", type=int, help="decides what happens to whom, and when")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=CLIENTS)
    parser.add_argument("--shard-kill-s", type=float, default=20.0, help="0: never")
    parser.add_argument("--brokers", default="", help="a cluster that runs: HOST:PORT,...")
    parser.add_argument("--directory", type=Path, help="parent of the data; kept after a fault")
    parser.add_argument("--keep", action="store_true", help="keep the data in any case")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(2**32)
    directory = Path(tempfile.mkdtemp(prefix="rpk-groups-", dir=given.directory))
    print(f"--seed {seed} in {directory}", file=sys.stderr, flush=True)
    result = run(
        Options(
            seconds=given.seconds,
            seed=seed,
            directory=directory,
            members=given.members,
            partitions=given.partitions,
            shards=given.shards,
            per_s=given.rate,
            clients=tuple(given.clients),
            shard_kill_s=given.shard_kill_s,
            brokers=given.brokers,
        ),
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(json.dumps({"seed": seed, "seconds": given.seconds, **result.report()}, indent=2))
    if result.all_faults:
        print(f"NOT KEPT: --seed {seed}; all files are in {directory}", file=sys.stderr)
        return 1
    if not given.keep:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
