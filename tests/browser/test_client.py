"""The SDK's connection against a gateway of its own, in a page that is too busy for it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
from aiohttp import ClientConnectionResetError, web
from playwright.async_api import Page, Route

from liveroom.kinds import Kind
from liveroom.ports import HOST
from liveroom.tasks import end_tasks
from liveroom.topics import DEVICE_ID
from liveroom.web import serve
from liveroom.wire import SUBPROTOCOL, BatchHeader, Hello, Joined, Message, Pulled, encode_frame, encode_message
from tests.browser.chromium import chromium, pages

DEADLINE_S = 60.0  # nothing here takes so long, on whatever machine
BEAT_S = 0.5
ENTER = """async ([scheduler, device]) => {
    const { LiveRoom } = await import("/sdk/liveroom.js");
    new LiveRoom({ scheduler, rooms: ["r"], device }).start();
}"""
KEPT = "localStorage.getItem('liveroom-device')"
REFUSED = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }"
DROPS = "Storage.prototype.setItem = () => {}"
REFUSE = """async (device) => {
    const { LiveRoom } = await import("/sdk/liveroom.js");
    try {
        new LiveRoom({ scheduler: "", rooms: ["r"], device });
        return null;
    } catch (error) {
        return error.constructor.name;
    }
}"""
ASK = """async () => {
    const { ask } = await import("/sdk/liveroom.js");
    return ask("/busy").catch((refused) => [refused.constructor.name, refused.retryAfterS]);
}"""
SEND = """async () => {
    const { Sender } = await import("/sdk/liveroom.js");
    const delays = [];
    const setReal = window.setTimeout;
    window.setTimeout = (done, ms) => setReal(() => { delays.push(ms / 1000); done(); }, 0);
    await new Sender({ ingress: location.origin, token: "t" }).send("r", "danmaku", {});
    return delays;
}"""
WATCH = """async ([scheduler, busyMs]) => {
    const { LiveRoom } = await import("/sdk/liveroom.js");
    const onEffect = ({ type }) => {
        if (type !== "delivered") return;
        const until = performance.now() + busyMs;
        while (performance.now() < until);
    };
    new LiveRoom({ scheduler, rooms: ["r"], onEffect }).start();
}"""

STREAM = """async (frames) => {
    const { LiveRoom } = await import("/sdk/liveroom.js");
    const seen = [];
    let streams = 0;
    window.EventSource = class {
        constructor() {
            streams += 1;
            setTimeout(() => frames.forEach((data) => this.onmessage({ data })));
        }
        addEventListener() {}
        close() {}
    };
    Math.random = () => 0;
    const onEffect = ({ type }) => seen.push(type);
    new LiveRoom({ scheduler: location.origin, rooms: ["r"], transports: ["events"], onEffect }).start();
    const isOver = () => streams > 1 || seen.includes("lost") || seen.filter((type) => type === "delivered").length === 3;
    while (!isOver()) await new Promise((done) => setTimeout(done, 20));
    return [streams, seen.filter((type) => type === "lost" || type === "delivered")];
}"""

JOIN = """async () => {
    const { LiveRoom } = await import("/sdk/liveroom.js");
    const entries = [];
    const joins = [];
    let streams = 0;
    window.fetch = async (url) => {
        entries.push(new URL(url).searchParams.getAll("room"));
        if (entries.length === 1) live.join("b");
        const gateways = [{ id: "e", url: "ws://gateway/v1/live" }];
        return new Response(JSON.stringify({ gateways, ticket: "t" }));
    };
    window.WebSocket = class {
        static OPEN = 1;
        readyState = 1;
        constructor() {
            streams += 1;
            setTimeout(() => {
                if (entries.length === 2) live.join("c");
                this.onopen?.();
            });
        }
        send(text) { joins.push(JSON.parse(text).room); }
        close() {}
    };
    const live = new LiveRoom({ scheduler: location.origin, rooms: ["a"], transports: ["websocket"] });
    live.start();
    while (joins.length < 3) await new Promise((done) => setTimeout(done, 20));
    return [entries, joins, streams];
}"""


ACCEPTED = '{"id":"i","at_ms":1}'


def batch(seq: int) -> str:
    message = encode_message(Message(seq, Kind.DANMAKU, f"d{seq}", "u", 1, data=msgspec.Raw(b'{"text":"hi"}')))
    return b"\n".join((msgspec.json.encode(BatchHeader("r", 1, (seq, seq), 0, at=1, pos="0.1")), message)).decode()


class Gateway:
    """A scheduler and the gateway it names; one that `floods` pushes as fast as anybody reads."""

    def __init__(self, *, floods: bool) -> None:
        self.floods = floods
        self.port = 0
        self.upgrades = 0
        self.beats: asyncio.Queue[str] = asyncio.Queue()
        self.devices: asyncio.Queue[str] = asyncio.Queue()
        self.app = web.Application()
        self.app.router.add_get("/v1/entry", self.entry)
        self.app.router.add_get("/v1/live", self.live)

    async def entry(self, request: web.Request) -> web.Response:
        self.devices.put_nowait(request.query["device"])
        gateways = [{"id": "e", "url": f"ws://{HOST}:{self.port}/v1/live"}]
        return web.json_response({"gateways": gateways, "ticket": "t"}, headers={"Access-Control-Allow-Origin": "*"})

    async def live(self, request: web.Request) -> web.WebSocketResponse:
        self.upgrades += 1
        socket = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await socket.prepare(request)
        listening = asyncio.create_task(self.listen(socket))
        try:
            await socket.send_str(encode_frame(Hello("e", 1, BEAT_S, 25, "u")).decode())
            await socket.send_str(encode_frame(Joined("r", 1, 0, 0, "0.0")).decode())
            seq = 0
            if not self.floods:
                await listening
            with suppress(ClientConnectionResetError):
                while self.floods:
                    seq += 1
                    await socket.send_str(batch(seq))
                    if seq % 50 == 0:
                        await asyncio.sleep(0)
        finally:
            await end_tasks(listening)
        return socket

    async def listen(self, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if msgspec.json.decode(message.data)["t"] == "hb":
                self.beats.put_nowait(message.data)


@asynccontextmanager
async def serving(*, floods: bool = False) -> AsyncIterator[Gateway]:
    gateway = Gateway(floods=floods)
    async with serve(gateway.app, HOST, 0, shutdown_timeout_s=0.2) as (_, gateway.port):
        yield gateway


async def test_a_page_that_gets_more_than_it_can_take_says_that_it_lives_all_the_same() -> None:
    async with serving(floods=True) as gateway, pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        await page.evaluate(WATCH, [f"http://{HOST}:{gateway.port}", 1])
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(4):
                await gateway.beats.get()
        assert gateway.upgrades == 1


async def entered(gateway: Gateway, page: Page, url: str, device: str | None = None, times: int = 1) -> list[str]:
    """Open the page, enter from it some times, and return the devices that it named."""
    await page.goto(f"{url}/sdk/session.js")
    for _ in range(times):
        await page.evaluate(ENTER, [f"http://{HOST}:{gateway.port}", device])
    async with asyncio.timeout(DEADLINE_S):
        return [await gateway.devices.get() for _ in range(times)]


async def test_a_browser_keeps_the_device_that_it_made_and_names_the_applications_own() -> None:
    async with serving() as gateway, pages() as url, chromium() as browser:
        ours, other = await browser.new_context(), await browser.new_context()
        page = await ours.new_page()
        [first] = await entered(gateway, page, url)
        assert DEVICE_ID.match(first)
        assert await page.evaluate(KEPT) == first
        assert await entered(gateway, page, url) == [first]
        assert await entered(gateway, await ours.new_page(), url, times=2) == [first, first]
        assert await entered(gateway, page, url, "an-app:7") == ["an-app:7"]
        assert await entered(gateway, page, url, "") == [first]
        assert await entered(gateway, await other.new_page(), url) != [first]
        await page.evaluate("localStorage.setItem('liveroom-device', 'a b')")
        [mended] = await entered(gateway, page, url)
        assert DEVICE_ID.match(mended)
        assert await page.evaluate(KEPT) == mended


@pytest.mark.parametrize(
    "broken", [pytest.param(REFUSED, id="refused"), pytest.param(FULL, id="full"), pytest.param(DROPS, id="drops")]
)
async def test_where_the_browser_stores_nothing_a_device_lasts_as_long_as_the_page(broken: str) -> None:
    async with serving() as gateway, pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.add_init_script(broken)
        first, second = await entered(gateway, page, url, times=2)
        assert first == second
        assert DEVICE_ID.match(first)
        [next_page] = await entered(gateway, page, url)
        assert next_page != first


async def test_a_device_that_no_scheduler_takes_is_refused_at_once() -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        refused = [await page.evaluate(REFUSE, device) for device in ["a b", "d" * 65, "\u00e9", "a\n", 42, True, ["a"]]]
        assert refused == ["RangeError"] * 4 + ["TypeError"] * 3


@pytest.mark.parametrize(
    ("header", "body", "delay_s"),
    [
        pytest.param("20", "<html>busy</html>", 20, id="a proxy's page"),
        pytest.param("3", '{"retry_after_s":2.5}', 2.5, id="a problem with a delay of its own"),
        pytest.param("3", '{"retry_after_s":"soon"}', 3, id="another type"),
        pytest.param("86400", "", 86_400, id="a day"),
        pytest.param("2", '{"retry_after_s":1e400}', 2, id="for ever"),
        pytest.param("2", '{"retry_after_s":-5}', 2, id="before now"),
        pytest.param("30", '{"retry_after_s":0}', 30, id="a body at once before a header"),
        pytest.param("Wed, 21 Oct 2026 07:28:00 GMT", "null", 0, id="a date"),
    ],
)
async def test_a_refusals_delay_comes_from_the_header_where_the_body_has_none(header: str, body: str, delay_s: float) -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        await page.route("**/busy", lambda route: route.fulfill(status=503, headers={"Retry-After": header}, body=body))
        assert await page.evaluate(ASK) == ["Refused", delay_s]


async def test_a_date_of_a_proxy_counts_from_the_answers_own() -> None:
    headers = {"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        await page.route("**/busy", lambda route: route.fulfill(status=503, headers=headers, body=""))
        assert await page.evaluate(ASK) == ["Refused", 30]


@pytest.mark.parametrize(("header", "least_s", "most_s"), [("20", 20, 40), ("30", 30, 60)])
async def test_a_sender_waits_as_long_as_the_header_says(header: str, least_s: int, most_s: int) -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        answers = [{"status": 503, "headers": {"Retry-After": header}, "body": ""}, {"status": 202, "body": ACCEPTED}]
        await page.route("**/danmaku", lambda route: route.fulfill(**answers.pop(0)))
        [delay_s] = await page.evaluate(SEND)
        assert least_s <= delay_s <= most_s


async def test_a_sender_does_not_wait_an_hour() -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        await page.route("**/danmaku", lambda route: route.fulfill(status=503, headers={"Retry-After": "3600"}, body=""))
        refused = SEND.replace(
            "{});\n    return delays", "{}).catch((error) => delays.push(error.retryAfterS));\n    return delays"
        )
        assert await page.evaluate(refused) == [3600]


@pytest.mark.parametrize("status", [408, 502])
async def test_a_sender_repeats_what_may_have_been_written(status: int) -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        answers = [{"status": status, "body": ""}, {"status": 202, "body": ACCEPTED}]
        await page.route("**/danmaku", lambda route: route.fulfill(**answers.pop(0)))
        assert len(await page.evaluate(SEND)) == 1


async def stream(page: Page, post: int, *pulls: int) -> tuple[int, list[str]]:
    """Watch over events, where each POST is answered with a status, and pulls with these and then
    the message that is missing; return how many streams were opened, and what became of messages.
    """
    gateways = [{"id": "e", "url": f"{page.url.split('/sdk')[0].replace('http', 'ws')}/v1/live"}]
    lines = [encode_message(Message(seq, Kind.GIFT, f"g{seq}", "u", 1, seq)) for seq in (1, 2, 3)]
    batches = [msgspec.json.encode(BatchHeader("r", 1, (seq, seq), seq, at=1, pos=f"0.{seq}")) for seq in (1, 3)]
    frames = [encode_frame(Hello("e", 1, 20, 25, "u", pull="p")), encode_frame(Joined("r", 1, 0, 0, "0.0"))]
    frames += [b"\n".join((head, line)) for head, line in zip(batches, (lines[0], lines[2]), strict=True)]
    pulled = encode_frame(Pulled("r", 1, 3, 3, "0.4", messages=[msgspec.Raw(lines[1])]))
    statuses = iter(pulls)

    async def answer(route: Route) -> None:
        status = next(statuses, 200)
        await route.fulfill(status=status, headers={"Retry-After": "0"}, body=pulled if status == 200 else "{}")

    await page.route("**/v1/entry*", lambda route: route.fulfill(body=json.dumps({"gateways": gateways, "ticket": "t"})))
    await page.route("**/v1/events", lambda route: route.fulfill(status=post, headers={"Retry-After": "0"}, body=""))
    await page.route("**/messages*", answer)
    async with asyncio.timeout(DEADLINE_S):
        streams, seen = await page.evaluate(STREAM, [frame.decode() for frame in frames])
    return streams, seen


@pytest.mark.parametrize(
    ("status", "seen"),
    [
        pytest.param(429, ["delivered"] * 3, id="a budget"),
        pytest.param(503, ["delivered"] * 3, id="a busy gateway"),
        pytest.param(403, ["delivered", "delivered", "lost"], id="for good"),
    ],
)
async def test_pulls_that_are_refused_for_the_moment_lose_nothing(status: int, seen: list[str]) -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        assert await stream(page, 204, *[status] * 12) == (1, seen)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_frame_that_cannot_be_sent_beside_a_stream_ends_it_and_the_page_comes_back(status: int) -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        streams, _ = await stream(page, status, *[503] * 1000)
        assert streams == 2


async def test_a_room_that_is_joined_while_the_page_connects_is_in_the_ticket_before_it_is_joined() -> None:
    async with asyncio.timeout(DEADLINE_S), pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        entries, joins, streams = await page.evaluate(JOIN)
    assert entries == [["a"], ["a", "b"], ["a", "b", "c"]]
    assert joins == ["a", "b", "c"]
    assert streams == 2, "none for the entry that was too old when it came"
