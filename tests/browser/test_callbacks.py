"""What an application gives the JavaScript SDK may raise: that is reported and stops nothing."""

import asyncio

import pytest

from tests.browser.chromium import chromium, pages
from tests.hostile import TEXTS, hostile, texts

DEADLINE_S = 60.0  # nothing here takes so long, on whatever machine
WATCH = """async ([scheduler, transport, count]) => {
    const { LiveRoom } = await import("/sdk/liveroom.js");
    const seen = [];
    const tokens = [() => { throw new Error("token, at once"); }, () => Promise.reject(new Error("token, later")), () => "t"];
    await new Promise((resolve) => {
        const onEffect = ({ type, message }) => {
            if (type === "delivered" && seen.push(message.seq) === count) resolve();
            throw new Error(`effect ${type}`);
        };
        const onState = ({ state }) => { throw new Error(`state ${state}`); };
        const token = () => (tokens.length > 1 ? tokens.shift() : tokens[0])();
        new LiveRoom({ scheduler, rooms: ["lobby"], transports: [transport], token, onEffect, onState }).start();
    });
    return seen;
}"""


async def test_callbacks_that_raise_are_reported_and_do_not_stop_a_viewer() -> None:
    errors: list[str] = []
    async with hostile(texts()) as services, pages() as url, chromium() as browser, asyncio.timeout(DEADLINE_S):
        page = await browser.new_page()
        page.on("pageerror", lambda error: errors.append(error.message))
        await page.goto(f"{url}/sdk/session.js")
        seen = await page.evaluate(WATCH, [services.url, "websocket", len(TEXTS) + 2])
    assert sorted(seen) == [*range(1, len(TEXTS) + 3)]
    assert {"token, at once", "token, later", "effect delivered", "effect entered", "state open"} <= set(errors)


@pytest.mark.parametrize("announced", ["ws://::1:26265/v1/live", "", "not a url"])
async def test_a_gateway_that_announces_no_url_leaves_the_others(announced: str) -> None:
    async with hostile([]) as services, pages() as url, chromium() as browser, asyncio.timeout(DEADLINE_S):
        services.announced = [announced]
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        watch = WATCH.replace('throw new Error("token, at once")', 'return "t"')
        assert sorted(await page.evaluate(watch, [services.url, "websocket", 2])) == [1, 2]
