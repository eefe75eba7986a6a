"""DescribeLogDirs (key 35), versions 1-5: the data directory and the size of the logs in it.

v2  flexible                          v3  error code of the whole answer
v4  size of the volume (KIP-827)      v5  cordoned directories (KIP-1066)

Behaviour:  there is one log directory, the broker's data directory; each shard tells the partitions
            that it leads, and tools ask every node. A partition's size is that of its segments
            up to their ends, without the space that is allocated ahead. A partition that is not
            here, or that could not be opened, is left out. Where the directory cannot be looked at
            it is answered with KAFKA_STORAGE_ERROR and nothing else.
Deviations: shards of one host name the same directory and the same volume, since they share it. A
            directory is never cordoned.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from functools import partial

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.describe_log_dirs import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)
from rpk_py.context import RequestContext
from rpk_py.turns import SLICE_ITEMS, Large


def handle(ctx: RequestContext, request: DescribeLogDirsRequest) -> Large:
    """Describe the one directory; null topics are all of them."""
    return Large(partial(_answer, ctx, request))


async def _answer(ctx: RequestContext, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse:
    directory = ctx.broker.config.data_dir.absolute()
    result = DescribeLogDirsResult(log_dir=str(directory))
    try:
        volume = await asyncio.to_thread(os.statvfs, directory)
    except OSError as error:
        ctx.broker.warn_of(ctx.peer, "cannot look at the data directory", reason=str(error))
        result.error_code = ErrorCode.KAFKA_STORAGE_ERROR
    else:
        result.total_bytes = volume.f_blocks * volume.f_frsize
        result.usable_bytes = volume.f_bavail * volume.f_frsize
        result.topics = await ctx.broker.turns.sliced(_topics(ctx, request))
    return DescribeLogDirsResponse(results=[result])


def _topics(
    ctx: RequestContext, request: DescribeLogDirsRequest
) -> Generator[None, None, list[DescribeLogDirsTopic]]:
    wanted = None
    if request.topics is not None:
        wanted = {(asked.topic, index) for asked in request.topics for index in asked.partitions}
    topics: dict[str, DescribeLogDirsTopic] = {}
    for number, partition in enumerate(list(ctx.broker.partitions), 1):
        if not number % SLICE_ITEMS:
            yield
        name, index, log = partition.topic, partition.index, partition.log
        if log is None or (wanted is not None and (name, index) not in wanted):
            continue
        answers = topics.setdefault(name, DescribeLogDirsTopic(name, []))
        answers.partitions.append(
            DescribeLogDirsPartition(index, log.size_bytes, offset_lag=0, is_future_key=False)
        )
    return list(topics.values())
