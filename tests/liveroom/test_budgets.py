"""Budgets of users, addresses and connections."""

from random import Random

from liveroom.budgets import Caller, Holdings, Rate, Rates, Scope, Spent
from liveroom.errors import Code

FREE = Rate(0, 1)


def caller(user: str = "u", address: str = "a", connection: str = "c") -> Caller:
    return Caller(connection=connection, user=user, address=address)


def test_a_budget_counts_over_all_that_a_user_and_an_address_have() -> None:
    rates = Rates(connection=Rate(1, 2), user=Rate(1, 3), address=Rate(1, 5))
    taken = [rates.take(caller(connection=each), 0) for each in ("c1", "c1", "c1", "c2", "c2")]
    assert taken == [None, None, Spent(Scope.CONNECTION, 1), None, Spent(Scope.USER, 1)]
    others = [rates.take(caller(user, connection=user), 0) for user in ("v", "w", "x")]
    assert others == [None, None, Spent(Scope.ADDRESS, 1)]
    assert rates.take(caller("x", "elsewhere", "x"), 0) is None
    assert len(rates) == 5 + 4 + 2


def test_a_refusal_takes_nothing_from_any_budget() -> None:
    rates = Rates(user=Rate(1, 1), address=Rate(1, 2))
    assert rates.take(caller("u"), 0) is None
    for _ in range(10):
        assert rates.take(caller("u"), 0) == Spent(Scope.USER, 1)
    assert rates.take(caller("v"), 0) is None, "the address has as much as before"
    assert rates.take(caller("u"), 1) is None


def test_a_rate_of_zero_limits_nobody_and_keeps_no_names() -> None:
    rates = Rates(user=FREE, address=FREE)
    assert all(rates.take(caller(f"u{number}"), 0) is None for number in range(100))
    assert not rates._buckets


def test_what_is_charged_afterwards_delays_the_next() -> None:
    rates = Rates(user=Rate(10, 100), address=FREE)
    rates.charge(caller(), 0, 150)
    assert rates.spent(caller(), 0) == Spent(Scope.USER, 5.1)
    assert rates.spent(caller(), 5.2) is None


def test_a_refusal_names_the_error_code_of_its_scope() -> None:
    codes = [Spent(scope, 1).code for scope in Scope]
    assert codes == [Code.RATE_USER, Code.RATE_USER, Code.RATE_ADDRESS]


def test_holdings_count_what_each_user_and_address_has_now() -> None:
    holdings = Holdings(user=2, address=3)
    for user in ("u", "u", "v"):
        assert holdings.full(caller(user)) is None
        holdings.add(caller(user))
    assert [holdings.full(caller("u")), holdings.full(caller("v"))] == [Scope.USER, Scope.ADDRESS]
    assert holdings.full(caller("v", "elsewhere")) is None
    holdings.remove(caller("u"))
    assert holdings.full(caller("u")) is None


def test_holdings_keep_only_those_who_hold_something() -> None:
    holdings, chance, held = Holdings(user=5, address=50), Random(1), list[Caller]()
    for number in range(1000):
        held.append(caller(f"u{number}", f"a{chance.randrange(20)}"))
        holdings.add(held[-1])
        if len(held) > 10:
            holdings.remove(held.pop(chance.randrange(10)))
    for each in held:
        holdings.remove(each)
    assert [names for *_, names in holdings._limited] == [{}, {}]


def test_holdings_without_a_limit_count_nothing() -> None:
    holdings = Holdings(user=0, address=0)
    holdings.add(caller())
    assert holdings.full(caller()) is None
    assert not holdings._limited


def test_an_empty_key_is_counted_nowhere() -> None:
    rates = Rates(user=Rate(1, 1), address=Rate(1, 1))
    holdings = Holdings(user=1, address=1)
    nobody = Caller("", "", "")
    for _ in range(3):
        assert rates.take(nobody, 0) is None
        assert holdings.full(nobody) is None
        holdings.add(nobody)
    holdings.remove(nobody)
    assert len(rates) == 0
