"""Whether a room, as it is, takes what a user sends now: modes, mutes, bans, rates. Pure.

Owns the order in which these forbid. Refuses with `ProblemError`; a refused one costs nothing of the slow mode, and does of the
rates. Called for every interaction.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ingress.actions import FREE, Interaction, State
from liveroom.errors import Code, ProblemError
from liveroom.kinds import UNTOUCHABLE, Role
from liveroom.limits import Buckets
from liveroom.moderation import NO_MODES, Rules
from liveroom.records import Moderation, RoomSettings
from liveroom.tickets import User

_FEW: Final = 1024


class Rate(NamedTuple):
    """How fast one kind may be sent, by one user and in one room. Rates are a second; 0: as fast as one likes."""

    user_per_s: float
    user_burst: float
    room_per_s: float = 0.0


class _Kind:
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


class Gate:
    """The rules and rates of one ingress. A rate counts what came to this ingress alone."""

    def __init__(self, rules: Rules, rates: Mapping[str, Rate]) -> None:
        self.rules = rules
        self._kinds = {name: _Kind(rate) for name, rate in rates.items()}
        self._slow = SlowMode()

    def check_states(self, interaction: Interaction, room: str, user: User, now_ms: int) -> None:
        """Refuse what the room's modes, a ban or a mute forbid."""
        rules, stops, role = self.rules, interaction.stopped_by, user.role
        if not rules.are_read:
            raise ProblemError(Code.NOT_READY, "mutes and bans are not read yet", retry_after_s=1)
        settings = rules.modes.get(room, NO_MODES)
        if settings.dissolved:
            raise ProblemError(Code.ROOM_DISSOLVED)
        if role not in UNTOUCHABLE:
            if (rule := rules.banned(room, user.id, now_ms)) is not None:
                raise ProblemError(Code.BANNED, rule.why, _until_s(rule, now_ms), until_ms=rule.until_ms)
            if State.MUTED in stops and (rule := rules.muted(room, user.id, now_ms)) is not None:
                raise ProblemError(Code.MUTED, rule.why, _until_s(rule, now_ms), until_ms=rule.until_ms)
        if settings is not NO_MODES and role not in FREE and State.ROOM_MUTED in stops:
            _check_modes(settings, stops, user)

    def check_rates(self, name: str, room: str, user: User, now_s: float, cost: float = 1.0) -> None:
        """Refuse what comes too fast."""
        kind = self._kinds.get(name)
        if kind is None or user.role is Role.SERVICE:
            return
        if kind.users is not None and (wait_s := kind.users.take(user.id, now_s, cost)):
            raise ProblemError(Code.RATE_USER, retry_after_s=wait_s)
        if kind.rooms is not None and (wait_s := kind.rooms.take(room, now_s, cost)):
            raise ProblemError(Code.RATE_ROOM, retry_after_s=wait_s)

    def take_turn(self, interactions: Sequence[Interaction], room: str, user: User, now_s: float) -> bool:
        """Refuse who spoke a moment ago where the room is in slow mode; else let the user wait from now on, and say so."""
        slow_s = self.rules.modes[room].slow_s if room in self.rules.modes else 0
        if not slow_s or user.role in FREE:
            return False
        speech = sum(State.SLOW in interaction.stopped_by for interaction in interactions)
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


def _check_modes(settings: RoomSettings, stops: frozenset[State], user: User) -> None:
    if settings.muted_all and user.id not in settings.allow:
        raise ProblemError(Code.ROOM_MUTED)
    if settings.subscribers_only and not user.subscriber:
        raise ProblemError(Code.SUBSCRIBERS_ONLY)
    if settings.followers_only and not (user.follower or user.subscriber):
        raise ProblemError(Code.FOLLOWERS_ONLY)
    if settings.no_media and State.NO_MEDIA in stops:
        raise ProblemError(Code.NO_MEDIA)


def _until_s(rule: Moderation, now_ms: int) -> float | None:
    return (rule.until_ms - now_ms) / 1000 if rule.until_ms > 0 else None
