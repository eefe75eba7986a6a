"""The names that say where a log starts, and what lies below."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.errors import CorruptRecord
from storage.log_start import (
    move_start,
    names_below,
    readable_start_in,
    remove_superseded,
    start_in,
    start_name,
)
from tests.storage.builder import BLOCK, Host, contents, drive


def test_names_tell_the_start_and_what_lies_below() -> None:
    names = [f"{n:020d}{s}" for n in (0, 5, 9) for s in (".wal", ".index")]
    names += [start_name(n) for n in (0, 5, 9)]
    assert start_in(names) == 9
    assert start_in(["x.start", f"{3:020d}.checkpoint", f"{start_name(7)}.tmp"]) == 0
    for start, below in ((0, []), (4, []), (5, [0]), (8, [0]), (9, [0, 5]), (99, [0, 5])):
        expected = [f"{n:020d}{s}" for s in (".index", ".wal") for n in below]
        assert names_below(reversed(names), start) == expected


def test_a_bit_that_turned_in_a_log_starts_name_is_damage(tmp_path: Path) -> None:
    """Not a start further on, where acknowledged records would be given up."""

    async def scenario() -> None:
        driven = await Host(tmp_path, segment_bytes=3 * BLOCK).open()
        for i in range(8):
            await driven.append_durably(b"%d" % i)
        await driven.log.delete_records(4)
        await driven.host.crash()
        (path,) = driven.log.directory.glob("*.start")
        there = contents(driven.log.directory)
        for at in range(29):
            name = bytearray(path.name.encode())
            name[at] ^= 1
            path.rename(turned := path.with_name(name.decode()))
            assert readable_start_in([turned.name]) == 0
            with pytest.raises(CorruptRecord, match="its checksum does not match"):
                await driven.host.next_life().open()
            turned.rename(path)
            assert contents(driven.log.directory) == there
        driven = await driven.host.next_life().open(appended=driven.appended)
        assert driven.log.log_start_offset == 4
        await driven.check()

    drive(scenario())


def test_a_slow_move_does_not_undo_a_later_one(tmp_path: Path) -> None:
    for start in (7, 3):  # the later one was faster
        move_start(tmp_path, start)
        remove_superseded(tmp_path, start)
    assert start_in(os.listdir(tmp_path)) == 7
