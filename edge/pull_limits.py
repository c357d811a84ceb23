"""How much one user and one address may pull. Pure.

Owns four budgets: pulls and bytes of answers, each by user and by address, over all tokens, tickets
and connections. An address is that of one subscriber, for IPv6 its /64. `edge.pulls` asks before
each pull and charges its answer.
"""

from enum import StrEnum
from typing import Final

from liveroom.budgets import Caller, Rate, Rates, Spent
from liveroom.errors import ProblemError
from liveroom.settings import EdgeSettings

_PER_MINUTE_S: Final = 60.0


class PullLimit(StrEnum):
    """The budget that is used up."""

    USER_PULLS = "user_pulls"
    USER_BYTES = "user_bytes"
    ADDRESS_PULLS = "address_pulls"
    ADDRESS_BYTES = "address_bytes"


class PullLimitError(ProblemError):
    """A refused pull. `limit`: the budget that is used up."""

    def __init__(self, limit: PullLimit, spent: Spent) -> None:
        super().__init__(spent.code, _DETAILS[limit], retry_after_s=spent.wait_s)
        self.limit = limit


_DETAILS: Final = {
    PullLimit.USER_PULLS: "too many pulls of this user, on all its devices",
    PullLimit.USER_BYTES: "the answers to this user's pulls, on all its devices, are too large for one minute",
    PullLimit.ADDRESS_PULLS: "too many pulls from this address",
    PullLimit.ADDRESS_BYTES: "the answers to pulls from this address are too large for one minute",
}


class PullLimits:
    """The budgets of one gateway."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._pulls = Rates(
            user=Rate(settings.user_pulls_per_s, settings.user_pulls_burst),
            address=Rate(settings.address_pulls_per_s, settings.address_pulls_burst),
        )
        self._bytes = Rates(
            user=_by_minute(settings.user_pull_bytes_per_min), address=_by_minute(settings.address_pull_bytes_per_min)
        )

    def take(self, user: str, address: str, now_s: float) -> None:
        """Take one pull out of the budgets of a user and its address.

        A refused pull takes nothing. Raises PullLimitError.
        """
        caller = Caller(user=user, address=address)
        for what, rates in (("pulls", self._pulls), ("bytes", self._bytes)):
            if (spent := rates.spent(caller, now_s)) is not None:
                raise PullLimitError(PullLimit(f"{spent.scope}_{what}"), spent)
        self._pulls.charge(caller, now_s)

    def charge(self, user: str, address: str, size: int, now_s: float) -> None:
        """Charge an answer of `size` bytes, which was not known before it was made.

        A budget may fall below nothing by as much as the pulls under way bring; then it takes so
        much longer to fill again.
        """
        self._bytes.charge(Caller(user=user, address=address), now_s, size)


def _by_minute(size: int) -> Rate:
    return Rate(size / _PER_MINUTE_S, size)
