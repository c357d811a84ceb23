"""A sender of danmaku, gifts and likes over aiohttp, for bots, tests and the command line."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
import orjson

from liveroom import clock
from liveroom.addresses import bases
from liveroom.chance import Chance, SystemChance
from viewer.problem import read_problem
from viewer.tokens import Token, current

SEND_TIMEOUT_S: Final = 5.0
RETRIES: Final = 5
RETRY_S: Final = 1.0
MAX_JITTER_S: Final = 30.0
MAX_PAUSE_S: Final = 30.0  # nobody expects what was sent to appear later than that


class Accepted(NamedTuple):
    """Ingress accepted it (202): it will be delivered. `at_ms` is Unix time."""

    id: str
    at_ms: int


class _Reply(msgspec.Struct):
    """What a sender needs of a 202."""

    at_ms: int


class Refused(NamedTuple):
    """Ingress refused it; `code` is the problem's."""

    id: str
    code: str


class Unknown(NamedTuple):
    """No answer, or 5xx or 408 until the last retry.

    It may still be delivered. `why` is for people.
    """

    id: str
    why: str


Outcome = Accepted | Refused | Unknown


class Sender:
    """Sends interactions of one user.

    After an unknown outcome it retries under the same id, up to `retries` times, so a gift happens
    once. `http` is the caller's. `chance` is for ids and jitter, by default the system's.
    """

    def __init__(
        self,
        ingress_url: str,
        token: Token,
        http: aiohttp.ClientSession,
        retries: int = RETRIES,
        chance: Chance | None = None,
    ) -> None:
        self._url = bases(ingress_url)
        self._token = token
        self._http = http
        self._retries = retries
        self._chance = chance if chance is not None else SystemChance()

    async def danmaku(self, room: str, text: str, **fields: Any) -> Outcome:
        """Send a line of text. Best effort: it is not retried when its outcome is unknown."""
        return await self.send(room, "danmaku", {"text": text, **fields}, retries=0)

    async def gift(self, room: str, gift: str, count: int = 1, **fields: Any) -> Outcome:
        """Send a gift."""
        return await self.send(room, "gifts", {"gift": gift, "count": count, **fields})

    async def like(self, room: str, count: int = 1, **fields: Any) -> Outcome:
        """Send likes."""
        return await self.send(room, "likes", {"count": count, **fields})

    async def package(self, room: str, package: str, items: Sequence[dict[str, Any]], **fields: Any) -> Outcome:
        """Send several interactions as one package: viewers get them together."""
        return await self.send(room, "packages", {"package": package, "items": list(items), **fields})

    async def send(self, room: str, collection: str, body: dict[str, Any], *, retries: int | None = None) -> Outcome:
        """Post one interaction to `/v1/rooms/{room}/{collection}`.

        After 5xx, 408 or silence it retries under the same id, no sooner than the answer asks for.
        It does not retry where that is later than `MAX_PAUSE_S`. `retries` replaces the sender's
        own number. Raises nothing for network errors.
        """
        body = {"id": self._chance.token_hex(12)} | body
        id_: str = body["id"]
        left = self._retries if retries is None else retries
        while True:
            outcome, retry_after_s = await self._post(room, collection, id_, orjson.dumps(body))
            if not isinstance(outcome, Unknown) or left == 0 or retry_after_s > MAX_PAUSE_S:
                return outcome
            left -= 1
            await clock.sleep(retry_after_s + self._chance.random() * min(retry_after_s, MAX_JITTER_S))

    async def _post(self, room: str, collection: str, id_: str, body: bytes) -> tuple[Outcome, float]:
        try:
            async with self._http.post(
                f"{self._url}/v1/rooms/{room}/{collection}",
                data=body,
                headers={"Authorization": f"Bearer {current(self._token)}", "Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(SEND_TIMEOUT_S),
            ) as answer:
                reply = await answer.read()
                if answer.status == HTTPStatus.ACCEPTED:
                    return Accepted(id_, msgspec.json.decode(reply, type=_Reply).at_ms), 0.0
                code, wait_s = read_problem(answer.status, answer.headers, reply)
                if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status == HTTPStatus.REQUEST_TIMEOUT:
                    # with any code, and a proxy's too: it may have been written
                    return Unknown(id_, code), RETRY_S if wait_s is None else wait_s
                return Refused(id_, code), 0.0
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Unknown(id_, repr(error)), 0.5
