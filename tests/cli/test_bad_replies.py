"""Produce and consume against a broker whose later replies are broken, or lies.

Whatever comes, the command ends by itself with one line that says what is wrong, and fails.
"""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import threading
from typing import Any

import pytest

from kafka_protocol.api import ApiKey
from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.init_producer_id import InitProducerIdResponse
from kafka_protocol.messages.list_offsets import ListOffsetsResponse
from kafka_protocol.messages.metadata import MetadataResponse
from kafka_protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_protocol.record_batch import frame_batch
from kafka_protocol.wire import NO_UUID
from rpk_py.cli.client import Client, Refused
from rpk_py.cli.consumer import Consumer
from rpk_py.cli.link import Link
from rpk_py.cli.offset_range import Span
from tests.cli.commands import TIMEOUT_S, command, run, start
from tests.cli.scripted_broker import (
    NOTHING,
    Answer,
    fetched,
    metadata,
    offsets,
    scripted_broker,
    stored,
)

RECORD = b"\x0e\0\0\0\x01\x02v\0"  # 7 bytes, delta 0, null key, value b"v", no headers


def batch(base_offset: int = 0, body: bytes = RECORD, count: int = 1, **fields: Any) -> bytes:
    return bytes(
        frame_batch(
            body,
            count,
            last_offset_delta=fields.pop("last_offset_delta", count - 1),
            base_timestamp=0,
            max_timestamp=0,
            base_offset=base_offset,
            **fields,
        )
    )


def damaged(pos: int, new: bytes) -> bytes:
    good = batch()
    return good[:pos] + new + good[pos + len(new) :]


def always(reply: Any) -> Answer:
    return lambda _: reply


BOMB = batch(body=b"\0" * (257 << 20), compression=4)  # some 10 kB on the wire
GARBAGE = b"\xff" * 40

