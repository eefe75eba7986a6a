"""`rpk-py doctor connect HOST:PORT`: walk the path of a client and name the first wrong hop.

Which process: the operator's, on the machine where the client has its trouble. A client takes one
address and must then reach every address that the cluster tells it, so each of them is looked at:
name, connection, who answers, to which cluster it belongs and which node of it it is.

Invariants: every hop is told when it is done; nothing is left on the cluster but what its hop says
could not be deleted. Which node answers is asked by DescribeConfigs of that broker, which every
broker refuses for another one (Apache Kafka: ConfigHelper), since Metadata does not tell it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import sys
import time
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import click

from kafka_protocol.errors import DecodeError, ErrorCode
from kafka_protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest
from kafka_protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from kafka_protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
)
from kafka_protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from kafka_protocol.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
)
from kafka_protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_protocol.record_batch import build_batch, iter_batches, iter_records
from kafka_protocol.wire import Buffer
from rpk_py.cli.client import address_text, parse_address
from rpk_py.cli.node_connection import NodeConnection, NodeError, connect, first_bytes, resolve
from rpk_py.cli.output import clean, format_option, print_json, print_text

TOPIC_PREFIX = "rpk-py-doctor-"
TIMEOUT_S_MAX = 3600.0
_PROBE_S = 1.0  # for finding out what it is that does not speak Kafka
_BROKER = 4  # resource type of DescribeConfigs
_INFLATED_BYTES_MAX = 1 << 20
# The start of a TLS 1.2 handshake with one cipher suite: any TLS listener answers or alerts.
_TLS_HELLO = bytes.fromhex("160301002d010000290303" + "00" * 32 + "000002c02f0100")
_HTTP_REQUEST = b"HEAD / HTTP/1.0\r\n\r\n"

_ADVERTISE = (
    "let the broker tell an address that this machine can reach: rpk-py start"
    " --advertise-kafka-addr HOST:PORT, or in Apache Kafka"
    " advertised.listeners=PLAINTEXT://HOST:PORT"
)
_PUBLISH = "in a container: publish the port, docker run -p {port}:{port}"
_LISTEN = (
    "start the broker there, or let it listen on an address that is reachable from here:"
    " rpk-py start --kafka-addr 0.0.0.0:{port}, or in Apache Kafka listeners=PLAINTEXT://:{port}; "
    + _PUBLISH
)
_CODE_FIXES = {
    ErrorCode.TOPIC_AUTHORIZATION_FAILED: "allow CREATE on topics to this user, or use --no-write",
    ErrorCode.CLUSTER_AUTHORIZATION_FAILED: "allow CREATE on the cluster, or use --no-write",
    ErrorCode.POLICY_VIOLATION: "this cluster has a rule against this topic: use --no-write",
    ErrorCode.INVALID_REPLICATION_FACTOR: "start as many brokers as default.replication.factor, "
    "or lower it",
    ErrorCode.KAFKA_STORAGE_ERROR: "look into the broker's log: its disk is full or failed",
    ErrorCode.NOT_ENOUGH_REPLICAS: "bring back the brokers that hold its other replicas, or lower "
    "min.insync.replicas",
}
# A node that has not heard yet of a topic that is new, or that it leads it.
_NOT_YET = (
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode.UNKNOWN_TOPIC_ID,
    ErrorCode.LEADER_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER,
)
_AGAIN_S = 0.02

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hop:
    """One step: what, to whom, how it went, and for a wrong one why and what to do."""

    hop: str
    target: str
    ok: bool
    ms: float
    detail: str = ""
    cause: str | None = None
    fix: str | None = None


class Wrong(Exception):
    """This hop is wrong."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.fix = fix


@click.group()
def doctor() -> None:
    """Find out why clients have trouble with a cluster."""


