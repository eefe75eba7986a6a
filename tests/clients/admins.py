"""The admin clients of three libraries behind one interface, each bootstrapped by one shard.

What they are asked for is the same; which APIs and versions they use for it is their own choice.
Refusals come as Kafka's error codes.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import kafka
from aiokafka import TopicPartition as AioTopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin import NewPartitions as AioNewPartitions
from aiokafka.admin import NewTopic as AioNewTopic
from aiokafka.admin.config_resource import ConfigResource as AioConfigResource
from aiokafka.admin.config_resource import ConfigResourceType as AioConfigResourceType
from aiokafka.errors import KafkaError as AioKafkaError
from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
)
from kafka.admin import ConfigResource as KpConfigResource
from kafka.admin import ConfigResourceType as KpConfigResourceType
from kafka.errors import KafkaError as KpKafkaError

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from tests.clients.broker import RunningBroker
from tests.clients.wire_client import WireClient

TIMEOUT_S = 20.0
TOPIC = "topic"
BROKER = "broker"


class Refused(Exception):
    """The broker answered with an error."""

    def __init__(self, code: int) -> None:
        super().__init__(ErrorCode(code).name)
        self.code = code


class Node(NamedTuple):
    """A broker as DescribeCluster or Metadata tells of it."""

    node_id: int
    host: str
    port: int


class Admin(ABC):
    """An admin client; a context manager."""

    @abstractmethod
    def __init__(self, address: str) -> None: ...

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close its connections."""

    @abstractmethod
    def create_topics(
        self, names: Iterable[str], partitions: int, configs: Mapping[str, str] | None = None
    ) -> dict[str, int]:
        """Create topics; the error code of each."""

    @abstractmethod
    def delete_topics(self, names: Iterable[str]) -> dict[str, int]:
        """Delete topics; the error code of each."""

    @abstractmethod
    def list_topics(self) -> set[str]:
        """The names of all topics."""

    @abstractmethod
    def describe_topic(self, name: str) -> dict[int, int]:
        """The leader of each partition. Raises Refused."""

    @abstractmethod
    def describe_cluster(self) -> list[Node]:
        """All nodes by id."""

    @abstractmethod
    def create_partitions(self, name: str, total: int) -> None:
        """Let a topic have so many partitions. Raises Refused."""

    @abstractmethod
    def describe_configs(self, kind: str, name: str) -> dict[str, str | None]:
        """All configs of a topic or broker. Raises Refused."""

    @abstractmethod
    def set_configs(self, kind: str, name: str, configs: Mapping[str, str]) -> None:
        """Let a topic or broker have these dynamic configs, by AlterConfigs. Raises Refused.

        Others are gone then, but kafka-python asks first, and sends those that are set along.
        """

    def reset_configs(self, kind: str, name: str) -> None:
        """Let a topic or broker have no dynamic configs, by AlterConfigs. Raises Refused."""
        self.set_configs(kind, name, {})

    @abstractmethod
    def delete_records(self, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
        """Delete what is before an offset of partitions; their new low watermarks."""


def _refuse(code: int) -> None:
    if code:
        raise Refused(code)


class ConfluentAdmin(Admin):
    """librdkafka."""

    def __init__(self, address: str) -> None:
        self.client = AdminClient({"bootstrap.servers": address})

    def close(self) -> None:
        del self.client  # it has no other way

    def create_topics(
        self, names: Iterable[str], partitions: int, configs: Mapping[str, str] | None = None
    ) -> dict[str, int]:
        wanted = [NewTopic(name, partitions, 1, config=dict(configs or {})) for name in names]
        return self._codes(self.client.create_topics(wanted))

    def delete_topics(self, names: Iterable[str]) -> dict[str, int]:
        return self._codes(self.client.delete_topics(list(names)))

    def _codes(self, futures: Mapping[str, Future[Any]]) -> dict[str, int]:
        return {name: self._code(future) for name, future in futures.items()}

    def _code(self, future: Future[Any]) -> int:
        try:
            self._result(future)
        except Refused as refused:
            return refused.code
        return 0

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result(TIMEOUT_S)
        except KafkaException as error:
            code = error.args[0].code()
            if code < 0:
                raise  # an error of the client's own
            raise Refused(code) from error

    def list_topics(self) -> set[str]:
        return set(self.client.list_topics(timeout=TIMEOUT_S).topics)

    def describe_topic(self, name: str) -> dict[int, int]:
        [future] = self.client.describe_topics(TopicCollection([name])).values()
        described = self._result(future)
        return {partition.id: partition.leader.id for partition in described.partitions}

    def describe_cluster(self) -> list[Node]:
        nodes = self._result(self.client.describe_cluster()).nodes
        return sorted(Node(node.id, node.host, node.port) for node in nodes)

    def create_partitions(self, name: str, total: int) -> None:
        [future] = self.client.create_partitions([NewPartitions(name, total)]).values()
        self._result(future)

    def describe_configs(self, kind: str, name: str) -> dict[str, str | None]:
        [future] = self.client.describe_configs([ConfigResource(kind, name)]).values()
        return {entry.name: entry.value for entry in self._result(future).values()}

    def set_configs(self, kind: str, name: str, configs: Mapping[str, str]) -> None:
        resource = ConfigResource(kind, name, set_config=dict(configs))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it prefers the incremental one
            [future] = self.client.alter_configs([resource]).values()
        self._result(future)

    def change_configs(
        self, kind: str, name: str, changes: Mapping[str, tuple[str, str | None]]
    ) -> None:
        """Change some configs: of each an operation (SET, DELETE, APPEND, SUBTRACT) and value."""
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType[operation])
            for key, (operation, value) in changes.items()
        ]
        resource = ConfigResource(kind, name, incremental_configs=entries)
        [future] = self.client.incremental_alter_configs([resource]).values()
        self._result(future)

    def delete_records(self, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
        wanted = [TopicPartition(topic, index, offset) for index, offset in offsets.items()]
        futures = self.client.delete_records(wanted)
        return {tp.partition: self._result(f).low_watermark for tp, f in futures.items()}


class KafkaPythonAdmin(Admin):
    """kafka-python."""

    def __init__(self, address: str) -> None:
        self.client = kafka.KafkaAdminClient(bootstrap_servers=address)

    def close(self) -> None:
        self.client.close()

    def create_topics(
        self, names: Iterable[str], partitions: int, configs: Mapping[str, str] | None = None
    ) -> dict[str, int]:
        options = {
            "num_partitions": partitions,
            "replication_factor": 1,
            "configs": dict(configs or {}),
        }
        wanted = dict.fromkeys(names, options)
        answer = self.client.create_topics(wanted, raise_errors=False)
        return {topic["name"]: topic["error_code"] for topic in answer["topics"]}

    def delete_topics(self, names: Iterable[str]) -> dict[str, int]:
        answer = self.client.delete_topics(list(names), raise_errors=False)
        return {topic["name"]: topic["error_code"] for topic in answer["topics"]}

    def list_topics(self) -> set[str]:
        return set(self.client.list_topics())

    def describe_topic(self, name: str) -> dict[int, int]:
        [described] = self.client.describe_topics([name])
        _refuse(described["error_code"])
        return {p["partition_index"]: p["leader_id"] for p in described["partitions"]}

    def describe_cluster(self) -> list[Node]:
        nodes = self.client.describe_cluster()["brokers"]
        return sorted(Node(node["broker_id"], node["host"], node["port"]) for node in nodes)

    def create_partitions(self, name: str, total: int) -> None:
        answer = self.client.create_partitions({name: total}, raise_errors=False)
        _refuse(answer.results[0].error_code)

    def describe_configs(self, kind: str, name: str) -> dict[str, str | None]:
        resource = KpConfigResource(KpConfigResourceType[kind.upper()], name)
        try:
            found = self.client.describe_configs([resource], config_filter="all")[kind][name]
        except KpKafkaError as error:
            raise Refused(error.errno) from error
        return {key: entry["value"] for key, entry in found.items()}

    def set_configs(self, kind: str, name: str, configs: Mapping[str, str]) -> None:
        self._alter(kind, name, configs, incremental=False)

    def reset_configs(self, kind: str, name: str) -> None:
        resource = KpConfigResource(KpConfigResourceType[kind.upper()], name)
        self._check(kind, name, self.client.reset_configs([resource], incremental=False))

    def change_configs(
        self, kind: str, name: str, changes: Mapping[str, tuple[str, str | None]]
    ) -> None:
        """Change some configs: of each an operation (SET, DELETE, APPEND, SUBTRACT) and value."""
        self._alter(kind, name, changes, incremental=True)

    def _alter(self, kind: str, name: str, configs: Mapping[str, Any], incremental: bool) -> None:
        resource = KpConfigResource(KpConfigResourceType[kind.upper()], name, dict(configs))
        answer = self.client.alter_configs(
            [resource], raise_on_unknown=False, incremental=incremental
        )
        self._check(kind, name, answer)

    def _check(self, kind: str, name: str, answer: Any) -> None:
        if (said := answer[kind][name]) != "OK":
            _refuse(int(said.removeprefix("[Error ").partition("]")[0]))

    def delete_records(self, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
        wanted = {kafka.TopicPartition(topic, index): offset for index, offset in offsets.items()}
        try:
            answer = self.client.delete_records(wanted)
        except KpKafkaError as error:
            raise Refused(error.errno) from error
        return {tp.partition: said["low_watermark"] for tp, said in answer.items()}


class AiokafkaAdmin(Admin):
    """aiokafka, with a loop in a thread of its own."""

    def __init__(self, address: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.client: AIOKafkaAdminClient = self._run(self._start(address))

    async def _start(self, address: str) -> AIOKafkaAdminClient:
        client = AIOKafkaAdminClient(bootstrap_servers=address)
        await client.start()
        return client

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT_S)
        except AioKafkaError as error:
            raise Refused(error.errno) from error

    def close(self) -> None:
        self._run(self.client.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(TIMEOUT_S)
        self.loop.close()

    def create_topics(
        self, names: Iterable[str], partitions: int, configs: Mapping[str, str] | None = None
    ) -> dict[str, int]:
        options = dict(configs or {})
        wanted = [AioNewTopic(name, partitions, 1, topic_configs=options) for name in names]
        answer = self._run(self.client.create_topics(wanted))
        return {name: code for name, code, *_ in answer.topic_errors}

    def delete_topics(self, names: Iterable[str]) -> dict[str, int]:
        answer = self._run(self.client.delete_topics(list(names)))
        return {name: code for name, code, *_ in answer.topic_error_codes}

    def list_topics(self) -> set[str]:
        return set(self._run(self.client.list_topics()))

    def describe_topic(self, name: str) -> dict[int, int]:
        [described] = self._run(self.client.describe_topics([name]))
        _refuse(described["error_code"])
        return {p["partition"]: p["leader"] for p in described["partitions"]}

    def describe_cluster(self) -> list[Node]:
        nodes = self._run(self.client.describe_cluster())["brokers"]
        return sorted(Node(node["node_id"], node["host"], node["port"]) for node in nodes)

    def create_partitions(self, name: str, total: int) -> None:
        self._run(self.client.create_partitions({name: AioNewPartitions(total)}))

    def describe_configs(self, kind: str, name: str) -> dict[str, str | None]:
        resource = AioConfigResource(AioConfigResourceType[kind.upper()], name)
        [answer] = self._run(self.client.describe_configs([resource]))
        [(code, _, _, _, entries)] = answer.resources
        _refuse(code)
        return {key: value for key, value, *_ in entries}

    def set_configs(self, kind: str, name: str, configs: Mapping[str, str]) -> None:
        resource = AioConfigResource(AioConfigResourceType[kind.upper()], name, dict(configs))
        # It sends a request for topics even where only a broker is meant, hence no resources.
        for answer in self._run(self.client.alter_configs([resource])):
            for code, *_ in answer.resources:
                _refuse(code)

    def delete_records(self, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
        wanted = {AioTopicPartition(topic, i): RecordsToDelete(o) for i, o in offsets.items()}
        answer = self._run(self.client.delete_records(wanted))
        return {tp.partition: low_watermark for tp, low_watermark in answer.items()}


ADMINS: dict[str, type[Admin]] = {
    "confluent": ConfluentAdmin,
    "kafka-python": KafkaPythonAdmin,
    "aiokafka": AiokafkaAdmin,
}


def change_cluster_default(
    broker: RunningBroker, name: str, value: str | None, shard: int = 0
) -> None:
    """Set or remove a config of all brokers: the resource without a name.

    On the wire, because none of the three clients lets its user leave the name empty.
    """
    change = AlterableConfig(name, 0 if value is not None else 1, value)
    resource = AlterConfigsResource(4, "", [change])
    with WireClient(broker, shard) as client:
        [result] = client.ask(IncrementalAlterConfigsRequest([resource], False), 1).responses
    _refuse(result.error_code)
