"""The data directory: what a start makes, takes back, and tells about the file system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rpk_py import data_dir
from rpk_py.startup_error import StartupError


def taken(path: Path) -> int:
    return data_dir.lock(path, 0.1, lambda message: None)


def test_a_failed_start_takes_back_all_that_it_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    made = data_dir.prepare(path)
    assert made == [path, tmp_path / "a"]
    fd = taken(path)
    data_dir.undo(made)
    os.close(fd)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", ["file", "topic-0"])
def test_what_somebody_else_put_there_stays(tmp_path: Path, other: str) -> None:
    path = tmp_path / "data"
    made = data_dir.prepare(path)
    fd = taken(path)
    (path / other).write_text("x")
    data_dir.undo(made)
    os.close(fd)
    assert (path / other).read_text() == "x"
    assert (path / data_dir.LOCK_NAME).exists()


def test_a_directory_that_was_there_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    made = data_dir.prepare(path)
    fd = taken(path)
    data_dir.undo(made)
    os.close(fd)
    assert path.is_dir()


def test_a_lock_whose_file_is_gone_protects_nothing_and_is_refused(tmp_path: Path) -> None:
    first = taken(tmp_path)
    file = tmp_path / data_dir.LOCK_NAME
    file.write_text("1 0\n")  # of a process that is gone: the second one waits for it

    def gone(message: str) -> None:
        file.unlink()
        os.close(first)

    with pytest.raises(StartupError, match="was removed while this start waited"):
        data_dir.lock(tmp_path, 5.0, gone)
    os.close(taken(tmp_path))


def test_the_file_system_is_named(tmp_path: Path) -> None:
    assert data_dir.file_system(Path("/proc")) == "proc"
    assert data_dir.file_system(tmp_path) != "proc"
