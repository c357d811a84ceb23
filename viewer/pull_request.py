"""Pulls over HTTP: the request that a session's `Pull` asks for, and its outcome.

Called by `viewer.client` and `viewer.load`.
"""

from http import HTTPStatus
from typing import Final, NamedTuple

import aiohttp
import structlog

from liveroom import clock
from liveroom.addresses import origin_of
from liveroom.chance import Chance
from liveroom.tracebacks import named
from viewer.effects import Effect, Pull
from viewer.problem import is_final, read_problem
from viewer.session import Session

PULL_TIMEOUT_S: Final = 5.0
log = structlog.get_logger()


class PullAnswer(NamedTuple):
    """The outcome of a pull.

    `body`: None where it was refused or not answered. `retry_after_s`: the delay that a refusal
    asked for. `is_final`: it was refused for a reason that waiting does not end.
    """

    body: bytes | None
    retry_after_s: float | None = None
    is_final: bool = False


async def ask_pull(http: aiohttp.ClientSession, gateway_url: str, pull: Pull) -> PullAnswer:
    """Carry out a pull at the gateway whose WebSocket address is `gateway_url`.

    Network errors and refusals are an answer without a body; none is raised.
    """
    url = f"{origin_of(gateway_url)}/v1/rooms/{pull.room}/messages"
    try:
        async with http.get(
            url,
            params=pull.params,
            headers={"Authorization": f"Bearer {pull.token}"},
            timeout=aiohttp.ClientTimeout(PULL_TIMEOUT_S),
        ) as answer:
            body = await answer.read()
            if answer.status == HTTPStatus.OK:
                return PullAnswer(body)
            log.debug("pull_refused", room=pull.room, status=answer.status)
            problem = read_problem(answer.status, answer.headers, body)
            return PullAnswer(None, problem.retry_after_s, is_final(answer.status))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.debug("pull_failed", room=pull.room, error=named(error))
    return PullAnswer(None)


def take_answer(session: Session, room: str, answer: PullAnswer, chance: Chance) -> list[Effect]:
    """Report a pull's outcome to its session; return the effects."""
    now, uniform = clock.monotonic_s(), chance.random()
    if answer.is_final:
        return session.pull_refused(room, now, uniform)
    if answer.body is None:
        return session.pull_failed(room, now, uniform, answer.retry_after_s)
    return session.pulled(room, answer.body, now, uniform)
