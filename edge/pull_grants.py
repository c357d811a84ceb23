"""Who may pull messages from the log, and how often. Pure.

Owns the tokens that `hello` gives out, and a rate for each. A token is good while its connection
lasts and `pull_for_s` longer. Refuses an unknown token, one that is used too often, and a room that
the ticket did not permit. Bans hold for pulls too: `edge.joins` knows them. The gateway grants and
ends tokens; `edge.pulls` uses them.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.limits import Bucket
from liveroom.topics import ROOM_ID

PULLS_PER_S: Final = 2.0
PULLS_BURST: Final = 10.0
MAX_FORMER: Final = 100_000
_SPARE_BUCKETS: Final = 1000


class PullGrant(NamedTuple):
    """The identity and the rooms that a pull token stands for."""

    user: str
    role: Role
    ticket_rooms: tuple[str, ...]


class PullGrants:
    """The grants of one gateway, by token."""

    def __init__(self) -> None:
        self._grants: dict[str, PullGrant] = {}
        self._former: OrderedDict[str, float] = OrderedDict()
        self._buckets: dict[str, Bucket] = {}

    def grant(self, token: str, grant: PullGrant) -> None:
        """Make a token good until `end`."""
        self._grants[token] = grant

    def end(self, token: str, until_s: float) -> None:
        """Let a token expire at `until_s`: its connection is gone.

        Above `MAX_FORMER` such tokens the oldest one ends at once.
        """
        self._former[token] = until_s
        if len(self._former) > MAX_FORMER:
            del self._grants[self._former.popitem(last=False)[0]]

    def expire(self, now_s: float) -> None:
        """Forget the tokens that have expired."""
        while self._former:
            token, until_s = next(iter(self._former.items()))
            if until_s > now_s:
                break
            del self._former[token], self._grants[token]

    def use(self, token: str, room: str, now_s: float) -> PullGrant:
        """Return the grant of a token, for one pull of a room.

        Raises `ProblemError`: token_invalid, rate_user, room_invalid, forbidden.
        """
        grant = self._grants.get(token)
        if grant is None:
            raise ProblemError(
                Code.TOKEN_INVALID, "a pull needs the token of hello, while the connection lasts and some minutes more"
            )
        bucket = self._buckets.get(token)
        if bucket is None:
            if len(self._buckets) > len(self._grants) + _SPARE_BUCKETS:
                self._buckets = {key: kept for key, kept in self._buckets.items() if key in self._grants}
            bucket = self._buckets[token] = Bucket(PULLS_PER_S, PULLS_BURST, now_s)
        if wait_s := bucket.take(now_s):
            raise ProblemError(Code.RATE_USER, retry_after_s=wait_s)
        if not ROOM_ID.match(room):
            raise ProblemError(Code.ROOM_INVALID)
        if grant.ticket_rooms and room not in grant.ticket_rooms:
            raise ProblemError(Code.FORBIDDEN)
        return grant
