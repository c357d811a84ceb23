"""Pulls on the real Kafka: what the ring no longer holds is read again from the log, once for all
who ask.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import pytest

from edge import pulls
from edge.admission import Admission
from edge.fanout import FanOut
from edge.gateway import Gateway
from edge.hub import Hub
from edge.pull_grants import PullGrant
from edge.pull_queue import RoomRange
from edge.pull_reads import PartitionRead, read_rooms
from edge.pulls import Pulls
from edge.upgrade import Upgrades
from liveroom import metric_catalog
from liveroom.bodies import Clear
from liveroom.broadcast_log import QueueReader
from liveroom.closecodes import Close
from liveroom.kafka import Producer, ensure_topics
from liveroom.kafka_port import AioKafka, Kafka
from liveroom.kinds import Kind, Role
from liveroom.moderation import Rules
from liveroom.records.broadcast import Anchor, BatchParts, Claim, RoomEntry, RoomFlags, encode_batch, encode_claim
from liveroom.records.control import Moderation, RuleKind
from liveroom.records.revocations import Revocation
from liveroom.records.sections import MUST, Section
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings, KafkaSettings
from liveroom.topics import BROADCAST, room_hash
from liveroom.web import serve
from liveroom.wire import BatchHeader, Message, decode_pulled, encode_message, pack_payload
from tests.edge.conftest import PLAIN, Secured
from tests.edge.harness import tls_of
from tests.log import cut, producing

pytestmark = pytest.mark.kafka
OWNER, OTHER = b"o" * 16, b"p" * 16
EPOCH = 7


@dataclass
class Desk:
    """A gateway that reads a log which a test writes."""

    gateway: Gateway
    runtime: Runtime
    queue: QueueReader
    producer: Producer
    url: str
    http: aiohttp.ClientSession
    claim: int = 0
    seq: int = 0
    rseq: int = 0
    serial: int = 0
    messages: list[Message] = field(default_factory=list)

    async def rule(self) -> None:
        """Claim the partition, or renew the claim."""
        self.claim = await self.producer.send(
            BROADCAST, encode_claim(Claim(1, OWNER, 1, "o", self.serial)), partition=0, timeout_s=5
        )

    async def write(
        self,
        *kinds: Kind,
        room: str = "r",
        owner: bytes = OWNER,
        by: str = "u",
        others: Sequence[Section] = (),
        **data: Any,
    ) -> int:
        """Write a batch with a message of each kind, and sections of a later version; return its
        offset.
        """
        messages = []
        for kind in kinds:
            self.seq += 1
            self.rseq += kind is not Kind.DANMAKU
            body = msgspec.Raw(msgspec.json.encode(data))
            rseq = self.rseq if kind is not Kind.DANMAKU else 0
            messages.append(Message(self.seq, kind, f"i{self.seq}", by, 1, rseq, data=body))
        first = self.seq - len(messages) + 1
        reliable = [encode_message(message) for message in messages if message.rseq]
        chatter = [encode_message(message) for message in messages if not message.rseq]
        payload = pack_payload(BatchHeader(room, EPOCH, (first, self.seq), self.rseq, at=1), reliable, chatter)
        flags = (RoomFlags.DEFLATED if payload.deflated else 0) | (RoomFlags.CLEAR if Kind.CLEAR in kinds else 0)
        sizes = len(payload.data), payload.reliable_size
        entry = RoomEntry(room_hash(room), first, self.seq, self.rseq, len(messages), 0, *sizes, EPOCH, flags)
        self.serial += owner is OWNER
        anchor = Anchor(0, self.claim, None)
        value = encode_batch(BatchParts(1, owner, self.serial, anchor, 0, 1, 1, [(entry, payload.data)], others=others))
        offset = await self.producer.send(BROADCAST, value, partition=0, timeout_s=5)
        if owner is OWNER:
            self.messages += messages
        else:
            self.seq, self.rseq = first - 1, self.rseq - len(reliable)
        return offset

    async def caught_up(self, offset: int) -> None:
        """Wait until the gateway has read a record."""
        async with asyncio.timeout(10):
            while self.queue.next_offset(0) <= offset:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)

    def let_in(self, token: str = "tok", *rooms: str, user: str = "") -> None:
        """Grant pulls to a user, by default one of the token's name."""
        self.gateway.grants.grant(token, PullGrant(user or token, Role.VIEWER, rooms))

    async def ask(self, room: str = "r", token: str = "tok", address: str = "", **query: Any) -> tuple[int, bytes]:
        """Pull; `address`: the one that a proxy reports."""
        url = f"{self.url}/v1/rooms/{room}/messages"
        headers = {"Authorization": f"Bearer {token}"} | ({"X-Forwarded-For": address} if address else {})
        async with self.http.get(url, params=query, headers=headers) as answer:
            return answer.status, await answer.read()

    async def pull(self, **query: Any) -> tuple[Any, list[Message]]:
        status, body = await self.ask(**query)
        assert status == 200, body
        return decode_pulled(body)

    def count(self, outcome: str) -> float:
        return float(self.runtime.metrics.counter(metric_catalog.PULLS, outcome)._value.get())

    def refused(self, reason: str) -> float:
        return float(self.runtime.metrics.counter(metric_catalog.PULLS_REFUSED, reason)._value.get())

    def wanted(self, after_rseq: int = 0) -> list[Message]:
        return [message for message in self.messages if message.rseq > after_rseq]


