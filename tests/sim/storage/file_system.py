"""The simulated machine's files: what is in memory, what is durable, and what a crash leaves.

It is in memory and not a recorded directory, since then every byte has its two states at hand (what
a process reads, what a power cut leaves), a crash costs a copy of what was not synced, and a seed
gives the same run on any machine. tests/sim/storage/kernel.py has the system calls on top.

Fault model
    Bytes     A durable write (RWF_DSYNC) is durable when its completion says so, and not before. At
              a power cut a write that is under way leaves any of its 512-byte sectors, none or all;
              several under way do so independently, so they are also reordered; now and then one
              lands at a wrong place of a file where nothing durable is. What was written without a
              sync keeps any of its sectors. Changes of a file's size that were not synced are kept
              or undone one by one. A sync (fsync) makes all of one file durable.
    Names     Creations, renames, removals and new directories that no sync of their directory
              covers are undone in any combination. A rename is done or undone as one, and takes
              the file from where it had come. A directory's sync covers both sides of a rename,
              and what concerned the same file or the same name before. A file's sync covers no
              names.
    Failures  write, fsync, read: EIO; a short write; create, allocate, write: ENOSPC; open: EMFILE;
              submit: EAGAIN; calls that take a second. After a failed write or sync the place is
              bad: any sectors may be there, and whatever is written or synced there later is lost
              at a power cut although it is said to be durable. A process that starts anew sees
              what the device has.
    Death     A killed process's writes that the kernel had land whenever they like, without being
              durable; until then they hold the file's lock. A power cut loses what is above. Either
              comes between two steps of the loop or before any system call.
    Bit rot   A bit of a durable byte flips at any time, of what later writes prove to have been
              durable: the last record of an active file proves nothing, and is left alone.
Not modelled: a device that lies about every sync; damage that a checksum of 32 bits misses; a
failed sync of the data directory itself, of which nobody knows afterwards whose names it lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

SECTOR = 512
NAMES_PENDING_MAX = 64  # the file system commits older ones by itself


class Place(NamedTuple):
    """A name in a directory."""

    directory: Inode
    name: str


class Change(NamedTuple):
    """Something done to a file's bytes since its last sync. `data` None: a size, at `pos`."""

    pos: int
    data: bytes | None
    durable: bool  # kept at any crash


@dataclass(slots=True, eq=False)
class Inode:
    """A file or a directory. `data` and `entries` are what processes see, the durable ones what the
    device has; `changes` lead from these to those, in order."""

    number: int
    is_directory: bool
    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    changes: list[Change] = field(default_factory=list)
    entries: dict[str, Inode] = field(default_factory=dict)
    durable_entries: dict[str, Inode] = field(default_factory=dict)
    names: int = 0
    changed_ns: int = 0
    bad: list[tuple[int, int]] = field(default_factory=list)  # ranges that a failed write left
    locked_by: object = None
    rot: dict[int, int] = field(default_factory=dict)  # position of a byte that rotted -> as it was
    written_end: int = 0  # of what was written durably
    # What a later durable write says to be durable, and where that write is.
    proven_end: int = 0
    proof_pos: int = 0


@dataclass(slots=True, eq=False)
class NameChange:
    """A new name (no source), a rename, or a removal (no target). `origins`: the source, and where
    pending renames have brought it from."""

    inode: Inode
    source: Place | None
    target: Place | None
    origins: list[Place]
    lost: bool = False  # its directory's sync failed: no later one makes it durable

    def touches(self, directory: Inode) -> bool:
        return any(
            place is not None and place.directory is directory
            for place in (self.source, self.target)
        )

    def follows(self, earlier: NameChange) -> bool:
        """Whether it cannot be durable without an earlier one."""
        mine = {place for place in (self.source, self.target) if place is not None}
        return earlier.inode is self.inode or not mine.isdisjoint((earlier.source, earlier.target))


