"""The senders of the demo: danmaku in a loop, with gifts and likes by a seed.

Owns what the demo sends, and enters every answer into the ledger.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

import aiohttp

from cli.danmaku import Line
from cli.replay import CONNECTIONS, Answer, Player, send_cue
from cli.script import Cue, loop, write
from devstack.system import System
from liveroom import clock, metric_catalog
from liveroom.bodies import Like
from liveroom.chance import Chance
from liveroom.kinds import CLASS_OF, Class, Kind
from liveroom.users import user_id
from viewer.ledger import Ledger
from viewer.sender import Accepted, Refused, Sender, Unknown

TOKEN_TTL_S: Final = 7 * 86_400


class Senders:
    """Plays the lines of a danmaku file into rooms, over and over.

    The ledger judges only what goes into the `checked` rooms. `run` begins every id, so that no
    other run has the same ids.
    """

    def __init__(self, system: System, ledger: Ledger, lines: Sequence[Line], checked: Collection[str], run: str) -> None:
        self.sent = 0
        self._likes_sent = 0
        self._system = system
        self._ledger = ledger
        self._lines = lines
        self._checked = checked
        self._run = run
        self._players: list[Player] = []

    async def play(self, rooms: Sequence[str], seed: int, speed: float) -> None:
        """Send into every room, each by a seed of its own, at `speed` times the file's timing.

        Returns when `stop` was called and all that was sent has its answer.
        """
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for number, room in enumerate(rooms):
                tasks.create_task(self._play_room(http, room, Chance(seed + number), speed))

    def stop(self) -> None:
        """Send nothing more."""
        for player in self._players:
            player.stop()

    async def others_liked(self) -> bool:
        """Return whether somebody else sent likes too (the page, a curl line).

        The totals of likes then prove nothing.
        """
        name = f'{metric_catalog.INTERACTIONS.name}{{kind="{Kind.LIKE.value}",outcome="accepted"}}'
        try:
            metrics = await self._system.ingress.metrics()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        return metrics.get(name, 0.0) > self._likes_sent

    async def _play_room(self, http: aiohttp.ClientSession, room: str, chance: Chance, speed: float) -> None:
        senders: dict[str, Sender] = {}

        async def send(cue: Cue) -> Answer:
            sender = senders.get(cue.user)
            if sender is None:
                token = self._system.token(cue.user, name=cue.user, ttl_s=TOKEN_TTL_S)
                sender = senders[cue.user] = Sender(self._system.ingress_url, token, http)
            self.sent += 1
            self._likes_sent += cue.kind is Kind.LIKE
            answer = await send_cue(sender, room, cue, self._run)
            self._enter(room, cue, answer)
            return answer

        player = Player(send, speed=speed)
        self._players.append(player)
        await player.play(loop(write(self._lines, chance)))

    def _enter(self, room: str, cue: Cue, answer: Answer) -> None:
        """Enter an answer into the ledger."""
        is_checked = room in self._checked
        likes = cue.body.count if isinstance(cue.body, Like) and is_checked else 0
        match answer:
            case Accepted(id=id_):
                reliable = CLASS_OF[cue.kind] is Class.RELIABLE and is_checked
                self._ledger.accepted(room, id_, clock.monotonic_s(), reliable=reliable, user=user_id(cue.user), likes=likes)
            case Refused():
                self._ledger.refused()
            case Unknown():
                self._ledger.unknown(room, likes=likes)
