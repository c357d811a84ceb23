"""The log of refusals: whom a service refused, put out or closed, where and why.

Owns three events, `refused`, `put_out` and `closed`, and how many of them are logged: a crowd that
is refused must cost next to nothing. What is left out is counted and told once a second. A line
names a user only by a keyed hash, and nothing else that is the caller's: no name, text, token,
ticket or address. `liveroom.web` calls it for every refusal over HTTP, a gateway also for refused
frames and for the connections that it ends.
"""

import hmac
from collections.abc import Sequence
from typing import Final

import structlog

from liveroom import clock
from liveroom.closecodes import Close
from liveroom.errors import Code

MARK_CHARS: Final = 16
USUAL_PER_S: Final = 5
log = structlog.get_logger()


def user_mark(key: bytes, user: str) -> str:
    """Return the name of a user in logs: the first 64 bits of HMAC-SHA256 of its id, in hex.

    `key`: the setting `log_key`, alike for all services, so that one can follow a user.
    """
    return hmac.digest(key, user.encode(), "sha256").hex()[:MARK_CHARS]


class RefusalLog:
    """The log of refusals of one process.

    `key`: of `user_mark`; empty: no line names a user. `per_s`: how many lines of each event and
    code a second may have; 0: none.
    """

    def __init__(self, key: bytes = b"", per_s: int = USUAL_PER_S) -> None:
        self._key = key
        self._per_s = per_s
        self._ends_s = 0.0
        self._counts: dict[tuple[str, str], int] = {}

    def refused(
        self,
        code: Code,
        route: str,
        request_id: str,
        *,
        room: str | None = None,
        user: str | None = None,
        detail: str | None = None,
    ) -> None:
        """Log that a request or a frame was refused.

        `route`: the method and the template of the path, or the type of the frame. `detail`: why,
        in words of this system.
        """
        if self._may_log("refused", code.value):
            log.info(
                "refused", code=code.value, route=route, room=room, user=self._mark(user), request_id=request_id, detail=detail
            )

    def put_out(self, code: Code, request_id: str, *, room: str, user: str) -> None:
        """Log that a viewer was put out of a room."""
        if self._may_log("put_out", code.value):
            log.info("put_out", code=code.value, room=room, user=self._mark(user), request_id=request_id)

    def closed(self, code: Close, reason: str, request_id: str, *, rooms: Sequence[str], user: str) -> None:
        """Log that the gateway ends a viewer's connection. `rooms`: those it is in."""
        if self._may_log("closed", str(code.value)):
            log.info("closed", code=code.value, reason=reason, rooms=list(rooms), user=self._mark(user), request_id=request_id)

    def tell(self) -> None:
        """Log, once a second is over, how many lines were left out in it."""
        now_s = clock.monotonic_s()
        if now_s < self._ends_s:
            return
        self._ends_s = now_s + 1
        over = {name: count - self._per_s for name, count in self._counts.items() if count > self._per_s}
        self._counts.clear()
        if over:
            log.info("refusals_not_logged", counts={f"{event} {code}": count for (event, code), count in over.items()})

    def _may_log(self, event: str, code: str) -> bool:
        self.tell()
        count = self._counts[event, code] = self._counts.get((event, code), 0) + 1
        return count <= self._per_s

    def _mark(self, user: str | None) -> str | None:
        return user_mark(self._key, user) if user and self._key else None
