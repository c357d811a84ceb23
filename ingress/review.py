"""The review hook: an HTTP service of somebody else that looks at every danmaku before it goes on.

Owns its time limit and what is done when it does not answer: after some failures in a row it is not
asked for a while (a circuit breaker), and the configured fallback decides. Refuses with `review`.
Called by `admission` after the words.
"""

import asyncio
from enum import Enum
from typing import Final

import aiohttp
import msgspec
import structlog

from liveroom import clock, metric_catalog
from liveroom.errors import Code, ProblemError
from liveroom.registry import Metrics
from liveroom.settings import IngressSettings

FAILURES: Final = 5
OPEN_S: Final = 10.0
MAX_AT_ONCE: Final = 256
MAX_ANSWER_BYTES: Final = 16 * 1024
log = structlog.get_logger()


class ReviewDecision(Enum):
    """What a review comes to."""

    ALLOW = "allow"
    REFUSE = "refuse"
    CHANGE = "change"


class ReviewQuestion(msgspec.Struct, frozen=True):
    """What the hook is asked, as a POST of JSON."""

    room: str
    id: str
    user: str
    role: str
    kind: str
    text: str


class ReviewAnswer(msgspec.Struct, frozen=True):
    """What it answers with 200.

    `text`: with `change`, 1 to 200 characters; `why`: told to the sender.
    """

    action: ReviewDecision
    text: str = ""
    why: str = ""


class CircuitBreaker:
    """Closed: ask.

    After `FAILURES` in a row open: do not ask for `OPEN_S`, then ask once and see. Pure.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._ask_at_s = 0.0

    def may_ask(self, now_s: float) -> bool:
        """Whether to ask now."""
        if self._failures < FAILURES:
            return True
        if now_s < self._ask_at_s:
            return False
        self._ask_at_s = now_s + OPEN_S  # this one finds out
        return True

    def answered(self) -> None:
        """It works."""
        self._failures = 0

    def failed(self, now_s: float) -> bool:
        """Count a failure; say whether it opened the breaker."""
        self._failures += 1
        self._ask_at_s = now_s + OPEN_S
        return self._failures == FAILURES


_encode: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(ReviewAnswer)
_MAX_TEXT: Final = 200


class Reviewer:
    """Asks the hook. Without a `review_url` everything is allowed."""

    def __init__(self, settings: IngressSettings, metrics: Metrics) -> None:
        self._url = settings.review_url
        self._timeout_s = settings.review_timeout_s
        self._fallback = ReviewDecision(settings.review_fallback)
        self._breaker = CircuitBreaker()
        self._asking = 0
        self._http: aiohttp.ClientSession | None = None
        self._counts = {name: metrics.counter(metric_catalog.REVIEWS, name) for name in metric_catalog.REVIEW_OUTCOMES}

    @property
    def is_on(self) -> bool:
        """Whether there is a hook."""
        return bool(self._url)

    async def close(self) -> None:
        """Hang up."""
        if self._http is not None:
            await self._http.close()

    async def review(self, question: ReviewQuestion) -> str:
        """Return the text as it may go on; raise a problem where it may not."""
        answer = await self._ask(question)
        if answer is None:
            self._counts["fallback"].inc()
            if self._fallback is ReviewDecision.REFUSE:
                raise ProblemError(Code.REVIEW, "the review does not answer", retry_after_s=OPEN_S)
            return question.text
        self._counts[answer.action.value].inc()
        if answer.action is ReviewDecision.REFUSE:
            raise ProblemError(Code.REVIEW, answer.why[:_MAX_TEXT])
        return answer.text if answer.action is ReviewDecision.CHANGE else question.text

    async def _ask(self, question: ReviewQuestion) -> ReviewAnswer | None:
        if self._asking >= MAX_AT_ONCE or not self._breaker.may_ask(clock.monotonic_s()):
            return None
        if self._http is None:
            self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=MAX_AT_ONCE), auto_decompress=False)
        self._asking += 1
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._http.post(self._url, data=_encode(question), headers={"Content-Type": "application/json"}) as response,
            ):
                response.raise_for_status()
                answer = _parse(await _read(response))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
            if self._breaker.failed(clock.monotonic_s()):
                log.warning("review_off", error=repr(error), for_s=OPEN_S, fallback=self._fallback.value)
            return None
        finally:
            self._asking -= 1
        self._breaker.answered()
        return answer


def _parse(body: bytes) -> ReviewAnswer:
    answer = _decoder.decode(body)
    if answer.action is ReviewDecision.CHANGE and not 1 <= len(answer.text) <= _MAX_TEXT:
        raise ValueError(f"a changed text of {len(answer.text)} characters")
    return answer


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return body
