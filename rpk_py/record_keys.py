"""What a compacted topic asks of a producer's batch: every record has a key.

Which process: a shard, on its loop for a small batch, else beside it in a thread. Pure. Batches for
other topics are never looked into.
Source: LogValidator.validateKey of Apache Kafka.
"""

from __future__ import annotations

from itertools import islice
from typing import Final, NamedTuple

from kafka_protocol.errors import DecodeError
from kafka_protocol.record_batch import BatchHeader, parse_header
from kafka_protocol.record_filter import inflated, iter_keys

AT_ONCE_RECORDS: Final = 500  # so many are looked at on the loop: 0.3 ms
AT_ONCE_BYTES: Final = 256 * 1024  # inflated, likewise
INFLATED_BYTES_MAX: Final = 64 << 20
TOLD_MAX: Final = 100  # records without a key that are named in an answer


class Keyless(NamedTuple):
    """Why a batch is refused. `indexes`: of the first records without a key."""

    message: str
    indexes: list[int]


def is_small(header: BatchHeader, batch_bytes: int) -> bool:
    """Whether a batch may be looked into on the loop, as far as its header says."""
    return header.record_count <= AT_ONCE_RECORDS and batch_bytes <= AT_ONCE_BYTES


def check_keys(batch: memoryview, name: str, size_max: int = INFLATED_BYTES_MAX) -> Keyless | None:
    """Whether all records of a whole batch have keys: None, or why it is refused.

    name      of the partition, for the message
    size_max  a batch that inflates to more is refused
    """
    header = parse_header(batch)
    try:
        data = inflated(batch, header, size_max)
        keys = iter_keys(data, header.record_count)
        indexes = [i for i, (key, _) in enumerate(keys) if key is None]
    except DecodeError as error:
        return Keyless(f"the records of the batch cannot be read: {error}", [])
    if not indexes:
        return None
    text = f"{len(indexes)} of its records without a key; {name} is compacted, so each needs one"
    return Keyless(text, list(islice(indexes, TOLD_MAX)))
