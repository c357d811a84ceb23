"""Checks interactions against the state of their room: dissolved, bans, mutes, modes. Pure.

Owns the order of these checks. Refuses with `ProblemError`. Called for every interaction; how fast
a user may send is up to `rate_limits` and `slow_mode`.
"""

from ingress.permissions import FREE, Interaction, Restriction
from liveroom.errors import Code, ProblemError
from liveroom.moderation import NO_MODES, Rules, binds, refusal_by_modes
from liveroom.records.control import Moderation
from liveroom.records.snapshot import RoomSettings
from liveroom.tickets import User


class RoomPolicy:
    """The checks of interactions by the moderation rules."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def check(self, interaction: Interaction, room: str, user: User, now_ms: int) -> None:
        """Refuse what a mode, a ban or a mute forbids, and everything until the rules are read."""
        rules, stops, role = self._rules, interaction.stopped_by, user.role
        if not rules.are_read:
            raise ProblemError(Code.NOT_READY, "mutes and bans are not read yet", retry_after_s=1)
        settings = rules.modes.get(room, NO_MODES)
        if settings.dissolved:
            raise ProblemError(Code.ROOM_DISSOLVED)
        if (why := refusal_by_modes(settings, room, role, user.rooms)) is not None:
            raise ProblemError(Code.FORBIDDEN, why)
        self._check_ban(room, user, now_ms)
        if Restriction.MUTED in stops:
            self._check_mute(room, user, now_ms)
        if settings is not NO_MODES and role not in FREE and Restriction.ROOM_MUTED in stops:
            _check_modes(settings, stops, user)

    def check_host(self, room: str, user: User, now_ms: int) -> None:
        """Refuse commands of a host that is banned or muted, and all until the rules are read.

        `room`: where the command is about all rooms, `EVERYWHERE`.
        """
        if not self._rules.are_read:
            raise ProblemError(Code.NOT_READY, "mutes and bans are not read yet", retry_after_s=1)
        self._check_ban(room, user, now_ms)
        self._check_mute(room, user, now_ms)

    def _check_ban(self, room: str, user: User, now_ms: int) -> None:
        rule = self._rules.banned(room, user.id, now_ms)
        if rule is not None and binds(rule, user.role):
            raise ProblemError(Code.BANNED, rule.why, _left_s(rule, now_ms), until_ms=rule.until_ms)

    def _check_mute(self, room: str, user: User, now_ms: int) -> None:
        rule = self._rules.muted(room, user.id, now_ms)
        if rule is not None and binds(rule, user.role):
            raise ProblemError(Code.MUTED, rule.why, _left_s(rule, now_ms), until_ms=rule.until_ms)


def _check_modes(settings: RoomSettings, stops: frozenset[Restriction], user: User) -> None:
    if settings.muted_all and user.id not in settings.allow:
        raise ProblemError(Code.ROOM_MUTED)
    if settings.subscribers_only and not user.subscriber:
        raise ProblemError(Code.SUBSCRIBERS_ONLY)
    if settings.followers_only and not (user.follower or user.subscriber):
        raise ProblemError(Code.FOLLOWERS_ONLY)
    if settings.no_media and Restriction.NO_MEDIA in stops:
        raise ProblemError(Code.NO_MEDIA)


def _left_s(rule: Moderation, now_ms: int) -> float | None:
    """Return in how many seconds a mute or ban ends, or None for one without an end."""
    return (rule.until_ms - now_ms) / 1000 if rule.until_ms > 0 else None
