"""Bearer tokens of requests, of which only so many may fail from one address. Pure.

While an address has used up its failures, tokens that were verified before still pass, and the
budgets of valid requests are untouched. A request without any token costs no work, so it is charged
nothing. Called by ingress and scheduler.
"""

from typing import Final

from liveroom.budgets import Failures
from liveroom.errors import Code, ProblemError
from liveroom.tickets import User
from liveroom.tokens import Verifier

_FREE: Final = frozenset({Code.TOKEN_MISSING, Code.NOT_READY})


class Authentication:
    """Verifies the tokens of requests. `failures`: the budget of bad ones."""

    def __init__(self, verifier: Verifier, failures: Failures) -> None:
        self._verifier = verifier
        self._failures = failures

    def __len__(self) -> int:
        return len(self._failures)

    def user(self, authorization: str | None, address: str, now_s: float, unix_s: float) -> User:
        """Return the user of the token in an `Authorization` header.

        `address`: the subscriber's, which a failure is charged to. `now_s`: seconds of any clock.
        `unix_s`: Unix time. Raises `ProblemError`: as `Verifier.bearer`, and rate_address for a
        token that is not known to be valid while the address has used up its failures.
        """
        has_failures = authorization is None or not self._failures.used_up(address, now_s)
        if not has_failures and not self._verifier.knows(authorization, unix_s):
            self._failures.check(address, now_s)
        try:
            return self._verifier.bearer(authorization, unix_s)
        except ProblemError as problem:
            if has_failures and problem.code not in _FREE:
                self._failures.charge(address, now_s)
            raise
