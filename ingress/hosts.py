"""Records who the hosts of a room are, so that every ingress knows the rank of a command's target.

A command names its target by id alone, and the target's token is not at hand. So an ingress writes
the role of a host to `moderation` before it carries out the first request of that host in a room;
a second later every ingress knows it. Owns when that is written. Refuses what the log does not
take. Called by `admission` and `moderation_api` for every request that passed the other checks.
"""

from collections.abc import Sequence
from typing import Final

import structlog

from ingress.log import LogWriter, write
from liveroom import clock
from liveroom.kinds import Role, is_host
from liveroom.moderation import EVERYWHERE, Rules, key_of
from liveroom.records.codec import encode_json
from liveroom.records.control import Moderation, RuleKind, record_of
from liveroom.tickets import User
from liveroom.topics import MODERATION

KNOWN_MS: Final = 30 * 86_400_000
MAX_HOSTS: Final = 1000  # of one room
_HOSTS: Final = frozenset(role for role in Role if is_host(role))
log = structlog.get_logger()


class HostRecords:
    """The records of hosts in `moderation`.

    A record holds for `KNOWN_MS` and is renewed by a request in its second half. The latest token
    decides: a request of somebody who is no host any more ends the record.
    """

    def __init__(self, writer: LogWriter, rules: Rules) -> None:
        self._writer = writer
        self._rules = rules

    async def note(self, room: str, user: User) -> None:
        """Record the role of `user`, who has sent a request for `room`, where that is news.

        `room`: `EVERYWHERE` for a command about all rooms. Returns after the acknowledgement.
        Raises `ProblemError` (queue_unavailable).
        """
        for rule in self._news(room, user):
            await write(self._writer, MODERATION, key_of(rule), encode_json(record_of(rule)))
            self._rules.apply(rule)

    def _news(self, room: str, user: User) -> Sequence[Moderation]:
        """Return the records to write: nearly always none, as this is asked for every message."""
        role, rules = user.role, self._rules
        if role not in _HOSTS:
            if role is Role.SERVICE or not (rules.may_be_host(room, user.id) or rules.may_be_host(EVERYWHERE, user.id)):
                return ()
            own = None
        else:
            own = EVERYWHERE if role is Role.OPERATOR and user.rooms is None else room
        now_ms = clock.unix_ms()
        news: list[Moderation] = []
        for scope in dict.fromkeys((room, EVERYWHERE)):
            known = rules.host(scope, user.id, now_ms)
            if scope != own:
                if known is not None:
                    news.append(_record(scope, user, now_ms, 0, None))
            elif known is None and rules.hosts(scope) >= MAX_HOSTS:
                log.warning("host_not_recorded", room=scope, most=MAX_HOSTS)
            elif known is None or known.value != role.value or known.until_ms - now_ms < KNOWN_MS // 2:
                news.append(_record(scope, user, now_ms, now_ms + KNOWN_MS, role.value))
        return news


def _record(room: str, user: User, now_ms: int, until_ms: int, value: str | None) -> Moderation:
    role = user.role.value
    return Moderation(
        Moderation.VERSION, room, now_ms, RuleKind.HOST, user.id, user.id, until_ms=until_ms, value=value, by_role=role
    )
