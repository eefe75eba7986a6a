"""No hot path takes more memory a call than bench/micro/paths.py says; timing is no test."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.micro.paths import PATHS, HotPath, measure


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_path_takes_no_more_than_its_bound(path: HotPath, tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    try:
        found = measure(path.make(tmp_path, loop))
    finally:
        loop.close()
    for what in ("held", "left", "peak_bytes"):
        now, most = getattr(found, what), getattr(path.bound, what)
        assert now <= most, f"{path.name}: {what} grew from at most {most:g} to {now:g} a call"
