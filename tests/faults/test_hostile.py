"""Deeply nested bodies, a damaged history, records of other partitions: no process ends."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from ingress.requests import MAX_BULK_DEPTH
from liveroom import metric_catalog
from liveroom.kinds import Kind, Role
from liveroom.nesting import MAX_DEPTH
from liveroom.records.broadcast import Batch, BatchParts, RoomFlags, decode_broadcast, encode_batch
from liveroom.records.codec import JsonReader
from liveroom.records.uplink import DeadLetter
from liveroom.topics import BROADCAST, DEAD_LETTER, partition_of, room_hash
from liveroom.wire import SUBPROTOCOL
from tests.e2e.harness import Stage, seen, staged
from tests.faults.judge import POISON
from tests.faults.show import PARTITIONS, ROOMS, Show, show
from tests.log import read_all

pytestmark = pytest.mark.fault
ROOM = ROOMS[0]
CLOSED = "closed"  # where the records of these kinds go
DEPTHS = range(1, 2001)
SOME_DEPTHS = (1, 2, *range(MAX_DEPTH - 2, MAX_DEPTH + 3), 100, 500, *range(960, 1000), 1500, 2000)
CHECKED = {Kind.MUTE, Kind.UNMUTE, Kind.BAN, Kind.UNBAN, Kind.KICK}  # take no body without a user
NEEDED = {  # fields without which a body is not of its kind
    Kind.DANMAKU: '"text":"t",',
    Kind.GIFT: '"gift":"rose",',
    Kind.ANNOUNCEMENT: '"text":"t",',
    Kind.RED_PACKET: '"packet":"p",',
    Kind.COUPON: '"coupon":"c",',
    Kind.GOODS: '"goods":"g","title":"t",',
}
ELSEWHERE = {Kind.DISSOLVE, Kind.REOPEN, Kind.LIKE}  # they shut the room, or add to a sum that the ledger holds


def arrays(depth: int) -> str:
    return "[" * depth + "]" * depth


def objects(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def both(depth: int) -> str:
    opened = "".join('{"a":' if level % 2 else "[" for level in range(depth))
    return opened + "1" + "".join("}" if level % 2 else "]" for level in reversed(range(depth)))


SHAPES = (arrays, objects, both)


class Attacker:
    """Sends bodies of any depth through the ingress. `accepted`: the ids that got a 202."""

    def __init__(self, running: Show, http: aiohttp.ClientSession) -> None:
        self.accepted: list[str] = []
        self._url = running.system.ingress_url
        self._http = http
        head = {"Content-Type": "application/json"}
        self._viewer = head | {"Authorization": f"Bearer {running.system.token('deep')}"}
        self._service = head | {"Authorization": f"Bearer {running.system.token('backend', Role.SERVICE)}"}
        self._free = asyncio.Semaphore(20)

    async def attack(self) -> None:
        """Send every depth in every shape as a viewer does; some by all paths, and in bulk as a
        service does.
        """
        for shape in SHAPES:
            await asyncio.gather(*(self._send("custom", shape, depth) for depth in DEPTHS))
            for path in ("danmaku", "gifts", "likes", "packages"):
                await asyncio.gather(*(self._send(path, shape, depth) for depth in SOME_DEPTHS))
            await self._send_bulk(shape, range(1, 200))
            await self._send_bulk(shape, range(1980, 2000))

    async def _send(self, path: str, shape: Callable[[int], str], depth: int) -> None:
        body = f'{{"type":"t","body":{shape(depth)}}}'
        if path == "packages":
            body = f'{{"package":"p","items":[{{"kind":"custom","data":{body}}}]}}'
        id_ = f"{path}-{shape.__name__}-{depth}"
        head = self._viewer | {"Idempotency-Key": id_}
        async with self._free, self._http.post(f"{self._url}/v1/rooms/{ROOM}/{path}", data=body, headers=head) as answer:
            is_good = depth < MAX_DEPTH and path in {"custom", "packages"}
            assert answer.status == (202 if is_good else 422), (id_, await answer.text())
        if is_good:
            self.accepted.append(id_)

    async def _send_bulk(self, shape: Callable[[int], str], depths: range) -> None:
        items = ",".join(
            f'{{"room":"{ROOM}","user":"deep","id":"b-{shape.__name__}-{depth}","kind":"custom",'
            f'"data":{{"type":"t","body":{shape(depth)}}}}}'
            for depth in depths
        )
        body = f'{{"items":[{items}]}}'
        async with self._http.post(f"{self._url}/v1/interactions", data=body, headers=self._service) as answer:
            told = await answer.json()
            assert answer.status == (200 if depths.stop <= MAX_BULK_DEPTH else 422), told
        for depth, result in zip(depths, told.get("items", ()), strict=answer.status == 200):
            assert result.get("code", "") == ("" if depth < MAX_DEPTH else "schema"), (depth, result)
            if "id" in result:
                self.accepted.append(result["id"])


def records() -> Iterator[tuple[str, str, int]]:
    """Give (room, record, depth of its data) as a service with credentials of its own could write
    them into the uplink.
    """
    for kind in Kind:
        for shape in SHAPES:
            for depth in DEPTHS if kind is Kind.CUSTOM else SOME_DEPTHS:
                data = f'{{{NEEDED.get(kind, "")}"a":{shape(depth - 1) if depth > 1 else 1}}}'
                room = CLOSED if kind in ELSEWHERE else ROOM
                id_ = POISON if kind in CHECKED else f"u-{kind.value}-{shape.__name__}-{depth}"
                items = f'[{{"kind":"{kind.value}","data":{data}}}]'
                yield room, f'{{"v":1,"room":"{room}","id":"{id_}","user":"up","at_ms":1,"items":{items}}}', depth


async def pulled(running: Show, http: aiohttp.ClientSession) -> set[str]:
    """Return the ids of all messages of the room, read as a viewer pulls them."""
    system = running.system
    head = {"Authorization": f"Bearer {system.token('puller')}"}
    async with http.get(f"{system.scheduler_url}/v1/entry", params={"room": ROOM}, headers=head) as answer:
        entry = await answer.json()
    url = entry["gateways"][0]["url"]
    ids: set[str] = set()
    async with http.ws_connect(f"{url}?ticket={entry['ticket']}", protocols=[SUBPROTOCOL]) as socket:
        hello = json.loads(await socket.receive_str())
        pull = url.replace("ws://", "http://").replace("/v1/live", f"/v1/rooms/{ROOM}/messages")
        asked: dict[str, str] = {"after_seq": "0"}
        while True:
            async with http.get(pull, params=asked, headers={"Authorization": f"Bearer {hello['pull']}"}) as answer:
                if answer.status == 429:
                    await asyncio.sleep(float(answer.headers["Retry-After"]))
                    continue
                assert answer.status == 200, await answer.text()
                told = await answer.json()
            ids |= {message["id"] for message in told["messages"]}
            if not told.get("more"):
                return ids
            asked = {"after_seq": str(told["seq"]), "pos": told["pos"]}


async def clear(running: Show, http: aiohttp.ClientSession) -> None:
    """Delete a message that is not there: the owner compares it with all that it holds of the
    room.
    """
    url = f"{running.system.ingress_url}/v1/rooms/{ROOM}/clears"
    head = {"Authorization": f"Bearer {running.system.token('host', Role.STREAMER, rooms=(ROOM,))}"}
    async with http.post(url, json={"user": "nobody", "message": "nobody-s"}, headers=head) as answer:
        assert answer.status == 202


async def letters_of(running: Show, expected: int) -> Counter[str]:
    """Return how many dead letters have which reason, once there are so many, or after a minute."""
    counts: Counter[str] = Counter()
    reader = JsonReader(DeadLetter)
    topic = f"{running.system.prefix}{DEAD_LETTER.name}"
    end = time.monotonic() + 60
    bootstrap = running.system.kafka_bootstrap
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        while counts.total() < expected and time.monotonic() < end:
            for found in (await consumer.getmany(timeout_ms=500)).values():
                counts.update(reader.read(record.value).reason for record in found)
    return counts


async def test_no_depth_of_nesting_ends_anything(kafka_bootstrap: str) -> None:
    async with show(kafka_bootstrap, broadcasters=1) as running, aiohttp.ClientSession() as http:
        system = running.system
        others = {service.name: service.pid for service in system.services if service is not system.broadcasters[0]}
        attacker = Attacker(running, http)
        await attacker.attack()
        too_deep = bad_body = 0
        written: list[str] = []
        for room, value, depth in records():
            await running.write(value.encode(), room)
            too_deep += depth > MAX_DEPTH
            bad_body += depth <= MAX_DEPTH and POISON in value
            if depth <= MAX_DEPTH and room == ROOM and POISON not in value:
                written.append(json.loads(value)["id"])
        letters = await letters_of(running, too_deep + bad_body)
        assert letters == {"too_deep": too_deep, "schema": bad_body}

        await clear(running, http)
        owner = system.broadcasters[0]
        before = (await owner.metrics())[metric_catalog.SNAPSHOTS.name]
        async with asyncio.timeout(20):
            while (await owner.metrics())[metric_catalog.SNAPSHOTS.name] < before + PARTITIONS:  # noqa: ASYNC110 - asked of a process
                await asyncio.sleep(0.2)
        await clear(running, http)
        assert owner.running, "it has ended by itself"
        owner.kill()
        await owner.ended()
        await owner.start_ready()
        ids = await pulled(running, http)
        lost = {id_ for id_ in (*attacker.accepted, *written) if id_ not in ids and f"{id_}#0" not in ids}
        assert not lost, sorted(lost)[:5]
        assert {service.name: service.pid for service in system.services if service is not owner} == others
        measured = await owner.metrics()
        assert measured[metric_catalog.BALANCE_OFF.name] == 0
        assert measured[f'{metric_catalog.HISTORY_LOST.name}{{reason="room"}}'] == 0


async def test_a_gift_in_a_wrong_partition_is_put_aside_and_viewers_miss_nothing(kafka_bootstrap: str) -> None:
    async with show(kafka_bootstrap, broadcasters=2) as running:
        data = '{"gift":"rose"}'
        for number in range(20):
            for room in ROOMS:
                right = partition_of(room, PARTITIONS)
                for partition in set(range(PARTITIONS)) - {right}:
                    items = f'[{{"kind":"gift","data":{data}}}]'
                    value = f'{{"v":1,"room":"{room}","id":"w{number}","user":"up","at_ms":1,"items":{items}}}'
                    await running.write(value.encode(), room, partition)
            await asyncio.sleep(0.05)
        expected = 20 * len(ROOMS) * (PARTITIONS - 1)
        assert await letters_of(running, expected) == {"wrong_partition": expected}
        victim = running.system.broadcasters[0]
        victim.kill()
        await victim.ended()
        await victim.start_ready()


async def damage(stage: Stage, room: str) -> None:
    """Write a batch in the name of its partition's owner whose part of a room nobody can read."""
    prefix, bootstrap = stage.system.prefix, stage.system.kafka_bootstrap
    partition = partition_of(room, 2)
    records = [decode_broadcast(record.value) for record in await read_all(bootstrap, f"{prefix}{BROADCAST.name}", [partition])]
    batches = [record for record in records if isinstance(record, Batch)]
    (*_, part) = (entry for batch in batches for entry, _ in batch.rooms() if entry.hash == room_hash(room))
    last, payload = batches[-1], b"\xff" * 40
    entry = part._replace(
        first=part.last + 1,
        last=part.last + 1,
        rseq=part.rseq + 1,
        size=len(payload),
        reliable_size=len(payload),
        flags=int(RoomFlags.DEFLATED),
    )
    writer = last.stamp.epoch, last.stamp.owner, last.stamp.serial + 1, last.anchor, last.pos, last.at_ms
    value = encode_batch(BatchParts(*writer, 0, [(entry, payload)], clock_ms=last.clock_ms, balance=last.balance))
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        await producer.send_and_wait(f"{prefix}{BROADCAST.name}", value, partition=partition)


