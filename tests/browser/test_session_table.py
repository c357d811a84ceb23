"""One table of cases through both state machines, Python's and JavaScript's, with equal results."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from playwright.async_api import Page

from tests.browser.cases import BY_HAND, TABLE_FILE, Case, cases, run
from tests.browser.chromium import chromium, pages

LIVE = 400
RUN = """async (cases) => {
    const { Session } = await import("/sdk/session.js");
    const names = { pull_failed: "pullFailed", pull_refused: "pullRefused" };
    const said = ({ t, code, room = "", detail = "", until_ms = 0 }) => (t === "error" ? [code, room, detail, until_ms] : null);
    const closed = ({ code, reason }) => ({ code, reason });
    const told = (effect) => {
        switch (effect.type) {
            case "send": return { type: "send", frame: JSON.parse(effect.text) };
            case "entered": return { ...effect, card: effect.card && [effect.card.likes ?? null] };
            case "card": return { type: "card", room: effect.room, likes: effect.card.likes ?? null };
            case "delivered": {
                const { seq, rseq, kind, id, n } = effect.message;
                return { ...effect, message: [seq, rseq, kind, id, n] };
            }
            case "told": return { type: "told", what: effect.what.t, room: effect.what.room ?? "", said: said(effect.what) };
            case "ended":
                return { type: "ended", ...closed(effect.rule), said: effect.refusal && said(effect.refusal) };
            default: return effect;
        }
    };
    return cases.map(({ rooms, battery, calls }) => {
        const session = new Session(rooms, { battery });
        const outcome = calls.map(([name, ...given]) => {
            const effects = session[names[name] ?? name](...given);
            return [effects.map(told), session.state, session.wakeAt, session.isIn, session.isCovered];
        });
        const left = [...session.rooms.keys()].sort();
        outcome.push([session.thinned, session.duplicates, session.reconnects, session.badFrames, left]);
        return outcome;
    });
}"""


@asynccontextmanager
async def page() -> AsyncIterator[Page]:
    async with pages() as url, chromium() as browser:
        one = await browser.new_page()
        await one.goto(f"{url}/sdk/session.js")
        yield one


def differs(one: Case, ours: list[Any], theirs: list[Any]) -> str:
    """Say where two outcomes part, in words."""
    for number, (python, javascript) in enumerate(zip(ours, theirs, strict=True)):
        if python != javascript:
            call = one["calls"][number] if number < len(one["calls"]) else "the counters"
            return f"{one['name']}, call {number} {call}:\n  {json.dumps(python)} in Python\n  {json.dumps(javascript)} here"
    return ""


async def test_the_table_gives_the_same_in_python_and_in_javascript() -> None:
    table = json.loads(await asyncio.to_thread(TABLE_FILE.read_text, encoding="utf-8"))
    assert {one["name"] for one in BY_HAND} <= {one["name"] for one in table}, "python -m tests.browser.cases writes the table"
    wrong = [differs(one, one["gives"], run(one)) for one in table]
    async with page() as here:
        wrong += [differs(one, one["gives"], got) for one, got in zip(table, await here.evaluate(RUN, table), strict=True)]
    assert [each for each in wrong if each] == []


async def test_lives_that_nobody_planned_are_the_same_in_both() -> None:
    found: list[Case] = []

    @settings(max_examples=LIVE, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(cases())
    def make(one: Case) -> None:
        found.append(one)

    await asyncio.to_thread(make)
    async with page() as here:
        theirs = await here.evaluate(RUN, found)
    wrong = [differs(one, json.loads(json.dumps(run(one))), got) for one, got in zip(found, theirs, strict=True)]
    assert [each for each in wrong if each][:1] == []