@doctor.command(name="connect", short_help="Walk a client's path and name the first wrong hop.")
@click.argument("address", metavar="HOST[:PORT]")
@click.option("--no-write", is_flag=True, help="Leave out the topic with a record there and back.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest that one hop may take.",
)
@format_option
def connect_command(address: str, no_write: bool, timeout_s: float, output: str) -> None:
    """Walk the path of a client to HOST:PORT and on to every node of the cluster.

    Run it where the client has its trouble. Each hop is printed with its time: the name, the
    connection, what listens, its APIs, the metadata, then the same for the address that each node
    advertises, and whether that leads to the same cluster and to that very node; at last a record
    there and back, on a topic of its own that is deleted again. At the first hop that is wrong it
    says why and what to do. The port is 9092 if none is given.

    \b
    Exit code: 0 all is well, 1 a hop is wrong, 2 wrong usage

    \b
    Examples:
      rpk-py doctor connect localhost:9092
      rpk-py doctor connect kafka.example:9092 --no-write
      rpk-py doctor connect '[::1]:9092' --format json
    """
    if not timeout_s <= TIMEOUT_S_MAX:  # neither is nan
        raise click.UsageError(f"--timeout: at most {TIMEOUT_S_MAX:g} seconds")
    host, port = _parse(address)
    walk = Walk(host, port, timeout_s, live=output == "text")
    try:
        asyncio.run(walk.run(write=not no_write))
    except KeyboardInterrupt:
        sys.exit(130)
    wrong = next((hop for hop in walk.hops if not hop.ok), None)
    if output == "json":
        hops = [asdict(hop) for hop in walk.hops]
        print_json(
            {"address": address, "ok": wrong is None, "cluster_id": walk.cluster_id, "hops": hops}
        )
    elif wrong is None:
        print_text(f"\nAll is well: {len(walk.hops)} hops.")
    else:
        print_text(
            f"\nWrong hop: {clean(wrong.hop)}, {clean(wrong.target)}"
            f"\nCause:     {clean(wrong.cause or '')}\nFix:       {clean(wrong.fix or '')}"
        )
    sys.exit(0 if wrong is None else 1)


def _parse(address: str) -> tuple[str, int]:
    try:
        return parse_address(address)
    except ValueError as error:
        text = f"{address!r} is no HOST:PORT, like localhost:9092 or [::1]:9092: {error}"
        raise click.UsageError(text) from None


