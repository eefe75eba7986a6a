"""ClusterState and its deltas: revisions, invariants, and the form on the control channel."""

from __future__ import annotations

import json

import pytest

from rpk_py.metadata.placement import led_by
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
    BrokerConfigsChanged("", {"flush.ms": "7", "flush.bytes": "9"}),
    BrokerConfigsChanged("", {"flush.ms": "7"}),
    BrokerConfigsChanged("1", {"flush.ms": "8"}),
    BrokerConfigsChanged("0", {"flush.ms": "6"}),
    BrokerConfigsChanged("0", {}),
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
    assert state.broker_configs == {"": {"flush.ms": "7"}, "1": {"flush.ms": "8"}}
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
