"""The command line's Kafka client: which broker to ask, and what all client commands share.

Which process: the operator's. It speaks to any Kafka broker: versions are negotiated on every
connection, leaders and addresses are those of Metadata. Connections belong to the client and end
with it; nothing runs in the background.

Invariants: a request goes to one broker once, unless asking again cannot do harm; every wait has an
end; what goes wrong is a ClientError that a person can act on (link.py has the classes).
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import click

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from kafka_protocol.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
)
from rpk_py.cli import BROKERS
from rpk_py.cli.link import (
    Broken,
    ClientError,
    Link,
    NotServed,
    Refused,
    UnknownNode,
    Unreachable,
    address_text,
    error_name,
    refused,
)

__all__ = [
    "DEFAULT_BROKERS",
    "Broken",
    "Client",
    "ClientError",
    "Leader",
    "Link",
    "NotServed",
    "Refused",
    "TopicPartition",
    "UnknownNode",
    "Unreachable",
    "address_text",
    "brokers_option",
    "error_name",
    "parse_brokers",
    "refused",
    "run",
]

DEFAULT_BROKERS = "127.0.0.1:9092"
DEFAULT_PORT = 9092
RETRY_S_MIN = 0.05
RETRY_S_MAX = 1.0
EARLIEST_TIMESTAMP = -2
LATEST_TIMESTAMP = -1

# Another broker leads the partition by now, or will soon: ask for metadata and again.
LEADER_MOVED = frozenset(
    {
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.REPLICA_NOT_AVAILABLE,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.OFFSET_NOT_AVAILABLE,
    }
)

T = TypeVar("T")
TopicPartition = tuple[str, int]


class Leader(NamedTuple):
    """Who leads a partition by the last metadata; node_id -1: nobody does now."""

    node_id: int
    epoch: int


class Client:
    """A client of a cluster; an async context manager.

    Shapes:  brokers    HOST:PORT of any brokers of the cluster, see parse_brokers
             timeout_s  for a connection, and for one reply
    nodes, controller_id and leaders are what the last metadata said.
    """

    def __init__(
        self, brokers: Sequence[str], *, client_id: str = "rpk-py", timeout_s: float = 10.0
    ) -> None:
        self.brokers = list(brokers)
        self.timeout_s = timeout_s
        self.nodes: dict[int, tuple[str, int]] = {}
        self.controller_id = -1
        self.leaders: dict[TopicPartition, Leader] = {}
        self._client_id = client_id
        self._links: dict[str, Link] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._good = 0  # index of the broker that answered last

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for link in self._links.values():
            link.close()
        self._links.clear()

    # -- connections -----------------------------------------------------------------------

    async def link(self, node_id: int | None = None) -> Link:
        """The connection to a node of the last metadata, or without one to any broker.

        Raises Unreachable, which names every address that was tried.
        """
        if node_id is None:
            return await self._any_link()
        if node_id not in self.nodes:
            await self.metadata([])
        if node_id not in self.nodes:
            raise UnknownNode(f"node {node_id} is not among the brokers of the cluster's metadata")
        host, port = self.nodes[node_id]
        try:
            return await self._open(host, port)
        except Unreachable as error:
            raise type(error)(
                f"node {node_id} at its advertised address {error}; if other clients get there, "
                "check what the broker advertises"
            ) from error

    async def _any_link(self) -> Link:
        failures = []
        for turn in range(len(self.brokers)):
            index = (self._good + turn) % len(self.brokers)
            host, port = _split(self.brokers[index])
            try:
                link = await self._open(host, port)
            except ClientError as error:
                failures.append(str(error))
                continue
            self._good = index
            return link
        for host, port in self.nodes.values():  # known from metadata, so better than nothing
            link_there = self._links.get(address_text(host, port))
            if link_there is not None and not link_there.is_closed:
                return link_there
        raise Unreachable("no broker answers: " + "; ".join(failures))

    async def _open(self, host: str, port: int) -> Link:
        address = address_text(host, port)
        async with self._opening.setdefault(address, asyncio.Lock()):
            link = self._links.get(address)
            if link is None or link.is_closed:
                link = await Link.open(host, port, self._client_id, self.timeout_s)
                self._links[address] = link
            return link

    # -- requests --------------------------------------------------------------------------

    async def ask(
        self,
        request: Any,
        *,
        node_id: int | None = None,
        timeout_s: float | None = None,
        version_max: int | None = None,
    ) -> Any:
        """Send a request in the highest version that both know, and return its reply.

        node_id      a node of the last metadata; None: any broker
        timeout_s    for the reply, instead of the client's
        version_max  a lower version, where the caller speaks that one only
        Raises       NotServed, Unreachable; error codes in the reply are the caller's to judge
        """
        link = await self.link(node_id)
        return await link.ask(request, timeout_s or self.timeout_s, version_max)

    async def controller(self, request: Any, *, timeout_s: float | None = None) -> Any:
        """Send a request to the controller of the metadata, or to any broker if it names none."""
        if self.controller_id not in self.nodes:
            await self.metadata([])
        node_id = self.controller_id if self.controller_id in self.nodes else None
        return await self.ask(request, node_id=node_id, timeout_s=timeout_s)

    async def metadata(
        self, topics: Sequence[str] | None, *, create: bool = False
    ) -> MetadataResponse:
        """The brokers, and these topics or (None) all; remembers nodes, controller and leaders.

        create  let the broker create a topic that is missing, if it does such things
        """
        link = await self._any_link()
        names = None if topics is None else [MetadataRequestTopic(name=name) for name in topics]
        request = MetadataRequest(names, create)
        if link.version_for(request) == 0 and names is None:
            request.topics = []  # how version 0 says all topics
        answer: MetadataResponse
        try:
            answer = await link.ask(request, self.timeout_s)
        except Unreachable:  # a connection that has gone stale; asking again does no harm
            answer = await self.ask(request)
        if answer.error_code:
            raise refused("metadata", answer.error_code)
        self.nodes = {each.node_id: (each.host, each.port) for each in answer.brokers}
        self.controller_id = answer.controller_id
        for topic in answer.topics:
            for each in topic.partitions:
                if topic.name is not None:
                    key = (topic.name, each.partition_index)
                    self.leaders[key] = Leader(each.leader_id, each.leader_epoch)
        return answer

    async def partitions(
        self, topics: Sequence[str], *, create: bool = False
    ) -> dict[str, list[int]]:
        """The partitions of topics, each topic's in order; waits a while for one just created.

        Raises Refused for a topic that does not exist.
        """
        deadline = Deadline(self.timeout_s)
        while True:
            answer = await self.metadata(topics, create=create)
            found = {topic.name: topic for topic in answer.topics}
            pending = None
            for name in topics:
                topic = found.get(name)
                error_code = topic.error_code if topic else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                is_coming = create and error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                if error_code == ErrorCode.LEADER_NOT_AVAILABLE or is_coming:
                    pending = refused(f"topic {name}", error_code)
                elif error_code:
                    raise refused(f"topic {name}", error_code, hint=_TOPIC_HINTS.get(error_code))
            if pending is None:
                return {
                    name: sorted(each.partition_index for each in found[name].partitions)
                    for name in topics
                }
            if not await deadline.pause():
                raise pending

    async def ask_leaders(
        self,
        wanted: Mapping[TopicPartition, T],
        request_of: Callable[[dict[str, dict[int, T]]], Any],
        answers_of: Callable[[Any], Iterable[tuple[TopicPartition, Any]]],
    ) -> dict[TopicPartition, Any]:
        """Ask the leader of each partition; asks again where the leader has moved.

        Shapes:  request_of  {topic: {partition: value}} of one node -> request
                 answers_of  reply -> (topic and partition, its part with an error_code)
        Returns: what answers_of yields for each; error codes that waiting does not mend are in it
        Raises:  Refused, Unreachable for what is still without a leader after timeout_s
        """
        results: dict[TopicPartition, Any] = {}
        deadline = Deadline(self.timeout_s)
        if any(key not in self.leaders for key in wanted):
            await self.metadata(sorted({topic for topic, _ in wanted}))
        while True:
            missing = {key: value for key, value in wanted.items() if key not in results}
            if not missing:
                return results
            problem: ClientError | None = None
            for node_id, parts in self._by_leader(missing).items():
                if node_id < 0:
                    name, index = next((t, p) for t, ps in parts.items() for p in ps)
                    code = ErrorCode.LEADER_NOT_AVAILABLE
                    problem = refused(f"topic {name} partition {index}", code)
                    continue
                try:
                    answer = await self.ask(request_of(parts), node_id=node_id)
                except Broken:
                    raise
                except Unreachable as error:
                    problem = error
                    continue
                for key, part in answers_of(answer):
                    if part.error_code in LEADER_MOVED:
                        problem = refused(f"topic {key[0]} partition {key[1]}", part.error_code)
                    elif key in missing:
                        results[key] = part
            if len(results) == len(wanted):
                return results
            if not await deadline.pause():
                raise problem or ClientError("the broker's answer leaves out partitions")
            await self.metadata(sorted({topic for topic, _ in wanted}))

    def _by_leader(self, wanted: Mapping[TopicPartition, T]) -> dict[int, dict[str, dict[int, T]]]:
        """{node: {topic: {partition: value}}}, node -1 for what has no leader."""
        nodes: dict[int, dict[str, dict[int, T]]] = {}
        for (topic, index), value in wanted.items():
            leader = self.leaders.get((topic, index), Leader(-1, -1))
            nodes.setdefault(leader.node_id, {}).setdefault(topic, {})[index] = value
        return nodes

    async def list_offsets(
        self, wanted: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, ListOffsetsPartitionResponse]:
        """The offset of the first record at or after a timestamp (ms), or -2 start, -1 end.

        The offset is -1 where there is no such record. Raises Refused for a partition that fails,
        Broken where it has no start or end.
        """

        def request_of(parts: dict[str, dict[int, int]]) -> ListOffsetsRequest:
            return ListOffsetsRequest(
                replica_id=-1,
                timeout_ms=int(self.timeout_s * 1000),
                topics=[
                    ListOffsetsTopic(
                        topic, [ListOffsetsPartition(index, -1, at) for index, at in each.items()]
                    )
                    for topic, each in parts.items()
                ],
            )

        answers = await self.ask_leaders(
            wanted,
            request_of,
            lambda answer: (
                ((topic.name, each.partition_index), each)
                for topic in answer.topics
                for each in topic.partitions
            ),
        )
        for (topic, index), each in answers.items():
            if each.error_code:
                raise refused(f"offsets of topic {topic} partition {index}", each.error_code)
            if each.offset < 0 and wanted[topic, index] < 0:
                raise Broken(
                    f"topic {topic} partition {index}: the broker says offset {each.offset}"
                )
        return answers


_TOPIC_HINTS: dict[int, str] = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: "create it with `rpk-py topic create`",
    ErrorCode.INVALID_TOPIC_EXCEPTION: "1 to 249 letters, digits, dots, dashes, underscores",
}


class Deadline:
    """A bounded number of growing pauses between tries."""

    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + timeout_s
        self._pause_s = RETRY_S_MIN

    async def pause(self) -> bool:
        """Wait before the next try; False if there is no time left for one."""
        left = self._end - time.monotonic()
        if left <= 0:
            return False
        await asyncio.sleep(min(self._pause_s, left))
        self._pause_s = min(self._pause_s * 2, RETRY_S_MAX)
        return True


# --- what commands share ---------------------------------------------------------------------


def parse_brokers(text: str) -> list[str]:
    """ "host:port,host,[::1]:port" -> HOST:PORT each; click.UsageError names what is wrong."""
    brokers = []
    for part in text.split(","):
        address = part.strip()
        if not address:
            raise click.UsageError(f"--brokers: empty address in {text!r}")
        if "://" in address:
            raise click.UsageError(f"--brokers: {address!r}: HOST:PORT without a scheme, please")
        try:
            brokers.append(address_text(*parse_address(address)))
        except ValueError as error:
            raise click.UsageError(f"--brokers: {address!r}: {error}") from None
    return brokers


def parse_address(address: str) -> tuple[str, int]:
    """HOST, HOST:PORT, [IPV6] or [IPV6]:PORT. Raises ValueError, which says what is wrong."""
    host, _, port_text = address.rpartition(":")
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket or not host or (rest and not rest.startswith(":")):
            raise ValueError("[IPV6] or [IPV6]:PORT")
        port_text = rest[1:] if rest else str(DEFAULT_PORT)
    elif address.count(":") > 1:
        raise ValueError("an IPv6 address goes in brackets")
    elif not host:
        if not address or address.startswith(":"):
            raise ValueError("no host")
        host, port_text = address, str(DEFAULT_PORT)
    if not (re.fullmatch("[0-9]{1,5}", port_text) and 0 < int(port_text) < 65536):
        raise ValueError("the port is a number from 1 to 65535")
    return host, int(port_text)


def _split(broker: str) -> tuple[str, int]:
    host, _, port = broker.rpartition(":")
    return host.strip("[]"), int(port)


def _brokers_of(ctx: click.Context, _param: click.Parameter, value: str | None) -> list[str]:
    """Callback of --brokers: the command's own, the group's, RPK_BROKERS, the default."""
    source = ctx.get_parameter_source("brokers")
    if source is not click.core.ParameterSource.COMMANDLINE and BROKERS in ctx.meta:
        value = ctx.meta[BROKERS]
    return parse_brokers(value or DEFAULT_BROKERS)


# For every client command; the parameter `brokers` is a list[str].
brokers_option = click.option(
    "--brokers",
    "-b",
    metavar="HOST:PORT,...",
    envvar="RPK_BROKERS",
    default=DEFAULT_BROKERS,
    show_default=True,
    show_envvar=True,
    callback=_brokers_of,
    help="Any brokers of the cluster; the first that answers is used.",
)


async def _unwrapped(coroutine: Coroutine[Any, Any, object]) -> None:
    """Await it; of the errors of a TaskGroup the first one is raised by itself."""
    try:
        await coroutine
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def run(coroutine: Coroutine[Any, Any, object], *, interrupted: int = 130) -> None:
    """Run a command's coroutine; the exit code tells how it ended.

    A ClientError is one line on standard error and its exit code; Ctrl-C is `interrupted`; a reader
    of our output that went away ends the command without a word.
    """
    try:
        asyncio.run(_unwrapped(coroutine))
        sys.stdout.flush()
    except ClientError as error:
        # Imported here: output.py is of the commands, this module is below them.
        from rpk_py.cli.output import note

        note(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(interrupted)
    except BrokenPipeError:
        # Python flushes standard output once more at its end: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
