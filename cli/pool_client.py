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


class PoolDecision(msgspec.Struct, frozen=True):
    """One decision, as the autoscaler tells it."""

    at_ms: int
    desired: int
    actual: int
    needed: int
    reason: str
    detail: str
    drain: list[str]
    done: bool

    def __str__(self) -> str:
        return f"{self.actual} gateways, {self.desired} wanted: {self.reason} ({self.detail})"


class PoolGateway(msgspec.Struct, frozen=True):
    """One gateway, as the autoscaler sees it; None: it does not tell."""

    id: str
    state: str
    age_s: float
    connections: int | None
    joins_per_s: float | None
    cpu: float | None
    loop_lag_ms: float | None


class PoolState(msgspec.Struct, frozen=True):
    """The pool. `paused_by`: the operator who paused it, empty while it runs by itself."""

    instance: str
    leading: bool
    paused_by: str
    last: PoolDecision | None
    gateways: list[PoolGateway]

    @property
    def serving(self) -> list[PoolGateway]:
        """The gateways that take viewers, as far as is known."""
        return [seen for seen in self.gateways if seen.state == "serving" and seen.connections is not None]


class _Decisions(msgspec.Struct, frozen=True):
    decisions: list[PoolDecision]


class PoolClient:
    """Asks one autoscaler at `url` with an operator's token."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str) -> None:
        self._http = http
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}

    async def state(self) -> PoolState:
        """Return the pool as it is."""
        return msgspec.json.decode(await self._ask("GET", "pool"), type=PoolState)

    async def decisions(self) -> list[PoolDecision]:
        """Return the last decisions, the newest first."""
        return msgspec.json.decode(await self._ask("GET", "decisions"), type=_Decisions).decisions

    async def pause(self) -> PoolState:
        """Have the pool left as it is, whatever is decided."""
        return msgspec.json.decode(await self._ask("POST", "pool/pause"), type=PoolState)

    async def resume(self) -> PoolState:
        """Have decisions carried out again."""
        return msgspec.json.decode(await self._ask("POST", "pool/resume"), type=PoolState)

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
