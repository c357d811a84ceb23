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
from liveroom.wire import Error, Left, Notice
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
        if name == "failed" and arguments[2:] and arguments[2] is not None:
            arguments[2] = Error(**arguments[2])
        effects = getattr(session, name)(*arguments)
        given = effects if name == "ask" else [told(effect) for effect in effects]
        outcome.append([given, session.state.value, session.wake_at, session.is_in, session.is_covered])
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
            found = effect._asdict() | {"card": effect.card and [effect.card.likes]}
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
            return {"type": "told", "what": type(what).__name__.lower(), "room": what.room, "said": said(what)}
        case Moved(reason):
            return {"type": "moved", "reason": reason}
        case Ended(rule, refusal):
            return {"type": "ended", "code": int(rule.code), "reason": rule.reason, "said": refusal and said(refusal)}


def said(what: Notice | Error | Left) -> list[Any] | None:
    """Return what an error says; None for other frames."""
    return [what.code, what.room, what.detail, what.until_ms] if isinstance(what, Error) else None


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


def refused(now: float, uniform: float, code: str, **more: Any) -> list[Any]:
    """The scheduler refuses an entry for good."""
    return ["failed", now, uniform, {"code": code} | more, True]


def delayed(now: float, uniform: float, retry_after_s: float | None = None, code: str = "no_gateway") -> list[Any]:
    """The scheduler refuses an entry for now."""
    return ["failed", now, uniform, {"code": code} | ({} if retry_after_s is None else {"retry_after_s": retry_after_s})]


def case(name: str, *calls: Any, rooms: list[str] | None = None, battery: bool = False) -> Case:
    return {
        "name": name,
        "rooms": ["a"] if rooms is None else rooms,
        "battery": battery,
        "calls": [list(call) for call in calls],
    }


