"""Budgets of requests: how many one user and one address may send, of all kinds together. Pure.

`rate_limits` bounds each kind, once a request is known to be good. These budgets come before, so
they bound the work on bad requests too, such as bodies that are no JSON. They count all connections
and tokens. Services have none. `app` takes from them once it knows the user: what fails before that
has budgets of its own (`liveroom.authentication`).
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from liveroom.budgets import Caller, Rate, Rates, Scope
from liveroom.errors import ProblemError
from liveroom.kinds import Role
from liveroom.settings import IngressSettings
from liveroom.tickets import User


class RequestLimit(StrEnum):
    """The budget that is used up."""

    USER = "user_requests"
    ADDRESS = "address_requests"
    ADDRESS_FAILURES = "address_failures"
    ADDRESS_DOCUMENTS = "address_documents"


_DETAILS: Final = {
    RequestLimit.USER: "too many requests of this user, on all its devices",
    RequestLimit.ADDRESS: "too many requests from this address",
    RequestLimit.ADDRESS_DOCUMENTS: "this address asks for the document too often",
}
_DOCUMENTS: Final = Rate(5, 50)


class RequestLimits:
    """The budgets of one ingress. `on_refusal` is called with the budget of each refusal."""

    def __init__(self, settings: IngressSettings, on_refusal: Callable[[RequestLimit], None]) -> None:
        self._on_refusal = on_refusal
        self._requests = Rates(
            user=Rate(settings.user_requests_per_s, settings.user_requests_burst),
            address=Rate(settings.address_requests_per_s, settings.address_requests_burst),
        )
        self._documents = Rates(address=_DOCUMENTS)

    def __len__(self) -> int:
        return len(self._requests) + len(self._documents)

    def take(self, user: User, address: str, now_s: float) -> None:
        """Take a request from the budgets of its user and its address, or from none.

        Raises `ProblemError` (rate_user, rate_address). A service has no budget.
        """
        if user.role is Role.SERVICE:
            return
        if (spent := self._requests.take(Caller(user=user.id, address=address), now_s)) is not None:
            limit = RequestLimit.USER if spent.scope is Scope.USER else RequestLimit.ADDRESS
            self._on_refusal(limit)
            raise ProblemError(spent.code, _DETAILS[limit], retry_after_s=spent.wait_s)

    def take_document(self, address: str, now_s: float) -> None:
        """Take a reading of the OpenAPI document, for which nobody needs a token.

        Raises `ProblemError` (rate_address).
        """
        if (spent := self._documents.take(Caller(address=address), now_s)) is not None:
            self._on_refusal(RequestLimit.ADDRESS_DOCUMENTS)
            raise ProblemError(spent.code, _DETAILS[RequestLimit.ADDRESS_DOCUMENTS], retry_after_s=spent.wait_s)
