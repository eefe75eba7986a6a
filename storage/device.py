"""What is under a directory: its file system, how it is mounted, and the devices below.

Blocking, for tools. Everything is read from /proc/self/mountinfo and /sys; what these do not say is
None, and nothing is guessed: whether a device keeps its promises nobody can ask it.
Source: proc(5); Documentation/ABI/stable/sysfs-block of Linux (write_cache, fua, rotational).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "rootfs"})
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "virtiofs", "afs"})
LAYERED = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})
DEPTH_MAX = 8  # of devices upon devices
FUSE = frozenset({"fuse", "fuseblk", "virtiofs"})  # and fuse.<whose>


class Mount(NamedTuple):
    """A line of mountinfo: the file system's type, its source, where and how it is mounted."""

    kind: str
    source: str
    point: str
    options: list[str]


@dataclass(slots=True)
class BlockDevice:
    """One block device; `below` are those that it is made of (a loop's: of its file's device)."""

    name: str
    model: str | None = None
    write_cache: str | None = None  # "write back": volatile, flushed by a sync; "write through"
    fua: bool | None = None  # a durable write needs no flush of its own
    rotational: bool | None = None
    physical_block_bytes: int | None = None
    backing_file: str | None = None
    below: list[BlockDevice] = field(default_factory=list)

    def leaves(self) -> Iterator[BlockDevice]:
        """The devices at the bottom."""
        if not self.below:
            yield self
        for each in self.below:
            yield from each.leaves()


def mount_of(path: Path) -> Mount | None:
    """The mount that a path is on, None where it is not told. Raises OSError."""
    number = path.stat().st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
        for line in table:
            fields, _, rest = line.partition(" - ")
            parts, kinds = fields.split(), rest.split()
            if len(parts) > 5 and len(kinds) > 2 and parts[2] == wanted:
                options = parts[5].split(",") + kinds[2].split(",")
                mount = Mount(
                    kinds[0], kinds[1], _unescaped(parts[4]), list(dict.fromkeys(options))
                )
                if found is None or len(found.point) < len(mount.point):
                    found = mount
    return found


def forgets_syncs(kind: str) -> bool:
    """Whether a file system of this type completes a durable write of io_uring without a sync.

    FUSE does where that write is asynchronous and direct: its completion lacks the sync which
    other file systems do there, and a synchronous write gets (fuse_aio_complete and
    generic_write_sync in fs/fuse/file.c of Linux, to 6.18 at least; seen with a FUSE file system).
    """
    return kind in FUSE or kind.startswith("fuse.")


def device_of(path: Path, sys: Path = Path("/sys"), depth: int = 0) -> BlockDevice | None:
    """The block device that holds a path, None where there is none (tmpfs, overlay, network)."""
    number = os.stat(path).st_dev
    folder = sys / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    if not folder.exists() or depth > DEPTH_MAX:
        return None
    return _device(folder.resolve(), sys, depth)


def _device(folder: Path, sys: Path, depth: int) -> BlockDevice:
    if (folder / "partition").exists():  # what is asked of a disk stands with the disk
        device = _device(folder.parent, sys, depth)
        device.name = f"{folder.name} on {device.name}"
        return device
    queue = folder / "queue"
    device = BlockDevice(
        name=folder.name,
        model=_text(folder / "device" / "model") or _text(folder / "dm" / "name"),
        write_cache=_text(queue / "write_cache"),
        fua=_flag(queue / "fua"),
        rotational=_flag(queue / "rotational"),
        physical_block_bytes=_number(queue / "physical_block_size"),
        backing_file=_text(folder / "loop" / "backing_file"),
    )
    if depth >= DEPTH_MAX:
        return device
    if device.backing_file is not None and os.path.exists(device.backing_file):
        below = device_of(Path(device.backing_file), sys, depth + 1)
        device.below = [below] if below is not None else []
    elif (folder / "slaves").is_dir():
        slaves = sorted((folder / "slaves").iterdir())
        device.below = [_device(slave.resolve(), sys, depth + 1) for slave in slaves]
    return device


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdecimal() else None


def _flag(path: Path) -> bool | None:
    number = _number(path)
    return None if number is None else bool(number)


def _unescaped(text: str) -> str:
    """mountinfo has blanks and their kin as octal numbers."""
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text