async def test_a_room_whose_history_is_damaged_stands_beside_healthy_ones_that_go_on(kafka_bootstrap: str) -> None:
    sick = "sick"
    well = next(name for name in map("well-{}".format, range(100)) if partition_of(name, 2) == partition_of(sick, 2))
    async with staged(kafka_bootstrap, ingresses=1) as stage:
        screens = {room: await stage.watch(room, f"v-{room}") for room in (sick, well)}

        async def give(id_: str) -> None:
            for room in screens:
                answer = await stage.call(
                    "POST", f"rooms/{room}/gifts", {"gift": "rose", "id": id_}, user="ann", role=Role.VIEWER
                )
                assert answer.status == 202

        await give("before")
        await seen(lambda: all(screen.shows(Kind.GIFT, "before") for screen in screens.values()))
        owner = stage.system.broadcasters[0]
        owner.kill()
        await owner.ended()
        await damage(stage, sick)  # its last append, which arrives late
        await give("during")
        await owner.start_ready()
        await seen(lambda: screens[well].shows(Kind.GIFT, "during"))
        await give("after")
        await seen(lambda: screens[well].shows(Kind.GIFT, "after"))
        await seen(lambda: screens[sick].shows(Kind.GIFT, "after"), timeout_s=60)  # its viewer was put out by what it got
        assert (screens[well].renumbered, screens[sick].renumbered) == (0, 1)
        assert all(service.running for service in stage.system.services)
        assert (await owner.metrics())[f'{metric_catalog.HISTORY_LOST.name}{{reason="room"}}'] == 1
