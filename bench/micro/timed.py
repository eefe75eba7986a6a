"""Times every hot path under pytest-benchmark; `python -m bench.micro` runs it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bench.micro.paths import PATHS, HotPath


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_time(path: HotPath, benchmark: Any, tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    benchmark(path.make(tmp_path, loop))
    loop.close()
