"""Rates: what is refused, by kind, user and room."""

import pytest

from ingress.permissions import INTERACTIONS
from ingress.rate_limits import Rate, RateLimits, rates_of
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Kind, Role
from liveroom.tickets import User
from tests.ingress.harness import settings_of


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
