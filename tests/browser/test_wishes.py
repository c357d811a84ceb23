"""The page's SDK: wishes in every state, sleep, frozen pages, and browsers without newer functions.

It runs against services that keep the rules of tickets, in a real browser.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page

from devstack.page_server import FOLDER
from liveroom.ports import HOST
from liveroom.topics import DEVICE_ID
from liveroom.web import serve
from tests.browser.chromium import chromium, pages
from tests.rooms import DEADLINE_S, Rooms, comes, serving_rooms

WATCH = """async ([scheduler, rooms, options]) => {
    const { LiveRoom } = await import("/sdk/liveroom.js");
    window.seen = [];
    window.states = [];
    const onEffect = (effect) => {
        if (effect.type === "told") seen.push(`told ${effect.what.code} ${effect.what.room}`);
        if (effect.type === "entered") seen.push(`entered ${effect.room}`);
        if (effect.type === "delivered") seen.push(`${effect.message.seq}${effect.late ? " late" : ""}`);
        if (effect.type === "ended") seen.push(`ended ${effect.rule.code}`);
    };
    const onState = (told) => states.push([told.state, told.retryInS]);
    window.live = new LiveRoom({ scheduler, rooms, onEffect, onState, ...options }).start();
}"""
STATE = "states.length ? states[states.length - 1][0] : ''"
# What came to one of the great browsers after the first months of 2021, by the tables of MDN.
YOUNGER = """
for (const [owner, names] of [
    [AbortSignal, ["any", "timeout", "abort"]],
    [AbortSignal.prototype, ["throwIfAborted", "reason"]],
    [Array, ["fromAsync"]],
    [Array.prototype, ["at", "findLast", "findLastIndex", "toSorted", "toReversed", "toSpliced", "with", "group"]],
    [String.prototype, ["at", "isWellFormed", "toWellFormed"]],
    [Uint8Array.prototype.__proto__, ["at", "findLast", "findLastIndex", "toSorted", "toReversed", "with"]],
    [Object, ["hasOwn", "groupBy"]],
    [Map, ["groupBy"]],
    [Set.prototype, ["union", "intersection", "difference", "isSubsetOf", "isSupersetOf", "isDisjointFrom"]],
    [Promise, ["withResolvers", "try"]],
    [URL, ["canParse", "parse"]],
    [Response, ["json"]],
    [Iterator.prototype, ["map", "filter", "take", "toArray", "forEach", "some", "every", "find", "reduce", "flatMap", "drop"]],
    [crypto, ["randomUUID", "subtle"]],
    [Crypto.prototype, ["randomUUID", "subtle"]],
    [Navigator.prototype, ["locks", "storage", "userAgentData", "scheduling"]],
    [Element.prototype, ["checkVisibility", "setHTMLUnsafe"]],
    [HTMLElement.prototype, ["showPopover", "hidePopover", "togglePopover"]],
    [window, ["structuredClone", "reportError", "scheduler", "requestIdleCallback", "BroadcastChannel", "navigation"]],
    [window, ["CompressionStream", "DecompressionStream", "CloseWatcher", "EditContext", "Iterator", "WeakRef", "Highlight"]],
]) for (const name of names) delete owner[name];
if (window.Intl) delete Intl.Segmenter;
"""
LEFT = "[AbortSignal.any, AbortSignal.timeout, window.structuredClone, [].at, Object.hasOwn, Object.groupBy, crypto.randomUUID]"
THROWS = """() => {
    live.onEffect = ({ message }) => {
        if (message) seen.push(`got ${message.seq}`);
        throw new Error("mine");
    };
}"""
SLEEP = """
    window.sleptMs = 0;
    const real = Date.now.bind(Date);
    Date.now = () => real() + window.sleptMs;
