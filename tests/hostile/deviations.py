"""Where Apache Kafka 4.1 answers a row otherwise and we mean to differ: its answer, and why.

Found by replaying the table on a real Kafka 4.1.0 (README.md says how). Whatever clients rely on is
not here: there rpk-py answers as Kafka does. Kafka's UNKNOWN_SERVER_ERROR is what it makes of an
exception that nobody expected; no rule to keep to, and a code that names the mistake is better.
"""

from __future__ import annotations

from typing import NamedTuple

from kafka_protocol.errors import ErrorCode
from tests.hostile.rows_batches import ERROR as PRODUCED
from tests.hostile.rows_data import ANSWERED as OFFSET
from tests.hostile.rows_data import FETCHED
from tests.hostile.rows_topics import DELETED as CHANGED
from tests.hostile.rows_topics import RESULT, TOPIC_ERROR
from tests.hostile.table import CLOSE, HANG, Expect, answer


class Deviation(NamedTuple):
    """What Apache Kafka does with a row, and why we do not."""

    expect: Expect
    why: str


_OPAQUE = "a batch is opaque here; a consumer checks the same, and the damage is its topic's alone"
_RAISES = "Kafka runs into an exception of its own"
_NO_TRANSACTIONS = "there are no transactions yet; Kafka misses a transactional id in the request"
_ONE_RULE = "-1 alone says that no epoch is known, in every API; Kafka takes any negative one here"
_NOTHING_DROPPED = "Kafka drops what follows the first batch without a word"
_TIMES = "message.timestamp.before.max.ms and its like are not implemented: a batch is opaque"


def _all(names: list[str], expect: Expect, why: str) -> dict[str, Deviation]:
    return {name: Deviation(expect, why) for name in names}


def _raises(path: str, *names: str) -> dict[str, Deviation]:
    return _all(list(names), answer(path, ErrorCode.UNKNOWN_SERVER_ERROR), _RAISES)


