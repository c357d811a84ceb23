"""Topic names, their settings, and which partition a room lives in.

Pure. Every service and every foreign producer must agree on these, so nothing here depends on a
client library: the partition is Kafka's own murmur2 of the key, as any default partitioner computes
it.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final

DEFAULT_PARTITIONS: Final = 16
ROOM_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
USER_ID: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,64}\Z")
INTERACTION_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")

_HOUR_MS: Final = 3_600_000
_MINUTE_MS: Final = 60_000
_MURMUR_M: Final = 0x5BD1E995
_U32: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as the cluster must hold it.

    `partitions` None means: as many as rooms are spread over (setting `kafka.partitions`).
    """

    name: str
    key: str
    about: str
    retention_ms: int
    partitions: int | None = None
    compacted: bool = False

    def config(self) -> dict[str, str]:
        """Return the topic's settings as Kafka names them."""
        policy = "compact,delete" if self.compacted and self.retention_ms > 0 else "compact" if self.compacted else "delete"
        settings = {"cleanup.policy": policy, "compression.type": "producer"}
        # The brokers' clock: by a writer's own (the default) one record from the year 2100 would
        # make every room look old.
        settings["message.timestamp.type"] = "LogAppendTime"
        settings["retention.ms"] = str(self.retention_ms)
        return settings


UPLINK: Final = Topic("uplink", "room", "accepted interactions, one record each", 24 * _HOUR_MS)
BROADCAST: Final = Topic("broadcast", "none: the room's partition", "the global queue: CLAIM, BATCH, SNAPSHOT", 24 * _HOUR_MS)
MODERATION: Final = Topic(
    "moderation", "room, rule, name", "mutes, bans, room modes, words: one rule a key", -1, compacted=True
)
PRESENCE: Final = Topic("presence", "room", "viewers of a room on one gateway", 10 * _MINUTE_MS)
GATEWAYS: Final = Topic("gateways", "gateway id", "load reports, one a second", 10 * _MINUTE_MS, 1, compacted=True)
CONTROL: Final = Topic("control", "gateway id", "orders to a gateway; * to the pool", -1, 1, compacted=True)
DEAD_LETTER: Final = Topic("dead-letter", "room, as found", "uplink records that cannot be used", 7 * 24 * _HOUR_MS)
AUDIT: Final = Topic("audit", "room", "who moderated what, and why", 90 * 24 * _HOUR_MS)

ALL: Final = (UPLINK, BROADCAST, MODERATION, PRESENCE, GATEWAYS, CONTROL, DEAD_LETTER, AUDIT)


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit murmur2 of `data`.

    Source: Kafka's own Java, org.apache.kafka.common.utils.Utils.murmur2.
    """
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _MURMUR_M & _U32
        k ^= k >> 24
        h = (h * _MURMUR_M & _U32) ^ (k * _MURMUR_M & _U32)
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * _MURMUR_M & _U32
    h ^= h >> 13
    h = h * _MURMUR_M & _U32
    return h ^ (h >> 15)


@lru_cache(maxsize=65_536)
def partition_of(room: str, partitions: int) -> int:
    """Return the partition of `room` among `partitions`, as Kafka's default partitioner does."""
    return (murmur2(room.encode()) & 0x7FFFFFFF) % partitions


def room_hash(room: str) -> int:
    """Return the 64-bit name of a room (or user) in a BATCH directory.

    Finding a second room of one hash takes 2**64 trials, so nobody can place words into a room that
    is not theirs. Not cached: it takes less than a microsecond, and users are ever new.
    """
    return int.from_bytes(blake2b(room.encode(), digest_size=8).digest(), "little")


def rule_key(room: str, kind: str, name: str) -> bytes:
    """Return the key of one rule in `moderation`.

    A key for every mode, mute, ban and word: two moderators who change different things at once
    both get what they wanted.
    """
    return f"{room}/{kind}/{name}".encode()
