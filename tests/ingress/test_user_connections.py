"""An ingress asks all gateways for the connections of a user, and knows who did not answer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from ingress import user_connections
from ingress.responses import GatewayConnection
from ingress.user_connections import LEARN_S, UserConnectionService
from liveroom import clock, topics
from liveroom.errors import Code, ProblemError
from liveroom.kafka import UnsentError, ensure_topics
from liveroom.kafka_port import TopicPartition
from liveroom.kinds import Role
from liveroom.records.codec import JsonReader, encode_json
from liveroom.records.control import GatewayState, LoadReport
from liveroom.records.revocations import ConnectionOrder, ConnectionOrderKind, ConnectionReport, UserConnection
from liveroom.service import Runtime
from liveroom.settings import KafkaSettings
from liveroom.topics import Topic
from tests.memory_kafka import MemoryKafka

LIST, END = ConnectionOrderKind.LIST, ConnectionOrderKind.END
ON_TV = UserConnection(Role.VIEWER, "websocket", ("r",), "tv", 5)


class Pool:
    """Gateways behind the log: each order is answered by those that are not silent."""

    waiting = 0

    def __init__(self, kafka: MemoryKafka) -> None:
        self.kafka = kafka
        self.silent: set[str] = set()
        self.orders: list[ConnectionOrder] = []
        self._producer = kafka.producer()

    async def put(self, topic: Topic, key: bytes, value: bytes | None) -> None:
        await self._producer.send(topic.name, value, key=key, partition=0, headers=())
        assert (topic, value is None) == (topics.CONNECTION_ORDERS, False)
        order = JsonReader(ConnectionOrder).read(value)
        assert key == order.id.encode()
        self.orders.append(order)
        for gateway in ("e2", "e2", "e1", "e9"):  # one twice, one that nobody knows
            if gateway not in self.silent:
                some = (ON_TV,) if gateway == "e2" else ()
                await self.report(ConnectionReport(1, order.id, gateway, 1, 0, len(some), some))

    async def put_many(self, topic: Topic, records: Sequence[tuple[bytes, bytes]]) -> list[UnsentError | None]:
        raise NotImplementedError

    async def report(self, report: ConnectionReport) -> None:
        name, value = topics.CONNECTION_REPORTS.name, encode_json(report)
        await self._producer.send(name, value, key=report.id.encode(), partition=0, headers=())


def alive(*gateways: str) -> list[LoadReport]:
    return [LoadReport(1, name, 1, GatewayState.SERVING, 0, "ws://x", "x", "127.0.0.1", 1) for name in gateways]


@asynccontextmanager
async def asking() -> AsyncIterator[tuple[UserConnectionService, Pool]]:
    kafka = MemoryKafka(KafkaSettings(bootstrap="memory:1"))
    await ensure_topics(kafka)
    pool = Pool(kafka)
    service = UserConnectionService(kafka, pool, Runtime("ingress"))
    following = asyncio.create_task(service.follow_reports())
    while not service._reader.caught_up:  # noqa: ASYNC110 - it has no event for it
        await asyncio.sleep(0)
    yield service, pool
    following.cancel()
    await asyncio.wait([following])


async def test_all_gateways_that_live_are_asked_and_each_counts_once() -> None:
    async with asking() as (service, pool):
        service.gateways_reported([], clock.monotonic_s() - LEARN_S)
        service.gateways_reported(alive("e1", "e2"), clock.monotonic_s())
        found = await service.order("ann", LIST)
        assert (found.user, found.total, found.missing) == ("ann", 1, [])
        assert found.connections == [GatewayConnection("e2", Role.VIEWER, "websocket", ["r"], "tv", 5)]
        await service.order("ann", END)
        assert [(order.user, order.kind) for order in pool.orders] == [("ann", LIST), ("ann", END)]
        assert pool.orders[0].id != pool.orders[1].id
        assert service._waiting == {}


async def test_a_gateway_that_does_not_answer_is_named_and_one_that_ended_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_connections, "ANSWER_S", 0.05)
    async with asking() as (service, pool):
        pool.silent = {"e1"}
        now_s = clock.monotonic_s()
        service.gateways_reported(alive("e0"), now_s - 11)
        service.gateways_reported(alive("e1", "e2"), now_s)
        found = await service.order("ann", LIST)
        assert (found.total, found.missing) == (1, ["e1"])
        assert service._waiting == {}


async def test_without_gateways_there_are_no_connections() -> None:
    async with asking() as (service, _):
        service.gateways_reported([], clock.monotonic_s() - LEARN_S)
        assert (await service.order("ann", LIST)).total == 0


async def test_nobody_is_told_half_of_it_by_an_ingress_that_has_just_started() -> None:
    async with asking() as (service, pool):
        for at_s in (None, clock.monotonic_s()):
            if at_s is not None:
                service.gateways_reported(alive("e1"), at_s)
            with pytest.raises(ProblemError) as caught:
                await service.order("ann", LIST)
            assert caught.value.code is Code.NOT_READY
        assert pool.orders == []


async def test_so_many_orders_wait_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_connections, "MAX_WAITING", 2)
    async with asking() as (service, pool):
        pool.silent = {"e1", "e2"}
        service.gateways_reported([], clock.monotonic_s() - LEARN_S)
        service.gateways_reported(alive("e1"), clock.monotonic_s())
        waiting = [asyncio.create_task(service.order("ann", LIST)) for _ in range(2)]
        while len(pool.orders) < 2:  # noqa: ASYNC110 - a fake has no event
            await asyncio.sleep(0)
        with pytest.raises(ProblemError) as caught:
            await service.order("ann", LIST)
        assert caught.value.code is Code.NOT_READY
        for order in pool.orders:
            await pool.report(ConnectionReport(1, order.id, "e1", 1, 0))
        assert [(await each).missing for each in waiting] == [[], []]
        assert len(pool.kafka.logs[TopicPartition(topics.CONNECTION_ORDERS.name, 0)]) == 2
