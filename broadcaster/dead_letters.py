"""Dead letters: uplink records that cannot be used, with the reason, in a topic of their own.

Owns what a letter holds and its writing. Called by `broadcaster.partition`, which writes a letter
before the batch that counts its record.
"""

from typing import Final

import structlog

from broadcaster.items import BadBodyError
from broadcaster.rooms import Unfit
from liveroom import clock, metric_catalog, topics
from liveroom.bad_records import Refusals, without_content
from liveroom.kafka import Producer
from liveroom.kafka_port import Record
from liveroom.records.codec import BadRecord, BadRecordError, encode_json
from liveroom.records.uplink import DeadLetter
from liveroom.registry import Metrics

SEND_TIMEOUT_S: Final = 4.0
MAX_KEY_BYTES: Final = 1024
MAX_VALUE_BYTES: Final = 65_536
MAX_DETAIL_CHARS: Final = 200  # a detail may quote what it refuses
log = structlog.get_logger()


def letter_of(record: Record, error: Exception) -> DeadLetter:
    """Return the letter for a record that could not be taken because of `error`."""
    match error:
        case BadRecordError():
            reason, detail = error.reason, error.detail
        case BadBodyError():
            reason, detail = BadRecord.SCHEMA, str(error)
        case _:
            reason, detail = BadRecord.UNHANDLED, repr(error)
            log.error("record_unhandled", partition=record.partition, offset=record.offset, exc_info=error)
    return DeadLetter(
        DeadLetter.VERSION,
        record.topic,
        record.partition,
        record.offset,
        reason.value,
        detail[:MAX_DETAIL_CHARS],
        clock.unix_ms(),
        (record.key or b"")[:MAX_KEY_BYTES],
        (record.value or b"")[:MAX_VALUE_BYTES],
    )


def letter_of_unfit(unfit: Unfit, topic: str, partition: int) -> DeadLetter:
    """Return the letter for a record that was taken and that no batch can hold.

    `topic` and `partition` say where it lies.
    """
    key, value = unfit.record.room.encode(), encode_json(unfit.record)
    reason, detail = BadRecord.UNHANDLED.value, unfit.why[:MAX_DETAIL_CHARS]
    return DeadLetter(DeadLetter.VERSION, topic, partition, unfit.offset, reason, detail, clock.unix_ms(), key, value)


class DeadLetters:
    """Writes dead letters and counts them."""

    def __init__(self, producer: Producer, metrics: Metrics) -> None:
        self._producer = producer
        self._metrics = metrics
        self._refusals = Refusals(topics.UPLINK)

    async def write(self, letter: DeadLetter) -> None:
        """Write a letter, or raise `UnsentError`.

        After a take-over a record may get a second one: the offset in it says that it is the same.
        """
        reason = BadRecord(letter.reason)
        if self._refusals.is_logged(reason, letter.detail):
            detail = without_content(reason, letter.detail)
            log.warning("dead_letter", partition=letter.partition, offset=letter.offset, reason=letter.reason, detail=detail)
        await self._producer.send(topics.DEAD_LETTER, encode_json(letter), key=letter.key or None, timeout_s=SEND_TIMEOUT_S)
        self._metrics.counter(metric_catalog.DEAD_LETTERS, letter.reason).inc()
