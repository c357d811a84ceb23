"""Rates, slow mode and offences: what is refused, for how long, and that nothing is kept for
ever.
"""

import pytest

from ingress.permissions import BY_KIND, INTERACTIONS
from ingress.rate_limits import Offences, Rate, RateLimits, rates_of
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Kind, Role
from liveroom.tickets import User
from tests.ingress.harness import settings_of

DANMAKU = BY_KIND[Kind.DANMAKU]


def turn(limits: RateLimits, user: str, now_s: float, count: int = 1) -> Code | None:
    """Speak in a room with a slow mode of 30 s; return the refusal."""
    try:
        assert limits.take_turn(30, [DANMAKU] * count, "r", User(user), now_s)
    except ProblemError as problem:
        return problem.code
    return None


def test_slow_mode_is_a_users_own_and_ends() -> None:
    limits = RateLimits({})
    assert [turn(limits, "u", now_s) for now_s in (0, 29.9, 30)] == [None, Code.SLOW_MODE, None]
    assert turn(limits, "v", 30) is None
    limits.give_back_turn("r", User("v"))
    assert turn(limits, "v", 31) is None, "what was not written does not count"
    assert turn(limits, "x", 31, count=2) is Code.SLOW_MODE
    for number in range(5000):
        assert turn(limits, f"w{number}", 100 + number) is None
    assert len(limits._slow._again_s) < 3000


def test_no_turn_is_taken_where_no_slow_mode_holds() -> None:
    limits = RateLimits({})
    assert not limits.take_turn(0, [DANMAKU], "r", User("u"), 0)
    assert not limits.take_turn(30, [BY_KIND[Kind.GIFT]], "r", User("u"), 0)
    assert not limits.take_turn(30, [DANMAKU], "r", User("m", Role.MODERATOR), 0)


def taken(limits: RateLimits, kind: Kind, user: User, room: str = "r") -> Code | None:
    """Send one at the second 0; return the refusal."""
    try:
        limits.take(kind.value, room, user, 0)
    except ProblemError as problem:
        return problem.code
    return None


def test_rates_are_by_kind_user_and_room() -> None:
    limits = RateLimits({"danmaku": Rate(1, 2, 2), "gift": Rate(1, 1)})
    assert [taken(limits, Kind.DANMAKU, User("u")) for _ in range(3)] == [None, None, Code.RATE_USER]
    assert [taken(limits, Kind.DANMAKU, User(f"v{number}")) for number in range(3)] == [None, None, Code.RATE_ROOM]
    assert taken(limits, Kind.DANMAKU, User("v9"), room="other") is None
    assert taken(limits, Kind.DANMAKU, User("s", Role.SERVICE), room="other") is None
    assert [taken(limits, Kind.GIFT, User("u")) for _ in range(2)] == [None, Code.RATE_USER]


def test_every_kind_has_a_rate_unless_it_is_set_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVEROOM_RATES")
    rates = rates_of(settings_of(rates={"gift": {"user_per_s": 7}}))
    assert set(rates) == {interaction.kind.value for interaction in INTERACTIONS} | {"package", "act"}
    assert rates["gift"].user_per_s == 7
    assert all(rate.user_per_s > 0 for rate in rates.values())


def test_the_last_of_so_many_offences_within_the_time_is_told() -> None:
    offences = Offences(3, 10)
    assert [offences.add(("r", "u"), now_s) for now_s in (0, 1, 11.5, 12, 12.5)] == [False, False, False, False, True]
    assert [offences.add(("r", "u"), now_s) for now_s in (13, 14, 15)] == [False, False, True], "then it begins anew"
    assert not any(offences.add(("r", "v"), now_s) for now_s in (16, 17))
    assert not any(Offences(0, 10).add(("r", "u"), now_s) for now_s in range(100))


def test_offences_of_long_ago_are_forgotten() -> None:
    offences = Offences(3, 10)
    for number in range(1000):
        offences.add((f"u{number}",), number)
    assert len(offences._at) < 30
