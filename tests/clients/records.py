"""The records that every client writes and reads, and what is compared."""

from __future__ import annotations

from typing import NamedTuple

MIB = 1 << 20
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")  # in the order of their numbers in a batch
FIRST_MS = 1_700_000_000_000
STEP_MS = 1_000  # between the timestamps of two records


class Rec(NamedTuple):
    """A record; two are equal when every byte of them is."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int = FIRST_MS


def sample(count: int = 12, null_header: bool = True) -> list[Rec]:
    """Records with everything that may be null, empty, binary, repeated or long in them."""
    null = None if null_header else b"kafka-python does not send null headers"
    shapes: list[tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]] = [
        (b"key", b"value", ()),
        (None, b"value without a key", ()),
        (b"", b"empty key", ()),
        (b"null value", None, ()),
        (b"empty value", b"", ()),
        (b"", b"", ()),
        (b"headers", b"v", (("a", b"1"), ("b", b""), ("c", null), ("a", b"1 again"))),
        (bytes(range(256)), bytes(range(255, -1, -1)) * 5, (("ключ", bytes(range(256))),)),
        ("ключ".encode(), "значение ☃".encode(), ()),
        (b"long", b"0123456789abcdef" * 6_000, ()),
    ]
    records = []
    for i in range(count):
        key, value, headers = shapes[i % len(shapes)]
        records.append(Rec(key, value, headers, FIRST_MS + i * STEP_MS))
    return records


def plain(count: int, prefix: str = "record") -> list[Rec]:
    """Short records that tell their place."""
    return [
        Rec(f"key {i}".encode(), f"{prefix} {i}".encode(), (), FIRST_MS + i * STEP_MS)
        for i in range(count)
    ]


def numbered(records: list[Rec], first_offset: int = 0) -> list[tuple[int, Rec]]:
    """What a consumer of `records` sees when they begin at `first_offset`."""
    return list(enumerate(records, first_offset))