DEVIATIONS: dict[str, Deviation] = {
    # -- frames and headers --------------------------------------------------------------------
    "a client id of -2 bytes": Deviation(answer(), "only -1 is null; Kafka reads any negative so"),
    "a client id that is not UTF-8": Deviation(
        answer(), "Java replaces what is not UTF-8; two names could then become one"
    ),
    # -- batches -------------------------------------------------------------------------------
    "null records": Deviation(HANG, "Kafka's handler dies, and the client waits for ever"),
    "a byte after the batch": Deviation(answer(PRODUCED), _NOTHING_DROPPED),
    "a batch of length 49": Deviation(
        answer(PRODUCED, ErrorCode.CORRUPT_MESSAGE),
        "more follows the batch: that it is more than one is seen first",
    ),
    **_all(
        [
            "more records in the header than inside",
            "noise instead of records",
            "no bytes instead of records",
        ],
        answer(PRODUCED, ErrorCode.INVALID_RECORD),
        _OPAQUE,
    ),
    **_all(
        [f"noise instead of {codec}" for codec in ("gzip", "snappy", "lz4", "zstd")],
        answer(PRODUCED, ErrorCode.UNKNOWN_SERVER_ERROR),
        _OPAQUE,
    ),
    **_raises(
        PRODUCED, "a batch of length 2,147,483,647", *(f"codec {codec}" for codec in (5, 6, 7))
    ),
    "log append time from a client": Deviation(
        answer(PRODUCED),
        "Kafka takes the mark away where the topic has CreateTime; nobody but the broker may set"
        " it, says its own LogValidator where it looks",
    ),
    **_all(
        ["a transactional batch", "a transactional control batch"],
        answer(PRODUCED, ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        _NO_TRANSACTIONS,
    ),
    **_all(
        [f"a base_timestamp of {n:,}" for n in (-(2**63), 2**63 - 1)],
        answer(PRODUCED, ErrorCode.INVALID_TIMESTAMP),
        _TIMES,
    ),
    "a producer with epoch -1": Deviation(
        answer(PRODUCED),
        "nobody is ever given that epoch",
    ),
    # -- produce and fetch ---------------------------------------------------------------------
    "Produce of a topic without partitions": Deviation(
        answer("responses.#", 0), "the answer mirrors the request; Kafka groups it by partition"
    ),
    "Produce to one partition twice": Deviation(
        answer(PRODUCED, 0, **{"responses.0.partition_responses.#": 1}),
        "Kafka keeps the last batch and drops the other without a word; here each is written and"
        " answered",
    ),
    "Fetch with one partition twice": Deviation(
        answer(FETCHED, 0, **{"responses.0.partitions.#": 1}),
        "the answer mirrors the request; Kafka's is a map. The limits hold for both together",
    ),
    "Fetch in leader epoch -2": Deviation(answer(FETCHED), _ONE_RULE),
    **_raises(
        FETCHED,
        *(
            f"Fetch with {name} {n:,}"
            for name in ("max_bytes", "partition_max_bytes")
            for n in (-1, -(2**31))
        ),
        "Fetch with isolation level 7",
        "Fetch with isolation level -128",
    ),
    **_raises("error_code", "Fetch with session 2,147,483,647 epoch 2,147,483,647"),
    "Fetch with replica id 5": Deviation(
        answer(FETCHED, ErrorCode.NOT_LEADER_OR_FOLLOWER),
        "there are no followers yet, so none can be wrong; it is served as a consumer",
    ),
    "a Fetch that waits for ever, and its client gone": Deviation(
        HANG, "Kafka does not look at a connection while a request of it is under way"
    ),
    # -- offsets -------------------------------------------------------------------------------
    **_raises(OFFSET, "ListOffsets with isolation level 7"),
    "the end of epoch -2": Deviation(
        answer(OFFSET, 0, **{"topics.0.partitions.0.end_offset": 0}),
        "an epoch that cannot be; Kafka takes it for one whose records are gone",
    ),
    # -- groups --------------------------------------------------------------------------------
    **_all(
        [
            "OffsetCommit of a topic id that is not there",
            "OffsetFetch of a topic id that is not there",
        ],
        CLOSE,
        "Kafka 4.1 does not serve these versions yet",
    ),
    # -- limits --------------------------------------------------------------------------------
    **_all(
        ["Metadata of 100,001 topics", "Metadata of 9 MiB"],
        answer(),
        "decoding is what a stranger can make us do for nothing; no client comes near the limits"
        " (docs/PROTOCOL.md)",
    ),
    # -- topics and configs --------------------------------------------------------------------
    **_raises(TOPIC_ERROR, "CreateTopics called 32,767 bytes", "Metadata of neither name nor id"),
    **_raises(TOPIC_ERROR, "DescribeTopicPartitions of an empty name"),
    **_raises(
        RESULT,
        "DescribeConfigs of a topic called 32,767 bytes",
        "DescribeConfigs of a broker with a long name",
        "CreatePartitions to 1,000,000",
        "CreatePartitions to 2,147,483,647",
    ),
    **_raises(
        CHANGED,
        "IncrementalAlterConfigs of a topic called 32,767 bytes",
        "IncrementalAlterConfigs with a bad value",
        *(f"IncrementalAlterConfigs with operation {n}" for n in (4, -1, 127)),
    ),
    "CreateTopics of two names that collide": Deviation(
        Expect(({TOPIC_ERROR: 0, "topics.1.error_code": 0},)),
        "Kafka looks only at topics that exist, and then has both",
    ),
    **_all(
        [f"CreateTopics with {n:,} partitions" for n in (2**31 - 1, 1_000_000)],
        answer(TOPIC_ERROR, ErrorCode.POLICY_VIOLATION),
        "a topic has a limit of its own here (partitions_per_topic_max), and that of a request,"
        " which is the same, is POLICY_VIOLATION as in Kafka",
    ),
}