@asynccontextmanager
async def desk(kafka: KafkaSettings, secured: Secured = PLAIN, **changes: Any) -> AsyncIterator[Desk]:
    settings = EdgeSettings(instance="e1", ticket_keys={"k1": "a" * 32}, kafka=kafka, **changes, **secured.settings)
    runtime = Runtime("edge")
    await ensure_topics(AioKafka(kafka), [BROADCAST])
    gateway = Gateway(settings, Hub(), Rules(), runtime.metrics, 1)
    upgrades = Upgrades(gateway, Admission(gateway, runtime), runtime)
    tls = await tls_of(settings, runtime, upgrades.connections)
    queue = QueueReader(AioKafka(kafka), runtime.metrics)
    async with producing(kafka, runtime.metrics) as producer:
        await queue.start()
        answering = Pulls(AioKafka(kafka), gateway, upgrades, runtime, queue.next_offset)
        reading = asyncio.create_task(FanOut(gateway, runtime).follow(queue))
        try:
            async with (
                serve(upgrades.app, "127.0.0.1", 0, shutdown_timeout_s=0.2, accepting=tls) as (_, port),
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200, ssl=secured.trusting or True)) as http,
            ):
                scheme = "https" if secured.trusting else "http"
                made = Desk(gateway, runtime, queue, producer, f"{scheme}://127.0.0.1:{port}", http)
                await made.rule()
                made.let_in()
                yield made
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await answering.close()
            await queue.stop()


@pytest.fixture
def kafka(kafka_settings: KafkaSettings) -> KafkaSettings:
    return kafka_settings.model_copy(update={"partitions": 1})


async def test_reliable_messages_behind_a_number_come_in_order_up_to_now(kafka: KafkaSettings, secured: Secured) -> None:
    async with desk(kafka, secured) as here:
        first = await here.write(Kind.DANMAKU, Kind.GIFT)
        for _ in range(5):
            last = await here.write(Kind.GIFT, Kind.DANMAKU, Kind.GIFT)
        await here.write(Kind.GIFT, room="elsewhere")
        await here.caught_up(last + 1)
        here.messages.pop()
        pulled, messages = await here.pull(pos=f"0.{first}", after_rseq=1)
        assert messages == here.wanted(1)
        assert (pulled.epoch, pulled.rseq, pulled.more, pulled.gone) == (EPOCH, 11, False, False)
        pulled, messages = await here.pull(pos=f"0.{first}", after_seq=3)
        assert messages == [message for message in here.messages if message.seq > 3]
        pulled, messages = await here.pull(before_seq=6)
        assert [message.seq for message in messages] == [1, 2, 3, 4, 5]
        pulled, messages = await here.pull(pos=pulled.pos, after_rseq=11)
        assert (messages, pulled.more) == ([], False)


