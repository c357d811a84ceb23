"""Cases for the viewer's state machine, and what Python's makes of them: `python -m
tests.browser.cases` writes the table.

A case is a list of calls; what each gives, and the counters at the end, must be the same in Python
and JavaScript. The table holds hand-made cases, one for each rule, and some that Hypothesis made
up.
"""

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from liveroom.closecodes import TABLE
from viewer.effects import (
    Connect,
    Counts,
    Delivered,
    Disconnect,
    Effect,
    Ended,
    Entered,
    Hole,
    Lost,
    Moved,
    Progress,
    Pull,
    Renumbered,
    RoomCard,
    Send,
    Told,
)
from viewer.session import Session

TABLE_FILE = Path(__file__).parents[1] / "data" / "session-cases.json"
MADE_UP = 60
ROOMS = ["a", "b"]
Case = dict[str, Any]


# ---- what Python makes of a case
def run(case: Case) -> list[Any]:
    """Return what each call gives, and the counters."""
    session = Session(case["rooms"], battery=case["battery"])
    outcome: list[Any] = []
    for name, *arguments in case["calls"]:
        if name in {"received", "pulled"}:
            index = 0 if name == "received" else 1
            arguments[index] = arguments[index].encode()
        effects = getattr(session, name)(*arguments)
        outcome.append([[told(effect) for effect in effects], session.state.value, session.wake_at])
    outcome.append([session.thinned, session.duplicates, session.reconnects, session.bad_frames, sorted(session.rooms)])
    return outcome


def told(effect: Effect) -> dict[str, Any]:  # noqa: C901, PLR0912 - a table
    """Return an effect as both sides write it down."""
    match effect:
        case Connect():
            return {"type": "connect"}
        case Send(text):
            return {"type": "send", "frame": json.loads(text)}
        case Disconnect(code):
            return {"type": "disconnect", "code": int(code)}
        case Pull():
            return {"type": "pull", **effect._asdict()}
        case Entered():
            found = effect._asdict() | {"card": effect.card is not None}
            return {"type": "entered", **found}
        case RoomCard(room, card):
            return {"type": "card", "room": room, "likes": card.likes}
        case Delivered(room, epoch, message, late):
            numbers = [message.seq, message.rseq, message.kind, message.id, message.n]
            return {"type": "delivered", "room": room, "epoch": epoch, "late": late, "message": numbers}
        case Counts():
            viewers = list(effect.viewers) if effect.viewers is not None else None
            return {"type": "counts", "room": effect.room, "likes": effect.likes, "viewers": viewers}
        case Progress():
            return {"type": "progress", **effect._asdict()}
        case Hole(room, epoch, after, to) | Lost(room, epoch, after, to):
            return {"type": type(effect).__name__.lower(), "room": room, "epoch": epoch, "afterRseq": after, "toRseq": to}
        case Renumbered():
            return {"type": "renumbered", **effect._asdict()}
        case Told(what):
            return {"type": "told", "what": type(what).__name__.lower(), "room": what.room}
        case Moved(reason):
            return {"type": "moved", "reason": reason}
        case Ended(rule):
            return {"type": "ended", "code": int(rule.code), "reason": rule.reason}


# ---- frames
def error(code: str, room: str = "a", **more: Any) -> str:
    return json.dumps({"t": "error", "code": code, "room": room} | more)


def hello(heartbeat_s: float = 20, silence_s: float = 25, pull: str = "p") -> str:
    frame = {"t": "hello", "gateway": "e1", "generation": 1, "heartbeat_s": heartbeat_s, "silence_s": silence_s, "user": "u"}
    return json.dumps(frame | ({"pull": pull} if pull else {}))


def joined(room: str = "a", **more: Any) -> str:
    return json.dumps({"t": "joined", "room": room, **more})


def message(seq: int, rseq: int = 0, **more: Any) -> dict[str, Any]:
    line = {"seq": seq, "kind": "gift" if rseq else "danmaku", "id": f"i{seq}", "user": "u", "at": 1, **more}
    return line | ({"rseq": rseq} if rseq else {})


