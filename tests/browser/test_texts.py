"""Texts of the world in the pages: what shows something, what is replaced, and that nothing turns
what stands beside it, in the list, in banners, over the stage and at the host's.
"""

import json
from pathlib import Path
from typing import Any

from tests.browser.chromium import chromium, pages

TABLE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data/texts.json").read_text(encoding="utf-8"))
READ = """async (table) => {
    const { isVisible, shown, isolated } = await import("/texts.js");
    const { priceText } = await import("/money.js");
    return {
        visible: table.visible.filter((text) => !isVisible(text)),
        blank: table.blank.filter((text) => isVisible(text)),
        shown: table.shown.filter(([text, seen, joins]) => shown(text, { joins }) !== seen),
        isolated: table.isolated.filter(([text, safe]) => isolated(text) !== safe),
        prices: table.prices.filter(([price, currency, text]) => priceText(price, currency) !== text),
        noPrices: [0, -1, "5", null, undefined, 1.5, NaN, 2 ** 60, [1]].map((price) => priceText(price, "JPY")),
    };
}"""

# Texts that turn what stands beside them where nothing isolates them.
TURNING = [
    "שלום",
    "שלום 12!",
    "\u202eevil",
    "\u202dabc\u202eevil",
    "a\u2069\u202eevil",
    "\u2066\u2067\u202eevil",
    "\u2069\u2069\u202eevil",
    "מה\u2029\u202eevil",
    "مرحبا",
    "\u061cمرحبا 5",
]
# Puts a text beside the page's own; returns where a piece does not stand right of the last one.
SHOW = r"""async ([texts]) => {
    const { Chat } = await import("/chat.js");
    const { Banners, Stage } = await import("/stage.js");
    const { parts, t } = await import("/i18n.js");
    const { $, el } = await import("/common.js");
    const { foreign, isolated } = await import("/texts.js");
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => resolve()));
    const places = (root) => {
        const found = [];
        const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            if (!node.data.trim()) continue;
            const range = document.createRange();
            range.selectNodeContents(node);
            const box = range.getBoundingClientRect();
            found.push({ left: box.left, right: box.right });
        }
        return found;
    };
    // In a page from left to right each piece stands right of the one before, whatever is within it.
    const isInOrder = (root) => places(root).every((one, place, all) => place === 0 || one.left >= all[place - 1].right - 1);
    document.body.innerHTML = `<div id="log" style="width: 2000px; white-space: nowrap"><ol></ol></div>
        <button id="newest"></button>
        <ul id="banners" style="width: 2000px; white-space: nowrap"></ul><div id="line" style="white-space: nowrap"></div>`;
    const wrong = [];
    for (const text of texts) {
        const chat = new Chat($("log"), $("newest"));
        chat.empty();
        const message = { seq: 1, id: "i", user: "u", name: text, kind: "danmaku", n: 3, data: { text } };
        chat.add(message);
        chat.add({ ...message, seq: 2, id: "j", kind: "gift", data: { gift: text, count: 2 } });
        chat.add({ ...message, seq: 3, id: "k", kind: "goods", data: { title: text } });
        chat.note(...parts("chat.entered", { name: text }));
        chat.note(t("notice.ban"), " ", ...parts("notice.why", { why: text }), " ", el("b", {}, "!"));
        while (chat.list.childElementCount < 5) await frame();
        for (const line of chat.list.children) if (!isInOrder(line)) wrong.push(["list", text, line.innerHTML]);
        const banners = new Banners($("banners"));
        banners.add({ id: "g", user: "u", name: text, data: { gift: text, count: 2, combo: 4 } });
        for (const line of $("banners").children) if (!isInOrder(line)) wrong.push(["banner", text, line.innerHTML]);
        banners.empty();
        $("line").replaceChildren("a ", foreign(text), " 12 ", foreign(text, "b"), " z");
        if (!isInOrder($("line"))) wrong.push(["foreign", text, $("line").innerHTML]);
        // Without elements, as on a canvas: what follows is as wide from the left as after any text.
        const flat = el("span", {}, "a ", isolated(text), " 12 z");
        flat.normalize();
        $("line").replaceChildren(flat);
        const node = flat.firstChild;
        const place = (from, to) => {
            const range = document.createRange();
            range.setStart(node, from);
            range.setEnd(node, to);
            return range.getBoundingClientRect();
        };
        const size = node.data.length;
        if (!(place(0, 1).right <= place(2, size - 5).left + 1 && place(2, size - 5).right <= place(size - 1, size).left + 1
            && place(size - 4, size - 2).right <= place(size - 1, size).left + 1)) wrong.push(["flat", text, node.data]);
    }
    return wrong;
}"""


async def test_the_table_of_texts_holds_in_javascript() -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        wrong = await page.evaluate(READ, TABLE)
    assert wrong == {"visible": [], "blank": [], "shown": [], "isolated": [], "prices": [], "noPrices": [""] * 9}


async def test_no_text_turns_what_stands_beside_it() -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page(locale="en-US")
        await page.goto(f"{url}/sdk/session.js")
        await page.set_content("<!doctype html><body></body>")
        assert await page.evaluate(SHOW, [TURNING]) == []


