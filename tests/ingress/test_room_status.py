"""The status of a room: its owner's card is found, or the refusal comes as soon as it can."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from ingress import room_status
from ingress.room_status import RoomReport, RoomStatusService
from liveroom import metric_catalog
from liveroom.errors import Code, ProblemError
from liveroom.kafka import ensure_topics
from liveroom.kinds import RecordType
from liveroom.moderation import Rules
from liveroom.records import broadcast
from liveroom.records.broadcast import (
    Anchor,
    BatchParts,
    CardEntry,
    Claim,
    SnapshotChunk,
    Stamp,
    encode_batch,
    encode_claim,
    encode_snapshot_chunk,
)
from liveroom.records.codec import BadRecord, JsonReader
from liveroom.records.control import Presence
from liveroom.records.sections import Section
from liveroom.registry import Metrics
from liveroom.settings import KafkaSettings
from liveroom.topics import BROADCAST, PRESENCE, Topic, room_hash
from liveroom.wire import Card
from tests.ingress.harness import FakeLogWriter, settings_of
from tests.memory_kafka import MemoryKafka

ROOM = "r"
OWNER = b"o" * 16
UNKNOWN, OWNERS_ONLY = Section(0x8063, b"x"), Section(0xC063, b"x")


def batch(card: bytes | None = None, *others: Section) -> bytes:
    cards = [] if card is None else [(CardEntry(room_hash(ROOM), len(card)), card)]
    return encode_batch(BatchParts(1, OWNER, 1, Anchor(1, 0, None), 1, 1, 0, [], cards=cards, others=others))


CARD = msgspec.json.encode(Card(7, 3, 2, 10, 5, 6))


def of_another_version(encode: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> bytes:
    with monkeypatch.context() as patched:
        patched.setattr(broadcast, "VERSION", 9)
        return encode()


class Owner(FakeLogWriter):
    """Writes these records to the only partition whenever it is asked for a card."""

    def __init__(self, kafka: MemoryKafka, *answers: bytes) -> None:
        super().__init__()
        self._kafka = kafka
        self._answers = answers

    async def put(self, topic: Topic, key: bytes, value: bytes | None) -> None:
        assert (topic, self._kafka.partitions(BROADCAST), bool(key)) == (PRESENCE, 1, True)
        assert JsonReader(Presence).read(value).card
        for answer in self._answers:
            name = self._kafka.topic_name(BROADCAST)
            await self._kafka.producer().send(name, answer, key=None, partition=0, headers=())


async def asked(
    *answers: bytes, rooms: tuple[str, ...] = (ROOM,)
) -> tuple[list[RoomReport | ProblemError], Metrics, list[Any]]:
    """The answers where the owner writes these records, what was counted, and what was logged."""
    kafka, metrics = MemoryKafka(KafkaSettings(partitions=1)), Metrics("ingress")
    await ensure_topics(kafka, [BROADCAST])
    statuses = RoomStatusService(kafka, settings_of(kafka.settings), Owner(kafka, *answers), Rules(), metrics)
    found: list[RoomReport | ProblemError] = []
    with capture_logs() as logs:
        for room in rooms:
            try:
                found.append(await statuses.report(room))
            except ProblemError as problem:
                found.append(problem)
        await statuses.close()
    return found, metrics, logs


def counted(metrics: Metrics, reason: BadRecord) -> float:
    return metrics.counter(metric_catalog.BAD_RECORDS, BROADCAST.name, reason.value)._value.get()  # type: ignore[no-any-return]


async def test_a_report_has_the_numbers_of_the_owner_s_card() -> None:
    found, _, logs = await asked(batch(), batch(CARD))
    assert isinstance(report := found[0], RoomReport)
    assert (report.room, report.epoch, report.seq, report.rseq, report.likes) == (ROOM, 7, 3, 2, 10)
    assert logs == []


async def test_a_damaged_record_is_counted_and_passed_over() -> None:
    found, metrics, logs = await asked(b"junk", batch(CARD)[:-1], batch(CARD))
    assert isinstance(found[0], RoomReport)
    assert counted(metrics, BadRecord.TRUNCATED) == 2
    assert [(line["event"], line["topic"], line["offset"]) for line in logs] == [
        ("bad_record", "broadcast", 0),
        ("bad_record", "broadcast", 1),
    ]


async def test_what_only_owners_read_does_not_matter() -> None:
    stamp = Stamp(RecordType.SNAPSHOT, 1, OWNER, 1)
    chunk = encode_snapshot_chunk(SnapshotChunk(stamp, Anchor(1, 0, None), 1, 1, 0, 1, b"x"))
    found, _, logs = await asked(encode_claim(Claim(1, OWNER, 1, "b")), chunk[:-1], batch(CARD, OWNERS_ONLY))
    assert isinstance(found[0], RoomReport)
    assert logs == []


@pytest.mark.parametrize("reason", [BadRecord.VERSION, BadRecord.UNKNOWN_SECTION])
async def test_an_answer_of_another_version_is_refused_at_once_and_logged_once(
    reason: BadRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_status, "TIMEOUT_S", 60.0)
    is_version = reason is BadRecord.VERSION
    foreign = of_another_version(lambda: batch(CARD), monkeypatch) if is_version else batch(CARD, UNKNOWN)
    found, metrics, logs = await asked(foreign, rooms=("r", "r2", "r3"))
    for problem in found:
        assert isinstance(problem, ProblemError)
        assert problem.code is Code.NOT_READY
        assert "cannot read" in str(problem.body()["detail"])
    assert counted(metrics, reason) == 3
    assert [line["event"] for line in logs] == ["bad_record"]


async def test_a_card_that_does_not_fit_is_refused_at_once_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_status, "TIMEOUT_S", 60.0)
    found, metrics, _ = await asked(batch(b'{"seq":"many"}'))
    assert isinstance(found[0], ProblemError)
    assert counted(metrics, BadRecord.SCHEMA) == 1


async def test_an_owner_that_does_not_answer_is_waited_for_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_status, "TIMEOUT_S", 0.05)
    found, _, logs = await asked(batch())
    assert isinstance(problem := found[0], ProblemError)
    assert (problem.code, problem.body()["detail"]) == (Code.NOT_READY, "the room's owner does not answer")
    assert [line["event"] for line in logs] == ["room_status_unknown"]
