"""Who gets viewers, and how many."""

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveroom.records.control import GatewayState, Limits, LoadReport
from scheduler.placement import Placement, Standing
from scheduler.weights import BUSY_SHARE, EVEN

STALE_S = 3.0


def report(
    gateway: str = "e1", *, generation: int = 1, state: GatewayState = GatewayState.SERVING, **fields: Any
) -> LoadReport:
    known: dict[str, Any] = {"connections": 0} | fields
    return LoadReport(1, gateway, generation, state, 0, f"ws://{gateway}", gateway, "127.0.0.1", 1, **known)


def names(placement: Placement, now_s: float = 0.0, count: int = 3, seed: int = 1) -> set[str]:
    return {choice.report.gateway for choice in placement.choose(count, now_s, random.Random(seed).random)}


@pytest.mark.parametrize(
    ("loaded", "now_s", "standing"),
    [
        pytest.param(report(), 3.0, Standing.OPEN, id="fresh"),
        pytest.param(report(), 3.1, Standing.STALE, id="stale"),
        pytest.param(report(state=GatewayState.STARTING), 0, Standing.STARTING, id="starting"),
        pytest.param(report(state=GatewayState.DRAINING), 0, Standing.DRAINING, id="draining"),
        pytest.param(report(connections=None), 0, Standing.UNKNOWN, id="does not know its connections"),
        pytest.param(report(connections=10_000), 0, Standing.FULL, id="full"),
        pytest.param(report(cpu=5.0), 0, Standing.OPEN, id="busy, not full"),
        pytest.param(report(cpu=None, loop_lag_ms=None), 0, Standing.OPEN, id="unknown does not count"),
    ],
)
def test_only_an_open_gateway_is_chosen(loaded: LoadReport, now_s: float, standing: Standing) -> None:
    placement = Placement(STALE_S)
    placement.update(loaded, 0.0)
    assert placement.standing("e1", now_s) is standing
    assert names(placement, now_s) == ({"e1"} if standing is Standing.OPEN else set())


def test_the_age_of_a_report_goes_by_when_it_came_not_by_the_gateways_clock() -> None:
    placement = Placement(STALE_S)
    placement.update(report(), 1000.0)  # its own at_ms is 0
    assert names(placement, 1001.0) == {"e1"}


def test_a_report_of_an_older_start_is_ignored() -> None:
    placement = Placement(STALE_S)
    placement.update(report(generation=2), 0)
    placement.update(report(generation=1, state=GatewayState.DRAINING), 1)
    assert placement.standing("e1", 1) is Standing.OPEN


def test_a_gateway_that_was_started_in_the_future_comes_back_with_a_clock_that_is_right() -> None:
    placement = Placement(STALE_S)
    placement.update(report(generation=2**52), 0)
    placement.update(report(generation=1000), STALE_S)
    assert [known.report.generation for known in placement.all(STALE_S)] == [2**52], "it may still live"
    placement.update(report(generation=1000), STALE_S + 0.1)
    assert placement.standing("e1", STALE_S + 0.1) is Standing.OPEN
    assert [choice.report.generation for choice in placement.only("e1", STALE_S + 0.1)] == [1000]


WRITTEN_MS = 1_800_000_000_000


def off(gateway: str, off_s: float, **fields: Any) -> LoadReport:
    return msgspec.structs.replace(report(gateway, **fields), at_ms=max(0, WRITTEN_MS + int(off_s * 1000)))


