"""What the types say is what arrives: TypeScript itself judges it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec

from liveroom.bodies import BODY_OF, Clear
from liveroom.kinds import CLASS_OF, Class, Kind
from tests.browser.chromium import chromium, pages
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
