"""The whole path on the real Kafka: HTTP in, every viewer's WebSocket out, judged by the ledger."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from cli import danmaku, script
from devstack.system import System
from liveroom.bodies import Danmaku, Gift, Like
from liveroom.chance import Chance
from liveroom.kinds import Kind
from liveroom.records.uplink import Item, Uplink, encode_uplink
from tests.e2e.audience import Audience, knows_gateways, settled
from viewer.ledger import Ledger, Verdict
from viewer.sender import Accepted, Sender, Unknown

FILE = Path(__file__).parents[1] / "data" / "danmaku-130614.xml"
SPEED = 20


@pytest.fixture
async def system(kafka_bootstrap: str, request: pytest.FixtureRequest) -> AsyncIterator[System]:
    """One ingress, one broadcaster, two edges, one scheduler on topics of their own."""
    settings = {"KAFKA__SESSION_TIMEOUT_S": "3"}
    async with System(kafka_bootstrap, prefix=f"e{secrets.token_hex(4)}.", partitions=4, settings=settings) as running:
        await knows_gateways(running, 2)
        yield running


async def test_every_danmaku_gift_and_like_of_a_real_show_reaches_fifty_viewers_on_two_gateways(system: System) -> None:
    ledger = Ledger()
    cues = script.write(danmaku.read_file(FILE).lines, Chance(7))
    async with AsyncExitStack() as stack, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        audience = Audience(system, "show", http, ledger)
        await audience.join(stack, 50)
        assert {viewer.gateway for viewer in audience.viewers} == {"edge-1", "edge-2"}
        await settled(lambda: set(audience.viewers_told) == {(50, 50)})
        assert set(audience.viewers_told) == {(50, 50)}
        outcomes: list[tuple[Kind, str, Accepted]] = []
        began = time.monotonic()
        limit = asyncio.Semaphore(200)

        async def send(cue: script.Cue) -> None:
            await asyncio.sleep(max(0.0, began + cue.at_s / SPEED - time.monotonic()))
            collection = {Kind.DANMAKU: "danmaku", Kind.GIFT: "gifts", Kind.LIKE: "likes"}[cue.kind]
            sender = Sender(system.ingress_url, system.token(cue.user), http)
            async with limit:
                outcome = await sender.send("show", collection, {"id": cue.id} | msgspec.to_builtins(cue.body))
            assert isinstance(outcome, Accepted), (cue, outcome)
            likes = cue.body.count if isinstance(cue.body, Like) else 0
            ledger.accepted("show", cue.id, time.monotonic(), reliable=cue.kind is not Kind.DANMAKU, likes=likes)
            outcomes.append((cue.kind, cue.id, outcome))

        await asyncio.gather(*(send(cue) for cue in cues))
        texts = sum(cue.kind is Kind.DANMAKU for cue in cues)
        gifts = sum(cue.kind is Kind.GIFT for cue in cues)
        likes = sum(cue.body.count for cue in cues if isinstance(cue.body, Like))
        assert texts == 1111
        await settled(lambda: all(len(seen) == texts + gifts for seen in audience.seen) and set(audience.likes) == {likes})
        for seen in audience.seen:
            assert [delivered.message.seq for delivered in seen] == list(range(1, texts + gifts + 1))
            assert [d.message.rseq for d in seen if d.message.rseq] == list(range(1, gifts + 1))
            assert {d.message.id for d in seen} == {cue.id for cue in cues if cue.kind is not Kind.LIKE}
        assert set(audience.likes) == {likes}
        verdict = ledger.verdict(time.monotonic(), settled=True)
        assert verdict.is_clean, verdict
        assert verdict.accepted == len(cues)


async def test_a_plain_kafka_client_may_write_to_uplink(system: System) -> None:
    ledger = Ledger()
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as http:
        audience = Audience(system, "plain", http, ledger)
        await audience.join(stack, 4)
        producer = AIOKafkaProducer(bootstrap_servers=system.kafka_bootstrap)  # its own default partitioner
        await producer.start()
        try:
            topic = f"{system.prefix}uplink"
            await producer.send_and_wait(topic, b"no JSON at all", key=b"plain")
            for number in range(20):
                body = Gift("rose") if number % 2 else Danmaku("こんにちは")
                kind = Kind.GIFT if number % 2 else Kind.DANMAKU
                item = Item(kind, msgspec.Raw(msgspec.json.encode(body)))
                record = Uplink(1, "plain", f"i{number}", "gift-service", int(time.time() * 1000), [item], via="gifts")
                ledger.accepted("plain", record.id, time.monotonic(), reliable=kind is Kind.GIFT)
                await producer.send_and_wait(topic, encode_uplink(record), key=b"plain")
                if kind is Kind.GIFT:
                    await producer.send_and_wait(topic, encode_uplink(record), key=b"plain")  # the same id again
        finally:
            await producer.stop()
        await settled(lambda: all(len(seen) >= 20 for seen in audience.seen))
        for seen in audience.seen:
            assert [delivered.message.id for delivered in seen] == [f"i{number}" for number in range(20)]
        verdict = ledger.verdict(time.monotonic(), settled=True)
        assert verdict.is_clean, verdict
        numbers = await system.broadcasters[0].metrics()
        outcome = {key: value for key, value in numbers.items() if "items_total" in key}
        assert sum(outcome.values()) == 2 * next(value for key, value in outcome.items() if "taken" in key)


async def test_a_gateway_killed_gives_its_viewers_to_the_other_one(system: System) -> None:
    ledger = Ledger()
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as http:
        audience = Audience(system, "kill", http, ledger)
        await audience.join(stack, 20)
        sender = Sender(system.ingress_url, system.token("streamer"), http)
        assert isinstance(await sender.gift("kill", "rose"), Accepted)
        system.edges[0].kill()
        await settled(lambda: all(viewer.is_open and viewer.gateway == "edge-2" for viewer in audience.viewers))
        assert {viewer.gateway for viewer in audience.viewers} == {"edge-2"}
        await asyncio.gather(*(viewer.joined() for viewer in audience.viewers))
        outcome = await sender.gift("kill", "rocket")
        assert not isinstance(outcome, Unknown)
        await settled(lambda: all(seen and seen[-1].message.id == outcome.id for seen in audience.seen))
        assert all(seen[-1].message.id == outcome.id for seen in audience.seen)
        assert verdict_of(ledger).is_clean, verdict_of(ledger)


def verdict_of(ledger: Ledger) -> Verdict:
    return ledger.verdict(time.monotonic(), settled=True)
