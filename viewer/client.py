"""A viewer and a sender over aiohttp, for bots, tests and the command line.

`Viewer` is the shell around `session.Session`: it asks the scheduler, takes the address that
answers first, keeps the connection, and pulls what did not come. `Sender` speaks to the ingress.
Neither ever waits without a time-out.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp
import orjson
import structlog

from liveroom.closecodes import Close
from liveroom.errors import Code
from liveroom.wire import SUBPROTOCOL
from viewer.session import Connect, Disconnect, Effect, Ended, Entered, Pull, Send, Session, State

CONNECT_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 1.0
STAGGER_S: Final = 0.25
PULL_TIMEOUT_S: Final = 5.0
SEND_TIMEOUT_S: Final = 5.0
RETRIES: Final = 5
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
_AGAIN: Final = frozenset({Code.QUEUE_UNAVAILABLE.value, Code.NOT_READY.value})
_OVER: Final = {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
log = structlog.get_logger()


class NoEntryError(Exception):
    """The scheduler gave no gateway. `code`: its problem's; `retry_after_s`: when to ask again."""

    def __init__(self, code: str, retry_after_s: float | None) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after_s = retry_after_s


class Entry(NamedTuple):
    """The scheduler's answer: WebSocket addresses, best first, and the ticket."""

    gateways: Sequence[str]
    urls: Sequence[str]
    ticket: str


Token = str | Callable[[], str]  # as it is, or asked for each time it is shown: one that goes on for long needs new ones


def current(token: Token) -> str:
    """Return the token to show now."""
    return token if isinstance(token, str) else token()


async def ask_entry(
    http: aiohttp.ClientSession, scheduler_url: str, rooms: Iterable[str], token: str | None = None, gateway: str = ""
) -> Entry:
    """Ask the scheduler where to connect; raise NoEntryError where it names no gateway.

    `scheduler_url` may name several, with commas between: where one does not answer, the next is
    asked. `gateway`: this one and no other; for operators.
    """
    urls = scheduler_url.split(",")
    random.shuffle(urls)
    query = [("room", room) for room in rooms]
    if gateway:
        query.append(("gateway", gateway))
    for url in urls[:-1]:
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            return await _ask_one(http, url.strip(), query, token)
    return await _ask_one(http, urls[-1].strip(), query, token)


async def _ask_one(http: aiohttp.ClientSession, url: str, query: list[tuple[str, str]], token: str | None) -> Entry:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limit = aiohttp.ClientTimeout(CONNECT_TIMEOUT_S)
    async with http.get(f"{url}/v1/entry", params=query, headers=headers, timeout=limit) as answer:
        body: dict[str, Any] = orjson.loads(await answer.read())
        if answer.status != HTTPStatus.OK:
            raise NoEntryError(str(body.get("code", answer.status)), body.get("retry_after_s"))
        gateways = body["gateways"]
        return Entry([gateway["id"] for gateway in gateways], [gateway["url"] for gateway in gateways], body["ticket"])


class Opened(NamedTuple):
    """A connection that stands."""

    gateway: str
    url: str
    socket: aiohttp.ClientWebSocketResponse


async def race(http: aiohttp.ClientSession, entry: Entry) -> Opened | None:
    """Open the addresses, each a little after the one before, or at once when one fails; the first
    upgrade wins.

    The others are broken off, or closed where they had opened too. None: none could be opened.
    """
    racing: list[asyncio.Task[Opened | None]] = []
    kept: asyncio.Task[Opened | None] | None = None
    try:
        won = await _first(http, entry, racing)
        await _call_off([task for task in racing if task is not won])
        kept = won
    finally:
        if kept is None:
            await _call_off(racing)
    return None if kept is None else kept.result()


