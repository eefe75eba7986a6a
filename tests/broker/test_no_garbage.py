"""Requests leave nothing behind that only the garbage collector can free.

A cycle a request costs more than the request's own objects: the collector then looks at everything
that is young, again and again, and pauses the loop.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from kafka_protocol.messages.metadata import MetadataRequest
from tests.broker.connection_fakes import Client, run, running, ticks
from tests.broker.request_builders import BATCH, fetch_request

OURS = ("rpk_py.", "kafka_protocol.", "storage.")
TIMES = 20


async def _produce(client: Client) -> None:
    assert (await client.produce("t", BATCH)).error_code == 0


async def _produce_to_many(client: Client) -> None:
    for index in (0, 1):
        assert (await client.produce("t", BATCH, index=index, version=9)).error_code == 0


async def _fetch(client: Client) -> None:
    assert (await client.fetch("t", 0)).records


async def _long_poll(client: Client) -> None:
    end_offset = client.shard.log_of("t").log_end_offset
    request, version = fetch_request("t", end_offset, max_wait_ms=10_000)
    asked = client.send(request, version)
    await client.shard.fill("t", 1)
    assert (await client.reply(asked)).responses[0].partitions[0].records


async def _ask(client: Client) -> None:
    at_end = ListOffsetsTopic("t", [ListOffsetsPartition(0, timestamp=-1)])
    await client.ask(ApiVersionsRequest("test", "1"), 3)
    await client.ask(MetadataRequest([]), 12)
    await client.ask(ListOffsetsRequest(topics=[at_end]), 7)


@pytest.mark.parametrize("work", [_produce, _produce_to_many, _fetch, _long_poll, _ask])
def test_requests_leave_no_cycle_behind(tmp_path: Path, work: Any) -> None:
    async def scenario() -> list[str]:
        async with running(tmp_path) as shard:
            await shard.create("t", 1, 1)
            client = shard.client()
            await _produce(client)
            await work(client)  # what is made once and kept
            await ticks()
            gc.collect()
            gc.disable()
            try:
                for _ in range(TIMES):
                    await work(client)
                await ticks()
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                garbage = [type(one) for one in gc.garbage]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            return [one.__qualname__ for one in garbage if one.__module__.startswith(OURS)]

    found = run(scenario())
    assert len(found) < TIMES, f"for {TIMES} requests: {sorted(found)}"
