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
from liveroom.errors import TABLE, Code, in_words
from liveroom.topics import ROOM_ID
from viewer.problem import NO_ANSWER, ServiceError, read_problem
from viewer.tokens import Token, TokenError, current

SEND_TIMEOUT_S: Final = 5.0
RETRIES: Final = 5
RETRY_S: Final = 1.0
MIN_PAUSE_S: Final = 0.1  # after a refusal for the rate, so that patience ends
MAX_JITTER_S: Final = 30.0
MAX_PAUSE_S: Final = 30.0  # nobody expects what was sent to appear later than that


class Accepted(NamedTuple):
    """Ingress accepted it (202): it will be delivered. `at_ms` is Unix time.

    `text`: the text as viewers get it, where words of it were masked; else empty.
    """

    id: str
    at_ms: int
    text: str = ""


class _Reply(msgspec.Struct):
    """What a sender needs of a 202."""

    at_ms: int
    text: str = ""


class Refused(NamedTuple):
    """Ingress refused it, or it could not be asked for want of a token; nothing was written.

    `code` is the problem's, `detail` more about it for people, `status` the HTTP status;
    `retry_after_s` how many seconds it asks to wait, None where it asks for nothing; `until_ms`
    when a mute or ban ends, in milliseconds of Unix time, -1 where it never does, 0 where it is
    neither. `request_id` is its name in the ingress's log (`liveroom why`); empty: unknown.
    """

    id: str
    code: str
    detail: str = ""
    status: int = 0
    retry_after_s: float | None = None
    until_ms: int = 0
    request_id: str = ""


class Unknown(NamedTuple):
    """No answer, or 5xx or 408 until the last retry.

    It may still be delivered. `why` is for people. `code` is the problem's, or `no_answer`;
    `status`, `retry_after_s` and `request_id` are those of the last answer.
    """

    id: str
    why: str
    code: str = NO_ANSWER
    status: int = 0
    retry_after_s: float | None = None
    request_id: str = ""


Outcome = Accepted | Refused | Unknown


def check(outcome: Outcome) -> Accepted:
    """Return an outcome that is accepted; raise ServiceError for any other."""
    match outcome:
        case Accepted():
            return outcome
        case Refused(_, code, detail, status, wait_s, until_ms, id_):
            raise ServiceError(code, detail, status=status, retry_after_s=wait_s, until_ms=until_ms, request_id=id_)
        case Unknown(_, why, code, status, wait_s, id_):
            raise ServiceError(code, why, status=status, retry_after_s=wait_s, request_id=id_)


class Sender:
    """Sends interactions of one user.

    After an unknown outcome it retries under the same id, up to `retries` times, so a gift happens
    once. What is refused for its rate (429) it sends again when the answer permits it, as long as
    it waits no more than `patience_s` in all, by default not at all. `http` is the caller's.
    `chance` is for ids and jitter, by default the system's.
    """

    def __init__(
        self,
        ingress_url: str,
        token: Token,
        http: aiohttp.ClientSession,
        retries: int = RETRIES,
        chance: Chance | None = None,
        patience_s: float = 0.0,
    ) -> None:
        self._url = bases(ingress_url)
        self._token = token
        self._http = http
        self._retries = retries
        self._patience_s = patience_s
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
        own number. Raises nothing for refusals, network errors and failures of the token function:
        `check` does. What could only be refused makes no request: a room that has no room id
        (`room_invalid`), and a token that is none (see `viewer.tokens.TokenError`).
        """
        body = {"id": self._chance.token_hex(12)} | body
        id_: str = body["id"]
        if not ROOM_ID.match(room):
            return Refused(id_, Code.ROOM_INVALID.value, TABLE[Code.ROOM_INVALID].title)
        sent = orjson.dumps(body)
        left, patience_s = self._retries if retries is None else retries, self._patience_s
        outcome: Outcome | None = None
        while True:
            try:
                token = current(self._token)
            except TokenError as error:  # what is unknown stays so
                return outcome if isinstance(outcome, Unknown) else Refused(id_, error.code, error.detail)
            outcome, pause_s = await self._post(f"{room}/{collection}", id_, sent, token)
            match outcome:
                case Unknown() if left > 0 and pause_s <= MAX_PAUSE_S:
                    left -= 1
                case Refused(status=HTTPStatus.TOO_MANY_REQUESTS) if pause_s <= patience_s:
                    patience_s -= pause_s
                case _:
                    return outcome
            await clock.sleep(pause_s + self._chance.random() * min(pause_s, MAX_JITTER_S))

    async def _post(self, path: str, id_: str, body: bytes, token: str) -> tuple[Outcome, float]:
        try:
            async with self._http.post(
                f"{self._url}/v1/rooms/{path}",
                data=body,
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(SEND_TIMEOUT_S),
            ) as answer:
                reply = await answer.read()
                if answer.status == HTTPStatus.ACCEPTED:
                    accepted = msgspec.json.decode(reply, type=_Reply)
                    return Accepted(id_, accepted.at_ms, accepted.text), 0.0
                error = read_problem(answer.status, answer.headers, reply)
                wait_s = RETRY_S if error.retry_after_s is None else error.retry_after_s
                if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status == HTTPStatus.REQUEST_TIMEOUT:
                    # with any code, and a proxy's too: it may have been written
                    return Unknown(id_, str(error), error.code, error.status, error.retry_after_s, error.request_id), wait_s
                said = (error.code, error.detail, error.status, error.retry_after_s, error.until_ms, error.request_id)
                return Refused(id_, *said), max(wait_s, MIN_PAUSE_S)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Unknown(id_, in_words(error)), 0.5
