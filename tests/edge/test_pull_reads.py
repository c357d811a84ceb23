"""Reads of the log for pulls, without a log: whom a read that breaks off keeps waiting."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from edge import pulls
from edge.hub import Hub
from edge.pulls import Pulls, Question, Stretch
from edge.server import Server
from liveroom.moderation import Rules
from liveroom.queue import LogReadError
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings

BEGINNING = Question(0, None, 0, None, None)


@pytest.mark.parametrize("broken", [asyncio.CancelledError(), ZeroDivisionError()], ids=lambda error: type(error).__name__)
async def test_a_read_that_breaks_off_fails_all_who_wait_and_the_next_pull_reads_again(
    monkeypatch: pytest.MonkeyPatch, broken: BaseException
) -> None:
    """A Kafka client may cancel a task of its own, and it looks as if we had been."""
    runtime = Runtime("edge")
    server = Server(EdgeSettings(instance="e", ticket_keys={"k": "a" * 32}), Hub(), Rules(), runtime, 1)
    desk = Pulls(server, runtime, lambda _: 5)
    goes_on = asyncio.Event()

    async def breaks_off(*_: Any) -> dict[int, Stretch]:
        await goes_on.wait()
        raise broken

    async def reads(_: Any, __: int, wants: Sequence[Any]) -> dict[int, Stretch]:
        return {want.room: Stretch(0, 5, (), is_cut=False, at_s=0.0) for want in wants}

    monkeypatch.setattr(pulls, "read_rooms", breaks_off)
    first = asyncio.create_task(desk._stretch(1, 0, BEGINNING))
    await asyncio.sleep(0)
    reading = desk._reading[0]
    await asyncio.sleep(0)
    behind = asyncio.create_task(desk._stretch(2, 0, BEGINNING))
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
        stretch, _ = await desk._stretch(2, 0, BEGINNING)
    assert stretch.stop == 5
