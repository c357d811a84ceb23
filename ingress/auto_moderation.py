"""Automatic moderation: repeated forbidden words mute their user, and end media in their room.

Owns the counts of offences at this ingress, and bounds the commands that one user brings about:
each leaves lasting records, in whatever room the user named. Called by `admission` for every text
with words of a library. What is written is up to `moderation`, in the background: the sender does
not wait for it.
"""

from collections.abc import Coroutine
from typing import Any, Final

import structlog

from ingress.moderation import SYSTEM, CommandContext, ModerationService
from ingress.offences import Offences
from ingress.permissions import Command
from ingress.words import WordVerdict
from liveroom import clock
from liveroom.errors import ProblemError
from liveroom.kinds import Role
from liveroom.limits import Buckets
from liveroom.moderation import Rules
from liveroom.records.control import WordAction
from liveroom.records.snapshot import RoomChange
from liveroom.settings import IngressSettings
from liveroom.tasks import BackgroundTasks
from liveroom.tickets import User

MAX_OF_USER: Final = 5  # commands at once, over all rooms, and one more whenever a mute would end
_SPARED: Final = frozenset({Role.STREAMER, Role.OPERATOR, Role.SERVICE})
log = structlog.get_logger()


class AutoModeration:
    """The offences of users and rooms, and the commands that follow from them."""

    def __init__(self, settings: IngressSettings, rules: Rules, moderation: ModerationService) -> None:
        self._rules = rules
        self._moderation = moderation
        self._mute_s = settings.word_mute_s
        self._by_user = Offences(settings.word_mute_hits, settings.word_window_s)
        self._by_room = Offences(settings.word_media_hits, settings.word_window_s)
        self._commands = Buckets(1 / settings.word_mute_s, MAX_OF_USER)
        self._under_way = BackgroundTasks("an automatic measure")

    def __len__(self) -> int:
        return len(self._by_user) + len(self._by_room) + len(self._commands)

    async def close(self) -> None:
        """Wait for the commands under way."""
        await self._under_way.wait()

    def count(self, room: str, user: User, message: str, verdict: WordVerdict, now_s: float) -> None:
        """Count a text with forbidden words against its user and, where it is refused, its room.

        The offence that reaches the limit gives the command, unless its user brought about
        `MAX_OF_USER` lately, over all rooms: in one room a user is always muted again. Streamers
        are not muted by it.
        """
        details = {"words": list(verdict.words), "message": message}
        if user.role not in _SPARED and self._by_user.add((room, user.id), now_s) and self._may_command(user, now_s):
            until_ms = clock.unix_ms() + self._mute_s * 1000
            context = CommandContext(room, SYSTEM, f"words:{message}"[:64], "forbidden words", details)
            self._under_way.start(_logged(self._moderation.sanction(Command.MUTE, context, user.id, until_ms)))
        is_refused = verdict.action is WordAction.REFUSE
        if not is_refused or self._rules.settings(room).no_media or not self._by_room.add((room,), now_s):
            return
        if self._may_command(user, now_s):
            context = CommandContext(room, SYSTEM, f"media:{message}"[:64], "too many refused texts", details)
            self._under_way.start(_logged(self._moderation.set_modes(context, RoomChange(no_media=True))))

    def _may_command(self, user: User, now_s: float) -> bool:
        return user.role in _SPARED or not self._commands.take(user.id, now_s)


async def _logged(command: Coroutine[Any, Any, object]) -> None:
    try:
        await command
    except ProblemError as error:
        log.warning("not_moderated", error=str(error))
