"""The blocking file helpers of storage/disk.py and the aligned buffers."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from storage import disk as disk_module
from storage.buffers import aligned_buffer
from storage.disk import (
    alignment,
    allocate,
    fsync_dir,
    lock_exclusive,
    open_segment,
    write_file_atomic,
)
from storage.errors import LockTimeout, StorageError


def address_of(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


@pytest.mark.parametrize("align", [512, 4096, 65536])
@pytest.mark.parametrize("size", [0, 1, 512, 4097, 1 << 20])
def test_a_buffer_is_aligned_zeroed_and_exactly_as_long_as_asked(size: int, align: int) -> None:
    memory, view = aligned_buffer(size, align)
    assert len(view) == size
    assert view == bytes(size)
    assert not view.readonly
    assert view.obj is memory
    if size:
        assert address_of(view) % align == 0
        view[-1] = 7
        assert 7 in memory


def test_a_segment_is_opened_for_direct_io(segment_path: Path) -> None:
    fd, direct = open_segment(segment_path, create=True)
    try:
        if not direct:
            pytest.skip("the file system of the temporary directory refuses O_DIRECT")
        flags = next(
            int(line.split()[1], 8)
            for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
            if line.startswith("flags:")
        )
        assert flags & os.O_DIRECT
        assert flags & os.O_CLOEXEC
        assert flags & os.O_RDWR
    finally:
        os.close(fd)


def test_where_direct_io_is_refused_the_segment_is_opened_synchronous(
    segment_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_really = os.open
    flags_seen: list[int] = []

    def refuse_direct(path: Path, flags: int, mode: int = 0o777) -> int:
        flags_seen.append(flags)
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        return open_really(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse_direct)
    fd, direct = open_segment(segment_path, create=True)
    os.close(fd)
    assert not direct
    assert flags_seen[1] & os.O_DSYNC


def test_other_errors_of_opening_are_raised(segment_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_segment(segment_path)


def test_buffered_io_can_be_asked_for(segment_path: Path) -> None:
    fd, direct = open_segment(segment_path, create=True, direct=False)
    assert not direct
    assert os.pwrite(fd, b"unaligned", 3) == 9
    os.close(fd)


def test_alignment_is_a_block_size_that_the_file_system_accepts(segment_path: Path) -> None:
    fd, _direct = open_segment(segment_path, create=True)
    try:
        align = alignment(fd)
        assert align == alignment(segment_path) == alignment(str(segment_path))
        assert align in [512 << shift for shift in range(8)]
        _memory, view = aligned_buffer(align, align)
        assert os.pwritev(fd, [view], align) == align
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("dio", "physical", "preferred", "expected"),
    [
        (0, 0, 4096, 4096),
        (512, 512, 4096, 4096),
        (512, 16384, 4096, 16384),
        (4096, 4096, 512, 4096),
        (0, 0, 1 << 20, 65536),
        (0, 0, 1, 512),
        (0, 0, 6000, 8192),
    ],
)
def test_alignment_is_the_largest_of_three_within_bounds(
    dio: int, physical: int, preferred: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "_dio_offset_align", lambda _target: dio)
    monkeypatch.setattr(disk_module, "_physical_block", lambda _device: physical)
    monkeypatch.setattr(os, "stat", lambda _target: SimpleNamespace(st_dev=0, st_blksize=preferred))
    assert alignment("any") == expected


def test_a_libc_without_statx_is_enough(
    segment_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment_path.touch()
    monkeypatch.setattr(disk_module, "_libc", SimpleNamespace())
    assert alignment(segment_path) >= 512


def test_where_the_file_system_cannot_reserve_the_file_is_only_extended(
    segment_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr(disk_module, "_libc", SimpleNamespace(fallocate=refuse))
    with open(segment_path, "wb+") as file:
        allocate(file.fileno(), 0, 8192)
        allocate(file.fileno(), 0, 4096)  # never shortens
        assert os.fstat(file.fileno()).st_size == 8192


@pytest.fixture
def locked(segment_path: Path) -> tuple[int, Callable[[], None]]:
    """A second open file of the segment whose lock somebody holds: (fd, release)."""
    segment_path.touch()
    holder = os.open(segment_path, os.O_RDWR)
    lock_exclusive(holder, 0)
    return os.open(segment_path, os.O_RDWR), lambda: os.close(holder)


def test_a_lock_is_waited_for_and_the_wait_is_told_once(
    locked: tuple[int, Callable[[], None]], segment_path: Path
) -> None:
    fd, release = locked
    messages: list[str] = []

    def on_wait(message: str) -> None:
        messages.append(message)
        release()

    lock_exclusive(fd, 5, on_wait)
    assert len(messages) == 1
    assert str(segment_path) in messages[0]
    os.close(fd)


def test_a_lock_that_stays_taken_times_out_naming_the_file_and_its_owner(
    locked: tuple[int, Callable[[], None]], segment_path: Path
) -> None:
    fd, release = locked
    with pytest.raises(LockTimeout) as caught:
        lock_exclusive(fd, 0.02)
    assert isinstance(caught.value, StorageError)
    assert str(segment_path) in str(caught.value)
    assert f"process {os.getpid()}" in str(caught.value)
    release()
    os.close(fd)


def test_a_free_lock_is_taken_without_a_word(segment_path: Path) -> None:
    fd, _direct = open_segment(segment_path, create=True)
    lock_exclusive(fd, 0, pytest.fail)
    lock_exclusive(fd, 0, pytest.fail)  # again by the same open file: no deadlock with itself
    os.close(fd)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.with_name("facts.json.tmp").write_bytes(b"left by a crash, and longer than the new file")
    write_file_atomic(path, b"one")
    write_file_atomic(path, memoryview(bytearray(b"two")))
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_replacement_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "facts.json"
    write_file_atomic(path, b"old")

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_file_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_syncing_a_directory_needs_a_directory(tmp_path: Path) -> None:
    fsync_dir(tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError):
        fsync_dir(file)
