"""Dead letters: each is written and counted; the log has one line for a version, not many."""

from typing import Any

from aiokafka import ConsumerRecord
from structlog.testing import capture_logs

from broadcaster.dead_letters import DeadLetters, letter_of
from liveroom import metric_catalog, topics
from liveroom.records.codec import BadRecord, BadRecordError, JsonReader
from liveroom.records.uplink import DeadLetter, decode_uplink
from liveroom.registry import Metrics
from liveroom.topics import Topic


class Sent:
    """A producer that keeps what it sends."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []

    async def send(self, topic: Topic, value: bytes, *, key: bytes, timeout_s: float) -> None:
        assert (topic, key) == (topics.DEAD_LETTER, b"r"), "the key of the record"
        assert timeout_s > 0
        self.letters.append(JsonReader(DeadLetter).read(value))


def letter(offset: int, value: bytes) -> DeadLetter:
    try:
        decode_uplink(b"r", value)
    except BadRecordError as error:
        return letter_of(ConsumerRecord("uplink", 3, offset, 1, 1, b"r", value, None, 1, len(value), ()), error)
    raise AssertionError("it is good")


async def test_records_of_a_version_that_is_not_read_become_letters_and_one_line_of_the_log() -> None:
    sent: Any = Sent()
    metrics = Metrics("broadcaster")
    letters = DeadLetters(sent, metrics)
    with capture_logs() as logs:
        for offset, value in enumerate((b'{"v":2}', b'{"v":2}', b'{"v":3}', b'{"v":2}', b"{", b"{")):
            await letters.write(letter(offset, value))
    assert [(line["reason"], line["offset"]) for line in logs] == [
        ("version", 0),
        ("version", 2),
        ("undecodable", 4),
        ("undecodable", 5),
    ]
    assert [(each.reason, each.offset) for each in sent.letters[:4]] == [("version", offset) for offset in range(4)]
    assert metrics.counter(metric_catalog.DEAD_LETTERS, BadRecord.VERSION.value)._value.get() == 4
