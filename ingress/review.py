"""The review hook: an external HTTP service that allows, changes or refuses every danmaku.

Owns the time limit, and what happens when the service does not answer: the configured fallback
decides, and after `FAILURES` in a row no more questions go out for `OPEN_S` (a circuit breaker).
Refuses with `review`. Called by `admission` after the words.
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
from liveroom.texts import is_visible
from liveroom.tracebacks import named

FAILURES: Final = 5
OPEN_S: Final = 10.0
MAX_AT_ONCE: Final = 256
MAX_ANSWER_BYTES: Final = 16 * 1024
log = structlog.get_logger()


class ReviewDecision(Enum):
    """The decision of a review."""

    ALLOW = "allow"
    REFUSE = "refuse"
    CHANGE = "change"


class ReviewQuestion(msgspec.Struct, frozen=True):
    """The question to the hook, sent as a POST of JSON."""

    room: str
    id: str
    user: str
    role: str
    kind: str
    text: str


class ReviewAnswer(msgspec.Struct, frozen=True):
    """The hook's answer, sent with status 200.

    `text`: with `change`, 1 to 200 characters; `why`: the refusal's detail, which the sender sees.
    """

    action: ReviewDecision
    text: str = ""
    why: str = ""


class CircuitBreaker:
    """Stops questions to a hook that fails. Pure.

    After `FAILURES` in a row it is open for `OPEN_S`, then lets one question pass as a probe.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._ask_at_s = 0.0

    def may_ask(self, now_s: float) -> bool:
        """Return whether a question may go out now."""
        if self._failures < FAILURES:
            return True
        if now_s < self._ask_at_s:
            return False
        self._ask_at_s = now_s + OPEN_S  # one probe at a time
        return True

    def answered(self) -> None:
        """Close the breaker: the hook answered."""
        self._failures = 0

    def failed(self, now_s: float) -> bool:
        """Count a failure; return whether it opened the breaker."""
        self._failures += 1
        self._ask_at_s = now_s + OPEN_S
        return self._failures == FAILURES


_encode: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(ReviewAnswer)
_MAX_TEXT: Final = 200


class Reviewer:
    """Asks the hook. Without a `review_url` every text is allowed."""

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
        """Whether a hook is configured."""
        return bool(self._url)

    async def close(self) -> None:
        """Close the connections to the hook."""
        if self._http is not None:
            await self._http.close()

    async def review(self, question: ReviewQuestion) -> str:
        """Return the text that the review allows, or raise its refusal."""
        answer = await self._ask(question)
        if answer is None:
            self._counts["fallback"].inc()
            if self._fallback is ReviewDecision.REFUSE:
                raise ProblemError(Code.REVIEW, "the review service does not answer", retry_after_s=OPEN_S)
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
                log.warning("review_off", error=named(error), for_s=OPEN_S, fallback=self._fallback.value)
            return None
        finally:
            self._asking -= 1
        self._breaker.answered()
        return answer


def _parse(body: bytes) -> ReviewAnswer:
    answer = _decoder.decode(body)
    if answer.action is ReviewDecision.CHANGE and not (len(answer.text) <= _MAX_TEXT and is_visible(answer.text)):
        raise ValueError(f"a changed text of {len(answer.text)} characters, or one that shows nothing")
    return answer


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return body
