"""`topic produce`: records from standard input to a topic.

Which process: the operator's. Input is read only as fast as the brokers take it, see producer.py.

Invariants: every record that was read is acknowledged, or the command says how many were not and
why, and fails; that holds for Ctrl-C as well, which stops reading and sends what has been read.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from dataclasses import dataclass

import click

from kafka_protocol.compression import CODEC_NAMES
from kafka_protocol.record_batch import RecordHeaders
from rpk_py.cli.client import Client, ClientError, brokers_option, run
from rpk_py.cli.output import note
from rpk_py.cli.producer import Batch, Producer
from rpk_py.cli.record_format import (
    BadInput,
    InputFormat,
    Parsed,
    Printer,
    Shown,
    output_format,
)
from rpk_py.cli.times import duration_ms

READ_BYTES = 256 << 10
LINGER_S = 0.005  # how long more input is waited for before a small batch leaves
RECORD_BYTES_MAX = 64 << 20
PROGRESS_S = 0.5
_DEFAULT_OUTPUT = "Produced to partition %p at offset %o with timestamp %d.\\n"


class Interrupted(ClientError):
    """Ctrl-C; what was read is accounted for."""

    exit_code = 130


class Input:
    """A file descriptor that is read when it has something, whatever kind of file it is."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._readable = asyncio.Event()

    @property
    def is_stopped(self) -> bool:
        """Whether somebody asked not to read on."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Let read() return nothing from now on, also the one that waits."""
        self._stopped.set()
        self._readable.set()

    def is_ready(self) -> bool:
        """Whether a read would not wait (also at the end of the input)."""
        return self.is_stopped or bool(select.select([self._fd], [], [], 0)[0])

    async def becomes_ready(self, timeout_s: float | None = None) -> bool:
        """Wait until a read would not wait; False after timeout_s."""
        if self.is_ready():
            return True
        self._readable.clear()
        self._loop.add_reader(self._fd, self._readable.set)
        try:
            async with asyncio.timeout(timeout_s):
                await self._readable.wait()
            return True
        except TimeoutError:
            return False
        finally:
            self._loop.remove_reader(self._fd)

    async def read(self) -> bytes:
        """The next bytes; nothing at the end, or after stop()."""
        await self.becomes_ready()
        return b"" if self.is_stopped else os.read(self._fd, READ_BYTES)


@dataclass(slots=True)
class Options:
    """What the command line says about the records."""

    topic: str
    key: bytes | None
    headers: RecordHeaders
    partition: int | None
    compression: int
    acks: int
    is_tombstone: bool
    may_create: bool
    delivery_timeout_s: float
    batch_bytes_max: int


class Report:
    """Prints a line for each delivered record, and progress on a terminal."""

    def __init__(self, topic: str, show: Printer | None, has_progress: bool) -> None:
        self._topic = topic
        self._show = show
        self._has_progress = has_progress
        self._records = 0
        self._bytes = 0
        self._started = self._reported = asyncio.get_running_loop().time()

    def delivered(self, batch: Batch, base_offset: int, timestamp: int) -> None:
        """Note that a batch is stored; its first record has base_offset."""
        self._records += batch.count
        self._bytes += batch.size_bytes
        if self._show is not None:
            self._print(batch, base_offset, timestamp, self._show)
        if self._has_progress:
            now = asyncio.get_running_loop().time()
            if now - self._reported >= PROGRESS_S:
                self._reported = now
                self._progress("\r")

    def finish(self) -> None:
        """End the line of progress with the totals."""
        if self._has_progress:
            self._progress("\r")
            click.echo(err=True)

    def _progress(self, start: str) -> None:
        elapsed = max(asyncio.get_running_loop().time() - self._started, 1e-3)
        click.echo(
            f"{start}{self._records:,} records, {self._bytes / 1e6:,.1f} MB, "
            f"{self._bytes / 1e6 / elapsed:,.1f} MB/s ",
            err=True,
            nl=False,
        )

    def _print(self, batch: Batch, base_offset: int, timestamp: int, show: Printer) -> None:
        shown = Shown(self._topic, batch.partition, base_offset, timestamp, None, None)
        lines = []
        for index, (key, value) in enumerate(batch.records):
            shown.offset = base_offset + index if base_offset >= 0 else -1
            shown.key, shown.value = key, value
            shown.index = self._records - batch.count + index + 1
            lines.append(show(shown))
        try:
            sys.stdout.buffer.write(b"".join(lines))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            self._show = None  # nobody reads it; the records are what matters
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


