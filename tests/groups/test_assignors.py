"""Server-side assignors: what has to hold of any assignment (KIP-848, "Server Side Assignors").

Named cases follow UniformAssignor and RangeAssignor of Apache Kafka 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpk_py.groups.assignors import ASSIGNORS, DEFAULT_ASSIGNOR, Owned, Partition, Subscriber

TOPICS = [bytes([index]) * 16 for index in range(1, 5)]
Members = dict[str, Subscriber]
Counts = dict[bytes, int]


def partitions(owned: Mapping[bytes, frozenset[int]]) -> set[Partition]:
    return {(topic, index) for topic, indexes in owned.items() for index in indexes}


def again(members: Members, target: Mapping[str, Owned]) -> Members:
    """The same members with what they were given."""
    return {
        name: Subscriber(member.topic_ids, target.get(name, {}), member.instance_id)
        for name, member in members.items()
    }


counts_of_topics = st.fixed_dictionaries({}, optional=dict.fromkeys(TOPICS, st.integers(0, 9)))
owned_anything = st.dictionaries(
    st.sampled_from(TOPICS), st.frozensets(st.integers(0, 12), min_size=1)
)
subscriptions = st.frozensets(st.sampled_from(TOPICS))
names = st.text("abcdef", min_size=1, max_size=3)


@st.composite
def any_members(draw: st.DrawFn) -> Members:
    return {
        name: Subscriber(draw(subscriptions), draw(owned_anything), draw(st.none() | names))
        for name in draw(st.sets(names, max_size=7))
    }


@st.composite
def equal_members(draw: st.DrawFn) -> Members:
    topics = draw(subscriptions)
    return {
        name: Subscriber(topics, draw(owned_anything))
        for name in draw(st.sets(names, min_size=1, max_size=7))
    }


@pytest.mark.parametrize("assignor", ASSIGNORS)
@given(members=any_members(), counts=counts_of_topics)
@settings(max_examples=60, deadline=None)
def test_every_subscribed_partition_has_one_owner(
    assignor: str, members: Members, counts: Counts
) -> None:
    target = ASSIGNORS[assignor](members, counts)
    assert target.keys() == members.keys()
    for name, owned in target.items():
        assert owned.keys() <= members[name].topic_ids
        assert all(owned.values()), "no topic is there without a partition"
    given_out = [each for owned in target.values() for each in partitions(owned)]
    subscribed = {topic for member in members.values() for topic in member.topic_ids}
    wanted = [(t, i) for t, count in counts.items() if t in subscribed for i in range(count)]
    assert sorted(given_out) == sorted(wanted)


@given(members=equal_members(), counts=counts_of_topics)
@settings(max_examples=60, deadline=None)
def test_uniform_is_balanced_where_all_subscribe_to_the_same(
    members: Members, counts: Counts
) -> None:
    sizes = [len(partitions(owned)) for owned in ASSIGNORS["uniform"](members, counts).values()]
    assert max(sizes) - min(sizes) <= 1


@given(members=any_members(), counts=counts_of_topics)
@settings(max_examples=60, deadline=None)
def test_uniform_leaves_no_move_that_would_help(members: Members, counts: Counts) -> None:
    """UniformHeterogeneousAssignmentBuilder.isBalanced."""
    target = ASSIGNORS["uniform"](members, counts)
    sizes = {name: len(partitions(owned)) for name, owned in target.items()}
    for name, owned in target.items():
        for other, member in members.items():
            if not member.topic_ids.isdisjoint(owned):
                assert sizes[name] - sizes[other] <= 1


@pytest.mark.parametrize("assignor", ASSIGNORS)
@given(members=any_members(), counts=counts_of_topics)
@settings(max_examples=60, deadline=None)
def test_nothing_moves_without_a_reason(assignor: str, members: Members, counts: Counts) -> None:
    target = ASSIGNORS[assignor](members, counts)
    assert ASSIGNORS[assignor](again(members, target), counts) == target


@pytest.mark.parametrize("assignor", ASSIGNORS)
@given(members=any_members(), counts=counts_of_topics, order=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_members_does_not_matter(
    assignor: str, members: Members, counts: Counts, order: object
) -> None:
    shuffled = list(members.items())
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert ASSIGNORS[assignor](dict(shuffled), counts) == ASSIGNORS[assignor](members, counts)


@given(members=equal_members(), counts=counts_of_topics)
@settings(max_examples=60, deadline=None)
def test_a_new_member_moves_no_more_than_its_share(members: Members, counts: Counts) -> None:
    before = ASSIGNORS["uniform"](members, counts)
    grown = again(members, before)
    grown["newcomer"] = Subscriber(next(iter(members.values())).topic_ids, {})
    after = ASSIGNORS["uniform"](grown, counts)
    moved = [p for name in members for p in partitions(before[name]) - partitions(after[name])]
    assert len(moved) == len(partitions(after["newcomer"]))
    for name in members:
        assert partitions(after[name]) <= partitions(before[name])


@given(members=equal_members(), counts=counts_of_topics)
@settings(max_examples=60, deadline=None)
def test_a_member_that_leaves_moves_only_what_it_had(members: Members, counts: Counts) -> None:
    before = ASSIGNORS["uniform"](members, counts)
    rest = again(members, before)
    del rest[min(rest)]
    for name, owned in ASSIGNORS["uniform"](rest, counts).items():
        assert partitions(before[name]) <= partitions(owned)


@given(members=any_members(), counts=counts_of_topics)
@settings(max_examples=60, deadline=None)
def test_range_gives_runs_in_the_order_of_the_members(members: Members, counts: Counts) -> None:
    target = ASSIGNORS["range"](members, counts)
    order = sorted(
        members, key=lambda m: (members[m].instance_id is None, members[m].instance_id or m, m)
    )
    for topic, count in counts.items():
        takers = [name for name in order if topic in members[name].topic_ids]
        runs = [sorted(target[name].get(topic, ())) for name in takers]
        assert [index for run in runs for index in run] == (list(range(count)) if takers else [])
        sizes = [len(run) for run in runs]
        assert sizes == sorted(sizes, reverse=True)
        assert not sizes or max(sizes) - min(sizes) <= 1


def test_range_gives_the_same_runs_of_topics_that_are_partitioned_alike() -> None:
    """RangeAssignor: co-partitioned topics can be joined."""
    members = {name: Subscriber(frozenset(TOPICS[:2]), {}) for name in "abc"}
    target = ASSIGNORS["range"](members, dict.fromkeys(TOPICS[:2], 7))
    for owned in target.values():
        assert owned[TOPICS[0]] == owned[TOPICS[1]]


def test_range_puts_static_members_first_by_their_instance_ids() -> None:
    """RangeAssignor.sortMemberIds."""
    topics = frozenset(TOPICS[:1])
    members = {
        "a": Subscriber(topics, {}),
        "b": Subscriber(topics, {}, "second"),
        "c": Subscriber(topics, {}, "first"),
    }
    target = ASSIGNORS["range"](members, {TOPICS[0]: 3})
    assert [sorted(target[m][TOPICS[0]]) for m in "cba"] == [[0], [1], [2]]


def test_two_that_claim_the_same_do_not_both_get_it() -> None:
    owned = {TOPICS[0]: frozenset({0, 1})}
    members = {name: Subscriber(frozenset(TOPICS[:1]), owned) for name in "ab"}
    target = ASSIGNORS["uniform"](members, {TOPICS[0]: 2})
    assert sorted(len(owned[TOPICS[0]]) for owned in target.values()) == [1, 1]


def test_uniform_is_what_a_group_gets_that_does_not_choose() -> None:
    """GroupCoordinatorConfig: group.consumer.assignors starts with uniform."""
    assert DEFAULT_ASSIGNOR == next(iter(ASSIGNORS)) == "uniform"


@pytest.mark.parametrize("assignor", ASSIGNORS)
def test_many_members_with_different_subscriptions_do_not_hold_the_loop(assignor: str) -> None:
    """500 members that share 1,000 partitions in steps, all of them with the last at first: every
    partition has to travel. The limit is generous, a pass too many over all pairs breaks it."""
    topics = [index.to_bytes(16, "big") for index in range(1, 101)]
    members = {
        f"m{index:03}": Subscriber(frozenset(topics[: 1 + index // 5]), {}) for index in range(500)
    }
    last = max(members)
    everything = dict.fromkeys(topics, frozenset(range(10)))
    members[last] = Subscriber(members[last].topic_ids, everything)
    began = perf_counter()
    target = ASSIGNORS[assignor](members, dict.fromkeys(topics, 10))
    assert perf_counter() - began < 2.0
    assert sum(len(partitions(owned)) for owned in target.values()) == 1_000