BOTH: list[tuple[str, ApiKey, Any, str]] = [
    ("metadata closed", ApiKey.METADATA, None, "instead of answering METADATA"),
    ("metadata cut", ApiKey.METADATA, b"\0\0", "cannot be read"),
    ("metadata garbage", ApiKey.METADATA, GARBAGE, "cannot be read"),
    ("no topics", ApiKey.METADATA, MetadataResponse(0, [], None, 1, []), "UNKNOWN_TOPIC"),
    ("foreign topic", ApiKey.METADATA, metadata(name="x"), "UNKNOWN_TOPIC_OR_PARTITION"),
    ("new code", ApiKey.METADATA, metadata(error_code=9999), "error code 9999"),
    ("no such node", ApiKey.METADATA, metadata(leader_id=7), "node 7 is not among"),
    ("port too high", ApiKey.METADATA, metadata(port=70_000), "70000"),
    ("port negative", ApiKey.METADATA, metadata(port=-1), "-1"),
    ("host with a null", ApiKey.METADATA, metadata(host="a\0b"), "a\\x00b"),
    ("host too long", ApiKey.METADATA, metadata(host="x" * 300), "xxx"),
    ("host empty part", ApiKey.METADATA, metadata(host="a..b"), "a..b"),
]
CONSUME: list[tuple[str, ApiKey, Any, str]] = [
    ("no partitions", ApiKey.METADATA, metadata(partitions=0), "names no partitions"),
    ("offsets cut", ApiKey.LIST_OFFSETS, b"\0", "cannot be read"),
    ("offsets of none", ApiKey.LIST_OFFSETS, ListOffsetsResponse(0, []), "leaves out partitions"),
    ("offsets foreign", ApiKey.LIST_OFFSETS, offsets(0, name="x"), "leaves out partitions"),
    ("offsets refused", ApiKey.LIST_OFFSETS, offsets(0, error_code=29), "TOPIC_AUTHORIZATION"),
    ("offsets negative", ApiKey.LIST_OFFSETS, offsets(-5), "offset -5"),
    ("fetch cut", ApiKey.FETCH, b"\0\0\0", "cannot be read"),
    ("fetch of none", ApiKey.FETCH, fetched(b"", index=9), "leaves out partitions"),
    ("fetch foreign", ApiKey.FETCH, fetched(batch(), name="x"), "leaves out partitions"),
    ("fetch new code", ApiKey.FETCH, fetched(b"", error_code=9999), "error code 9999"),
    ("wrong crc", ApiKey.FETCH, fetched(damaged(65, b"\x55")), "CRC of the batch at offset 0"),
    ("cut batch", ApiKey.FETCH, fetched(batch()[:-1]), "68 of a record batch's 69 bytes"),
    ("huge batch", ApiKey.FETCH, fetched(damaged(8, b"\x7f\xff\xff\xff")), "2147483659 bytes"),
    ("negative batch", ApiKey.FETCH, fetched(damaged(8, b"\xff" * 4)), "record batch of -1 bytes"),
    ("tiny batch", ApiKey.FETCH, fetched(damaged(8, b"\0\0\0\x08")), "record batch of 20 bytes"),
    ("old format", ApiKey.FETCH, fetched(damaged(16, b"\1")), "records of format 1"),
    ("no batch", ApiKey.FETCH, fetched(b"\xff" * 100), "record batch of -1 bytes"),
    ("many records", ApiKey.FETCH, fetched(batch(count=1 << 30)), "cut or malformed"),
    ("stray records", ApiKey.FETCH, fetched(batch(body=RECORD * 2)), "after the last record"),
    ("codec", ApiKey.FETCH, fetched(batch(attributes=7)), "codec"),
    ("bomb", ApiKey.FETCH, fetched(BOMB), "268435456"),
    ("old batch again", ApiKey.FETCH, fetched(batch()), "sent again"),
]
PRODUCE: list[tuple[str, ApiKey, Any, str]] = [
    ("id cut", ApiKey.INIT_PRODUCER_ID, b"\0\0", "cannot be read"),
    ("id refused", ApiKey.INIT_PRODUCER_ID, InitProducerIdResponse(0, 31, -1, 0), "AUTHORIZATION"),
    ("id negative", ApiKey.INIT_PRODUCER_ID, InitProducerIdResponse(0, 0, -9, -9), "producer id"),
    ("produce cut", ApiKey.PRODUCE, b"\0\0", "cannot be read"),
    ("produce closed", ApiKey.PRODUCE, None, "instead of answering PRODUCE"),
    ("produce of none", ApiKey.PRODUCE, stored(index=5), "leaves out"),
    ("produce foreign", ApiKey.PRODUCE, stored(name="x"), "leaves out"),
    ("produce new code", ApiKey.PRODUCE, stored(error_code=9999), "error code 9999"),
    ("produce too large", ApiKey.PRODUCE, stored(error_code=10), "MESSAGE_TOO_LARGE"),
]
ROWS = [("consume", *row) for row in BOTH + CONSUME] + [("produce", *row) for row in BOTH + PRODUCE]


@pytest.mark.parametrize(
    ("name", "api", "reply", "text"),
    [(name, api, reply, text) for name, _, api, reply, text in ROWS],
    ids=[f"{row[0]}-{row[1]}" for row in ROWS],
)
def test_a_broken_reply_is_one_line_and_a_failure(
    name: str, api: ApiKey, reply: Any, text: str
) -> None:
    arguments = ("--delivery-timeout", "1s") if name == "produce" else ("-o", "0")
    with scripted_broker({api: always(reply)}) as address:
        result = run(name, address, "t", *arguments, stdin=b"v\n")
    lines = result.stderr.decode().splitlines()
    assert result.returncode in (1, 3), lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("rpk-py: ")
    assert text in lines[0]


def test_what_may_have_been_stored_is_not_called_lost() -> None:
    """The first batch is acknowledged, the second one's answer never comes."""
    asked = []

    def answer(_request: Any) -> Any:
        asked.append(1)
        return stored() if len(asked) == 1 else None

    with scripted_broker({ApiKey.PRODUCE: answer}) as address:
        result = run(
            *("produce", address, "t", "--delivery-timeout", "1s", "-o", ""),
            *("--max-message-bytes", "1", "--acks", "1"),
            stdin=b"a\nb\nc\n",
        )
    text = result.stderr.decode()
    assert "at least 1 of 3 records acknowledged, 1 unknown, 1 not sent or refused" in text


