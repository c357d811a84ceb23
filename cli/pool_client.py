"""What the autoscaler tells of the pool, and asking it: for `liveroom pool` and `liveroom demo
--surge`.
"""

from http import HTTPStatus
from typing import Final

import aiohttp
import msgspec

from liveroom.errors import ExplainedError

TIMEOUT_S: Final = 5.0


class PoolError(ExplainedError):
    """The autoscaler does not answer, or refuses; the message says why."""


class Noted(msgspec.Struct, frozen=True):
    """One decision, as the autoscaler tells it."""

    at_ms: int
    desired: int
    actual: int
    needed: int
    reason: str
    detail: str
    drain: list[str]
    done: bool


class Seen(msgspec.Struct, frozen=True):
    """One gateway, as the autoscaler sees it; None: it does not tell."""

    id: str
    state: str
    age_s: float
    connections: int | None
    joins_per_s: float | None
    cpu: float | None
    loop_lag_ms: float | None


class State(msgspec.Struct, frozen=True):
    """The pool. `paused_by`: the operator who paused it, empty while it runs by itself."""

    instance: str
    leading: bool
    paused_by: str
    last: Noted | None
    gateways: list[Seen]

    @property
    def serving(self) -> list[Seen]:
        """The gateways that take viewers, as far as is known."""
        return [seen for seen in self.gateways if seen.state == "serving" and seen.connections is not None]


class _Decisions(msgspec.Struct, frozen=True):
    decisions: list[Noted]


class PoolEye:
    """Asks one autoscaler at `url` with an operator's token."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str) -> None:
        self._http = http
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}

    async def look(self) -> State:
        """Return the pool as it is."""
        return msgspec.json.decode(await self._ask("GET", "pool"), type=State)

    async def decisions(self) -> list[Noted]:
        """Return the last decisions, the newest first."""
        return msgspec.json.decode(await self._ask("GET", "decisions"), type=_Decisions).decisions

    async def pause(self) -> State:
        """Have the pool left as it is, whatever is decided."""
        return msgspec.json.decode(await self._ask("POST", "pool/pause"), type=State)

    async def resume(self) -> State:
        """Have decisions carried out again."""
        return msgspec.json.decode(await self._ask("POST", "pool/resume"), type=State)

    async def _ask(self, method: str, path: str) -> bytes:
        try:
            url, limit = f"{self._url}/v1/{path}", aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with self._http.request(method, url, headers=self._headers, timeout=limit) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PoolError(f"the autoscaler at {self._url} does not answer: {error}") from None
        if answer.status != HTTPStatus.OK:
            raise PoolError(f"the autoscaler refuses: {answer.status} {body[:300].decode(errors='replace')}")
        return body
