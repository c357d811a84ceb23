"""A reader of the uplink that hangs is replaced once, without Kafka."""

import asyncio
from collections.abc import Mapping
from typing import Unpack

import pytest

from broadcaster import kafka as group
from broadcaster.assigned import Assigned
from broadcaster.kafka import Broadcaster
from broadcaster.progress import Progress
from liveroom import metric_catalog
from liveroom.kafka import STALLED, Producer
from liveroom.kafka_port import Consumer, ConsumerOptions
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings, KafkaSettings
from liveroom.topics import UPLINK
from tests.memory_kafka import MemoryConsumer, MemoryKafka


class Groups(MemoryKafka):
    """A cluster that lets anybody into a group."""

    def consumer(self, *_: str, **__: Unpack[ConsumerOptions]) -> Consumer:
        return MemoryConsumer(self.logs)


class Member(Broadcaster):
    """A broadcaster whose group takes it in at once."""

    async def _join(self) -> None: ...


class Answers(Progress):
    """Progress that answers whether fetching hangs when the test has it answer."""

    asked: "asyncio.Queue[asyncio.Future[bool]]"

    async def follow_ends(self, client: Consumer, assigned: Mapping[int, Assigned]) -> bool:  # noqa: ARG002 - as inherited
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(answer)
        return await answer


async def test_a_check_that_was_under_way_while_the_reader_was_replaced_replaces_it_no_second_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group, "CHECK_INTERVAL_S", 0.0)
    settings = BroadcasterSettings(kafka=KafkaSettings(partitions=1))
    kafka, runtime = Groups(settings.kafka), Runtime("broadcaster")
    async with asyncio.TaskGroup() as tasks:
        broadcaster = Member(settings, kafka, Producer(kafka, runtime.metrics), runtime, tasks)
        broadcaster._progress = answers = Answers(kafka, runtime.metrics)
        answers.asked = asyncio.Queue()
        checking = tasks.create_task(broadcaster._check())
        (await answers.asked.get()).set_result(True)
        under_way = await answers.asked.get()
        await broadcaster._poll()
        restarts = runtime.metrics.counter(metric_catalog.READER_RESTARTS, UPLINK.name, STALLED)
        assert restarts._value.get() == 1
        under_way.set_result(False)
        await answers.asked.get()
        assert not broadcaster._is_stalled
        checking.cancel()
