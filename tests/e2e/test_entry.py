"""The entry with several schedulers: one may die."""

import asyncio
import secrets
import signal
from contextlib import AsyncExitStack

import aiohttp
import pytest

from devstack.system import System
from liveroom.records.codec import JsonReader
from liveroom.records.control import Presence
from tests.e2e.audience import Audience, knows_gateways, settled
from tests.log import read_all
from viewer.client import Viewer
from viewer.ledger import Ledger
from viewer.sender import Accepted, Sender

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


async def test_a_scheduler_is_killed_and_nobody_notices(kafka_bootstrap: str) -> None:
    prefix = f"s{secrets.token_hex(4)}."
    async with (
        System(kafka_bootstrap, prefix=prefix, partitions=2, edges=2, schedulers=2) as system,
        aiohttp.ClientSession() as http,
        AsyncExitStack() as stack,
    ):
        await knows_gateways(system, 2)
        audience = Audience(system, "lobby", http, Ledger())
        await audience.join(stack, 10)
        system.schedulers[0].kill(signal.SIGKILL)
        await system.schedulers[0].ended()
        await audience.join(stack, 20)
        assert len(audience.viewers) == 30
        answer = await Sender(system.ingress_url, system.token("ann"), http).gift("lobby", "rose")
        assert isinstance(answer, Accepted)
        await settled(lambda: all(audience.seen))
        assert all(len(seen) == 1 for seen in audience.seen), "those who were in, and those who came"
        told = [await edge.metrics() for edge in system.edges]
        assert sum(each['liveroom_edge_joins_total{outcome="joined"}'] for each in told) == 30, "nobody came twice"
        await system.schedulers[0].start_ready()
        await knows_gateways(system, 2)
        await audience.join(stack, 5)


async def test_two_schedulers_do_not_overbook_the_last_seats(kafka_bootstrap: str) -> None:
    """Two gateways of 30 seats, two schedulers, 60 viewers at once: each finds its seat, few knock
    at a full door.
    """
    async with (
        System(
            kafka_bootstrap,
            prefix=f"s{secrets.token_hex(4)}.",
            partitions=2,
            edges=2,
            schedulers=2,
            settings={"MAX_CONNECTIONS": "30"},
        ) as system,
        aiohttp.ClientSession() as http,
        AsyncExitStack() as stack,
    ):
        await knows_gateways(system, 2)
        audience = Audience(system, "lobby", http, Ledger())
        async with asyncio.timeout(40):
            await audience.join(stack, 60)
        async with asyncio.timeout(10):
            while [(await edge.metrics())["liveroom_edge_connections"] for edge in system.edges] != [30, 30]:  # noqa: ASYNC110 - their metrics are all there is to ask
                await asyncio.sleep(0.1)
        told = [await edge.metrics() for edge in system.edges]
        refused = sum(each.get('liveroom_edge_upgrades_refused_total{code="full"}', 0.0) for each in told)
        assert refused <= 6, "knocks at a full gateway"


async def test_gateways_count_the_devices_of_a_room(kafka_bootstrap: str) -> None:
    prefix = f"s{secrets.token_hex(4)}."
    async with (
        System(kafka_bootstrap, prefix=prefix, partitions=2, edges=1) as system,
        aiohttp.ClientSession() as http,
        AsyncExitStack() as stack,
    ):
        await knows_gateways(system, 1)
        tv = system.token("ann", device="tv")
        for token, device in [(system.token("ann"), "phone"), (system.token("ann"), "phone"), (tv, "phone"), (None, "phone")]:
            viewer = Viewer(system.scheduler_url, ["lobby"], http=http, token=token, device=device)
            await (await stack.enter_async_context(viewer)).joined()

        async def newest() -> tuple[int, int | None, int]:
            records = await read_all(kafka_bootstrap, f"{prefix}presence", range(2))
            told = JsonReader(Presence).read(max(records, key=lambda record: record.timestamp).value)
            return told.users, told.devices, told.connections

        async with asyncio.timeout(20):
            while await newest() != (2, 3, 4):  # noqa: ASYNC110 - a topic tells nobody
                await asyncio.sleep(0.2)
