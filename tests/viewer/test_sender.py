"""The sender against an ingress that refuses, is busy, or does not answer.

Its clock and its chance are the test's.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from liveroom.chance import Chance
from liveroom.clock import SystemClock, running_on
from viewer.problem import ServiceError
from viewer.sender import Accepted, Outcome, Refused, Sender, Unknown, check
from viewer.tokens import Token

BUSY = (503, {"code": "queue_unavailable", "retry_after_s": 20})
ACCEPTED = (202, {"at_ms": 7})


class Slept(SystemClock):
    """A clock on which sleep takes no time and is written down."""

    def __init__(self) -> None:
        self.delays_s: list[float] = []

    async def sleep(self, delay_s: float) -> None:
        self.delays_s.append(delay_s)
        await asyncio.sleep(0)


class Ingress:
    """Answers as it is told, and remembers the ids that it got."""

    def __init__(self, *answers: tuple[int, dict[str, Any]], headers: dict[str, str] | None = None) -> None:
        self.answers = list(answers)
        self.headers = headers
        self.ids: list[str] = []

    async def post(self, request: web.Request) -> web.Response:
        self.ids.append((await request.json())["id"])
        status, body = self.answers.pop(0)
        return web.Response(status=status, body=msgspec.json.encode(body), headers=self.headers)

    @asynccontextmanager
    async def sender(
        self, retries: int = 5, seed: int = 1, patience_s: float = 0, token: Token = "token"
    ) -> AsyncIterator[Sender]:
        app = web.Application()
        app.router.add_post("/v1/rooms/{room}/{collection}", self.post)
        async with TestServer(app) as server, aiohttp.ClientSession() as http:
            yield Sender(f"http://127.0.0.1:{server.port}", token, http, retries, Chance(seed), patience_s)


async def give(ingress: Ingress, retries: int = 5, seed: int = 1) -> tuple[Outcome, list[float]]:
    slept = Slept()
    async with ingress.sender(retries, seed) as sender:
        with running_on(slept):
            return await sender.gift("r", "rose"), slept.delays_s


async def test_a_busy_ingress_is_asked_again_under_the_same_id_after_the_delay_that_it_names() -> None:
    ingress, began_s = Ingress(BUSY, BUSY, ACCEPTED), time.monotonic()
    outcome, delays_s = await give(ingress)
    assert outcome == Accepted(ingress.ids[0], 7)
    assert ingress.ids == [ingress.ids[0]] * 3
    assert len(delays_s) == 2
    assert all(20 <= delay_s <= 40 for delay_s in delays_s)
    assert time.monotonic() - began_s < 30, "the clock is the test's"


async def test_a_text_of_which_words_were_masked_is_told() -> None:
    ingress = Ingress((202, {"at_ms": 7, "text": "a ****"}))
    outcome, _ = await give(ingress)
    assert outcome == Accepted(ingress.ids[0], 7, "a ****")


async def test_a_delay_that_only_the_header_names_is_waited_too() -> None:
    outcome, delays_s = await give(Ingress((503, {}), ACCEPTED, headers={"Retry-After": "20"}))
    assert isinstance(outcome, Accepted)
    assert len(delays_s) == 1
    assert 20 <= delays_s[0] <= 40


async def test_a_delay_of_an_hour_is_not_waited() -> None:
    outcome, delays_s = await give(Ingress((503, {}), headers={"Retry-After": "3600"}))
    assert isinstance(outcome, Unknown)
    assert delays_s == []


async def test_what_is_unknown_to_the_last_retry_stays_unknown() -> None:
    outcome, delays_s = await give(Ingress(BUSY, BUSY), retries=1)
    assert isinstance(outcome, Unknown)
    assert len(delays_s) == 1


@pytest.mark.parametrize("status", [408, 500, 502, 504])
async def test_what_may_have_been_written_is_sent_again_under_the_same_id(status: int) -> None:
    ingress = Ingress((status, {}), ACCEPTED)
    outcome, delays_s = await give(ingress)
    assert outcome == Accepted(ingress.ids[0], 7)
    assert ingress.ids == [ingress.ids[0]] * 2
    assert len(delays_s) == 1
    outcome, _ = await give(Ingress((status, {})), retries=0)
    assert isinstance(outcome, Unknown)


async def test_a_refusal_is_final() -> None:
    ingress = Ingress((403, {"code": "muted"}))
    assert await give(ingress) == (Refused(ingress.ids[0], "muted", status=403), [])


async def test_a_refusal_says_all_that_the_ingress_said() -> None:
    ingress = Ingress((403, {"code": "muted", "detail": "spam", "retry_after_s": 2.5, "until_ms": 9}))
    outcome, _ = await give(ingress)
    assert outcome == Refused(ingress.ids[0], "muted", "spam", 403, 2.5, 9)
    with pytest.raises(ServiceError, match=r"^muted: spam$") as raised:
        check(outcome)
    told = raised.value
    assert (told.code, told.detail, told.status, told.retry_after_s, told.until_ms) == ("muted", "spam", 403, 2.5, 9)


async def test_what_is_unknown_is_raised_as_the_same_class() -> None:
    outcome, _ = await give(Ingress(BUSY), retries=0)
    with pytest.raises(ServiceError) as raised:
        check(outcome)
    assert (raised.value.code, raised.value.status, raised.value.retry_after_s) == ("queue_unavailable", 503, 20)


async def test_nobody_who_answers_is_an_unknown_outcome_in_words(unused_tcp_port: int) -> None:
    async with aiohttp.ClientSession() as http:
        outcome = await Sender(f"http://127.0.0.1:{unused_tcp_port}", "token", http).danmaku("r", "hi")
    assert isinstance(outcome, Unknown)
    assert outcome.why.startswith("Cannot connect to host 127.0.0.1")
    with pytest.raises(ServiceError, match=r"^no_answer: Cannot connect"):
        check(outcome)


def raises() -> str:
    raise RuntimeError("the identity service is down")


async def gives() -> str:
    return "token"


@pytest.mark.parametrize(
    ("token", "code", "detail"),
    [
        pytest.param(raises, "no_token", "the identity service is down", id="raises"),
        pytest.param(gives, "no_token", "gives is `async def`; it must be a plain function, and may start a task", id="async"),
        pytest.param(lambda: None, "token_missing", "the token function gave None", id="gives None"),
        pytest.param(lambda: "", "token_missing", "the token function gave an empty text", id="gives an empty text"),
        pytest.param("", "token_missing", "the token is an empty text", id="an empty text"),
        pytest.param(None, "token_missing", "the token is None", id="None"),
        pytest.param(lambda: b"t", "token_invalid", "the token function gave no text: bytes", id="bytes"),
        pytest.param("a\nb", "token_invalid", "the token is a text that no header can hold", id="two lines"),
    ],
)
async def test_without_a_token_that_can_be_sent_the_outcome_is_refused_without_a_request(
    token: Any, code: str, detail: str
) -> None:
    async with aiohttp.ClientSession() as http:
        outcome = await Sender("http://127.0.0.1:1", token, http).danmaku("r", "hi")
    assert outcome == Refused(outcome.id, code, detail)


async def test_a_token_that_is_lost_between_two_retries_leaves_unknown_what_was_sent() -> None:
    ingress, slept, given = Ingress(BUSY), Slept(), iter(["token"])
    async with ingress.sender(token=lambda: next(given)) as sender:
        with running_on(slept):
            outcome = await sender.gift("r", "rose")
    assert isinstance(outcome, Unknown)
    assert outcome.code == "queue_unavailable"


@pytest.mark.parametrize("room", ["", "..", "../x", "a/b", "a?b", "a b", "a\n", "a%2Fb", "房"])
async def test_a_room_that_no_room_can_have_as_its_id_makes_no_request(room: str) -> None:
    async with aiohttp.ClientSession() as http:
        outcome = await Sender("http://127.0.0.1:1", "token", http).danmaku(room, "hi")
    assert isinstance(outcome, Refused)
    assert outcome.code == "room_invalid"


FAST = (429, {"code": "rate_user", "retry_after_s": 2})


@pytest.mark.parametrize(
    ("patience_s", "answers", "waits"),
    [
        pytest.param(0, [FAST], 0, id="none"),
        pytest.param(1.9, [FAST], 0, id="less than the delay"),
        pytest.param(2, [FAST, ACCEPTED], 1, id="as long as the delay"),
        pytest.param(5, [FAST, FAST, FAST], 2, id="until it is used up"),
        pytest.param(5, [FAST, (429, {"code": "slow_mode", "retry_after_s": 0}), ACCEPTED], 2, id="at once"),
        pytest.param(60, [(403, {"code": "muted", "retry_after_s": 2})], 0, id="no rate"),
    ],
)
async def test_a_sender_with_patience_sends_again_what_was_refused_for_its_rate(
    patience_s: float, answers: list[tuple[int, dict[str, Any]]], waits: int
) -> None:
    ingress, slept = Ingress(*answers), Slept()
    async with ingress.sender(patience_s=patience_s) as sender:
        with running_on(slept):
            outcome = await sender.danmaku("r", "hi")
    assert isinstance(outcome, Accepted) is (answers[-1] is ACCEPTED)
    assert len(slept.delays_s) == waits
    assert len(set(ingress.ids)) == 1, "the same id: nothing happens twice"
    assert ingress.answers == []


@pytest.mark.parametrize(("seeds", "same"), [((1, 1), True), ((1, 2), False)])
async def test_a_seed_repeats_the_ids_and_the_delays(seeds: tuple[int, int], *, same: bool) -> None:
    first, second = Ingress(BUSY, ACCEPTED), Ingress(BUSY, ACCEPTED)
    outcomes = [await give(ingress, seed=seed) for ingress, seed in zip((first, second), seeds, strict=True)]
    assert (outcomes[0] == outcomes[1]) is same
    assert (first.ids == second.ids) is same
