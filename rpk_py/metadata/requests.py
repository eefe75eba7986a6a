"""What shards ask of the controller, and its answers, with their JSON forms.

Which process: both; a shard's handler builds the request, the controller the result.
Invariants: results stand in the order of the request; an error is a Kafka error code.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, NamedTuple

from kafka_protocol.errors import ErrorCode
from kafka_protocol.lazy_dataclass import dataclass
from rpk_py.config_types import ConfigEntry
from rpk_py.metadata.state import Json

MESSAGE_CHARS_MAX = 1000  # a name or value in it may be of any length, and old versions carry 32 KB


class Refused(Exception):
    """One item of a request is not valid; becomes that item's result.

    Shapes:  message  what is wrong, for the client; cut at MESSAGE_CHARS_MAX
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        if len(message) > MESSAGE_CHARS_MAX:
            message = message[: MESSAGE_CHARS_MAX - 3] + "..."
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class TopicSpec:
    """One topic of a CreateTopics request; -1 means the broker's default.

    assignments  (partition index, replica node ids) as the client sent them, or empty
    configs      (name, value) as the client sent them
    """

    name: str
    num_partitions: int = -1
    replication_factor: int = -1
    assignments: list[tuple[int, list[int]]] = field(default_factory=list)
    configs: list[tuple[str, str | None]] = field(default_factory=list)


@dataclass(slots=True)
class TopicResult:
    """The answer for one topic: either an error, or what was (or would be) created."""

    name: str
    error_code: int = 0
    error_message: str | None = None
    topic_id: bytes = bytes(16)
    num_partitions: int = -1
    replication_factor: int = -1
    configs: list[ConfigEntry] = field(default_factory=list)


class DeleteResult(NamedTuple):
    """The answer for one topic of a DeleteTopics request; id zero and name None if unknown."""

    name: str | None
    topic_id: bytes
    error_code: int
    error_message: str | None


@dataclass(slots=True)
class PartitionsSpec:
    """One topic of a CreatePartitions request.

    count        partitions the topic is to have
    assignments  replica node ids of each new partition, or None for ours to choose
    """

    name: str
    count: int
    assignments: list[list[int]] | None = None


class PartitionsResult(NamedTuple):
    """The answer for one topic of a CreatePartitions request."""

    name: str
    error_code: int = 0
    error_message: str | None = None


@dataclass(slots=True)
class ConfigResource:
    """One resource of an AlterConfigs or IncrementalAlterConfigs request.

    kind     Kafka's resource type: 2 topic, 4 broker
    name     topic name, or node id in decimal ("" for all nodes)
    configs  (name, operation, value): 0 set, 1 delete, 2 append, 3 subtract
    """

    kind: int
    name: str
    configs: list[tuple[str, int, str | None]] = field(default_factory=list)


class ConfigResult(NamedTuple):
    """The answer for one resource of such a request."""

    kind: int
    name: str
    error_code: int = 0
    error_message: str | None = None


def encode_topic_spec(spec: TopicSpec) -> list[Any]:
    """A TopicSpec as a JSON row."""
    return [
        spec.name,
        spec.num_partitions,
        spec.replication_factor,
        spec.assignments,
        spec.configs,
    ]


def decode_topic_spec(row: list[Any]) -> TopicSpec:
    """Inverse of encode_topic_spec."""
    name, num_partitions, replication_factor, assignments, configs = row
    return TopicSpec(
        name,
        num_partitions,
        replication_factor,
        [(index, list(nodes)) for index, nodes in assignments],
        [(key, value) for key, value in configs],
    )


def encode_topic_result(result: TopicResult) -> list[Any]:
    """A TopicResult as a JSON row."""
    return [
        result.name,
        int(result.error_code),
        result.error_message,
        result.topic_id.hex(),
        result.num_partitions,
        result.replication_factor,
        result.configs,
    ]


def decode_topic_result(row: list[Any]) -> TopicResult:
    """Inverse of encode_topic_result."""
    return TopicResult(
        row[0],
        row[1],
        row[2],
        bytes.fromhex(row[3]),
        row[4],
        row[5],
        [ConfigEntry(*entry) for entry in row[6]],
    )


def encode_delete_result(result: DeleteResult) -> list[Any]:
    """A DeleteResult as a JSON row."""
    return [result.name, result.topic_id.hex(), int(result.error_code), result.error_message]


def decode_delete_result(row: list[Any]) -> DeleteResult:
    """Inverse of encode_delete_result."""
    return DeleteResult(row[0], bytes.fromhex(row[1]), row[2], row[3])


def encode_partitions_spec(spec: PartitionsSpec) -> list[Any]:
    """A PartitionsSpec as a JSON row."""
    return [spec.name, spec.count, spec.assignments]


def decode_partitions_spec(row: list[Any]) -> PartitionsSpec:
    """Inverse of encode_partitions_spec."""
    return PartitionsSpec(*row)


def encode_partitions_result(result: PartitionsResult) -> list[Any]:
    """A PartitionsResult as a JSON row."""
    return [result.name, int(result.error_code), result.error_message]


def decode_partitions_result(row: list[Any]) -> PartitionsResult:
    """Inverse of encode_partitions_result."""
    return PartitionsResult(*row)


def encode_config_resource(resource: ConfigResource) -> list[Any]:
    """A ConfigResource as a JSON row."""
    return [resource.kind, resource.name, resource.configs]


def decode_config_resource(row: list[Any]) -> ConfigResource:
    """Inverse of encode_config_resource."""
    kind, name, configs = row
    return ConfigResource(
        kind, name, [(key, operation, value) for key, operation, value in configs]
    )


def encode_config_result(result: ConfigResult) -> list[Any]:
    """A ConfigResult as a JSON row."""
    return [result.kind, result.name, int(result.error_code), result.error_message]


def decode_config_result(row: list[Any]) -> ConfigResult:
    """Inverse of encode_config_result."""
    return ConfigResult(*row)


def refusal(code: ErrorCode, text: str) -> Json:
    """The answer to a request that failed as a whole."""
    return {"error_code": int(code), "error_message": text}
