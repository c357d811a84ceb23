"""The status of a room, for backends: its owner answers by a card in the broadcast log.

Owns these requests: concurrent ones for a room share one question, and an answer serves for
`FRESH_S`. Refuses (`not_ready`) where no owner answers in time, and at once where another version
wrote the answer. Modes, mutes and bans come from this ingress's own rules, which are newer than any
card. Called by `moderation_api`.
"""

import asyncio
from typing import Final

import msgspec
import structlog

from ingress.log import LogWriter
from liveroom import clock
from liveroom.bad_records import BadRecords
from liveroom.broadcast_log import LogReader, LogReadError
from liveroom.errors import Code, ProblemError
from liveroom.kafka import UnsentError
from liveroom.kafka_port import Kafka, KafkaError
from liveroom.kinds import Kind, RecordType, Role
from liveroom.moderation import Rules
from liveroom.records.broadcast import Batch, decode_broadcast, decode_stamp
from liveroom.records.codec import BadRecord, BadRecordError, encode_json
from liveroom.records.control import Presence, RuleKind
from liveroom.records.snapshot import RoomSettings
from liveroom.registry import Metrics
from liveroom.settings import IngressSettings
from liveroom.tasks import end_tasks
from liveroom.topics import BROADCAST, PRESENCE, partition_of, room_hash
from liveroom.wire import BadFrameError, Card, decode_card

TIMEOUT_S: Final = 2.5
FRESH_S: Final = 1.0
RETRY_AFTER_S: Final = 1.0
READS: Final = 8
MAX_ASKED: Final = 1000
_TO_THE_END: Final = 1 << 62
log = structlog.get_logger()


class RoomReport(msgspec.Struct, frozen=True):
    """A room: its newest sequence numbers, totals, modes, and how many mutes and bans are in force.

    A value that is not known is null.
    """

    room: str
    epoch: int | None
    seq: int | None
    rseq: int | None
    likes: int | None
    users: int | None
    connections: int | None
    announcement: msgspec.Raw
    settings: RoomSettings
    mutes: int
    bans: int


class _Sent(msgspec.Struct, frozen=True):
    """The part of a message that states who sent it."""

    id: str
    user: str
    kind: str
    role: str = Role.VIEWER


_decode_sent: Final = msgspec.json.Decoder(_Sent).decode


class UnreadableError(Exception):
    """An owner may have answered, and this ingress cannot read what it wrote."""


class RoomStatusService:
    """Reports the status of rooms."""

    def __init__(self, kafka: Kafka, settings: IngressSettings, writer: LogWriter, rules: Rules, metrics: Metrics) -> None:
        self._kafka = kafka
        self._settings = settings
        self._writer = writer
        self._rules = rules
        self._bad = BadRecords(metrics, BROADCAST)
        self._cards: dict[str, tuple[float, asyncio.Task[Card]]] = {}
        self._reads = asyncio.Semaphore(READS)

    async def report(self, room: str) -> RoomReport:
        """Return the room's status; the room need not exist."""
        card, rules, now_ms = await self._card(room), self._rules, clock.unix_ms()
        return RoomReport(
            room,
            card.epoch,
            card.seq,
            card.rseq,
            card.likes,
            card.users,
            card.connections,
            card.announcement,
            rules.settings(room),
            sum(1 for _ in rules.all_of(RuleKind.MUTE, room, now_ms)),
            sum(1 for _ in rules.all_of(RuleKind.BAN, room, now_ms)),
        )

    async def senders(self, room: str, message: str) -> dict[str, str]:
        """Return the users among the room's newest messages who sent one with this id, and their
        roles.
        """
        card = await self._card(room)
        lines = [_decode_sent(line) for line in (*card.messages, *card.reliable)]
        return {line.user: line.role for line in lines if line.id == message and line.kind != Kind.CLEAR}

    def __len__(self) -> int:
        return len(self._cards)

    async def close(self) -> None:
        """Cancel the questions under way."""
        await end_tasks(*(task for _, task in self._cards.values()))

    async def _card(self, room: str) -> Card:
        now_s = clock.monotonic_s()
        for name, (at_s, task) in list(self._cards.items()):
            if task.done() and now_s - at_s > FRESH_S:
                del self._cards[name]
        if room not in self._cards:
            if len(self._cards) >= MAX_ASKED:
                raise ProblemError(Code.NOT_READY, "the status of too many rooms is asked for", retry_after_s=1)
            self._cards[room] = now_s, asyncio.create_task(self._read_card(room))
        _, reading = self._cards[room]
        try:
            return await asyncio.shield(reading)
        except UnreadableError:
            why = "this ingress cannot read what the room's owner writes"
            raise ProblemError(Code.NOT_READY, why, retry_after_s=RETRY_AFTER_S) from None
        except (TimeoutError, KafkaError, LogReadError, UnsentError, OSError) as error:
            log.warning("room_status_unknown", room=room, error=repr(error))
            raise ProblemError(Code.NOT_READY, "the room's owner does not answer", retry_after_s=RETRY_AFTER_S) from None

    async def _read_card(self, room: str) -> Card:
        partition = partition_of(room, self._kafka.partitions(BROADCAST))
        async with asyncio.timeout(TIMEOUT_S), self._reads, LogReader(self._kafka, partition) as log_:
            _, at = await log_.bounds()
            me, now_ms = f"ingress/{self._settings.instance}", clock.unix_ms()
            question = Presence(Presence.VERSION, room, me, now_ms, 0, 0, now_ms, card=True)
            await self._writer.put(PRESENCE, room.encode(), encode_json(question))
            while True:
                for offset, value in await log_.read(at, _TO_THE_END):
                    if (card := self._card_in(partition, offset, value, room_hash(room))) is not None:
                        return card
                    at = offset + 1

    def _card_in(self, partition: int, offset: int, value: bytes, wanted: int) -> Card | None:
        """Return the room's card where a record of the broadcast log holds it.

        A record that cannot be read is counted and logged. Raises UnreadableError where it may hold
        the card: another version wrote it, or its card does not fit.
        """
        try:
            is_batch = decode_stamp(value).type is RecordType.BATCH  # what other records have does not matter here
            batch = decode_broadcast(value) if is_batch else None
            if not isinstance(batch, Batch):
                return None
            return next((decode_card(text) for entry, text in batch.cards() if entry.room == wanted), None)
        except BadRecordError as error:
            self._bad.note(offset, error, partition)
            if error.reason.is_foreign:
                raise UnreadableError from None
            return None
        except BadFrameError as error:
            self._bad.note(offset, BadRecordError(BadRecord.SCHEMA, str(error)), partition)
            raise UnreadableError from None
