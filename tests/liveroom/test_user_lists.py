"""The users of a room by gateway, packed: held against sets."""

import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveroom.records.control import MAX_PARTS
from liveroom.turns import run_at_once
from liveroom.user_lists import PART_USERS, UserLists, pack, parting, unpack

SHIFT = 44  # users that differ in their lower bits too, and often meet
USERS = st.integers(0, 40).map(lambda number: number << SHIFT | number << 12)
GATEWAYS = st.integers(0, 3)


def filled(lists: UserLists, users: set[int], gateway: int, parts: int = 1) -> None:
    for part in range(parts):
        for _ in lists.replace(users, gateway, part, parts):
            pass


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), USERS, GATEWAYS),
            st.tuples(st.just("remove"), USERS, GATEWAYS),
            st.tuples(st.just("list"), st.sets(USERS), GATEWAYS, st.sampled_from([1, 2, 4])),
            st.tuples(st.just("count_only"), st.frozensets(GATEWAYS)),
        ),
        max_size=30,
    )
)
def test_users_are_counted_once_over_the_gateways_that_count(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    lists, at, counted = UserLists(), {gateway: set[int]() for gateway in range(4)}, frozenset[int]()
    for step in steps:
        match step:
            case "add", user, gateway:
                assert lists.add(user, gateway) == (user not in at[gateway])
                at[gateway].add(user)
            case "remove", user, gateway:
                assert lists.remove(user, gateway) == (user in at[gateway])
                at[gateway].discard(user)
            case "list", users, gateway, parts:
                filled(lists, users, gateway, parts)
                at[gateway] = set(users)
            case "count_only", gateways:
                lists.count_only(gateways)
                counted = gateways
        assert lists.count() == len(set[int]().union(*(at[gateway] for gateway in counted)))
        assert len(lists) == sum(map(len, at.values()))


def test_100_000_users_at_50_gateways_take_about_8_bytes_each_and_are_counted_in_pieces() -> None:
    chance, lists = Random(7), UserLists()
    users = [chance.getrandbits(64) for _ in range(100_000)]
    at = [set(users[gateway::50]) | set(users[gateway * 100 : gateway * 100 + 100]) for gateway in range(50)]
    for gateway, here in enumerate(at):
        filled(lists, here, gateway)
    lists.count_only(range(50))
    turns = 1
    while (found := lists.count(10_000)) is None:
        turns += 1
    assert found == 100_000
    assert turns >= 10
    assert lists.uncounted == 0
    assert len(lists) == sum(map(len, at))
    size = sum(sys.getsizeof(bucket.entries) + sys.getsizeof(bucket) for bucket in lists._buckets)
    assert 8 * len(lists) < size < 10 * len(lists)
    lists.count_only(range(1, 50))
    assert lists.count() == len(set().union(*at[1:]))
    for gateway in range(50):
        filled(lists, set(), gateway)
    lists.count()
    assert (len(lists), len(lists._buckets)) == (0, 1)


def test_users_who_come_while_a_count_is_under_way_are_in_the_next_one() -> None:
    lists, users = UserLists(), {number << 40 for number in range(5000)}
    filled(lists, users, 1)
    lists.count_only([1])
    assert lists.count(1500) is None
    lists.add(5 << 39, 1)  # behind the place where the count is
    assert lists.count(10_000) == 5000
    assert lists.uncounted
    assert lists.count(10_000) == 5001


def test_a_list_in_parts_replaces_what_was_known_part_by_part() -> None:
    lists, old, new = UserLists(), {1 << 20, 1 << 62}, {2 << 20, 1 << 63}
    filled(lists, old, 1)
    lists.count_only([1])
    for _ in lists.replace(new, 1, 0, 2):
        pass
    assert lists.count() == 1, "of the upper half nothing was known, and nothing came"
    for _ in lists.replace(new, 1, 1, 2):
        pass
    assert lists.count() == 2


def test_the_first_list_of_a_gateway_with_one_user_goes_through_no_others() -> None:
    lists = UserLists()
    filled(lists, {number << 40 for number in range(20_000)}, 1)
    assert sum(lists.replace([7 << 40, 7 << 20], 2)) < 100
    assert (lists.size(1), lists.size(2)) == (20_000, 2)
    lists.count_only([1, 2])
    assert lists.count() == 20_001
    filled(lists, {9 << 40}, 2)
    assert lists.size(2) == 1, "the next one replaces it"
    assert lists.count() == 20_000


def test_what_gateways_that_left_had_is_taken_out_in_one_go_and_no_more_than_that() -> None:
    lists = UserLists()
    for gateway in range(5):
        filled(lists, {number << 40 | gateway << 20 for number in range(3000)}, gateway)
    assert len(list(lists.keep(lambda: {0, 3}))) > 1, "in pieces"
    assert [lists.size(gateway) for gateway in range(5)] == [3000, 0, 0, 3000, 0]
    assert len(lists) == 6000
    assert list(lists.keep(lambda: {0, 3})) == [], "nothing is left to take out"


def test_one_user_at_all_gateways_stays_in_one_bucket() -> None:
    lists = UserLists()
    for gateway in range(4096):
        lists.add(77 << 12, gateway)
    for number in range(100):
        lists.add(number << 40, 5)
    lists.count_only(range(4096))
    assert lists.count() == 101


@pytest.mark.parametrize("count", [0, 1, PART_USERS, PART_USERS + 1, 13_000])
def test_a_whole_list_goes_in_parts_below_the_size_of_a_record(count: int) -> None:
    chance = Random(count)
    users = {chance.getrandbits(64) for _ in range(count)}
    parts = run_at_once(parting(users))
    assert len(parts) & (len(parts) - 1) == 0
    assert max(map(len, parts)) <= 1.2 * 8 * PART_USERS
    width = (1 << 64) // len(parts)
    found = [unpack(part) for part in parts]
    assert {user for part in found for user in part} == users
    assert all(user // width == number for number, part in enumerate(found) for user in part)


def test_packed_users_have_their_lowest_byte_first_and_a_rest_is_passed_over() -> None:
    assert pack([1, 2**63]) == b"\1" + bytes(7) + bytes(7) + b"\x80"
    assert list(unpack(pack([5, 6]) + b"rest")) == [5, 6]


def test_a_part_that_no_list_has_changes_nothing() -> None:
    lists = UserLists()
    filled(lists, {5 << 50}, 1)
    for part, parts in ((MAX_PARTS - 1, 3), (9, 2), (0, MAX_PARTS)):
        for _ in lists.replace([7 << 50], 2, part, parts):
            pass
    lists.count_only([1])
    assert lists.count() == 1
