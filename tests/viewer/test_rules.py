"""The rules of pulls, epochs and heartbeats as a table of plain data: what happens, when, and what
comes of it.

A step is `at` (seconds), what happens, and its `effects` in short words; jitter is always a half.
Every session begins with `START`. The same table can be read by an SDK in another language.
"""

from typing import Any

import msgspec
import pytest

from liveroom.wire import ReceivedBatch, decode_server_frame
from viewer.effects import (
    Connect,
    Delivered,
    Disconnect,
    Effect,
    Entered,
    Hole,
    Lost,
    Moved,
    Progress,
    Pull,
    Renumbered,
    RoomCard,
    Send,
)
from viewer.session import Session, State

Step = dict[str, Any]

HELLO: Step = {"t": "hello", "gateway": "e", "generation": 1, "heartbeat_s": 20, "silence_s": 25, "user": "u", "pull": "token"}
JOINED: Step = {"t": "joined", "room": "r", "epoch": 5, "seq": 10, "rseq": 1, "pos": "p1"}
START: list[Step] = [
    {"at": 0, "open": True, "effects": ["join"]},
    {"at": 0, "frame": HELLO, "effects": []},
    {"at": 0, "frame": JOINED, "effects": ["entered", "first 1"]},
]
PATIENT: list[Step] = [{"at": 0, "frame": HELLO | {"heartbeat_s": 100, "silence_s": 100}, "effects": []}]
# 11 and 12 come, numbers 2 and 3 do not, 14 has number 4.
HOLED: list[Step] = [
    {"at": 1, "batch": [11, 12], "rseq": 1, "pos": "p2", "messages": [[11, 0], [12, 0]], "effects": ["11", "12"]},
    {
        "at": 2,
        "batch": [13, 14],
        "rseq": 4,
        "pos": "p3",
        "messages": [[13, 0], [14, 4]],
        "effects": ["13", "hole 1-3", "14", "pull pos=p2 epoch=5 after_rseq=1"],
    },
]
AGAIN: list[Step] = [
    {"at": 3, "closed": 1012, "effects": []},
    {"at": 4, "open": True, "effects": ["connect", "join epoch=5 seq=14 rseq=4"]},
]


def again(outcome: Step, count: int, at: float = 3) -> list[Step]:
    """Return pulls with this outcome, each followed by the tick when the next is due."""
    steps: list[Step] = []
    for number in range(count):
        wait = min(0.25 * 2**number, 15)
        steps += [
            {"at": at, "effects": [], "wake": at + wait} | outcome,
            {"at": at + wait, "tick": True, "effects": ["pull pos=p2 epoch=5 after_rseq=1"]},
        ]
        at += wait
    return steps


def in_vain(times: range, outcome: Step) -> list[Step]:
    """Return pulls with this outcome at these times; after each, a frame sends the next one."""
    frame: Step = {"frame": {"t": "hb", "at": 1}, "effects": ["pull pos=p2 epoch=5 after_rseq=1"]}
    return [step for at in times for step in ({"at": at, "effects": []} | outcome, {"at": at + 20} | frame)]


FAILED: Step = {"failed": None}
GONE: Step = {"pulled": {"epoch": 5, "rseq": 1, "gone": True}, "messages": []}
FORBIDDEN: Step = {"refused": True}


