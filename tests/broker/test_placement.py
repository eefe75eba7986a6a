"""Which node leads a partition: new ones, and what a start or the restart of a shard changes."""

from __future__ import annotations

from rpk_py.metadata.placement import (
    leader_counts,
    led_by,
    place,
    start_leadership,
    take_leadership,
)
from rpk_py.metadata.state import ClusterState, NodeState, TopicState

ID_A = bytes(range(16))
ID_B = bytes(range(1, 17))


def make_topic(name: str = "a", topic_id: bytes = ID_A, leaders: tuple[int, ...] = (0,)):
    return TopicState(name, topic_id, [led_by(i, leader, 3) for i, leader in enumerate(leaders)])


def state_with(*topics: TopicState, nodes: tuple[int, ...] = (0,)) -> ClusterState:
    state = ClusterState(nodes={node_id: NodeState(node_id, None, 9092) for node_id in nodes})
    for topic in topics:
        state.add_topic(topic)
    return state


def test_partitions_of_a_topic_go_round_the_nodes_from_the_one_that_leads_the_fewest() -> None:
    counts = {0: 2, 1: 1, 2: 1}
    assert place(5, counts) == [1, 2, 0, 1, 2]
    assert counts == {0: 3, 1: 3, 2: 3}


def test_a_new_empty_node_does_not_get_a_whole_topic() -> None:
    assert sorted(place(4, {0: 100, 1: 0})) == [0, 0, 1, 1]


def test_leaders_that_are_not_among_the_nodes_are_not_counted() -> None:
    assert leader_counts([make_topic(leaders=(0, 0, 5))], [0, 1]) == {0: 2, 1: 0}


def test_new_partitions_go_to_the_nodes_that_have_the_fewest_of_their_topic() -> None:
    assert place(3, {0: 0, 1: 9, 2: 9}, {0: 2, 1: 1, 2: 0}) == [2, 1, 2]


def test_many_topics_of_one_partition_spread_over_the_nodes() -> None:
    counts = dict.fromkeys(range(4), 0)
    assert [place(1, counts) for _ in range(10)] == [[i % 4] for i in range(10)]
    assert counts == {0: 3, 1: 3, 2: 2, 3: 2}


def test_at_a_start_every_partition_gets_the_next_leader_epoch() -> None:
    state = state_with(make_topic(leaders=(0, 1)), nodes=(0, 1))
    (change,) = start_leadership(state, [0, 1])
    assert change.partitions == (led_by(0, 0, 4), led_by(1, 1, 4))


def test_when_one_shard_comes_back_only_its_partitions_change() -> None:
    topics = (make_topic("a", ID_A, (0, 1, 0)), make_topic("b", ID_B, (1,)))
    state = state_with(*topics, nodes=(0, 1))
    (change,) = take_leadership(state, 0)
    assert change.topic_id == ID_A
    assert change.partitions == (led_by(0, 0, 4), led_by(2, 0, 4))


def test_when_one_shard_comes_back_nothing_of_a_shard_that_is_away_moves() -> None:
    state = state_with(make_topic(leaders=(0, 1, 2)), nodes=(0, 2))
    (change,) = take_leadership(state, 0)
    assert change.partitions == (led_by(0, 0, 4),)


def test_with_fewer_shards_the_partitions_of_missing_ones_move_to_those_that_exist() -> None:
    state = state_with(make_topic(leaders=(0, 1, 2, 3)))
    (change,) = start_leadership(state, [0, 1])
    assert [p.leader for p in change.partitions] == [0, 1, 0, 1]
    for partition in change.partitions:
        assert partition.leader_epoch == 4
        assert partition.replicas == partition.isr == [partition.leader]


def test_with_more_shards_each_new_one_gets_its_share_of_every_topic() -> None:
    topics = [make_topic(f"t{n}", bytes([n]) * 16, (0,) * 4) for n in range(1, 9)]
    for change in start_leadership(state_with(*topics), range(4)):
        assert sorted(p.leader for p in change.partitions) == [0, 1, 2, 3]


def test_topics_of_one_partition_are_shared_too() -> None:
    topics = [make_topic(f"t{n}", bytes([n]) * 16) for n in range(1, 9)]
    changes = start_leadership(state_with(*topics), range(4))
    assert sorted(change.partitions[0].leader for change in changes) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_nothing_moves_while_every_shard_leads_something() -> None:
    state = state_with(make_topic(leaders=(0, 0, 0, 0, 1)))
    (change,) = start_leadership(state, [0, 1])
    assert [p.leader for p in change.partitions] == [0, 0, 0, 0, 1]
