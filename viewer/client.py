"""A viewer over aiohttp, for bots, tests and the command line.

`Viewer` is the shell around `viewer.session`: it asks the scheduler, keeps the connection, and
carries out the session's effects. `viewer.sender` sends. Nothing here waits without a time-out.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from liveroom import clock
from liveroom.chance import Chance, SystemChance
from liveroom.closecodes import Close
from liveroom.tasks import beside, call_reported, end_tasks, report_failure
from liveroom.topics import DEVICE_ID
from viewer.effects import Connect, Disconnect, Effect, Ended, Entered, Pull, Send
from viewer.entry import NoEntryError, Opened, ask_entry, close, race
from viewer.pull_request import PullAnswer, ask_pull, take_answer
from viewer.session import Session, State
from viewer.tokens import Token, current

DEVICE_BYTES: Final = 12
_OVER: Final = {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}


class _NoTokenError(Exception):
    """The application's token function failed, whatever it raised."""


class Viewer:
    """One viewer in one or more rooms, for as long as the block runs.

    `scheduler_url` may list several schedulers, separated by commas. `http` is the caller's and
    must outlive the block. Without a `token` the viewer is a guest. `on_effect` gets every effect
    of the session as it happens (deliveries, holes, counts and so on) and must not block; `on_gone`
    is called at each loss of the connection, `on_failed` with the reason, in words, after each
    attempt that reached no gateway. `gateway` connects to this one alone, which operators
    may. `device` is the id of the user's device, 1 to 64 characters of A-Z a-z 0-9 _ . : -; without
    it this viewer makes one of its own, so a program that restarts should keep one and pass it.
    Raises ValueError where `device` is no device id. `chance` is for jitter and device ids, by
    default the system's.

    A lost connection raises nothing: the viewer comes back by the session's rules, and where they
    end the session `ended` says why. What a callback raises is reported by the event loop's
    exception handler and ends nothing; where the token function raises, the viewer tries again
    later. Any other failure is a mistake of ours: it cancels the block, which raises it.
    """

    def __init__(
        self,
        scheduler_url: str,
        rooms: Iterable[str],
        *,
        http: aiohttp.ClientSession,
        token: Token | None = None,
        on_effect: Callable[[Effect], None] = lambda _: None,
        on_gone: Callable[[], None] = lambda: None,
        on_failed: Callable[[str], None] = lambda _: None,
        gateway: str = "",
        device: str = "",
        chance: Chance | None = None,
    ) -> None:
        if device and not DEVICE_ID.match(device):
            raise ValueError(f"device: {device!r} is not 1 to 64 of A-Z a-z 0-9 _ . : -")
        self.session = Session(rooms)
        self.gateway = ""
        self.ended: Ended | None = None
        self._scheduler_url = scheduler_url
        self._only = gateway
        self._http = http
        self._chance = chance if chance is not None else SystemChance()
        self.device = device or self._chance.token_hex(DEVICE_BYTES)
        self._token = token
        self._on_effect = on_effect
        self._on_gone = on_gone
        self._on_failed = on_failed
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._url = ""
        self._pulls: dict[str, asyncio.Task[PullAnswer]] = {}
        self._running: AbstractAsyncContextManager[list[asyncio.Task[Any]]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._entered: set[str] = set()
        self._in_rooms = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._running = beside(self._run())
        [self._task] = await self._running.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._running is not None:
                await self._running.__aexit__(kind, error, trace)
        finally:
            if self._socket is not None:
                await close(self._socket, Close.NORMAL)

    @property
    def is_open(self) -> bool:
        """Whether the connection is open."""
        return self.session.state is State.OPEN

    async def until_ended(self) -> Ended:
        """Return why the session ended, once it has: no connection follows any more."""
        if self._task is None:
            raise RuntimeError("the viewer has not been entered")
        await asyncio.wait([self._task])
        self._task.result()
        if self.ended is None:
            raise RuntimeError("the session ended without a reason")
        return self.ended

    async def joined(self, timeout_s: float = 10.0) -> None:
        """Return when every room has been joined once, but for those that refuse the viewer for
        good; raise TimeoutError after `timeout_s`.
        """
        async with asyncio.timeout(timeout_s):
            await self._in_rooms.wait()

    async def _run(self) -> None:
        await self._act(self.session.start())
        while self.session.state is not State.ENDED:
            if self.session.state is State.OPEN:
                await self._receive()
            else:
                wake_at = self.session.wake_at
                await clock.sleep(max(0.0, (wake_at or 0.0) - clock.monotonic_s()))
                await self._act(self.session.tick(clock.monotonic_s()))

    async def _act(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Connect():
                    await self._connect()
                case Send(text):
                    if self._socket is not None and not self._socket.closed:
                        with suppress(aiohttp.ClientError, OSError):  # the connection is lost: the next receive says so
                            await self._socket.send_str(text.decode())
                case Disconnect(code):
                    if self._socket is not None:
                        await close(self._socket, code)
                case Pull(room):
                    await end_tasks(self._pulls.pop(room, None))
                    self._pulls[room] = asyncio.create_task(ask_pull(self._http, self._url, effect))
                case _:
                    self._note(effect)
            call_reported("on_effect of a viewer failed", self._on_effect, effect)

    def _note(self, effect: Effect) -> None:
        match effect:
            case Ended():
                self.ended = effect
            case Entered(room):
                self._entered.add(room)
            case _:
                pass
        if self.session.rooms and self._entered >= self.session.rooms.keys():  # or the last other one has refused it
            self._in_rooms.set()

    def _received(self, text: bytes) -> list[Effect]:
        return self.session.received(text, clock.monotonic_s(), self._chance.random())

    def _failed(self, why: str) -> None:
        call_reported("on_failed of a viewer failed", self._on_failed, why)

    def _current_token(self) -> str | None:
        try:
            return None if self._token is None else current(self._token)
        except Exception as error:
            raise _NoTokenError(str(error) or repr(error)) from error

    async def _connect(self) -> None:
        opened: Opened | None = None
        retry_after_s: float | None = None
        code = ""
        try:
            token = self._current_token()
            entry = await ask_entry(
                self._http, self._scheduler_url, self.session.rooms, self._chance, token, self._only, self.device
            )
            opened = await race(self._http, entry)
        except _NoTokenError as error:
            report_failure("the token function of a viewer failed", error.__cause__ or error)
            self._failed(f"no token: {error}")
        except NoEntryError as error:
            self._failed(f"the scheduler refuses: {error.code}")
            code, retry_after_s = error.code, error.retry_after_s
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._failed(f"no scheduler or gateway: {str(error) or repr(error)}")
        if opened is None:
            await self._act(self.session.failed(clock.monotonic_s(), self._chance.random(), retry_after_s, code))
            return
        self.gateway, self._url, self._socket = opened
        await self._act(self.session.opened(clock.monotonic_s()))

    async def _receive(self) -> None:
        """Take frames and answers to pulls until the connection ends.

        The session gets its ticks in time, however fast frames arrive.
        """
        socket = self._socket
        if socket is None:
            raise RuntimeError("the session is open without a connection")
        receiving = asyncio.create_task(socket.receive())
        try:
            while True:
                wake_at = self.session.wake_at
                timeout_s = None if wake_at is None else max(0.0, wake_at - clock.monotonic_s())
                waits = {receiving, *self._pulls.values()}
                await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if receiving.done():
                    message = receiving.result()
                    if message.type in _OVER:
                        break
                    receiving = asyncio.create_task(socket.receive())
                    if message.type is aiohttp.WSMsgType.TEXT:
                        await self._act(self._received(message.data.encode()))
                for room, task in [(room, task) for room, task in self._pulls.items() if task.done()]:
                    if self._pulls.get(room) is task:
                        del self._pulls[room]
                        await self._act(take_answer(self.session, room, task.result(), self._chance))
                if self.session.wake_at is not None and clock.monotonic_s() >= self.session.wake_at:
                    await self._act(self.session.tick(clock.monotonic_s()))
        finally:
            pulls, self._pulls = self._pulls, {}
            await end_tasks(receiving, *pulls.values())
        self._socket = None
        call_reported("on_gone of a viewer failed", self._on_gone)
        await self._act(self.session.closed(socket.close_code, clock.monotonic_s(), self._chance.random()))