PULLED: dict[str, list[Step]] = {
    "what is pulled comes late, and what comes meanwhile in order": [
        *HOLED,
        {"at": 3, "batch": [15, 15], "rseq": 5, "pos": "p4", "messages": [[15, 5]], "effects": ["15"]},
        {"at": 4, "pulled": {"epoch": 5, "rseq": 5}, "messages": [[12, 2], [13, 3]], "effects": ["late 12", "late 13"]},
        {"at": 5, "pulled": {"epoch": 5, "rseq": 5}, "messages": [[12, 2]], "effects": []},
    ],
    "what else is in the answer is dropped": [
        *HOLED,
        {
            "at": 3,
            "pulled": {"epoch": 5, "rseq": 5},
            "messages": [[9, 1], [11, 0], [12, 2], [12, 2], [13, 3], [14, 4], [15, 5]],
            "effects": ["late 12", "late 13"],
        },
    ],
    "what is not in the answer, but below the number searched up to, is lost": [
        *HOLED,
        {"at": 3, "pulled": {"epoch": 5, "rseq": 4}, "messages": [[13, 3]], "effects": ["late 13", "lost 1-2"]},
        {"at": 3, "wait": 20, "effects": []},
    ],
    "gone is lost in the same way": [
        *HOLED,
        {"at": 3, "pulled": {"epoch": 5, "rseq": 4, "gone": True}, "messages": [], "effects": ["lost 1-3"]},
    ],
    "where there is more, the next pull follows at once, from where the answer ended": [
        *HOLED,
        {
            "at": 3,
            "pulled": {"epoch": 5, "rseq": 2, "pos": "p2.5", "more": True},
            "messages": [[12, 2]],
            "effects": ["late 12", "pull pos=p2.5 epoch=5 after_rseq=2"],
        },
    ],
    "more without any of ours goes on at once too": [
        *HOLED,
        {
            "at": 3,
            "pulled": {"epoch": 5, "rseq": 1, "pos": "p2.1", "more": True},
            "messages": [],
            "effects": ["pull pos=p2.1 epoch=5 after_rseq=1"],
        },
    ],
    "more that leads nowhere waits": [
        *HOLED,
        {"at": 3, "pulled": {"epoch": 5, "rseq": 1, "pos": "p2", "more": True}, "messages": [], "effects": [], "wake": 3.25},
    ],
    "a gateway that has not read so far is asked again, from where it was": [
        *HOLED,
        {
            "at": 3,
            "pulled": {"epoch": 5, "rseq": 2, "pos": "p2.5"},
            "messages": [[12, 2]],
            "effects": ["late 12"],
            "wake": 3.25,
        },
        {"at": 3.2, "tick": True, "effects": []},
        {"at": 3.25, "tick": True, "effects": ["pull pos=p2.5 epoch=5 after_rseq=2"]},
    ],
    "a frame sends a pull that is due": [
        *HOLED,
        {"at": 3, "failed": None, "effects": [], "wake": 3.25},
        {"at": 3.3, "frame": {"t": "hb", "at": 1}, "effects": ["pull pos=p2 epoch=5 after_rseq=1"]},
    ],
    "after 8 answers by which the log has nothing of it any more a hole is lost": [
        *PATIENT,
        *HOLED,
        *again(GONE, 7),
        {"at": 36, **GONE, "effects": ["lost 1-3"]},
    ],
    "after 8 refusals that no waiting ends a hole is lost": [
        *PATIENT,
        *HOLED,
        *again(FORBIDDEN, 7),
        {"at": 36, **FORBIDDEN, "effects": ["lost 1-3"]},
    ],
    "failures, and refusals for the moment, lose nothing, however many": [
        *PATIENT,
        *HOLED,
        *again(FAILED, 7),
        {"at": 36, "failed": 5, "effects": [], "wake": 56},
        {"at": 56, "frame": {"t": "hb", "at": 1}, "effects": ["pull pos=p2 epoch=5 after_rseq=1"]},
        *in_vain(range(60, 460, 40), FAILED),
        {"at": 460, "pulled": {"epoch": 5, "rseq": 4}, "messages": [[12, 2], [13, 3]], "effects": ["late 12", "late 13"]},
    ],
    "a gateway that is behind loses nothing, however often it is asked": [
        *PATIENT,
        *HOLED,
        *again({"pulled": {"epoch": 4, "rseq": 9}, "messages": []}, 4),
        *in_vain(range(20, 320, 30), {"pulled": {"epoch": 5, "rseq": 1}, "messages": []}),
        {"at": 320, "pulled": {"epoch": 5, "rseq": 4}, "messages": [[12, 2], [13, 3]], "effects": ["late 12", "late 13"]},
    ],
    "the delay of a refusal holds for the next hole too": [
        *HOLED,
        {"at": 3, "failed": 6, "effects": [], "wake": 12},
        {"at": 4, "batch": [12, 13], "rseq": 3, "messages": [[12, 2], [13, 3]], "effects": ["late 12", "late 13"]},
        {"at": 5, "batch": [15, 16], "rseq": 6, "pos": "p4", "messages": [[16, 6]], "effects": ["hole 4-5", "16"], "wake": 12},
        {"at": 12, "tick": True, "effects": ["pull pos=p3 epoch=5 after_rseq=4"]},
    ],
    "what a pull brings lets the count begin again": [
        *PATIENT,
        *HOLED,
        *again(GONE, 7),
        {"at": 36, "pulled": {"epoch": 5, "rseq": 2}, "messages": [[12, 2]], "effects": ["late 12"], "wake": 36.25},
        {"at": 36.25, "tick": True, "effects": ["pull pos=p2 epoch=5 after_rseq=2"]},
        {"at": 37, "failed": None, "effects": [], "wake": 37.25},
    ],
    "a refusal says when to ask again, and those that it says the same to spread as widely": [
        *HOLED,
        {"at": 3, "failed": 4, "effects": [], "wake": 9},
    ],
    "an answer that cannot be read is a failure": [
        *HOLED,
        {"at": 3, "pulled": {"epoch": "?"}, "messages": [], "effects": [], "wake": 3.25},
    ],
    "an answer of an older epoch, or of none, is a failure": [
        *HOLED,
        {"at": 3, "pulled": {"epoch": 4, "rseq": 9}, "messages": [[12, 2]], "effects": [], "wake": 3.25},
        {"at": 3.25, "tick": True, "effects": ["pull pos=p2 epoch=5 after_rseq=1"]},
        {"at": 3.5, "pulled": {"gone": True}, "messages": [], "effects": [], "wake": 4.0},
    ],
    "an answer of a newer epoch loses every hole": [
        *HOLED,
        {"at": 2, "batch": [15, 14], "rseq": 6, "messages": [], "effects": ["hole 4-6"]},
        {"at": 3, "pulled": {"epoch": 6, "rseq": 9}, "messages": [[12, 2]], "effects": ["lost 1-3", "lost 4-6"]},
    ],
    "holes are pulled one after the other, each from just before it": [
        *HOLED,
        {"at": 3, "batch": [15, 16], "rseq": 6, "pos": "p4", "messages": [[16, 6]], "effects": ["hole 4-5", "16"]},
        {
            "at": 4,
            "pulled": {"epoch": 5, "rseq": 3, "pos": "p2.9"},
            "messages": [[12, 2], [13, 3]],
            "effects": ["late 12", "late 13"],
            "wake": 4.25,
        },
        {"at": 4.25, "tick": True, "effects": ["pull pos=p3 epoch=5 after_rseq=4"]},
    ],
    "one answer may fill several holes, and split one": [
        *HOLED,
        {"at": 3, "batch": [15, 18], "rseq": 8, "pos": "p4", "messages": [[18, 8]], "effects": ["hole 4-7", "18"]},
        {
            "at": 4,
            "pulled": {"epoch": 5, "rseq": 3},
            "messages": [[12, 2], [13, 3], [16, 6]],
            "effects": ["late 12", "late 13", "late 16"],
        },
        {"at": 4.25, "tick": True, "effects": ["pull pos=p3 epoch=5 after_rseq=4"]},
        {"at": 5, "pulled": {"epoch": 5, "rseq": 5}, "messages": [[15, 5]], "effects": ["late 15"]},
        {"at": 5.25, "tick": True, "effects": ["pull pos=p3 epoch=5 after_rseq=6"]},
    ],
    "a reliable message below a header's number is missing too": [
        {
            "at": 1,
            "batch": [11, 12],
            "rseq": 3,
            "pos": "p2",
            "messages": [[11, 2]],
            "effects": ["11", "hole 2-3", "pull pos=p1 epoch=5 after_rseq=2"],
        },
    ],
    "a batch that comes after all fills a hole once": [
        *HOLED,
        {"at": 3, "batch": [12, 13], "rseq": 3, "messages": [[12, 2], [13, 3]], "effects": ["late 12", "late 13"]},
        {"at": 3, "batch": [12, 13], "rseq": 3, "messages": [[12, 2], [13, 3]], "effects": []},
        {"at": 4, "pulled": {"epoch": 5, "rseq": 4}, "messages": [[12, 2], [13, 3]], "effects": []},
        {"at": 5, "wait": 20, "effects": []},
    ],
    "an older batch sets nothing back": [
        *HOLED[:1],
        {"at": 2, "batch": [13, 14], "rseq": 2, "pos": "p3", "messages": [[13, 0], [14, 2]], "effects": ["13", "14"]},
        {"at": 3, "batch": [11, 12], "rseq": 1, "pos": "p2", "messages": [[11, 0], [12, 0]], "effects": []},
        {"at": 3, "batch": [13, 14], "rseq": 2, "pos": "p3", "messages": [[13, 0], [14, 2]], "effects": []},
        {"at": 3, "batch": [11, 12], "rseq": 1, "pos": "p2", "messages": [[11, 0], [12, 0]], "effects": []},
        {
            "at": 4,
            "batch": [15, 16],
            "rseq": 4,
            "messages": [[16, 4]],
            "effects": ["hole 2-3", "16", "pull pos=p3 epoch=5 after_rseq=2"],
        },
    ],
    "what was pulled before its batch came is not delivered again": [
        *HOLED[:1],
        {"at": 2, "batch": [13, 12], "rseq": 2, "messages": [], "effects": ["hole 1-2", "pull pos=p2 epoch=5 after_rseq=1"]},
        {"at": 3, "pulled": {"epoch": 5, "rseq": 2}, "messages": [[13, 2]], "effects": ["late 13"]},
        {"at": 3, "batch": [13, 14], "rseq": 2, "messages": [[13, 2], [14, 0]], "effects": ["14"]},
    ],
    "a gateway without a token cannot be asked": [
        {"at": 0, "frame": HELLO | {"pull": ""}, "effects": []},
        {"at": 2, "batch": [11, 11], "rseq": 3, "messages": [[11, 3]], "effects": ["hole 1-2", "11", "lost 1-2"]},
    ],
    "without a cursor the parameter is left out": [
        {"at": 0, "frame": JOINED | {"epoch": 6, "pos": ""}, "effects": ["entered", "renumbered 6", "first 1"]},
        {
            "at": 2,
            "batch": [11, 11],
            "epoch": 6,
            "rseq": 3,
            "messages": [[11, 3]],
            "effects": ["hole 1-2", "11", "pull epoch=6 after_rseq=1"],
        },
    ],
    "a room that was left is pulled no more": [
        *HOLED,
        {"at": 3, "leave": "r", "effects": ["leave", "disconnect 1000"]},
        {"at": 4, "pulled": {"epoch": 5, "rseq": 4}, "messages": [[12, 2]], "effects": []},
        {"at": 4, "failed": None, "effects": []},
    ],
}

