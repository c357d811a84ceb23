"""Every service with its own Kafka user, on a Kafka that allows each what the table says and
nothing else: all of them work, and whoever has one user's password can do no more than its service.
So do services of others that write to the uplink: the programs of docs/uplink.md.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import aiohttp
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError, for_code
from pydantic import SecretStr

from cli.topics import survey
from devstack.system import System
from liveroom import clock, topics
from liveroom.access import OPERATOR, SERVICES, USERS, Access, rules, user_of, writer_rules
from liveroom.kafka_port import AioKafka
from liveroom.kinds import Kind, Role
from liveroom.records.codec import JsonReader
from liveroom.records.uplink import DeadLetter, Item, Uplink, encode_uplink
from liveroom.settings import KafkaSettings
from liveroom.topics import partition_of
from tests.e2e import uplink_writers
from tests.e2e.audience import knows_gateways
from tests.e2e.harness import Screen, Stage, seen
from tests.locked_kafka import SCRAM_WITH_RULES, LockedKafka, allow
from tests.log import read_all

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

PREFIX: Final = "a."
PARTITIONS: Final = 2
COUNTS: Final = {topic.name: topic.partitions or PARTITIONS for topic in topics.ALL}
WRITER: Final = "gifts"
PASSWORDS: Final = {name: secrets.token_hex(16) for name in (*USERS, WRITER)}
POLICY: Final = "min = 1\nmax = 1\n"


def credentials(name: str) -> dict[str, str]:
    """The settings of a service for its own Kafka user."""
    return {"KAFKA__USERNAME": user_of(name), "KAFKA__PASSWORD": PASSWORDS[name]}


@pytest.fixture
async def kafka() -> AsyncIterator[LockedKafka]:
    async with LockedKafka(SCRAM_WITH_RULES, {user_of(name): password for name, password in PASSWORDS.items()}) as kafka:
        await allow(kafka.bootstrap, [*rules(PREFIX), *writer_rules([user_of(WRITER)], PREFIX)])
        yield kafka


@asynccontextmanager
async def running(kafka: LockedKafka, folder: Path) -> AsyncIterator[Stage]:
    """A system of which the autoscaler starts the gateway."""
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    of_gateways = {f"LIVEROOM_{name}": value for name, value in credentials("edge").items()}
    own: dict[str, dict[str, str]] = {name: credentials(name) for name in SERVICES}
    own["autoscaler"] |= {"POLICY_FILE": str(policy), "LOCAL_SETTINGS": json.dumps(of_gateways)}
    async with (
        System(
            kafka.locked,
            prefix=PREFIX,
            partitions=PARTITIONS,
            edges=0,
            autoscalers=1,
            settings={"KAFKA__SECURITY": "SASL_PLAINTEXT", "KAFKA__SASL_MECHANISM": "SCRAM-SHA-512"},
            settings_of=own,
            folder=folder / "run",
        ) as system,
        aiohttp.ClientSession() as http,
        AsyncExitStack() as stack,
    ):
        await knows_gateways(system, 1)
        yield Stage(system, http, stack)


async def test_every_service_works_with_its_own_rights(kafka: LockedKafka, tmp_path: Path) -> None:
    async with running(kafka, tmp_path) as stage:
        screen: Screen = await stage.watch("lobby", "ann")
        gift = await stage.call("POST", "rooms/lobby/gifts", {"gift": "rose", "count": 1}, user="shop", role=Role.SERVICE)
        assert gift.status == 202
        assert (await stage.say("lobby", "bob")).status == 202
        await seen(lambda: {message.kind for message in screen.messages.values()} == {"gift", "danmaku"})
        muted = await stage.call("POST", "rooms/lobby/mutes", {"user": "bob", "why": "rude"}, role=Role.MODERATOR)
        assert muted.status in {200, 201, 202}, muted
        refused = await stage.say("lobby", "bob")
        assert (refused.status, refused.code) == (403, "muted")
        revoked = await stage.call("POST", "revocations", {"user": "carl"}, user="op")
        assert revoked.status == 200, revoked
        async with asyncio.timeout(20):
            while (listed := await stage.call("GET", "users/ann/connections", user="op")).code == "not_ready":  # noqa: ASYNC110 - an ingress is asked
                await asyncio.sleep(0.2)
        assert (listed.body["total"], listed.body["missing"]) == (1, []), listed
        status = await stage.call("GET", "rooms/lobby", user="op")
        assert status.status == 200, status
        headers = {"Authorization": f"Bearer {stage.token('op', Role.OPERATOR)}"}
        async with stage.http.post(f"{stage.system.autoscalers[0].url}/v1/pool/pause", headers=headers) as answer:
            assert answer.status == 200
        await write(kafka, "uplink", b"nonsense")
        await others_write(kafka, stage, tmp_path / "classes")
        async with asyncio.timeout(20):
            for topic in topics.ALL:  # whatever a service writes is there
                while not await read_all(kafka.bootstrap, PREFIX + topic.name, range(COUNTS[topic.name])):  # noqa: ASYNC110 - others write it
                    await asyncio.sleep(0.2)
        lacking = {"liveroom_kafka_under_replicated_partitions", "liveroom_kafka_offline_partitions"}
        asked = [await service.metrics() for service in stage.system.services if service.name.split("-")[0] != "edge"]
        told = {name: value for metrics in asked for name, value in metrics.items() if name.split("{")[0] in lacking}
        assert told == {f'{name}{{topic="{topic.name}"}}': 0 for name in lacking for topic in topics.ALL}, (
            "each asks about its own"
        )
    for log in (tmp_path / "run").rglob("*.log"):
        assert "AuthorizationFailed" not in await asyncio.to_thread(log.read_text), log.name


async def others_write(kafka: LockedKafka, stage: Stage, classes: Path) -> None:
    """Every program of docs/uplink.md shows a gift, in the partition of its room."""
    room = next(room for room in map("room-{}".format, range(99)) if crc32(room.encode()) % 2 != partition_of(room, 2))
    screen = await stage.watch(room, "ann")
    environment = {
        "KAFKA_BOOTSTRAP": kafka.locked,
        "KAFKA_USERNAME": user_of(WRITER),
        "KAFKA_PASSWORD": PASSWORDS[WRITER],
        "KAFKA_SECURITY": "SASL_PLAINTEXT",
        "UPLINK": f"{PREFIX}uplink",
    }
    commands = await asyncio.to_thread(uplink_writers.commands, classes)
    assert len(commands) == 4

    async def give(name: str, gift: str = "rose") -> int:
        return await uplink_writers.written(commands[name], room, "u42", f"order-{name}", gift, "3", environment=environment)

    assert set(await asyncio.gather(*map(give, commands))) == {partition_of(room, PARTITIONS)}
    await give("gift_confluent")
    await give("gift_confluent", "boat")
    await give("gift_confluent")
    await seen(lambda: len(screen.messages) == len(commands))
    shown = {(message.id, message.user, bytes(message.data)) for message in screen.messages.values()}
    assert {(id_, user, msgspec.json.encode(json.loads(data))) for id_, user, data in shown} == {
        (f"order-{name}", "u42", b'{"gift":"rose","count":3}') for name in commands
    }
    for compression in uplink_writers.COMPRESSIONS:
        gift = Item(Kind.GIFT, msgspec.Raw(b'{"gift":"rose","later":"%b"}' % (b"x" * 2_000)))
        value = encode_uplink(Uplink(Uplink.VERSION, room, compression, "u42", clock.unix_ms(), [gift]))
        await asyncio.to_thread(uplink_writers.write_compressed, value, room, environment, compression)
    await seen(lambda: {*uplink_writers.COMPRESSIONS} <= {message.id for message in screen.messages.values()})
    letters: list[tuple[str, str]] = []
    async with asyncio.timeout(20):
        while len(letters) < 2:
            records = await read_all(kafka.bootstrap, f"{PREFIX}dead-letter", range(PARTITIONS))
            letters = sorted((letter.reason, letter.detail) for letter in map(read_letter, records))
    assert letters[0] == ("id_reused", "'u42' sent 'order-gift_confluent' before, with another content")
    assert [reason for reason, _ in letters] == ["id_reused", "undecodable"]


def read_letter(record: ConsumerRecord) -> DeadLetter:
    return JsonReader(DeadLetter).read(record.value)


async def write(kafka: LockedKafka, topic: str, value: bytes) -> None:
    """Write a record as an administrator."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(PREFIX + topic, value)


