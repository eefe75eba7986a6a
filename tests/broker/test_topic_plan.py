"""What topic requests would change: checks, placement, and their order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kafka_protocol.errors import ErrorCode
from rpk_py.config import Config
from rpk_py.metadata.placement import led_by
from rpk_py.metadata.requests import (
    PartitionsResult,
    PartitionsSpec,
    TopicResult,
    TopicSpec,
    decode_partitions_result,
    decode_partitions_spec,
    decode_topic_result,
    encode_partitions_result,
    encode_partitions_spec,
    encode_topic_result,
)
from rpk_py.metadata.state import ClusterState, Delta, TopicState, apply
from rpk_py.metadata.topic_plan import (
    make_topic_id,
    name_problem,
    plan_create_partitions,
    plan_create_topics,
    plan_delete_topics,
)
from tests.broker.cluster import make_state, new_id

ID_A = bytes(range(16))
CONFIG = Config(data_dir=Path("/data"), smp=2, default_partitions=3, partitions_per_topic_max=50)


def create(state: ClusterState, *specs: TopicSpec, config: Config = CONFIG) -> list[TopicResult]:
    results, changes = plan_create_topics(state, specs, config, new_id)
    assert len(changes) == sum(result.error_code == 0 for result in results)
    return results


def test_a_created_topic_has_an_id_and_partitions_spread_over_the_nodes() -> None:
    (result,), (change,) = plan_create_topics(make_state(), [TopicSpec("t", 4)], CONFIG, new_id)
    assert result.error_code == ErrorCode.NONE
    assert result.num_partitions == 4
    assert result.replication_factor == 1
    assert result.topic_id == change.topic.topic_id != bytes(16)
    assert [p.leader for p in change.topic.partitions] == [0, 1, 0, 1]
    assert {p.leader_epoch for p in change.topic.partitions} == {0}


def test_minus_one_means_the_brokers_defaults() -> None:
    (result,) = create(make_state(), TopicSpec("t", -1, -1))
    assert result.num_partitions == 3
    assert result.replication_factor == 1


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (TopicSpec("old"), ErrorCode.TOPIC_ALREADY_EXISTS),
        (TopicSpec("o.d"), ErrorCode.INVALID_TOPIC_EXCEPTION),  # o_d exists
        (TopicSpec(""), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (TopicSpec("a/b"), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (TopicSpec("t", 0), ErrorCode.INVALID_PARTITIONS),
        (TopicSpec("t", -2), ErrorCode.INVALID_PARTITIONS),
        (TopicSpec("t", 51), ErrorCode.INVALID_PARTITIONS),
        (TopicSpec("t", 1, 0), ErrorCode.INVALID_REPLICATION_FACTOR),
        (TopicSpec("t", 1, -2), ErrorCode.INVALID_REPLICATION_FACTOR),
        (TopicSpec("t", 1, 2), ErrorCode.INVALID_REPLICATION_FACTOR),
        (TopicSpec("t", configs=[("no.such", "1")]), ErrorCode.INVALID_CONFIG),
        (TopicSpec("t", configs=[("segment.bytes", "x")]), ErrorCode.INVALID_CONFIG),
        (TopicSpec("t", configs=[("segment.bytes", None)]), ErrorCode.INVALID_CONFIG),
        (TopicSpec("t", 1, -1, [(0, [0])]), ErrorCode.INVALID_REQUEST),
        (TopicSpec("t", -1, 1, [(0, [0])]), ErrorCode.INVALID_REQUEST),
        (TopicSpec("t", assignments=[(0, [])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (TopicSpec("t", assignments=[(0, [7])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (TopicSpec("t", assignments=[(0, [0, 0])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (TopicSpec("t", assignments=[(0, [0, 1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (TopicSpec("t", assignments=[(1, [0])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (TopicSpec("t", assignments=[(0, [0]), (0, [1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ],
)
def test_what_kafka_refuses_is_refused_with_its_code(spec: TopicSpec, code: ErrorCode) -> None:
    (result,) = create(make_state("old", "o_d"), spec)
    assert result.error_code == code
    assert result.error_message
    assert result.topic_id == bytes(16)


def test_one_refused_topic_does_not_stop_the_others_and_the_order_is_kept() -> None:
    state = make_state("old")
    results = create(state, TopicSpec("b"), TopicSpec("old"), TopicSpec("a"))
    assert [r.name for r in results] == ["b", "old", "a"]
    assert [r.error_code for r in results] == [0, ErrorCode.TOPIC_ALREADY_EXISTS, 0]


def test_a_name_given_twice_is_refused_once_and_created_never() -> None:
    results = create(make_state(), TopicSpec("a"), TopicSpec("b"), TopicSpec("a"))
    assert [(r.name, r.error_code) for r in results] == [("a", ErrorCode.INVALID_REQUEST), ("b", 0)]


def test_names_of_one_request_that_collide_with_each_other_are_refused() -> None:
    results = create(make_state(), TopicSpec("a.b"), TopicSpec("a_b"))
    assert [r.error_code for r in results] == [0, ErrorCode.INVALID_TOPIC_EXCEPTION]


def test_a_manual_assignment_decides_the_leaders() -> None:
    spec = TopicSpec("t", assignments=[(1, [0]), (0, [1]), (2, [1])])
    _, (change,) = plan_create_topics(make_state(), [spec], CONFIG, new_id)
    assert [(p.index, p.leader) for p in change.topic.partitions] == [(0, 1), (1, 0), (2, 1)]


def test_one_request_cannot_create_more_partitions_than_one_topic_may_have() -> None:
    results = create(make_state(), TopicSpec("a", 30), TopicSpec("b", 30), TopicSpec("c", 20))
    assert [r.error_code for r in results] == [0, ErrorCode.POLICY_VIOLATION, 0]


def test_a_full_broker_creates_no_more_partitions() -> None:
    config = Config(data_dir=Path("/data"), partitions_max=2)
    results = create(make_state("old"), TopicSpec("a", 1), TopicSpec("b", 1), config=config)
    assert [r.error_code for r in results] == [0, ErrorCode.POLICY_VIOLATION]


def test_configs_are_stored_normalised_and_reported_with_their_sources() -> None:
    spec = TopicSpec("t", configs=[("write.caching", " TRUE ")])
    (result,), (change,) = plan_create_topics(make_state(), [spec], CONFIG, new_id)
    assert change.topic.configs == {"write.caching": "true"}
    assert ("write.caching", "true", False, 1, False) in result.configs
    assert decode_topic_result(encode_topic_result(result)) == result


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "a" * 249, "..."])
def test_names_that_kafka_takes_are_taken(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a" * 250, "a b", "ä", "a\n", "a:b"])
def test_names_that_kafka_refuses_have_a_problem(name: str) -> None:
    assert name_problem(name)


def test_a_topic_id_is_never_zero_in_use_or_like_an_option() -> None:
    state = ClusterState()
    state.add_topic(TopicState("a", ID_A, []))
    wanted = bytes([0xFC, *range(15)])
    ids = iter([bytes(16), ID_A, bytes([0xF8] * 16), bytes([0xFB] * 16), wanted])
    assert make_topic_id(lambda: next(ids), state) == wanted


def test_topics_are_deleted_by_name_and_by_id() -> None:
    state = make_state("a", "b")
    by_id = state.topics["b"].topic_id
    results, changes = plan_delete_topics(state, [("a", None), (None, by_id)])
    assert [(r.name, r.error_code) for r in results] == [("a", 0), ("b", 0)]
    assert [change.name for change in changes] == ["a", "b"]


def test_what_cannot_be_deleted_says_why() -> None:
    state = make_state("a", "b")
    id_b = state.topics["b"].topic_id
    asked: list[tuple[str | None, bytes | None]] = [
        ("nope", None),
        (None, ID_A),
        (None, None),
        ("a", id_b),
        ("b", None),
        (None, id_b),
    ]
    results, changes = plan_delete_topics(state, asked)
    assert not changes
    assert [r.error_code for r in results] == [
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_REQUEST,
    ]


# CreatePartitions.


def grow(
    state: ClusterState, *specs: PartitionsSpec, config: Config = CONFIG
) -> list[PartitionsResult]:
    results, changes = plan_create_partitions(state, specs, config)
    assert len(changes) == sum(result.error_code == 0 for result in results)
    for result in results:
        row = json.loads(json.dumps(encode_partitions_result(result)))
        assert decode_partitions_result(row) == result
    return results


def test_new_partitions_follow_the_old_ones_and_even_out_their_topic() -> None:
    state = make_state("t", "u")  # both led by node 0
    specs = [PartitionsSpec("t", 4), PartitionsSpec("u", 2)]
    assert (
        decode_partitions_spec(json.loads(json.dumps(encode_partitions_spec(specs[0]))))
        == (specs[0])
    )
    results, (first, second) = plan_create_partitions(state, specs, CONFIG)
    assert results == [PartitionsResult("t"), PartitionsResult("u")]
    assert first.topic_id == state.topics["t"].topic_id
    assert first.partitions == (led_by(1, 1, 0), led_by(2, 1, 0), led_by(3, 0, 0))
    assert second.partitions == (led_by(1, 1, 0),)
    apply(state, Delta(1, (first, second)))
    assert len(state.topics["t"].partitions) == 4


def test_new_partitions_are_not_placed_on_a_shard_that_is_out_of_the_metadata() -> None:
    state = make_state("t")
    del state.nodes[1]
    _, (change,) = plan_create_partitions(state, [PartitionsSpec("t", 3)], CONFIG)
    assert [p.leader for p in change.partitions] == [0, 0]


def test_assigned_partitions_go_where_the_request_says() -> None:
    spec = PartitionsSpec("t", 3, [[0], [1]])
    _, (change,) = plan_create_partitions(make_state("t"), [spec], CONFIG)
    assert change.partitions == (led_by(1, 0, 0), led_by(2, 1, 0))


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        (PartitionsSpec("nope", 2), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None),
        (PartitionsSpec("t", 1), ErrorCode.INVALID_PARTITIONS, "Topic already has 1 partition(s)."),
        (
            PartitionsSpec("t", 0),
            ErrorCode.INVALID_PARTITIONS,
            "The topic t currently has 1 partition(s); 0 would not be an increase.",
        ),
        (
            PartitionsSpec("t", 3, [[0]]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.",
        ),
        (
            PartitionsSpec("t", 2, [[]]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes an empty replica list.",
        ),
        (
            PartitionsSpec("t", 2, [[0, 0]]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes the broker 0 more than once.",
        ),
        (
            PartitionsSpec("t", 2, [[9]]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes broker 9, but no such broker is registered.",
        ),
        (
            PartitionsSpec("t", 2, [[0, 1]]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment puts two replicas on one host.",
        ),
        (
            PartitionsSpec("t", 51),
            ErrorCode.INVALID_PARTITIONS,
            "51 partitions are more than partitions_per_topic_max=50 allows.",
        ),
    ],
)
def test_an_increase_that_kafka_refuses_is_refused_with_its_words(
    spec: PartitionsSpec, code: ErrorCode, text: str | None
) -> None:
    assert grow(make_state("t"), spec) == [PartitionsResult(spec.name, code, text)]


def test_an_increase_given_twice_is_refused_and_the_others_are_not() -> None:
    specs = (PartitionsSpec("t", 2), PartitionsSpec("u", 2), PartitionsSpec("t", 3))
    results = grow(make_state("t", "u"), *specs)
    assert [(r.name, r.error_code) for r in results] == [("t", ErrorCode.INVALID_REQUEST), ("u", 0)]
    assert results[0].error_message == "Duplicate topic name."


def test_increases_of_one_request_share_the_room_that_the_broker_has() -> None:
    config = Config(data_dir=Path("/data"), partitions_max=5)
    specs = (PartitionsSpec("t", 3), PartitionsSpec("u", 3), PartitionsSpec("v", 2))
    results = grow(make_state("t", "u", "v"), *specs, config=config)
    refused = ErrorCode.POLICY_VIOLATION
    assert [r.error_code for r in results] == [0, refused, refused]


def test_while_no_shard_serves_nothing_can_be_placed() -> None:
    state = make_state("t")
    state.nodes.clear()
    (created,) = create(state, TopicSpec("new"))
    (grown,) = grow(state, PartitionsSpec("t", 2))
    assert created.error_code == grown.error_code == ErrorCode.INVALID_REPLICATION_FACTOR
    assert "All brokers are currently fenced" in (created.error_message or "")