CONNECTIONS: dict[str, list[Step]] = {
    "holes outlive the connection; the pull that was out does not": [
        *HOLED,
        *AGAIN,
        {"at": 4, "pulled": {"epoch": 5, "rseq": 4}, "messages": [[12, 2]], "effects": []},
        {"at": 4, "frame": HELLO | {"pull": "new"}, "effects": ["pull pos=p2 epoch=5 after_rseq=1 token=new"]},
        {"at": 5, "pulled": {"epoch": 5, "rseq": 4}, "messages": [[12, 2], [13, 3]], "effects": ["late 12", "late 13"]},
    ],
    "a new connection waits for no pull of the old one": [
        *HOLED,
        *again(FAILED, 3),
        {"at": 6, "failed": None, "effects": []},
        {"at": 6, "closed": None, "effects": []},
        {"at": 7, "open": True, "effects": ["connect", "join epoch=5 seq=14 rseq=4"]},
        {"at": 7, "frame": HELLO, "effects": ["pull pos=p2 epoch=5 after_rseq=1"]},
    ],
    "a join that is resumed moves nothing": [
        *HOLED,
        *AGAIN,
        {"at": 4, "frame": JOINED | {"seq": 14, "rseq": 4, "resumed": True}, "effects": ["entered resumed"]},
        {"at": 5, "batch": [14, 15], "rseq": 5, "messages": [[14, 4], [15, 5]], "effects": ["15"]},
        {"at": 5, "frame": HELLO, "effects": ["pull pos=p2 epoch=5 after_rseq=1"]},
    ],
    "what passed while away is pulled from the old cursor": [
        {"at": 1, "batch": [11, 11], "rseq": 2, "pos": "p2", "messages": [[11, 2]], "effects": ["11"]},
        {"at": 3, "closed": 1012, "effects": []},
        {"at": 4, "open": True, "effects": ["connect", "join epoch=5 seq=11 rseq=2"]},
        {"at": 4, "frame": HELLO, "effects": []},
        {
            "at": 4,
            "frame": JOINED | {"seq": 30, "rseq": 8, "pos": "p9"},
            "effects": ["entered", "hole 2-8", "pull pos=p2 epoch=5 after_rseq=2"],
        },
        {"at": 5, "batch": [31, 33], "rseq": 11, "messages": [[31, 9], [33, 11]], "effects": ["31", "hole 9-10", "33"]},
        {
            "at": 6,
            "pulled": {"epoch": 5, "rseq": 8, "more": True, "pos": "p8"},
            "messages": [[12 + number, 3 + number] for number in range(6)],
            "effects": [*(f"late {12 + number}" for number in range(6)), "pull pos=p9 epoch=5 after_rseq=9"],
        },
    ],
    "a batch before the answer to a join changes nothing of this": [
        *HOLED[:1],
        {"at": 3, "closed": 1012, "effects": []},
        {"at": 4, "open": True, "effects": ["connect", "join epoch=5 seq=12 rseq=1"]},
        {"at": 4, "frame": HELLO, "effects": []},
        {
            "at": 4,
            "batch": [20, 20],
            "rseq": 4,
            "pos": "p9",
            "messages": [[20, 4]],
            "effects": ["hole 1-3", "20", "pull pos=p2 epoch=5 after_rseq=1"],
        },
        {"at": 4, "frame": JOINED | {"seq": 19, "rseq": 3, "pos": "p8"}, "effects": ["entered"]},
        {"at": 4, "batch": [20, 21], "rseq": 4, "messages": [[20, 4], [21, 0]], "effects": ["21"]},
    ],
    "a gateway that is behind does not set numbers back": [
        *HOLED[:1],
        {"at": 3, "closed": 1012, "effects": []},
        {"at": 4, "open": True, "effects": ["connect", "join epoch=5 seq=12 rseq=1"]},
        {"at": 4, "frame": JOINED, "effects": ["entered"]},
        {"at": 5, "batch": [11, 13], "rseq": 1, "messages": [[11, 0], [12, 0], [13, 0]], "effects": ["13"]},
        {"at": 6, "frame": JOINED | {"epoch": 4, "seq": 99, "rseq": 99}, "effects": ["entered"]},
        {"at": 6, "batch": [14, 14], "epoch": 4, "rseq": 99, "messages": [[14, 99]], "effects": []},
    ],
    "a new epoch loses every hole and says so": [
        *HOLED,
        {
            "at": 3,
            "batch": [1, 1],
            "epoch": 6,
            "rseq": 1,
            "messages": [[1, 1]],
            "effects": ["lost 1-3", "renumbered 6", "first 0", "1"],
        },
        {"at": 4, "pulled": {"epoch": 5, "rseq": 4}, "messages": [[12, 2]], "effects": []},
    ],
    "a card comes with the join or after it, and moves no number": [
        {"at": 0, "frame": JOINED | {"card": {"seq": 99, "rseq": 9}}, "effects": ["entered card"]},
        {"at": 1, "frame": {"t": "card", "room": "r", "card": {"epoch": 9, "seq": 99, "rseq": 9}}, "effects": ["roomcard"]},
        {"at": 1, "frame": {"t": "card", "room": "other", "card": {}}, "effects": []},
        {"at": 2, "batch": [11, 11], "rseq": 2, "messages": [[11, 2]], "effects": ["11"]},
    ],
    "move connects anew after its delay": [
        {"at": 1, "frame": {"t": "move", "reason": "drain", "delay_s": 2}, "effects": ["moved drain"], "wake": 3},
        {"at": 3, "tick": True, "effects": ["disconnect 1001"]},
    ],
}