def test_a_refused_batch_is_not_called_unknown() -> None:
    refusal = stored(error_code=ErrorCode.MESSAGE_TOO_LARGE)
    with scripted_broker({ApiKey.PRODUCE: always(refusal)}) as address:
        result = run("produce", address, "t", stdin=b"a\nb\n")
    assert b"2 of 2 records were not acknowledged: topic t partition 0: MESS" in result.stderr


def test_an_offset_that_is_never_in_range_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker says that the partition has it, and refuses it."""
    monkeypatch.setattr("rpk_py.cli.consumer.OUTAGE_S_MAX", 0.3)
    refusal = fetched(None, error_code=ErrorCode.OFFSET_OUT_OF_RANGE)

    async def consume(address: str) -> None:
        async with Client([address]) as client:
            await client.metadata(["t"])
            spans = {("t", 0): Span(5, None)}
            await Consumer(client, spans, lambda *_: False, lambda: None).run()

    with (
        scripted_broker({ApiKey.FETCH: always(refusal)}) as address,
        pytest.raises(Refused, match="OFFSET_OUT_OF_RANGE"),
    ):
        asyncio.run(asyncio.wait_for(consume(address), 20))


def test_drain_waits_until_the_kernel_has_everything() -> None:
    """Without acknowledgements, what a connection still buffers at the end would be lost."""
    may_read = threading.Event()

    def stalled(_request: Any) -> bytes:
        may_read.wait(TIMEOUT_S)
        return NOTHING

    async def fill(address: str) -> None:
        host, port = address.split(":")
        link = await Link.open(host, int(port), "test", TIMEOUT_S)
        transport = link._writer.transport
        data = PartitionProduceData(0, memoryview(bytes(4096)))
        request = ProduceRequest(None, 0, 1000, [TopicProduceData("t", NO_UUID, [data])])
        while transport.get_write_buffer_size() == 0:  # until the peer and the kernel are full
            link.tell(request)
        draining = asyncio.ensure_future(link.drain())
        done, _ = await asyncio.wait([draining], timeout=0.2)
        assert not done
        may_read.set()
        await asyncio.wait_for(draining, TIMEOUT_S)
        assert transport.get_write_buffer_size() == 0
        link.close()

    with scripted_broker({ApiKey.PRODUCE: stalled}) as address:
        asyncio.run(fill(address))


def test_ctrl_c_before_the_first_answer_ends_produce() -> None:
    asked, over = threading.Event(), threading.Event()

    def never(_request: Any) -> None:
        asked.set()
        over.wait(TIMEOUT_S)

    with scripted_broker({ApiKey.METADATA: never}) as address:
        process = start("produce", address, "t")
        assert asked.wait(TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        assert process.wait(2) == 130  # its input is still open
        assert process.communicate()[1] == b""
        over.set()


def test_a_second_ctrl_c_says_what_is_unknown() -> None:
    asked, over = threading.Event(), threading.Event()

    def never(_request: Any) -> None:
        asked.set()
        over.wait(TIMEOUT_S)

    with scripted_broker({ApiKey.PRODUCE: never}) as address:
        process = start("produce", address, "t")
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"a\nb\n")
        process.stdin.flush()
        assert asked.wait(TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        assert b"Ctrl-C again gives it up" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(4) == 130
        assert b"at least 0 of 2 records acknowledged, 2 unknown" in process.stderr.read()
        process.communicate()
        over.set()


def test_an_offset_outside_the_partition_is_said() -> None:
    with scripted_broker({}) as address:
        result = run("consume", address, "t", "-o", "500:end")
    expected = (
        b"rpk-py: topic t partition 0: offset 500 is out of range (0 to 100), starting at 100"
    )
    assert (result.returncode, result.stderr.strip()) == (0, expected)


def test_the_progress_line_on_a_terminal_ends_with_the_totals() -> None:
    master, slave = pty.openpty()
    with scripted_broker({}) as address:
        process = subprocess.run(
            command("produce", "t", "-o", "", "--brokers", address),
            input=b"v\n" * 1234,
            stderr=slave,
            timeout=TIMEOUT_S,
            check=True,
        )
    os.close(slave)
    shown = os.read(master, 1 << 16)
    os.close(master)
    assert process.returncode == 0
    assert shown.split(b"\r")[1].startswith(b"1,234 records, 0.0 MB, ")
    assert shown.endswith(b"\n")
