"""The commands under test, each in a process of its own, as a person starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.clients.broker import ROOT

TIMEOUT_S = 60.0


def command(name: str, *arguments: str) -> list[str]:
    """The command line of `topic NAME`."""
    return [sys.executable, "-m", "rpk_py", "topic", name, *arguments]


def run(
    name: str, brokers: str, *arguments: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end, whatever that is."""
    return subprocess.run(
        command(name, *arguments, "--brokers", brokers),
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        cwd=ROOT,
        check=False,
    )


def start(name: str, brokers: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start it with pipes at all ends."""
    return subprocess.Popen(
        command(name, *arguments, "--brokers", brokers),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )


def produced(brokers: str, topic: str, stdin: bytes, *arguments: str) -> bytes:
    """What a produce that must succeed prints."""
    result = run("produce", brokers, topic, "--allow-auto-topic-creation", *arguments, stdin=stdin)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def consumed(brokers: str, topic: str, *arguments: str) -> bytes:
    """What a consume that must succeed prints, by default up to the present end."""
    offset: Sequence[str] = () if "-o" in arguments else ("-o", ":end")
    result = run("consume", brokers, topic, *offset, *arguments)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def consumed_records(brokers: str, topic: str, *arguments: str) -> list[dict[str, Any]]:
    """The JSON objects of `consume -f json`."""
    lines = consumed(brokers, topic, "-f", "json", *arguments).splitlines()
    return [json.loads(line) for line in lines]
