"""The checksum is CRC-32C, and comes without what its package brings for its command line."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import PathFinder

import crc32c as package
import pytest

from kafka_protocol import checksum


def test_it_is_crc_32c() -> None:
    """The check value of the catalogue of CRCs, and of a text in two pieces."""
    assert checksum.crc32c(b"123456789") == 0xE3069283
    assert checksum.crc32c(b"56789", checksum.crc32c(b"1234")) == 0xE3069283


def test_no_command_line_is_imported_for_it() -> None:
    """A start pays for every module."""
    code = "import sys, kafka_protocol.record_batch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"argparse", "email", "importlib.metadata"} & set(done.stdout.split())


def test_a_package_of_another_layout_is_imported_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of its module of machine code is its own affair."""
    monkeypatch.setattr(PathFinder, "find_spec", lambda *_: None)
    assert checksum._extension() is package
