"""How fast a user may send, and how often it may offend: rates by user and room, slow mode,
offences. Pure.

Owns the buckets of one ingress: each counts only what came to this one. Refuses with
`ProblemError`. A refused interaction uses up its share of the rates, but the user's turn in slow
mode is given back. Called for every interaction and every command.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ingress.permissions import FREE, Interaction, Restriction
from ingress.requests import SEND_ROUTES
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.limits import Buckets
from liveroom.settings import OTHER_RATE, USUAL_RATES, IngressSettings
from liveroom.tickets import User

COMMANDS: Final = "act"  # the rate of what hosts and operators do
_FEW: Final = 1024


class Rate(NamedTuple):
    """How fast one kind may be sent, by one user and in one room.

    Rates are a second; 0: as fast as one likes.
    """

    user_per_s: float
    user_burst: float
    room_per_s: float = 0.0


def rates_of(settings: IngressSettings) -> dict[str, Rate]:
    """Return the rates by kind, `package` and `act`."""
    names = [*(route.name for route in SEND_ROUTES), COMMANDS]
    chosen = {name: settings.rates.get(name) or USUAL_RATES.get(name) or OTHER_RATE for name in names}
    return {name: Rate(rate.user_per_s, rate.user_burst, rate.room_per_s) for name, rate in chosen.items()}


class _KindBuckets:
    """The buckets of one kind."""

    __slots__ = ("rooms", "users")

    def __init__(self, rate: Rate) -> None:
        self.users = Buckets(rate.user_per_s, rate.user_burst) if rate.user_per_s else None
        self.rooms = Buckets(rate.room_per_s, rate.room_per_s * 2) if rate.room_per_s else None


class SlowMode:
    """When each user spoke last in rooms that are in slow mode."""

    def __init__(self) -> None:
        self._again_s: dict[tuple[str, str], float] = {}
        self._sweep_at = _FEW

    def wait_s(self, room: str, user: str, now_s: float) -> float:
        """Return in how many seconds the user may speak again; 0: now."""
        return max(0.0, self._again_s.get((room, user), now_s) - now_s)

    def spoke(self, room: str, user: str, slow_s: float, now_s: float) -> None:
        """Let the user wait from now on."""
        self._again_s[room, user] = now_s + slow_s
        if len(self._again_s) > self._sweep_at:
            self._again_s = {key: at_s for key, at_s in self._again_s.items() if at_s > now_s}
            self._sweep_at = max(_FEW, 2 * len(self._again_s))

    def forget(self, room: str, user: str) -> None:
        """Let the user speak again at once."""
        self._again_s.pop((room, user), None)


class RateLimits:
    """The rates of one ingress by name: each kind's, those of packages and of commands; and slow
    mode.
    """

    def __init__(self, rates: Mapping[str, Rate]) -> None:
        self._kinds = {name: _KindBuckets(rate) for name, rate in rates.items()}
        self._slow = SlowMode()

    def take(self, name: str, room: str, user: User, now_s: float, cost: float = 1.0) -> None:
        """Refuse what comes too fast."""
        kind = self._kinds.get(name)
        if kind is None or user.role is Role.SERVICE:
            return
        if kind.users is not None and (wait_s := kind.users.take(user.id, now_s, cost)):
            raise ProblemError(Code.RATE_USER, retry_after_s=wait_s)
        if kind.rooms is not None and (wait_s := kind.rooms.take(room, now_s, cost)):
            raise ProblemError(Code.RATE_ROOM, retry_after_s=wait_s)

    def take_turn(self, slow_s: float, interactions: Sequence[Interaction], room: str, user: User, now_s: float) -> bool:
        """Take the user's turn to speak in a room with a slow mode of `slow_s` (0: none); refuse
        while it has none.

        Return whether a turn was taken: it can be given back.
        """
        if not slow_s or user.role in FREE:
            return False
        speech = sum(Restriction.SLOW in interaction.stopped_by for interaction in interactions)
        if not speech:
            return False
        if wait_s := self._slow.wait_s(room, user.id, now_s):
            raise ProblemError(Code.SLOW_MODE, retry_after_s=wait_s)
        if speech > 1:
            raise ProblemError(Code.SLOW_MODE, "one message at a time")
        self._slow.spoke(room, user.id, slow_s, now_s)
        return True

    def give_back_turn(self, room: str, user: User) -> None:
        """Take back that a user spoke: it was not written."""
        self._slow.forget(room, user.id)


class Offences:
    """Counts what each one did in the last `window_s`, and says when it is `limit`; then begins
    anew. `limit` 0: never.
    """

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._at: dict[tuple[str, ...], deque[float]] = {}
        self._swept_s = 0.0

    def add(self, who: tuple[str, ...], now_s: float) -> bool:
        """Count one; say whether it is the last one."""
        if not self._limit:
            return False
        if now_s - self._swept_s > self._window_s:
            self._swept_s = now_s
            self._at = {key: at for key, at in self._at.items() if at[-1] > now_s - self._window_s}
        at = self._at.setdefault(who, deque())
        while at and at[0] <= now_s - self._window_s:
            at.popleft()
        at.append(now_s)
        if len(at) < self._limit:
            return False
        del self._at[who]
        return True
