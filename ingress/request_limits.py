"""Budgets of requests: how many one user and one address may send, of all kinds together. Pure.

`rate_limits` bounds each kind, once a request is known to be good. These budgets come before, so
they bound the work on bad requests too: tokens that are forged, bodies that are no JSON. They count
all connections and tokens. Services have none. `app` asks before it verifies a token, and charges
when it knows the user.
"""

from enum import StrEnum
from typing import Final

from liveroom.budgets import NO_LIMIT, Caller, Rate, Rates, Spent
from liveroom.errors import ProblemError
from liveroom.kinds import Role
from liveroom.settings import IngressSettings
from liveroom.tickets import User


class RequestLimit(StrEnum):
    """The budget that is used up."""

    USER = "user_requests"
    ADDRESS = "address_requests"


class RequestLimitError(ProblemError):
    """A refused request. `limit`: the budget that is used up."""

    def __init__(self, limit: RequestLimit, spent: Spent) -> None:
        super().__init__(spent.code, _DETAILS[limit], retry_after_s=spent.wait_s)
        self.limit = limit


_DETAILS: Final = {
    RequestLimit.USER: "too many requests of this user, on all its devices",
    RequestLimit.ADDRESS: "too many requests from this address",
}


class RequestLimits:
    """The budgets of one ingress."""

    def __init__(self, settings: IngressSettings) -> None:
        self._users = Rates(user=Rate(settings.user_requests_per_s, settings.user_requests_burst), address=NO_LIMIT)
        self._addresses = Rates(user=NO_LIMIT, address=Rate(settings.address_requests_per_s, settings.address_requests_burst))

    def __len__(self) -> int:
        return len(self._users) + len(self._addresses)

    def check(self, address: str, now_s: float) -> None:
        """Refuse a request from an address that has used up its budget.

        Raises RequestLimitError.
        """
        if spent := self._addresses.spent(Caller("", "", address), now_s):
            raise RequestLimitError(RequestLimit.ADDRESS, spent)

    def charge(self, address: str, user: User | None, now_s: float) -> None:
        """Charge a request that `check` let pass; None: nobody that is known sent it.

        Raises RequestLimitError where its user has used up the own budget; then the request is
        charged to the address all the same.
        """
        if user is not None and user.role is Role.SERVICE:
            return
        self._addresses.charge(Caller("", "", address), now_s)
        if user is not None and (spent := self._users.take(Caller("", user.id, ""), now_s)):
            raise RequestLimitError(RequestLimit.USER, spent)
