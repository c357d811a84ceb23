"""A viewer and a sender over aiohttp, for bots, tests and the command line.

`Viewer` is the shell around `session.Session`: it asks the scheduler, tries the addresses in order, keeps the connection.
`Sender` speaks to the ingress. Neither ever waits without a time-out.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import aiohttp
import orjson
import structlog

from liveroom.closecodes import Close
from liveroom.errors import Code
from liveroom.wire import SUBPROTOCOL
from viewer.session import Connect, Disconnect, Effect, Ended, Entered, Send, Session, State

CONNECT_TIMEOUT_S: Final = 5.0
SEND_TIMEOUT_S: Final = 5.0
RETRIES: Final = 5
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
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


async def ask_entry(http: aiohttp.ClientSession, scheduler_url: str, rooms: Iterable[str], token: str | None = None) -> Entry:
    """Ask the scheduler where to connect; raise NoEntryError where it names no gateway."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    query = [("room", room) for room in rooms]
    async with http.get(
        f"{scheduler_url}/v1/entry", params=query, headers=headers, timeout=aiohttp.ClientTimeout(CONNECT_TIMEOUT_S)
    ) as answer:
        body: dict[str, Any] = orjson.loads(await answer.read())
        if answer.status != HTTPStatus.OK:
            raise NoEntryError(str(body.get("code", answer.status)), body.get("retry_after_s"))
        gateways = body["gateways"]
        return Entry([gateway["id"] for gateway in gateways], [gateway["url"] for gateway in gateways], body["ticket"])


class Viewer:
    """One viewer in one or more rooms, for as long as the block runs.

    `on_effect` gets every effect of the session as it happens (deliveries, holes, counts ...), `on_gone` each loss of the
    connection. Raises nothing for lost connections: it comes back by the rules, and ends only where they say so (`ended`).
    """

    def __init__(
        self,
        scheduler_url: str,
        rooms: Iterable[str],
        *,
        http: aiohttp.ClientSession,
        token: str | None = None,
        on_effect: Callable[[Effect], None] = lambda _: None,
        on_gone: Callable[[], None] = lambda: None,
    ) -> None:
        self.session = Session(rooms)
        self.gateway = ""
        self.ended: Ended | None = None
        self._scheduler_url = scheduler_url
        self._http = http
        self._token = token
        self._on_effect = on_effect
        self._on_gone = on_gone
        self._socket: aiohttp.ClientWebSocketResponse | None = None
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
            await self._socket.close(code=Close.NORMAL)

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
                        await self._socket.send_str(text.decode())
                case Disconnect(code):
                    if self._socket is not None:
                        await self._socket.close(code=code)
                case Ended():
                    self.ended = effect
                case Entered(room):
                    self._entered.add(room)
                    if self._entered >= self.session.rooms.keys():
                        self._in_rooms.set()
                case _:
                    pass
            self._on_effect(effect)

    async def _connect(self) -> None:
        now = time.monotonic
        try:
            entry = await ask_entry(self._http, self._scheduler_url, self.session.rooms, self._token)
        except NoEntryError as error:
            log.debug("no_entry", code=error.code)
            await self._act(self.session.failed(now(), random.random(), error.retry_after_s))  # noqa: S311 - jitter
            return
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.debug("no_scheduler", error=repr(error))
            await self._act(self.session.failed(now(), random.random()))  # noqa: S311 - jitter
            return
        for gateway, url in zip(entry.gateways, entry.urls, strict=True):
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    self._socket = await self._http.ws_connect(
                        url,
                        params={"ticket": entry.ticket},
                        protocols=(SUBPROTOCOL,),
                        compress=15,
                        max_msg_size=MAX_BATCH_BYTES,
                    )
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.debug("no_gateway", url=url, error=repr(error))
                continue
            self.gateway = gateway
            await self._act(self.session.opened(now()))
            return
        await self._act(self.session.failed(now(), random.random()))  # noqa: S311 - jitter

    async def _listen(self) -> None:
        socket = self._socket
        if socket is None:
            raise RuntimeError("open without a connection")
        while self.session.state is State.OPEN:
            wake_at = self.session.wake_at
            timeout_s = None if wake_at is None else max(0.0, wake_at - time.monotonic())
            try:
                message = await socket.receive(timeout=timeout_s)
            except TimeoutError:
                await self._act(self.session.tick(time.monotonic()))
                continue
            if message.type is aiohttp.WSMsgType.TEXT:
                await self._act(self.session.received(message.data.encode(), time.monotonic()))
            elif message.type in {
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSMsgType.CLOSING,
                aiohttp.WSMsgType.CLOSED,
                aiohttp.WSMsgType.ERROR,
            }:
                self._on_gone()
                code = socket.close_code
                self._socket = None
                await self._act(self.session.closed(code, time.monotonic(), random.random()))  # noqa: S311 - jitter


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
    """Sends interactions of one user. An unknown outcome is tried again under the same id, so a gift happens once."""

    def __init__(self, ingress_url: str, token: str, http: aiohttp.ClientSession, retries: int = RETRIES) -> None:
        self._url = ingress_url
        self._headers = {"Authorization": f"Bearer {token}"}
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
        """Post one interaction; again after 503 or silence, under the same id, as the answer asks."""
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
                headers=self._headers | {"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(SEND_TIMEOUT_S),
            ) as answer:
                told: dict[str, Any] = orjson.loads(await answer.read())
                if answer.status == HTTPStatus.ACCEPTED:
                    return Accepted(id_, told["at_ms"]), 0.0
                code = str(told.get("code", answer.status))
                if code == Code.QUEUE_UNAVAILABLE.value:
                    return Unknown(id_, code), float(told.get("retry_after_s", 1.0))
                return Refused(id_, code), 0.0
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Unknown(id_, repr(error)), 0.5
