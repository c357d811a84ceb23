"""A running system with hosts and viewers: hosts act over HTTP, viewers keep what is on screen."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import msgspec

from devstack.system import System
from liveroom.kinds import HOSTS_OF_ROOMS, Kind, Role
from liveroom.wire import Message, Notice
from tests.e2e.audience import knows_gateways
from viewer.client import Viewer
from viewer.effects import Counts, Delivered, Effect, Ended, Entered, Renumbered, RoomCard, Told


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]

    @property
    def code(self) -> str:
        return str(self.body.get("code", ""))


class Screen:
    """What one viewer sees: messages that are not cleared, notices, why it ended."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.gone: list[Message] = []
        self.notices: list[Notice] = []
        self.errors: list[str] = []
        self.likes = 0
        self.entered = 0
        self.renumbered = 0
        self.card: Any = None
        self.ended: int | None = None
        self.ended_s = 0.0

    def on_effect(self, effect: Effect) -> None:
        match effect:
            case Delivered(message=message):
                if message.kind == Kind.CLEAR:
                    self._clear(message)
                self.messages[message.seq] = message
            case Counts(likes=likes):
                self.likes = self.likes if likes is None else likes
            case Entered(card=card):
                self.entered += 1
                self.card = card
            case RoomCard(card=card):
                self.card = card
            case Told(what=Notice() as notice):
                self.notices.append(notice)
            case Told(what=what):
                self.errors.append(getattr(what, "code", ""))
            case Renumbered():
                self.renumbered += 1
            case Ended(rule=rule):
                self.ended, self.ended_s = int(rule.code), time.monotonic()
            case _:
                pass

    def _clear(self, clear: Message) -> None:
        data = json.loads(bytes(clear.data))
        for seq, message in list(self.messages.items()):
            is_sender = data.get("sender") in {None, message.user}
            named = (message.id == data.get("id") and is_sender) or message.user == data.get("user")
            if seq < clear.seq and named and message.kind != Kind.CLEAR:
                self.gone.append(self.messages.pop(seq))

    def shows(self, kind: Kind, id_: str = "") -> bool:
        return any(message.kind == kind and (not id_ or message.id == id_) for message in self.messages.values())

    def of_user(self, user: str) -> list[Message]:
        return [message for message in self.messages.values() if message.user == user]


class Stage:
    """A system and those who use it."""

    def __init__(self, system: System, http: aiohttp.ClientSession, stack: AsyncExitStack) -> None:
        self.system = system
        self.http = http
        self._stack = stack

    def token(self, user: str, role: Role = Role.VIEWER, **claims: Any) -> str:
        return self.system.token(user, role, **claims)

    async def call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        user: str = "",
        role: Role = Role.OPERATOR,
        ingress: int = 0,
        **claims: Any,
    ) -> Answer:
        """Ask an ingress. A host's token is for the room of the path, unless there are `rooms`."""
        if role in HOSTS_OF_ROOMS and path.startswith("rooms/"):
            claims.setdefault("rooms", (path.split("/")[1],))
        url = f"{self.system.ingresses[ingress].url}/v1/{path}"
        headers = {"Authorization": f"Bearer {self.token(user or role.value, role, **claims)}"}
        async with self.http.request(method, url, json=body, headers=headers) as answer:
            return Answer(answer.status, msgspec.json.decode(await answer.read()))

    async def say(self, room: str, user: str, text: str = "hi", ingress: int = 0, **claims: Any) -> Answer:
        return await self.call(
            "POST", f"rooms/{room}/danmaku", {"text": text}, user=user, ingress=ingress, **{"role": Role.VIEWER} | claims
        )

    async def watch(self, room: str, user: str, **claims: Any) -> Screen:
        """Let a viewer enter."""
        screen = Screen()
        viewer = Viewer(
            self.system.scheduler_url, [room], http=self.http, token=self.token(user, **claims), on_effect=screen.on_effect
        )
        await self._stack.enter_async_context(viewer)
        await seen(lambda: screen.entered > 0 or screen.ended is not None)
        return screen


@asynccontextmanager
async def staged(bootstrap: str, settings: dict[str, str] | None = None, *, ingresses: int = 2) -> AsyncIterator[Stage]:
    """A system with two gateways and two ingresses."""
    async with (
        System(
            bootstrap,
            prefix=f"e{secrets.token_hex(4)}.",
            partitions=2,
            ingresses=ingresses,
            settings_of={"ingress": settings or {}},
        ) as system,
        aiohttp.ClientSession() as http,
        AsyncExitStack() as stack,
    ):
        await knows_gateways(system, 2)
        yield Stage(system, http, stack)


async def seen(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until it is so; fail when it does not become so."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - a plain condition on what viewers saw
            await asyncio.sleep(0.005)