def client(kafka: LockedKafka, name: str) -> dict[str, Any]:
    return {
        "bootstrap_servers": kafka.locked,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": user_of(name),
        "sasl_plain_password": PASSWORDS[name],
    }


async def makes_topics(kafka: LockedKafka) -> None:
    """Have an administrator make all topics, each with a record, unless they are there."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(PREFIX + name, count, 1) for name, count in COUNTS.items()])
    finally:
        await admin.close()
    for topic in topics.ALL:
        await write(kafka, topic.name, b"some")


async def hidden(kafka: LockedKafka, name: str) -> set[str]:
    """The topics that a user may not even ask about, so that it can neither read nor write them."""
    admin = AIOKafkaAdminClient(**client(kafka, name))
    await admin.start()
    try:
        described = await admin.describe_topics([PREFIX + topic for topic in COUNTS])
    finally:
        await admin.close()
    refused = [each["topic"] for each in described if for_code(each["error_code"]) is TopicAuthorizationFailedError]
    return {topic.removeprefix(PREFIX) for topic in refused}


async def may_write(kafka: LockedKafka, name: str, topic: str) -> bool:
    async with AIOKafkaProducer(**client(kafka, name), request_timeout_ms=5000) as producer:
        try:
            await producer.send_and_wait(PREFIX + topic, b"mine", partition=0)
        except TopicAuthorizationFailedError:
            return False
        return True


async def may_read(kafka: LockedKafka, name: str, topic: str) -> bool:
    async with AIOKafkaConsumer(**client(kafka, name), auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(PREFIX + topic, partition) for partition in range(COUNTS[topic])])
        try:
            async with asyncio.timeout(10):
                return bool(await consumer.getone())
        except TopicAuthorizationFailedError:
            return False


async def may_join(kafka: LockedKafka, name: str, group: str) -> bool:
    """Whether a user may ask for the offsets of a group, which takes the right to read it."""
    async with AIOKafkaConsumer(**client(kafka, name), group_id=PREFIX + group) as consumer:
        tp = TopicPartition(f"{PREFIX}{SERVICES['scheduler'].reads[0].name}", 0)
        consumer.assign([tp])
        try:
            await consumer.committed(tp)
        except GroupAuthorizationFailedError:
            return False
        except TopicAuthorizationFailedError:
            return True
        return True


async def test_each_user_may_do_what_the_table_says_and_nothing_else(kafka: LockedKafka) -> None:
    await makes_topics(kafka)
    for name, access in {**USERS, WRITER: Access(reads=(), writes=(topics.UPLINK,), creates=False)}.items():
        await check_rights(kafka, name, access)
    settings = KafkaSettings(
        bootstrap=kafka.locked,
        prefix=PREFIX,
        partitions=PARTITIONS,
        security="SASL_PLAINTEXT",
        username=user_of(OPERATOR),
        password=SecretStr(PASSWORDS[OPERATOR]),
    )
    found = await survey(AioKafka(settings))
    assert found.extents.keys() == COUNTS.keys(), "an operator sees all topics with `liveroom topics`"


async def check_rights(kafka: LockedKafka, name: str, access: Access) -> None:
    every = [topic.name for topic in topics.ALL]
    seen = [topic for topic in every if topic not in await hidden(kafka, name)]
    assert seen == [topic.name for topic in access.topics], name
    assert {topic for topic in seen if await may_write(kafka, name, topic)} == {topic.name for topic in access.writes}, name
    assert {topic for topic in seen if await may_read(kafka, name, topic)} == {topic.name for topic in access.reads}, name
    groups = [group for each in USERS.values() for group in each.groups]
    assert {group for group in groups if await may_join(kafka, name, group)} == set(access.groups), name

    admin = AIOKafkaAdminClient(**client(kafka, name))
    await admin.start()
    try:
        deleted = await admin.delete_topics([PREFIX + topic for topic in every])
        foreign = [topic.name for topic in topics.ALL if topic not in access.topics]
        made = await admin.create_topics([NewTopic(name, 1, 1) for name in ("foreign", f"{PREFIX}foreign", *foreign)])
    finally:
        await admin.close()
    assert {for_code(code) for _, code in deleted.topic_error_codes} == {TopicAuthorizationFailedError}, name
    assert {for_code(code) for _, code, *_ in made.topic_errors} == {TopicAuthorizationFailedError}, name