@pytest.mark.parametrize(
    ("off_s", "standing"),
    [
        pytest.param(0.0, Standing.OPEN, id="right"),
        pytest.param(1.9, Standing.OPEN, id="a little ahead"),
        pytest.param(-1.9, Standing.OPEN, id="a little behind"),
        pytest.param(2.1, Standing.SKEWED, id="2.1 s ahead"),
        pytest.param(-2.1, Standing.SKEWED, id="2.1 s behind"),
        pytest.param(90.0, Standing.SKEWED, id="90 s ahead"),
        pytest.param(-90.0, Standing.SKEWED, id="90 s behind"),
        pytest.param(-WRITTEN_MS / 1000, Standing.SKEWED, id="in 1970"),
        pytest.param(1e10, Standing.SKEWED, id="in the far future"),
    ],
)
def test_a_gateway_whose_clock_is_off_gets_nobody_while_another_can_take_them(off_s: float, standing: Standing) -> None:
    placement = Placement(STALE_S)
    placement.update(off("e1", off_s, connections=0), 0, WRITTEN_MS)
    placement.update(off("e2", 0, connections=9000), 0, WRITTEN_MS)
    assert placement.standing("e1", 0) is standing
    chosen = {name for seed in range(40) for name in names(placement, seed=seed)}
    assert chosen == ({"e2"} if standing is Standing.SKEWED else {"e1", "e2"})
    assert placement.standings(0)[Standing.SKEWED] == (standing is Standing.SKEWED)


def test_a_skewed_gateway_serves_while_no_other_one_is_open() -> None:
    placement = Placement(STALE_S)
    placement.update(off("e1", 90), 0, WRITTEN_MS)
    assert names(placement) == {"e1"}, "it is alone: better than nobody"
    placement.update(off("e2", 0, state=GatewayState.STARTING), 1, WRITTEN_MS)
    assert names(placement, 1) == {"e1"}
    placement.update(off("e2", 0), 2, WRITTEN_MS)
    assert names(placement, 2) == {"e2"}
    placement.update(off("e2", 0, connections=10_000), 3, WRITTEN_MS)
    assert names(placement, 3) == {"e1"}


def test_where_all_clocks_seem_off_it_is_kafkas_and_all_gateways_serve() -> None:
    placement = Placement(STALE_S)
    for number in range(4):
        placement.update(off(f"e{number}", -90), 0, WRITTEN_MS)
    assert {name for seed in range(40) for name in names(placement, seed=seed)} == {"e0", "e1", "e2", "e3"}


def test_a_crowd_that_fills_the_open_gateway_between_two_rebuilds_goes_to_the_skewed_one() -> None:
    placement = Placement(STALE_S)
    placement.update(off("e1", 90, limits=Limits(connections=100)), 0, WRITTEN_MS)
    placement.update(off("e2", 0, limits=Limits(connections=3)), 0, WRITTEN_MS)
    sent = [placement.choose(1, 0, random.Random(seed).random)[0].report.gateway for seed in range(5)]
    assert sent == ["e2"] * 3 + ["e1"] * 2


def test_one_late_report_makes_no_clock_that_is_behind_and_three_do() -> None:
    placement = Placement(STALE_S)
    placement.update(off("e1", 0), 0, WRITTEN_MS)
    placement.update(off("e1", -5), 1, WRITTEN_MS)
    placement.update(off("e1", -5), 2, WRITTEN_MS)
    assert placement.standing("e1", 2) is Standing.OPEN
    placement.update(off("e1", -5), 3, WRITTEN_MS)
    assert placement.standing("e1", 3) is Standing.SKEWED
    placement.update(off("e1", 0), 4, WRITTEN_MS)
    assert placement.standing("e1", 4) is Standing.OPEN, "a clock that is set right counts at once"


def test_an_operator_may_choose_a_skewed_gateway() -> None:
    placement = Placement(STALE_S)
    placement.update(off("e1", 90), 0, WRITTEN_MS)
    assert [choice.report.gateway for choice in placement.only("e1", 0)] == ["e1"]
    assert [known.skew_s for known in placement.all(0)] == [90.0]


def test_a_gateway_that_is_taken_back_is_forgotten() -> None:
    placement = Placement(STALE_S)
    placement.update(report(), 0)
    placement.forget("e1")
    assert placement.standing("e1", 0) is None
    assert names(placement) == set()


def test_new_gateways_get_most_of_those_who_come_until_all_are_even() -> None:
    placement, uniform = Placement(STALE_S), random.Random(3).random
    for number in range(60):
        placement.update(report(f"e{number}", connections=2000 if number < 50 else 0), 0)
    first = Counter(placement.choose(1, 0, uniform)[0].report.gateway for _ in range(1000))
    assert sum(first[f"e{number}"] for number in range(50, 60)) > 600
    for number in range(60):
        placement.update(report(f"e{number}", connections=1667), 1)
        placement.update(report(f"e{number}", connections=1667), 2)
    first = Counter(placement.choose(1, 2, uniform)[0].report.gateway for _ in range(6000))
    assert max(first.values()) < 1.6 * min(first.values())