class FileSystem:
    """All files of the machine. `rng` decides what a crash leaves."""

    def __init__(self, rng: random.Random, now_ns: Callable[[], int]) -> None:
        self._rng = rng
        self._now_ns = now_ns
        self._numbers = 0
        self.root = self.new_inode(is_directory=True)
        self.names_pending: list[NameChange] = []
        self._changed: dict[int, Inode] = {}  # with changes that are not durable

    def new_inode(self, *, is_directory: bool) -> Inode:
        self._numbers += 1
        return Inode(self._numbers, is_directory)

    def files(self) -> Iterator[tuple[str, Inode]]:
        """(path, inode) of every file that has a name."""
        below: list[tuple[str, Inode]] = [("", self.root)]
        while below:
            path, inode = below.pop()
            if inode.is_directory:
                below += [(f"{path}/{name}", child) for name, child in inode.entries.items()]
            else:
                yield path, inode

    # -- bytes -----------------------------------------------------------------------------

    def write(self, inode: Inode, pos: int, data: bytes, *, durable: bool) -> None:
        end = pos + len(data)
        if pos == 0:  # a new header: what follows is of a former life
            inode.written_end = inode.proven_end = inode.proof_pos = 0
        if len(inode.data) < end:
            inode.data.extend(bytes(end - len(inode.data)))
        inode.data[pos:end] = data
        inode.changed_ns = self._now_ns()
        for at in [at for at in inode.rot if pos <= at < end]:
            del inode.rot[at]
        if durable and not inode.changes and not inode.bad:
            _put(inode.durable, pos, data)
        else:
            for start, stop in _outside(inode.bad, pos, end):
                self._change(inode, Change(start, data[start - pos : stop - pos], durable))
        if durable:
            inode.written_end = max(inode.written_end, end)

    def resize(self, inode: Inode, size: int) -> None:
        """ftruncate, and what fallocate does to the size."""
        if size < len(inode.data):
            del inode.data[size:]
            inode.rot = {at: was for at, was in inode.rot.items() if at < size}
            inode.written_end = min(inode.written_end, size)
            if size <= inode.proof_pos:
                inode.proven_end = inode.proof_pos = 0
        else:
            inode.data.extend(bytes(size - len(inode.data)))
        self._change(inode, Change(size, None, durable=False))

    def sync(self, inode: Inode) -> None:
        """fsync of a file or of a directory."""
        if inode.is_directory:
            self._sync_names(inode)
            return
        old, inode.durable = _on_device(inode), bytearray(inode.data)
        for start, stop in inode.bad:
            _overlay(inode.durable, old, start, stop)
        inode.changes.clear()
        self._changed.pop(inode.number, None)

    def sync_all(self) -> None:
        """syncfs: all files, and all names."""
        for number in sorted(self._changed):
            self.sync(self._changed[number])
        for change in self.names_pending:
            if not change.lost:
                _apply_durably(change)
        self.names_pending = [change for change in self.names_pending if change.lost]

    def fail_write(self, inode: Inode, pos: int, data: bytes) -> None:
        """A durable write that fails: any of its sectors are there, and the place is bad."""
        self.land_some(inode, pos, data)
        inode.bad.append((pos, pos + len(data)))

    def fail_sync(self, inode: Inode) -> None:
        """A sync that fails: what it was to make durable is partly so, and the rest never."""
        if inode.is_directory:
            for change in self.names_pending:
                if change.touches(inode):
                    change.lost = True
            return
        changes, inode.changes = inode.changes, []
        for change in changes:
            pos, data, durable = change
            if data is None or durable:
                inode.changes.append(change)
                continue
            for start, stop in self._sectors(len(data)):
                inode.changes.append(Change(pos + start, data[start:stop], durable=True))
            inode.bad.append((pos, pos + len(data)))

    def land_some(self, inode: Inode, pos: int, data: bytes) -> None:
        """Any sectors of a write get to the device, durably."""
        for start, stop in self._sectors(len(data)):
            self.write(inode, pos + start, data[start:stop], durable=True)

    def _change(self, inode: Inode, change: Change) -> None:
        inode.changes.append(change)
        self._changed[inode.number] = inode

    def _sectors(self, size: int) -> list[tuple[int, int]]:
        """Ranges of a write that survive."""
        rng, count = self._rng, -(-size // SECTOR)
        how = rng.randrange(5)
        split = rng.randint(0, count)
        if how == 0:
            kept = range(0)
        elif how == 1:
            kept = range(count)
        elif how == 2:
            kept = range(split)
        elif how == 3:
            kept = range(split, count)
        else:
            bits = rng.getrandbits(count)
            return [
                (i * SECTOR, min((i + 1) * SECTOR, size)) for i in range(count) if bits >> i & 1
            ]
        return [(kept[0] * SECTOR, min((kept[-1] + 1) * SECTOR, size))] if kept else []

    # -- names -----------------------------------------------------------------------------

    def rename(self, inode: Inode, target: Place | None, *, source: Place | None) -> None:
        """Give a name (no source), rename, or remove a name (no target)."""
        origins: list[Place] = []
        if source is not None:
            del source.directory.entries[source.name]
            source.directory.changed_ns = self._now_ns()
            inode.names -= 1
            origins.append(source)
            for earlier in reversed(self.names_pending):
                if target and earlier.inode is inode and earlier.target == origins[-1]:
                    if earlier.source is not None:
                        origins.append(earlier.source)
        if target is not None:
            replaced = target.directory.entries.get(target.name)
            if replaced is not None:
                replaced.names -= 1
            target.directory.entries[target.name] = inode
            target.directory.changed_ns = self._now_ns()
            inode.names += 1
        self.names_pending.append(NameChange(inode, source, target, origins))
        if len(self.names_pending) > NAMES_PENDING_MAX:
            first = self.names_pending.pop(0)
            if not first.lost:
                _apply_durably(first)

    def _sync_names(self, directory: Inode) -> None:
        done: list[NameChange] = []
        rest: list[NameChange] = []
        for change in reversed(self.names_pending):
            is_meant = change.touches(directory) and not change.lost
            (done if is_meant or any(one.follows(change) for one in done) else rest).append(change)
        for change in reversed(done):
            if not change.lost:  # else what followed it is what counts
                _apply_durably(change)
        self.names_pending = rest[::-1]

    # -- deaths ----------------------------------------------------------------------------

    def process_died(self) -> None:
        """A process that starts now sees what the device has of places that had failed."""
        for inode in self._all():
            if inode.bad:
                device = _on_device(inode)
                for start, stop in inode.bad:
                    _overlay(inode.data, device, start, stop)
                inode.bad.clear()
        for change in self.names_pending:
            change.lost = False

    def power_cut(self) -> None:
        """What is not durable is gone, in part or wholly."""
        rng = self._rng
        for inode in self._all():
            inode.bad.clear()
            inode.locked_by = None
            if inode.changes:
                self._lose(inode)
        self._changed.clear()
        keep = rng.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        for change in self.names_pending:
            if not change.lost and rng.random() < keep:
                _apply_durably(change)
        self.names_pending.clear()
        for inode in self._all():
            inode.names = 0
        self._become_durable(self.root)

    def _lose(self, inode: Inode) -> None:
        rng = self._rng
        keep = rng.choice((0.0, 0.5, 1.0))
        result = bytearray(inode.durable)
        for pos, data, durable in inode.changes:
            if data is None:
                if rng.random() < keep:
                    _resize(result, pos)
            elif durable:
                _put(result, pos, data)
            else:
                for start, stop in self._sectors(len(data)):
                    _put(result, pos + start, data[start:stop])
        inode.data, inode.durable = result, bytearray(result)
        inode.changes.clear()
        inode.written_end = min(inode.written_end, len(result))
        if len(result) <= inode.proof_pos:
            inode.proven_end = inode.proof_pos = 0

    def _become_durable(self, directory: Inode) -> None:
        directory.entries = dict(directory.durable_entries)
        for child in directory.entries.values():
            child.names += 1
            if child.is_directory:
                self._become_durable(child)

    def _all(self) -> Iterator[Inode]:
        """Every file that has a name or may get one back."""
        seen = {inode.number: inode for _path, inode in self.files()}
        seen.update((change.inode.number, change.inode) for change in self.names_pending)
        seen.update(self._changed)
        below = [self.root]
        while below:
            for child in below.pop().durable_entries.values():
                seen[child.number] = child
                if child.is_directory:
                    below.append(child)
        yield from (seen[number] for number in sorted(seen))

    # -- bit rot ---------------------------------------------------------------------------

    def flip(self, inode: Inode, pos: int) -> None:
        """A durable byte rots."""
        inode.rot.setdefault(pos, inode.data[pos])
        flipped = inode.data[pos] ^ 1 << self._rng.randrange(8)
        self._set(inode, pos, flipped)

    def heal(self, inode: Inode) -> None:
        """The operator puts back what had been there."""
        for pos, was in inode.rot.items():
            self._set(inode, pos, was)
        inode.rot.clear()

    def _set(self, inode: Inode, pos: int, value: int) -> None:
        inode.data[pos] = value
        if pos < len(inode.durable):
            inode.durable[pos] = value
        for i, change in enumerate(inode.changes):
            if change.data is not None and change.pos <= pos < change.pos + len(change.data):
                data = bytearray(change.data)
                data[pos - change.pos] = value
                inode.changes[i] = change._replace(data=bytes(data))


def _put(target: bytearray, pos: int, data: bytes) -> None:
    if len(target) < pos:
        target.extend(bytes(pos - len(target)))
    target[pos : pos + len(data)] = data


def _on_device(inode: Inode) -> bytearray:
    """What is durable and what is on its way there."""
    result = bytearray(inode.durable)
    for pos, data, _durable in inode.changes:
        if data is None:
            _resize(result, pos)
        else:
            _put(result, pos, data)
    return result


def _overlay(target: bytearray, source: bytearray, start: int, stop: int) -> None:
    """Take a range from `source`; zeros where that is shorter. `target` keeps its size."""
    stop = min(stop, len(target))
    if start < stop:
        part = source[start:stop]
        target[start:stop] = part + bytes(stop - start - len(part))


def _resize(target: bytearray, size: int) -> None:
    if size < len(target):
        del target[size:]
    else:
        target.extend(bytes(size - len(target)))


def _outside(bad: list[tuple[int, int]], pos: int, end: int) -> list[tuple[int, int]]:
    """The parts of [pos, end) that lie in no bad range."""
    parts = [(pos, end)]
    for start, stop in bad:
        parts = [
            part
            for first, last in parts
            for part in ((first, min(last, start)), (max(first, stop), last))
            if part[0] < part[1]
        ]
    return parts


def _apply_durably(change: NameChange) -> None:
    for directory, name in change.origins:
        if directory.durable_entries.get(name) is change.inode:
            del directory.durable_entries[name]
    if change.target is not None:
        change.target.directory.durable_entries[change.target.name] = change.inode
