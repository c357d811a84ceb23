"""A client of the autoscaler's HTTP API, for `liveroom pool`, `top` and `demo --surge`."""

from http import HTTPStatus
from typing import Final

import aiohttp
import msgspec

from liveroom.errors import ExplainedError

TIMEOUT_S: Final = 5.0


class PoolError(ExplainedError):
    """The autoscaler does not answer, or refuses; the message says why."""


class PoolDecision(msgspec.Struct, frozen=True):
    """One decision of the autoscaler."""

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
    """One gateway as the autoscaler knows it; None: not reported."""

    id: str
    state: str
    age_s: float
    connections: int | None
    joins_per_s: float | None
    cpu: float | None
    loop_lag_ms: float | None


class PoolState(msgspec.Struct, frozen=True):
    """The pool. `paused_by`: the operator who paused it, empty while nobody has."""

    instance: str
    leading: bool
    paused_by: str
    last: PoolDecision | None
    gateways: list[PoolGateway]

    @property
    def serving(self) -> list[PoolGateway]:
        """The gateways that serve, of those that report their viewers."""
        return [seen for seen in self.gateways if seen.state == "serving" and seen.connections is not None]


class _Decisions(msgspec.Struct, frozen=True):
    decisions: list[PoolDecision]


class PoolClient:
    """Talks to the autoscaler at `url` with an operator's token.

    Every method raises PoolError where the autoscaler does not answer, or refuses.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str) -> None:
        self._http = http
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}

    async def state(self) -> PoolState:
        """Return the pool."""
        return msgspec.json.decode(await self._ask("GET", "pool"), type=PoolState)

    async def decisions(self) -> list[PoolDecision]:
        """Return the last decisions, the newest first."""
        return msgspec.json.decode(await self._ask("GET", "decisions"), type=_Decisions).decisions

    async def pause(self) -> PoolState:
        """Pause the pool and return it."""
        return msgspec.json.decode(await self._ask("POST", "pool/pause"), type=PoolState)

    async def resume(self) -> PoolState:
        """Resume the pool and return it."""
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
