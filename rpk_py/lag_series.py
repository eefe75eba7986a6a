"""The lag of groups at a scrape: what shards tell of groups and of partitions, brought together.

Which process: supervisor. Groups and the partitions that they read live on different shards. Their
snapshots say what is committed and where logs end; how old the first record is that was not
consumed is asked of the leaders then, once a scrape. Works in slices, like the exposition.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from rpk_py.groups.lag import Committed, Lag, lag_rows, lagging
from rpk_py.metric_table import PARTITION_COLUMNS
from rpk_py.shard_link import ShardLink

LINES_MAX: Final = 2000  # of one piece
FAMILIES: Final = (
    "rpk_group_lag_records",
    "rpk_group_lag_seconds",
    "kafka_consumergroup_lag",
    "kafka_consumergroup_current_offset",
)
_COLUMNS_BEFORE: Final = 2  # of a slice of partitions: topics and numbers
_START: Final = PARTITION_COLUMNS.index("rpk_partition_log_start_offset") + _COLUMNS_BEFORE
_END: Final = PARTITION_COLUMNS.index("rpk_partition_high_watermark") + _COLUMNS_BEFORE

_Parts = Mapping[int, Sequence[Mapping[str, Any]]]


async def gather_lags(parts: _Parts, shards: Sequence[ShardLink]) -> list[Lag]:
    """The lag of every group in every partition that it has committed.

    Shapes:  parts  node id -> the parts of that shard's snapshot
    """
    committed: list[Committed] = []
    ends: dict[tuple[str, int], tuple[int, int, int]] = {}
    for node_id, of_shard in parts.items():
        for part in of_shard:
            committed += map(tuple, part.get("committed", ()))
            if "partitions" in part:
                columns = part["partitions"]
                for topic, index, start, end in zip(
                    columns[0], columns[1], columns[_START], columns[_END], strict=True
                ):
                    ends[topic, index] = node_id, start, end
            await asyncio.sleep(0)
    if not committed:
        return []
    wanted = lagging(committed, ends)
    asked = [shard for shard in shards if shard.node_id in wanted]
    answers = await asyncio.gather(
        *(shard.ask("ages", of=wanted[shard.node_id]) for shard in asked)
    )
    ages: dict[tuple[str, int, int], float] = {}
    for shard, answer in zip(asked, answers, strict=True):
        for key, seconds in zip(wanted[shard.node_id], answer or (), strict=False):
            if seconds is not None:
                ages[tuple(key)] = seconds
    return list(lag_rows(committed, ends, ages))


async def lag_text(family: str, lags: Sequence[Lag]) -> AsyncIterator[bytes]:
    """The lines of one of FAMILIES, in pieces."""
    name = "consumergroup" if family.startswith("kafka") else "group"
    for start in range(0, len(lags), LINES_MAX):
        lines: list[str] = []
        for lag in lags[start : start + LINES_MAX]:
            value: float | None = lag.records
            if family == "rpk_group_lag_seconds":
                value = lag.seconds
            elif family == "kafka_consumergroup_current_offset":
                value = lag.offset
            if value is not None:
                lines.append(
                    f'{family}{{{name}="{_escaped(lag.group)}",topic="{lag.topic}",'
                    f'partition="{lag.partition}"}} {value}\n'
                )
        yield "".join(lines).encode("utf-8", "replace")
        await asyncio.sleep(0)


def _escaped(text: str) -> str:
    """A label value: a group id is any text, a topic's name needs no escape."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