def beats(first: float, interval: float, count: int) -> list[Step]:
    """Return heartbeats from `first` on, each answered a second later."""
    steps: list[Step] = []
    for number in range(count):
        at = first + number * interval
        steps.append({"at": at, "tick": True, "effects": ["hb"]})
        steps += [{"at": at + after, "frame": {"t": "hb", "at": 1}, "effects": []} for after in (1, 20, 40) if after < interval]
    return steps


# An answered beat is seen as one when the next is due: so the fourth beat starts the first longer
# interval.
BATTERY: dict[str, list[Step]] = {
    "three answered beats make the interval longer, up to 2.5 times": [
        *beats(20, 20, 3),
        *beats(80, 25, 3),
        *beats(155, 31.25, 3),
        *beats(248.75, 39.0625, 3),
        *beats(365.9375, 48.828125, 3),
        *beats(512.421875, 50, 6),
    ],
    "beats that were not answered do not count": [
        {"at": 20, "tick": True, "effects": ["hb"]},
        {"at": 40, "frame": {"t": "hb", "at": 1}, "effects": []},
        {"at": 40, "tick": True, "effects": ["hb"]},
        {"at": 60, "tick": True, "effects": ["hb"], "wake": 65},
        {"at": 61, "frame": {"t": "hb", "at": 1}, "effects": [], "wake": 80},
        {"at": 80, "tick": True, "effects": ["hb"], "wake": 86},
        {"at": 81, "frame": {"t": "hb", "at": 1}, "effects": [], "wake": 100},
        {"at": 100, "tick": True, "effects": ["hb"]},
        {"at": 101, "frame": {"t": "hb", "at": 1}, "effects": [], "wake": 125},
    ],
    "a connection lost while grown: never again so long": [
        *beats(20, 20, 3),
        *beats(80, 25, 3),
        {"at": 155, "tick": True, "effects": ["hb"]},  # now 31.25, so 25 is the limit
        {"at": 156, "closed": None, "effects": []},
        {"at": 160, "open": True, "effects": ["connect", "join epoch=5 seq=10 rseq=1"]},
        {"at": 160, "frame": HELLO, "effects": []},
        *beats(180, 20, 3),
        *beats(240, 25, 6),
    ],
    "a close code says nothing against the interval": [
        *beats(20, 20, 3),
        {"at": 80, "tick": True, "effects": ["hb"]},
        {"at": 81, "closed": 1012, "effects": []},
        {"at": 84, "open": True, "effects": ["connect", "join epoch=5 seq=10 rseq=1"]},
        *beats(104, 20, 3),
        *beats(164, 25, 3),
        *beats(239, 31.25, 1),
    ],
}


