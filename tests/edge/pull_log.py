"""A log of `broadcast` in memory, and the pulls of a gateway that reads it."""

import secrets
from collections.abc import Sequence

import msgspec

from edge.admission import Admission
from edge.gateway import Gateway
from edge.hub import Hub
from edge.pulls import Pulls
from edge.upgrade import Upgrades
from liveroom.kafka import ensure_topics
from liveroom.kinds import Kind
from liveroom.moderation import Rules
from liveroom.records.broadcast import Anchor, BatchParts, Claim, RoomEntry, RoomFlags, encode_batch, encode_claim
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings, KafkaSettings
from liveroom.topics import BROADCAST, room_hash
from liveroom.wire import BatchHeader, Message, encode_message, pack_payload
from tests.memory_kafka import MemoryKafka

OWNER, EPOCH = b"o" * 16, 7


class Log:
    """A partition of `broadcast` that one owner writes."""

    def __init__(self) -> None:
        self.kafka = MemoryKafka(KafkaSettings(bootstrap="memory:1", partitions=1))
        self.end = 0
        self._producer = self.kafka.producer()
        self._serial = 0
        self._seq: dict[str, int] = {}

    async def start(self) -> None:
        await ensure_topics(self.kafka, [BROADCAST])
        await self._write(encode_claim(Claim(1, OWNER, 1, "o", 0)))

    async def batch(self, room: str, messages: int, size: int) -> None:
        """Write a batch of gifts with texts that do not deflate."""
        await self.write(room, [msgspec.json.encode({"text": secrets.token_urlsafe(size)}) for _ in range(messages)])

    async def write(self, room: str, bodies: Sequence[bytes], kind: Kind = Kind.GIFT, *, behind: bytes = b"") -> int:
        """Write a batch of reliable messages, and bytes behind its payload; return its offset."""
        first = self._seq.get(room, 0) + 1
        last = self._seq[room] = first + len(bodies) - 1
        lines = [
            encode_message(Message(seq, kind, f"i{seq}", "u", 1, seq, data=msgspec.Raw(body)))
            for seq, body in enumerate(bodies, first)
        ]
        packed = pack_payload(BatchHeader(room, EPOCH, (first, last), last, at=1), lines, [])
        flags = (RoomFlags.DEFLATED if packed.deflated else 0) | (RoomFlags.CLEAR if kind is Kind.CLEAR else 0)
        data = packed.data + behind
        entry = RoomEntry(room_hash(room), first, last, last, len(bodies), 0, len(data), len(data), EPOCH, flags)
        self._serial += 1
        parts = BatchParts(1, OWNER, self._serial, Anchor(0, 0, None), 0, 1, 1, [(entry, data)])
        return await self._write(encode_batch(parts))

    async def lines(self, room: str, text: bytes) -> int:
        """Write a batch whose lines are this text; return its offset."""
        seq = self._seq[room] = self._seq.get(room, 0) + 1
        packed = pack_payload(BatchHeader(room, EPOCH, (seq, seq), seq, at=1), [text], [])
        entry = RoomEntry(room_hash(room), seq, seq, seq, 1, 0, len(packed.data), len(packed.data), EPOCH, RoomFlags.DEFLATED)
        assert packed.deflated
        self._serial += 1
        parts = BatchParts(1, OWNER, self._serial, Anchor(0, 0, None), 0, 1, 1, [(entry, packed.data)])
        return await self._write(encode_batch(parts))

    async def damaged(self, room: str, messages: int) -> int:
        """Write a valid batch that cannot be decoded behind its stamp; return its offset."""
        first = self._seq.get(room, 0) + 1
        last = self._seq[room] = first + messages - 1
        entry = RoomEntry(room_hash(room), first, last, last, messages, 0, 2, 2, EPOCH, 0)
        self._serial += 1
        return await self._write(
            encode_batch(BatchParts(1, OWNER, self._serial, Anchor(0, 0, None), 0, 1, 1, [(entry, b"{}")]))[:-1]
        )

    async def _write(self, value: bytes) -> int:
        topic = self.kafka.topic_name(BROADCAST)
        acked = await self._producer.send(topic, value, key=None, partition=0, headers=[])
        self.end = (await acked).offset + 1
        return self.end - 1


def pulls_of(log: Log) -> tuple[Pulls, Runtime]:
    """The pulls of a gateway that has read all of a log and has no viewers."""
    settings, runtime = EdgeSettings(instance="e", ticket_keys={"k": "a" * 32}, kafka=log.kafka.settings), Runtime("edge")
    gateway = Gateway(settings, Hub(), Rules(), runtime.metrics, 1)
    upgrades = Upgrades(gateway, Admission(gateway, runtime), runtime)
    return Pulls(log.kafka, gateway, upgrades, runtime, lambda _: log.end), runtime