async def _produce(
    brokers: list[str], options: Options, reader: InputFormat, show: Printer | None
) -> None:
    stdin = Input(sys.stdin.fileno())
    is_long = sys.stderr.isatty() and not (sys.stdin.isatty() or (show and sys.stdout.isatty()))
    report = Report(options.topic, show, is_long)
    problem: str | None = None
    async with Client(brokers) as client:
        partitions = await _partitions(client, options)
        producer = Producer(
            client,
            options.topic,
            partitions,
            headers=options.headers,
            compression=options.compression,
            acks=options.acks,
            batch_bytes_max=options.batch_bytes_max,
            delivery_timeout_s=options.delivery_timeout_s,
            delivered=report.delivered,
            failed=stdin.stop,
            keep_records=show is not None,
        )
        interrupts = _on_interrupt(stdin)
        try:
            async with asyncio.TaskGroup() as group:
                await producer.start(group)
                try:
                    await _feed(stdin, reader, producer, options, set(partitions))
                except BadInput as error:
                    problem = str(error)
                producer.close()
        except asyncio.CancelledError:
            if not interrupts:
                raise
    report.finish()
    _conclude(producer, problem, bool(interrupts), reader.rest_bytes)


def _on_interrupt(stdin: Input) -> list[int]:
    """The first Ctrl-C stops reading, the second gives up what is not acknowledged yet."""
    seen: list[int] = []
    task = asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        seen.append(signal.SIGINT)
        if len(seen) == 1:
            note("interrupted: sending what has been read; Ctrl-C again gives it up")
            stdin.stop()
        else:
            task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
    return seen


async def _partitions(client: Client, options: Options) -> list[int]:
    found = await client.partitions([options.topic], create=options.may_create)
    partitions = found[options.topic]
    if not partitions:
        raise ClientError(f"topic {options.topic}: the broker names no partitions")
    if options.partition is not None and options.partition not in partitions:
        raise ClientError(
            f"topic {options.topic} has no partition {options.partition}: "
            f"its partitions are {partitions[0]} to {partitions[-1]}"
        )
    return partitions


async def _feed(
    stdin: Input, reader: InputFormat, producer: Producer, options: Options, partitions: set[int]
) -> None:
    """Read records and add them until the input ends, somebody stops it, or nothing helps."""
    loop = asyncio.get_running_loop()
    sealed_at = loop.time()
    while data := await stdin.read():
        _add(reader.feed(data), producer, options, partitions)
        await producer.room()
        await asyncio.sleep(0)  # a file never makes us wait, and senders need their turn
        if producer.failure is not None:
            return
        if not stdin.is_ready() and (
            loop.time() - sealed_at >= LINGER_S or not await stdin.becomes_ready(LINGER_S)
        ):
            producer.seal()
            sealed_at = loop.time()
    if not stdin.is_stopped:
        _add(reader.finish(), producer, options, partitions)


def _add(records: list[Parsed], producer: Producer, options: Options, partitions: set[int]) -> None:
    fixed_key, fixed_partition, is_tombstone = options.key, options.partition, options.is_tombstone
    add = producer.add
    for key, value, partition in records:
        if partition is not None and partition not in partitions:
            raise BadInput(f"topic {options.topic} has no partition {partition}")
        if is_tombstone and not value:
            value = None
        elif value is None:
            value = b""
        add(
            fixed_key if key is None else key,
            value,
            fixed_partition if partition is None else partition,
        )


def _conclude(
    producer: Producer, problem: str | None, is_interrupted: bool, rest_bytes: int
) -> None:
    """Say what was not delivered, and fail if anything was not."""
    counts = producer.counts
    lost = f"{counts.failed} of {counts.added} records were not acknowledged"
    if counts.unknown:
        lost = (
            f"at least {counts.acknowledged} of {counts.added} records acknowledged, "
            f"{counts.unknown} unknown, {counts.failed - counts.unknown} not sent or refused"
        )
    if producer.failure is not None:
        error = ClientError(f"{lost}: {producer.failure}")
        error.exit_code = producer.failure.exit_code
        raise error
    if is_interrupted:
        text = lost if counts.failed else f"{counts.acknowledged} records were produced"
        if rest_bytes:
            text += f"; {rest_bytes} bytes of a record that was not read to its end were left out"
        raise Interrupted(f"interrupted: {text}")
    if problem is not None:
        raise ClientError(f"{problem}; {counts.acknowledged} records before it were produced")


