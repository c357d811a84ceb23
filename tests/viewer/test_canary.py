"""The canary: what one gateway's probe counts, and the whole of it on the real system."""

import asyncio
import re
import secrets
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import jwt
import msgspec
import pytest
from aiohttp import web
from pydantic import SecretStr

from devstack.builds import ROOT
from devstack.system import System
from liveroom.clock import SystemClock, running_on
from liveroom.kinds import Kind
from liveroom.registry import Metrics
from liveroom.service import StartError
from liveroom.settings import CanarySettings
from liveroom.web import serve
from liveroom.wire import Message
from tests.e2e.audience import knows_gateways
from viewer.canary import TOKEN_TTL_S, Canary
from viewer.effects import Delivered, Entered
from viewer.probe import Probe

LOST_S = 10.0


class Clock(SystemClock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_ns(self) -> int:
        return int(self.now_s * 1e9)


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    with running_on(clock):
        yield clock


@pytest.fixture
def probe() -> Probe:
    probe = Probe("e1", Metrics("canary"))
    probe.on_effect(Entered("canary", 1, 1, 1))
    return probe


def gift(id_: str, seq: int, epoch: int = 1, *, late: bool = False) -> Delivered:
    return Delivered("canary", epoch, Message(seq, Kind.GIFT, id_, "canary", 0, n=1, data=msgspec.Raw(b"{}")), late)


def test_a_gift_is_timed_from_its_202(probe: Probe, clock: Clock) -> None:
    probe.sent("a", clock.now_s)
    clock.now_s += 0.25
    probe.on_effect(gift("a", 1))
    assert (probe.received, list(probe.delays_ms)) == (1, [250.0])
    probe.on_effect(gift("b", 2))
    clock.now_s += 0.1
    probe.sent("b", clock.now_s)
    assert (probe.received, probe.delays_ms[-1]) == (2, 0.0), "it was there before its 202"


def test_what_does_not_come_in_time_is_lost_once(probe: Probe, clock: Clock) -> None:
    probe.sent("a", clock.now_s)
    clock.now_s += LOST_S
    probe.sweep(clock.now_s, LOST_S)
    assert probe.lost == 0
    clock.now_s += 0.1
    for _ in range(2):
        probe.sweep(clock.now_s, LOST_S)
    assert (probe.lost, probe.received) == (1, 0)


async def test_a_token_of_its_own_making_is_renewed_before_it_ends() -> None:
    clock = Clock()
    async with aiohttp.ClientSession() as http:
        key = "k" * 32
        canary = Canary(CanarySettings(token_key=SecretStr(key)), Metrics("canary"), http)
        with running_on(clock):
            first = canary.token()
            assert canary.token() == first
            for day in range(20):
                clock.now_s += TOKEN_TTL_S * 0.9
                claims = jwt.decode(canary.token(), options={"verify_signature": False})
                assert (claims["role"], claims["exp"] > clock.now_s + 3600) == ("operator", True), day
        given = Canary(CanarySettings(token=SecretStr("given")), Metrics("canary"), http)
        assert given.token() == "given"


def test_what_was_sent_while_it_was_not_in_is_not_due(probe: Probe, clock: Clock) -> None:
    probe.sent("due", clock.now_s)
    probe.gone()
    probe.sent("not due", clock.now_s)
    probe.on_effect(Entered("canary", 1, 5, 5, resumed=True))
    probe.sweep(clock.now_s + LOST_S + 1, LOST_S)
    assert probe.lost == 1, "a lost connection excuses nothing: what was missed is pulled"


def test_order_is_by_epoch_and_number_and_what_was_pulled_may_be_late(probe: Probe) -> None:
    for delivered in (gift("a", 1), gift("b", 2), gift("c", 4), gift("d", 3, late=True), gift("e", 1, epoch=2)):
        probe.on_effect(delivered)
    assert probe.disordered == 0
    probe.on_effect(gift("f", 1, epoch=2))
    probe.on_effect(gift("g", 9, epoch=1))
    assert probe.disordered == 2


class Others:
    """An ingress and a scheduler without gateways; `answers`: what they answer to a request, the
    last one for ever.
    """

    def __init__(self, **answers: list[int]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.app = web.Application()
        self.app.router.add_get("/v1/gateways", self._answer)
        self.app.router.add_patch("/v1/rooms/{room}/modes", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        answers = self.answers[request.method.lower()]
        self.asked.append(request.method)
        return web.json_response({"gateways": []}, status=answers.pop(0) if len(answers) > 1 else answers[0])


@asynccontextmanager
async def alone(others: Others, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Canary]:
    """Give a canary that asks these and hurries."""
    monkeypatch.setattr("viewer.canary.LOOK_S", 0.001)
    async with serve(others.app, "127.0.0.1", 0) as (_, port), aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{port}"
        yield Canary(CanarySettings(token=SecretStr("t"), ingress_url=url, scheduler_url=url), Metrics("canary"), http)


async def test_a_token_that_the_scheduler_does_not_take_ends_it_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async with alone(Others(get=[503, 503, 401]), monkeypatch) as canary:
        with pytest.raises(StartError, match=r"/v1/gateways does not take the token: 401"):
            await canary.run()


async def test_it_waits_for_a_scheduler_and_asks_until_its_room_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    others = Others(get=[503, 503, 200], patch=[503, 503, 202])
    looks, waited_for, enough = 0, set(), asyncio.Event()

    def on_look() -> None:
        nonlocal looks
        looks += 1
        waited_for.add(canary.waits_for.partition(": ")[2][:3])
        if looks == 10:
            enough.set()

    async with alone(others, monkeypatch) as canary:
        running = asyncio.create_task(canary.run(on_look))
        await asyncio.wait_for(enough.wait(), 30)
        running.cancel()
        await asyncio.wait({running})
    assert others.asked.count("PATCH") == 3
    assert others.asked.index("PATCH") == 3, "nobody is asked for a room before there is a scheduler"
    assert waited_for == {"503", ""}


@pytest.mark.kafka
async def test_it_is_at_every_gateway_and_follows_them(kafka_bootstrap: str) -> None:
    async with System(kafka_bootstrap, prefix=f"c{secrets.token_hex(4)}.", partitions=2, edges=2) as system:
        await knows_gateways(system, 2)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from cli import main; main()",
            *("canary", "--interval", "0.1", "--duration", "12"),
            *("--ingress", system.ingress_url, "--scheduler", system.scheduler_url, "--token-key", system.token_key),
            stdout=PIPE,
            stderr=STDOUT,
            cwd=ROOT,
        )
        await asyncio.sleep(3)
        third = await system.add_edge()
        await asyncio.sleep(4)
        third.kill(signal.SIGTERM)  # in order: its viewers move away
        output = (await process.communicate())[0].decode()
        assert process.returncode == 0, output
        rows = [re.split(r" {2,}", line.strip()) for line in output.splitlines() if line.strip().startswith("edge-")][-3:]
        assert [(row[0], row[1], row[3], row[4]) for row in rows] == [
            ("edge-3", "gone", "0", "0"),
            ("edge-1", "in the room", "0", "0"),
            ("edge-2", "in the room", "0", "0"),
        ], output
        assert all(int(row[2]) > 3 for row in rows), output
