"""Variants of an input: what a hostile or broken peer makes of bytes that were once right.

Small and seeded: the same rng gives the same variants on every machine. It knows nothing of a
target's format but what all of ours share: big-endian integers, length prefixes, varints.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

INPUT_BYTES_MAX = 65536

# Where code goes wrong: the ends of every width, signed and not, and one beside them.
_INTERESTING = [
    (value % (1 << 8 * size)).to_bytes(size, "big")
    for size in (1, 2, 4, 8)
    for bits in (0, 7, 8, 15, 16, 31, 32, 63, 64)
    for value in ((1 << bits) - 1, 1 << bits, -(1 << bits), -(1 << bits) - 1)
    if bits <= 8 * size
]
_VARINTS = [
    bytes.fromhex(text)
    for text in (
        "00", "01", "02", "7f", "8001", "ff7f", "feffffff0f", "ffffffff07", "ffffffff0f",
        "ffffffffff01", "808000", "ffffffffffffffffff01", "01050261 62", "02000161 0500",
    )
]  # fmt: skip


def mutate(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """A variant of `data`; `others` is what pieces may be taken from."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4, 8))):
        _change(raw, others, rng)
    del raw[INPUT_BYTES_MAX:]
    return bytes(raw)


def _change(raw: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    size = len(raw)
    pos = int(rng.random() * (size + 1))
    what = int(rng.random() * 14)
    if what == 0 and pos < size:
        raw[pos] ^= 1 << int(rng.random() * 8)
    elif what == 1 and pos < size:
        raw[pos] = int(rng.random() * 256)
    elif what == 2:
        del raw[pos : pos + rng.choice((1, 1, 2, 4, 8, 61))]
    elif what == 3:
        raw[pos:pos] = rng.randbytes(rng.choice((1, 2, 4, 16)))
    elif what in (4, 5):
        put = rng.choice(_INTERESTING)
        raw[pos : pos + len(put)] = put
    elif what == 6:
        put = rng.choice(_VARINTS)
        raw[pos : pos + rng.choice((0, 1, len(put)))] = put
    elif what in (7, 8):
        _change_number(raw, pos, rng)
    elif what == 9:
        raw[pos:] = b""
    elif what == 10:  # a piece twice
        piece = raw[pos : pos + rng.choice((1, 4, 16, 64, 256))]
        raw[pos:pos] = piece * rng.choice((1, 1, 1, 2, 20))
    elif what == 11:  # a piece elsewhere
        end = pos + rng.choice((1, 4, 8, 16, 64))
        piece = raw[pos:end]
        to = int(rng.random() * (size + 1))
        raw[to : to + len(piece)] = piece
    elif others:  # the rest, or a piece, of another input
        other = rng.choice(others)
        start = int(rng.random() * (len(other) + 1))
        if what == 12:
            raw[pos:] = other[start:]
        else:
            end = start + rng.choice((1, 4, 16, 64, 256))
            raw[pos : pos + rng.choice((0, end - start))] = other[start:end]


def _change_number(raw: bytearray, pos: int, rng: random.Random) -> None:
    """Add a little to an integer, as where a length and what it counts disagree."""
    size = rng.choice((1, 1, 2, 4, 8))
    value = int.from_bytes(raw[pos : pos + size], "big") + rng.choice((-8, -2, -1, 1, 1, 2, 8))
    if pos + size <= len(raw):
        raw[pos : pos + size] = (value % (1 << 8 * size)).to_bytes(size, "big")