class Walk:
    """The hops of one client, in their order; stops behind the first that is wrong."""

    def __init__(self, host: str, port: int, timeout_s: float, live: bool) -> None:
        self.hops: list[Hop] = []
        self.cluster_id: str | None = None
        self._host = host
        self._port = port
        self._timeout_s = timeout_s
        self._live = live
        self._nodes: dict[int, NodeConnection] = {}
        self._open: list[NodeConnection] = []
        self._may_exist = False  # the topic

    async def run(self, write: bool) -> None:
        """Walk; the result is in `hops`."""
        try:
            first = await self._reach(self._host, self._port, advertised_by=None)
            metadata = await self._metadata(first, address_text(self._host, self._port))
            for node in metadata.brokers:
                await self._node(first, node)
            controller = await self._controller(metadata)
            if write:
                await self._round_trip(controller)
        except Wrong:
            pass  # told with its hop
        finally:
            for connection in self._open:
                connection.close()

    async def _hop(self, name: str, target: str, step: Awaitable[tuple[T, str]]) -> T:
        """Do one step, which gives its result and a detail, and tell how it went."""
        started_s = time.perf_counter()
        try:
            result, detail = await step
        except Wrong as wrong:
            self._tell(name, target, started_s, wrong=wrong)
            raise
        except NodeError as error:
            explained = _explain(error, target)
            self._tell(name, target, started_s, wrong=explained)
            raise explained from None
        self._tell(name, target, started_s, detail)
        return result

    def _tell(
        self, name: str, target: str, started_s: float, detail: str = "", wrong: Wrong | None = None
    ) -> None:
        ms = round((time.perf_counter() - started_s) * 1000, 2)
        told = (wrong.cause, wrong.fix) if wrong else (None, None)
        hop = Hop(name, target, wrong is None, ms, detail, *told)
        self.hops.append(hop)
        if self._live:
            head = f"{'ok' if hop.ok else 'WRONG':5}  {name:20}"
            print_text(f"{head}  {ms:8.2f} ms  {clean(f'{target}  {detail}').rstrip()}")
            sys.stdout.flush()

    # One address.

    async def _reach(
        self, host: str, port: int, advertised_by: MetadataResponseBroker | None
    ) -> NodeConnection:
        """Resolve, connect, and see that Kafka listens."""
        prefix = "" if advertised_by is None else f"node {advertised_by.node_id} "
        advice = None if advertised_by is None else _ADVERTISE
        shown = address_text(host, port)
        addresses = await self._hop(f"{prefix}resolve", host, self._resolve(host, advice))
        step = self._connect(addresses, host, port, advice)
        connection = await self._hop(f"{prefix}connect", shown, step)
        await self._hop(f"{prefix}api versions", shown, self._negotiate(connection))
        return connection

    async def _resolve(self, host: str, advice: str | None) -> tuple[list[str], str]:
        try:
            addresses = await resolve(host)
        except NodeError as error:
            if advice is None:
                fix = "check the name for typing mistakes, or add it to DNS or /etc/hosts"
                raise Wrong(f"{host} cannot be resolved here: {error}", fix) from None
            raise Wrong(
                f"the broker advertises {host}, which cannot be resolved here ({error}); a"
                " container's name, for one, is known to its own network only",
                advice,
            ) from None
        return addresses, "" if addresses == [host] else ", ".join(addresses)

    async def _connect(
        self, addresses: list[str], host: str, port: int, advice: str | None
    ) -> tuple[NodeConnection, str]:
        failed: list[str] = []
        error = NodeError("unreachable", "no address")
        for address in addresses:
            try:
                connection = await connect(address, port, self._timeout_s)
            except NodeError as caught:
                error = caught
                failed.append(f"{address}: {caught}")
                continue
            self._open.append(connection)
            detail = f"{address} answers" if len(addresses) > 1 else ""
            return connection, "; ".join([detail, *failed]).removeprefix("; ")
        told = "; ".join(failed)
        if advice is not None:
            raise Wrong(self._advertised_unreachable(host, port, addresses, told), advice)
        if error.kind == "refused":
            raise Wrong(f"nothing listens on port {port} ({told})", _LISTEN.format(port=port))
        fix = f"check the address, and that no firewall drops what goes to port {port}"
        raise Wrong(f"cannot be reached: {told}", fix)

    def _advertised_unreachable(self, host: str, port: int, addresses: list[str], told: str) -> str:
        if _is_loopback(addresses) and self._open and not _is_loopback([self._open[0].peer[0]]):
            what = f"the broker advertises {host}, which is every client's own machine"
        else:
            shown = address_text(host, port)
            what = f"the broker advertises {shown}, which cannot be reached from here"
        return f"{what}: {told}; the port may not be published, or not forwarded to the broker"

    async def _negotiate(self, connection: NodeConnection) -> tuple[None, str]:
        try:
            return None, f"{await connection.negotiate()} APIs"
        except NodeError as error:
            what = await self._what_listens(*connection.peer, error)
            if what is not None:
                raise what from None
            raise

    async def _what_listens(self, address: str, port: int, error: NodeError) -> Wrong | None:
        """Who it is that does not speak Kafka; None if it cannot be told."""
        seen = error.received
        if seen.startswith(b"SSH-"):
            return Wrong("this is an SSH server", "use the port of the Kafka listener")
        said = b""
        if not (_is_tls(seen) or seen.startswith(b"HTTP")):
            limit_s = min(_PROBE_S, self._timeout_s)
            seen = await first_bytes(address, port, _TLS_HELLO, limit_s)
            if not _is_tls(seen):
                said = await first_bytes(address, port, _HTTP_REQUEST, limit_s)
        if _is_tls(seen):
            return Wrong(
                "this listener speaks TLS, and rpk-py connects without",
                "use the port of a PLAINTEXT listener; a client that is to use this one needs"
                " security.protocol=SSL",
            )
        if seen.startswith(b"HTTP") or said.startswith(b"HTTP"):
            return Wrong(
                "this is an HTTP server, for example the admin port of a broker",
                "use the port of the Kafka listener, 9092 by default",
            )
        return None

    # The cluster.

    async def _metadata(self, connection: NodeConnection, target: str) -> MetadataResponse:
        async def step() -> tuple[MetadataResponse, str]:
            try:
                answer: MetadataResponse = await connection.ask(MetadataRequest([], False))
            except NodeError as error:
                if error.kind != "unserved":
                    raise
                raise Wrong(
                    f"{error}: this is a listener of controllers, which serve no clients",
                    "use the port of a broker's listener, 9092 by default",
                ) from None
            if not answer.brokers:
                raise Wrong(
                    "it knows no node of its cluster",
                    "wait until the broker has started, and look into its log",
                )
            ids = ", ".join(str(node.node_id) for node in answer.brokers)
            return answer, f"cluster {answer.cluster_id}, nodes {ids}"

        answer = await self._hop("metadata", target, step())
        self.cluster_id = answer.cluster_id
        return answer

    async def _node(self, first: NodeConnection, node: MetadataResponseBroker) -> None:
        """Whether the address that a node advertises leads to that node."""
        if node.host in ("", "0.0.0.0", "::"):
            wrong = Wrong(
                f"the broker advertises {node.host or 'no host'}, which is no address to connect"
                " to: it means all addresses of a machine",
                _ADVERTISE,
            )
            shown = address_text(node.host, node.port)
            self._tell(f"node {node.node_id} address", shown, time.perf_counter(), wrong=wrong)
            raise wrong
        connection = await self._reach(node.host, node.port, node)
        target = address_text(node.host, node.port)
        await self._hop(f"node {node.node_id} identity", target, self._identify(connection, node))
        self._nodes[node.node_id] = connection

    async def _identify(
        self, connection: NodeConnection, node: MetadataResponseBroker
    ) -> tuple[None, str]:
        metadata: MetadataResponse = await connection.ask(MetadataRequest([], False))
        if metadata.cluster_id != self.cluster_id:
            raise Wrong(
                f"the advertised address leads to another cluster: {metadata.cluster_id} and not"
                f" {self.cluster_id}",
                _ADVERTISE,
            )
        resource = DescribeConfigsResource(_BROKER, str(node.node_id), [])
        answer = await connection.ask(DescribeConfigsRequest([resource], False, False))
        result = _only(answer.results)
        if result.error_code == ErrorCode.INVALID_REQUEST:
            raise Wrong(
                f"the advertised address leads to another node: {result.error_message}",
                "give each node an address of its own; shard I of rpk-py has port + I, forward all"
                f" of them. {_ADVERTISE}",
            )
        if result.error_code:  # may not be asked; then nobody can say
            return None, f"same cluster; node id not told: {_name(result.error_code)}"
        return None, "same cluster, same node"

    async def _controller(self, metadata: MetadataResponse) -> NodeConnection:
        async def step() -> tuple[NodeConnection, str]:
            connection = self._nodes.get(metadata.controller_id)
            if connection is None:
                raise Wrong(
                    f"the cluster names no controller (node {metadata.controller_id}): topics can"
                    " neither be created nor changed",
                    "look at the controllers' logs: most of them must be up and reach each other",
                )
            await connection.ask(MetadataRequest([], False))
            return connection, ""

        return await self._hop("controller", f"node {metadata.controller_id}", step())

    # A record there and back.

    async def _round_trip(self, controller: NodeConnection) -> None:
        name = TOPIC_PREFIX + secrets.token_hex(6)
        try:
            await self._hop("create topic", name, self._create(controller, name))
            leader_id, topic_id = await self._hop("leader", name, self._leader(controller, name))
            leader = self._nodes[leader_id]
            value = secrets.token_bytes(16)
            produced = self._produce(leader, name, topic_id, value)
            offset = await self._hop("produce", f"node {leader_id}", produced)
            fetched = self._fetch(leader, name, topic_id, offset, value)
            await self._hop("consume", f"node {leader_id}", fetched)
        finally:
            if self._may_exist:
                await self._hop("delete topic", name, self._delete(controller, name))

    async def _create(self, controller: NodeConnection, name: str) -> tuple[None, str]:
        request = CreateTopicsRequest([CreatableTopic(name, 1, -1)], self._timeout_ms)
        self._may_exist = True  # also where the answer does not come
        topic = _only((await controller.ask(request)).topics)
        self._may_exist = topic.error_code in (ErrorCode.NONE, ErrorCode.REQUEST_TIMED_OUT)
        _check(topic.error_code, topic.error_message, "the topic is refused")
        return None, ""

    @property
    def _timeout_ms(self) -> int:
        """What the node is given for one request: less than the hop, so that it can say why."""
        return int(self._timeout_s * 800)

    async def _leader(self, node: NodeConnection, name: str) -> tuple[tuple[int, bytes], str]:
        """Wait until the partition has a leader: it may come after the topic."""
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            request = MetadataRequest([MetadataRequestTopic(name=name)], False)
            topic = _only((await node.ask(request)).topics)
            code = topic.error_code
            if not code and topic.partitions:
                code = topic.partitions[0].error_code
                leader = topic.partitions[0].leader_id
                if not code and leader in self._nodes:
                    return (leader, topic.topic_id), f"node {leader}"
            if time.monotonic() > deadline_s:
                fix = "look into the log of the broker that shall lead it"
                raise Wrong(f"the partition gets no leader: {_name(code)}", fix)
            await asyncio.sleep(_AGAIN_S)

    async def _produce(
        self, leader: NodeConnection, name: str, topic_id: bytes, value: bytes
    ) -> tuple[int, str]:
        batch = build_batch([(b"rpk-py", value)], timestamp_ms=time.time_ns() // 1_000_000)
        data = PartitionProduceData(0, memoryview(batch))
        topic = TopicProduceData(name=name, topic_id=topic_id, partition_data=[data])
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            answer = await leader.ask(ProduceRequest(None, -1, self._timeout_ms, [topic]))
            result = _only(_only(answer.responses).partition_responses)
            if result.error_code not in _NOT_YET or time.monotonic() > deadline_s:
                break
            await asyncio.sleep(_AGAIN_S)
        _check(result.error_code, result.error_message, "the record is refused")
        return result.base_offset, "acks=all"

    async def _fetch(
        self, leader: NodeConnection, name: str, topic_id: bytes, offset: int, value: bytes
    ) -> tuple[None, str]:
        wanted = FetchPartition(0, fetch_offset=offset, partition_max_bytes=1 << 20)
        topic = FetchTopic(name, topic_id, [wanted])
        deadline_s = time.monotonic() + self._timeout_s
        code = ErrorCode.NONE
        while time.monotonic() < deadline_s:
            answer = await leader.ask(FetchRequest(max_wait_ms=500, min_bytes=1, topics=[topic]))
            _check(answer.error_code, None, "the fetch is refused")
            part = _only(_only(answer.responses).partitions)
            code = part.error_code
            if code not in _NOT_YET:
                _check(code, None, "the fetch is refused")
                if value in _values(part.records):
                    return None, f"offset {offset}"
            await asyncio.sleep(_AGAIN_S)
        raise Wrong(
            f"the record does not come back within {self._timeout_s:g} s ({_name(code)})",
            "look into the leader's log: its followers, or its disk, do not keep up",
        )

    async def _delete(self, controller: NodeConnection, name: str) -> tuple[None, str]:
        request = DeleteTopicsRequest([DeleteTopicState(name)], [name], self._timeout_ms)
        # A connection of its own: the other one may be in the middle of something that failed.
        connection = await connect(*controller.peer, self._timeout_s)
        self._open.append(connection)
        await connection.negotiate()
        topic = _only((await connection.ask(request)).responses)
        _check(topic.error_code, topic.error_message, f"the topic {name} cannot be deleted")
        return None, ""


def _only(answers: Sequence[T]) -> T:
    """The one result of a request about one thing.  Raises NodeError."""
    if len(answers) != 1:
        raise NodeError("strange", f"its answer has {len(answers)} results where 1 is due")
    return answers[0]


def _values(records: Buffer | list[memoryview] | None) -> list[bytes | None]:
    """The values of fetched records.  Raises NodeError where they are none."""
    data = b"".join(records) if isinstance(records, list) else bytes(records or b"")
    try:
        return [
            record.value
            for pos, header in iter_batches(data, 0, len(data))
            for record in iter_records(data[pos : pos + header.size_bytes], _INFLATED_BYTES_MAX)
        ]
    except DecodeError as error:
        raise NodeError("strange", f"what it sends are no records: {error.reason}") from None


def _check(code: int, message: str | None, what: str) -> None:
    """Raises Wrong for an error code."""
    if code:
        fix = _CODE_FIXES.get(code, "look into the broker's log")  # type: ignore[call-overload]
        raise Wrong(f"{what}: {_name(code)}{f' ({message})' if message else ''}", fix)


def _name(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code}"


def _is_loopback(addresses: list[str]) -> bool:
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)


def _is_tls(data: bytes) -> bool:
    """A TLS record: an alert or a handshake, and the major version."""
    return data[:2] in (b"\x15\x03", b"\x16\x03")


def _explain(error: NodeError, target: str) -> Wrong:
    """The cause and the fix of a conversation that failed where nobody else was found."""
    if error.kind == "silent":
        return Wrong(
            f"{target} accepts the connection and says nothing: {error}",
            "see whether the broker is stopped (SIGSTOP, a debugger), hangs or is overloaded, and"
            " that no proxy stands before it whose own target is gone",
        )
    if error.kind == "closed":
        return Wrong(
            f"{target} does not talk to us: {error}",
            "see the broker's log for the reason; a listener with SASL needs a client with"
            " credentials, which rpk-py does not have",
        )
    if error.kind == "unserved":
        return Wrong(str(error), "use a newer broker: Apache Kafka 2.4 or later")
    return Wrong(str(error), "check that this is the port of a Kafka listener")
