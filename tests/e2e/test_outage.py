"""Kafka fails in mid-run: 503 within 3 s, nothing accepted is lost, the system recovers."""

import asyncio
import secrets
import time
from contextlib import AsyncExitStack

import aiohttp
import pytest

from devstack.local_kafka import LocalKafka
from devstack.system import System
from tests.e2e.audience import Audience, knows_gateways, settled
from viewer.ledger import Ledger
from viewer.sender import Accepted, Sender, Unknown

BUDGET_S = 3.0


@pytest.mark.fault
async def test_kafka_stopped_in_mid_run_gives_503_within_3_s_and_everything_goes_on_when_it_is_back() -> None:
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        kafka = await stack.enter_async_context(LocalKafka())
        settings = {"KAFKA__SESSION_TIMEOUT_S": "3"}
        prefix = f"o{secrets.token_hex(4)}."
        system = await stack.enter_async_context(System(kafka.bootstrap, prefix=prefix, partitions=2, settings=settings))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        await knows_gateways(system, 2)
        audience = Audience(system, "outage", http, ledger)
        await audience.join(stack, 6)
        once = Sender(system.ingress_url, system.token("giver"), http, retries=0)

        async def give(sender: Sender) -> Accepted | Unknown:
            outcome = await sender.gift("outage", "rose")
            assert isinstance(outcome, Accepted | Unknown), outcome
            if isinstance(outcome, Accepted):
                ledger.accepted("outage", outcome.id, time.monotonic(), reliable=True)
            return outcome

        assert isinstance(await give(once), Accepted)
        await kafka.stop_broker()
        began = time.monotonic()
        while time.monotonic() - began < 4:
            asked = time.monotonic()
            assert isinstance(await give(once), Unknown)
            assert time.monotonic() - asked < BUDGET_S
        waiting = [
            asyncio.create_task(give(Sender(system.ingress_url, system.token(f"w{i}"), http, retries=30))) for i in range(5)
        ]
        await kafka.start_broker()
        assert all(isinstance(outcome, Accepted) for outcome in await asyncio.gather(*waiting))
        last = await give(Sender(system.ingress_url, system.token("last"), http, retries=30))
        await settled(lambda: all(seen and seen[-1].message.id == last.id for seen in audience.seen), 30)
        await settled(lambda: ledger.verdict(time.monotonic(), settled=True).is_clean)
        verdict = ledger.verdict(time.monotonic(), settled=True)
        assert verdict.is_clean, verdict
        assert verdict.accepted == 7
        for service in system.services:
            assert service.running, service.name
