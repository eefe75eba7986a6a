"""ClusterState and its deltas: revisions, invariants, and the form on the control channel."""

from __future__ import annotations

import json

import pytest

from rpk_py.metadata.placement import leader_counts, led_by, place, take_leadership
from rpk_py.metadata.state import (
    BrokerConfigsChanged,
    ClusterState,
    Delta,
    NodesChanged,
    NodeState,
    PartitionsChanged,
    RevisionGap,
    TopicConfigsChanged,
    TopicCreated,
    TopicDeleted,
    TopicState,
    apply,
    decode_delta,
    decode_state,
    encode_delta,
    encode_state,
)

ID_A = bytes(range(16))
ID_B = bytes(range(1, 17))


def make_topic(name: str = "a", topic_id: bytes = ID_A, leaders: tuple[int, ...] = (0,)):
    return TopicState(name, topic_id, [led_by(i, leader, 3) for i, leader in enumerate(leaders)])


def state_with(*topics: TopicState, nodes: tuple[int, ...] = (0,)) -> ClusterState:
    state = ClusterState(nodes={node_id: NodeState(node_id, None, 9092) for node_id in nodes})
    for topic in topics:
        state.add_topic(topic)
    return state


EVERY_CHANGE = (
    TopicCreated(make_topic("b", ID_B, (0, 1))),
    TopicConfigsChanged(ID_B, {"retention.ms": "5"}),
    PartitionsChanged(ID_B, (led_by(1, 0, 4), led_by(2, 1, 0))),
    BrokerConfigsChanged({"flush.ms": "7"}),
    NodesChanged((NodeState(0, None, 9092, "here"), NodeState(1, "other", 9093))),
    TopicDeleted("a", ID_A),
)


def test_every_kind_of_change_arrives_through_json_as_it_was_sent() -> None:
    delta = Delta(1, EVERY_CHANGE)
    assert decode_delta(json.loads(json.dumps(encode_delta(delta)))) == delta


def test_a_delta_applies_all_its_changes() -> None:
    state = state_with(make_topic())
    apply(state, Delta(1, EVERY_CHANGE))
    assert list(state.topics) == ["b"]
    assert list(state.topics_by_id) == [ID_B]
    topic = state.topics["b"]
    assert topic.partitions == [led_by(0, 0, 3), led_by(1, 0, 4), led_by(2, 1, 0)]
    assert topic.configs == {"retention.ms": "5"}
    assert state.broker_configs == {"flush.ms": "7"}
    assert state.nodes[1].host == "other"
    assert state.revision == 1


def test_a_state_that_changes_does_not_change_the_delta_it_came_from() -> None:
    delta = Delta(1, (TopicCreated(make_topic()),))
    state = ClusterState()
    apply(state, delta)
    apply(state, Delta(2, (PartitionsChanged(ID_A, (led_by(0, 7, 9),)),)))
    assert delta == Delta(1, (TopicCreated(make_topic()),))


@pytest.mark.parametrize("revision", [0, 1, 2, 4])
def test_a_delta_that_is_not_the_next_one_is_refused_and_changes_nothing(revision: int) -> None:
    state = ClusterState(revision=2)
    with pytest.raises(RevisionGap):
        apply(state, Delta(revision, (TopicCreated(make_topic()),)))
    assert state == ClusterState(revision=2)


def test_a_snapshot_arrives_through_json_as_it_was_sent() -> None:
    state = state_with(make_topic())
    apply(state, Delta(1, EVERY_CHANGE))
    state.cluster_id = "x" * 22
    assert decode_state(json.loads(json.dumps(encode_state(state)))) == state


def test_a_replaced_state_is_seen_by_whoever_holds_the_object() -> None:
    held = ClusterState()
    held.replace(state_with(make_topic()))
    assert list(held.topics) == ["a"]


def test_only_the_brokers_own_topics_are_internal() -> None:
    assert make_topic("__consumer_offsets").internal
    assert not make_topic("consumer_offsets").internal


# Placement.


def test_partitions_of_a_topic_go_round_the_nodes_from_the_one_that_leads_the_fewest() -> None:
    counts = {0: 2, 1: 1, 2: 1}
    assert place(5, counts) == [1, 2, 0, 1, 2]
    assert counts == {0: 3, 1: 3, 2: 3}


def test_a_new_empty_node_does_not_get_a_whole_topic() -> None:
    assert sorted(place(4, {0: 100, 1: 0})) == [0, 0, 1, 1]


def test_leaders_that_are_not_among_the_nodes_are_not_counted() -> None:
    assert leader_counts([make_topic(leaders=(0, 0, 5))], [0, 1]) == {0: 2, 1: 0}


def test_at_a_start_every_partition_gets_the_next_leader_epoch() -> None:
    state = state_with(make_topic(leaders=(0, 1)), nodes=(0, 1))
    (change,) = take_leadership(state, [0, 1], [0, 1])
    assert change.partitions == (led_by(0, 0, 4), led_by(1, 1, 4))


def test_when_one_shard_comes_back_only_its_partitions_change() -> None:
    topics = (make_topic("a", ID_A, (0, 1, 0)), make_topic("b", ID_B, (1,)))
    state = state_with(*topics, nodes=(0, 1))
    (change,) = take_leadership(state, [0, 1], [0])
    assert change.topic_id == ID_A
    assert [(p.index, p.leader, p.leader_epoch) for p in change.partitions] == [
        (0, 0, 4),
        (2, 0, 4),
    ]


def test_with_fewer_shards_the_partitions_of_missing_ones_move_to_those_that_exist() -> None:
    state = state_with(make_topic(leaders=(0, 1, 2, 3)))
    (change,) = take_leadership(state, [0, 1], [0, 1])
    assert [p.leader for p in change.partitions[:2]] == [0, 1]
    assert sorted(p.leader for p in change.partitions[2:]) == [0, 1]
    for partition in change.partitions:
        assert partition.leader_epoch == 4
        assert partition.replicas == partition.isr == [partition.leader]


def test_with_more_shards_every_partition_stays_where_its_leader_is() -> None:
    state = state_with(make_topic(leaders=(0, 0)))
    (change,) = take_leadership(state, [0, 1, 2, 3], [0, 1, 2, 3])
    assert [p.leader for p in change.partitions] == [0, 0]