def message(seq: int, rseq: int) -> Step:
    return {"seq": seq, "kind": "gift" if rseq else "danmaku", "id": f"i{seq}", "user": "u", "at": 1, "rseq": rseq}


def word(effect: Effect) -> str:
    """Return an effect in short."""
    match effect:
        case Connect() | RoomCard():
            return type(effect).__name__.lower()
        case Disconnect() | Moved() | Renumbered():
            return f"{type(effect).__name__.lower()} {effect[-1]}"
        case Send(text):
            frame = msgspec.json.decode(text)
            numbers = [f" {name}={frame[name]}" for name in ("epoch", "seq", "rseq") if name in frame]
            return f"{frame['t']}{''.join(numbers)}"
        case Pull():
            numbers = [f" {name}={value}" for name, value in effect.params.items()]
            return f"pull{''.join(numbers)}{'' if effect.token == 'token' else f' token={effect.token}'}"
        case Entered():
            return f"entered{' resumed' if effect.resumed else ''}{' card' if effect.card else ''}"
        case Delivered():
            return f"{'late ' if effect.late else ''}{effect.message.seq}"
        case Progress():
            return f"first {effect.rseq}" if effect.first else ""
        case Hole() | Lost():
            return f"{type(effect).__name__.lower()} {effect.after_rseq}-{effect.to_rseq}"
        case other:
            return repr(other)


