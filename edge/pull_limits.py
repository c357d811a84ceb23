"""How much one user and one address may pull. Pure.

Owns four budgets: pulls and bytes of answers, each by user and by address, over all tokens, tickets
and connections. An address is that of one subscriber, for IPv6 its /64. `edge.pulls` asks before
each pull and charges its answer.
"""

from enum import StrEnum
from typing import Final

from liveroom.errors import Code, ProblemError
from liveroom.limits import Buckets
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

    def __init__(self, limit: PullLimit, wait_s: float) -> None:
        code = Code.RATE_USER if limit in {PullLimit.USER_PULLS, PullLimit.USER_BYTES} else Code.RATE_ADDRESS
        super().__init__(code, _DETAILS[limit], retry_after_s=wait_s)
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
        self._user_pulls = Buckets(settings.user_pulls_per_s, settings.user_pulls_burst)
        self._user_bytes = _by_minute(settings.user_pull_bytes_per_min)
        self._address_pulls = (
            Buckets(settings.address_pulls_per_s, settings.address_pulls_burst) if settings.address_pulls_per_s else None
        )
        self._address_bytes = _by_minute(settings.address_pull_bytes_per_min) if settings.address_pull_bytes_per_min else None

    def take(self, user: str, address: str, now_s: float) -> None:
        """Take one pull out of the budgets of a user and its address.

        A refused pull takes nothing. Raises PullLimitError.
        """
        for limit, buckets, key in (
            (PullLimit.USER_PULLS, self._user_pulls, user),
            (PullLimit.USER_BYTES, self._user_bytes, user),
            (PullLimit.ADDRESS_PULLS, self._address_pulls, address),
            (PullLimit.ADDRESS_BYTES, self._address_bytes, address),
        ):
            if buckets is not None and (wait_s := buckets.wait_s(key, now_s)):
                raise PullLimitError(limit, wait_s)
        self._user_pulls.charge(user, now_s, 1)
        if self._address_pulls is not None:
            self._address_pulls.charge(address, now_s, 1)

    def charge(self, user: str, address: str, size: int, now_s: float) -> None:
        """Charge an answer of `size` bytes, which was not known before it was made.

        A budget may fall below nothing by as much as the pulls under way bring; then it takes so
        much longer to fill again.
        """
        self._user_bytes.charge(user, now_s, size)
        if self._address_bytes is not None:
            self._address_bytes.charge(address, now_s, size)


def _by_minute(size: int) -> Buckets:
    return Buckets(size / _PER_MINUTE_S, size)
