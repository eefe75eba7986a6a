"""Produce and consume through kcat, the command-line client on librdkafka."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable

import pytest

from tests.clients.broker import RunningBroker
from tests.clients.records import Rec

RUN_S_MAX = 20.0
KEY_DELIMITER = "\t"
_LINE = re.compile(rb"(-?\d+) (-?\d+) (-?\d+) (-?\d+) ([^\n]*)\n")


def require_kcat() -> None:
    """Skip the test where kcat is not installed."""
    if shutil.which("kcat") is None:
        pytest.skip("kcat is not installed: apt-get install kcat")


def run(broker: RunningBroker, *arguments: str, stdin: bytes = b"") -> bytes:
    """Run kcat against the broker; returns what it prints. Raises when it fails."""
    command = ["kcat", "-b", broker.address, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=RUN_S_MAX, check=False)
    assert done.returncode == 0, f"{command} said {done.returncode}: {done.stderr.decode()}"
    return done.stdout


def produce(
    broker: RunningBroker, topic: str, records: Iterable[Rec], *options: str, partition: int = 0
) -> None:
    """Write records of text (no tabs or newlines; key and value given); kcat sets timestamps."""
    lines = []
    for record in records:
        assert record.key is not None
        assert record.value is not None
        lines.append(record.key + KEY_DELIMITER.encode() + record.value + b"\n")
    where = ("-P", "-t", topic, "-p", str(partition), "-K", KEY_DELIMITER)
    run(broker, *where, *options, stdin=b"".join(lines))


def consume(
    broker: RunningBroker, topic: str, start: str = "beginning", partition: int = 0, *options: str
) -> list[tuple[int, Rec]]:
    """Read to the end of the partition: (offset, record); headers as kcat prints them."""
    where = ("-C", "-t", topic, "-p", str(partition), "-o", start, "-e", "-q")
    quick = ("-X", "fetch.wait.max.ms=20")
    # Lengths first, so that any byte may follow; -1 is null.
    return parse(run(broker, *where, *quick, "-f", r"%o %T %K %S %h\n%k%s", *options))


def parse(output: bytes) -> list[tuple[int, Rec]]:
    """The records in what kcat printed."""
    read = []
    pos = 0
    while pos < len(output):
        line = _LINE.match(output, pos)
        assert line is not None, output[pos : pos + 80]
        offset, timestamp_ms, key_bytes, value_bytes = (int(line[i]) for i in range(1, 5))
        headers = tuple(
            (name.decode(), value)
            for name, _, value in (item.partition(b"=") for item in line[5].split(b",") if item)
        )
        key_pos = line.end()
        value_pos = key_pos + max(key_bytes, 0)
        pos = value_pos + max(value_bytes, 0)
        key = output[key_pos:value_pos] if key_bytes >= 0 else None
        value = output[value_pos:pos] if value_bytes >= 0 else None
        read.append((offset, Rec(key, value, headers, timestamp_ms)))
    return read