def batch(first: int, last: int, rseq: int, *messages: dict[str, Any], room: str = "a", epoch: int = 1, **more: Any) -> str:
    head = {"t": "batch", "room": room, "epoch": epoch, "seq": [first, last], "rseq": rseq, "at": 1, **more}
    return "\n".join(map(json.dumps, [head, *messages]))


def pulled(rseq: int, *messages: dict[str, Any], epoch: int = 1, **more: Any) -> str:
    return json.dumps({"room": "a", "epoch": epoch, "seq": 0, "rseq": rseq, "messages": list(messages), **more})


def case(name: str, *calls: Any, rooms: list[str] | None = None, battery: bool = False) -> Case:
    return {
        "name": name,
        "rooms": ["a"] if rooms is None else rooms,
        "battery": battery,
        "calls": [list(call) for call in calls],
    }


OPEN = [["start"], ["opened", 0], ["received", hello(), 0]]
IN = [*OPEN, ["received", joined(epoch=1, seq=10, rseq=2, pos="1"), 1]]
BY_HAND = [
    case("enters and delivers in order, once", *IN,
         ["received", batch(11, 12, 3, message(12, 3), message(11), pos="2", likes=5, viewers=[1, 2]), 2],
         ["received", batch(11, 12, 3, message(12, 3), message(11)), 3],
         ["received", batch(13, 15, 3, message(15, n=3)), 4]),
    case("the first batch sets the numbers", *OPEN, ["received", joined(), 1],
         ["received", batch(5, 6, 4, message(5), message(6, 4)), 2]),
    case("a hole is pulled and filled late", *IN,
         ["received", batch(14, 14, 5, message(14, 5), pos="7"), 2],
         ["pulled", "a", pulled(5, message(11, 3), message(13, 4)), 3, 0.5],
         ["received", batch(15, 15, 5, message(15)), 4]),
    case("what the log no longer has is lost", *IN, ["received", batch(14, 14, 5), 2],
         ["pulled", "a", pulled(5, message(13, 4), gone=True), 3, 0.5]),
    case("a pull that fails is asked again, later and later, and never given up", *IN, ["received", batch(14, 14, 5), 2],
         *[call for at in range(20, 620, 20) for call in (["pull_failed", "a", at, 0.5, 1 if at == 60 else None],
                                                          ["received", '{"t":"hb","at":1}', at + 19])]),
    case("a pull that is refused for good is asked again, later and later, then given up", *IN,
         ["received", batch(14, 14, 5), 2],
         *[call for at in range(20, 200, 20) for call in (["pull_refused", "a", at, 0.5],
                                                          ["received", '{"t":"hb","at":1}', at + 19])]),
    case("what the log no longer has is asked for again, later and later, then given up", *IN,
         ["received", batch(14, 14, 5), 2],
         *[call for at in range(20, 200, 20) for call in (["pulled", "a", pulled(2, gone=True), at, 0.5],
                                                          ["received", '{"t":"hb","at":1}', at + 19])]),
    case("a gateway that is behind is asked again and never given up", *IN, ["received", batch(14, 14, 5), 2],
         *[call for at in range(20, 420, 20) for call in (["pulled", "a", pulled(2, epoch=at // 20 % 2), at, 0.5],
                                                          ["received", '{"t":"hb","at":1}', at + 19])]),
    case("a pull goes on where there is more", *IN, ["received", batch(20, 20, 9, pos="5"), 2],
         ["pulled", "a", pulled(4, message(11, 3), message(12, 4), more=True, pos="3"), 3, 0],
         ["pulled", "a", pulled(9, *(message(8 + n, n) for n in range(5, 10))), 4, 0]),
    case("a gateway that cannot be asked loses at once", ["start"], ["opened", 0], ["received", hello(pull=""), 0],
         ["received", joined(epoch=1, seq=1, rseq=1), 0], ["received", batch(5, 5, 4, message(5, 4)), 1]),
    case("resumed: its own numbers hold", *IN, ["closed", None, 5, 0.5], ["tick", 6], ["opened", 7], ["received", hello(), 7],
         ["received", joined(epoch=1, seq=10, rseq=2, resumed=True), 8], ["received", batch(11, 11, 3, message(11, 3)), 9]),
    case("not resumed: what was missed is pulled", *IN, ["closed", 1001, 20, 0.9], ["tick", 21], ["opened", 22],
         ["received", hello(), 22], ["received", joined(epoch=1, seq=30, rseq=6, pos="9"), 23],
         ["pulled", "a", pulled(6, message(20, 4), message(21, 3)), 24, 0.1]),
    case("a new epoch begins anew", *IN, ["received", batch(14, 14, 5), 2],
         ["received", batch(1, 2, 1, message(1), message(2, 1), epoch=2), 3], ["received", batch(15, 15, 5, message(15)), 4]),
    case("silence ends the connection", *IN, ["tick", 20], ["tick", 26], ["closed", 1001, 27, 0.25]),
    case("a heartbeat leaves at its time", *IN, ["tick", 20], ["received", '{"t":"hb","at":5}', 21], ["tick", 40]),
    case("a battery's heartbeats grow while they are answered", *IN,
         *[call for n in range(1, 9) for call in (["tick", 60 * n], ["received", '{"t":"hb","at":5}', 60 * n + 1])],
         ["closed", None, 600, 0.5], battery=True),
    case("moves when it is asked to", *IN, ["received", '{"t":"move","reason":"drain","delay_s":1.5}', 2], ["tick", 3],
         ["tick", 3.5], ["closed", 1000, 4, 0.5]),
    case("put out of its only room it ends", *IN, ["received", '{"t":"error","code":"banned","room":"a"}', 2],
         ["closed", 4003, 3, 0.5], ["tick", 9]),
    case("put out of one of two rooms it stays", *IN, ["join", "b"],
         ["received", '{"t":"error","code":"kicked","room":"a"}', 2], ["received", batch(11, 11, 2, message(11)), 3]),
    case("a refusal for a room that it is not in ends nothing", *IN,
         *[["received", error(code, "x"), 2] for code in ("too_many_rooms", "full", "banned")]),
    case("a room too many is left, and the application learns it", *IN, ["join", "b"], ["received", joined("b"), 2],
         ["received", error("too_many_rooms"), 3], ["closed", None, 4, 0.5], ["tick", 9], ["opened", 9]),
    case("a room too many of its user is joined again later", *IN, ["join", "b"],
         ["received", error("too_many_rooms", "b", retry_after_s=1), 2, 0.5], ["tick", 3.5], ["received", joined("b"), 4]),
    case("its only room is one too many of its user", *OPEN, ["received", error("too_many_rooms", retry_after_s=1), 1, 0.5],
         ["closed", 1001, 1, 0.5], ["tick", 3.5]),
    case("its only room is one too many", *OPEN, ["received", error("too_many_rooms"), 1], ["closed", 1000, 2, 0.5]),
    *(case(f"its only room is refused for now: {code}", *OPEN, ["received", error(code, retry_after_s=4), 1, 0.5],
           ["closed", 1001, 1, 0.5], ["tick", 3.5], ["opened", 4], ["received", error(code), 5, 0.5],
           ["closed", 1001, 5, 0.5], ["tick", 6]) for code in ("full", "rate_user", "rate_address", "of_a_later_version")),
    case("one of two rooms is refused for now: it joins again, later each time", *IN, ["join", "b"],
         *[call for at in range(2, 400, 40) for call in
           (["received", error("full", "b", retry_after_s=1), at, 0.5], ["tick", at + 1], ["tick", at + 35])],
         ["received", joined("b", epoch=1, seq=3, rseq=1), 402], ["received", error("full", "b"), 403, 0.25], ["tick", 404],
         ["received", joined("b", epoch=1, seq=3, rseq=1, resumed=True), 405], ["received", error("rate_user", "b"), 406],
         ["closed", None, 406.5, 0.5], ["tick", 408], ["opened", 408]),
    case("the last room that let it in puts it out: it connects again", *IN, ["join", "b"],
         ["received", error("full", "b"), 2, 0.5], ["received", error("full", "a"), 30, 0.5], ["closed", 1001, 30, 0.5]),
    case("the last room that let it in bans it: it connects again for the other one", *IN, ["join", "b"],
         ["received", error("rate_address", "b", retry_after_s=900), 2, 0.5],
         ["received", error("banned", until_ms=9), 3, 0.5], ["closed", 1001, 3, 0.75], ["tick", 30], ["opened", 31]),
    case("while an answer is missing it waits for it", ["start"], ["opened", 0], ["received", hello(), 0],
         ["received", error("full", "a"), 1, 0.5], ["received", error("full", "b"), 1, 0.5], rooms=["a", "b", "c"]),
    case("an error whose fields are none of the protocol is counted", *IN,
         *[["received", error("full", **more), 2, 0.5] for more in
           ({"retry_after_s": "1"}, {"retry_after_s": [1]}, {"until_ms": None}, {"until_ms": 1.5}, {"detail": 3})],
         ["received", error("full", retry_after_s=-5), 2, 0.5]),
    case("rooms come and go", *IN, ["join", "b"], ["join", "b"], ["leave", "a"], ["leave", "a"],
         ["received", '{"t":"left","room":"a"}', 2], ["received", batch(11, 11, 2, message(11)), 3], ["end"], ["end"]),
    case("a card that comes late", *OPEN, ["received", joined(), 1],
         ["received", '{"t":"card","room":"a","card":{"likes":7}}', 2], ["received", '{"t":"card","room":"x","card":{}}', 3]),
    case("notices are told", *IN, ["received", '{"t":"notice","room":"a","kind":"mute","id":"m","at":1,"until_ms":5}', 2]),
    case("failures wait longer and longer, at least what was asked", ["start"],
         *[call for n in range(12) for call in (["failed", 40 * n, 0.75, 7 if n == 3 else None], ["tick", 40 * n + 39])]),
    case("when the network is back it waits no longer", ["start"], *[["failed", n, 0.9, None] for n in range(8)],
         ["hurry", 9, 0.5], ["tick", 9.5], ["opened", 10], ["hurry", 11, 0.5], ["tick", 16]),
    case("when the network may be gone, a silent connection ends after the time of a probe", *IN, ["probe", 3],
         ["tick", 7.9], ["tick", 8], ["closed", 1001, 8, 0.5], ["probe", 8], ["tick", 8.25], ["probe", 9], ["end"],
         ["probe", 10]),
    case("when the network may be gone, an answer keeps the connection", *IN, ["probe", 3], ["probe", 4],
         ["received", '{"t":"hb","at":1}', 7], ["tick", 9]),
    case("what is not of the protocol is counted", *IN,
         *[["received", text, 2] for text in ("", "no", "[]", '{"t":7}', '{"t":"joined"}', '{"t":"hb","at":"x"}',
                                              '{"t":"batch","room":"a","epoch":1,"seq":[1],"rseq":0,"at":1}',
                                              batch(11, 11, 2) + '\n{"seq":1}', batch(11, 11, 2) + "\nno")],
         ["received", batch(20, 20, 9), 3], ["pulled", "a", "no", 4, 0.5]),
    *(case(f"closed with {code}", *IN, ["closed", code, 30, 0.5], ["tick", 90]) for code in (*TABLE, 1011, 3999, 4777, 4999)),
    case("revoked, it asks for a new token once, and ends where that is revoked too", *IN, ["closed", 4013, 30, 0.5],
         ["hurry", 31, 0], ["tick", 33.5], ["failed", 34, 0.5, None, "no_gateway"], ["tick", 60],
         ["failed", 61, 0.5, None, "revoked"], ["tick", 90]),
    case("revoked at its entry, it comes back with a new token, and may be revoked again", ["start"],
         ["failed", 0, 0, None, "revoked"], ["tick", 1], *OPEN[1:], ["closed", 4013, 30, 0], ["tick", 31],
         ["opened", 32], ["closed", 4013, 33, 1]),
    case("frames of types that it does not know are passed over", *OPEN,
         *[["received", text, 1] for text in ('{"t":"poll"}', '{"t":"toString"}', '{"t":"__proto__"}', '{"t":""}',
                                              '{"t":"batches","room":"a"}\n{"seq":1}\nno')],
         ["received", joined(epoch=1, seq=10, rseq=2), 2], ["received", '{"t":"poll","room":"a","seq":99,"rseq":99}', 3],
         ["received", batch(11, 11, 3, message(11, 3)), 4]),
    case("messages of kinds and roles that it does not know are numbered and delivered", *IN,
         ["received", batch(11, 13, 3, message(12, 3, kind="vote", role="bot"), message(11, kind="x"), message(13)), 2],
         ["received", batch(16, 16, 5, message(16, 5, kind="vote")), 3],
         ["pulled", "a", pulled(5, message(14, 4, kind="vote", role="bot")), 4, 0.5]),
    case("notices and errors that it does not know are told and end nothing", *IN,
         ["received", '{"t":"notice","room":"a","kind":"shadow","id":"m","at":1}', 2],
         *[["received", json.dumps({"t": "error", "code": code, "room": "a"}), 3] for code in ("odd", "toString", "")],
         ["received", batch(11, 11, 3, message(11, 3)), 4]),
]  # fmt: skip


# ---- a later version
LATER = {"later": {"x": [1, None]}, "x-later": "y"}


def extended(case: Case) -> tuple[Case, list[bool]]:
    """Return a case as a later version would send it, and which of its calls are the case's own.

    Every object of the protocol has more fields, and behind every frame comes one of an unknown
    type. An SDK must make the same of it.
    """
    calls: list[list[Any]] = []
    are_own: list[bool] = []
    for name, *arguments in case["calls"]:
        place = {"received": 0, "pulled": 1}.get(name)
        if place is not None:
            arguments[place] = "\n".join(map(_extended, arguments[place].split("\n")))
        calls.append([name, *arguments])
        are_own.append(True)
        if name == "received":
            calls.append(["received", json.dumps({"t": "poll", "room": "a", "seq": [1, 99], "rseq": 99}), arguments[1]])
            are_own.append(False)
    return case | {"calls": calls}, are_own


def _extended(line: str) -> str:
    try:
        known = json.loads(line)
    except ValueError:
        return line
    return json.dumps(_with_more(known))


def _with_more(known: Any) -> Any:
    match known:
        case dict():
            return LATER | {name: _with_more(value) for name, value in known.items()}
        case list():
            return [_with_more(value) for value in known]
    return known


# ---- made up
NUMBERS = st.integers(0, 12)
UNIFORMS = st.integers(0, 7).map(lambda eighths: eighths / 8)
ROOM = st.sampled_from(ROOMS)
EPOCHS = st.integers(1, 3)
POS = st.sampled_from(["", "1", "2", "3"])


@st.composite
def batches(draw: st.DrawFn) -> str:
    first = draw(st.integers(1, 12))
    seqs = sorted(draw(st.sets(st.integers(first, first + 6), max_size=4)))
    rseq = draw(NUMBERS)
    lines = []
    for seq in seqs:
        lines.append(message(seq, rseq if draw(st.booleans()) else 0))
        rseq += 1
    more: dict[str, Any] = {}
    if draw(st.booleans()):
        more |= {"likes": draw(NUMBERS), "viewers": [draw(NUMBERS), draw(NUMBERS)]}
    if pos := draw(POS):
        more["pos"] = pos
    newest = draw(st.sampled_from([rseq, max(0, rseq - 1), rseq + 2]))
    return batch(first, first + draw(st.integers(-1, 6)), newest, *lines, room=draw(ROOM), epoch=draw(EPOCHS), **more)


@st.composite
def joins(draw: st.DrawFn) -> str:
    numbers = {"epoch": draw(EPOCHS), "seq": draw(NUMBERS), "rseq": draw(NUMBERS), "pos": draw(POS)}
    more = draw(st.sampled_from([{}, numbers, numbers | {"resumed": True}, numbers | {"card": {"likes": 3}}]))
    return joined(draw(ROOM), **more)


@st.composite
def pulls(draw: st.DrawFn) -> str:
    lines = [message(number + 10, number) for number in sorted(draw(st.sets(st.integers(1, 15), max_size=5)))]
    more = {"pos": draw(POS), "more": draw(st.booleans()), "gone": draw(st.booleans()), "seq": draw(NUMBERS)}
    return pulled(draw(st.integers(0, 16)), *lines, epoch=draw(EPOCHS), **more)


FRAMES = st.one_of(
    batches(),
    batches(),
    batches(),
    joins(),
    st.builds(hello, st.sampled_from([1, 5, 20]), st.just(25), st.sampled_from(["", "p", "q"])),
    st.sampled_from(
        [
            '{"t":"hb","at":1}',
            '{"t":"move","reason":"drain","delay_s":2}',
            '{"t":"error","code":"banned","room":"a"}',
            '{"t":"error","code":"kicked","room":"b"}',
            '{"t":"error","code":"internal"}',
            '{"t":"error","code":"full","room":"a","retry_after_s":2}',
            '{"t":"error","code":"full","room":"b"}',
            '{"t":"error","code":"rate_user","room":"b","retry_after_s":60}',
            '{"t":"error","code":"too_many_rooms","room":"b"}',
            '{"t":"left","room":"b"}',
            '{"t":"card","room":"a","card":{"likes":9}}',
            "nonsense",
        ]
    ),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A session's life as nobody planned it; time goes on by quarters of a second."""
    now = 0.0
    calls: list[list[Any]] = [["start"]]
    for _ in range(draw(st.integers(3, 25))):
        now += draw(st.sampled_from([0, 0.25, 0.5, 1, 3, 11, 30]))
        name = draw(st.sampled_from(["received"] * 8 + ["pulled"] * 3 + CALLS))
        arguments: list[Any]
        match name:
            case "received":
                arguments = [draw(FRAMES), now, draw(UNIFORMS)]
            case "pulled":
                arguments = [draw(ROOM), draw(pulls()), now, draw(UNIFORMS)]
            case "pull_failed" | "pull_refused":
                more = [draw(st.sampled_from([None, 2]))] if name == "pull_failed" else []
                arguments = [draw(ROOM), now, draw(UNIFORMS), *more]
            case "closed":
                arguments = [draw(st.sampled_from([None, 1001, 1012, 4008, 4009, 1000])), now, draw(UNIFORMS)]
            case "failed":
                arguments = [now, draw(UNIFORMS), draw(st.sampled_from([None, 3]))]
            case "hurry":
                arguments = [now, draw(UNIFORMS)]
            case "tick" | "opened" | "probe":
                arguments = [now]
            case "join" | "leave":
                arguments = [draw(ROOM)]
            case _:
                arguments = []
        calls.append([name, *arguments])
    return {"name": "made up", "rooms": draw(st.sampled_from([["a"], ROOMS])), "battery": draw(st.booleans()), "calls": calls}


CALLS = [
    "tick",
    "tick",
    "tick",
    "opened",
    "opened",
    "closed",
    "failed",
    "pull_failed",
    "pull_refused",
    "hurry",
    "probe",
    "join",
    "leave",
    "end",
]


def write() -> None:
    """Write the table anew."""
    made_up: list[Case] = []

    @seed(1)
    @settings(max_examples=MADE_UP, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(cases())
    def make(one: Case) -> None:
        made_up.append(one | {"name": f"made up {len(made_up)}"})

    make()
    rows = [json.dumps(one | {"gives": run(one)}, separators=(",", ":")) for one in [*BY_HAND, *made_up]]
    TABLE_FILE.write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")
    print(f"{len(rows)} cases, {TABLE_FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    write()
