"""Budgets of requests: how many one user and one address may send, of all kinds together. Pure.

`rate_limits` bounds each kind, once a request is known to be good. These budgets come before, so
they bound the work on bad requests too: tokens that are forged, bodies that are no JSON. They count
all connections and tokens. Services have none. `app` takes from the address before it verifies a
token, and then from the user.
"""

from collections.abc import Callable
from enum import StrEnum

from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.limits import Buckets
from liveroom.settings import IngressSettings
from liveroom.tickets import User


class RequestLimit(StrEnum):
    """The budget that is used up."""

    USER = "user_requests"
    ADDRESS = "address_requests"


class RequestLimits:
    """The budgets of one ingress. `on_refusal` is called with the budget of each refusal."""

    def __init__(self, settings: IngressSettings, on_refusal: Callable[[RequestLimit], None]) -> None:
        self._on_refusal = on_refusal
        self._users = _buckets(settings.user_requests_per_s, settings.user_requests_burst)
        self._addresses = _buckets(settings.address_requests_per_s, settings.address_requests_burst)

    def __len__(self) -> int:
        return sum(len(buckets) for buckets in (self._users, self._addresses) if buckets is not None)

    def take_address(self, address: str, now_s: float) -> None:
        """Take a request from the budget of its address; raises `ProblemError` (rate_address)."""
        if self._addresses is not None and (wait_s := self._addresses.take(address, now_s)):
            self._on_refusal(RequestLimit.ADDRESS)
            raise ProblemError(Code.RATE_ADDRESS, "too many requests from this address", retry_after_s=wait_s)

    def take_user(self, user: User, address: str, now_s: float) -> None:
        """Take a request, which `take_address` let pass, from the budget of its user.

        Raises `ProblemError` (rate_user). A service has no budget, and its address gets the request
        back.
        """
        if user.role is Role.SERVICE:
            if self._addresses is not None:
                self._addresses.charge(address, now_s, -1)
        elif self._users is not None and (wait_s := self._users.take(user.id, now_s)):
            self._on_refusal(RequestLimit.USER)
            raise ProblemError(Code.RATE_USER, "too many requests of this user, on all its devices", retry_after_s=wait_s)


def _buckets(per_s: float, burst: float) -> Buckets | None:
    return Buckets(per_s, burst) if per_s else None
