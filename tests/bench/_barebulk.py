"""The baseline of bulk items: read, check against the schema, encode, produce, wait for the acks,
answer.

What no ingress can do without for a request of gifts: one aiohttp handler, one decoder for the
whole body with the schema's bounds in it, one `uplink` record each, the room's partition, an
idempotent producer with the brokers' acks. Not in it: tokens, roles, other kinds, the state of
rooms, mutes, refusals of single items, metrics. `python -m tests.bench._barebulk BOOTSTRAP TOPIC
PARTITIONS` says its port.
"""

import asyncio
import secrets
import sys
import time

import msgspec
import uvloop
from aiohttp import web
from aiokafka import AIOKafkaProducer

from liveroom.bodies import Gift
from liveroom.records.codec import ItemId, Name, RoomId, UserId
from liveroom.topics import partition_of
from liveroom.web import serve


class _Item(msgspec.Struct, tag_field="kind", tag="gift"):
    room: RoomId
    user: UserId
    data: Gift
    name: Name = ""
    level: int = 0


class _Request(msgspec.Struct):
    items: list[_Item]


class _Data(msgspec.Struct, gc=False):
    kind: str
    data: Gift


class _Record(msgspec.Struct, omit_defaults=True, gc=False):
    v: int
    room: str
    id: str
    user: str
    at_ms: int
    items: tuple[_Data]
    name: str = ""
    level: int = 0
    via: str = ""


class _Result(msgspec.Struct, gc=False):
    id: ItemId


class _Answer(msgspec.Struct):
    accepted: int
    items: list[_Result]


class _Bulk:
    def __init__(self, producer: AIOKafkaProducer, topic: str, partitions: int) -> None:
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self._decoder = msgspec.json.Decoder(_Request)
        self._encoder = msgspec.json.Encoder()

    async def take(self, request: web.Request) -> web.Response:
        items = self._decoder.decode(await request.read()).items
        now_ms, made = time.time_ns() // 1_000_000, secrets.token_hex(8)
        acks, results = [], []
        for number, item in enumerate(items):
            id_ = f"{made}.{number}"
            record = _Record(
                1, item.room, id_, item.user, now_ms, (_Data("gift", item.data),), item.name, item.level, "ingress"
            )
            partition = partition_of(item.room, self._partitions)
            value = self._encoder.encode(record)
            acks.append(await self._producer.send(self._topic, value, key=item.room.encode(), partition=partition))
            results.append(_Result(id_))
        await asyncio.wait(acks)
        for ack in acks:
            ack.result()
        return web.json_response(body=self._encoder.encode(_Answer(len(results), results)))


async def main(bootstrap: str, topic: str, partitions: int) -> None:
    settings = {"enable_idempotence": True, "acks": "all", "max_batch_size": 1_000_000, "max_request_size": 1_100_000}
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, **settings) as producer:
        app = web.Application(client_max_size=2**20)
        app.router.add_post("/v1/interactions", _Bulk(producer, topic, partitions).take)
        async with serve(app, "127.0.0.1", 0) as (_, port):
            print(port, flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