async def _first(
    http: aiohttp.ClientSession, entry: Entry, racing: list[asyncio.Task[Opened | None]]
) -> asyncio.Task[Opened | None] | None:
    waiting = list(zip(entry.gateways, entry.urls, strict=True))
    running: set[asyncio.Task[Opened | None]] = set()
    while waiting or running:
        if waiting:
            racing.append(asyncio.create_task(_open(http, *waiting.pop(0), entry.ticket)))
            running.add(racing[-1])
        timeout_s = STAGGER_S if waiting else None
        done, running = await asyncio.wait(running, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.result() is not None:
                return task
    return None


async def _open(http: aiohttp.ClientSession, gateway: str, url: str, ticket: str) -> Opened | None:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            socket = await http.ws_connect(
                url,
                params={"ticket": ticket},
                protocols=(SUBPROTOCOL,),
                compress=15,
                max_msg_size=MAX_BATCH_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
            )
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.debug("no_gateway", url=url, error=repr(error))
        return None
    return Opened(gateway, url, socket)


async def _call_off(racing: Iterable[asyncio.Task[Opened | None]]) -> None:
    for task in racing:
        task.cancel()
    for told in await asyncio.gather(*racing, return_exceptions=True):
        if isinstance(told, Opened):
            await close(told.socket, Close.NORMAL)


async def close(socket: aiohttp.ClientWebSocketResponse, code: Close) -> None:
    """Say goodbye, and drop the connection when its answer does not come in time.

    aiohttp 3.14 waits its time-out anew after every frame that comes before the answer: by itself
    it would never leave a gateway that pushes and does not read.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await socket.close(code=code)


class Answer(NamedTuple):
    """What came of a pull: its body, or None and what the refusal asked for."""

    body: bytes | None
    retry_after_s: float | None = None


async def ask_pull(http: aiohttp.ClientSession, gateway_url: str, pull: Pull) -> Answer:
    """Do a pull at the gateway that serves the WebSocket at `gateway_url`.

    Raises nothing that a network may do.
    """
    gateway = urlsplit(gateway_url)
    url = f"{'https' if gateway.scheme == 'wss' else 'http'}://{gateway.netloc}/v1/rooms/{pull.room}/messages"
    try:
        async with http.get(
            url,
            params=pull.params,
            headers={"Authorization": f"Bearer {pull.token}"},
            timeout=aiohttp.ClientTimeout(PULL_TIMEOUT_S),
        ) as answer:
            if answer.status == HTTPStatus.OK:
                return Answer(await answer.read())
            log.debug("pull_refused", room=pull.room, status=answer.status)
            if answer.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
                return Answer(None, _seconds(answer.headers.get("Retry-After", "")))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.debug("pull_failed", room=pull.room, error=repr(error))
    return Answer(None)


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None  # a date is not worth reading


def take_answer(session: Session, room: str, answer: Answer) -> list[Effect]:
    """Tell a session what came of its pull."""
    now, uniform = time.monotonic(), random.random()  # noqa: S311 - jitter
    if answer.body is None:
        return session.pull_failed(room, now, uniform, answer.retry_after_s)
    return session.pulled(room, answer.body, now, uniform)


class Viewer:
    """One viewer in one or more rooms, for as long as the block runs.

    `on_effect` gets every effect of the session as it happens (deliveries, holes, counts ...),
    `on_gone` each loss of the connection. `gateway`: always this one, for operators. Raises nothing
    for lost connections: it comes back by the rules, and ends only where they say so (`ended`).
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
        gateway: str = "",
    ) -> None:
        self.session = Session(rooms)
        self.gateway = ""
        self.ended: Ended | None = None
        self._scheduler_url = scheduler_url
        self._only = gateway
        self._http = http
        self._token = token
        self._on_effect = on_effect
        self._on_gone = on_gone
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._url = ""
        self._pulls: dict[str, asyncio.Task[Answer]] = {}
        self._task: asyncio.Task[None] | None = None
        self._entered: set[str] = set()
        self._in_rooms = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._socket is not None:
            await close(self._socket, Close.NORMAL)

    @property
    def is_open(self) -> bool:
        """Whether the connection stands."""
        return self.session.state is State.OPEN

    async def joined(self, timeout_s: float = 10.0) -> None:
        """Wait until every room has been joined for the first time."""
        async with asyncio.timeout(timeout_s):
            await self._in_rooms.wait()

    async def _run(self) -> None:
        await self._act(self.session.start())
        while self.session.state is not State.ENDED:
            if self.session.state is State.OPEN:
                await self._listen()
            else:
                wake_at = self.session.wake_at
                await asyncio.sleep(max(0.0, (wake_at or 0.0) - time.monotonic()))
                await self._act(self.session.tick(time.monotonic()))

    async def _act(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Connect():
                    await self._connect()
                case Send(text):
                    if self._socket is not None and not self._socket.closed:
                        with suppress(aiohttp.ClientError, OSError):  # it is lost: the next receipt says so
                            await self._socket.send_str(text.decode())
                case Disconnect(code):
                    if self._socket is not None:
                        await close(self._socket, code)
                case Pull(room):
                    await end_tasks(self._pulls.pop(room, None))
                    self._pulls[room] = asyncio.create_task(ask_pull(self._http, self._url, effect))
                case _:
                    self._note(effect)
            self._on_effect(effect)

    def _note(self, effect: Effect) -> None:
        match effect:
            case Ended():
                self.ended = effect
            case Entered(room):
                self._entered.add(room)
                if self._entered >= self.session.rooms.keys():
                    self._in_rooms.set()
            case _:
                pass

    async def _connect(self) -> None:
        opened: Opened | None = None
        retry_after_s: float | None = None
        try:
            token = None if self._token is None else current(self._token)
            entry = await ask_entry(self._http, self._scheduler_url, self.session.rooms, token, self._only)
            opened = await race(self._http, entry)
        except NoEntryError as error:
            log.debug("no_entry", code=error.code)
            retry_after_s = error.retry_after_s
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.debug("no_scheduler", error=repr(error))
        if opened is None:
            await self._act(self.session.failed(time.monotonic(), random.random(), retry_after_s))  # noqa: S311 - jitter
            return
        self.gateway, self._url, self._socket = opened
        await self._act(self.session.opened(time.monotonic()))

    async def _listen(self) -> None:
        """Take frames and answers to pulls, and tick when it is time, however fast frames come."""
        socket = self._socket
        if socket is None:
            raise RuntimeError("open without a connection")
        receiving = asyncio.create_task(socket.receive())
        try:
            while True:
                wake_at = self.session.wake_at
                timeout_s = None if wake_at is None else max(0.0, wake_at - time.monotonic())
                waits = {receiving, *self._pulls.values()}
                await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if receiving.done():
                    message = receiving.result()
                    if message.type in _OVER:
                        break
                    receiving = asyncio.create_task(socket.receive())
                    if message.type is aiohttp.WSMsgType.TEXT:
                        await self._act(self.session.received(message.data.encode(), time.monotonic()))
                for room, task in [(room, task) for room, task in self._pulls.items() if task.done()]:
                    if self._pulls.get(room) is task:
                        del self._pulls[room]
                        await self._act(take_answer(self.session, room, task.result()))
                if self.session.wake_at is not None and time.monotonic() >= self.session.wake_at:
                    await self._act(self.session.tick(time.monotonic()))
        finally:
            pulls, self._pulls = self._pulls, {}
            await end_tasks(receiving, *pulls.values())
        self._socket = None
        self._on_gone()
        await self._act(self.session.closed(socket.close_code, time.monotonic(), random.random()))  # noqa: S311 - jitter


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait for their end, whatever it is."""
    ending = [task for task in tasks if task is not None]
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


class Accepted(NamedTuple):
    """It got its 202."""

    id: str
    at_ms: int


class Refused(NamedTuple):
    """It was refused, with the problem's code."""

    id: str
    code: str


class Unknown(NamedTuple):
    """Nobody knows: no answer, or 503 to the end. It may show up."""

    id: str
    why: str


class Sender:
    """Sends interactions of one user.

    An unknown outcome is tried again under the same id, so a gift happens once.
    """

    def __init__(self, ingress_url: str, token: Token, http: aiohttp.ClientSession, retries: int = RETRIES) -> None:
        self._url = ingress_url
        self._token = token
        self._http = http
        self._retries = retries

    async def danmaku(self, room: str, text: str, **fields: Any) -> Accepted | Refused | Unknown:
        """Send a line of text. Not sent again when its outcome is unknown: best effort."""
        return await self.send(room, "danmaku", {"text": text, **fields}, retries=0)

    async def gift(self, room: str, gift: str, count: int = 1, **fields: Any) -> Accepted | Refused | Unknown:
        """Send a gift."""
        return await self.send(room, "gifts", {"gift": gift, "count": count, **fields})

    async def like(self, room: str, count: int = 1, **fields: Any) -> Accepted | Refused | Unknown:
        """Send likes."""
        return await self.send(room, "likes", {"count": count, **fields})

    async def package(
        self, room: str, package: str, items: Sequence[dict[str, Any]], **fields: Any
    ) -> Accepted | Refused | Unknown:
        """Send several interactions that stay together."""
        return await self.send(room, "packages", {"package": package, "items": list(items), **fields})

    async def send(
        self, room: str, collection: str, body: dict[str, Any], *, retries: int | None = None
    ) -> Accepted | Refused | Unknown:
        """Post one interaction; again after 503 or silence, under the same id, as the answer
        asks.
        """
        body = {"id": secrets.token_hex(12)} | body
        id_: str = body["id"]
        left = self._retries if retries is None else retries
        while True:
            outcome, retry_after_s = await self._post(room, collection, id_, orjson.dumps(body))
            if not isinstance(outcome, Unknown) or left == 0:
                return outcome
            left -= 1
            await asyncio.sleep(retry_after_s * (0.5 + random.random()))  # noqa: S311 - jitter

    async def _post(self, room: str, collection: str, id_: str, body: bytes) -> tuple[Accepted | Refused | Unknown, float]:
        try:
            async with self._http.post(
                f"{self._url}/v1/rooms/{room}/{collection}",
                data=body,
                headers={"Authorization": f"Bearer {current(self._token)}", "Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(SEND_TIMEOUT_S),
            ) as answer:
                told: dict[str, Any] = orjson.loads(await answer.read())
                if answer.status == HTTPStatus.ACCEPTED:
                    return Accepted(id_, told["at_ms"]), 0.0
                code = str(told.get("code", answer.status))
                if code in _AGAIN:
                    return Unknown(id_, code), float(told.get("retry_after_s", 1.0))
                return Refused(id_, code), 0.0
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Unknown(id_, repr(error)), 0.5
