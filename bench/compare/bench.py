"""What every measurement is given: cores, a folder, the generators."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from bench.generators.java import JavaTools


@dataclass
class Bench:
    """`seconds` scales each measurement; `java` is None where there is no Kafka.

    Cores: brokers run on `broker_cores`, generators on `generator_cores`.
    """

    directory: Path
    seconds: float
    broker_cores: list[int]
    generator_cores: list[int]
    java: JavaTools | None
    facts: dict[str, str] = field(default_factory=dict)

    def settle(self) -> None:
        """Have the kernel write what a peer left dirty, so that the next one does not pay it."""
        os.sync()

    def drop_page_cache(self) -> bool:
        """Make files cold; False where that is not allowed."""
        os.sync()
        try:
            Path("/proc/sys/vm/drop_caches").write_text("3")
        except OSError:
            return False
        return True
