"""The disk that fails on demand fails as disks do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.crash.fuse_disk import Fault, FuseDisk, FuseUnavailable


def test_a_name_of_an_open_file_stays_where_a_rename_to_it_fails(tmp_path: Path) -> None:
    """rename(2): an existing name keeps its file. libfuse moves an open one away beforehand."""
    try:
        disk = FuseDisk(tmp_path / "below", tmp_path / "disk", Fault("rename", 1, "EIO"))
    except FuseUnavailable as error:
        pytest.skip(str(error))
    places = disk.path, tmp_path / "below"
    try:
        for name in ("old", "new"):
            (disk.path / name).write_text(name)
        with (disk.path / "old").open() as held:
            with pytest.raises(OSError, match="old") as raised:
                os.rename(disk.path / "new", disk.path / "old")
            assert raised.value.errno == errno.EIO
            assert disk.met
            assert [(place / "old").read_text() for place in places] == ["old", "old"]
            os.rename(disk.path / "new", disk.path / "old")
            assert [(place / "old").read_text() for place in places] == ["new", "new"]
            assert held.read() == "old"
    finally:
        disk.close()
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["old"]
