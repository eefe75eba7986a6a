"""Which node leads a partition: new ones, and what a start or the restart of a shard changes."""

from __future__ import annotations

from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from rpk_py.metadata.placement import (
    leader_counts,
    led_by,
    place,
    start_leadership,
    take_leadership,
)
from rpk_py.metadata.state import ClusterState, Delta, NodeState, TopicState, apply

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


def test_what_is_left_without_a_leader_goes_to_shards_that_lead_nothing() -> None:
    state = state_with(make_topic(leaders=(0, 0, 5, 5)))
    (change,) = start_leadership(state, [0, 1])
    assert [p.leader for p in change.partitions] == [0, 0, 1, 1]


# Sequences of starts with different numbers of shards.

TOPIC_SIZES = st.lists(st.integers(1, 9), max_size=12)


def leaders_of(state: ClusterState) -> dict[tuple[str, int], int]:
    return {(t.name, p.index): p.leader for t in state.topics.values() for p in t.partitions}


def start(state: ClusterState, shards: int) -> int:
    """Start with so many shards, check what always holds, and say how many partitions moved."""
    before = {(t.name, p.index): p for t in state.topics.values() for p in t.partitions}
    counts = leader_counts(state.topics.values(), range(shards))
    homeless = sum(p.leader >= shards for p in before.values())
    changes = start_leadership(state, range(shards))
    apply(state, Delta(state.revision + 1, tuple(changes)))
    after = {(t.name, p.index): p for t in state.topics.values() for p in t.partitions}
    assert after.keys() == before.keys()
    for key, partition in after.items():
        assert 0 <= partition.leader < shards
        assert partition.replicas == partition.isr == [partition.leader]
        assert partition.leader_epoch == before[key].leader_epoch + 1
    moves = sum(after[key].leader != before[key].leader for key in after)
    now = leader_counts(state.topics.values(), range(shards))
    givers = [n for n in counts if counts[n]]
    takers = [n for n in counts if not counts[n]]
    if not takers:
        assert moves == homeless
        assert all(now[n] >= counts[n] for n in givers)
    for giver in givers:
        for taker in takers:
            assert now[giver] <= now[taker] + 1
    # Nobody gave what another one had to give: each move filled a taker, or found a new home.
    assert moves == homeless + sum(max(counts[n] - now[n], 0) for n in givers)
    return moves


@given(TOPIC_SIZES, st.lists(st.integers(1, 6), min_size=1, max_size=6))
@example([4] * 16, [4, 2, 3])
@example([1] * 7 + [3, 9], [4, 2, 3])
def test_whatever_the_numbers_of_shards_every_partition_has_one_live_leader(
    sizes: list[int], starts: list[int]
) -> None:
    topics = [make_topic(f"t{n}", bytes([n + 1]) * 16, (0,) * size) for n, size in enumerate(sizes)]
    state = state_with(*topics)
    for shards in starts:
        start(state, shards)
        settled = leaders_of(state)
        counts = leader_counts(state.topics.values(), range(shards))
        if all(counts.values()):
            assert start(state, shards) == 0  # the same start again moves nothing
            assert leaders_of(state) == settled


@given(TOPIC_SIZES, st.integers(2, 6))
def test_from_one_shard_to_more_every_topic_spreads_as_evenly_as_its_size_allows(
    sizes: list[int], shards: int
) -> None:
    topics = [make_topic(f"t{n}", bytes([n + 1]) * 16, (0,) * size) for n, size in enumerate(sizes)]
    state = state_with(*topics)
    start(state, shards)
    counts = leader_counts(state.topics.values(), range(shards)).values()
    assert max(counts) - min(counts) <= 1
    for topic in state.topics.values():
        of_topic = leader_counts([topic], range(shards)).values()
        assert max(of_topic) - min(of_topic) <= 1


@given(TOPIC_SIZES, st.integers(1, 6))
def test_topics_made_one_after_another_lead_everywhere_alike(sizes: list[int], shards: int) -> None:
    counts = dict.fromkeys(range(shards), 0)
    for size in sizes:
        of_topic = Counter(place(size, counts))
        assert max(of_topic.values()) - min(of_topic[n] for n in range(shards)) <= 1
    assert max(counts.values()) - min(counts.values()) <= 1
