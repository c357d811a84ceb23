"""How a viewer gets a connection: the scheduler's answer, and the race of the gateways in it.

Called by `viewer.client`, for load by `viewer.load`. Nothing here waits without a time-out.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Final, NamedTuple

import aiohttp
import msgspec
import structlog

from liveroom.addresses import bases
from liveroom.chance import Chance
from liveroom.closecodes import Close
from liveroom.nesting import UNDECODABLE
from liveroom.tracebacks import named
from liveroom.wire import SUBPROTOCOL
from viewer.problem import NO_CODE, ServiceError, read_problem

CONNECT_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 1.0
STAGGER_S: Final = 0.25
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
log = structlog.get_logger()


class _Gateway(msgspec.Struct):
    id: str
    url: str


class _Answer(msgspec.Struct):
    """What a viewer needs of the scheduler's answer."""

    gateways: list[_Gateway]
    ticket: str


class Entry(NamedTuple):
    """The scheduler's answer: gateways and their WebSocket addresses, best first, and the
    ticket.
    """

    gateways: Sequence[str]
    urls: Sequence[str]
    ticket: str


async def ask_entry(
    http: aiohttp.ClientSession,
    scheduler_url: str,
    rooms: Iterable[str],
    chance: Chance,
    token: str | None = None,
    gateway: str = "",
    device: str = "",
) -> Entry:
    """Ask the scheduler where to connect.

    `scheduler_url` may list several, separated by commas: they are asked in random order until one
    answers itself, not a proxy before it. `gateway` asks for this one alone, which operators may.
    `device` is the viewer's device id, empty where it has none. Raises ServiceError where the
    scheduler, or else a proxy, names no gateway, and aiohttp's errors, OSError, TimeoutError or
    ValueError where none answers.
    """
    urls = bases(scheduler_url).split(",")
    chance.shuffle(urls)
    query = [("room", room) for room in rooms]
    if gateway:
        query.append(("gateway", gateway))
    if device:
        query.append(("device", device))
    failures: list[Exception] = []
    for url in urls:
        try:
            return await _ask_one(http, url, query, token)
        except ServiceError as error:
            if error.is_ours:
                raise
            failures.append(error)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # ValueError: what is no URL
            failures.append(error)
    raise max(failures, key=_delay_s)


def _delay_s(error: Exception) -> float:
    """Return the delay that a failure asks for; below 0 where it is no refusal."""
    return (error.retry_after_s or 0.0) if isinstance(error, ServiceError) else -1.0


async def _ask_one(http: aiohttp.ClientSession, url: str, query: list[tuple[str, str]], token: str | None) -> Entry:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limit = aiohttp.ClientTimeout(CONNECT_TIMEOUT_S)
    async with http.get(f"{url}/v1/entry", params=query, headers=headers, timeout=limit) as answer:
        body = await answer.read()
        if answer.status != HTTPStatus.OK:
            raise read_problem(answer.status, answer.headers, body)
        try:
            found = msgspec.json.decode(body, type=_Answer)
        except UNDECODABLE:  # a page with status 200
            raise ServiceError(str(answer.status), NO_CODE, status=answer.status) from None
        return Entry([gateway.id for gateway in found.gateways], [gateway.url for gateway in found.gateways], found.ticket)


class Opened(NamedTuple):
    """An open connection."""

    gateway: str
    url: str
    socket: aiohttp.ClientWebSocketResponse


async def race(http: aiohttp.ClientSession, entry: Entry) -> Opened | None:
    """Connect to the gateways of an entry and return the first connection, None where none opens.

    Each attempt starts `STAGGER_S` after the one before, or at once when one fails. The losers are
    cancelled, or closed if they have opened too.
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
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # ValueError: it announces no URL
        log.debug("no_gateway", url=url, error=named(error))
        return None
    return Opened(gateway, url, socket)


async def _call_off(racing: Iterable[asyncio.Task[Opened | None]]) -> None:
    for task in racing:
        task.cancel()
    for outcome in await asyncio.gather(*racing, return_exceptions=True):
        if isinstance(outcome, Opened):
            await close(outcome.socket, Close.NORMAL)


async def close(socket: aiohttp.ClientWebSocketResponse, code: Close) -> None:
    """Close a connection; drop it when the gateway does not answer within `CLOSE_TIMEOUT_S`.

    aiohttp 3.14 restarts its own time-out with every frame that arrives before the answer, so by
    itself it would never leave a gateway that pushes and does not read.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await socket.close(code=code)
