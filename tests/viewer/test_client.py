"""The viewer's shell and the crowd against gateways that are slow, gone, or lose what they were to
push.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from itertools import count

import aiohttp
import msgspec
import pytest
from aiohttp import ClientConnectionResetError, web
from aiohttp.test_utils import TestServer

from liveroom import clock
from liveroom.chance import Chance
from liveroom.kinds import Kind
from liveroom.topics import DEVICE_ID
from liveroom.wire import (
    SUBPROTOCOL,
    BatchHeader,
    Beat,
    Error,
    Hello,
    Joined,
    Message,
    Move,
    Pulled,
    encode_frame,
    encode_message,
)
from tests.hostile import danmaku, hostile
from tests.rooms import serving_rooms
from viewer.client import Viewer
from viewer.effects import Delivered, Effect, Lost, Pull, Told
from viewer.entry import Entry, race
from viewer.ledger import Ledger
from viewer.load import Crowd
from viewer.pull_request import ask_pull, take_answer
from viewer.session import Session, State

DEADLINE_S = 30.0  # nothing here takes so long, on whatever machine
MESSAGES = [encode_message(Message(seq, Kind.GIFT, f"g{seq}", "u", 1, seq)) for seq in range(1, 6)]


def batch(first: int, last: int) -> str:
    """Return the batch of some of `MESSAGES`."""
    header = msgspec.json.encode(BatchHeader("r", 1, (first, last), last, at=1, pos=f"0.{last}"))
    return b"\n".join((header, *MESSAGES[first - 1 : last])).decode()


class Gateway:
    """Upgrades after `wait_s`; pushes the batches but one; answers pulls with `refusals` first."""

    def __init__(self, *, wait_s: float = 0.0, refusals: Iterable[tuple[int, str]] = ()) -> None:
        self.wait_s = wait_s
        self.refusals = list(refusals)
        self.open: set[web.WebSocketResponse] = set()
        self.upgrades = 0
        self.over = 0  # upgrades that were asked for and of which nothing is left
        self.pulls: list[tuple[str | None, dict[str, str]]] = []
        self.flows = False  # again and again what it has
        self.floods = False  # without end, faster than anybody reads, and never reads itself
        self.moves = False  # says so before it floods
        self.hangs = False
        self.refuses = ""  # a room, for good
        app = web.Application()
        app.router.add_get("/v1/live", self.live)
        app.router.add_get("/v1/rooms/r/messages", self.pulled)
        self.server = TestServer(app)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.server.port}/v1/live"

    async def live(self, request: web.Request) -> web.WebSocketResponse:
        self.upgrades += 1
        try:
            return await self._upgrade(request)
        finally:
            self.over += 1

    async def _upgrade(self, request: web.Request) -> web.WebSocketResponse:
        await asyncio.sleep(self.wait_s)
        socket = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await socket.prepare(request)
        self.open.add(socket)
        try:
            await socket.send_str(encode_frame(Hello("e", 1, 20, 25, "u", pull="secret")).decode())
            first = msgspec.json.decode((await socket.receive()).data)
            resumed = "epoch" in first
            if self.refuses:
                await socket.send_str(encode_frame(Error("too_many_rooms", room=self.refuses)).decode())
            await socket.send_str(encode_frame(Joined("r", 1, 0, 0, "0.0", resumed=resumed)).decode())
            for part in [(1, 1), (3, 4)]:  # 2 is lost
                await socket.send_str(batch(*part))
            if self.moves:
                await socket.send_str(encode_frame(Move("drain")).decode())
            while self.floods:
                for _ in range(200):
                    await socket.send_str(batch(3, 4))
                await asyncio.sleep(0)
            while self.flows:
                await socket.send_str(batch(3, 4))
                await asyncio.sleep(0.001)
            await socket.receive()
        except ClientConnectionResetError:
            pass  # it left while we spoke
        finally:
            self.open.discard(socket)
        return socket

    async def pulled(self, request: web.Request) -> web.Response:
        self.pulls.append((request.headers.get("Authorization"), dict(request.query)))
        if self.hangs:
            await asyncio.sleep(60)
        if self.refusals:
            status, retry_after = self.refusals.pop(0)
            return web.Response(status=status, headers={"Retry-After": retry_after})
        after = int(request.query["after_rseq"])
        answer = Pulled("r", 1, 4, 4, "0.4", messages=[msgspec.Raw(line) for line in MESSAGES[after:4]])
        return web.Response(body=encode_frame(answer))


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as entered:
        yield entered


async def start(stack: AsyncExitStack, *gateways: Gateway) -> None:
    for gateway in gateways:
        await gateway.server.start_server()
        stack.push_async_callback(gateway.server.close)


async def scheduler(stack: AsyncExitStack, urls: list[str], devices: list[str] | None = None) -> str:
    """Return the address of a scheduler that names these gateways, and notes the devices of those
    who ask.
    """

    async def entry(request: web.Request) -> web.Response:
        if devices is not None:
            devices.append(request.query["device"])
        gateways = [{"id": f"e{number}", "url": url} for number, url in enumerate(urls)]
        return web.json_response({"gateways": gateways, "ticket": "t"})

    app = web.Application()
    app.router.add_get("/v1/entry", entry)
    server = TestServer(app)
    await server.start_server()
    stack.push_async_callback(server.close)
    return f"http://127.0.0.1:{server.port}"


async def client(stack: AsyncExitStack) -> aiohttp.ClientSession:
    return await stack.enter_async_context(aiohttp.ClientSession())


async def comes(condition: Callable[[], object], timeout_s: float = DEADLINE_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


def came(effects: list[Effect]) -> list[tuple[int, bool]]:
    return [(effect.message.seq, effect.late) for effect in effects if isinstance(effect, Delivered)]


async def test_the_first_address_that_upgrades_wins_and_nothing_of_the_others_stays(
    stack: AsyncExitStack, unused_tcp_port: int
) -> None:
    slow, quick, spare = Gateway(wait_s=5.0), Gateway(), Gateway()
    await start(stack, slow, quick, spare)
    http = await client(stack)
    nobody = f"ws://127.0.0.1:{unused_tcp_port}/v1/live"
    won = await race(http, Entry(["gone", "slow", "quick", "spare"], [nobody, slow.url, quick.url, spare.url], "t"))
    assert won is not None
    assert (won.gateway, won.url) == ("quick", quick.url)  # at once after the one that failed, before the slow one
    assert (slow.upgrades, quick.upgrades, spare.upgrades) == (1, 1, 0)
    await comes(lambda: slow.over == 1)
    assert (len(slow.open), len(quick.open)) == (0, 1)
    await won.socket.close()


async def test_of_two_that_open_at_once_one_is_closed(stack: AsyncExitStack) -> None:
    both = [Gateway(wait_s=0.25), Gateway()]
    await start(stack, *both)
    http = await client(stack)
    for _ in range(5):
        won = await race(http, Entry(["a", "b"], [gateway.url for gateway in both], "t"))
        assert won is not None
        await comes(lambda: sum(len(gateway.open) for gateway in both) == 1)
        await won.socket.close()
        await comes(lambda: not any(gateway.open for gateway in both))


async def test_a_race_broken_off_leaves_nothing_open(stack: AsyncExitStack) -> None:
    both = [Gateway(wait_s=0.3), Gateway(wait_s=0.05)]
    await start(stack, *both)
    http = await client(stack)
    for wait_s in (0.0, 0.1, 0.28, 0.3, 0.305, 0.31):
        racing = asyncio.create_task(race(http, Entry(["a", "b"], [gateway.url for gateway in both], "t")))
        await asyncio.sleep(wait_s)
        racing.cancel()
        (told,) = await asyncio.gather(racing, return_exceptions=True)
        if not isinstance(told, BaseException) and told is not None:
            await told.socket.close()
        await comes(lambda: not any(gateway.open for gateway in both))


async def test_nobody_wins_where_all_fail(stack: AsyncExitStack, unused_tcp_port: int) -> None:
    assert await race(await client(stack), Entry(["a"], [f"ws://127.0.0.1:{unused_tcp_port}/"], "t")) is None


@pytest.mark.parametrize("flows", [False, True])
async def test_a_viewer_pulls_what_did_not_come_until_it_is_answered(stack: AsyncExitStack, flows: bool) -> None:
    gateway = Gateway(refusals=[(503, "0"), (404, ""), (429, "x")])
    gateway.flows = flows
    await start(stack, gateway)
    effects: list[Effect] = []
    url = await scheduler(stack, [gateway.url])
    async with Viewer(url, ["r"], http=await client(stack), on_effect=effects.append) as viewer:
        await viewer.joined()
        await comes(lambda: len(came(effects)) == 4)
        assert came(effects) == [(1, False), (3, False), (4, False), (2, True)]
        assert viewer.is_open
    assert gateway.pulls == [("Bearer secret", {"pos": "0.1", "epoch": "1", "after_rseq": "1"})] * 4
    assert not any(isinstance(effect, Lost) for effect in effects)


async def test_a_viewer_has_joined_when_every_room_but_those_that_refuse_it_for_good_let_it_in(stack: AsyncExitStack) -> None:
    gateway = Gateway()
    gateway.refuses = "another"
    await start(stack, gateway)
    effects: list[Effect] = []
    url = await scheduler(stack, [gateway.url])
    async with Viewer(url, ["r", "another"], http=await client(stack), on_effect=effects.append) as viewer:
        await viewer.joined()
        assert viewer.session.rooms.keys() == {"r"}
    assert Told(Error("too_many_rooms", room="another")) in effects


async def test_the_delay_of_a_refused_pull_comes_from_its_body_or_else_from_its_header(stack: AsyncExitStack) -> None:
    gateway = Gateway(refusals=[(429, "3")])
    await start(stack, gateway)
    http, pull = await client(stack), Pull("r", "secret", {"after_rseq": "1"})
    assert (await ask_pull(http, gateway.url, pull)).retry_after_s == 3
    async with serving_rooms() as rooms:
        rooms.pull_refusal = {"code": "rate_user", "retry_after_s": 7.5}
        assert (await ask_pull(http, f"ws://127.0.0.1:{rooms.port}/v1/live", pull)).retry_after_s == 7.5


async def test_only_a_refusal_that_no_waiting_ends_is_final(stack: AsyncExitStack) -> None:
    statuses = [429, 503, 500, 502, 408, 401, 403, 404, 422]
    gateway = Gateway(refusals=[(status, "3") for status in statuses])
    await start(stack, gateway)
    http, pull = await client(stack), Pull("r", "secret", {"after_rseq": "1"})
    answers = [await ask_pull(http, gateway.url, pull) for _ in statuses]
    assert [answer.is_final for answer in answers] == [False] * 5 + [True] * 4
    assert {(answer.body, answer.retry_after_s) for answer in answers} == {(None, 3.0)}
    session = Session(["r"])
    session.opened(0)
    for frame in (Hello("e", 1, 20, 25, "u", pull="secret"), Joined("r", 1, 0, 0, "0.0")):
        session.received(encode_frame(frame), 0)
    effects = session.received(batch(3, 4).encode(), 0)
    for _ in range(20):
        effects += take_answer(session, "r", answers[0], Chance(1))
        effects += session.received_frame(Beat(1), clock.monotonic_s() + 100)
    assert not any(isinstance(effect, Lost) for effect in effects)
    assert sum(isinstance(effect, Pull) for effect in effects) == 21


async def test_a_gateway_that_pushes_and_never_reads_is_left_in_time(stack: AsyncExitStack) -> None:
    gateway = Gateway()
    gateway.floods = True
    await start(stack, gateway)
    url = await scheduler(stack, [gateway.url])
    http = await client(stack)
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(3):
            flooded = asyncio.Event()
            async with Viewer(url, ["r"], http=http, on_effect=lambda _, flooded=flooded: flooded.set()) as viewer:  # type: ignore[misc]
                await viewer.joined()
                flooded.clear()
                await flooded.wait()
            await comes(lambda: not gateway.open)


async def test_a_viewer_moves_away_from_a_gateway_that_pushes_and_never_reads(stack: AsyncExitStack) -> None:
    gateway = Gateway()
    gateway.floods = gateway.moves = True
    await start(stack, gateway)
    async with Viewer(await scheduler(stack, [gateway.url]), ["r"], http=await client(stack)):
        await comes(lambda: gateway.upgrades >= 2)


async def test_a_viewer_names_its_device_at_each_entry_and_makes_one_where_it_has_none(stack: AsyncExitStack) -> None:
    gateway, devices = Gateway(), list[str]()
    await start(stack, gateway)
    url, http = await scheduler(stack, [gateway.url], devices), await client(stack)
    async with Viewer(url, ["r"], http=http, device="a.phone:1_-") as viewer:
        await viewer.joined()
        await comes(lambda: gateway.open)
        for socket in list(gateway.open):
            cut(socket, "reset")
        await comes(lambda: gateway.upgrades == 2)
    assert set(devices) == {"a.phone:1_-"}
    assert len(devices) >= 2
    devices.clear()
    for _ in range(2):
        async with Viewer(url, ["r"], http=http) as viewer:
            await viewer.joined()
        assert devices[-1] == viewer.device
    assert len(set(devices)) == 2
    assert all(DEVICE_ID.match(device) for device in devices)


async def test_leaving_while_a_pull_is_out_ends_it(stack: AsyncExitStack) -> None:
    gateway = Gateway()
    gateway.hangs = True
    await start(stack, gateway)
    async with Viewer(await scheduler(stack, [gateway.url]), ["r"], http=await client(stack)):
        await comes(lambda: gateway.pulls)
        assert pulls()
    assert not pulls()


def pulls() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if "ask_pull" in repr(task.get_coro())]


def cut(socket: web.WebSocketResponse, how: str) -> None:
    """End a connection without a close frame."""
    assert socket._req is not None
    transport = socket._req.transport
    assert transport is not None
    if how == "reset":
        transport.abort()
    else:
        transport.close()


@pytest.mark.parametrize("how", ["reset", "end of stream"])
async def test_a_connection_cut_without_a_word_is_made_again(stack: AsyncExitStack, how: str) -> None:
    gateway = Gateway()
    await start(stack, gateway)
    gone: list[int] = []
    viewer = Viewer(await scheduler(stack, [gateway.url]), ["r"], http=await client(stack), on_gone=lambda: gone.append(1))
    async with viewer:
        await viewer.joined()
        for times in range(1, 3):
            await comes(lambda: gateway.open)
            cut(next(iter(gateway.open)), how)
            await comes(lambda times=times: len(gone) == times and viewer.is_open)  # type: ignore[misc]
    assert viewer.ended is None


async def test_a_crowd_that_checks_everything_pulls_and_comes_back(stack: AsyncExitStack) -> None:
    gateway = Gateway(refusals=[(503, "0")])
    await start(stack, gateway)
    ledger = Ledger()
    crowd = Crowd(await scheduler(stack, [gateway.url]), ["r"], 30, sample=1, on_effect=ledger.observe)
    try:
        await crowd.start()
        await comes(lambda: crowd.joined == 30 and ledger.verdict(0).pulled == 30)
        for socket in list(gateway.open)[:10]:
            cut(socket, "reset")
        await comes(lambda: crowd.figures().reconnects == 10 and crowd.joined == 30)
        assert ledger.verdict(0, settled=True).lost == 0
        assert ledger.verdict(0, settled=True).doubled == 0
    finally:
        await crowd.stop()
    assert not [task for task in asyncio.all_tasks() if "Crowd" in repr(task.get_coro())]


@pytest.mark.parametrize("device", ["a b", "d" * 65, "\u00e9", "a\n"])
async def test_a_device_that_no_scheduler_takes_is_refused_at_once(stack: AsyncExitStack, device: str) -> None:
    http = await client(stack)
    with pytest.raises(ValueError, match=r"device: .* is not 1 to 64 of"):
        Viewer("http://127.0.0.1:1", ["r"], http=http, device=device)


async def test_a_viewer_waits_as_long_as_the_header_of_a_refused_entry_says(stack: AsyncExitStack) -> None:
    async def entry(_: web.Request) -> web.Response:
        return web.Response(status=503, text="<html>busy</html>", headers={"Retry-After": "20"})

    app = web.Application()
    app.router.add_get("/v1/entry", entry)
    server = TestServer(app)
    await server.start_server()
    stack.push_async_callback(server.close)
    failed = asyncio.Event()
    url = f"http://127.0.0.1:{server.port}"
    chance = Chance(1)  # the random part comes on top
    began_s = clock.monotonic_s()
    async with Viewer(url, ["r"], http=await client(stack), on_failed=lambda _: failed.set(), chance=chance) as viewer:
        async with asyncio.timeout(DEADLINE_S):
            await failed.wait()
        await comes(lambda: viewer.session.state is State.WAITING)
        wake_at = viewer.session.wake_at
        assert wake_at is not None
        assert wake_at - began_s >= 20


async def test_callbacks_that_raise_are_reported_and_do_not_stop_a_viewer() -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.append(told["message"]))
    lines = [danmaku(seq, f"line {seq}") for seq in (1, 2, 3)]
    seqs: list[int] = []
    has_all = asyncio.Event()

    def raises(effect: Effect) -> None:
        if isinstance(effect, Delivered):
            seqs.append(effect.message.seq)
            if len(seqs) == 5:
                has_all.set()
        raise BrokenPipeError("of the application")

    async with (
        hostile(lines) as services,
        aiohttp.ClientSession() as http,
        Viewer(services.url, ["lobby"], http=http, on_effect=raises) as viewer,
        asyncio.timeout(DEADLINE_S),
    ):
        await has_all.wait()
        assert viewer.is_open
    assert sorted(seqs) == [1, 2, 3, 4, 5]
    assert set(reported) == {"on_effect of a viewer failed"}


async def test_a_viewer_whose_other_callbacks_and_token_function_raise_comes_into_the_room(
    stack: AsyncExitStack,
) -> None:
    reported: set[str] = set()
    asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.add(told["message"]))
    tokens = count()

    def token() -> str:
        if not reported:
            raise LookupError("no token yet")
        return f"token {next(tokens)}"

    def raises(*_: object) -> None:
        raise KeyError("of the application")

    gateway = Gateway()
    await start(stack, gateway)
    url = await scheduler(stack, [gateway.url])
    async with (
        aiohttp.ClientSession() as http,
        Viewer(url, ["r"], http=http, token=token, on_gone=raises, on_failed=raises) as viewer,
        asyncio.timeout(DEADLINE_S),
    ):
        await viewer.joined(DEADLINE_S)
        while not gateway.open:  # noqa: ASYNC110 - its connections are all there is to see
            await asyncio.sleep(0.01)
        await next(iter(gateway.open)).close()
        while gateway.upgrades < 2 or not viewer.is_open:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert reported == {
        "the token function of a viewer failed",
        "on_failed of a viewer failed",
        "on_gone of a viewer failed",
    }


async def test_a_viewer_whose_application_cancelled_its_own_futures_comes_into_the_room(stack: AsyncExitStack) -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.append(told["message"]))
    refreshed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    refreshed.cancel()
    gateway = Gateway()
    await start(stack, gateway)
    url = await scheduler(stack, [gateway.url])

    def token() -> str:
        return "another token" if "the token function of a viewer failed" in reported else refreshed.result()

    def on_effect(_: Effect) -> None:
        refreshed.result()

    async with (
        aiohttp.ClientSession() as http,
        Viewer(url, ["r"], http=http, token=token, on_effect=on_effect) as viewer,
    ):
        await viewer.joined(DEADLINE_S)
    assert set(reported) == {"the token function of a viewer failed", "on_effect of a viewer failed"}


async def test_a_mistake_within_a_viewer_ends_the_block_that_uses_it(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[Effect]:
        raise ArithmeticError("a mistake")

    monkeypatch.setattr(Session, "opened", broken)
    gateway = Gateway()
    await start(stack, gateway)
    url = await scheduler(stack, [gateway.url])
    async with aiohttp.ClientSession() as http:
        with pytest.raises(ArithmeticError, match="a mistake"):
            async with Viewer(url, ["r"], http=http), asyncio.timeout(DEADLINE_S):
                await asyncio.Event().wait()
        with pytest.raises(ArithmeticError, match="a mistake"):
            async with Viewer(url, ["r"], http=http) as viewer, asyncio.timeout(DEADLINE_S):
                await viewer.until_ended()


async def test_a_crowd_with_a_broken_part_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.append(told["message"]))

    async def broken(*_: object) -> None:
        raise ArithmeticError("a mistake")

    monkeypatch.setattr("viewer.load.ask_entry", broken)
    crowd = Crowd("http://127.0.0.1:1", ["r"], 1)
    try:
        with pytest.raises(ArithmeticError, match="a mistake"):
            await crowd.start()
        with pytest.raises(ArithmeticError, match="a mistake"):
            crowd.figures()
    finally:
        await crowd.stop()
    assert reported == ["a viewer of the crowd failed"]


@pytest.mark.parametrize("announced", ["ws://::1:26265/v1/live", "ws://[::1/v1/live", "", "http://a b/", "ws://a:99999/"])
async def test_a_gateway_that_announces_no_url_leaves_the_others(announced: str, stack: AsyncExitStack) -> None:
    gateway = Gateway()
    await start(stack, gateway)
    async with aiohttp.ClientSession() as http, asyncio.timeout(DEADLINE_S):
        won = await race(http, Entry(["odd", "e"], [announced, gateway.url], "t"))
        assert won is not None
        assert won.gateway == "e"
        await won.socket.close()
    crowd = Crowd(await scheduler(stack, [announced, gateway.url]), ["r"], 1)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await crowd.start()
            while crowd.figures().joined < 1:  # noqa: ASYNC110 - its figures are all there is to see
                await asyncio.sleep(0.01)
        assert crowd.figures().refused == 0
    finally:
        await crowd.stop()


async def fails_at_last(crowd: Crowd) -> None:
    """Bring the viewers, and look at the figures until they raise."""
    await crowd.start()
    while True:
        crowd.figures()
        await asyncio.sleep(0.01)


async def test_a_crowd_whose_observer_fails_says_so_and_keeps_its_connections(stack: AsyncExitStack) -> None:
    reported: set[str] = set()
    asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.add(told["message"]))
    gateway = Gateway()
    await start(stack, gateway)

    def broken(*_: object) -> None:
        raise ArithmeticError("a mistake")

    crowd = Crowd(await scheduler(stack, [gateway.url]), ["r"], 1, on_effect=broken)
    try:
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(ArithmeticError, match="a mistake"):
                await fails_at_last(crowd)
            while not crowd.joined:  # noqa: ASYNC110 - its figures raise
                await asyncio.sleep(0.01)
        assert gateway.upgrades == 1
    finally:
        await crowd.stop()
    assert reported == {"on_effect of a crowd failed"}
