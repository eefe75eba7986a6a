"""Replay the table on any Kafka and print, row by row, what it did.

    python -m tests.hostile --brokers HOST:PORT [--only TEXT] [--differing] [--deadline-s S]

Exits with 1 if a row came out as neither rpk-py nor Apache Kafka is known to answer.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tests.hostile.deviations import DEVIATIONS
from tests.hostile.observe import observe
from tests.hostile.rows import ROWS
from tests.hostile.table import Observed, Row
from tests.hostile.target import Target

_DESCRIPTION = "Send hostile input to a Kafka broker and compare what it does with the table."


def verdict(row: Row, seen: Observed, target: Target) -> str:
    """Which of the two it answered like."""
    if seen.agrees_with(row.expect, target):
        return "as expected"
    kafka = DEVIATIONS.get(row.name)
    if kafka is not None and seen.agrees_with(kafka.expect, target):
        return "as Kafka"
    return "DIFFERENT"


def replay(target: Target, only: str, differing: bool, deadline_s: float) -> Counter[str]:
    """Run the rows whose names have this text; how often there was which verdict."""
    counts: Counter[str] = Counter()
    for row in ROWS:
        if only not in row.name:
            continue
        if target.nodes < row.nodes:
            counts["skipped"] += 1
            if not differing:
                print(f"{row.name}\n    skipped: it needs {row.nodes} brokers")
            continue
        seen = observe(target, row.send(target), max(row.deadline_s, deadline_s))
        result = verdict(row, seen, target)
        counts[result] += 1
        if differing and result == "as expected":
            continue
        print(f"{row.name}\n    {result}: {seen.describe(row.expect)}")
        if result != "as expected":
            print(f"    expected: {row.expect}    ({row.source})")
        if (kafka := DEVIATIONS.get(row.name)) is not None:
            print(f"    Kafka: {kafka.expect}    ({kafka.why})")
        target.check_health()
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=_DESCRIPTION)
    parser.add_argument("--brokers", required=True, metavar="HOST:PORT", help="the broker to ask")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows with this in their name")
    parser.add_argument("--differing", action="store_true", help="leave out what is as expected")
    parser.add_argument(
        "--deadline-s", type=float, default=5.0, help="when to give up on a row (default: 5)"
    )
    options = parser.parse_args()
    host, _, port = options.brokers.partition(":")
    with Target(host, int(port or 9092)) as target:
        counts = replay(target, options.only, options.differing, options.deadline_s)
    print(", ".join(f"{count} {result}" for result, count in sorted(counts.items())))
    return 1 if counts["DIFFERENT"] else 0


if __name__ == "__main__":
    sys.exit(main())
