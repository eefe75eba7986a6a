"""A disk that can lose power: ext4 or XFS on a loop device, shut down by ioctl as if the plug was
pulled.

The ioctl (EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN: the same number) without a log flush makes the file
system refuse everything from that moment and drop what it had only in memory: dirty pages and its
own running journal. After unmount and mount what is left is what had been written through, exactly
what a power cut leaves (minus the drive's own cache, which this cannot drop: the loop device's
flushes are the host's).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

from tests.clients.broker import wait_until

SHUTDOWN = 0x8004587D  # _IOR('X', 125, u32)
NOLOGFLUSH = struct.pack("I", 2)
FIFREEZE = 0xC0045877  # _IOWR('X', 119, int)
FITHAW = 0xC0045878
IMAGE_BYTES = 3 << 30  # sparse: only what is written takes space
_PACKAGES = {"ext4": "e2fsprogs", "xfs": "xfsprogs"}
_FORCE = {"ext4": "-F", "xfs": "-f"}


class CutDiskUnavailable(Exception):
    """This machine cannot make one; the message says why."""


class CutDisk:
    """See the module; `path` is where the file system is mounted. Close it, whatever happens."""

    def __init__(self, directory: Path, kind: str = "ext4", size_bytes: int = IMAGE_BYTES) -> None:
        if os.geteuid() != 0:
            raise CutDiskUnavailable("power cuts need root, to mount a loop device")
        if shutil.which(f"mkfs.{kind}") is None or shutil.which("mount") is None:
            raise CutDiskUnavailable(f"power cuts need mkfs.{kind} ({_PACKAGES[kind]}) and mount")
        if not Path("/dev/loop-control").exists():
            raise CutDiskUnavailable("power cuts need loop devices: there is no /dev/loop-control")
        self._image = directory / "disk.img"
        self.path = directory / "disk"
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(size_bytes)
        self._mounted = False
        self._frozen = False
        self._kind = kind
        try:
            _run(f"mkfs.{kind}", "-q", _FORCE[kind], str(self._image))
            self._mount()
        except subprocess.CalledProcessError as error:
            self.close()
            raise CutDiskUnavailable(f"no loop mount here: {error.stderr.strip()}") from None

    def _mount(self) -> None:
        _run("mount", "-t", self._kind, "-o", "loop", str(self._image), str(self.path))
        self._mounted = True

    def cut_power(self) -> None:
        """From now on nothing more reaches the disk and whatever had not is lost."""
        self._ioctl(SHUTDOWN, NOLOGFLUSH)

    def go_read_only(self) -> None:
        """What ext4 does by itself when it finds its own structures damaged: from now on every
        change is refused with EROFS, and what is there can be read."""
        assert self._kind == "ext4"
        _run("mount", "-o", "remount,errors=remount-ro", str(self.path))
        device = _run("findmnt", "-n", "-o", "SOURCE", str(self.path)).strip()
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("as a test\n")

    def freeze(self) -> None:
        """Let every write wait, until `thaw`."""
        self._ioctl(FIFREEZE)
        self._frozen = True

    def thaw(self) -> None:
        """Let the writes go on; nothing happens where none wait."""
        if self._frozen:
            self._ioctl(FITHAW)
            self._frozen = False

    def _ioctl(self, request: int, argument: bytes = bytes(4)) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, request, argument)
        finally:
            os.close(fd)

    def restore(self) -> None:
        """Power is back: mount it again; whoever used it must be dead.

        A killed process's writes in flight keep the file system busy for a moment.
        """
        wait_until(self._unmounted, f"{self.path} is unmounted")
        self._mount()

    def _unmounted(self) -> bool:
        done = subprocess.run(["umount", str(self.path)], capture_output=True, check=False)
        self._mounted = done.returncode != 0
        return not self._mounted

    def close(self) -> None:
        """Unmount, free the loop device, delete the image."""
        try:
            self.thaw()
            if self._mounted:
                wait_until(self._unmounted, f"{self.path} is unmounted")
        finally:
            if self._mounted:
                subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)
            self._image.unlink(missing_ok=True)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
