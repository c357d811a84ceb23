"""Why a record of `uplink` becomes a dead letter, and what its producer then does. Pure.

Owns the one table of it, `DEAD_LETTER_REASONS`: docs/uplink.md shows it, and so does whoever prints
dead letters. A letter names its reason by the code, the value of a `BadRecord`.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from liveroom.records.codec import BadRecord


class DeadLetterReason(NamedTuple):
    """What one code means to the producer of the record.

    - `meaning`: what is wrong with the record.
    - `remedy`: what to do about it.
    """

    meaning: str
    remedy: str


DEAD_LETTER_REASONS: Final[Mapping[BadRecord, DeadLetterReason]] = {
    BadRecord.UNDECODABLE: DeadLetterReason(
        "The value is not one JSON text in UTF-8: it is empty, cut off, or has NaN or a lone surrogate.",
        "Mend the producer's encoder, and write the record anew with the same id.",
    ),
    BadRecord.SCHEMA: DeadLetterReason(
        "The JSON is no uplink record, or the body of an item is not of its kind: a field is missing, or has another type or"
        " a value beyond its limits. The detail names the field.",
        "Correct the field, and write the record anew with the same id.",
    ),
    BadRecord.UNKNOWN: DeadLetterReason(
        "The broadcaster does not know the kind or the role; perhaps a later version does.",
        "Correct the name. If a later version knows it, upgrade the broadcasters and send the record again.",
    ),
    BadRecord.VERSION: DeadLetterReason(
        "The record has a version (`v`) that the broadcaster does not read.",
        "Write version 1. If a later version of liveroom reads it, upgrade the broadcasters and send the record again.",
    ),
    BadRecord.WRONG_KEY: DeadLetterReason(
        "The key is not the room's id, byte for byte.",
        "Set the key to the room's id, and write the record anew with the same id.",
    ),
    BadRecord.WRONG_PARTITION: DeadLetterReason(
        "The room lives in another partition than the one the record is in.",
        "Set the producer's partitioner to murmur2 of the key, and send the record again.",
    ),
    BadRecord.TOO_LARGE: DeadLetterReason(
        "The value has more than 64 KiB; the letter holds its beginning.",
        "Split the package, or send less with it.",
    ),
    BadRecord.TOO_DEEP: DeadLetterReason(
        "The JSON nests too deep: `data` may have 32 levels, itself included.",
        "Flatten the body, and write the record anew with the same id.",
    ),
    BadRecord.ID_REUSED: DeadLetterReason(
        "The same user sent a reliable interaction with the same id but another content in this room within 10 minutes. The"
        " first one stands.",
        "Find out which of the two is right. If this one is an interaction of its own, write it anew with an id of its own.",
    ),
    BadRecord.UNHANDLED: DeadLetterReason(
        "The record is in order, but the broadcaster failed on it. Its log has the event `record_unhandled`.",
        "Report it. Send the record again once the cause is gone.",
    ),
}