async def test_a_pull_over_a_batch_of_a_later_version_fails_and_never_leaves_a_hole(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "UNWATCHED_S", 0.0)  # or the second pull would end before that batch, as the first did
    async with desk(kafka) as here:
        first = await here.write(Kind.GIFT)
        await here.write(Kind.GIFT, others=[Section(0x100, b"passed over")])
        last = await here.write(Kind.GIFT)
        await here.caught_up(last)
        _, messages = await here.pull(pos=f"0.{first}", after_rseq=0)
        assert messages == here.wanted()
        await here.write(Kind.GIFT, others=[Section(MUST | 0x100, b"must be understood")])
        last = await here.write(Kind.GIFT)
        await here.caught_up(last)
        status, body = await here.ask(pos=f"0.{first}", after_rseq=0)
        assert status == 503, body


async def test_a_thousand_pulls_of_one_range_are_one_read(kafka: KafkaSettings) -> None:
    async with desk(kafka) as here:
        first = await here.write(Kind.GIFT)
        last = [await here.write(Kind.GIFT, Kind.DANMAKU) for _ in range(20)][-1]
        await here.caught_up(last)
        for number in range(1000):
            here.let_in(f"tok{number}")
        answers = await asyncio.gather(
            *(here.ask(token=f"tok{number}", pos=f"0.{first + number % 3}", after_rseq=number % 3) for number in range(1000))
        )
        assert {status for status, _ in answers} == {200}
        for number, (_, body) in enumerate(answers):
            assert decode_pulled(body)[1] == here.wanted(number % 3)
        assert here.count("read") <= 2
        assert here.count("read") + here.count("shared") == 1000


