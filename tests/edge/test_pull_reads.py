"""Reads of the log for pulls, without a log: whom a read that breaks off keeps waiting, and which
records of a later version it passes over.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from edge import pulls
from edge.admission import Admission
from edge.gateway import Gateway
from edge.hub import Hub
from edge.pull_queue import RoomRange
from edge.pull_reads import PartitionRead, _Collected
from edge.pull_slices import LogSlice
from edge.pulls import Pulls
from edge.upgrade import Upgrades
from liveroom.broadcast_log import LogReadError, LogVersionError
from liveroom.fencing import NOBODY
from liveroom.kafka_port import AioKafka
from liveroom.moderation import Rules
from liveroom.records.broadcast import Anchor, BatchParts, Claim, RoomEntry, encode_batch, encode_claim
from liveroom.records.sections import MUST, Section
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings

OWNER, OTHER = bytes(16), bytes([1]) * 16


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
        return PartitionRead({wanted: LogSlice(0, 5, (), cut=0, at_s=0.0) for wanted in ranges})

    monkeypatch.setattr(pulls, "read_rooms", breaks_off)
    first = asyncio.create_task(desk._slice(1, 0, 0, 5, "u"))
    await asyncio.sleep(0)
    (reading,) = desk._reading
    await asyncio.sleep(0)
    behind = asyncio.create_task(desk._slice(2, 0, 0, 5, "u"))
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
        log_slice = await desk._slice(2, 0, 0, 5, "u")
    assert log_slice.stop == 5


async def test_a_record_of_a_later_version_fails_only_the_pull_that_begins_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime("edge")
    settings = EdgeSettings(instance="e", ticket_keys={"k": "a" * 32})
    gateway = Gateway(settings, Hub(), Rules(), runtime.metrics, 1)
    upgrades = Upgrades(gateway, Admission(gateway, runtime), runtime)
    desk = Pulls(AioKafka(settings.kafka), gateway, upgrades, runtime, lambda _: 5)

    async def reads(_: Any, __: int, ranges: Sequence[RoomRange], **___: Any) -> PartitionRead:
        if ranges[0].start == 0:
            raise LogVersionError("at 2")
        return PartitionRead({wanted: LogSlice(wanted.start, 5, (), cut=0, at_s=0.0) for wanted in ranges})

    monkeypatch.setattr(pulls, "read_rooms", reads)
    async with asyncio.timeout(5):
        before, behind = await asyncio.gather(
            desk._slice(1, 0, 0, 5, "u"), desk._slice(2, 0, 3, 5, "u"), return_exceptions=True
        )
    assert isinstance(before, LogReadError)
    assert isinstance(behind, LogSlice)
    assert behind.stop == 5


def later(value: bytes) -> bytes:
    """A record as a version writes it that is not read here."""
    return value[:2] + bytes([99]) + value[3:]


def batch(serial: int, owner: bytes = OWNER, others: Sequence[Section] = ()) -> bytes:
    entry = RoomEntry(1, serial, serial, 0, 1, 0, 2, 0, 7, 0)
    return encode_batch(BatchParts(1, owner, serial, Anchor(0, 0, None), 0, 1, 1, [(entry, b"{}")], others=others))


def collected(*values: bytes) -> list[int]:
    """The offsets of the room's parts in a log of these records, behind its claim."""
    log = [encode_claim(Claim(1, OWNER, 1, "o", 0)), *values]
    found = _Collected([RoomRange(1, 0, len(log))], NOBODY, 0)
    for _ in found.take(list(enumerate(log))):
        pass
    assert found.at == len(log)
    return [part.prepared.offset for part in found.slice_of(RoomRange(1, 0, len(log)), 0, False, 0.0).parts]


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(later(batch(2)), id="another version"),
        pytest.param(batch(2, others=[Section(MUST | 0x100, b"x")]), id="a section that must be understood"),
    ],
)
def test_a_valid_batch_that_only_a_later_version_can_read_fails_the_read(foreign: bytes) -> None:
    with pytest.raises(LogVersionError):
        collected(batch(1), foreign, batch(3))


def test_what_has_no_messages_for_anybody_fails_no_read_whatever_its_version() -> None:
    renewal = later(encode_claim(Claim(1, OWNER, 1, "o", 1)))
    assert collected(batch(1), later(batch(2, owner=OTHER)), renewal, batch(2), batch(3)[:-1], batch(4)) == [1, 4, 6]
