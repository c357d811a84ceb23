"""A viewer over aiohttp, for bots, tests and the command line.

`Viewer` is the shell around `viewer.session`: it asks the scheduler, keeps the connection, and
carries out the session's effects. `viewer.sender` sends. Nothing here waits without a time-out.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from liveroom import clock
from liveroom.chance import Chance, SystemChance
from liveroom.closecodes import Close
from liveroom.errors import in_words
from liveroom.tasks import beside, call_reported, end_tasks, report_failure
from liveroom.topics import DEVICE_ID
from viewer.effects import Connect, Disconnect, Effect, Ended, Entered, Pull, Send
from viewer.entry import Opened, ask_entry, close, race
from viewer.problem import NO_ANSWER, ServiceError, as_frame, of_frame
from viewer.pull_request import PullAnswer, ask_pull, take_answer
from viewer.session import Session, State
from viewer.tokens import Token, TokenError, current

DEVICE_BYTES: Final = 12
AWAKE_S: Final = 2.0  # how often to compare the clocks
SLEPT_S: Final = 2.0  # a wall clock that is ahead by more than before: the device slept, or the clock was set
_OVER: Final = {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}


class Viewer:
    """One viewer in one or more rooms, for as long as the block runs: see docs/python-client.md.

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
    end the session `ended` says why. `error` is why the last attempt reached no gateway, or why the
    session ended; None while there is nothing wrong. A block after another one begins anew, with
    the rooms that are wished then. `join` and `leave` may be called at any time; without a room
    the viewer has no connection. What a callback raises is reported by the event loop's exception
    handler and ends nothing; where the token function raises, the viewer tries again later. Any
    other failure is a mistake of ours: it cancels the block, which raises it.
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
        self.error: ServiceError | None = None
        self._wanted = dict.fromkeys(self.session.rooms)
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
        self._settled = asyncio.Event()
        self._wished: list[Effect] = []
        self._woken = asyncio.Event()
        self._ahead_s = _ahead_s()

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise RuntimeError("the viewer has been entered")
        if self._task is not None:
            self._begin_anew()
        self._running = beside(self._run())
        [self._task] = await self._running.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running, self._running = self._running, None
        try:
            if running is not None:
                await running.__aexit__(kind, error, trace)
        finally:
            if self._socket is not None:
                await close(self._socket, Close.NORMAL)

    def _begin_anew(self) -> None:
        """Forget the block before this one."""
        self.session = Session(self._wanted)
        self.gateway, self.ended, self.error = "", None, None
        self._socket = None
        self._entered.clear()
        self._settled.clear()
        self._wished.clear()
        self._woken.clear()
        self._ahead_s = _ahead_s()

    @property
    def is_open(self) -> bool:
        """Whether the connection is open."""
        return self.session.state is State.OPEN

    def join(self, room: str) -> None:
        """Join one more room, through a new entry: a ticket names its rooms."""
        self._wanted[room] = None
        if room not in self.session.rooms:
            self._wish(self.session.join(room))

    def leave(self, room: str) -> None:
        """Leave a room."""
        self._wanted.pop(room, None)
        self._entered.discard(room)
        self._wish(self.session.leave(room))

    def _wish(self, effects: list[Effect]) -> None:
        self._see_rooms()
        self._wished += effects
        self._woken.set()

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
        good and those that it left.

        Raises ServiceError where the session has ended, and TimeoutError after `timeout_s`, which
        says why there is no connection.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            raise TimeoutError(f"not in every room within {timeout_s:g} s: {self.error or 'no answer yet'}") from None
        if self.ended is not None:
            raise self._reason(self.ended)

    async def _run(self) -> None:
        await self._act(self.session.start())
        while self.session.state is not State.ENDED:
            if self.session.state is State.OPEN:
                await self._receive()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._timeout_s()):
                        await self._woken.wait()
                await self._go_on()

    def _timeout_s(self) -> float:
        """Return for how long nothing is due."""
        wake_at = self.session.wake_at
        return AWAKE_S if wake_at is None else min(AWAKE_S, max(0.0, wake_at - clock.monotonic_s()))

    async def _go_on(self) -> None:
        """Do what was wished meanwhile and what is due."""
        self._woken.clear()
        wished, self._wished = self._wished, []
        await self._act(wished)
        await self._act(self._slept())
        if self.session.wake_at is not None and clock.monotonic_s() >= self.session.wake_at:
            await self._act(self.session.tick(clock.monotonic_s()))

    def _slept(self) -> list[Effect]:
        """Notice that the device slept, and return the effects.

        Call it before each event that may set a delay: one that begins after the sleep is whole.
        """
        before_s, self._ahead_s = self._ahead_s, _ahead_s()
        slept_s = self._ahead_s - before_s
        return self.session.hurry(clock.monotonic_s(), self._chance.random(), slept_s) if slept_s > SLEPT_S else []

    async def _act(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._note(effect)
            call_reported("on_effect of a viewer failed", self._on_effect, effect)
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

    def _note(self, effect: Effect) -> None:
        match effect:
            case Ended():
                self.ended = effect
                self.error = self._reason(effect)
            case Entered(room):
                self._entered.add(room)
            case _:
                pass
        self._see_rooms()

    def _see_rooms(self) -> None:
        is_over = self.session.state is State.ENDED
        is_in = not is_over and self._entered >= self.session.rooms.keys()  # or the last other one was left, or refused it
        if is_in or self.ended is not None:
            self._settled.set()
        else:
            self._settled.clear()

    def _reason(self, ended: Ended) -> ServiceError:
        """Return why the session ended: the scheduler's refusal, a gateway's, or its close code."""
        said = ended.refusal
        if said is None:
            return ServiceError(ended.rule.code.name.lower(), ended.rule.reason)
        if self.error is not None and self.error.code == said.code:
            return self.error
        return of_frame(said)

    def _received(self, text: bytes) -> list[Effect]:
        return self._slept() + self.session.received(text, clock.monotonic_s(), self._chance.random())

    async def _connect(self) -> None:
        """Connect to a gateway, or pass on why there is none."""
        opened: Opened | None = None
        try:
            opened = await self._reach()
            self.error = None
        except ServiceError as error:
            self.error = error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self.error = ServiceError(NO_ANSWER, in_words(error))
        effects = self._slept()
        now = clock.monotonic_s()
        if opened is not None:
            self.gateway, self._url, self._socket = opened
            await self._act(effects + self.session.opened(now))
            return
        effects += self._failed(self.error, now)
        await self._act(effects)

    def _failed(self, error: ServiceError | None, now: float) -> list[Effect]:
        """Pass on that no gateway was reached, and tell the application why; return the effects."""
        frame, is_final, why = None, False, ""
        if isinstance(error, TokenError):
            if error.__cause__ is not None:
                report_failure("the token function of a viewer failed", error.__cause__)
            if not callable(self._token):
                frame, is_final = as_frame(error), True
            why = f"no token: {error.detail}"
        elif error is not None and error.status:  # a function may have another token next time
            is_final = error.is_final and not (error.status == HTTPStatus.UNAUTHORIZED and callable(self._token))
            frame = as_frame(error)
            why = f"the scheduler refuses: {error}"
        elif error is not None:
            why = f"no scheduler or gateway: {error.detail}"
        effects = self.session.failed(now, self._chance.random(), frame, is_final)
        if why and self.session.state is not State.ENDED:
            call_reported("on_failed of a viewer failed", self._on_failed, why)
        return effects

    async def _reach(self) -> Opened | None:
        """Ask for an entry to the rooms that are wished, and connect; ask again for later ones.

        Returns None where no room is wished any more.
        """
        while rooms := self.session.ask():
            token = current(self._token) if self._token else None
            entry = await ask_entry(self._http, self._scheduler_url, rooms, self._chance, token, self._only, self.device)
            is_covered = self.session.is_covered
            if not is_covered:
                continue
            if not self.session.rooms:
                return None
            opened = await race(self._http, entry)
            if self.session.is_covered and opened is None:
                raise ServiceError(NO_ANSWER, f"no gateway answers at {', '.join(entry.urls)}")
            if self.session.is_covered:
                return opened
            if opened is not None:
                await close(opened.socket, Close.NORMAL)
        return None

    async def _receive(self) -> None:
        """Take frames and answers to pulls until the connection ends.

        The session gets its ticks in time, however fast frames arrive.
        """
        socket = self._socket
        if socket is None:
            raise RuntimeError("the session is open without a connection")
        receiving = asyncio.create_task(socket.receive())
        woken = asyncio.create_task(self._woken.wait())
        try:
            while True:
                waits = {receiving, woken, *self._pulls.values()}
                await asyncio.wait(waits, timeout=self._timeout_s(), return_when=asyncio.FIRST_COMPLETED)
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
                        await self._act(self._slept() + take_answer(self.session, room, task.result(), self._chance))
                await self._go_on()
                if woken.done():
                    woken = asyncio.create_task(self._woken.wait())
        finally:
            pulls, self._pulls = self._pulls, {}
            await end_tasks(receiving, woken, *pulls.values())
        self._wished.clear()  # for the connection that has ended
        self._socket = None
        effects = self._slept()
        effects += self.session.closed(socket.close_code, clock.monotonic_s(), self._chance.random())
        call_reported("on_gone of a viewer failed", self._on_gone)  # its wishes are for the next connection
        await self._act(effects)


def _ahead_s() -> float:
    """Return how far the wall clock is ahead of the monotonic one, which sleep may stop."""
    return clock.unix_s() - clock.monotonic_s()