def do(session: Session, step: Step) -> list[Effect]:
    """Let one thing happen to a session."""
    at = step["at"]
    messages = [message(*numbers) for numbers in step.get("messages", [])]
    match step:
        case {"open": _}:
            effects = session.tick(at) if session.state is State.WAITING else session.start() and []
            return effects + session.opened(at)
        case {"frame": frame}:
            return session.received(msgspec.json.encode(frame), at)
        case {"batch": seq}:
            header = {"t": "batch", "room": "r", "epoch": step.get("epoch", 5), "seq": seq, "at": 1}
            header |= {name: step[name] for name in ("rseq", "pos") if name in step}
            return session.received(b"\n".join(msgspec.json.encode(line) for line in (header, *messages)), at)
        case {"pulled": answer}:
            return session.pulled("r", msgspec.json.encode({"room": "r", "messages": messages} | answer), at, 0.5)
        case {"failed": retry_after_s}:
            return session.pull_failed("r", at, 0.5, retry_after_s)
        case {"refused": _}:
            return session.pull_refused("r", at, 0.5)
        case {"closed": code}:
            return session.closed(code, at, 0.5)
        case {"leave": room}:
            return session.leave(room)
        case {"wait": until}:
            assert session.wake_at == until
            return []
        case _:
            return session.tick(at)


