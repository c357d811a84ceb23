"""Uses of tickets: each opens two connections at each of the gateways that it names. Pure.

Two, because a viewer races its gateways over WebSocket, and falls back to events at the same ones
with the same ticket. A use is a completed upgrade. `edge.admission` counts them.
"""

from typing import Final

from liveroom.errors import Code, ProblemError
from liveroom.limits import MAX_NAMES, drop_oldest
from liveroom.tickets import Ticket

USES: Final = 2
_FEW: Final = 1024


class SpentTickets:
    """The used tickets of one gateway, by nonce, until they expire.

    Each has `uses`. Keeps at most `most`: then it forgets the oldest, which may be used again.
    """

    def __init__(self, uses: int = USES, most: int = MAX_NAMES) -> None:
        self._uses = uses
        self._most = most
        self._used: dict[str, tuple[int, int]] = {}
        self._sweep_at = min(most, _FEW)

    def __len__(self) -> int:
        return len(self._used)

    def check(self, ticket: Ticket) -> None:
        """Raise `ProblemError` (ticket_used) where a ticket has no use left."""
        if self._used.get(ticket.nonce, (0, 0))[0] >= self._uses:
            raise ProblemError(Code.TICKET_USED).of(ticket.user.id)

    def spend(self, ticket: Ticket, now_ms: int) -> None:
        """Count a use of a ticket at `now_ms`, a Unix time in milliseconds."""
        self._used[ticket.nonce] = self._used.get(ticket.nonce, (0, 0))[0] + 1, ticket.expires_ms
        if len(self._used) > self._sweep_at:
            self._used = {nonce: used for nonce, used in self._used.items() if used[1] > now_ms}
            drop_oldest(self._used, self._most * 3 // 4)  # or soon every call would sweep
            self._sweep_at = min(self._most, max(_FEW, 2 * len(self._used)))
