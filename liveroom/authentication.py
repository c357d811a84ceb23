"""Bearer tokens of requests, and how many may fail from one address. Pure.

To verify a signature costs 50 us, so failures have a budget by address. Only they are charged to
it: while an address has used it up, tokens that were verified before still pass, and the budgets of
valid requests are untouched. A request without any token costs no work, so it is charged nothing.
Called by ingress and scheduler.
"""

from collections.abc import Callable
from typing import Final

from liveroom.budgets import Caller, Rate, Rates
from liveroom.errors import Code, ProblemError
from liveroom.tickets import User
from liveroom.tokens import Verifier

_FREE: Final = frozenset({Code.TOKEN_MISSING, Code.NOT_READY})


class Authentication:
    """Verifies the tokens of requests. `failures`: how many may fail from one address.

    `on_refusal` is called for each request that is refused unverified.
    """

    def __init__(self, verifier: Verifier, failures: Rate, on_refusal: Callable[[], None]) -> None:
        self._verifier = verifier
        self._failures = Rates(address=failures)
        self._on_refusal = on_refusal

    def __len__(self) -> int:
        return len(self._failures)

    def user(self, authorization: str | None, address: str, now_s: float, unix_s: float) -> User:
        """Return the user of the token in an `Authorization` header.

        `address`: the subscriber's, which a failure is charged to. `now_s`: seconds of any clock.
        `unix_s`: Unix time. Raises `ProblemError`: as `Verifier.bearer`, and rate_address for a
        token that is not known to be valid while the address has used up its failures.
        """
        caller = Caller(address=address)
        spent = self._failures.spent(caller, now_s) if authorization is not None else None
        if spent is not None and not self._verifier.knows(authorization, unix_s):
            self._on_refusal()
            raise ProblemError(spent.code, "too many bad tokens from this address", retry_after_s=spent.wait_s)
        try:
            return self._verifier.bearer(authorization, unix_s)
        except ProblemError as problem:
            if spent is None and problem.code not in _FREE:
                self._failures.charge(caller, now_s)
            raise
