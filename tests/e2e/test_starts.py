"""Starts against a real Kafka that is away, refuses the password, or has other topics."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from devstack.local_kafka import LocalKafka
from devstack.processes import Service
from devstack.system import System
from liveroom.kafka import ensure_topics, probe_brokers
from liveroom.kafka_port import AioKafka
from liveroom.settings import KafkaSettings
from tests.locked_kafka import PLAIN, LockedKafka

OF_ROOMS = ["broadcaster", "edge", "ingress"]  # the others use topics of one partition alone
MODULES = ["autoscaler", "broadcaster", "edge", "ingress", "scheduler"]


@pytest.fixture
async def locked() -> AsyncIterator[LockedKafka]:
    async with LockedKafka(PLAIN) as kafka:
        yield kafka


@pytest.fixture
async def kafka() -> AsyncIterator[LocalKafka]:
    async with LocalKafka() as kafka:
        yield kafka


def service(module: str, folder: Path, bootstrap: str, more: Mapping[str, str]) -> Service:
    """Return a service that has all settings that any of them needs."""
    settings = {
        "LIVEROOM_KAFKA__BOOTSTRAP": bootstrap,
        "LIVEROOM_TOKEN_KEY": "a" * 32,
        "LIVEROOM_TICKET_KEYS": json.dumps({"k1": "a" * 32}),
        "LIVEROOM_LOCAL_FOLDER": str(folder / "pool"),
        "LIVEROOM_LOG_FORMAT": "json",
    }
    return Service(module, module, folder, settings | dict(more))


async def ends_with(one: Service, said: str) -> None:
    """Have a service start; assert that it ends with 1 and one line that says why, and no
    traceback.
    """
    await one.start()
    try:
        code = await asyncio.wait_for(one.ended(), 60)
    finally:
        await one.stop(0)
    text = await asyncio.to_thread(one.log.read_text)
    last = [json.loads(line) for line in text.splitlines()][-1]
    assert (code, last["event"], said in last["error"]) == (1, "cannot_start", True), text
    assert "Traceback" not in text


async def test_a_wrong_password_ends_every_service_with_one_line(locked: LockedKafka, tmp_path: Path) -> None:
    names = {"SECURITY": "SASL_PLAINTEXT", "SASL_MECHANISM": "PLAIN", "USERNAME": "liveroom", "PASSWORD": "wrong"}
    wrong = {f"LIVEROOM_KAFKA__{name}": value for name, value in names.items()}
    said = f"no connection to the broker at {locked.locked}: [Error 58] SaslAuthenticationFailed"
    await asyncio.gather(*(ends_with(service(module, tmp_path, locked.locked, wrong), said) for module in MODULES))
    right = {name.lower(): value for name, value in names.items()} | {"password": "right"}
    kafka = AioKafka(KafkaSettings(bootstrap=locked.locked, **right))
    await probe_brokers(kafka)
    await ensure_topics(kafka)
    without = wrong | {"LIVEROOM_KAFKA__PASSWORD": ""}
    said = "SASL_PLAINTEXT needs a user and a password: LIVEROOM_KAFKA__PASSWORD must not be empty"
    await asyncio.gather(*(ends_with(service(module, tmp_path, locked.locked, without), said) for module in MODULES))


async def test_topics_with_other_partitions_end_services_that_use_them(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    await ensure_topics(AioKafka(kafka_settings))
    more = {"LIVEROOM_KAFKA__PREFIX": kafka_settings.prefix, "LIVEROOM_KAFKA__PARTITIONS": "3"}
    said = "has 4 partitions, the setting kafka.partitions says 3"
    await asyncio.gather(*(ends_with(service(module, tmp_path, kafka_settings.bootstrap, more), said) for module in OF_ROOMS))


async def test_services_that_start_before_the_broker_wait_and_are_ready_once_it_is_there(kafka: LocalKafka) -> None:
    await kafka.stop_broker()
    system = System(kafka.bootstrap, prefix=f"p{secrets.token_hex(4)}.", partitions=2, edges=1, autoscalers=1)
    starting = asyncio.create_task(system.start())
    try:
        waiting = await waiting_for_the_broker(system, kafka.bootstrap)
        await kafka.start_broker()
        await starting
        assert waiting == {one.name for one in system.services}
        assert [one.name for one in system.services if not one.running] == []
    finally:
        starting.cancel()
        await asyncio.wait({starting})
        await system.stop()
    assert [str(death) for death in system.deaths] == []


async def waiting_for_the_broker(system: System, bootstrap: str) -> set[str]:
    """Wait until every service says that it waits for the broker; return their names."""
    waiting: set[str] = set()
    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        while not system.services or len(waiting) < len(system.services):
            for one in system.services:
                try:
                    async with http.get(f"{one.internal_url}/readyz") as answer:
                        if f"kafka: no connection to the broker at {bootstrap}" in await answer.text():
                            waiting.add(one.name)
                except aiohttp.ClientError:
                    pass  # it does not listen yet
            await asyncio.sleep(0.05)
    return waiting
