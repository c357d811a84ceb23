"""Budgets of callers: how often each may do something, and how much each may hold at once. Pure.

A limit that counts connections, tokens or tickets stops nobody who opens more of them. So whatever
a caller can repeat is counted by its user and by its address, over all that the two have. A user's
budget is low. An address's budget is high, because a school or a mobile network may share one. An
address is that of one subscriber (`liveroom.networks.subscriber`): of IPv6 its /64.

`Rates` bounds how often, `Holdings` how much at once. Both answer with the `Scope` whose budget is
used up, which is the reason that a service counts and reports. `Failures` bounds attempts that
fail. The ingress (requests, bad tokens), the scheduler (entries, bad tokens) and the gateway
(connections, joins, pulls, bad tickets) use them.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from liveroom.errors import Code, ProblemError
from liveroom.limits import MAX_NAMES, Buckets


class Scope(StrEnum):
    """Whose budget it is."""

    CONNECTION = "connection"
    USER = "user"
    ADDRESS = "address"


CODES: Final[Mapping[Scope, Code]] = {
    Scope.CONNECTION: Code.RATE_USER,
    Scope.USER: Code.RATE_USER,
    Scope.ADDRESS: Code.RATE_ADDRESS,
}


class Caller(NamedTuple):
    """The keys under which a request or a frame is counted, in the order of `Scope`.

    `connection`: any name that no other connection has. An empty key is counted nowhere.
    """

    connection: str = ""
    user: str = ""
    address: str = ""


class Rate(NamedTuple):
    """On average `per_s` times a second, and at most `burst` at once. 0 a second: no limit."""

    per_s: float
    burst: float


class Spent(NamedTuple):
    """A budget that is used up, and the seconds until it has enough again."""

    scope: Scope
    wait_s: float

    @property
    def code(self) -> Code:
        """The error code of a refusal."""
        return CODES[self.scope]


NO_LIMIT: Final = Rate(0, 1)


class Rates:
    """How often callers do one thing.

    Keeps at most `most` names of each scope. More of them make limits milder (`liveroom.limits`).
    """

    def __init__(
        self, *, user: Rate = NO_LIMIT, address: Rate = NO_LIMIT, connection: Rate = NO_LIMIT, most: int = MAX_NAMES
    ) -> None:
        rates = zip(Scope, (connection, user, address), strict=True)
        self._buckets = [
            (index, scope, Buckets(rate.per_s, rate.burst, most)) for index, (scope, rate) in enumerate(rates) if rate.per_s
        ]

    def __len__(self) -> int:
        return sum(len(buckets) for _, _, buckets in self._buckets)

    def spent(self, caller: Caller, now_s: float, cost: float = 1.0) -> Spent | None:
        """Return the first budget that has less than `cost` now; None where all have it.

        A cost above a burst waits for a full budget.
        """
        for index, scope, buckets in self._buckets:
            if caller[index] and (wait_s := buckets.wait_s(caller[index], now_s, cost)):
                return Spent(scope, wait_s)
        return None

    def charge(self, caller: Caller, now_s: float, cost: float = 1.0) -> None:
        """Take `cost` from all budgets of a caller, also where one has less.

        Such a budget takes so much longer to fill.
        """
        for index, _, buckets in self._buckets:
            if caller[index]:
                buckets.charge(caller[index], now_s, cost)

    def take(self, caller: Caller, now_s: float, cost: float = 1.0) -> Spent | None:
        """Take `cost` from all budgets of a caller, or from none: then return the one that lacks
        it.
        """
        spent = self.spent(caller, now_s, cost)
        if spent is None:
            self.charge(caller, now_s, cost)
        return spent


class Failures:
    """How many attempts of an address may fail, such as tokens or tickets that are not valid.

    To verify a signature costs 50 to 100 µs, before anybody is known. Only failures are charged to
    this budget, so it takes nothing from those who do not fail. `what` names the attempts in the
    texts of refusals. `on_refusal` is called for each refusal.
    """

    def __init__(self, rate: Rate, what: str, on_refusal: Callable[[], None]) -> None:
        self._rates = Rates(address=rate)
        self._what = what
        self._on_refusal = on_refusal

    def __len__(self) -> int:
        return len(self._rates)

    def used_up(self, address: str, now_s: float) -> bool:
        """Return whether the address has no failure left."""
        return self._rates.spent(Caller(address=address), now_s) is not None

    def check(self, address: str, now_s: float) -> None:
        """Raise `ProblemError` (rate_address) where the address has no failure left."""
        if (spent := self._rates.spent(Caller(address=address), now_s)) is not None:
            self._on_refusal()
            text = f"too many {self._what} from this address are not valid"
            raise ProblemError(spent.code, text, retry_after_s=spent.wait_s)

    def charge(self, address: str, now_s: float) -> None:
        """Count a failure. The caller has checked that there is one left."""
        self._rates.charge(Caller(address=address), now_s)


class Holdings:
    """How many of one thing the users and addresses hold now. A limit of 0: no limit.

    Only those that hold something are kept, so the caller bounds the number of names by the number
    of things.
    """

    def __init__(self, *, user: int, address: int) -> None:
        self._limited = [
            (index, scope, most, dict[str, int]())
            for index, scope, most in ((1, Scope.USER, user), (2, Scope.ADDRESS, address))
            if most
        ]

    def full(self, caller: Caller) -> Scope | None:
        """Return whose limit is reached; None where the caller may hold one more."""
        for index, scope, most, held in self._limited:
            if caller[index] and held.get(caller[index], 0) >= most:
                return scope
        return None

    def add(self, caller: Caller) -> None:
        """Count one more. The caller of this method removes it once, with the same keys."""
        for index, _, _, held in self._limited:
            if caller[index]:
                held[caller[index]] = held.get(caller[index], 0) + 1

    def remove(self, caller: Caller) -> None:
        """Count one less."""
        for index, _, _, held in self._limited:
            if not (key := caller[index]):
                continue
            held[key] -= 1
            if not held[key]:
                del held[key]
