"""How much one user and one address may pull, over all tokens and connections."""

from typing import Any

import pytest

from edge.pull_limits import PullLimit, PullLimitError, PullLimits
from liveroom.budgets import Scope, Spent
from liveroom.errors import Code
from liveroom.settings import EdgeSettings


def limits_of(**changes: Any) -> PullLimits:
    return PullLimits(EdgeSettings(instance="e", ticket_keys={"k": "a" * 32}, **changes))


def refused(limits: PullLimits, user: str, address: str, now_s: float = 0.0) -> PullLimit | None:
    try:
        limits.take(user, address, now_s)
    except PullLimitError as problem:
        return problem.limit
    return None


@pytest.mark.parametrize(("limit", "code"), [("user_pulls", Code.RATE_USER), ("address_bytes", Code.RATE_ADDRESS)])
def test_a_refusal_has_a_stable_code_and_a_time_to_wait(limit: str, code: Code) -> None:
    problem = PullLimitError(PullLimit(limit), Spent(Scope(limit.partition("_")[0]), 2.5))
    assert (problem.status, problem.code, problem.retry_after_s) == (429, code, 2.5)


def test_a_user_pulls_so_often_from_wherever_and_no_other_one_pays_for_it() -> None:
    limits = limits_of(user_pulls_per_s=2, user_pulls_burst=3)
    assert [refused(limits, "u", address) for address in "abcd"] == [None, None, None, PullLimit.USER_PULLS]
    assert refused(limits, "v", "a") is None
    assert refused(limits, "u", "a", 0.5) is None


def test_an_address_pulls_so_often_for_all_its_users_and_a_refused_pull_costs_nobody() -> None:
    limits = limits_of(address_pulls_per_s=1, address_pulls_burst=2)
    assert [refused(limits, user, "a") for user in "uvw"] == [None, None, PullLimit.ADDRESS_PULLS]
    for _ in range(100):
        assert refused(limits, "u", "a") is PullLimit.ADDRESS_PULLS
    assert [refused(limits, "u", address) for address in "bcd"] == [None, None, None]


def test_bytes_beyond_a_budget_are_paid_before_the_next_pull() -> None:
    limits = limits_of(user_pull_bytes_per_min=6000, address_pull_bytes_per_min=60_000)
    assert refused(limits, "u", "a") is None
    limits.charge("u", "a", 5000, 0)
    assert refused(limits, "u", "a") is None
    limits.charge("u", "a", 4000, 0)
    assert refused(limits, "u", "a", 29) is PullLimit.USER_BYTES
    assert refused(limits, "u", "a", 31) is None
    assert refused(limits, "v", "a", 31) is None
    limits.charge("v", "a", 70_000, 31)
    assert refused(limits, "w", "a", 31) is PullLimit.ADDRESS_BYTES


def test_addresses_are_not_limited_where_the_settings_say_so() -> None:
    limits = limits_of(address_pulls_per_s=0, address_pull_bytes_per_min=0)
    for number in range(5000):
        assert refused(limits, f"u{number}", "a") is None
        limits.charge(f"u{number}", "a", 512 * 1024, 0)
