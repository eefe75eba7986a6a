"""Which records of a log have a newer one of their key, in bounded memory for any number of keys.

Every record is numbered as it is read and told to the table with its key. The table notes 20 bytes
for each: a fingerprint of the key and the number. These are split by the fingerprint into PARTS,
so that at the end one part after the other is small enough for a dict that finds the newest of
each key; what does not fit in the buffer meanwhile goes to a temporary file. What is left is a bit
for each record: whether it goes.

A fingerprint is the key itself where it has at most 15 bytes, else 120 bits of its BLAKE2b hash:
of 10^10 keys two have the same one with a probability of 10^-16.
Blocks; for a thread or a process in the background.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from hashlib import blake2b
from struct import Struct

PARTS = 256
LOOKED_AT_MAX = 200_000  # records of one dict: about 40 MB
_SHORT_BYTES_MAX = 15
_PAD = [bytes(_SHORT_BYTES_MAX - size) + bytes([size]) for size in range(_SHORT_BYTES_MAX + 1)]
_LONG = b"\xff"
_ENTRY = Struct(">16sI")
ENTRY_BYTES = _ENTRY.size
RECORDS_MAX = 1 << 32


class Bits:
    """A growing row of bits, all zero at first."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | bytearray = b"") -> None:
        self.data = bytearray(data)

    def set(self, i: int) -> None:
        """Make bit `i` one."""
        at = i >> 3
        if at >= len(self.data):
            self.data.extend(bytes(max(at + 1 - len(self.data), len(self.data) >> 3)))
        self.data[at] |= 1 << (i & 7)

    def slice(self, start: int, count: int) -> int:
        """`count` bits from `start` on as a number, the first one lowest."""
        end = start + count
        part = int.from_bytes(self.data[start >> 3 : (end + 7) >> 3], "little")
        return (part >> (start & 7)) & ((1 << count) - 1)


class KeyTable:
    """Told of every record in order; says in the end which have newer ones."""

    def __init__(self, buffer_bytes: int, spill_fd: int) -> None:
        """`spill_fd`: an empty file, written when there is more than `buffer_bytes` to note."""
        self._buffer_bytes = buffer_bytes
        self._spill_fd = spill_fd
        self._parts = [bytearray() for _ in range(PARTS)]
        self._extents: list[list[tuple[int, int]]] = [[] for _ in range(PARTS)]
        self._spill_pos = 0
        self._left = buffer_bytes // ENTRY_BYTES

    def note(self, key: bytes, number: int) -> None:
        """Record `number` has this key; numbers rise."""
        size = len(key)
        if size <= _SHORT_BYTES_MAX:
            fingerprint = key + _PAD[size]
        else:
            fingerprint = blake2b(key, digest_size=15).digest() + _LONG
        self._parts[hash(fingerprint) & 255] += fingerprint + number.to_bytes(4, "big")
        self._left -= 1
        if not self._left:
            self._spill()

    @property
    def spilled_bytes(self) -> int:
        """What went to the file."""
        return self._spill_pos

    def mark_superseded(self, bits: Bits) -> int:
        """Set the bit of every record that has a newer one of its key. Returns how many."""
        count = 0
        for part, extents in zip(self._parts, self._extents, strict=True):
            entries = sum(size for _, size in extents) + len(part)
            # More than one dict takes: several times over it, each time for other keys.
            rounds = max(1, -(-entries // (LOOKED_AT_MAX * ENTRY_BYTES)))
            for i in range(rounds):
                count += self._mark(part, extents, bits, i, rounds)
            part.clear()
        return count

    def _mark(
        self, part: bytearray, extents: list[tuple[int, int]], bits: Bits, i: int, rounds: int
    ) -> int:
        newest: dict[bytes, int] = {}
        count = 0
        pieces: Iterator[bytes | bytearray]
        pieces = itertools.chain(itertools.starmap(self._read, extents), (part,))
        for data in pieces:
            for fingerprint, number in _ENTRY.iter_unpack(data):
                if rounds > 1 and (hash(fingerprint) >> 8) % rounds != i:
                    continue
                older = newest.get(fingerprint)
                if older is not None:
                    bits.set(older)
                    count += 1
                newest[fingerprint] = number
        return count

    def _spill(self) -> None:
        for part, extents in zip(self._parts, self._extents, strict=True):
            view = memoryview(part)
            while view:
                view = view[
                    os.pwrite(self._spill_fd, view, self._spill_pos + len(part) - len(view)) :
                ]
            view.release()
            extents.append((self._spill_pos, len(part)))
            self._spill_pos += len(part)
            part.clear()
        self._left = self._buffer_bytes // ENTRY_BYTES

    def _read(self, pos: int, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = os.pread(self._spill_fd, size - len(data), pos + len(data))
            if not more:
                raise OSError(f"the spilled keys end at {pos + len(data)}")
            data += more
        return data
