"""The review hook: a real HTTP service beside a real ingress app."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from ingress.review import FAILURES, OPEN_S, CircuitBreaker
from liveroom.web import serve
from tests.ingress.harness import Served, headers_of, served


class Hook:
    """Answers as told; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Any = {"action": "allow"}
        self.status = 200
        self.wait_s = 0.0

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        await asyncio.sleep(self.wait_s)
        body = self.answer if isinstance(self.answer, str) else json.dumps(self.answer)
        return web.Response(status=self.status, text=body)


@asynccontextmanager
async def hooked(**settings: Any) -> AsyncIterator[tuple[Hook, Served]]:
    hook, app = Hook(), web.Application()
    app.router.add_post("/review", hook.handle)
    async with (
        serve(app, "127.0.0.1", 0, shutdown_timeout_s=0.2) as (_, port),
        served(review_url=f"http://127.0.0.1:{port}/review", **settings) as ingress,
    ):
        yield hook, ingress


async def say(ingress: Served, text: str = "hi") -> tuple[int, dict[str, Any]]:
    async with ingress.http.post("/v1/rooms/r/danmaku", json={"text": text}, headers=headers_of()) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_it_allows_changes_and_refuses() -> None:
    async with hooked() as (hook, ingress):
        assert (await say(ingress))[0] == 202
        (question,) = hook.asked
        assert {name: question[name] for name in ("room", "user", "role", "kind", "text")} == {
            "room": "r",
            "user": "u1",
            "role": "viewer",
            "kind": "danmaku",
            "text": "hi",
        }
        hook.answer = {"action": "change", "text": "HI"}
        status, body = await say(ingress)
        assert (status, body["text"]) == (202, "HI")
        hook.answer = {"action": "refuse", "why": "no ads"}
        status, body = await say(ingress)
        assert (status, body["code"], body["detail"]) == (403, "review", "no ads")
        texts = [json.loads(bytes(record.items[0].data))["text"] for record in ingress.writer.taken]
        assert texts == ["hi", "HI"]
        async with ingress.http.post("/v1/rooms/r/gifts", json={"gift": "g"}, headers=headers_of()) as answer:
            assert answer.status == 202
        assert len(hook.asked) == 3, "gifts are not reviewed"


@pytest.mark.parametrize("fallback", ["allow", "refuse"])
@pytest.mark.parametrize(
    ("answer", "status", "wait_s"),
    [
        pytest.param({"action": "allow"}, 200, 30.0, id="too late"),
        pytest.param({"action": "allow"}, 500, 0, id="an error"),
        pytest.param("", 200, 0, id="nothing"),
        pytest.param("x" * 100_000, 200, 0, id="too much"),
        pytest.param({"action": "maybe"}, 200, 0, id="something else"),
        pytest.param({"action": "change", "text": ""}, 200, 0, id="a change to nothing"),
        pytest.param({"action": "change", "text": "x" * 201}, 200, 0, id="a change to too much"),
    ],
)
async def test_without_a_usable_answer_the_fallback_decides(fallback: str, answer: Any, status: int, wait_s: float) -> None:
    async with hooked(review_fallback=fallback) as (hook, ingress):
        hook.answer, hook.status, hook.wait_s = answer, status, wait_s
        async with asyncio.timeout(10):
            got, body = await say(ingress)
        assert (got, body.get("code")) == ((202, None) if fallback == "allow" else (403, "review"))


async def test_after_failures_in_a_row_it_is_not_asked_for_a_while() -> None:
    async with hooked() as (hook, ingress):
        hook.status = 500
        for _ in range(FAILURES + 20):
            assert (await say(ingress))[0] == 202
        assert len(hook.asked) == FAILURES
        assert ingress.count("liveroom_ingress_reviews_total", outcome="fallback") == FAILURES + 20


def test_the_breaker_asks_once_after_a_while_and_closes_when_that_is_answered() -> None:
    breaker = CircuitBreaker()
    for number in range(FAILURES):
        assert breaker.may_ask(0)
        assert breaker.failed(0) == (number == FAILURES - 1)
    assert [breaker.may_ask(now_s) for now_s in (0, OPEN_S - 0.1, OPEN_S, OPEN_S + 0.1)] == [False, False, True, False]
    breaker.failed(OPEN_S + 1)
    assert [breaker.may_ask(now_s) for now_s in (OPEN_S + 2, 2 * OPEN_S + 1)] == [False, True]
    breaker.answered()
    assert breaker.may_ask(2 * OPEN_S + 1)


async def test_without_a_hook_nobody_is_asked() -> None:
    async with served() as ingress:
        assert (await say(ingress))[0] == 202
        assert ingress.count("liveroom_ingress_reviews_total", outcome="allow") == 0
