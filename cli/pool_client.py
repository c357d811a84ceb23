"""A client of the autoscaler's HTTP API, for `liveroom pool`, `top` and `demo --surge`."""

from http import HTTPStatus
from typing import Final, TypeVar

import aiohttp
import msgspec

from cli.refusals import words_of
from liveroom.errors import ExplainedError, in_words
from viewer.problem import read_problem

TIMEOUT_S: Final = 5.0
T = TypeVar("T")


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


class PoolFloor(msgspec.Struct, frozen=True):
    """How many gateways there are at least until `until_ms`, and the operator who wants that."""

    least: int
    until_ms: int
    by: str


class PoolState(msgspec.Struct, frozen=True):
    """The pool. `paused_by`: the operator who paused it, empty while nobody has.

    `instance`: the autoscaler that answered. `leader`: the one that leads, empty where none is
    known; `heard_s`: how long ago it decided what is `last`.
    """

    instance: str
    leading: bool
    paused_by: str
    last: PoolDecision | None
    gateways: list[PoolGateway]
    leader: str = ""
    heard_s: float | None = None
    floor: PoolFloor | None = None

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
        return await self._ask(PoolState, "GET", "pool")

    async def decisions(self) -> list[PoolDecision]:
        """Return the last decisions, the newest first."""
        return (await self._ask(_Decisions, "GET", "decisions")).decisions

    async def pause(self) -> PoolState:
        """Pause the pool and return it."""
        return await self._ask(PoolState, "POST", "pool/pause")

    async def resume(self) -> PoolState:
        """Resume the pool and return it."""
        return await self._ask(PoolState, "POST", "pool/resume")

    async def drain(self, gateway: str, why: str) -> PoolState:
        """Drain a gateway and return the pool."""
        return await self._ask(PoolState, "POST", "pool/drain", {"gateway": gateway, "why": why})

    async def add(self, count: int, for_s: int) -> PoolState:
        """Add gateways that stay for `for_s` seconds at least, and return the pool."""
        return await self._ask(PoolState, "POST", "pool/add", {"count": count, "for_s": for_s})

    async def _ask(self, kind: type[T], method: str, path: str, given: dict[str, object] | None = None) -> T:
        try:
            url, limit = f"{self._url}/v1/{path}", aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with self._http.request(method, url, headers=self._headers, timeout=limit, json=given) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PoolError(f"the autoscaler at {self._url} does not answer: {in_words(error)}") from None
        if answer.status != HTTPStatus.OK:
            raise PoolError(f"the autoscaler refuses: {words_of(read_problem(answer.status, answer.headers, body))}")
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError:
            raise PoolError(f"no autoscaler answers at {self._url}, but another service") from None
