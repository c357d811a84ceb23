"""Reads of the log for pulls, without a log: whom a read that breaks off keeps waiting."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from edge import pulls
from edge.admission import Admission
from edge.gateway import Gateway
from edge.hub import Hub
from edge.pull_answer import PullQuery
from edge.pull_reads import PartitionRead, RoomRange
from edge.pull_slices import LogSlice
from edge.pulls import Pulls
from edge.upgrade import Upgrades
from liveroom.broadcast_log import LogReadError
from liveroom.kafka_port import AioKafka
from liveroom.moderation import Rules
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings

BEGINNING = PullQuery(0, None, 0, None, None)


@pytest.mark.parametrize("broken", [asyncio.CancelledError(), ZeroDivisionError()], ids=lambda error: type(error).__name__)
async def test_a_read_that_breaks_off_fails_all_who_wait_and_the_next_pull_reads_again(
    monkeypatch: pytest.MonkeyPatch, broken: BaseException
) -> None:
    """A Kafka client may cancel a task of its own, and it looks as if we had been."""
    runtime = Runtime("edge")
    settings = EdgeSettings(instance="e", ticket_keys={"k": "a" * 32})
    gateway = Gateway(settings, Hub(), Rules(), runtime.metrics, 1)
    upgrades = Upgrades(gateway, Admission(gateway, runtime), runtime)
    desk = Pulls(AioKafka(settings.kafka), gateway, upgrades, runtime, lambda _: 5)
    goes_on = asyncio.Event()

    async def breaks_off(*_: Any, **__: Any) -> PartitionRead:
        await goes_on.wait()
        raise broken

    async def reads(_: Any, __: int, ranges: Sequence[RoomRange], **___: Any) -> PartitionRead:
        return PartitionRead({wanted: LogSlice(0, 5, (), is_cut=False, at_s=0.0) for wanted in ranges})

    monkeypatch.setattr(pulls, "read_rooms", breaks_off)
    first = asyncio.create_task(desk._slice(1, 0, BEGINNING))
    await asyncio.sleep(0)
    reading = desk._reading[0]
    await asyncio.sleep(0)
    behind = asyncio.create_task(desk._slice(2, 0, BEGINNING))
    await asyncio.sleep(0)
    goes_on.set()
    async with asyncio.timeout(5):
        done = await asyncio.gather(first, behind, return_exceptions=True)
        await asyncio.wait({reading})
    assert [type(one) for one in done] == [LogReadError, LogReadError]
    if not reading.cancelled():
        assert reading.exception() is broken, "the loop tells of a defect"
    monkeypatch.setattr(pulls, "read_rooms", reads)
    async with asyncio.timeout(5):
        _, log_slice, _ = await desk._slice(2, 0, BEGINNING)
    assert log_slice.stop == 5