OPEN = [["start"], ["opened", 0], ["received", hello(), 0]]
IN = [*OPEN, ["received", joined(epoch=1, seq=10, rseq=2, pos="1"), 1]]
AGAIN = [["closed", None, 20, 0], ["tick", 21], ["opened", 22], ["received", hello(), 22]]
WISHES = [
    # no room
    case("without a room it rests, and asks for nothing", ["start"], ["tick", 1], ["hurry", 2, 0.5], ["tick", 99],
         ["end"], rooms=[]),
    case("a first room that is joined while it rests is connected for at once", ["start"], ["join", "a"], *OPEN[1:],
         ["received", joined(), 1], rooms=[]),
    case("a room that is joined before the start waits for it", ["join", "a"], ["leave", "a"], ["join", "b"], ["start"],
         ["opened", 0], rooms=[]),
    case("leaving its only room ends the connection, and asks for nothing more", *IN, ["leave", "a"], ["tick", 2],
         ["received", batch(11, 11, 3, message(11, 3)), 2], ["closed", 1000, 3, 0.5], ["tick", 99], ["hurry", 100, 0.5]),
    case("another room that is joined after its only one was left is connected for", *IN, ["leave", "a"],
         ["closed", 1000, 2, 0.5],
         ["join", "b"], ["opened", 3]),
    case("another room that is joined while the connection of its only one ends is connected for at once", *IN, ["leave", "a"],
         ["join", "b"], ["received", error("forbidden", "b"), 2], ["closed", 4003, 2, 0.5], ["opened", 3]),
    case("its only room is left and joined again: no answer to the old wish concerns the new one", *IN, ["leave", "a"],
         ["join", "a"],
         ["received", error("banned"), 2], ["received", batch(11, 11, 2, message(11)), 2], ["closed", None, 2, 0.5],
         ["opened", 3],
         ["received", joined(epoch=1, seq=12, rseq=2), 4]),
    case("its only room is left while the connection is lost, and nothing is asked for", *IN, ["closed", None, 2, 0.5],
         ["leave", "a"],
         ["tick", 3], ["tick", 99], ["join", "a"], ["opened", 100]),
    case("its only room is left and another joined while it waits", *IN, ["closed", None, 2, 0.5], ["leave", "a"],
         ["join", "b"],
         ["tick", 3], ["opened", 4]),
    case("its only room is left while it connects: the connection ends at once", ["start"], ["leave", "a"], ["opened", 1],
         ["closed", 1000, 1, 0.5], ["tick", 99], ["join", "b"], ["opened", 100]),
    case("its only room is left while it connects, and another is joined before the answer: nothing is asked for twice",
         ["start"], ["leave", "a"], ["tick", 1], ["join", "b"], ["ask"], ["opened", 2]),
    case("its only room is left while it connects, and another is joined after the refusal: its delay holds", ["start"],
         ["leave", "a"], delayed(1, 0.5, 30), ["hurry", 2, 0.5], ["join", "b"], ["tick", 30], ["tick", 47], ["opened", 48]),
    case("its only room is left while it connects, and the entry is revoked: a room that comes waits for the new token",
         ["start"], ["leave", "a"], delayed(1, 0.5, code="revoked"), ["join", "b"], ["tick", 4], ["tick", 5], ["opened", 5]),
    case("its only room is left while it waits for a new token", *IN, ["closed", 4013, 2, 0.5], ["leave", "a"],
         ["hurry", 3, 0.5], ["join", "b"], ["tick", 5], ["tick", 6], delayed(7, 0.5, code="revoked")),
    case("leaving and joining while it waits makes no attempt sooner", ["start"], *[["failed", n, 0.9] for n in range(6)],
         *[["leave", "a"], ["join", "a"]] * 3, ["tick", 6], ["tick", 32]),
    case("its only room is left while it connects in vain: nothing more is asked for", ["start"], ["leave", "a"],
         delayed(1, 0.5, 3, "no_gateway"), ["tick", 4], ["tick", 9], ["tick", 99]),
    case("its only room, refused for now, is left while it waits", *OPEN,
         ["received", error("full", retry_after_s=900), 1, 0.5],
         ["closed", 1001, 1, 0.5], ["leave", "a"], ["tick", 2000], ["join", "b"], ["opened", 2001]),
    # connecting
    case("a room that is joined while it connects gets an entry of its own", ["start"], ["join", "b"], ["opened", 1],
         ["closed", 1000, 1, 0.5], ["opened", 2]),
    case("a room that is joined while it connects is asked for before it connects", ["start"], ["join", "b"], ["ask"],
         ["opened", 1]),
    case("a room that is left while it connects is not joined", ["start"], ["leave", "b"], ["opened", 1], rooms=ROOMS),
    case("a room that is left and joined again while it connects gets an entry of its own", ["start"], ["leave", "b"],
         ["join", "b"],
         ["ask"], ["opened", 1], rooms=ROOMS),
    # open
    case("a room that is joined on an open connection is connected for at once", *IN, ["join", "b"], ["join", "b"],
         ["received", batch(11, 11, 2, message(11)), 2], ["tick", 2], ["probe", 2], ["closed", 1000, 2, 0.5], ["opened", 3]),
    case("rooms joined one after the other on an open connection are connected for once", *IN, ["join", "b"], ["join", "c"],
         ["closed", None, 2, 0.5], ["opened", 3]),
    case("a room that is joined and left again on an open connection", *IN, ["join", "b"], ["leave", "b"],
         ["closed", None, 2, 0.5],
         ["opened", 3]),
    case("a join does not make later attempts later", *IN, *[call for n, room in enumerate("bcdefgh") for call in
         (["join", room], ["closed", None, 2 + n, 0.5], ["opened", 2 + n])], ["closed", None, 9, 1]),
    case("left while it is asked to move", *IN, ["received", '{"t":"move","reason":"drain","delay_s":2}', 2], ["leave", "a"],
         ["tick", 5], ["closed", 1000, 5, 0.5], ["tick", 9]),
    case("joined while it is asked to move", *IN, ["received", '{"t":"move","reason":"drain","delay_s":2}', 2], ["join", "b"],
         ["tick", 5], ["closed", 1000, 5, 0.5], ["opened", 6], ["tick", 7]),
    case("left while a pull is under way", *IN, ["received", batch(14, 14, 5), 2], ["leave", "a"],
         ["pulled", "a", pulled(5, message(13, 4)), 3, 0.5], ["closed", 1000, 3, 0.5],
         ["pulled", "a", pulled(5, message(13, 4)), 3, 0.5]),
    case("the room that let it in is left, and the others refuse it for now", *IN,
         ["received", error("full", "b", retry_after_s=9), 2, 0.5],
         ["leave", "a"], ["closed", 1001, 3, 0.5], ["tick", 12], ["tick", 16], ["opened", 16], rooms=ROOMS),
    # refused
    case("a room that comes while all others wait for permission is connected for now, and the others when they may",
         *OPEN, ["received", error("rate_user", retry_after_s=900), 1, 0.5], ["closed", 1001, 1, 0.5], ["join", "b"],
         ["tick", 2],
         ["opened", 3], ["received", hello(1000, 2000), 3], ["received", joined("b"), 3], ["tick", 900], ["tick", 917]),
    case("a connection that is lost does not shorten the delay of a refusal", *IN,
         ["received", error("full", "b", retry_after_s=60), 2, 0.5], ["closed", None, 3, 0.5], ["tick", 4], ["opened", 5],
         ["received", hello(1000, 2000), 5], ["received", joined("a", epoch=1, seq=10, rseq=2, resumed=True), 6], ["tick", 61],
         ["tick", 77], rooms=ROOMS),
    case("joining again a room that was left does not wait for the refusal of the old wish", *IN,
         ["received", error("full", "b", retry_after_s=60), 2, 0.5], ["leave", "b"], ["join", "b"], ["closed", 1000, 3, 0.5],
         ["opened", 4], rooms=ROOMS),
    case("a refusal for good of a room that was left meanwhile changes nothing", *IN, ["leave", "b"],
         ["received", error("banned", "b"), 2], ["tick", 3], rooms=ROOMS),
    case("an ended session takes no wishes", *OPEN, ["received", error("banned"), 1], ["join", "b"], ["leave", "b"],
         ["failed", 2, 0.5],
         ["opened", 3], ["closed", None, 4, 0.5], ["tick", 99]),
    # the entry
    case("an entry that is refused for good ends the session", ["start"], refused(0, 0.5, "forbidden"),
         ["tick", 99]),
    case("an entry that is refused for good for a code of a later version ends the session too", ["start"],
         refused(0, 0.5, "toString"), ["tick", 99]),
    case("an entry that is refused for good for one room goes on for the others", ["start"],
         refused(0, 0.5, "room_invalid", room="a"), ["tick", 1], ["opened", 2], rooms=ROOMS),
    case("where a refusal names no room, the newest one is set aside until a smaller entry opens", ["start"],
         refused(0, 0.5, "bad_request", detail="name fewer"), ["tick", 1], ["opened", 2], ["received", joined(), 2],
         rooms=ROOMS),
    case("where a refusal names no room, the oldest one is found too, and costs no newer one", ["start"],
         *[call for n in range(3) for call in (refused(9 * n, 0.5, "forbidden"), ["tick", 9 * n + 8])], ["opened", 30],
         rooms=["a", "b", "c"]),
    case("two of four rooms are refused without a name, one after the other", ["start"],
         *[call for n in range(3) for call in (refused(9 * n, 0.5, "forbidden"), ["tick", 9 * n + 8])], ["opened", 28],
         ["closed", 1000, 28, 0.5], refused(30, 0.5, "forbidden"), ["tick", 39], ["opened", 40], rooms=["a", "b", "c", "d"]),
    case("while a room is set aside, failures that pass change nothing of it", ["start"], refused(0, 0.5, "forbidden"),
         ["tick", 1], delayed(2, 0.5, 3), ["hurry", 2, 0.5], ["tick", 9], ["opened", 10], rooms=ROOMS),
    case("while a room is set aside, another one that is joined is asked for", ["start"], refused(0, 0.5, "forbidden"),
         ["join", "c"], ["tick", 1], ["opened", 2], rooms=ROOMS),
    case("while a room is set aside, it is left", ["start"], refused(0, 0.5, "forbidden"), ["leave", "b"], ["tick", 1],
         ["opened", 2], rooms=ROOMS),
    case("while a room is set aside, another one is left: nobody knows whom the refusal concerned", ["start"],
         refused(0, 0.5, "forbidden"), ["leave", "a"], ["tick", 1], ["opened", 2], rooms=[*ROOMS, "c"]),
    case("while a room is set aside, the only other one is left", ["start"], refused(0, 0.5, "forbidden"), ["tick", 1],
         ["leave", "a"], ["ask"], ["opened", 2], rooms=ROOMS),
    case("while a room is set aside, another one is refused by its name", ["start"], refused(0, 0.5, "forbidden"), ["tick", 1],
         refused(2, 0.5, "forbidden", room="a"), ["tick", 9], ["opened", 10], rooms=ROOMS),
    case("a refusal of the token concerns all rooms that were asked for", ["start"], ["join", "c"],
         refused(0, 0.5, "token_expired", detail="long ago"), ["tick", 1], ["opened", 2], rooms=ROOMS),
    case("a refusal of the token ends the session at once", ["start"], refused(0, 0.5, "token_invalid"), rooms=ROOMS),
    case("a ban at the entry says why and until when", ["start"],
         refused(0, 0.5, "banned", room="a", detail="spam", until_ms=9)),
    case("a room that was joined after an entry was asked for is not refused by the answer", ["start"], ["join", "b"],
         refused(0, 0.5, "forbidden"), ["tick", 1], ["opened", 2]),
    case("a room that was joined again after an entry was asked for is not refused by the answer", ["start"], ["leave", "a"],
         ["join", "a"], refused(0, 0.5, "forbidden", room="a"), ["tick", 1], ["opened", 2]),
    case("where a room was left meanwhile, nobody knows whom a refusal without a name concerned", ["start"], ["leave", "b"],
         refused(0, 0.5, "forbidden"), ["tick", 1], refused(2, 0.5, "forbidden"), rooms=ROOMS),
    case("joined after an entry was revoked: the new token is asked for in its time", ["start"],
         delayed(0, 0.5, code="revoked"),
         ["join", "b"], ["leave", "a"], ["tick", 1], ["tick", 3.5], ["opened", 4]),
    # delays that refusals ask for
    *(case(f"a refused entry waits at least as long as it is told, with chance {uniform}", ["start"],
           *[call for n, told in enumerate((30, 0.2, 3600, 90_000, -5)) for call in
             (delayed(10_000 * n, uniform, told, "rate_address"),
         ["tick", 10_000 * n + 9000])]) for uniform in (0, 0.5, 0.875)),
    case("a network that is back does not shorten the delay of a refusal", ["start"], delayed(0, 0.5, 30, "rate_user"),
         ["hurry", 10, 0.5], ["tick", 29], ["tick", 30.5]),
    case("a network that is back does not shorten the delay of a room's refusal", *OPEN,
         ["received", error("full", retry_after_s=30), 1, 0.5], ["closed", 1001, 1, 0.5], ["hurry", 10, 0], ["tick", 30],
         ["tick", 31]),
    case("a delay that a pull's refusal asked for holds over connections", *IN, ["received", batch(14, 14, 5), 2],
         ["pull_failed", "a", 3, 0, 60], *AGAIN, ["received", joined(epoch=1, seq=14, rseq=5, resumed=True), 22], ["tick", 42],
         ["received", '{"t":"hb","at":1}', 60], ["received", '{"t":"hb","at":1}', 63]),
    # sleep
    case("woken, an open connection is probed", *IN, ["hurry", 2, 0.5, 600], ["tick", 6.9], ["tick", 7],
         ["closed", 1001, 7, 0]),
    case("woken, an open connection that answers stays", *IN, ["hurry", 2, 0.5, 600], ["received", '{"t":"hb","at":1}', 3],
         ["tick", 8]),
    case("woken, a waiting session retries soon", ["start"], ["failed", 0, 0.875], ["failed", 1, 0.875],
         ["hurry", 1, 0.5, 60], ["tick", 1.5]),
    case("the delay of a refusal goes on in sleep", ["start"], delayed(0, 0.5, 30), ["hurry", 1, 0.5, 10], ["tick", 19.5],
         ["tick", 20.5], delayed(21, 0.5, 30), ["hurry", 22, 0.5, 3600], ["tick", 22.5]),
    case("the delay of a room's refusal goes on in sleep", *OPEN, ["received", joined("b"), 0],
         ["received", error("full", retry_after_s=60), 1, 0.5], ["hurry", 2, 0, 40], ["received", '{"t":"hb","at":1}', 3],
         ["received", '{"t":"hb","at":1}', 50], ["tick", 51.5], rooms=ROOMS),
    case("joined and left in sleep", *IN, ["join", "b"], ["leave", "a"], ["closed", None, 2, 0.5], ["hurry", 3, 0.5, 600],
         ["opened", 4]),
    # totals
    case("totals of a batch below the position are passed over", *IN,
         ["received", batch(11, 12, 2, message(12), likes=120, viewers=[5, 6]), 2],
         ["received", batch(11, 11, 2, message(11), likes=100, viewers=[3, 4]), 3],
         ["received", batch(13, 13, 2, message(13), likes=130), 4]),
    case("totals of a batch that comes again are passed over", *IN,
         ["received", batch(11, 12, 2, message(12), likes=120, viewers=[5, 6]), 2],
         ["received", batch(13, 12, 2, likes=130, viewers=[7, 8]), 3],
         ["received", batch(11, 12, 2, message(12), likes=120, viewers=[5, 6]), 4]),
    case("totals of an older batch without messages are passed over", *IN,
         *[["received", batch(11, 10, 2, likes=likes, viewers=[likes, likes]) .replace('"at": 1,', f'"at": {at},'), 2]
           for likes, at in ((5, 1000), (9, 3000), (5, 1000), (9, 3000), (8, 4000), (10, 4000))],
         ["received", batch(10, 9, 2, likes=99, viewers=[9, 9]), 3]),
    case("a clock that was set does not hold totals up", *IN,
         *[["received", batch(11, 10, 2, viewers=[users, users]).replace('"at": 1,', f'"at": {at},'), 2]
           for users, at in ((5, 9_000_000), (6, 8_990_000), (7, 1000), (8, 2000))]),
    case("likes begin again in a new epoch", *IN, ["received", batch(11, 10, 2, likes=9), 2],
         ["received", batch(1, 0, 0, epoch=2, likes=1), 3], ["received", batch(11, 10, 2, likes=99), 4]),
    case("a snapshot of a gateway that lags behind is left out", *IN,
         ["received", batch(11, 12, 2, message(12), likes=120), 2], *AGAIN,
         ["received", joined(epoch=1, seq=11, rseq=2, card={"epoch": 1, "seq": 11, "likes": 100}), 23],
         ["received", joined(epoch=1, seq=12, rseq=2, card={"epoch": 1, "seq": 12, "likes": 110}), 24],
         ["received", json.dumps({"t": "card", "room": "a", "card": {"epoch": 1, "seq": 9, "likes": 90}}), 25],
         ["received", json.dumps({"t": "card", "room": "a", "card": {"epoch": 1, "seq": 12, "likes": 130}}), 26],
         ["received", batch(13, 12, 2, likes=125), 27]),
    case("likes of the first snapshot do not go back", *OPEN,
         ["received", joined(epoch=1, seq=10, rseq=2, pos="1", card={"epoch": 1, "seq": 10, "likes": 120}), 1], *AGAIN,
         ["received", joined(epoch=1, seq=10, rseq=2, resumed=True), 23],
         ["received", batch(11, 10, 2, likes=100, viewers=[1, 1]), 24], ["received", batch(11, 10, 2, likes=121), 25]),
    case("likes of a later epoch's snapshot do not go back when its batches come", *IN,
         ["received", batch(11, 10, 2, likes=99), 2],
         ["received", json.dumps({"t": "card", "room": "a", "card": {"epoch": 2, "seq": 3, "likes": 7}}), 3],
         ["received", batch(4, 3, 0, epoch=2, likes=5, viewers=[1, 1]), 4],
         ["received", batch(4, 3, 0, epoch=2, likes=8), 5]),
]  # fmt: skip
BY_HAND = [
    *WISHES,
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
    case("put out of one of two rooms it stays", *IN,
         ["received", '{"t":"error","code":"kicked","room":"a"}', 2], ["received", batch(11, 11, 2, message(11)), 3],
         rooms=ROOMS),
    case("a refusal for a room that it is not in ends nothing", *IN,
         *[["received", error(code, "x"), 2] for code in ("too_many_rooms", "full", "banned")]),
    case("a room too many is left, and the application learns it", *IN, ["received", joined("b"), 2],
         ["received", error("too_many_rooms"), 3], ["closed", None, 4, 0.5], ["tick", 9], ["opened", 9], rooms=ROOMS),
    case("a room too many of its user is joined again later", *IN,
         ["received", error("too_many_rooms", "b", retry_after_s=1), 2, 0.5], ["tick", 3.5], ["received", joined("b"), 4],
         rooms=ROOMS),
    case("its only room is one too many of its user", *OPEN, ["received", error("too_many_rooms", retry_after_s=1), 1, 0.5],
         ["closed", 1001, 1, 0.5], ["tick", 3.5]),
    case("its only room is one too many", *OPEN, ["received", error("too_many_rooms"), 1], ["closed", 1000, 2, 0.5]),
    *(case(f"its only room is refused for now: {code}", *OPEN, ["received", error(code, retry_after_s=4), 1, 0.5],
           ["closed", 1001, 1, 0.5], ["tick", 5], ["tick", 7], ["opened", 8], ["received", error(code), 9, 0.5],
           ["closed", 1001, 9, 0.5], ["tick", 11]) for code in ("full", "rate_user", "rate_address", "of_a_later_version")),
    case("one of two rooms is refused for now: it joins again, later each time", *IN,
         *[call for at in range(2, 400, 40) for call in
           (["received", error("full", "b", retry_after_s=1), at, 0.5], ["tick", at + 1], ["tick", at + 35])],
         ["received", joined("b", epoch=1, seq=3, rseq=1), 402], ["received", error("full", "b"), 403, 0.25], ["tick", 404],
         ["received", joined("b", epoch=1, seq=3, rseq=1, resumed=True), 405], ["received", error("rate_user", "b"), 406],
         ["closed", None, 406.5, 0.5], ["tick", 408], ["opened", 408], rooms=ROOMS),
    case("the last room that let it in puts it out: it connects again", *IN,
         ["received", error("full", "b"), 2, 0.5], ["received", error("full", "a"), 30, 0.5], ["closed", 1001, 30, 0.5],
         rooms=ROOMS),
    case("the last room that let it in bans it: it connects again for the other one, not before that permits it", *IN,
         ["received", error("rate_address", "b", retry_after_s=900), 2, 0.5],
         ["received", error("banned", until_ms=9), 3, 0.5], ["closed", 1001, 3, 0.75], ["tick", 902], ["tick", 925],
         ["opened", 926], rooms=ROOMS),
    case("while an answer is missing it waits for it", ["start"], ["opened", 0], ["received", hello(), 0],
         ["received", error("full", "a"), 1, 0.5], ["received", error("full", "b"), 1, 0.5], rooms=["a", "b", "c"]),
    case("an error whose fields are none of the protocol is counted", *IN,
         *[["received", error("full", **more), 2, 0.5] for more in
           ({"retry_after_s": "1"}, {"retry_after_s": [1]}, {"until_ms": None}, {"until_ms": 1.5}, {"detail": 3})],
         ["received", error("full", retry_after_s=-5), 2, 0.5]),
    case("rooms go", *IN, ["leave", "a"], ["leave", "a"], ["received", '{"t":"left","room":"a"}', 2],
         ["received", batch(11, 11, 2, message(11)), 3], ["end"], ["end"], rooms=ROOMS),
    case("a card that comes late", *OPEN, ["received", joined(), 1],
         ["received", '{"t":"card","room":"a","card":{"likes":7}}', 2], ["received", '{"t":"card","room":"x","card":{}}', 3]),
    case("notices are told", *IN, ["received", '{"t":"notice","room":"a","kind":"mute","id":"m","at":1,"until_ms":5}', 2]),
    case("failures wait longer and longer, at least what was asked", ["start"],
         *[call for n in range(12) for call in (delayed(40 * n, 0.75, 7 if n == 3 else None), ["tick", 40 * n + 39])]),
    case("when the network is back it waits no longer", ["start"], *[["failed", n, 0.9] for n in range(8)],
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
         ["hurry", 31, 0], ["tick", 33.5], delayed(34, 0.5, code="no_gateway"), ["tick", 60],
         delayed(61, 0.5, code="revoked"), ["tick", 90]),
    case("revoked at its entry, it comes back with a new token, and may be revoked again", ["start"],
         delayed(0, 0, code="revoked"), ["tick", 1], *OPEN[1:], ["closed", 4013, 30, 0], ["tick", 31],
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
REFUSALS = st.sampled_from(
    [
        (None, False),
        *(({"code": "full"} | more, False) for more in ({}, {"retry_after_s": 3}, {"retry_after_s": 90})),
        ({"code": "forbidden", "room": "b", "detail": "no"}, True),
        ({"code": "x"}, True),
        ({"code": "bad_request"}, True),
        ({"code": "token_expired"}, True),
        ({"code": "revoked"}, True),
    ]
)
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
                refusal, is_final = draw(REFUSALS)
                arguments = [now, draw(UNIFORMS), refusal, is_final]
            case "hurry":
                arguments = [now, draw(UNIFORMS), draw(st.sampled_from([0, 0, 8, 600]))]
            case "tick" | "opened" | "probe":
                arguments = [now]
            case "join" | "leave":
                arguments = [draw(ROOM)]
            case _:
                arguments = []
        calls.append([name, *arguments])
    return {
        "name": "made up",
        "rooms": draw(st.sampled_from([["a"], ROOMS, []])),
        "battery": draw(st.booleans()),
        "calls": calls,
    }


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
    "join",
    "leave",
    "leave",
    "ask",
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
