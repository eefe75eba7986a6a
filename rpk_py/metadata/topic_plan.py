"""What CreateTopics, CreatePartitions and DeleteTopics do to the state: checked, not applied.

Which process: supervisor.  Pure: the caller passes the source of topic ids.
Invariants: the answer follows the request's order, one per distinct name or id; each topic
succeeds or fails by itself; what is returned as changes is valid together.
Source: the checks and their order are Apache Kafka's (KRaft controller), see each function.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import field

from kafka_protocol.errors import ErrorCode
from kafka_protocol.lazy_dataclass import dataclass
from rpk_py import topic_configs
from rpk_py.broker_configs import InForce, in_force
from rpk_py.config import SHARDS_PER_HOST_MAX, Config
from rpk_py.metadata.placement import leader_counts, led_by, place
from rpk_py.metadata.requests import (
    DeleteResult,
    PartitionsResult,
    PartitionsSpec,
    Refused,
    TopicResult,
    TopicSpec,
)
from rpk_py.metadata.state import (
    ClusterState,
    PartitionsChanged,
    TopicCreated,
    TopicDeleted,
    TopicState,
)

NAME_CHARS_MAX = 249
NO_TOPIC_ID = bytes(16)
_NAME = re.compile(r"[a-zA-Z0-9._-]+")


@dataclass(slots=True)
class _Plan:
    """A CreateTopics request in the making: what earlier topics of it already take."""

    state: ClusterState
    values: InForce  # the broker configs that hold for all nodes
    new_id: Callable[[], bytes]
    counts: dict[int, int]  # node id -> partitions led, planned ones included
    collisions: dict[str, str]  # name with '.' as '_' -> name
    request_partitions: int = 0
    total_partitions: int = 0
    created: list[TopicCreated] = field(default_factory=list)


def plan_create_topics(
    state: ClusterState,
    specs: Sequence[TopicSpec],
    config: Config,
    new_id: Callable[[], bytes],
) -> tuple[list[TopicResult], list[TopicCreated]]:
    """Check every topic of a request, place its partitions, and say what would be created.

    Shapes:  new_id  returns 16 random bytes
    """
    names = Counter(spec.name for spec in specs)
    counts = leader_counts(state.topics.values(), sorted(state.nodes))
    plan = _Plan(
        state,
        in_force(config, state.broker_configs, None),
        new_id,
        counts,
        {name.replace(".", "_"): name for name in state.topics},
        total_partitions=sum(len(topic.partitions) for topic in state.topics.values()),
    )
    results = {}
    for spec in specs:
        if names[spec.name] > 1:
            text = "Duplicate topic name."
            results[spec.name] = TopicResult(spec.name, ErrorCode.INVALID_REQUEST, text)
            continue
        try:
            results[spec.name] = _plan_topic(plan, spec)
        except Refused as refused:
            results[spec.name] = TopicResult(spec.name, refused.code, str(refused))
    return list(results.values()), plan.created


def _plan_topic(plan: _Plan, spec: TopicSpec) -> TopicResult:
    check_name(spec.name)
    if spec.name in plan.state.topics:
        raise Refused(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{spec.name}' already exists.")
    collides = plan.collisions.get(spec.name.replace(".", "_"))
    if collides is not None:
        raise Refused(
            ErrorCode.INVALID_TOPIC_EXCEPTION,
            f"Topic '{spec.name}' collides with existing topic: {collides}",
        )
    configs = _check_configs(spec)
    partition_count = _partition_count(plan, spec)
    leaders = _leaders(plan, spec, partition_count)
    topic = TopicState(
        spec.name,
        make_topic_id(plan.new_id, plan.state),
        [led_by(index, leader, 0) for index, leader in enumerate(leaders)],
        configs,
    )
    plan.collisions[spec.name.replace(".", "_")] = spec.name
    plan.request_partitions += partition_count
    plan.total_partitions += partition_count
    plan.created.append(TopicCreated(topic))
    return TopicResult(
        spec.name,
        topic_id=topic.topic_id,
        num_partitions=partition_count,
        replication_factor=1,
        configs=topic_configs.effective(configs, plan.values),
    )


def check_name(name: str) -> None:
    """Refuse a name that Kafka refuses (org.apache.kafka.common.internals.Topic)."""
    if not name:
        problem = "the empty string is not allowed"
    elif name in (".", ".."):
        problem = "it cannot be '.' or '..'"
    elif len(name) > NAME_CHARS_MAX:
        problem = f"it has {len(name)} characters, at most {NAME_CHARS_MAX} are allowed"
    elif not _NAME.fullmatch(name):
        problem = "it may only contain ASCII letters and digits, '.', '_' and '-'"
    else:
        return
    raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {problem}")


def name_problem(name: str) -> str | None:
    """What is wrong with a topic name, or None; for handlers that check before they ask."""
    try:
        check_name(name)
    except Refused as refused:
        return str(refused)
    return None


def make_topic_id(new_id: Callable[[], bytes], state: ClusterState) -> bytes:
    """A fresh topic id: not zero, not in use, and readable.

    Tools print ids in URL-safe base64; one that begins with '-' would look like an option.
    """
    while True:
        topic_id = new_id()
        # base64 '-' is 62: the first six bits 111110, so a first byte of 0xF8..0xFB.
        readable = topic_id[0] >> 2 != 62
        if readable and topic_id != NO_TOPIC_ID and topic_id not in state.topics_by_id:
            return topic_id


def _check_configs(spec: TopicSpec) -> dict[str, str]:
    configs = {}
    for name, value in spec.configs:
        problem = topic_configs.validate(name, value)
        if problem is not None:
            raise Refused(ErrorCode.INVALID_CONFIG, problem)
        assert value is not None
        configs[name] = topic_configs.normalize(name, value)
    return configs


def _partition_count(plan: _Plan, spec: TopicSpec) -> int:
    if spec.assignments:
        if spec.replication_factor != -1 or spec.num_partitions != -1:
            raise Refused(
                ErrorCode.INVALID_REQUEST,
                "A manual partition assignment was specified, but the number of partitions or"
                " the replication factor was not set to -1.",
            )
        count = len(spec.assignments)
    else:
        if spec.replication_factor < -1 or spec.replication_factor == 0:
            raise Refused(
                ErrorCode.INVALID_REPLICATION_FACTOR,
                "Replication factor must be larger than 0, or -1 to use the default value.",
            )
        if spec.num_partitions < -1 or spec.num_partitions == 0:
            raise Refused(
                ErrorCode.INVALID_PARTITIONS,
                "Number of partitions must be larger than 0, or -1 to use the default value.",
            )
        count = plan.values.config.default_partitions
        if spec.num_partitions != -1:
            count = spec.num_partitions
    most = plan.values.config.partitions_per_topic_max
    if count > most:
        raise Refused(
            ErrorCode.INVALID_PARTITIONS,
            f"{count} partitions are more than partitions_per_topic_max={most} allows.",
        )
    if plan.request_partitions + count > most:
        raise Refused(
            ErrorCode.POLICY_VIOLATION,
            f"One request may create at most {most} partitions (partitions_per_topic_max).",
        )
    most = plan.values.config.partitions_max
    if plan.total_partitions + count > most:
        raise Refused(ErrorCode.POLICY_VIOLATION, f"The broker may have at most {most} partitions.")
    return count


def _leaders(plan: _Plan, spec: TopicSpec, partition_count: int) -> list[int]:
    if spec.assignments:
        return _assigned_leaders(plan, spec)
    if spec.replication_factor > 1:
        raise Refused(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            f"Replication factor {spec.replication_factor} cannot be reached: replicas never"
            " share a host, and there is one host.",
        )
    return _place(partition_count, plan.counts)


def _place(
    partition_count: int, counts: dict[int, int], of_topic: dict[int, int] | None = None
) -> list[int]:
    if not counts:  # no shard serves, or this is the moment before the first one does
        raise Refused(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            "Unable to replicate the partition 1 time(s): All brokers are currently fenced.",
        )
    return place(partition_count, counts, of_topic)


def _assigned_leaders(plan: _Plan, spec: TopicSpec) -> list[int]:
    """Check a manual assignment (ReplicationControlManager.createTopic, same order)."""
    code = ErrorCode.INVALID_REPLICA_ASSIGNMENT
    leaders: dict[int, int] = {}
    for index, replicas in spec.assignments:
        if index in leaders:
            raise Refused(code, f"Found multiple manual partition assignments for {index}.")
        _check_replicas(plan.state, replicas)
        leaders[index] = replicas[0]
    if sorted(leaders) != list(range(len(leaders))):
        raise Refused(code, "Partitions should be a consecutive 0-based integer sequence.")
    for leader in leaders.values():
        plan.counts[leader] += 1
    return [leaders[index] for index in range(len(leaders))]


def _check_replicas(state: ClusterState, replicas: Sequence[int]) -> None:
    """Check one partition's manual assignment (validateManualPartitionAssignment)."""
    code = ErrorCode.INVALID_REPLICA_ASSIGNMENT
    if not replicas:
        raise Refused(code, "The manual partition assignment includes an empty replica list.")
    for position, node_id in enumerate(replicas):
        if node_id in replicas[:position]:
            raise Refused(
                code,
                f"The manual partition assignment includes the broker {node_id} more than once.",
            )
        if node_id not in state.nodes:
            raise Refused(
                code,
                f"The manual partition assignment includes broker {node_id}, but no such broker"
                " is registered.",
            )
    if len({node_id // SHARDS_PER_HOST_MAX for node_id in replicas}) != len(replicas):
        raise Refused(code, "The manual partition assignment puts two replicas on one host.")


def plan_create_partitions(
    state: ClusterState, specs: Sequence[PartitionsSpec], config: Config
) -> tuple[list[PartitionsResult], list[PartitionsChanged]]:
    """Check every topic of a CreatePartitions request, and place what it adds.

    Source: the checks and their order are ReplicationControlManager.createPartitions'; limits ours
    """
    config = in_force(config, state.broker_configs, None).config
    names = Counter(spec.name for spec in specs)
    counts = leader_counts(state.topics.values(), sorted(state.nodes))
    room = config.partitions_max - sum(len(topic.partitions) for topic in state.topics.values())
    results = {}
    changes = []
    for spec in specs:
        if names[spec.name] > 1:
            text = "Duplicate topic name."
            results[spec.name] = PartitionsResult(spec.name, ErrorCode.INVALID_REQUEST, text)
            continue
        try:
            change = _plan_partitions(state, spec, config, counts, room)
        except Refused as refused:
            results[spec.name] = PartitionsResult(spec.name, refused.code, str(refused) or None)
        else:
            room -= len(change.partitions)
            changes.append(change)
            results[spec.name] = PartitionsResult(spec.name)
    return list(results.values()), changes


def _plan_partitions(
    state: ClusterState, spec: PartitionsSpec, config: Config, counts: dict[int, int], room: int
) -> PartitionsChanged:
    topic = state.topics.get(spec.name)
    if topic is None:
        raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "")
    has = len(topic.partitions)
    if spec.count == has:
        raise Refused(ErrorCode.INVALID_PARTITIONS, f"Topic already has {has} partition(s).")
    if spec.count < has:
        raise Refused(
            ErrorCode.INVALID_PARTITIONS,
            f"The topic {spec.name} currently has {has} partition(s); {spec.count} would not be"
            " an increase.",
        )
    added = spec.count - has
    if spec.assignments is not None and len(spec.assignments) != added:
        raise Refused(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"Attempted to add {added} additional partition(s), but only {len(spec.assignments)}"
            " assignment(s) were specified.",
        )
    if spec.count > config.partitions_per_topic_max:
        raise Refused(
            ErrorCode.INVALID_PARTITIONS,
            f"{spec.count} partitions are more than"
            f" partitions_per_topic_max={config.partitions_per_topic_max} allows.",
        )
    if added > room:
        raise Refused(
            ErrorCode.POLICY_VIOLATION,
            f"The broker may have at most {config.partitions_max} partitions.",
        )
    if spec.assignments is None:
        leaders = _place(added, counts, leader_counts([topic], counts))
    else:
        for replicas in spec.assignments:
            _check_replicas(state, replicas)
        leaders = [replicas[0] for replicas in spec.assignments]
        for leader in leaders:
            counts[leader] += 1
    return PartitionsChanged(
        topic.topic_id,
        tuple(led_by(has + offset, leader, 0) for offset, leader in enumerate(leaders)),
    )


def plan_delete_topics(
    state: ClusterState, topics: Sequence[tuple[str | None, bytes | None]]
) -> tuple[list[DeleteResult], list[TopicDeleted]]:
    """Look up every topic of a request, given by name or by id, and say what would be deleted."""
    seen: Counter[bytes] = Counter()
    for name, topic_id in topics:
        found = _find(state, name, topic_id)
        if found is not None:
            seen[found.topic_id] += 1
    results = []
    changes = []
    for name, topic_id in topics:
        found = _find(state, name, topic_id)
        if (name is None) == (not topic_id or topic_id == NO_TOPIC_ID):
            text = "Exactly one of topic name and topic id must be given."
            code = ErrorCode.INVALID_REQUEST
        elif found is None:
            code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            text = "This server does not host this topic-partition."
            if name is None:
                code = ErrorCode.UNKNOWN_TOPIC_ID
                text = "This server does not host this topic ID."
        elif seen[found.topic_id] > 1:
            code, text = ErrorCode.INVALID_REQUEST, "The topic is given more than once."
        else:
            changes.append(TopicDeleted(found.name, found.topic_id))
            results.append(DeleteResult(found.name, found.topic_id, ErrorCode.NONE, None))
            continue
        results.append(DeleteResult(name, topic_id or NO_TOPIC_ID, code, text))
    return results, changes


def _find(state: ClusterState, name: str | None, topic_id: bytes | None) -> TopicState | None:
    if name is not None:
        return state.topics.get(name)
    return None if topic_id is None else state.topics_by_id.get(topic_id)
