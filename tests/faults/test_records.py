"""Records that nobody can use are put aside with a reason and counted, and nothing stops."""

import asyncio

import aiohttp
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

from liveroom import metric_catalog
from liveroom.kinds import Kind
from liveroom.records.codec import JsonReader
from liveroom.records.uplink import DeadLetter, Item, Uplink, encode_uplink
from liveroom.topics import DEAD_LETTER
from tests.faults.show import ROOMS, Show, show

pytestmark = pytest.mark.fault


def record(**changes: object) -> bytes:
    known = Uplink(1, ROOMS[0], "poison", "u", 1, [Item(Kind.DANMAKU)])
    return msgspec.json.encode(msgspec.structs.replace(known, **changes))


POISON: dict[str, list[tuple[bytes | None, str]]] = {
    "undecodable": [(b"\xff\x00 not JSON", ROOMS[0]), (None, ROOMS[1])],
    "too_deep": [(b'{"x":' + b"[" * 9000, ROOMS[0])],
    "version": [(record(v=2), ROOMS[0])],
    "schema": [
        (b"{}", ROOMS[0]),
        (record(items=[Item(Kind.LIKE, msgspec.Raw(b'{"count":-1}'))]), ROOMS[0]),
        (record(items=[Item(Kind.GIFT, msgspec.Raw(b'{"gift":""}'))]), ROOMS[0]),
        (record(items=[Item(Kind.GIFT, msgspec.Raw(b'""'))]), ROOMS[0]),
    ],
    "unknown": [(record().replace(b'"danmaku"', b'"vote"'), ROOMS[0])],
    "wrong_key": [(record(), ROOMS[1])],
    "too_large": [(record(items=[Item(Kind.CUSTOM, msgspec.Raw(b'{"x":"%s"}' % (b"x" * 70_000)))]), ROOMS[0])],
}


async def dead_letters(running: Show) -> list[DeadLetter]:
    """Read what was put aside."""
    consumer = AIOKafkaConsumer(
        f"{running.system.prefix}{DEAD_LETTER.name}",
        bootstrap_servers=running.system.kafka_bootstrap,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        reader = JsonReader(DeadLetter)
        fetched = await consumer.getmany(timeout_ms=2000)
        return [reader.read(record.value) for records in fetched.values() for record in records]
    finally:
        await consumer.stop()


async def test_poison_is_put_aside_with_the_reason_and_stops_nothing(kafka_bootstrap: str) -> None:
    async with show(kafka_bootstrap) as running:
        for values in POISON.values():
            for value, room in values:
                await running.write(value, room)
        await asyncio.sleep(3)
        letters = await dead_letters(running)
        measured = await running.system.broadcasters[0].metrics()
        assert measured[metric_catalog.BALANCE_OFF.name] == 0
    for reason, values in POISON.items():
        assert measured[f'{metric_catalog.DEAD_LETTERS.name}{{reason="{reason}"}}'] == len(values)
        found = [letter for letter in letters if letter.reason == reason]
        assert len(found) == len(values), reason
        assert all(letter.detail for letter in found)


async def test_a_record_too_large_is_refused_at_the_ingress(kafka_bootstrap: str) -> None:
    async with show(kafka_bootstrap) as running, aiohttp.ClientSession() as http:
        system = running.system
        head = {"Authorization": f"Bearer {system.token('large')}"}
        async with http.post(
            f"{system.ingress_url}/v1/rooms/{ROOMS[0]}/danmaku", json={"text": "x" * 70_000}, headers=head
        ) as answer:
            assert answer.status == 413
            assert (await answer.json())["code"] == "too_large"


def test_what_the_ingress_accepts_at_most_is_what_a_record_may_hold() -> None:
    text = "\N{PILE OF POO}" * 200
    item = Item(Kind.DANMAKU, msgspec.Raw(msgspec.json.encode({"text": text})))
    assert encode_uplink(Uplink(1, ROOMS[0], "i" * 64, "u" * 64, 2**53, [item], name="\N{PILE OF POO}" * 64))
