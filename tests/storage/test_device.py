"""What is under a directory: read from made-up trees of /sys, and from this machine's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage import device
from storage.device import device_of, forgets_syncs, mount_of


def put(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def link(sys: Path, number: str, folder: Path) -> None:
    path = sys / "dev" / "block" / number
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(folder)


def number_of(path: Path) -> str:
    number = path.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def disk(sys: Path, name: str, **facts: str) -> Path:
    folder = sys / "devices" / name
    for key, text in facts.items():
        place = folder / "device" / key if key == "model" else folder / "queue" / key
        put(place, text)
    return folder


def test_a_partition_is_told_with_what_its_disk_says(tmp_path: Path) -> None:
    sys = tmp_path / "sys"
    whole = disk(
        sys, "nvme0n1", model="Fast One", write_cache="write back", fua="1", rotational="0"
    )
    put(whole / "nvme0n1p2" / "partition", "2")
    link(sys, number_of(tmp_path), whole / "nvme0n1p2")
    found = device_of(tmp_path, sys)
    assert found is not None
    assert (found.name, found.model) == ("nvme0n1p2 on nvme0n1", "Fast One")
    assert (found.write_cache, found.fua, found.rotational) == ("write back", True, False)
    assert found.physical_block_bytes is None, "it does not say"
    assert list(found.leaves()) == [found]


def test_what_is_made_of_disks_leads_to_them(tmp_path: Path) -> None:
    sys = tmp_path / "sys"
    mapper = sys / "devices" / "dm-0"
    put(mapper / "dm" / "name", "vg-data")
    for name, cache in (("sda", "write through"), ("sdb", "write back")):
        folder = disk(sys, name, write_cache=cache)
        (mapper / "slaves").mkdir(exist_ok=True)
        (mapper / "slaves" / name).symlink_to(folder)
    link(sys, number_of(tmp_path), mapper)
    found = device_of(tmp_path, sys)
    assert found is not None
    assert found.model == "vg-data"
    assert [(leaf.name, leaf.write_cache) for leaf in found.leaves()] == [
        ("sda", "write through"),
        ("sdb", "write back"),
    ]


def test_a_loop_that_holds_itself_ends(tmp_path: Path) -> None:
    sys = tmp_path / "sys"
    loop = disk(sys, "loop0", write_cache="write back")
    put(loop / "loop" / "backing_file", str(tmp_path / "image"))
    put(tmp_path / "image")
    link(sys, number_of(tmp_path), loop)
    found = device_of(tmp_path, sys)
    assert found is not None
    assert found.backing_file == str(tmp_path / "image")
    assert len(list(found.leaves())) == 1


def test_where_there_is_no_block_device_nothing_is_made_up(tmp_path: Path) -> None:
    assert device_of(tmp_path, tmp_path / "sys") is None


def test_the_mount_of_a_path(tmp_path: Path) -> None:
    mount = mount_of(Path("/proc"))
    assert mount is not None
    assert (mount.kind, mount.point) == ("proc", "/proc")
    assert "rw" in mount.options or "ro" in mount.options


@pytest.mark.parametrize(
    ("text", "plain"), [("/mnt/a\\040b", "/mnt/a b"), ("/plain", "/plain"), ("\\134", "\\")]
)
def test_blanks_of_a_mount_point(text: str, plain: str) -> None:
    assert device._unescaped(text) == plain


@pytest.mark.parametrize("kind", ["fuse", "fuse.sshfs", "fuseblk", "virtiofs"])
def test_file_systems_whose_asynchronous_writes_are_not_synced(kind: str) -> None:
    assert forgets_syncs(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "fusectl", "nfs4"])
def test_file_systems_that_sync_asynchronous_writes(kind: str) -> None:
    assert not forgets_syncs(kind)
