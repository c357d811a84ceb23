"""The JavaScript SDK, in a browser, with services of a later version."""

import asyncio
import json
from typing import Any

import pytest

from tests.browser.cases import BY_HAND, extended, run
from tests.browser.chromium import chromium, pages
from tests.browser.test_session_table import RUN, differs, page
from tests.later import MESSAGES, later

DEADLINE_S = 60.0
WATCH = """async ([url, transport, count]) => {
    const { LiveRoom } = await import("/sdk/liveroom.js");
    const found = { entered: 0, isBack: false, messages: [], told: [], refused: [] };
    return await new Promise((resolve) => {
        const live = new LiveRoom({
            scheduler: url,
            rooms: ["r"],
            transports: [transport],
            onState: ({ refused }) => {
                if (refused) found.refused.push(refused.code);
            },
            onEffect: (effect) => {
                const { type, what, message, late, rseq } = effect;
                if (type === "entered") found.entered += 1;
                if (type === "told") found.told.push(what.kind ?? what.code);
                if (type === "delivered") found.messages.push([message.seq, message.kind, message.role, late]);
                if (found.entered === 2 && type === "progress" && rseq === 3) found.isBack = true;
                if (found.isBack && found.messages.length >= count) {
                    const { badFrames: bad, state } = live.session;
                    resolve({ ...found, bad, state });
                }
            },
        }).start();
    });
}"""
SEND = """async ([url]) => {
    const { Sender } = await import("/sdk/liveroom.js");
    const sender = new Sender({ ingress: url, token: "t" });
    const accepted = await sender.send("r", "danmaku", { text: "accepted" });
    const refused = await sender.send("r", "danmaku", { text: "refused" }).catch((error) => error);
    return [accepted.at_ms, refused.code, refused.status];
}"""


async def test_more_fields_and_frames_of_unknown_types_change_nothing() -> None:
    made = [extended(one) for one in BY_HAND]
    async with page() as here:
        theirs = await here.evaluate(RUN, [one for one, _ in made])
    wrong = []
    for one, (_, are_own), got in zip(BY_HAND, made, theirs, strict=True):
        kept = [outcome for outcome, is_own in zip(got, [*are_own, True], strict=True) if is_own]
        wrong.append(differs(one, json.loads(json.dumps(run(one))), kept))
        passed_over = [outcome for outcome, is_own in zip(got, are_own, strict=False) if not is_own]
        wrong += [f"{one['name']}: {outcome}" for outcome in passed_over if outcome[0]]
    assert [each for each in wrong if each] == []


@pytest.mark.parametrize("transport", ["websocket", "events"])
async def test_a_page_lives_with_a_later_gateway_and_sees_every_message_once(transport: str) -> None:
    errors: list[str] = []
    async with later(refuses=3) as services, pages() as url, chromium() as browser:
        here = await browser.new_page()
        here.on("pageerror", lambda error: errors.append(str(error)))
        await here.goto(f"{url}/sdk/session.js")
        async with asyncio.timeout(DEADLINE_S):
            found: dict[str, Any] = await here.evaluate(WATCH, [services.url, transport, len(MESSAGES)])
        assert services.joins == 2, "the code of later means that it comes back"
    assert errors == []
    assert (found["bad"], found["state"]) == (0, "open")
    assert sorted(found["messages"]) == [
        [1, "gift", "viewer", False],
        [2, "danmaku", "bot", False],
        [3, "vote", "bot", True],
        [4, "vote", "viewer", False],
        [5, "sticker", "viewer", False],
    ]
    assert set(found["told"]) == {"shadow", "out_of_tickets"}
    assert set(found["refused"]) <= {"waiting_room", "http_error"}
    assert "waiting_room" in found["refused"]


async def test_a_page_takes_the_answers_of_a_later_ingress() -> None:
    async with later() as services, pages() as url, chromium() as browser:
        here = await browser.new_page()
        await here.goto(f"{url}/sdk/session.js")
        assert await here.evaluate(SEND, [services.url]) == [5, "no_coins", 402]
