"""Whoever may watch can name any room, and a host any user: honest users notice nothing, and what
the services keep stays within its caps.
"""

import asyncio
import secrets
from contextlib import AsyncExitStack

import aiohttp
import msgspec
from aiokafka import AIOKafkaProducer

from devstack.processes import Service
from devstack.system import System
from liveroom import topics
from liveroom.kinds import Kind, Role
from liveroom.topics import partition_of, rule_key
from tests.e2e.audience import knows_gateways
from tests.e2e.harness import Screen, Stage, seen, staged
from tests.log import read_all
from viewer.client import Viewer

ROOMS_OF_PARTITION = 20
ROOMS_OF_GATEWAY = 60
ROOMS_OF_ADDRESS = 24  # that nobody ever spoke in
ROOMS_OF_USER = 16
GUESTS = 10
ROOMS = 8  # of one connection


async def figure(service: Service, name: str) -> float:
    """The sum of a metric over its labels."""
    metrics = await service.metrics()
    return sum(value for sample, value in metrics.items() if sample.partition("{")[0] == f"liveroom_{name}")


async def seen_metric(service: Service, name: str, value: float) -> None:
    """Wait until a metric has a value."""
    async with asyncio.timeout(10):
        while await figure(service, name) != value:  # noqa: ASYNC110 - its metrics are all there is to ask
            await asyncio.sleep(0.1)


def texts(screen: Screen) -> set[str]:
    """What a viewer has read of everybody."""
    return {str(msgspec.json.decode(message.data)["text"]) for message in screen.messages.values()}


async def test_guests_that_invent_rooms_fill_neither_a_gateway_nor_a_broadcaster(kafka_bootstrap: str) -> None:
    settings = {
        "broadcaster": {"MAX_PARTITION_ROOMS": str(ROOMS_OF_PARTITION), "SNAPSHOT_INTERVAL_S": "1"},
        "edge": {
            "MAX_LOCAL_ROOMS": str(ROOMS_OF_GATEWAY),
            "MAX_USER_ROOMS": str(ROOMS_OF_USER),
            "MAX_ADDRESS_QUIET_ROOMS": str(ROOMS_OF_ADDRESS),
            "PROXIES": '["127.0.0.0/8"]',
        },
    }
    async with (
        System(
            kafka_bootstrap, prefix=f"a{secrets.token_hex(4)}.", partitions=1, edges=1, ingresses=1, settings_of=settings
        ) as system,
        aiohttp.ClientSession(headers={"X-Forwarded-For": "203.0.113.9"}) as http,
        aiohttp.ClientSession(headers={"X-Forwarded-For": "203.0.113.1"}) as elsewhere,
        AsyncExitStack() as stack,
    ):
        await knows_gateways(system, 1)
        stage = Stage(system, elsewhere, stack)
        (edge,), (broadcaster,) = system.edges, system.broadcasters

        async def attack(attackers: AsyncExitStack, token: str | None) -> Screen:
            screen, rooms = Screen(), [f"x{secrets.token_hex(8)}" for _ in range(ROOMS)]
            await attackers.enter_async_context(
                Viewer(system.scheduler_url, rooms, http=http, token=token, on_effect=screen.on_effect)
            )
            await seen(lambda: screen.entered + len(screen.errors) >= ROOMS)
            return screen

        honest = await stage.watch("show", "anna")
        assert (await stage.say("show", "bob", "before")).status == 202
        async with AsyncExitStack() as attackers:
            mallory = [await attack(attackers, system.token("mallory")) for _ in range(3)]
            assert [screen.entered for screen in mallory] == [ROOMS, ROOMS, 0]
            assert set(mallory[2].errors) == {"too_many_rooms"}
            guests = [await attack(attackers, None) for _ in range(GUESTS)]
            assert {error for screen in guests for error in screen.errors} <= {"full", "rate_address"}
            await seen_metric(edge, "edge_rooms_quiet", ROOMS_OF_ADDRESS)
            limited = await figure(edge, "edge_limited_total") + await figure(edge, "edge_rooms_evicted_total")
            assert limited >= (3 + GUESTS) * ROOMS - ROOMS_OF_ADDRESS
            late = await stage.watch("show", "carol")
            assert late.entered
            assert not late.errors
            for number in range(5):
                assert (await stage.say("show", "bob", f"amid {number}")).status == 202
            said = {f"amid {number}" for number in range(5)}
            await seen(lambda: said <= texts(honest) & texts(late))
            assert await figure(broadcaster, "broadcaster_rooms_silent") <= ROOMS_OF_PARTITION
            assert await figure(broadcaster, "broadcaster_rooms") <= ROOMS_OF_PARTITION + 1
            assert await figure(broadcaster, "broadcaster_rooms_limited_total") > 0
        new = await stage.watch("new", "dave")
        assert (await stage.say("new", "bob", "hello")).status == 202
        await seen(lambda: new.shows(Kind.DANMAKU))
        assert (await stage.say("show", "bob", "after")).status == 202
        await seen(lambda: texts(honest) == {"before", *said, "after"})
        assert (honest.renumbered, late.renumbered, new.renumbered) == (0, 0, 0)


async def test_a_withdrawal_that_hits_a_mute_neither_lifts_it_nor_takes_it_out_of_the_log(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        muted = await stage.call("POST", "rooms/lobby/mutes", {"user": "rude"}, user="star", role=Role.STREAMER)
        assert muted.status == 202
        key, topic = rule_key("lobby", "mute", "rude"), f"{stage.system.prefix}{topics.MODERATION.name}"
        partition = partition_of(key.decode(), stage.system.partitions)
        producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
        await producer.start()
        try:
            await producer.send_and_wait(topic, None, key=key, partition=partition)
        finally:
            await producer.stop()

        async def last() -> bytes | None:
            records = await read_all(kafka_bootstrap, topic, [partition])
            value: bytes | None = [record for record in records if record.key == key][-1].value
            return value

        async with asyncio.timeout(20):
            while await last() is None:  # noqa: ASYNC110 - a log is read
                await asyncio.sleep(0.2)
        for ingress in (0, 1):
            assert (await stage.say("lobby", "rude", ingress=ingress)).code == "muted"
        repeated = [await figure(ingress, "ingress_rules_repeated_total") for ingress in stage.system.ingresses]
        assert sum(repeated) >= 1
        lifted = await stage.call("DELETE", "rooms/lobby/mutes/rude", user="star", role=Role.STREAMER)
        assert lifted.status == 202
        assert (await stage.say("lobby", "rude")).status == 202
