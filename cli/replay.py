"""`liveroom replay`: plays a script into a room through ingress, on time, and counts the answers.

Owns the timing: every cue is sent when it is due, whether or not earlier ones have their answer. At
most 500 may wait for theirs. The demo plays through the same `Player`, round after round.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from rich.console import Console

from cli.consoles import plain_console
from cli.danmaku import read_file
from cli.endpoints import Endpoints, UsageError, need_ingress
from cli.printable import printable
from cli.refusals import words_of
from cli.script import SEEDS, Cue, write
from liveroom import clock
from liveroom.chance import Chance, SystemChance
from liveroom.kinds import Kind
from liveroom.tasks import beside
from liveroom.tickets import User
from viewer.problem import NO_ANSWER, ServiceError
from viewer.sender import Accepted, Refused, Sender, Unknown, check

PATHS: Final = {Kind.DANMAKU: "danmaku", Kind.GIFT: "gifts", Kind.LIKE: "likes"}
CONNECTIONS: Final = 100
MAX_WAITING: Final = 500  # unanswered at once; beyond that the play waits, and reports how late it was
_REPORT_S: Final = 2.0

Answer = Accepted | Refused | Unknown
Send = Callable[[Cue], Awaitable[Answer]]


@dataclass(slots=True)
class Tally:
    """What was sent, and the answers."""

    sent: Counter[Kind] = field(default_factory=Counter)
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    most_late_s: float = 0.0

    def count(self, answer: Answer) -> None:
        """Count one answer."""
        match answer:
            case Accepted():
                self.accepted += 1
            case Refused(code=code):
                self.refused[code] += 1
            case Unknown(code=code):
                self.unknown[code] += 1

    def line(self) -> str:
        """Return the counts in one line."""
        sent = ", ".join(f"{self.sent[kind]:,} {kind.value}" for kind in sorted(self.sent, key=lambda kind: kind.value))
        verdicts = f"accepted {self.accepted:,}, refused {self.refused.total():,}, unknown {self.unknown.total():,}"
        why = ", ".join(f"{code} {count:,}" for code, count in (self.refused + self.unknown).most_common(5))
        return f"sent {sent or 'nothing'}; {verdicts}" + (f" ({why})" if why else "")


class Player:
    """Sends cues when they are due."""

    def __init__(self, send: Send, *, speed: float = 1.0, max_waiting: int = MAX_WAITING) -> None:
        self.tally = Tally()
        self._send = send
        self._speed = speed
        self._free = asyncio.Semaphore(max_waiting)
        self._stopped = asyncio.Event()

    async def play(self, cues: Iterable[Cue]) -> None:
        """Send all cues, the first at once, and wait for their answers."""
        began_s: float | None = None
        async with asyncio.TaskGroup() as tasks:
            for cue in cues:
                if began_s is None:
                    began_s = clock.monotonic_s() - cue.at_s / self._speed
                due_s = began_s + cue.at_s / self._speed
                if (wait_s := due_s - clock.monotonic_s()) > 0:
                    await self._wait(wait_s)
                await self._free.acquire()
                if self._stopped.is_set():
                    break
                self.tally.most_late_s = max(self.tally.most_late_s, clock.monotonic_s() - due_s)
                self.tally.sent[cue.kind] += 1
                tasks.create_task(self._one(cue))

    def stop(self) -> None:
        """Send nothing more; `play` returns when all that was sent has its answer."""
        self._stopped.set()

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    async def _one(self, cue: Cue) -> None:
        try:
            self.tally.count(await self._send(cue))
        finally:
            self._free.release()


async def send_cue(sender: Sender, room: str, cue: Cue, run: str) -> Answer:
    """Send one cue and return the answer.

    `run` begins the id, so that another run of the same script has other ids: ingress and
    broadcaster remember an id for 10 minutes.
    """
    return await sender.send(room, PATHS[cue.kind], {"id": f"{run}.{cue.id}", **msgspec.to_builtins(cue.body)})


async def run_replay(file: Path, room: str, endpoints: Endpoints, *, speed: float, seed: int | None, plain: bool) -> int:
    """Play a file once and return the exit code: 1 if anything was not accepted.

    Raises UsageError where no ingress answers before anything is accepted.
    """
    console = plain_console(soft_wrap=True)
    ingress = need_ingress(endpoints)
    found = await asyncio.to_thread(read_file, file)
    for remark in found.remarks():
        console.print(remark)
    chance = SystemChance()
    seed = seed if seed is not None else chance.randrange(SEEDS)
    cues = write(found.lines, Chance(seed))
    if plain:
        cues = [cue for cue in cues if cue.kind is Kind.DANMAKU]
    if not cues:
        console.print("the file has no danmaku that can be used")
        return 1
    length_s = (cues[-1].at_s - cues[0].at_s) / speed
    console.print(f"sending {len(cues):,} interactions over {length_s:.0f} s into room {room}, seed {seed}")
    run = chance.token_hex(4)
    senders: dict[str, Sender] = {}
    vain: list[Answer] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as http:

        async def send(cue: Cue) -> Answer:
            sender = senders.get(cue.user)
            if sender is None:
                token = endpoints.token_for(User(cue.user, name=cue.user), ttl_s=int(length_s) + 3600)
                sender = senders[cue.user] = Sender(ingress, token, http)
            answer = await send_cue(sender, room, cue, run)
            if not player.tally.accepted and is_hopeless(answer):
                vain.append(answer)
                player.stop()
            return answer

        player = Player(send, speed=speed)
        async with beside(_report(player, len(cues), console)):
            await player.play(cues)
    tally = player.tally
    console.print(printable(tally.line()))
    if tally.most_late_s > 1:
        console.print(f"up to {tally.most_late_s:.1f} s late: the services or this machine could not keep up with the script")
    if vain:
        return _told(vain[0], ingress)
    return 0 if tally.accepted == tally.sent.total() else 1


def is_hopeless(answer: Answer) -> bool:
    """Return whether the same answer awaits every other cue: of no ingress, or for the token."""
    match answer:
        case Unknown(code=code):
            return code == NO_ANSWER
        case Refused(code=code, status=status):
            return status == HTTPStatus.UNAUTHORIZED or code == str(status)  # what has no code is no ingress
        case _:
            return False


def _told(answer: Answer, ingress: str) -> int:
    """Say on the error stream why the play was given up; return the exit code."""
    try:
        check(answer)
    except ServiceError as error:
        if error.code == NO_ANSWER:
            raise UsageError(f"no ingress at {ingress}: {words_of(error)}") from None
        print(f"liveroom: refused: {words_of(error)}", file=sys.stderr)
    return 1


async def _report(player: Player, total: int, console: Console) -> None:
    """Print the progress: every 2 s on a terminal, else every 20 s."""
    began_s = clock.monotonic_s()
    while True:
        await clock.sleep(_REPORT_S if console.is_terminal else 10 * _REPORT_S)
        console.print(f"{clock.monotonic_s() - began_s:5.0f} s  {player.tally.sent.total():,} of {total:,}")