# --- the command -----------------------------------------------------------------------------


def _header(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> RecordHeaders:
    headers = []
    for text in values:
        name, colon, value = text.partition(":")
        if not colon or not name:
            raise click.BadParameter(f"{text!r} is not KEY:VALUE")
        if not _is_text(name):
            raise click.BadParameter(f"the key of {text!r} is not UTF-8")
        headers.append((name, _raw(value)))
    return headers


def _is_text(argument: str) -> bool:
    """Whether an argument is UTF-8: Python has surrogates for the bytes that are not."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


def _raw(text: str) -> bytes:
    """The bytes of an argument, also where they are not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _duration_s(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    try:
        seconds = duration_ms(value) / 1000
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if seconds < 1:
        raise click.BadParameter("at least 1s")
    return seconds


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("topic")
@brokers_option
@click.option("-k", "--key", help="Key of every record; a key of the input takes precedence.")
@click.option(
    "-H",
    "--header",
    "headers",
    metavar="KEY:VALUE",
    multiple=True,
    callback=_header,
    help="Header of every record; may be repeated.",
)
@click.option(
    "-z",
    "--compression",
    type=click.Choice(CODEC_NAMES),
    default="snappy",
    show_default=True,
    help="How batches are compressed.",
)
@click.option("-p", "--partition", type=click.IntRange(0), help="Partition of every record.")
@click.option(
    "-f",
    "--format",
    "layout",
    default="%v\\n",
    show_default=True,
    help="How the input is cut into records: %k key, %v value, %p partition, each up to the text "
    r"behind it; %k{hex}, %v{base64}; \n \t \r \\ \xNN; %% %{ %}.",
)
@click.option(
    "-o",
    "--output-format",
    default=_DEFAULT_OUTPUT,
    show_default=True,
    help="What to print for a record once it is stored, see `topic consume`; '' prints nothing.",
)
@click.option(
    "--acks",
    type=click.Choice(("-1", "0", "1")),
    default="-1",
    show_default=True,
    help="Who must have a record: -1 all in sync, 1 the leader, 0 do not wait.",
)
@click.option("-Z", "--tombstone", is_flag=True, help="Turn empty values into tombstones.")
@click.option(
    "--allow-auto-topic-creation", is_flag=True, help="Let the broker create a missing topic."
)
@click.option(
    "--delivery-timeout",
    metavar="DURATION",
    default="2m",
    show_default=True,
    callback=_duration_s,
    help="How long a record is tried, like 30s.",
)
@click.option(
    "--max-message-bytes",
    type=click.IntRange(1, 1 << 30),
    default=512 << 10,
    show_default=True,
    help="Size of a batch before compression; a larger record is a batch of its own.",
)
def produce(
    topic: str,
    brokers: list[str],
    key: str | None,
    headers: RecordHeaders,
    compression: str,
    partition: int | None,
    layout: str,
    output_format: str,
    acks: str,
    tombstone: bool,
    allow_auto_topic_creation: bool,
    delivery_timeout: float,
    max_message_bytes: int,
) -> None:
    """Produce records from standard input to TOPIC, a line each.

    Records with a key go to the partition that Kafka's other clients choose for it. With the
    default acks=-1 a record is stored once, however often it has to be sent.

    \b
    Example:  echo hello | rpk-py topic produce greetings
              rpk-py topic produce orders -f '%k %v\\n' < lines    # a key, a space, a value
    """
    options = Options(
        topic=topic,
        key=None if key is None else _raw(key),
        headers=headers,
        partition=partition,
        compression=CODEC_NAMES.index(compression),
        acks=int(acks),
        is_tombstone=tombstone,
        may_create=allow_auto_topic_creation,
        delivery_timeout_s=delivery_timeout,
        batch_bytes_max=max_message_bytes,
    )
    reader = InputFormat(layout, RECORD_BYTES_MAX)
    run(_produce(brokers, options, reader, _printer(output_format)))


def _printer(text: str) -> Printer | None:
    return output_format(text) if text else None
