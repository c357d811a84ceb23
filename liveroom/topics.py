"""The topics with their configuration, and the partition of a room. Pure.

Every service and every external producer must agree on these, so nothing here depends on a client
library. The partition is Kafka's own murmur2 of the key, as the Java client's default partitioner
computes it.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final

DEFAULT_PARTITIONS: Final = 16
ROOM_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
INTERACTION_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")
DEVICE_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")

COMPACTION_LAG: Final = "min.compaction.lag.ms"
_HOUR_MS: Final = 3_600_000
_MINUTE_MS: Final = 60_000
_MURMUR_M: Final = 0x5BD1E995
_U32: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it must be configured in the cluster.

    `partitions` None means the setting `kafka.partitions`, over which rooms are spread.
    `retention_ms` -1 means for ever. `compaction_lag_ms`: how long all records of a key stay.
    """

    name: str
    key: str
    about: str
    retention_ms: int
    partitions: int | None = None
    compacted: bool = False
    compaction_lag_ms: int = 0

    def config(self) -> dict[str, str]:
        """Return the topic's configuration under Kafka's names."""
        policy = "compact,delete" if self.compacted and self.retention_ms > 0 else "compact" if self.compacted else "delete"
        settings = {"cleanup.policy": policy, "compression.type": "producer"}
        # The brokers' clock. With the producers' clocks, the default, one record from the year 2100
        # would make every room look old.
        settings["message.timestamp.type"] = "LogAppendTime"
        settings["retention.ms"] = str(self.retention_ms)
        if self.compaction_lag_ms:
            settings[COMPACTION_LAG] = str(self.compaction_lag_ms)
        return settings


UPLINK: Final = Topic("uplink", "room", "accepted interactions, one record each", 24 * _HOUR_MS)
BROADCAST: Final = Topic(
    "broadcast", "none (partition of the room)", "the global queue: records CLAIM, BATCH and SNAPSHOT", 24 * _HOUR_MS
)
MODERATION: Final = Topic(
    "moderation",
    "room, rule, name",
    "mutes, bans, hosts, room modes and words, one rule per key",
    -1,
    compacted=True,
    # so that an ingress finds a rule that a withdrawal hit (`ingress.ended_rules`)
    compaction_lag_ms=24 * _HOUR_MS,
)
PRESENCE: Final = Topic(
    "presence", "room", "viewers of a room at one gateway: their number, and who came and left, by hashes", 10 * _MINUTE_MS
)
GATEWAYS: Final = Topic(
    "gateways", "gateway id", "load reports, one per second and gateway", 10 * _MINUTE_MS, 1, compacted=True
)
CONTROL: Final = Topic(
    "control",
    "gateway id",
    "orders to a gateway, or with the key * to the whole pool; the leader's decisions",
    -1,
    1,
    compacted=True,
)
DEAD_LETTER: Final = Topic("dead-letter", "that of the uplink record", "uplink records that cannot be used", 7 * 24 * _HOUR_MS)
AUDIT: Final = Topic("audit", "room", "who moderated what, and why", 90 * 24 * _HOUR_MS)
REVOCATIONS: Final = Topic("revocations", "revocation id", "revoked tokens", -1, 1, compacted=True)
CONNECTION_ORDERS: Final = Topic(
    "connection-orders", "order id", "orders to all gateways: list or end the connections of a user", 10 * _MINUTE_MS, 1
)
CONNECTION_REPORTS: Final = Topic(
    "connection-reports", "order id", "the connections of a user at one gateway", 10 * _MINUTE_MS, 1
)

ALL: Final = (
    UPLINK,
    BROADCAST,
    MODERATION,
    PRESENCE,
    GATEWAYS,
    CONTROL,
    DEAD_LETTER,
    AUDIT,
    REVOCATIONS,
    CONNECTION_ORDERS,
    CONNECTION_REPORTS,
)


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
    """Return the partition of `room` out of `partitions`, as Kafka's default partitioner does."""
    return (murmur2(room.encode()) & 0x7FFFFFFF) % partitions


def valid_room(text: object) -> str | None:
    """Return a room id, as a log may show it; None for anything else, which may be any text."""
    return text if isinstance(text, str) and ROOM_ID.match(text) else None


def room_hash(room: str) -> int:
    """Return the 64-bit hash by which a BATCH directory names a room or a user.

    Finding a second room with a given hash takes 2**64 trials, so nobody can smuggle messages into
    a room of others. Not cached: it takes less than a microsecond, and new users keep coming.
    """
    return int.from_bytes(blake2b(room.encode(), digest_size=8).digest(), "little")


def rule_key(room: str, kind: str, name: str) -> bytes:
    """Return the key of one rule in `moderation`.

    `name`: the mode, the user id or the word. Every mode, mute, ban and word has a key of its own,
    so two moderators who change different rules at the same time do not overwrite each other. The
    key is unambiguous: rooms and kinds contain no slash.
    """
    return f"{room}/{kind}/{name}".encode()
