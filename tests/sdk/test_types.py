"""What the types say is what arrives: TypeScript itself judges what a running system gave."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.async_api import Page

from liveroom.bodies import BODY_OF, Clear
from liveroom.kinds import CLASS_OF, Class, Kind, Role
from tests.browser.chromium import chromium, pages
from tests.browser.site import ROOM, site
from tests.sdk.tools import STRICT, run

DEADLINE_S = 60.0  # nothing here takes so long, on whatever machine
NUMBERED = {kind for kind, of in CLASS_OF.items() if of in {Class.RELIABLE, Class.BEST_EFFORT}}
ODD: tuple[Any, ...] = (None, 7, "7", True, [7], {"x": 7}, 0.5, [], "")
READ = """async (lines) => {
    const { readFrame } = await import("/sdk/frames.js");
    const head = { t: "batch", room: "r", epoch: 1, seq: [1, lines.length], rseq: 0, at: 1 };
    const { messages } = readFrame([head, ...lines].map((line) => JSON.stringify(line)).join("\\n"));
    const settings = { slow_s: "x", allow: [7], guests: null };
    const card = { messages: lines, reliable: [7, null, {}], announcement: "odd", settings };
    return [messages, readFrame(JSON.stringify({ t: "card", room: "r", card })).card];
}"""
SEND = """async ([ingress, tokens, room]) => {
    const { LiveRoomError, Sender } = await import("/sdk/liveroom.js");
    const senders = {};
    for (const [name, token] of Object.entries(tokens)) senders[name] = new Sender({ ingress, token });
    window.failed = [];
    window.send = (who, path, body) => senders[who].send(room, path, body);
    window.act = (who, path, body, method = "POST") => senders[who].call(method, `/v1/rooms/${room}/${path}`, body);
    window.fails = async (call) => {
        const error = await call().then(() => null, (error) => error);
        if (!(error instanceof LiveRoomError)) throw new Error(`not one class: ${error}`);
        const { name, message, code, status, detail, room, retryAfterS, untilMs, requestId } = error;
        failed.push({ name, message, code, status, detail, room, retryAfterS, untilMs, requestId });
        return error.code;
    };
}"""
WATCH = """async ([scheduler, token, room]) => {
    const { LiveRoom } = await import("/sdk/liveroom.js");
    window.effects = [];
    window.states = [];
    const onEffect = (effect) => effects.push(effect);
    const onState = ({ state, gateway, transport, retryInS, failure, refused }) =>
        states.push({ state, gateway, transport, retryInS, failure: failure && null, refused: refused && null });
    window.live = new LiveRoom({ scheduler: scheduler.split(","), rooms: [room], token, onEffect, onState }).start();
}"""
GIFT = "{ kind: 'gift', data: { gift: 'rose' } }"
COUPON = "{ kind: 'coupon', data: { coupon: 'c' } }"
HAS = "(wanted) => effects.filter(({ type }) => type === wanted[0]).length >= wanted[1]"
KINDS = (
    "(count) => new Set(effects.filter(({ type }) => type === 'delivered').map(({ message }) => message.kind)).size === count"
)


def judge(app: Path, **values: Any) -> None:
    """Have TypeScript compare values with their types; it refuses fields that a type lacks too.

    `values`: each by the name of its type, as a list.
    """
    lines = [f"import type {{ {', '.join(values)} }} from 'liveroom';"]
    lines += [f"export const a{name}: {name}[] = {json.dumps(value, indent=1)};" for name, value in values.items()]
    (app / "judged.ts").write_text("\n".join(lines), "utf-8")
    run(app, "tsc", *STRICT, "--module", "esnext", "--moduleResolution", "bundler", "judged.ts")


async def test_whatever_others_write_arrives_as_the_types_say(app: Path) -> None:
    bodies: dict[Kind, type[msgspec.Struct]] = {**BODY_OF, Kind.CLEAR: Clear}
    lines: list[dict[str, Any]] = []
    for kind in sorted(NUMBERED):
        fields = (
            [field.encode_name for field in msgspec.structs.fields(bodies[kind])] if kind in bodies else ["slow_s", "allow"]
        )
        for data in (*ODD, *(dict.fromkeys(fields, odd) for odd in ODD)):
            if kind in {Kind.DISSOLVE, Kind.REOPEN} and isinstance(data, dict):
                continue  # any object is one of theirs
            lines.append({"seq": len(lines) + 1, "kind": kind, "id": "i", "user": "u", "at": 1, "data": data})
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        messages, card = await page.evaluate(READ, lines)
    assert len(messages) == len(lines)
    assert len(card["messages"]) == len(lines)
    assert (card["reliable"], card["announcement"], card["settings"]["guests"]) == ([], None, True)
    for message in (*messages, *card["messages"]):
        if message["data"].get("x") == 7:
            del message["data"]["x"]  # passed through, as a field of a later version
    await asyncio.to_thread(judge, app, Message=messages, Card=[card])


async def comes(page: Page, type_: str, count: int = 1) -> None:
    """Return when so many effects of a type have come."""
    await page.wait_for_function(HAS, arg=[type_, count], timeout=1000 * DEADLINE_S)


@pytest.mark.kafka
async def test_what_a_running_system_answers_is_what_the_types_say(kafka_bootstrap: str, app: Path) -> None:
    async with site(kafka_bootstrap, edges=1) as here, chromium() as browser, asyncio.timeout(3 * DEADLINE_S):
        page = await browser.new_page()
        await page.goto(f"{here.url}/sdk/session.js")
        roles = {"ann": Role.VIEWER, "shop": Role.SERVICE, "boss": Role.OPERATOR}
        tokens = {name: here.system.token(name, role, name=name.title()) for name, role in roles.items()}
        await page.evaluate(SEND, [here.system.ingress_url, tokens, ROOM])
        accepted = [
            await page.evaluate("send('ann', 'danmaku', { text: 'before' })"),
            await page.evaluate("send('boss', 'announcements', { text: 'welcome' })"),
            await page.evaluate("send('shop', 'gifts', { gift: 'rose' })"),
        ]
        await page.evaluate("act('boss', 'modes', { slow_s: 0.1 }, 'PATCH')")
        await page.evaluate("act('boss', 'words/brandy', { action: 'mask' }, 'PUT')")
        await page.evaluate(WATCH, [here.system.scheduler_url, tokens["ann"], ROOM])
        await comes(page, "entered")
        calls = (
            "send('ann', 'danmaku', { text: 'a brandy', mode: 'top', mention: ['ben'] })",
            f"send('shop', 'packages', {{ package: 'p', items: [{GIFT}, {COUPON}] }})",
            "send('ann', 'likes', { count: 3 })",
            "send('shop', 'red-packets', { packet: 'r' })",
            "send('shop', 'goods', { goods: 'g', title: 'a mug', price: 1299, currency: 'EUR' })",
            "send('shop', 'enters', { badge: 'captain' })",
            "send('shop', 'leaves', {})",
            "send('shop', 'custom', { type: 'sticker', body: { n: [3] } })",
            "send('boss', 'announcements', { text: '' })",
        )
        accepted += [await page.evaluate(call) for call in calls]
        assert [answer["text"] for answer in accepted if answer["text"]] == ["a ******"]
        sent = NUMBERED - {Kind.ROOM, Kind.CLEAR, Kind.DISSOLVE, Kind.REOPEN}
        await page.wait_for_function(KINDS, arg=len(sent), timeout=1000 * DEADLINE_S)  # what is cleared sooner never comes
        await page.evaluate("act('boss', 'modes', { followers_only: true, allow: ['ann'] }, 'PATCH')")
        await page.evaluate("act('boss', 'clears', { user: 'shop' })")
        await page.evaluate("act('boss', 'mutes', { user: 'ann', for_s: 600, why: 'spam' })")
        await page.evaluate("act('boss', 'reopen', {})")
        await page.wait_for_function(KINDS, arg=len(NUMBERED) - 1, timeout=1000 * DEADLINE_S)  # a dissolve puts everybody out
        await comes(page, "counts")
        assert await page.evaluate("fails(() => send('ann', 'danmaku', { text: 'muted' }))") == "muted"
        assert await page.evaluate("fails(() => send('ann', 'announcements', { text: 'mine' }))") == "forbidden"
        assert await page.evaluate("fails(() => send('ann', 'danmaku', { txt: 'x' }))") == "schema"

        banned = await page.evaluate("act('boss', 'bans', { user: 'ann', for_s: 600, why: 'threats' })")
        await comes(page, "ended")
        for ended in range(2, 4):  # whoever begins anew is told again, at the join
            await page.evaluate("live.start()")
            await comes(page, "ended", ended)
        effects = await page.evaluate("effects")
        told = [
            (one["refusal"]["code"], one["refusal"]["detail"], one["refusal"]["until_ms"])
            for one in effects
            if one["type"] == "ended"
        ]
        assert told == [("banned", "threats", banned["until_ms"])] * 3
        assert await page.evaluate("live.session.state") == "ended"
        states, failed = await page.evaluate("[states, failed]")
    [muted, *_] = failed
    assert muted["untilMs"] > 0
    assert muted["detail"] == "spam"
    values = {"Effect": effects, "Accepted": accepted, "Connection": states, "LiveRoomError": failed}
    await asyncio.to_thread(judge, app, **values)
