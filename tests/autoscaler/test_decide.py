"""The number of gateways: the arithmetic as a table, and what must never happen."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.decide import STALE_S, Decision, History, Observation, Reason, ReportedGateway, decide
from autoscaler.policy import Event, Policy, PolicyError, read_policy
from liveroom.records.control import GatewayState, LoadReport

NOW_S = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
POLICY = Policy(min=2, max=50, down_window_s=60, down_after_up_s=120)


def report(number: int = 1, state: GatewayState = GatewayState.SERVING, **fields: Any) -> LoadReport:
    known: dict[str, Any] = {"connections": 0, "joins_per_s": 0.0} | fields
    return LoadReport(1, f"e{number}", 1, state, 0, "", "", "", 0, **known)


def seen(*reports: LoadReport, age_s: float = 1.0, running: int | None = None) -> Observation:
    alive = sum(report_.state is not GatewayState.DRAINING for report_ in reports)
    return Observation([ReportedGateway(report_, age_s) for report_ in reports], alive if running is None else running)


def many(count: int, **fields: Any) -> list[LoadReport]:
    return [report(number, **fields) for number in range(count)]


def over(seconds: int, observation: Observation, history: History | None = None, policy: Policy = POLICY) -> Decision:
    """Look every second for so long; return the last decision."""
    known = history or History()
    for second in range(seconds):
        decision = decide(observation, known, policy, NOW_S + second)
        known = decision.history
    return decision


@pytest.mark.parametrize(
    ("reports", "desired", "reason"),
    [
        pytest.param(many(4, connections=5000), 4, Reason.STEADY, id="20,000 of 40,000: 3 would do, but not yet"),
        pytest.param(many(4, connections=8000), 5, Reason.CONNECTIONS, id="80% of the connections"),
        pytest.param(many(4, connections=100, joins_per_s=450.0), 6, Reason.JOINS, id="90% of the joins"),
        pytest.param(many(4, connections=100, cpu=0.7), 5, Reason.CPU, id="all of the processor"),
        pytest.param(
            many(4, connections=100, bytes_per_s=2e8), 8, Reason.BYTES, id="twice the bandwidth: twice as many at most"
        ),
        pytest.param(many(4, connections=100, packets_per_s=1e5), 5, Reason.PACKETS, id="all the packets"),
        pytest.param(many(1, connections=10), 2, Reason.MINIMUM, id="fewer than the least"),
        pytest.param(many(50, connections=9900), 50, Reason.MAXIMUM, id="more than the most would be needed"),
        pytest.param(many(60, connections=1), 50, Reason.MAXIMUM, id="more than the most run"),
        pytest.param(many(40, connections=7200), 40, Reason.WITHIN_TOLERANCE, id="a little too full"),
    ],
)
def test_the_tightest_resource_decides(reports: list[LoadReport], desired: int, reason: Reason) -> None:
    decision = decide(seen(*reports), History(), POLICY, NOW_S)
    if reason is Reason.STEADY:
        assert decision.reason in {Reason.STEADY, Reason.WINDOW}
    else:
        assert decision.reason is reason
    assert decision.desired == desired


def test_one_who_does_not_know_a_resource_counts_as_the_others() -> None:
    reports = [report(1, cpu=0.7), report(2, cpu=0.7), report(3), report(4)]
    assert decide(seen(*reports), History(), POLICY, NOW_S).needed == 5


def test_the_trend_is_followed_as_far_as_a_new_gateway_takes() -> None:
    history, desired = History(), 4
    for second in range(6):
        reports = many(4, connections=1000 + 400 * second)
        decision = decide(seen(*reports), history, POLICY, NOW_S + second)
        history, desired = decision.history, max(desired, decision.desired)
    assert desired == 6, "12,000 now, 1,600 more a second, for 20 s: 44,000 on gateways that are to hold 7,000"
    assert decision.needed >= 6


def test_a_gateway_that_fails_is_no_growth_when_its_viewers_come_back() -> None:
    history = over(10, seen(*many(10, connections=6000))).history
    for second, (count, each) in enumerate([(9, 6000), (9, 6300), (9, 6667), (9, 6667)]):
        decision = decide(seen(*many(count, connections=each), running=9), history, POLICY, NOW_S + 10 + second)
        assert decision.desired == 9
        history = decision.history


@pytest.mark.parametrize("heard", [1, 6])
def test_who_is_heard_late_is_no_crowd_that_comes(heard: int) -> None:
    """A new leader hears one gateway after the other, and so does an old one when Kafka is back."""
    reports = many(11, connections=5000)
    history = decide(seen(*reports[:heard], running=11), History(), POLICY, NOW_S).history
    for second in range(1, 10):
        decision = decide(seen(*reports), history, POLICY, NOW_S + second)
        assert decision.reason is not Reason.TREND
        assert decision.desired <= 11
        history = decision.history


def test_an_event_is_prepared_for_and_held() -> None:
    at = datetime(2026, 11, 24, 12, 10, tzinfo=UTC)
    policy = Policy(min=2, max=50, events=(Event("star", at, 80_000, lead_s=120, hold_s=600),))
    reports = many(4, connections=1750)  # 7,000
    before = decide(seen(*reports), History(), policy, at.timestamp() - 121)
    assert before.desired == 4
    first = decide(seen(*reports), History(), policy, at.timestamp() - 119)
    assert (first.desired, first.needed, first.reason) == (8, 13, Reason.EVENT)
    assert "star" in first.detail
    full = many(13, connections=6600)
    during = decide(seen(*full), first.history, policy, at.timestamp() + 300)
    assert (during.needed, during.desired) == (13, 13), "those who came are those who were expected"
    taken_over = decide(seen(*full), History(), policy, at.timestamp() + 300)
    assert taken_over.needed == 13, "also for a new leader, who did not see them come"
    after = decide(seen(*many(13, connections=500)), during.history, policy, at.timestamp() + 601)
    assert after.needed == 1


def test_down_only_when_fewer_would_have_done_for_long_and_the_emptiest_go() -> None:
    reports = [report(number, connections=1000 + number) for number in range(10)]
    waiting = over(50, seen(*reports))
    assert (waiting.desired, waiting.reason) == (10, Reason.WINDOW)
    history, steps = History(), []
    for second in range(200):
        decision = decide(seen(*reports), history, POLICY, NOW_S + second)
        history = decision.history
        if decision.desired < decision.actual:
            steps.append((second, decision.drain))
    assert [drain for _, drain in steps] == [("e0",)] * len(steps), "this world never follows: the emptiest is named each time"
    assert all(later - earlier >= 60 for (earlier, _), (later, _) in pairwise(steps))
    assert steps[0][0] >= 50


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        pytest.param(seen(*many(10), age_s=STALE_S + 0.1), Reason.UNKNOWN, id="reports are old"),
        pytest.param(seen(*many(9), running=10), Reason.UNKNOWN, id="one does not report"),
        pytest.param(seen(*many(9), report(9, connections=None)), Reason.UNKNOWN, id="one does not know itself"),
        pytest.param(seen(*many(9), report(9, GatewayState.DRAINING)), Reason.DRAINING, id="one is being emptied"),
    ],
)
def test_never_down_while_something_is_unknown_or_under_way(observation: Observation, reason: Reason) -> None:
    decision = over(300, observation)
    assert (decision.desired, decision.reason) == (decision.actual, reason)


def test_hot_gateways_shed_to_those_with_room_no_faster_than_these_can_take() -> None:
    hot, cold = many(5, connections=2000), [report(number + 10, connections=0) for number in range(1)]
    shed = decide(seen(*hot, *cold), History(), POLICY, NOW_S).shed
    assert {each.gateway for each in shed} == {f"e{number}" for number in range(5)}
    wanted = (2000 - 10_000 / 6) * 5 / POLICY.shed_s
    assert sum(each.rate_per_s for each in shed) == pytest.approx(wanted, rel=0.01)
    busy = [report(10, connections=0, joins_per_s=230.0)]
    assert sum(each.rate_per_s for each in decide(seen(*hot, *busy), History(), POLICY, NOW_S).shed) == pytest.approx(
        20, rel=0.01
    )
    full = [report(10, connections=0, joins_per_s=400.0)]
    assert decide(seen(*hot, *full), History(), POLICY, NOW_S).shed == ()
    assert decide(seen(*many(5, connections=2000)), History(), POLICY, NOW_S).shed == ()


STATES = st.sampled_from(
    [GatewayState.SERVING, GatewayState.SERVING, GatewayState.SERVING, GatewayState.STARTING, GatewayState.DRAINING]
)
GATEWAYS = st.builds(
    lambda connections, joins, cpu, state, age_s: (connections, joins, cpu, state, age_s),
    st.none() | st.integers(0, 12_000),
    st.none() | st.floats(0, 800),
    st.none() | st.floats(0, 2),
    STATES,
    st.sampled_from([0.5, 1.0, 1.0, 2.9, 10.0]),
)
LOOKS = st.lists(
    st.tuples(st.lists(GATEWAYS, max_size=8), st.integers(0, 12), st.floats(0.5, 40)),
    min_size=1,
    max_size=25,
)
POLICIES = st.builds(
    Policy,
    min=st.integers(1, 4),
    max=st.integers(4, 10),
    up_window_s=st.sampled_from([0.0, 5.0, 30.0]),
    down_window_s=st.sampled_from([10.0, 60.0]),
    down_after_up_s=st.sampled_from([0.0, 60.0]),
    step_down=st.sampled_from([0.1, 0.5]),
)


@given(LOOKS, POLICIES)
def test_what_must_never_happen(looks: Any, policy: Policy) -> None:
    history, now_s = History(), NOW_S
    last_up_s = last_down_s = -1e18
    for gateways, running, passed_s in looks:
        now_s += passed_s
        seen_ = [
            ReportedGateway(report(number, state, connections=connections, joins_per_s=joins, cpu=cpu), age_s)
            for number, (connections, joins, cpu, state, age_s) in enumerate(gateways)
        ]
        observation = Observation(seen_, running)
        decision = decide(observation, history, policy, now_s)
        assert decision == decide(observation, history, policy, now_s), "pure"
        history = decision.history
        assert decision.actual == running
        assert policy.min <= decision.desired <= policy.max
        assert decision.detail or decision.reason is Reason.STEADY or decision.desired == decision.actual
        in_bounds = policy.min <= running <= policy.max
        if decision.desired > running and in_bounds:
            assert now_s - last_up_s >= policy.up_window_s
        if decision.desired < running and in_bounds:
            counted = [each for each in seen_ if each.report.state is not GatewayState.DRAINING]
            assert all(each.is_known for each in seen_)
            assert len(counted) == len(seen_) >= running
            assert now_s - last_down_s >= policy.down_window_s
            assert now_s - last_up_s >= policy.down_after_up_s
            assert len(set(decision.drain)) == len(decision.drain) <= running - decision.desired
        last_up_s = now_s if decision.desired > running else last_up_s
        last_down_s = now_s if decision.desired < running else last_down_s
        named = {each.report.gateway for each in seen_ if each.is_known and each.report.state is GatewayState.SERVING}
        assert {shed.gateway for shed in decision.shed} | set(decision.drain) <= named
        assert not {shed.gateway for shed in decision.shed} & set(decision.drain)
        assert all(shed.rate_per_s >= 0 for shed in decision.shed)


def test_a_policy_is_a_toml_file() -> None:
    policy = read_policy(
        b"""
        min = 4
        max = 60
        [targets]
        cpu = 0.5
        [[events]]
        name = "star"
        at = 2026-11-24T20:00:00+08:00
        viewers = 80_000
        """
    )
    assert (policy.min, policy.max, policy.targets.cpu, policy.targets.connections) == (4, 60, 0.5, 0.7)
    assert policy.events == (Event("star", datetime(2026, 11, 24, 12, tzinfo=UTC), 80_000),)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param(b"min = 5\nmax = 4", "above max", id="min above max"),
        pytest.param(b"least = 5", "least", id="an unknown name"),
        pytest.param(b"[targets]\ncpu = 2", "cpu", id="a target over 1"),
        pytest.param(b"[[events]]\nname = 'x'\nat = 2026-11-24T20:00:00\nviewers = 1", "at", id="a time without a zone"),
        pytest.param(b"min = ", "Invalid value", id="no TOML"),
        pytest.param(b"\xff", "decode", id="no text"),
    ],
)
def test_a_policy_that_cannot_be_used_says_where(text: bytes, why: str) -> None:
    with pytest.raises(PolicyError, match=why):
        read_policy(text)


@pytest.mark.parametrize("step_s", [pytest.param(each, id=f"{each:+.0f} s") for each in (3600.0, -3600.0, -NOW_S, 1e9)])
def test_windows_pass_whatever_the_machines_clock_does(step_s: float) -> None:
    """The pool grows again after its window, and shrinks after its own, though Unix time jumped."""
    policy = Policy(min=2, max=50, up_window_s=15, down_window_s=60, down_after_up_s=120)
    full, empty = seen(*many(4, connections=9000)), seen(*many(9, connections=100))
    grown = decide(full, History(), policy, 100.0, NOW_S)
    assert grown.desired > 4
    assert decide(full, grown.history, policy, 101.0, NOW_S + 1 + step_s).reason is Reason.WINDOW
    assert decide(full, grown.history, policy, 116.0, NOW_S + 16 + step_s).desired > 4
    history = grown.history
    for second in range(200):
        shrunk = decide(empty, history, policy, 120.0 + second, NOW_S + second + step_s)
        if shrunk.desired < 9:
            break
        history = shrunk.history
    assert shrunk.reason is Reason.FEWER


def test_an_event_begins_by_the_date_and_not_by_the_windows_clock() -> None:
    at = datetime(2026, 11, 24, 20, tzinfo=UTC)
    policy = Policy(min=2, max=50, events=(Event(name="final", at=at, viewers=40_000, lead_s=120, hold_s=600),))
    reports = seen(*many(2, connections=10))
    assert decide(reports, History(), policy, 5.0, at.timestamp() - 121).reason is not Reason.EVENT
    assert decide(reports, History(), policy, 6.0, at.timestamp() - 119).reason is Reason.EVENT