"""


@asynccontextmanager
async def at_page(init: str = "") -> AsyncIterator[tuple[Page, Rooms]]:
    """A page of our origin, and the services."""
    async with serving_rooms() as rooms, pages() as url, chromium() as browser, asyncio.timeout(3 * DEADLINE_S):
        page = await browser.new_page()
        if init:
            await page.add_init_script(init)
        await page.goto(f"{url}/sdk/session.js")
        yield page, rooms


async def watch(page: Page, rooms: Rooms, *wished: str, **options: Any) -> None:
    await page.evaluate(WATCH, [rooms.url, list(wished), options])


async def sees(page: Page, *lines: str) -> None:
    """Return when the page has seen these, in whatever order."""
    await page.wait_for_function(
        "(lines) => lines.every((line) => seen.includes(line))", arg=list(lines), timeout=1000 * DEADLINE_S
    )


async def is_in_state(page: Page, state: str) -> None:
    await page.wait_for_function(f"(state) => ({STATE}) === state", arg=state, timeout=1000 * DEADLINE_S)


def batch(first: int, last: int, rseq: int, *messages: tuple[int, int]) -> list[dict[str, Any]]:
    head = {"t": "batch", "room": "a", "epoch": 1, "seq": [first, last], "rseq": rseq, "at": 1, "pos": f"0.{last}"}
    return [head, *(line(*numbers) for numbers in messages)]


def line(seq: int, rseq: int = 0) -> dict[str, Any]:
    kind = {"kind": "gift", "rseq": rseq} if rseq else {"kind": "danmaku"}
    return {"seq": seq, "id": f"i{seq}", "user": "u", "at": 1, "data": {}, **kind}


# ---- wishes
async def test_a_room_joined_while_the_page_connects_is_not_refused_by_the_older_ticket() -> None:
    async with at_page() as (page, rooms):
        rooms.hold()
        await watch(page, rooms, "a")
        await comes(lambda: rooms.entries)
        await page.evaluate("live.join('b')")
        rooms.release()
        await sees(page, "entered a", "entered b")
        assert rooms.entries == [["a"], ["a", "b"]]
        assert not [told for told in await page.evaluate("seen") if told.startswith("told")]


async def test_a_room_joined_in_the_room_gets_a_ticket_of_its_own() -> None:
    async with at_page() as (page, rooms):
        await watch(page, rooms, "a")
        await sees(page, "entered a")
        await page.evaluate("live.join('b'); live.join('c')")
        await sees(page, "entered b", "entered c")
        assert not [told for told in await page.evaluate("seen") if told.startswith("told")]
        assert rooms.entries[-1] == ["a", "b", "c"]


async def test_leaving_the_only_room_rests_and_another_wish_wakes() -> None:
    async with at_page() as (page, rooms):
        await watch(page, rooms, "a")
        await sees(page, "entered a")
        await page.evaluate("live.leave('a')")
        await is_in_state(page, "idle")
        await comes(lambda: not rooms.open)
        assert await page.evaluate("live.session.wakeAt") is None, "no request is due, ever"
        assert rooms.entries == [["a"]]
        await page.evaluate("live.join('b')")
        await sees(page, "entered b")
        await page.evaluate("live.leave('b'); live.join('c')")
        await sees(page, "entered c")
        assert rooms.entries == [["a"], ["b"], ["c"]]


async def test_a_page_without_a_room_asks_for_nothing() -> None:
    async with at_page() as (page, rooms):
        await watch(page, rooms)
        await is_in_state(page, "idle")
        await page.evaluate("live.join('a'); live.leave('a'); live.join('b')")
        await sees(page, "entered b")
        assert [] not in rooms.entries


async def test_the_only_room_is_left_while_the_page_connects() -> None:
    async with at_page() as (page, rooms):
        rooms.hold()
        await watch(page, rooms, "a")
        await comes(lambda: rooms.entries)
        await page.evaluate("live.leave('a')")
        rooms.release()
        await is_in_state(page, "idle")
        assert (rooms.entries, rooms.joins) == ([["a"]], [])


@pytest.mark.parametrize(
    ("status", "code"), [(400, "bad_request"), (401, "token_expired"), (403, "forbidden"), (404, "room_invalid")]
)
async def test_an_entry_that_cannot_succeed_is_asked_for_once(status: int, code: str) -> None:
    async with at_page() as (page, rooms):
        rooms.refusals.append((status, {}, {"code": code}))
        await watch(page, rooms, "a", token="t")
        await sees(page, f"told {code} a", "ended 1000")
        assert await page.evaluate(STATE) == "ended"
        assert rooms.entries == [["a"]]


@pytest.mark.parametrize(
    ("status", "proxy"),
    [
        (404, "<html>default backend</html>"),
        (200, "<html>log in</html>"),
        (403, {"code": "AccessDenied"}),
        (404, {"code": 404}),
    ],
)
async def test_a_refusal_of_a_proxy_ends_nothing(status: int, proxy: str | dict[str, Any]) -> None:
    async with at_page() as (page, rooms):
        rooms.refusals.append((status, {}, proxy))
        await watch(page, rooms, "a")
        await sees(page, "entered a")
        assert rooms.entries == [["a"], ["a"]]
        assert await page.evaluate("seen") == ["entered a"]


async def test_beside_a_proxy_that_refuses_the_next_scheduler_is_asked_at_once() -> None:
    async with at_page("Math.random = () => { window.chance = 1 - (window.chance ?? 1); return chance; };") as (page, rooms):
        rooms.refusals += [(404, {}, "<html>default backend</html>"), (403, {}, {"code": "forbidden", "room": "a"})]
        await page.evaluate(WATCH, [[rooms.url, rooms.url + "/"], ["a", "b"], {}])
        await sees(page, "told forbidden a", "entered b")
        assert rooms.entries == [["a", "b"], ["a", "b"], ["b"]]
        assert [state for state, _ in await page.evaluate("states")].count("waiting") == 1


async def test_a_token_function_is_asked_again() -> None:
    async with at_page() as (page, rooms):
        rooms.refusals.append((401, {}, {"code": "token_expired"}))
        await page.evaluate("window.given = 0")
        await page.evaluate(WATCH.replace("...options", "token: () => `t${(given += 1)}`"), [rooms.url, ["a"], {}])
        await sees(page, "entered a")
        assert await page.evaluate("given") == 2


async def test_a_refusal_for_good_of_one_room_leaves_the_others() -> None:
    async with at_page() as (page, rooms):
        rooms.refusals.append((403, {}, {"code": "forbidden", "room": "a"}))
        await watch(page, rooms, "a", "b")
        await sees(page, "told forbidden a", "entered b")
        assert rooms.entries == [["a", "b"], ["b"]]


@pytest.mark.parametrize("problem", [{"code": "rate_address"}, {"code": "rate_address", "retry_after_s": 30}])
async def test_a_refused_entry_is_repeated_no_sooner_than_it_asks_for(problem: dict[str, Any]) -> None:
    async with at_page("Math.random = () => 0;") as (page, rooms):
        rooms.refusals.append((429, {"Retry-After": "30"}, problem))
        await watch(page, rooms, "a")
        await is_in_state(page, "waiting")
        assert await page.evaluate("states[states.length - 1][1]") > 29.9
        await page.evaluate("window.dispatchEvent(new Event('online'))")
        assert await page.evaluate("live.session.retryAt >= live.session.notBefore")


async def test_a_refused_pull_is_repeated_no_sooner_than_its_body_asks_for() -> None:
    async with at_page("Math.random = () => 0;") as (page, rooms):
        rooms.pull_refusal = {"code": "rate_user", "retry_after_s": 600}
        await watch(page, rooms, "a")
        await sees(page, "entered a")
        await rooms.push(*batch(13, 13, 5, (13, 5)))
        await page.wait_for_function("() => live.session.rooms.get('a').pulls === 1", timeout=1000 * DEADLINE_S)
        assert await page.evaluate("live.session.rooms.get('a').pullAt - performance.now() / 1000") > 600 - DEADLINE_S
        await rooms.open[0].close(code=1012)
        await comes(lambda: len(rooms.joins) == 2)
        await sees(page, "entered a")
        assert await page.evaluate("live.session.rooms.get('a').pullAt - performance.now() / 1000") > 600 - 3 * DEADLINE_S
        assert rooms.pulls == 1


async def test_a_connection_in_no_room_is_not_open_to_people() -> None:
    async with at_page() as (page, rooms):
        rooms.refused["a"] = {"code": "odd"}  # nobody knows whether it helps to try again
        await watch(page, rooms, "a")
        await sees(page, "told odd a")
        assert "open" not in [state for state, _ in await page.evaluate("states")]
        rooms.refused.clear()
        await page.evaluate("live.join('b')")
        await sees(page, "entered a", "entered b")
        assert await page.evaluate(STATE) == "open"


# ---- sleep
@pytest.mark.parametrize("is_silent", [False, True], ids=["the connection lives", "the connection is dead"])
async def test_a_device_that_slept_probes_its_connection(is_silent: bool) -> None:
    async with at_page(SLEEP) as (page, rooms):
        await watch(page, rooms, "a")
        await sees(page, "entered a")
        rooms.is_silent = is_silent
        await page.evaluate("window.sleptMs = 600_000")
        await comes(lambda: rooms.beats)
        if is_silent:
            await comes(lambda: len(rooms.joins) == 2)
        else:
            assert len(rooms.joins) == 1


async def test_a_device_that_slept_before_it_was_refused_waits_as_long_as_the_refusal_asks_for() -> None:
    async with at_page(SLEEP) as (page, rooms):
        rooms.hold()
        rooms.refusals.append((503, {"Retry-After": "600"}, {"code": "no_gateway"}))
        await watch(page, rooms, "a")
        await comes(lambda: rooms.entries)
        await page.evaluate("window.sleptMs = 3600_000")
        rooms.release()
        await is_in_state(page, "waiting")
        await page.evaluate("window.dispatchEvent(new Event('online'))")  # it looks at the clocks
        assert await page.evaluate("live.session.retryAt - performance.now() / 1000") > 600 - 3 * DEADLINE_S


async def test_a_device_that_slept_while_it_waited_waits_no_longer() -> None:
    async with at_page(SLEEP) as (page, rooms):
        rooms.refusals.append((429, {"Retry-After": "600"}, {"code": "rate_user"}))
        await watch(page, rooms, "a")
        await is_in_state(page, "waiting")
        await page.evaluate("window.sleptMs = 3600_000")
        await sees(page, "entered a")


async def test_a_clock_that_is_set_back_is_no_sleep_and_later_sleep_is_noticed() -> None:
    async with at_page(SLEEP) as (page, rooms):
        await watch(page, rooms, "a")
        await sees(page, "entered a")
        before = await page.evaluate("live.aheadS")
        await page.evaluate("window.sleptMs = -3600_000")
        await page.wait_for_function("(before) => live.aheadS < before - 3000", arg=before, timeout=1000 * DEADLINE_S)
        assert rooms.beats == 0
        await page.evaluate("window.sleptMs = -3000_000")
        await comes(lambda: rooms.beats)


async def test_a_frozen_page_that_is_thawed_sees_every_message_once() -> None:
    async with at_page() as (page, rooms):
        await watch(page, rooms, "a")
        await sees(page, "entered a")
        devtools = await page.context.new_cdp_session(page)
        await devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
        await rooms.push(*batch(11, 11, 3, (11, 3)))
        await rooms.push(*batch(12, 12, 3, (12, 0)))
        await devtools.send("Page.setWebLifecycleState", {"state": "active"})
        await rooms.push(*batch(13, 13, 4, (13, 4)))
        await sees(page, "11", "12", "13")
        await comes(lambda: rooms.beats)  # thawed, it makes sure that the connection lives
        assert [each for each in await page.evaluate("seen") if each.isdigit()] == ["11", "12", "13"]
        assert len(rooms.joins) == 1


async def test_a_frozen_page_whose_connection_ended_comes_back_when_it_is_thawed() -> None:
    async with at_page() as (page, rooms):
        await watch(page, rooms, "a")
        await sees(page, "entered a")
        devtools = await page.context.new_cdp_session(page)
        await devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
        await rooms.open[0].close(code=1012)
        await devtools.send("Page.setWebLifecycleState", {"state": "active"})
        await comes(lambda: len(rooms.joins) == 2)
        await is_in_state(page, "open")


# ---- old browsers
async def test_a_browser_of_2021_enters_pulls_and_comes_back() -> None:
    async with at_page(YOUNGER) as (page, rooms):
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        assert await page.evaluate(f"{LEFT}.map((one) => typeof one)") == ["undefined"] * 7
        rooms.pulled = {"room": "a", "epoch": 1, "seq": 13, "rseq": 5, "messages": [line(11, 3), line(12, 4)]}
        await watch(page, rooms, "a")
        await sees(page, "entered a")
        await rooms.push(*batch(13, 13, 5, (13, 5)))
        await sees(page, "13", "11 late", "12 late")
        await rooms.open[0].close(code=1012)
        await comes(lambda: len(rooms.joins) == 2)
        await is_in_state(page, "open")
        await page.evaluate("live.end()")
        assert errors == []


async def test_a_browser_of_2021_reports_what_an_application_throws_and_goes_on() -> None:
    async with at_page(YOUNGER) as (page, rooms):
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        await watch(page, rooms, "a")
        await sees(page, "entered a")
        await page.evaluate(THROWS)
        await rooms.push(*batch(11, 11, 3, (11, 3)))
        await sees(page, "got 11")
        await comes(lambda: errors)
        assert await page.evaluate(STATE) == "open"


async def test_a_page_that_is_no_secure_context_enters_and_names_a_device() -> None:
    name = "insecure.test"
    files = web.Application()
    files.router.add_static("/", FOLDER)
    async with (
        serving_rooms() as rooms,
        serve(files, HOST, 0, shutdown_timeout_s=0.2) as (_, port),
        chromium(f"--host-resolver-rules=MAP {name} {HOST}") as browser,
    ):
        page = await browser.new_page()
        await page.goto(f"http://{name}:{port}/sdk/session.js")
        assert await page.evaluate("[isSecureContext, typeof crypto.randomUUID, typeof crypto.subtle]") == [
            False,
            *["undefined"] * 2,
        ]
        rooms.public = f"{name}:{rooms.port}"
        await page.evaluate(WATCH, [f"http://{rooms.public}", ["a"], {}])
        await sees(page, "entered a")
        assert DEVICE_ID.match(await page.evaluate("live.device"))


async def test_a_pull_that_is_not_answered_is_given_up_in_a_browser_of_2021() -> None:
    hurried = (
        "const set = window.setTimeout; window.setTimeout = (done, ms, ...more) => set(done, ms === 10000 ? 1 : ms, ...more);"
    )
    async with at_page(YOUNGER + hurried) as (page, rooms):
        await page.route("**/messages*", lambda _: None)  # for ever
        await watch(page, rooms, "a")
        await sees(page, "entered a")
        await rooms.push(*batch(13, 13, 5, (13, 5)))
        await page.wait_for_function("() => live.session.rooms.get('a').pulls > 1", timeout=1000 * DEADLINE_S)
