"""Slow mode: the shortest pause between two messages of a user in a room. Pure.

Owns the turns of one ingress: each ingress counts only the messages that came to it. Refuses with
`slow_mode`. Called by `admission` after the rate limits; a turn whose message was not written is
given back.
"""

from collections.abc import Sequence
from typing import Final

from ingress.permissions import FREE, Interaction, Restriction
from liveroom.errors import Code, ProblemError
from liveroom.limits import MAX_NAMES, drop_oldest
from liveroom.moderation import Rules
from liveroom.tickets import User

_FEW: Final = 1024


class SlowMode:
    """The turns of users to speak in rooms that `rules` put in slow mode, the newest `most`."""

    def __init__(self, rules: Rules, most: int = MAX_NAMES) -> None:
        self._rules = rules
        self._again_s: dict[tuple[str, str], float] = {}
        self._most = most
        self._sweep_at = min(most, _FEW)

    def __len__(self) -> int:
        return len(self._again_s)

    def take_turn(self, interactions: Sequence[Interaction], room: str, user: User, now_s: float) -> bool:
        """Take the user's turn to speak; refuse while it has none.

        Returns whether a turn was taken, which the caller gives back if nothing is written. Hosts,
        services, rooms without slow mode and interactions other than speech take no turn.
        """
        settings = self._rules.modes.get(room)
        if settings is None or not settings.slow_s or user.role in FREE:
            return False
        speech = sum(Restriction.SLOW in interaction.stopped_by for interaction in interactions)
        if not speech:
            return False
        if wait_s := max(0.0, self._again_s.get((room, user.id), now_s) - now_s):
            raise ProblemError(Code.SLOW_MODE, retry_after_s=wait_s)
        if speech > 1:
            raise ProblemError(Code.SLOW_MODE, "one message at a time")
        self._again_s[room, user.id] = now_s + settings.slow_s
        if len(self._again_s) > self._sweep_at:
            self._sweep(now_s)
        return True

    def give_back_turn(self, room: str, user: User) -> None:
        """Let the user speak again at once: its message was not written."""
        self._again_s.pop((room, user.id), None)

    def _sweep(self, now_s: float) -> None:
        self._again_s = {key: at_s for key, at_s in self._again_s.items() if at_s > now_s}
        drop_oldest(self._again_s, self._most * 3 // 4)  # or soon every turn would sweep
        self._sweep_at = min(self._most, max(_FEW, 2 * len(self._again_s)))
