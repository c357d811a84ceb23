"""Viewers of one room of a running system, and what they received."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Protocol

import aiohttp

from devstack.system import System
from liveroom.wire import Card
from viewer.client import Viewer
from viewer.effects import Counts, Delivered, Effect, Entered, RoomCard
from viewer.ledger import Ledger

SETTLE_S = 15.0


async def knows_gateways(system: System, count: int) -> None:
    """Wait until the scheduler has reports of so many gateways."""
    await system.knows_gateways(count)


class Place(Protocol):
    """A running system, wherever it runs."""

    @property
    def scheduler_url(self) -> str:
        """Where viewers ask for a gateway."""

    def token(self, user: str) -> str:
        """Return a viewer's token."""


class Audience:
    """Viewers of one room, and what they saw."""

    def __init__(
        self,
        system: Place,
        room: str,
        http: aiohttp.ClientSession,
        ledger: Ledger,
        on_effect: Callable[[str, Effect], object] = lambda *_: None,
    ) -> None:
        self.ledger = ledger
        self.viewers: list[Viewer] = []
        self.seen: list[list[Delivered]] = []
        self.likes: list[int] = []
        self.viewers_told: list[tuple[int, int] | None] = []
        self._system = system
        self._room = room
        self._http = http
        self._on_effect = on_effect

    def name_of(self, number: int) -> str:
        """Return the name under which the ledger knows a viewer."""
        return f"{self._room}-v{number}"

    async def join(self, stack: AsyncExitStack, count: int, timeout_s: float = 10.0) -> None:
        for number in range(len(self.seen), len(self.seen) + count):
            self.seen.append([])
            self.likes.append(0)
            self.viewers_told.append(None)
            name = self.name_of(number)
            viewer = Viewer(
                self._system.scheduler_url,
                [self._room],
                http=self._http,
                token=self._system.token(name),
                on_effect=self._observer(number, name),
            )
            self.viewers.append(await stack.enter_async_context(viewer))
        await asyncio.gather(*(viewer.joined(timeout_s) for viewer in self.viewers))

    def _observer(self, number: int, name: str) -> Callable[[Effect], None]:
        def observe(effect: Effect) -> None:
            self.ledger.observe(name, effect)
            self._on_effect(name, effect)
            match effect:
                case Delivered():
                    self.seen[number].append(effect)
                case Counts():
                    self._counted(number, effect.likes, effect.viewers)
                case Entered(card=Card() as card) | RoomCard(card=card):
                    viewers = None if card.users is None or card.connections is None else (card.users, card.connections)
                    self._counted(number, card.likes, viewers)
                case _:
                    pass

        return observe

    def _counted(self, number: int, likes: int | None, viewers: tuple[int, int] | None) -> None:
        self.likes[number] = self.likes[number] if likes is None else likes
        self.viewers_told[number] = viewers or self.viewers_told[number]


async def settled(condition: Callable[[], bool], timeout_s: float = SETTLE_S) -> None:
    """Wait for a condition; its failing is left to the assertions that follow."""
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110 - nobody tells when the last viewer has the last message
        await asyncio.sleep(0.02)
