"""Thinning: who keeps a place above a room's limit, and how that limit grows with Kafka's time."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadcaster.thinning import Candidate, choose
from liveroom.kinds import Role
from liveroom.limits import Bucket

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.integers(0, 2**63),
        st.sampled_from(Role),
        st.integers(0, 255),
        st.sampled_from(["a", "b", "c"]),
        st.integers(1, 64),
    ),
    max_size=30,
    unique_by=lambda candidate: candidate.offset,
)


def candidate(offset: int, role: Role = Role.VIEWER, level: int = 0, user: str = "", cost: int = 1) -> Candidate:
    return Candidate(offset, role, level, user or f"u{offset}", cost)


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        pytest.param({"role": Role.VIEWER, "level": 255}, {"role": Role.MODERATOR}, id="a moderator before any level"),
        pytest.param({"role": Role.SERVICE, "level": 255}, {"role": Role.MODERATOR}, id="a service is an ordinary sender"),
        pytest.param({"role": Role.MODERATOR, "level": 255}, {"role": Role.STREAMER}, id="the streamer before moderators"),
        pytest.param({"role": Role.MODERATOR, "level": 255}, {"role": Role.OPERATOR}, id="an operator before moderators"),
        pytest.param({"level": 3}, {"level": 4}, id="the higher level"),
        pytest.param({"role": Role.VIEWER}, {"role": Role.GUEST, "level": 1}, id="a guest is ordinary too"),
    ],
)
@pytest.mark.parametrize("first", range(20))
def test_the_better_sender_keeps_the_only_place_wherever_both_lie(
    worse: dict[str, Any], better: dict[str, Any], first: int
) -> None:
    assert choose([candidate(first, **worse), candidate(first + 1, **better)], 1) == [False, True]
    assert choose([candidate(first, **better), candidate(first + 1, **worse)], 1) == [True, False]


def test_every_user_gets_a_place_before_anybody_gets_a_second() -> None:
    loud = [candidate(offset, user="loud") for offset in range(50)]
    others = [candidate(50 + offset) for offset in range(9)]
    stays = choose([*loud, *others], 10)
    assert stays[50:] == [True] * 9
    assert stays[0], "of one user's the first stays"
    assert sum(stays) == 10


def test_a_higher_level_keeps_all_its_places_before_a_lower_one_gets_any() -> None:
    high = [candidate(offset, level=9, user="high") for offset in range(3)]
    low = [candidate(3 + offset) for offset in range(9)]
    assert choose([*low, *high], 3) == [False] * 9 + [True] * 3


def test_among_equals_the_lot_favours_neither_the_early_nor_the_late() -> None:
    kept: Counter[int] = Counter()
    for block in range(500):
        stays = choose([candidate(block * 20 + place) for place in range(20)], 5)
        kept.update(place for place, stay in enumerate(stays) if stay)
    assert sum(kept.values()) == 2500
    assert all(75 <= kept[place] <= 175 for place in range(20)), kept


def test_a_package_that_does_not_fit_leaves_its_place_to_smaller_ones() -> None:
    assert choose([candidate(0, level=9, cost=5), candidate(1, cost=2), candidate(2, cost=2)], 4) == [False, True, True]


@given(CANDIDATES, st.integers(0, 200))
def test_a_choice_fits_and_leaves_nobody_out_who_would_still_fit(candidates: list[Candidate], allowance: int) -> None:
    stays = choose(candidates, allowance)
    spent = sum(each.cost for each, stay in zip(candidates, stays, strict=True) if stay)
    assert spent <= allowance
    assert all(spent + each.cost > allowance for each, stay in zip(candidates, stays, strict=True) if not stay)


@given(CANDIDATES, st.integers(0, 200))
def test_a_replay_decides_alike(candidates: list[Candidate], allowance: int) -> None:
    again = [Candidate(*each) for each in candidates]
    assert choose(candidates, allowance) == choose(again, allowance)


@given(CANDIDATES, st.integers(0, 30))
def test_nobody_of_equal_cost_stays_in_place_of_a_better_one(candidates: list[Candidate], allowance: int) -> None:
    rank = {Role.STREAMER: 0, Role.OPERATOR: 0, Role.MODERATOR: 1}
    alone = [each._replace(cost=1) for each in candidates]
    stays = choose(alone, allowance)
    standing = [(rank.get(each.role, 2), -each.level) for each in alone]
    kept = [mine for mine, stay in zip(standing, stays, strict=True) if stay]
    gone = [mine for mine, stay in zip(standing, stays, strict=True) if not stay]
    assert not kept or not gone or max(kept) <= min(gone)


# ---- how many numbers a room may give
def bucket(limit: int, at_ms: int = 0) -> Bucket:
    """A room's bucket as `broadcaster.room` makes it."""
    return Bucket(limit, limit, at_ms, ticks_per_s=1000)


def left(of: Bucket, limit: int, at_ms: int) -> int:
    of.change(limit, limit)
    return int(of.left(at_ms))


def test_a_room_begins_with_one_second_and_grows_by_the_limit_up_to_that() -> None:
    room = bucket(100, 5_000)
    assert left(room, 100, 5_000) == 100
    room.spend(100)
    assert left(room, 100, 5_000) == 0
    assert left(room, 100, 5_250) == 25
    assert left(room, 100, 5_500) == 50
    assert left(room, 100, 60_000) == 100


def test_parts_of_a_message_add_up() -> None:
    room = bucket(1)
    room.spend(1)
    assert [left(room, 1, at_ms) for at_ms in range(125, 1_125, 125)] == [0] * 7 + [1]


def test_a_clock_that_goes_back_adds_nothing_and_takes_nothing() -> None:
    room = bucket(10, 60_000)
    room.spend(6)
    assert left(room, 10, 0) == 4
    assert left(room, 10, 100) == 5


def test_a_lower_limit_holds_at_once() -> None:
    room = bucket(100)
    assert left(room, 100, 0) == 100
    assert left(room, 10, 0) == 10
    assert left(room, 100, 0) == 10


@given(st.integers(1, 50), st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 60)), max_size=30))
def test_no_stretch_of_time_sees_more_than_its_share_and_one_second(limit: int, steps: list[tuple[int, int]]) -> None:
    room, now = bucket(limit), 0
    spent: list[tuple[int, int]] = []
    for passed, wanted in steps:
        now += passed
        number = min(wanted, left(room, limit, now))
        room.spend(number)
        spent.append((now, number))
        for index, (since, _) in enumerate(spent):
            assert sum(many for _, many in spent[index:]) <= limit + (now - since) * limit / 1000 + 1e-6
