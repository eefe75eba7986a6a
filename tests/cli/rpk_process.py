"""The real `rpk-py` as a process, for tests: its arguments in, what it printed out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

ENDS_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The words of each line of a table, without its headers."""
        return [line.split() for line in self.out.splitlines()[1:]]


def rpk(*arguments: object, brokers: str | None = None, stdin: str = "", **env: str) -> Ended:
    """Run a command; `brokers` goes to RPK_BROKERS."""
    variables = {name: value for name, value in os.environ.items() if name != "RPK_BROKERS"}
    if brokers is not None:
        variables["RPK_BROKERS"] = brokers
    done = subprocess.run(
        [sys.executable, "-m", "rpk_py", *map(str, arguments)],
        input=stdin,
        env={**variables, **env},
        capture_output=True,
        text=True,
        timeout=ENDS_S_MAX,
    )
    return Ended(done.returncode, done.stdout, done.stderr)
