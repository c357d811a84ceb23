"""The right to pull messages from the log. Pure.

Owns the tokens that `hello` gives out. A token is good while its connection lasts and `pull_for_s`
longer. Refuses an unknown token, and a room that the ticket did not permit. Rules hold for pulls
too: `edge.joins` knows them. `edge.pull_limits` bounds how much is pulled. The gateway grants and
ends tokens; `edge.pulls` uses them.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.topics import ROOM_ID

MAX_FORMER: Final = 100_000


class PullGrant(NamedTuple):
    """The identity and the rooms that a pull token stands for.

    `ticket_rooms`: the rooms that the ticket permits (empty: every room). `named_rooms`: those that
    the user's token names. `device`, `issued_s`: those of the token, as `tickets.User` has them.
    """

    user: str
    role: Role
    ticket_rooms: tuple[str, ...]
    named_rooms: tuple[str, ...] = ()
    device: str = ""
    issued_s: int | None = None

    def check(self, room: str) -> None:
        """Raise `ProblemError` (room_invalid, forbidden) where it does not permit a room."""
        if not ROOM_ID.match(room):
            raise ProblemError(Code.ROOM_INVALID)
        if self.ticket_rooms and room not in self.ticket_rooms:
            raise ProblemError(Code.FORBIDDEN)


class PullGrants:
    """The grants of one gateway, by token."""

    def __init__(self) -> None:
        self._grants: dict[str, PullGrant] = {}
        self._former: OrderedDict[str, float] = OrderedDict()

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

    def find(self, token: str) -> PullGrant:
        """Return the grant of a token; raise `ProblemError` (token_invalid) if it is not good."""
        grant = self._grants.get(token)
        if grant is None:
            raise ProblemError(
                Code.TOKEN_INVALID, "a pull needs the token of hello, while the connection lasts and some minutes more"
            )
        return grant
