"""Sections that must be understood: the last release refuses them, loudly, and loses nothing."""

import asyncio
import json
import secrets
import time
from contextlib import AsyncExitStack

import aiohttp
import pytest

from devstack.builds import ROOT, Build
from devstack.processes import Service
from devstack.system import System
from liveroom import metric_catalog
from liveroom.records.codec import BadRecord
from tests.e2e.audience import Audience, knows_gateways, settled
from tests.upgrade.tagged import build_of, last_release
from viewer.ledger import Ledger
from viewer.sender import Accepted, Sender

pytestmark = pytest.mark.kafka
ROOM = "lobby"
DEMANDING = Build("a build that demands", ROOT, launcher="tests.upgrade.demanding_build")
UNREADABLE = f'{metric_catalog.BAD_RECORDS.name}{{reason="{BadRecord.UNKNOWN_SECTION.value}",topic="broadcast"}}'
REFUSED = f'{metric_catalog.TAKEOVERS.name}{{reason="another_version"}}'


async def starts_with(service: Service, build: Build) -> None:
    """Start a service again with another build."""
    assert await service.stop() == 0
    service.build = build
    await service.start()


async def counts(service: Service, metric: str) -> None:
    """Wait until a service has counted something under this metric."""
    async with asyncio.timeout(20):
        while True:
            try:
                if (await service.metrics()).get(metric, 0):
                    return
            except aiohttp.ClientError:  # it is starting
                assert service.running, await service.tail()
            await asyncio.sleep(0.1)


def events(service: Service) -> list[str]:
    """Return the names of what a service logged."""
    return [json.loads(line)["event"] for line in service.log.read_text().splitlines()]


async def test_what_must_be_understood_is_refused_by_the_last_release_and_nothing_is_lost(kafka_bootstrap: str) -> None:
    async with AsyncExitStack() as stack:
        settings = {"KAFKA__SESSION_TIMEOUT_S": "3"}
        old = build_of(last_release())
        prefix = f"d{secrets.token_hex(4)}."
        system = System(kafka_bootstrap, prefix=prefix, partitions=1, edges=1, settings=settings, build=old)
        await stack.enter_async_context(system)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        await knows_gateways(system, 1)
        broadcaster, edge = system.broadcasters[0], system.edges[0]
        ledger = Ledger()
        audience = Audience(system, ROOM, http, ledger)
        await audience.join(stack, 1)
        sender = Sender(system.ingress_url, system.token("giver"), http)
        given: list[str] = []

        async def give() -> None:
            outcome = await sender.gift(ROOM, "rose")
            assert isinstance(outcome, Accepted), outcome
            ledger.accepted(ROOM, outcome.id, time.monotonic(), reliable=True)
            given.append(outcome.id)

        await give()
        await settled(lambda: len(audience.seen[0]) == 1)

        await starts_with(broadcaster, DEMANDING)
        await broadcaster.ready()
        await give()
        await counts(edge, UNREADABLE)
        assert "bad_record" in events(edge)

        await starts_with(broadcaster, old)
        await counts(broadcaster, REFUSED)
        assert "partition_refused" in events(broadcaster)
        await give()
        assert len(audience.seen[0]) == 1, "nothing that was refused is shown"

        await starts_with(broadcaster, DEMANDING)
        await starts_with(edge, DEMANDING)
        await settled(lambda: len(audience.seen[0]) == len(given), 30)
        assert [delivered.message.id for delivered in audience.seen[0]] == given
        assert {delivered.epoch for delivered in audience.seen[0]} == {audience.seen[0][0].epoch}, "no history was lost"
        verdict = ledger.verdict(time.monotonic(), settled=True)
        assert verdict.is_clean, verdict
        assert not {"history_lost", "room_lost", "service_failed", "dead_letter"} & {*events(broadcaster), *events(edge)}