# Users choose the same ids: what a clear covers in the list and in banners, also while it waits.
IDENTITY = """async () => {
    const { Chat, takes } = await import("/chat.js");
    const { Banners } = await import("/stage.js");
    const { $ } = await import("/common.js");
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => resolve()));
    document.body.innerHTML = `<div id="log"><ol></ol></div><button id="newest"></button><ul id="banners"></ul>`;
    const chat = new Chat($("log"), $("newest"));
    const add = (seq, user, id, more = {}) =>
        chat.add({ seq, user, id, name: "", kind: "danmaku", n: 1, data: { text: `${user} ${id}` } }, more);
    const clear = (seq, data) => chat.dated({ seq, kind: "clear", data });
    const drawn = async (count) => { while (chat.waiting.length || chat.list.childElementCount !== count) await frame(); };
    const lines = () => [...chat.list.children].map((line) => line.querySelector("span")?.textContent ?? line.textContent);
    const found = {};
    for (const [place, user] of ["ann", "ben", "cy"].entries()) add(place + 1, user, "1");
    await drawn(3);
    chat.clear(clear(4, { id: "1", sender: "ben" }));
    found.named = lines();
    for (const [place, user] of ["ann", "ben", "cy"].entries()) add(place + 5, user, "2");
    chat.clear(clear(8, { id: "2", sender: "ann" })); // they wait for the next frame
    await drawn(4);
    found.waiting = lines();
    chat.clear(clear(9, { user: "cy" }));
    found.user = lines();
    chat.clear(clear(9, { id: "1" })); // of version 0.1: it names no sender
    found.old = lines();
    chat.empty();
    add(1, "ann", "3", { ofCard: true });
    add(2, "ben", "3", { ofCard: true });
    add(1, "ann", "3");
    add(3, "cy", "3");
    add(2, "ben", "3");
    await drawn(3);
    found.seen = lines();
    chat.empty();
    add(100, "ann", "4");
    chat.renumbered();
    add(1, "ann", "5");
    add(3, "ben", "5");
    await drawn(4);
    add(2, "cy", "5", { late: true });
    found.late = lines();
    chat.clear(clear(4, { user: "ann" }));
    found.renumbered = lines();
    add(5, "ben", "6");
    await drawn(4);
    chat.clear(clear(5, { user: "ben" }));
    found.after = lines();

    const banners = new Banners($("banners"));
    let seq = 10;
    const give = (user, id, count, combo) =>
        banners.add(chat.dated({ seq: (seq += 1), user, id, name: user, data: { gift: "rose", count, combo } }));
    const since = (data) => banners.clear(clear(seq + 1, data));
    const shown = () => [...$("banners").children].map((line) => line.textContent);
    give("ann", "1", 1, 1);
    give("ben", "1", 2, 1);
    give("ann", "2", 5, 2);
    found.banners = shown();
    since({ id: "1", sender: "ann" });
    found.oneGift = shown();
    since({ id: "2", sender: "ann" });
    found.lastGift = shown();
    for (let number = 0; number < 250; number += 1) give("ben", `m${number}`, 1, number);
    since({ id: "m249", sender: "ben" });
    found.many = shown();
    banners.clear(clear(seq - 1, { user: "ben" })); // it comes late: what was sent after it stays
    found.later = shown();
    since({ user: "ben" });
    found.all = shown();
    found.takes = [
        [{ id: "1", sender: "ann" }, { id: "1", user: "ann" }],
        [{ id: "1", sender: "ann" }, { id: "1", user: "ben" }],
        [{ id: "1" }, { id: "1", user: "ben" }],
        [{ user: "ann" }, { id: "9", user: "ann" }],
        [{ id: "", sender: "ann", user: "" }, { id: "", user: "ann" }],
    ].map(([data, message]) => takes(clear(5, data), chat.dated({ seq: 4, ...message })));
    found.takesOfAnother = [
        [{ seq: 5, history: 0 }, { seq: 6, history: 0 }], // it was sent after the clear
        [{ seq: 5, history: 0 }, { seq: 5, history: 0 }],
        [{ seq: 5, history: 1 }, { seq: 6, history: 0 }], // of the room's history before
        [{ seq: 5, history: 0 }, { seq: 4, history: 1 }],
    ].map(([clear, message]) => takes({ ...clear, data: { user: "ann" } }, { ...message, user: "ann", id: "1" }));
    return found;
}"""


async def test_users_who_choose_the_same_id_are_told_apart_wherever_a_message_is_shown() -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page(locale="en-US")
        await page.goto(f"{url}/sdk/session.js")
        await page.set_content("<!doctype html><body></body>")
        assert await page.evaluate(IDENTITY) == {
            "named": ["ann 1", "cy 1"],
            "waiting": ["ann 1", "cy 1", "ben 2", "cy 2"],
            "user": ["ann 1", "ben 2"],
            "old": ["ben 2"],
            "seen": ["ann 3", "ben 3", "cy 3"],
            "late": ["ann 4", "The room's history starts over", "ann 5", "cy 5", "ben 5"],
            "renumbered": ["The room's history starts over", "cy 5", "ben 5"],
            "after": ["The room's history starts over", "cy 5", "ben 6"],
            "banners": ["ann gives rose ×6 combo 2", "ben gives rose ×2"],
            "oneGift": ["ann gives rose ×5 combo 2", "ben gives rose ×2"],
            "lastGift": ["ben gives rose ×2"],
            "many": ["ben gives rose ×251 combo 248"],
            "later": ["ben gives rose ×1 combo 248"],
            "all": [],
            "takes": [True, False, True, True, False],
            "takesOfAnother": [False, False, True, False],
        }
