"""How calls of the SDK fail: with one class of errors, whose code and words say what happened."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import BrowserContext, Page, Route

from devstack.page_server import FOLDER
from liveroom.errors import Code, ProblemError
from liveroom.ports import HOST, free_ports
from liveroom.web import cors, problems, serve
from tests.browser.chromium import chromium, pages
from tests.rooms import DEADLINE_S, Rooms, comes, serving_rooms

pytestmark = pytest.mark.asyncio(loop_scope="module")
FAIL = """async ([ingress, token, room, body]) => {
    const { LiveRoomError, Refused, Sender } = await import("/sdk/liveroom.js");
    const made = (value) => (value && value.made !== undefined ? eval(value.made) : value);
    const given = token && token.made !== undefined ? () => made(token) : token;
    const before = performance.getEntriesByType("resource").length;
    const sender = new Sender({ ingress, token: given, attempts: 1 });
    const error = await sender.send(made(room), "danmaku", made(body)).then(() => null, (error) => error);
    const { code, status, detail, room: named, retryAfterS, untilMs, requestId, cause } = error;
    return {
        code, status, detail, room: named, retryAfterS, untilMs, requestId, cause: cause ? cause.message : null,
        isOfTheClass: error instanceof LiveRoomError && error instanceof Error, isRefused: error instanceof Refused,
        requests: performance.getEntriesByType("resource").length - before,
    };
}"""
WATCH = """async ([scheduler, token]) => {
    const { LiveRoom } = await import("/sdk/liveroom.js");
    window.states = [];
    window.effects = [];
    const given = token && token.made !== undefined ? () => eval(token.made) : token;
    const onState = ({ state, failure, refused }) =>
        states.push({ state, code: failure?.code ?? "", detail: failure?.detail ?? "", isRefused: refused !== null });
    const onEffect = (effect) => effects.push(effect);
    window.live = new LiveRoom({ scheduler, rooms: ["a"], token: given, onState, onEffect }).start();
}"""
FAILED = "() => states.find(({ state, code }) => state === 'waiting' && code)"
HASTE = """() => {
    const real = window.setTimeout;
    window.setTimeout = (done, ms, ...more) => real(done, ms === 5000 ? 0 : ms, ...more);
}"""
# `end` and `start` in a callback, at the first thing of this type; what comes after it is noted.
ANEW = """async ([scheduler, type]) => {
    const { LiveRoom } = await import("/sdk/liveroom.js");
    window.types = [];
    let isAnew = false;
    const anew = (seen) => {
        types.push(seen);
        if (isAnew || seen !== type) return;
        isAnew = true;
        live.end();
        types.splice(0, types.length, "anew");
        live.start();
    };
    const onEffect = ({ type }) => anew(type);
    const onState = ({ state }) => state === "ended" && anew(state);
    window.live = new LiveRoom({ scheduler, rooms: ["a"], onEffect, onState }).start();
}"""
ENTERED = "(count) => effects.filter(({ type }) => type === 'entered').length === count"
ENDED = "(count) => effects.filter(({ type }) => type === 'ended').length === count"


class Service:
    """An ingress that refuses as the real one does, to pages of some origins."""

    def __init__(self) -> None:
        self.origins: tuple[str, ...] = ("*",)
        self.refusal: ProblemError | None = None
        self.answer: tuple[int, str] | None = None
        self.sent = 0

    async def _send(self, _: web.Request) -> web.Response:
        self.sent += 1
        if self.refusal is not None:
            raise self.refusal
        if self.answer is None:
            await asyncio.sleep(3600)
        assert self.answer is not None
        status, body = self.answer
        return web.Response(status=status, text=body, content_type="text/html")

    def app(self) -> web.Application:
        app = web.Application(middlewares=[cors(self.origins), problems()])
        app.router.add_post("/v1/rooms/{room}/danmaku", self._send)
        return app


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[BrowserContext]:
    """One browser for all: each test has a page of its own."""
    async with pages() as url, chromium() as one:
        context = await one.new_context(bypass_csp=True, base_url=url)  # the trials make values by `eval`
        yield context


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: BrowserContext) -> AsyncIterator[Page]:
    async with asyncio.timeout(3 * DEADLINE_S):
        page = await browser.new_page()
        await page.goto("/sdk/session.js")
        yield page
        await page.close()


@pytest_asyncio.fixture(loop_scope="module")
async def rooms() -> AsyncIterator[Rooms]:
    async with serving_rooms() as services:
        yield services


async def fail(page: Page, url: str, token: Any = "t", room: Any = "a", body: Any = "hi") -> dict[str, Any]:
    """Send, and return how that failed; a token, a room and a body may be `made` by a script."""
    sent = {"text": "hi"} if body == "hi" else body
    failed: dict[str, Any] = await page.evaluate(FAIL, [url, token, room, sent])
    assert failed.pop("isOfTheClass")
    return failed


async def test_a_refusal_has_what_the_service_said(page: Page) -> None:
    service = Service()
    service.refusal = ProblemError(Code.BANNED, "spam", 600, until_ms=5000, room="a", request_id="r-7")
    async with serve(service.app(), HOST, 0) as (_, port):
        failed = await fail(page, f"http://{HOST}:{port}")
    wanted = {"code": "banned", "status": 403, "detail": "spam", "room": "a", "retryAfterS": 600, "untilMs": 5000}
    assert failed == wanted | {"requestId": "r-7", "cause": None, "isRefused": True, "requests": 1}


async def test_what_is_no_answer_of_the_service_is_told_from_one(page: Page) -> None:
    service = Service()
    answers = [
        (502, "<html>bad gateway</html>", "http_error", True),
        (403, '{"error":"log in"}', "http_error", True),
        (500, "null", "http_error", True),
        (200, "<html>log in</html>", "bad_answer", False),
        (202, "{}", "bad_answer", False),
    ]
    async with serve(service.app(), HOST, 0) as (_, port):
        for status, body, code, is_refused in answers:
            service.answer = (status, body)
            failed = await fail(page, f"http://{HOST}:{port}")
            assert (failed["code"], failed["status"], failed["isRefused"]) == (code, status, is_refused), body


async def test_a_service_that_does_not_know_the_origin_is_told_from_one_that_is_gone(page: Page) -> None:
    service = Service()
    service.origins = ("http://another.example",)
    [nobody] = free_ports(1)
    async with serve(service.app(), HOST, 0) as (_, port):
        unknown = await fail(page, f"http://{HOST}:{port}")
        gone = await fail(page, f"http://{HOST}:{nobody}")
        own = await page.evaluate("location.origin")
    assert [one["code"] for one in (unknown, gone)] == ["network"] * 2
    assert not any(one["isRefused"] or one["status"] for one in (unknown, gone))
    assert unknown["detail"].startswith(f"http://{HOST}:{port} answers, but not to this page")
    assert gone["detail"].startswith(f"http://{HOST}:{nobody} cannot be reached")
    for one in (unknown, gone):
        assert own in one["detail"]
        assert "LIVEROOM_ORIGINS" in one["detail"]
    assert service.sent == 0


async def test_a_device_that_is_offline_says_so(page: Page) -> None:
    await page.evaluate("import('/sdk/liveroom.js').then(() => null)")
    await page.context.set_offline(True)
    failed = await fail(page, f"http://{HOST}:9")
    await page.context.set_offline(False)
    assert (failed["code"], failed["detail"]) == ("network", "this device is offline")


async def test_no_answer_in_time_has_a_code_of_its_own(page: Page) -> None:
    late = """(url) => import("/sdk/liveroom.js")
        .then(({ ask }) => ask(url, { timeoutS: 0.2, method: "POST" }))
        .catch((error) => error.code)"""
    aborted = """(url) => import("/sdk/liveroom.js").then(({ ask }) => {
        const controller = new AbortController();
        setTimeout(() => controller.abort(), 100);
        return ask(url, { signal: controller.signal, method: "POST" });
    }).catch((error) => error.code)"""
    service = Service()
    async with serve(service.app(), HOST, 0, shutdown_timeout_s=0.2) as (_, port):
        url = f"http://{HOST}:{port}/v1/rooms/a/danmaku"
        assert [await page.evaluate(script, url) for script in (late, aborted)] == ["timeout", "aborted"]


async def test_without_a_token_no_request_is_made(page: Page) -> None:
    tokens: list[tuple[Any, str, str]] = [
        (None, "token_missing", "the token is null"),
        ("", "token_missing", "the token is an empty text"),
        ({"made": "null"}, "token_missing", "the token function gave null"),
        ({"made": "undefined"}, "token_missing", "gave undefined"),
        ({"made": "Promise.resolve('')"}, "token_missing", "an empty text"),
        ({"made": "({ token: 't' })"}, "token_invalid", "object"),
        ({"made": "'<html>log in</html> <p>'"}, "token_invalid", "spaces"),
        ({"made": "Promise.reject(new Error('log in'))"}, "token_failed", "log in"),
    ]
    for token, code, words in tokens:
        failed = await fail(page, f"http://{HOST}:9", token)
        assert (failed["code"], failed["status"], failed["requests"], failed["isRefused"]) == (code, 0, 0, False), token
        assert words in failed["detail"]


async def test_what_cannot_be_written_fails_in_the_same_way(page: Page) -> None:
    for body in ("({ text: 1n })", "null", "'hi'", "['hi']", "1"):
        odd = await fail(page, f"http://{HOST}:9", body={"made": body})
        assert (odd["code"], odd["requests"]) == ("bad_json", 0), body
    for room in ("'\\ud800'", "'.'", "'..'", "''", "'a b'", "'a/../b'", "'r'.repeat(65)", "null", "undefined"):
        odd = await fail(page, f"http://{HOST}:9", room={"made": room})
        assert (odd["code"], odd["requests"]) == ("room_invalid", 0), room


async def test_a_token_function_that_never_answers_fails_after_a_while(page: Page, rooms: Rooms) -> None:
    await page.evaluate(HASTE)
    token = {"made": "new Promise(() => {})"}
    failed = await fail(page, f"http://{HOST}:9", token)
    assert (failed["code"], failed["requests"]) == ("token_failed", 0)
    assert "no token within 5 s" in failed["detail"]
    await watch(page, rooms.url, token)
    watched = await (await page.wait_for_function(FAILED)).json_value()
    assert (watched["code"], watched["detail"]) == (failed["code"], failed["detail"])


# ---- watching
async def watch(page: Page, scheduler: str, token: Any = None) -> None:
    await page.evaluate(WATCH, [scheduler, token])


async def test_a_viewer_is_told_why_it_cannot_connect_and_that_nobody_refused_it(page: Page) -> None:
    service = Service()
    service.origins = ("http://another.example",)
    async with serve(service.app(), HOST, 0) as (_, port):
        await watch(page, f"http://{HOST}:{port}")
        failed = await (await page.wait_for_function(FAILED)).json_value()
    assert (failed["code"], failed["isRefused"]) == ("network", False)
    assert "LIVEROOM_ORIGINS" in failed["detail"]


async def test_a_viewer_is_told_that_no_gateway_lets_it_connect(page: Page, rooms: Rooms) -> None:
    [nobody] = free_ports(1)
    rooms.public = f"{HOST}:{nobody}"
    await watch(page, rooms.url)
    failed = await (await page.wait_for_function(FAILED)).json_value()
    assert failed["code"] == "network"
    assert f"ws://{HOST}:{nobody}" in failed["detail"]


async def test_a_token_function_that_gives_nothing_makes_nobody_a_guest(page: Page, rooms: Rooms) -> None:
    for given in ("null", "undefined", "''"):
        await watch(page, rooms.url, {"made": given})
        failed = await (await page.wait_for_function(FAILED)).json_value()
        assert (failed["code"], failed["isRefused"]) == ("token_missing", False)
        await page.evaluate("live.end()")
    assert rooms.entries == []


async def test_a_scheduler_that_names_no_gateway_that_can_be_called_gives_no_answer(page: Page, rooms: Rooms) -> None:
    answers: list[tuple[dict[str, Any], str]] = [
        ({"gateways": [None], "ticket": "t"}, "names a gateway without an address"),
        ({"gateways": [{"id": "e"}], "ticket": "t"}, "names a gateway without an address"),
        ({"gateways": [], "ticket": "t"}, "names no gateways"),
        ({"gateways": [{"id": "e", "url": "ws://e/v1/live"}]}, "gives no ticket"),
    ]
    for answer, words in answers:
        rooms.refusals.append((200, {}, answer))
        await watch(page, rooms.url)
        failed = await (await page.wait_for_function(FAILED)).json_value()
        assert (failed["code"], failed["detail"]) == ("bad_answer", f"{rooms.url} {words}")
        await page.evaluate("live.end()")


async def test_a_page_over_https_is_told_that_it_may_not_call_services_without_tls(browser: BrowserContext) -> None:
    page = await browser.new_page()
    await page.route("https://page.example/**", _answer)
    await page.goto("https://page.example/sdk/session.js")
    failed = await fail(page, "http://service.example")
    assert (failed["code"], failed["status"]) == ("network", 0)
    assert failed["detail"].endswith("connect to https and wss only")
    await watch(page, "https://page.example")
    watched = await (await page.wait_for_function(FAILED)).json_value()
    assert watched["code"] == "network"
    assert "ws://gateway.example/v1/live" in watched["detail"]
    assert watched["detail"].endswith("connect to https and wss only")
    await page.close()


async def _answer(route: Route) -> None:
    """Give the pages over https, and an entry to a gateway without TLS."""
    path = urlsplit(route.request.url).path
    if path == "/v1/entry":
        await route.fulfill(json={"gateways": [{"id": "e", "url": "ws://gateway.example/v1/live"}], "ticket": "t"})
    else:
        await route.fulfill(path=FOLDER / path.removeprefix("/"), content_type="text/javascript")


@pytest.mark.parametrize("moment", ["delivered", "ended"])
async def test_nothing_of_the_old_session_comes_after_a_new_start_in_a_callback(page: Page, rooms: Rooms, moment: str) -> None:
    await page.evaluate(ANEW, [rooms.url, moment])
    await page.wait_for_function("types.includes('progress')")
    if moment == "ended":
        await page.evaluate("live.end()")
    else:
        messages: list[dict[str, Any]] = [
            {"seq": seq, "kind": "danmaku", "id": f"i{seq}", "user": "u", "at": 1, "data": {}} for seq in (11, 12, 13)
        ]
        await rooms.push({"t": "batch", "room": "a", "epoch": 1, "seq": [11, 13], "rseq": 2, "at": 1}, *messages)
    await page.wait_for_function("types[0] === 'anew' && types.includes('progress')")
    assert await page.evaluate("types") == ["anew", "entered", "progress"]
    await page.evaluate("live.end()")
    await comes(lambda: not rooms.open)


async def test_a_new_start_at_the_last_rooms_refusal_leaves_no_connection_behind(page: Page, rooms: Rooms) -> None:
    rooms.refused["a"] = {"code": "banned"}
    await page.evaluate(ANEW, [rooms.url, "told"])
    await page.wait_for_function("types[0] === 'anew' && types.includes('ended')")
    assert await page.evaluate("types") == ["anew", "told", "ended", "ended"], "the second refusal, and the state"
    await comes(lambda: not rooms.open)


async def test_whoever_was_banned_begins_anew_and_is_in_once_the_ban_is_over(page: Page, rooms: Rooms) -> None:
    rooms.refused["a"] = {"code": "banned", "detail": "spam", "until_ms": 5000}
    await watch(page, rooms.url)
    for ended in range(1, 3):
        await page.wait_for_function(ENDED, arg=ended)
        assert len(rooms.entries) == ended, "it asks for nothing more"
        await page.evaluate("live.start(); live.start()")
    await page.wait_for_function(ENDED, arg=3)
    del rooms.refused["a"]
    await page.evaluate("live.join('b'); live.start()")
    await page.wait_for_function(ENTERED, arg=2)
    told = await page.evaluate(
        "effects.filter(({ type }) => type === 'ended').map(({ refusal }) => [refusal.detail, refusal.until_ms])"
    )
    assert told == [["spam", 5000]] * 3
    assert rooms.entries[-1] == ["a", "b"]
    assert len(rooms.entries) == 4
    await page.evaluate("live.end(); live.start()")
    await page.wait_for_function(ENTERED, arg=4)


async def test_a_ban_that_the_scheduler_tells_comes_with_its_reason_and_end_too(page: Page, rooms: Rooms) -> None:
    rooms.refusals.append((403, {}, {"code": "banned", "detail": "spam", "until_ms": -1, "room": "a", "request_id": "r-9"}))
    await watch(page, rooms.url)
    await page.wait_for_function(ENDED, arg=1)
    [told, ended] = await page.evaluate("effects")
    frame = {
        "t": "error",
        "code": "banned",
        "detail": "spam",
        "room": "a",
        "until_ms": -1,
        "retry_after_s": None,
        "request_id": "r-9",
    }
    assert told == {"type": "told", "what": frame}
    assert (ended["rule"]["code"], ended["refusal"]) == (4003, frame)
