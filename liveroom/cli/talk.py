"""The small commands: `send`, `watch`, `doctor`, `topics`. Each finds its services, does one thing and says how it went."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final
from unicodedata import category

import aiohttp
import msgspec
from aiokafka.errors import KafkaError
from rich.console import Console

from liveroom.bodies import Danmaku
from liveroom.cli import doctor, table
from liveroom.cli.doctor import Level
from liveroom.cli.target import Target, TargetError, find_kafka, make_user, need_ingress, need_scheduler
from liveroom.errors import TABLE, Code
from liveroom.kinds import Kind
from liveroom.queue import LogReadError
from liveroom.wire import Message
from viewer.client import Accepted, Refused, Sender, Unknown, Viewer
from viewer.session import Counts, Delivered, Effect, Ended, Entered, Lost, Moved, Renumbered, Told

_WIDTH: Final = 160  # of tables in a file or pipe
_STYLES: Final = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


async def run_send(room: str, text: str, target: Target, *, user: str, name: str) -> int:
    """Send one danmaku; 1 if it was not accepted."""
    try:
        body = msgspec.convert({"text": text}, Danmaku)
    except msgspec.ValidationError:
        raise TargetError(f"a danmaku has 1 to 200 characters, this one {len(text)}") from None
    ingress, token = need_ingress(target), target.token_for(make_user(user, name=name))
    async with aiohttp.ClientSession() as http:
        answer = await Sender(ingress, token, http).send(room, "danmaku", msgspec.to_builtins(body))
    match answer:
        case Accepted():
            print(f"accepted: {answer.id}")
            return 0
        case Refused():
            print(f"refused: {answer.code}{_title(answer.code)}")
        case Unknown():
            print(f"unknown, it may have been written: {answer.why}")
    return 1


def _title(code: str) -> str:
    try:
        return f" ({TABLE[Code(code)].title})"
    except ValueError:
        return ""


async def run_watch(room: str, target: Target, *, user: str, as_json: bool, duration_s: float | None) -> int:
    """Print what a viewer of a room sees; 1 if the connection ended for good."""
    # Without a key one watches as a guest.
    token = target.token_for(make_user(user)) if target.token or target.token_key else None
    teller = Teller(as_json=as_json)
    async with aiohttp.ClientSession() as http:
        viewer = Viewer(need_scheduler(target), [room], http=http, token=token, on_effect=teller.tell, on_gone=teller.gone)
        with suppress(TimeoutError):
            async with viewer, asyncio.timeout(duration_s):
                await teller.ended.wait()
    return 1 if teller.ended.is_set() else 0


class Teller:
    """Prints a session's effects, a line each."""

    def __init__(self, *, as_json: bool, out: Callable[[str], None] = partial(print, flush=True)) -> None:
        self.ended = asyncio.Event()
        self._as_json = as_json
        self._out = out

    def tell(self, effect: Effect) -> None:
        """Print one effect, if it is for people."""
        if isinstance(effect, Ended):
            self._note(f"the connection ended for good: {effect.rule.reason}")
            self.ended.set()
        elif isinstance(effect, Delivered):
            self._out(msgspec.json.encode(effect.message).decode() if self._as_json else line_of(effect.message))
        elif note := _note_of(effect):
            self._note(note)

    def gone(self) -> None:
        """Print that the connection was lost."""
        self._note("the connection was lost; trying again")

    def _note(self, text: str) -> None:
        if not self._as_json:
            self._out(f"-- {text}")


def line_of(message: Message) -> str:
    """Return a message as a line for people. The words are a stranger's: control characters would move the cursor."""
    data: dict[str, Any] = msgspec.json.decode(message.data)
    match message.kind:
        case Kind.DANMAKU:
            what = f": {data.get('text', '')}" + (f" x{message.n}" if message.n > 1 else "")
        case Kind.GIFT:
            combo = f", combo {data['combo']}" if data.get("combo", 0) > 1 else ""
            what = f" gives {data.get('count', 1)} {data.get('gift', '')}{combo}"
        case kind:
            what = f" {kind.value} {data}"
    text = f"{message.seq:>6}  {message.name or message.user}{what}"
    return "".join("\N{REPLACEMENT CHARACTER}" if category(character)[0] == "C" else character for character in text)


def _note_of(effect: Effect) -> str:
    match effect:
        case Entered():
            return f"in room {effect.room}"
        case Counts(likes=int(likes)):
            return f"{likes:,} likes"
        case Lost():
            return f"{effect.to_rseq - effect.after_rseq} gifts or notices were missed"
        case Renumbered():
            return "the room's history begins anew"
        case Told(what=what):
            return f"{msgspec.json.encode(what).decode()}"
        case Moved():
            return f"the gateway asks to move: {effect.reason}"
        case _:
            return ""


async def show_health(kafka: str, prefix: str | None) -> int:
    """Print what the doctor finds; 1 if something must be mended."""
    console = Console(highlight=False)
    findings = await doctor.examine(find_kafka(kafka, prefix))
    for finding in findings:
        console.print(f"{finding.level.value:<5}", style=_STYLES[finding.level], end="")
        console.print(f"{finding.about}: {finding.found}", markup=False, soft_wrap=True)
        if finding.todo:
            console.print(f"     -> {finding.todo}", markup=False, soft_wrap=True)
    worst = {finding.level for finding in findings}
    if Level.FAIL in worst:
        console.print("Something must be mended first: see the lines with fail.")
        return 1
    console.print("It will do, see the lines with warn." if Level.WARN in worst else "All is well.")
    return 0


async def show_topics(kafka: str, prefix: str | None, partitions: int | None) -> int:
    """Print the topics, and who rules the partitions of `broadcast`."""
    settings = find_kafka(kafka, prefix, partitions)
    if settings is None:
        raise TargetError("no Kafka: start `liveroom demo` or `liveroom up`, or give --kafka HOST:PORT (KAFKA_BOOTSTRAP)")
    try:
        found = await table.survey(settings)
    except (KafkaError, OSError, TimeoutError, LogReadError) as error:
        raise TargetError(f"Kafka at {settings.bootstrap} does not answer: {error!r}") from None
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table.topics_table(found, settings))
    console.print(table.partitions_table(found, time.time_ns() // 1_000_000))
    return 0