@pytest.mark.parametrize("battery", [False, True])
@pytest.mark.parametrize("steps", [pytest.param(steps, id=name) for name, steps in (PULLED | CONNECTIONS).items()])
def test_what_happens_has_these_effects(steps: list[Step], battery: bool) -> None:
    check(Session(["r"], battery=battery), steps)


@pytest.mark.parametrize("steps", [pytest.param(steps, id=name) for name, steps in BATTERY.items()])
def test_the_heartbeat_of_a_battery(steps: list[Step]) -> None:
    check(Session(["r"], battery=True), steps)


def check(session: Session, steps: list[Step]) -> None:
    for step in [*START, *steps]:
        if step.get("tick") and step["effects"] == ["hb"]:
            assert session.wake_at == step["at"], step
        assert [text for effect in do(session, step) if (text := word(effect))] == step["effects"], step
        if step.get("wake") is not None:
            assert session.wake_at == step["wake"], step


def test_without_a_battery_the_interval_stays() -> None:
    check(Session(["r"]), beats(20, 20, 12))


def test_a_frame_may_come_decoded() -> None:
    session, other = Session(["r"]), Session(["r"])
    for step in START:
        do(session, step)
        do(other, step)
    text = b'{"t":"batch","room":"r","epoch":5,"seq":[11,11],"rseq":1,"at":1}\n' + msgspec.json.encode(message(11, 0))
    frame = decode_server_frame(text)
    assert isinstance(frame, ReceivedBatch)
    assert session.received_frame(frame, 1) == other.received(text, 1)
    assert session.received_frame(frame, 1) == other.received(text, 1)
    assert session.duplicates == other.duplicates == 1
