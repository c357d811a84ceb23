"""`liveroom watch`: prints what a viewer of a room sees, a line each."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import aiohttp
import msgspec

from cli.endpoints import Endpoints, make_user, need_scheduler
from cli.printable import printable
from liveroom.kinds import Kind
from liveroom.nesting import UNDECODABLE
from liveroom.users import shown_user
from liveroom.wire import Message
from viewer.client import Viewer
from viewer.effects import Counts, Delivered, Effect, Ended, Entered, Lost, Moved, Renumbered, Told


async def run_watch(room: str, endpoints: Endpoints, *, user: str, as_json: bool, duration_s: float | None) -> int:
    """Print what a viewer of a room sees; return 1 if the connection ended for good, else 0."""
    # Without a key the viewer is a guest.
    token = endpoints.token_for(make_user(user)) if endpoints.token or endpoints.token_key else None
    printer = Printer(as_json=as_json)
    async with aiohttp.ClientSession() as http:
        viewer = Viewer(
            need_scheduler(endpoints),
            [room],
            http=http,
            token=token,
            on_effect=printer.on_effect,
            on_gone=printer.gone,
            on_failed=printer.failed,
        )
        with suppress(TimeoutError):
            async with viewer, asyncio.timeout(duration_s):
                await viewer.until_ended()
                return 1
    return 0


class Printer:
    """Prints a session's effects, a line each."""

    def __init__(self, *, as_json: bool, out: Callable[[str], None] = partial(print, flush=True)) -> None:
        self._as_json = as_json
        self._out = out
        self._error = partial(print, file=sys.stderr, flush=True)
        self._failed = ""

    def on_effect(self, effect: Effect) -> None:
        """Print an effect that people can read."""
        if isinstance(effect, Ended):
            self._note(f"the connection ended for good: {effect.rule.reason}")
        elif isinstance(effect, Delivered):
            self._out(msgspec.json.encode(effect.message).decode() if self._as_json else line_of(effect.message))
        elif note := _note_of(effect):
            self._note(note)

    def gone(self) -> None:
        """Print that the connection was lost."""
        self._note("the connection was lost; trying again")

    def failed(self, why: str) -> None:
        """Print, on the error stream, why no gateway was reached; the same reason once."""
        if why != self._failed:
            self._failed = why
            self._error(f"liveroom: {why}; trying again")

    def _note(self, text: str) -> None:
        if not self._as_json:
            self._out(f"-- {text}")


def line_of(message: Message) -> str:
    """Return a message as a line for people.

    The body is not trusted: it may hold what no decoder reads, and anything where a number should
    be. Control characters, which would move the cursor, are replaced.
    """
    try:
        data: dict[str, Any] = msgspec.json.decode(message.data)
    except UNDECODABLE:
        data = {"unreadable": bytes(message.data).decode(errors="replace")}
    match message.kind:
        case Kind.DANMAKU:
            what = f": {data.get('text', '')}" + (f" x{message.n}" if message.n > 1 else "")
        case Kind.GIFT:
            combo = f", combo {data['combo']}" if data.get("combo", 1) != 1 else ""
            what = f" gives {data.get('count', 1)} {data.get('gift', '')}{combo}"
        case kind:
            what = f" {kind} {data}"
    text = f"{message.seq:>6}  {message.name or shown_user(message.user)}{what}"
    return printable(text)


def _note_of(effect: Effect) -> str:
    match effect:
        case Entered():
            return f"in room {effect.room}"
        case Counts(likes=int(likes)):
            return f"{likes:,} likes"
        case Lost():
            return f"{effect.to_rseq - effect.after_rseq} gifts or notices were missed"
        case Renumbered():
            return "the room's history begins again"
        case Told(what=what):
            return f"{msgspec.json.encode(what).decode()}"
        case Moved():
            return f"the gateway asks to move: {effect.reason}"
        case _:
            return ""