def test_nobody_is_sent_more_joins_between_two_reports_than_it_can_take() -> None:
    placement, uniform = Placement(STALE_S), random.Random(3).random
    placement.update(report("new"), 0)
    for number in range(20):
        placement.update(report(f"e{number}", connections=8000), 0)
    first = Counter(placement.choose(1, 0, uniform)[0].report.gateway for _ in range(4000))
    assert 800 < first["new"] < 1100


def test_a_busy_gateway_gets_next_to_nothing_while_another_has_room() -> None:
    placement = Placement(STALE_S)
    placement.update(report("busy", cpu=0.9), 0)
    placement.update(report("idle", cpu=0.1), 0)
    uniform = random.Random(3).random
    first = Counter(placement.choose(1, 0, uniform)[0].report.gateway for _ in range(500))
    assert first["busy"] < 0.05 * first["idle"]


def test_a_burst_between_two_reports_spreads_by_what_was_handed_out() -> None:
    placement = Placement(STALE_S)
    for name in ("a", "b"):
        placement.update(report(name, limits=Limits(connections=100)), 0)
    uniform = random.Random(5).random
    first = Counter(placement.choose(1, 0, uniform)[0].report.gateway for _ in range(200))
    assert first == {"a": 100, "b": 100}
    assert placement.choose(1, 0, uniform) == []


def test_what_was_handed_out_counts_until_the_second_report() -> None:
    placement = Placement(STALE_S)
    limits = Limits(connections=2)
    placement.update(report(limits=limits), 0)
    assert [len(placement.choose(1, 0, random.Random(1).random)) for _ in range(3)] == [1, 1, 0]
    placement.update(report(limits=limits), 1)  # it may have been on its way
    assert names(placement, 1) == set()
    placement.update(report(limits=limits, connections=1), 2)
    assert names(placement, 2) == {"e1"}


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=6), st.integers(0, 2**32))
def test_first_choices_follow_the_room_above_the_level(room: list[int], seed: int) -> None:
    placement, limits = Placement(STALE_S), Limits(connections=1_000_000_000, joins_per_s=1e12)
    for number, free in enumerate(room):
        placement.update(report(f"e{number}", limits=limits, connections=1_000_000_000 - free * 1_000_000), 0)
    level = max(0.0, sum(room) / len(room) - EVEN * 1000)
    weights = [max(free - level, BUSY_SHARE * free) for free in room]
    uniform = random.Random(seed).random
    draws = 3000
    first = Counter(placement.choose(1, 0, uniform)[0].report.gateway for _ in range(draws))
    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(first[f"e{number}"] / draws - share) < 6 * (share * (1 - share) / draws) ** 0.5 + 0.002


@given(
    st.lists(
        st.builds(
            report,
            st.sampled_from(["a", "b", "c", "d"]),
            generation=st.integers(1, 3),
            state=st.sampled_from(GatewayState),
            connections=st.none() | st.integers(0, 12),
            limits=st.just(Limits(connections=10)),
            cpu=st.none() | st.floats(0, 2),
        ),
        max_size=12,
    ),
    st.integers(0, 2**32),
)
def test_whatever_was_reported_only_open_gateways_are_chosen_each_once(reports: list[LoadReport], seed: int) -> None:
    placement = Placement(STALE_S)
    uniform = random.Random(seed).random
    for now_s, loaded in enumerate(reports):
        placement.update(loaded, now_s)
        open_before = {name for name in "abcd" if placement.standing(name, now_s) is Standing.OPEN}
        chosen = [choice.report.gateway for choice in placement.choose(3, now_s, uniform)]
        assert set(chosen) <= open_before
        assert len(chosen) == len(set(chosen))
        assert bool(chosen) == bool(open_before)
