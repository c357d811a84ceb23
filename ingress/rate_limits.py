"""Rate limits: the rates of each kind, for each user and each room. Pure.

Owns the buckets of one ingress: each ingress counts only the requests that came to it. Refuses
with `rate_user` and `rate_room`. A refused interaction uses up its share of the rates all the same.
Called for every interaction and every command.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from ingress.requests import SEND_ROUTES
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.limits import Buckets
from liveroom.settings import OTHER_RATE, USUAL_RATES, IngressSettings
from liveroom.tickets import User

COMMANDS: Final = "act"  # the rate of commands, as settings name it


class Rate(NamedTuple):
    """The limits of one kind, a second, for one user and for one room; 0: without a limit."""

    user_per_s: float
    user_burst: float
    room_per_s: float = 0.0


def rates_of(settings: IngressSettings) -> dict[str, Rate]:
    """Return the rates by name: every kind's, `package` and `act`."""
    names = [*(route.name for route in SEND_ROUTES), COMMANDS]
    chosen = {name: settings.rates.get(name) or USUAL_RATES.get(name) or OTHER_RATE for name in names}
    return {name: Rate(rate.user_per_s, rate.user_burst, rate.room_per_s) for name, rate in chosen.items()}


class _KindBuckets:
    """The buckets of one kind."""

    __slots__ = ("rooms", "users")

    def __init__(self, rate: Rate) -> None:
        self.users = Buckets(rate.user_per_s, rate.user_burst) if rate.user_per_s else None
        self.rooms = Buckets(rate.room_per_s, rate.room_per_s * 2) if rate.room_per_s else None


class RateLimits:
    """The rates of one ingress by name: each kind's, those of packages and of commands."""

    def __init__(self, rates: Mapping[str, Rate]) -> None:
        self._kinds = {name: _KindBuckets(rate) for name, rate in rates.items()}

    def __len__(self) -> int:
        tables = [table for kind in self._kinds.values() for table in (kind.users, kind.rooms) if table is not None]
        return sum(map(len, tables))

    def take(self, name: str, room: str, user: User, now_s: float, cost: float = 1.0) -> None:
        """Take `cost` from the user's rate and from the room's; refuse where one has less left.

        Services have no limit.
        """
        kind = self._kinds.get(name)
        if kind is None or user.role is Role.SERVICE:
            return
        if kind.users is not None and (wait_s := kind.users.take(user.id, now_s, cost)):
            raise ProblemError(Code.RATE_USER, retry_after_s=wait_s)
        if kind.rooms is not None and (wait_s := kind.rooms.take(room, now_s, cost)):
            raise ProblemError(Code.RATE_ROOM, retry_after_s=wait_s)
