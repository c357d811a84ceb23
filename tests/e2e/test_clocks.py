"""Machines whose clocks are off, in a running system."""

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from devstack.builds import ROOT, Build
from devstack.processes import Service
from devstack.system import System
from liveroom.kinds import Role
from tests.e2e.audience import Audience, settled
from tests.e2e.off_clock import FOLDER
from viewer.client import Viewer
from viewer.effects import Delivered, Effect
from viewer.ledger import Ledger
from viewer.sender import Accepted, Sender

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

OFF = Build("this code, on a clock that is off", ROOT, launcher="tests.e2e.off_clock")
WAIT_S = 60.0
SKEW = "liveroom_clock_skew_seconds"
YEAR_S = 365 * 24 * 3600.0


class Clocks:
    """The clocks of the services' machines. Each is off by some seconds, by the service's name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.settings = {FOLDER: str(folder)}

    def set(self, offs_s: Mapping[str, float]) -> None:
        for name, off_s in offs_s.items():
            (self._folder / name).write_text(str(off_s))


@asynccontextmanager
async def running(
    bootstrap: str, folder: Path, offs_s: Mapping[str, float], edges: int
) -> AsyncIterator[tuple[System, Clocks]]:
    clocks = Clocks(folder)
    clocks.set(offs_s)
    prefix = f"c{secrets.token_hex(4)}."
    async with System(bootstrap, prefix=prefix, partitions=2, build=OFF, settings=clocks.settings, edges=edges) as system:
        yield system, clocks


async def standings(system: System, http: aiohttp.ClientSession) -> dict[str, tuple[str, float | None]]:
    headers = {"Authorization": f"Bearer {system.token('op', Role.OPERATOR)}"}
    async with http.get(f"{system.scheduler.url}/v1/gateways", headers=headers) as answer:
        body = await answer.json()
    return {each["gateway"]: (each["standing"], each["skew_s"]) for each in body["gateways"]}


async def until(is_so: Callable[[], Any]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(WAIT_S):
        while not await is_so():  # noqa: ASYNC110 - other processes have no events
            await asyncio.sleep(0.05)


async def stand(system: System, http: aiohttp.ClientSession, wanted: Mapping[str, str]) -> None:
    """Wait until the scheduler sees these standings."""

    async def do() -> bool:
        return {name: standing for name, (standing, _) in (await standings(system, http)).items()} == wanted

    await until(do)


async def entry(system: System, http: aiohttp.ClientSession, **more: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {system.token(f'u{secrets.token_hex(4)}', Role.OPERATOR)}"}
    async with http.get(f"{system.scheduler.url}/v1/entry", params={"room": "lobby", **more}, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        body: dict[str, Any] = await answer.json()
        return body


async def knows_skew(service: Service, off_s: float) -> None:
    """Wait until a service knows by how much its clock is off."""

    async def do() -> bool:
        return abs((await service.metrics()).get(SKEW, math.nan) - off_s) < 10

    await until(do)


async def late_pushes(edge: Service) -> float:
    """How many pushes a gateway shows as later than 30 s."""
    metrics = await edge.metrics()
    total = 0.0
    for name in ("liveroom_edge_fanout_delay_seconds", "liveroom_edge_queue_delay_seconds"):
        total += metrics[f"{name}_count"] - metrics[f'{name}_bucket{{le="30.0"}}']
    return total


async def joins(edge: Service) -> float:
    return (await edge.metrics())['liveroom_edge_joins_total{outcome="joined"}']


async def hears(system: System, http: aiohttp.ClientSession, url: str, ticket: str) -> str:
    """Return the first text that a gateway sends on a ticket."""
    async with http.ws_connect(url, params={"ticket": ticket}) as ws:
        return str(await asyncio.wait_for(ws.receive_str(), WAIT_S))


async def test_nobody_is_sent_to_gateways_whose_clocks_are_off_and_others_notice_nothing(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    offs = {"edge-2": 90.0, "edge-3": -90.0}
    async with (
        running(kafka_bootstrap, tmp_path, offs, edges=3) as (system, _),
        aiohttp.ClientSession() as http,
        AsyncExitStack() as stack,
    ):
        wanted = {"edge-1": "open", "edge-2": "skewed", "edge-3": "skewed"}

        async def all_go_to_the_first() -> bool:
            seen = await standings(system, http)
            if {name: standing for name, (standing, _) in seen.items()} != wanted:
                return False  # on a slow machine a gateway that stalls is stale or skewed for a while
            skews_s = [seen[name][1] for name in ("edge-2", "edge-3")]
            entries = [await entry(system, http) for _ in range(40)]
            names = {gateway["id"] for answer in entries for gateway in answer["gateways"]}
            skewed = (await system.scheduler.metrics())['liveroom_scheduler_gateways{state="skewed"}']
            return skews_s == pytest.approx([90, -90], abs=10) and names == {"edge-1"} and skewed == 2

        await until(all_go_to_the_first)
        for edge, off_s in zip(system.edges, (0.0, 90.0, -90.0), strict=True):
            await knows_skew(edge, off_s)

        audience = Audience(system, "lobby", http, Ledger())
        await audience.join(stack, 5)
        answer = await Sender(system.ingress_url, system.token("ann"), http).gift("lobby", "rose")
        assert isinstance(answer, Accepted)
        await settled(lambda: all(audience.seen))
        for name in ("edge-2", "edge-3"):  # an operator looks at them: tickets hold there too
            chosen = await entry(system, http, gateway=name)
            first = await hears(system, http, chosen["gateways"][0]["url"], chosen["ticket"])
            assert '"hello"' in first
        for edge in system.edges:
            assert await late_pushes(edge) == 0


@pytest.mark.parametrize(
    "off_s", [pytest.param(-60 * YEAR_S, id="it starts in 1970"), pytest.param(70 * YEAR_S, id="it starts in the far future")]
)
async def test_a_gateway_that_is_alone_and_skewed_serves(kafka_bootstrap: str, tmp_path: Path, off_s: float) -> None:
    async with (
        running(kafka_bootstrap, tmp_path, {"edge-1": off_s}, edges=1) as (system, clocks),
        aiohttp.ClientSession() as http,
        AsyncExitStack() as stack,
    ):
        await stand(system, http, {"edge-1": "skewed"})
        audience = Audience(system, "lobby", http, Ledger())
        await audience.join(stack, 3)
        sender = Sender(system.ingress_url, system.token("ann"), http)
        assert isinstance(await sender.gift("lobby", "rose"), Accepted)
        await settled(lambda: all(audience.seen))
        assert await late_pushes(system.edges[0]) == 0

        for step_s, standing in ((0.0, "open"), (90.0, "skewed"), (-90.0, "skewed"), (0.0, "open")):
            clocks.set({"edge-1": step_s})
            await stand(system, http, {"edge-1": standing})
            await audience.join(stack, 1)
            before = [len(seen) for seen in audience.seen]
            assert isinstance(await sender.gift("lobby", "rose"), Accepted)
            await settled(lambda before=before: all(len(s) > b for s, b in zip(audience.seen, before, strict=True)))  # type: ignore[misc]
        assert await late_pushes(system.edges[0]) == 0
        assert await joins(system.edges[0]) == len(audience.viewers), "nobody was put out and came again"


async def test_no_other_service_needs_a_clock_that_is_right(kafka_bootstrap: str, tmp_path: Path) -> None:
    """Entry, tokens, rules, messages and their times: as if all clocks were right."""
    offs = {"scheduler-1": 7200.0, "ingress-1": -7200.0, "broadcaster-1": YEAR_S}
    async with (
        running(kafka_bootstrap, tmp_path, offs, edges=1) as (system, _),
        aiohttp.ClientSession() as http,
        AsyncExitStack() as stack,
    ):
        await stand(system, http, {"edge-1": "open"})
        for service in (system.scheduler, system.ingress, system.broadcasters[0]):
            await knows_skew(service, offs[service.name])
        heard: list[Delivered] = []

        def on_effect(effect: Effect) -> None:
            if isinstance(effect, Delivered):
                heard.append(effect)

        viewer = Viewer(system.scheduler_url, ["lobby"], http=http, token=system.token("bob"), on_effect=on_effect)
        await stack.enter_async_context(viewer)
        await viewer.joined(WAIT_S)
        began_ms = time.time() * 1000
        answer = await Sender(system.ingress_url, system.token("ann"), http).gift("lobby", "rose")
        assert isinstance(answer, Accepted)
        await settled(lambda: bool(heard))
        assert began_ms - 5000 < heard[0].message.at < time.time() * 1000 + 5000
        assert began_ms - 5000 < answer.at_ms < time.time() * 1000 + 5000
        assert await late_pushes(system.edges[0]) == 0
        metrics = await system.broadcasters[0].metrics()
        name = "liveroom_broadcaster_uplink_delay_seconds"
        assert metrics[f"{name}_count"] == metrics[f'{name}_bucket{{le="30.0"}}'] > 0
        assert not any(value for each, value in metrics.items() if each.startswith("liveroom_far_times_total"))

        url, host = f"{system.ingress_url}/v1/rooms/lobby", {"Authorization": f"Bearer {system.token('op', Role.OPERATOR)}"}
        async with http.post(f"{url}/mutes", json={"user": "ann", "for_s": 600}, headers=host) as muted:
            until_ms = (await muted.json())["until_ms"]
        assert 590_000 < until_ms - time.time() * 1000 + 5000 < 620_000
        token = {"Authorization": f"Bearer {system.token('ann')}"}

        async def is_muted() -> bool:
            async with http.post(f"{url}/danmaku", json={"text": "hi"}, headers=token) as refused:
                return refused.status == 403

        await until(is_muted)
        async with http.get(f"{system.scheduler.url}/v1/entry?room=lobby", headers=token | {}) as entered:
            assert entered.status == 200
        expired = {"Authorization": f"Bearer {system.token('ann', ttl_s=-60)}"}
        async with http.get(f"{system.scheduler.url}/v1/entry?room=lobby", headers=expired) as refused:
            assert (await refused.json())["code"] == "token_expired"
