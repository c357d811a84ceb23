"""A client of the autoscaler's HTTP API, for `liveroom pool`, `top` and `demo --surge`."""

from http import HTTPStatus
from typing import Final, TypeVar

import aiohttp
import msgspec

from cli.refusals import words_of
from liveroom import clock
from liveroom.errors import Code, ExplainedError, in_words
from viewer.problem import read_problem

TIMEOUT_S: Final = 5.0
TRIES: Final = 3
AGAIN_S: Final = 1.0
T = TypeVar("T")


class PoolError(ExplainedError):
    """The autoscaler does not answer, or refuses; the message says why."""


class UnsurePoolError(PoolError):
    """Nobody knows whether the autoscaler took the order: it did not answer, or Kafka not to it."""


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

    def with_more(self, count: int) -> int:
        """Return the number of gateways that are wanted, and so many more.

        Raises PoolError where nobody knows how many are wanted.
        """
        if self.last is None:
            raise PoolError("no autoscaler has decided yet how many gateways there should be; try again in a minute")
        return max(self.last.desired, self.floor.least if self.floor is not None else 0) + count


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

    async def keep(self, least: int, for_s: int) -> PoolState:
        """Keep at least so many gateways for `for_s` seconds, and return the pool; 0: no more.

        Asks again where nobody knows whether the order was taken: it may come twice.
        """
        for left in reversed(range(TRIES)):
            try:
                return await self._ask(PoolState, "POST", "pool/add", {"least": least, "for_s": for_s})
            except UnsurePoolError as error:
                if not left:
                    words = (
                        f"the order for at least {least} gateways may arrive yet: look with liveroom pool before another add"
                    )
                    raise UnsurePoolError(f"{error}; {words}") from None
            await clock.sleep(AGAIN_S)
        raise AssertionError

    async def _ask(self, kind: type[T], method: str, path: str, given: dict[str, object] | None = None) -> T:
        try:
            url, limit = f"{self._url}/v1/{path}", aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with self._http.request(method, url, headers=self._headers, timeout=limit, json=given) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnsurePoolError(f"the autoscaler at {self._url} does not answer: {in_words(error)}") from None
        if answer.status != HTTPStatus.OK:
            refusal = read_problem(answer.status, answer.headers, body)
            kind_of = UnsurePoolError if refusal.code == Code.QUEUE_UNAVAILABLE.value else PoolError
            raise kind_of(f"the autoscaler refuses: {words_of(refusal)}")
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError:
            raise PoolError(f"no autoscaler answers at {self._url}, but another service") from None