async def test_the_log_and_the_ring_are_joined_without_a_hole_or_a_double(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.hub.RING_BYTES", 600)
    async with desk(kafka) as here:
        here.gateway.hub.add_pending(_Nobody(), "r", 0)
        first = await here.write(Kind.GIFT)
        last = [await here.write(Kind.GIFT, Kind.DANMAKU) for _ in range(20)][-1]
        await here.caught_up(last)
        room = here.gateway.hub.rooms[room_hash("r")]
        assert 0 < len(room.ring) < 20
        assert (await here.pull(pos=f"0.{first}", after_rseq=1))[1] == here.wanted(1)
        assert here.count("read") == 1
        newest = room.base[1]
        assert (await here.pull(pos=f"0.{first}", after_rseq=newest))[1] == here.wanted(newest)
        assert (here.count("read"), here.count("ring")) == (1, 1)
        pulled, _ = await here.pull(pos=f"0.{last}", after_rseq=newest)
        assert pulled.pos == f"0.{last + 1}", "the ring begins before, and the answer goes on behind it"


async def test_messages_that_retention_removed_are_reported_as_gone(kafka: KafkaSettings) -> None:
    async with desk(kafka) as here:
        offsets = [await here.write(Kind.GIFT) for _ in range(4)]
        await here.rule()
        offsets += [await here.write(Kind.GIFT) for _ in range(6)]
        await here.caught_up(offsets[-1])
        await cut(kafka, BROADCAST, 0, here.claim)
        pulled, messages = await here.pull(pos=f"0.{offsets[0]}", after_rseq=1)
        assert pulled.gone
        assert messages == here.wanted(4)
        pulled, messages = await here.pull(pos=f"0.{offsets[3]}", after_rseq=4)
        assert (messages, pulled.gone) == (here.wanted(4), False)


async def test_nobody_goes_back_further_than_is_allowed(kafka: KafkaSettings) -> None:
    async with desk(kafka, pull_back_s=1.5) as here:
        offsets = [await here.write(Kind.GIFT) for _ in range(3)]
        await asyncio.sleep(2)
        offsets.append(await here.write(Kind.GIFT))
        await here.caught_up(offsets[-1])
        for query in ({"pos": f"0.{offsets[0]}"}, {}):
            pulled, messages = await here.pull(**query, after_rseq=1)
            assert (messages, pulled.gone, pulled.rseq) == (here.wanted(3), True, 4)


async def test_what_was_cleared_is_not_given_out_again_and_leaves_no_hole(kafka: KafkaSettings) -> None:
    async with desk(kafka) as here:
        first = await here.write(Kind.GIFT, Kind.DANMAKU, by="rude")
        await here.write(Kind.GIFT, Kind.DANMAKU)
        last = await here.write(Kind.CLEAR, **msgspec.to_builtins(Clear(user="rude")))
        await here.caught_up(last)
        _, messages = await here.pull(pos=f"0.{first}", after_seq=0)
        assert [(message.seq, message.rseq, message.kind) for message in messages] == [
            (1, 1, Kind.CLEAR),
            (3, 2, Kind.GIFT),
            (4, 0, Kind.DANMAKU),
            (5, 3, Kind.CLEAR),
        ]
        assert msgspec.json.decode(messages[0].data, type=Clear) == Clear(id="i1", sender="rude")


async def test_what_a_deposed_owner_wrote_is_not_given_out(kafka: KafkaSettings) -> None:
    async with desk(kafka) as here:
        first = await here.write(Kind.GIFT)
        await here.write(Kind.GIFT, owner=OTHER)
        last = await here.write(Kind.GIFT)
        await here.caught_up(last)
        assert (await here.pull(pos=f"0.{first}", after_rseq=0))[1] == here.wanted()


async def test_a_long_history_comes_in_parts_that_fit(kafka: KafkaSettings) -> None:
    async with desk(kafka) as here:
        offsets = [await here.write(*[Kind.GIFT] * 400, note="x" * 100) for _ in range(8)]
        await here.caught_up(offsets[-1])
        pos, rseq, answers, got = f"0.{offsets[0]}", 0, 0, list[Message]()
        more = True
        while more:
            pulled, messages = await here.pull(pos=pos, after_rseq=rseq)
            got += messages
            pos, rseq, more, answers = pulled.pos, pulled.rseq, pulled.more, answers + 1
        assert got == here.wanted()
        assert answers == 4


async def test_a_refused_pull_gets_its_reason(kafka: KafkaSettings) -> None:
    async with desk(kafka, user_pulls_burst=10) as here:
        here.let_in("bound", "mine")

        async def code(**query: Any) -> tuple[int, str]:
            status, body = await here.ask(**query)
            return status, msgspec.json.decode(body)["code"]

        assert await code(token="other") == (401, "token_invalid")
        assert await code(token="bound") == (403, "forbidden")
        restricted = Moderation(1, "mine", 1, RuleKind.MODE, "restricted", value=True)
        here.gateway.joins._rules.apply(restricted)
        assert await code(room="mine", token="bound") == (403, "forbidden"), "its token does not name the room"
        here.gateway.joins._rules.apply(Moderation(1, "mine", 2, RuleKind.MODE, "restricted", value=False))
        here.let_in("gone", "mine")
        here.gateway.revocations.apply(Revocation(1, "r", 0, 5, 5, "gone"))
        assert await code(token="gone", room="mine") == (401, "revoked")
        assert here.refused("revoked") == 1
        assert await code(room="no%20room") == (404, "room_invalid")
        for query in (
            {"pos": "1.5"},
            {"pos": "x"},
            {"pos": "0.-1"},
            {"after_rseq": "-1"},
            {"after_seq": "1e3"},
            {"epoch": "9" * 30},
        ):
            assert await code(**query, token="bound", room="mine") == (422, "schema")
        statuses = [(await here.ask(after_rseq=0, kinds="gift"))[0] for _ in range(15)]  # `kinds` may be a newer client's
        assert statuses[0] == 200
        assert statuses[-1] == 429


async def test_a_puller_may_pull_for_a_while_after_its_connection_ended_and_then_no_more(kafka: KafkaSettings) -> None:
    async with desk(kafka) as here:
        now_s = time.monotonic()
        here.gateway.grants.end("tok", now_s + 300)
        here.gateway.grants.expire(now_s + 299)
        assert (await here.ask(after_rseq=0))[0] == 200
        here.gateway.grants.expire(now_s + 300)
        assert (await here.ask(after_rseq=0))[0] == 401


async def test_a_room_without_viewers_or_without_messages_is_not_read_again_for_every_pull(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges: list[RoomRange] = []
    reading = read_rooms

    async def noted(kafka: Kafka, partition: int, wanted: Sequence[RoomRange], **options: Any) -> PartitionRead:
        ranges.extend(wanted)
        return await reading(kafka, partition, wanted, **options)

    monkeypatch.setattr(pulls, "read_rooms", noted)
    monkeypatch.setattr(pulls, "UNWATCHED_S", 0.0)
    async with desk(kafka, user_pulls_burst=1000) as here:
        offsets = [await here.write(Kind.GIFT, Kind.DANMAKU) for _ in range(10)]
        await here.caught_up(offsets[-1])
        for number in range(30):
            assert (await here.pull(pos=f"0.{offsets[0]}", after_rseq=number % 10))[1] == here.wanted(number % 10)
            assert (await here.pull(room=f"invented-{number}"))[1] == []
        read, end = here.queue.next_offset(0), offsets[0]
        assert ranges[0] == (room_hash("r"), end, read)
        assert len(ranges) <= 2, "of what is before the first pull nothing is known yet"
        offsets += [await here.write(Kind.GIFT) for _ in range(5)]
        await here.caught_up(offsets[-1])
        assert (await here.pull(pos=f"0.{offsets[0]}", after_rseq=0))[1] == here.wanted()
        assert (await here.pull(room="invented-99"))[1] == []
        assert [range_.start for range_ in ranges[2:]] == [read] * len(ranges[2:])
        assert len(ranges) <= 4


async def test_a_user_has_one_budget_on_all_its_connections_and_the_refusals_name_it(kafka: KafkaSettings) -> None:
    async with desk(kafka, user_pulls_burst=5, user_pulls_per_s=0.01, user_pull_bytes_per_min=20_000) as here:
        last = [await here.write(*[Kind.GIFT] * 100, note="x" * 100) for _ in range(2)][-1]
        await here.caught_up(last)
        for number in range(10):
            here.let_in(f"tok{number}", user="many")
        statuses = [(await here.ask(token=f"tok{number}", before_seq=1))[0] for number in range(10)]
        assert statuses == [200] * 5 + [429] * 5
        here.let_in("a", user="large")
        here.let_in("b", user="large")
        assert (await here.ask(token="a", after_rseq=0))[0] == 200
        status, body = await here.ask(token="b", after_rseq=0)
        problem = msgspec.json.decode(body)
        assert (status, problem["code"]) == (429, "rate_user")
        assert 1 < problem["retry_after_s"] < 120
        assert (await here.ask(after_rseq=0))[0] == 200, "others have their own budgets"
        refused = {reason: here.refused(reason) for reason in ("user_pulls", "user_bytes", "address_pulls", "address_bytes")}
        assert refused == {"user_pulls": 5, "user_bytes": 1, "address_pulls": 0, "address_bytes": 0}


async def test_all_users_of_an_address_share_its_budget_and_one_ipv6_subscriber_has_one_address(kafka: KafkaSettings) -> None:
    limits = {"address_pulls_burst": 3, "address_pulls_per_s": 0.01, "proxies": ("127.0.0.0/8",)}
    async with desk(kafka, PLAIN, **limits) as here:
        for number in range(5):
            here.let_in(f"tok{number}")

        async def statuses(*addresses: str) -> list[int]:
            asked = [await here.ask(token=f"tok{number}", address=a, before_seq=1) for number, a in enumerate(addresses)]
            return [status for status, _ in asked]

        assert await statuses(*[f"2001:db8::{number}" for number in range(1, 5)]) == [200, 200, 200, 429]
        status, body = await here.ask(token="tok4", address="2001:db8::ffff:1", before_seq=1)
        assert (status, msgspec.json.decode(body)["code"]) == (429, "rate_address")
        assert await statuses("2001:db8:0:1::1", "203.0.113.1", "203.0.113.2") == [200, 200, 200]
        assert here.refused("address_pulls") == 2


class _Nobody:
    """Keeps a room local."""

    user = "nobody"
    user_hash = 1
    device_hash = 0
    address = "192.0.2.1"
    role = Role.VIEWER
    named_rooms: tuple[str, ...] = ()
    form = 0
    request_id = "i"

    def __init__(self) -> None:
        self.rooms: dict[int, Any] = {}

    def push(self, _: Any) -> int:
        return 1

    def send(self, _: bytes) -> None:
        return

    def close(self, _: Close, __: str = "") -> None:
        return

    def replay(self, *_: Any, **__: Any) -> None:
        return
