"""`liveroom dead-letters`: what it shows of whatever lies in the topic, and what it sends again."""

import asyncio
import json
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord
from typer.testing import CliRunner, Result

from cli.commands import app
from cli.dead_letters.command import _follow
from cli.dead_letters.letters import Letter, Wanted, json_of, line_of, read, why_not_again
from cli.dead_letters.topic import DeadLetterTopic
from cli.endpoints import UsageError
from cli.times import moment_s, span_s
from devstack.system import System
from liveroom.kafka import ensure_topics
from liveroom.kafka_port import AioKafka, TopicPartition
from liveroom.records.codec import encode_json
from liveroom.records.uplink import SENT_AGAIN, DeadLetter
from liveroom.settings import KafkaSettings
from liveroom.topics import partition_of
from tests.e2e.audience import Audience, settled
from tests.hostile import TEXTS
from tests.log import read_all
from viewer.ledger import Ledger

AT_MS: Final = 1_700_000_000_000
TP: Final = TopicPartition("dead-letter", 2)


class Stored(NamedTuple):
    """A record as Kafka has it."""

    value: bytes | None
    topic: str = "dead-letter"
    partition: int = 2
    offset: int = 5
    timestamp: int = AT_MS
    timestamp_type: int = 1
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


def gift(id_: str = "order-1", room: str = "lobby", user: str = "u42", data: str = '{"gift": "rose"}') -> bytes:
    return written(id_, room, user, "gift", data)


def written(id_: str, room: str, user: str, kind: str, data: str) -> bytes:
    items = f'[{{"kind":"{kind}","data":{data}}}]'
    return f'{{"v":1,"room":"{room}","id":"{id_}","user":"{user}","at_ms":{AT_MS},"items":{items}}}'.encode()


LIKE: Final = written("c", "lobby", "u42", "like", '{"count":"many"}')


def letter(value: bytes, reason: str = "wrong_partition", offset: int = 7, key: bytes = b"lobby", detail: str = "") -> bytes:
    return encode_json(DeadLetter(1, "uplink", 3, offset, reason, detail, AT_MS, key, value))


def found(value: bytes, reason: str = "wrong_partition", **more: Any) -> Letter:
    return read(Stored(letter(value, reason, **more)))


def test_a_letter_is_a_line() -> None:
    assert line_of(found(gift(), detail="in 3, not in 2"), is_sent_again=True) == (
        "2023-11-14 22:13:20  uplink-3@7  wrong_partition  lobby  gift  u42  order-1  122 bytes"
        "  The room lives in another partition than the one the record is in. (in 3, not in 2)  -- sent again"
    )
    garbage = read(Stored(b"\xff\x00"))
    assert line_of(garbage).startswith("2023-11-14 22:13:20  dead-letter-2@5  unreadable  -  -  -  -  2 bytes  ")
    of_later = found(b"nonsense", "of_later", key=b"")
    assert line_of(of_later).split("  ")[2:8] == ["of_later", "-", "-", "-", "-", "8 bytes"]


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_texts_turn_nothing_and_move_no_cursor(text: str) -> None:
    record = json.dumps({"room": text, "user": text, "id": text, "items": [{"kind": text}, 7]}).encode()
    hostile = found(record, text, key=text.encode(errors="replace")[:9], detail=text)
    for made in (hostile, read(Stored(text.encode(errors="replace")))):
        for line in (line_of(made), json_of(made, "utf-8", is_sent_again=False)):
            assert len(line.splitlines()) == 1
            assert not {"\x1b", "\x07", "\r", "\N{RIGHT-TO-LEFT OVERRIDE}", "\x9b", "\0"} & set(line)


def test_as_json_the_record_is_what_it_was() -> None:
    shown = json.loads(json_of(found(gift(data='{"gift":\n 12345678901234567890}')), "ascii", is_sent_again=False))
    assert shown["record"]["items"][0]["data"] == {"gift": 12345678901234567890}
    assert (shown["code"], shown["room"], shown["kinds"], shown["offset"]) == ("wrong_partition", "lobby", ["gift"], 7)
    for value in (b"\xff{}", b'{"a":"\\ud800"}', b"[" * 500, b"", b"{" * 70_000):
        shown = json.loads(json_of(found(value, "undecodable"), "utf-8", is_sent_again=False))
        assert "record" not in shown
        assert shown["size_bytes"] == len(value)


@pytest.mark.parametrize(
    ("value", "reason", "why"),
    [
        pytest.param(gift(), "wrong_partition", "", id="it was in a wrong partition"),
        pytest.param(gift(), "wrong_key", "", id="it had a wrong key"),
        pytest.param(gift(), "unhandled", "", id="a defect"),
        pytest.param(gift(), "id_reused", "id of its own", id="another one has its id"),
        pytest.param(LIKE, "schema", "like: Expected `int`", id="a body that is not of its kind"),
        pytest.param(gift().replace(b'"v":1', b'"v":9'), "version", "version 9", id="still of a later version"),
        pytest.param(gift().replace(b'"gift"', b'"wish"', 1), "unknown", "unknown", id="still a kind of a later version"),
        pytest.param(gift()[:-9], "too_large", "undecodable", id="cut off"),
        pytest.param(b"", "undecodable", "undecodable", id="nothing"),
        pytest.param(gift(room="a b"), "schema", "room", id="no room"),
    ],
)
def test_what_can_be_sent_again_is_what_a_broadcaster_takes(value: bytes, reason: str, why: str) -> None:
    said = why_not_again(found(value, reason))
    assert why in said if why else said == ""


def test_times_are_spans_or_dates() -> None:
    assert [span_s(text) for text in ("90s", "10m", "1h30m", "2d")] == [90, 600, 5400, 172_800]
    assert (moment_s("10m", 1000), moment_s("10m", 1000, ahead=True)) == (400, 1600)
    assert moment_s("2023-11-14T22:13:20+00:00", 0) == AT_MS / 1000
    for text in ("", "soon", "10", "5x", "99999-01-01"):
        with pytest.raises(UsageError):
            moment_s(text, 0)


class Coming:
    """A consumer to which letters come after those that were there."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self.batches = [{TP: [Stored(value, offset=7 + number)]} for number, value in enumerate(values)]
        self.sought: list[tuple[TopicPartition, int]] = []

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.sought.append((partition, offset))

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[Stored]]:
        assert timeout_ms > 0
        if not self.batches:
            raise BrokenPipeError  # in place of a reader that goes
        return self.batches.pop(0)


async def test_letters_that_come_are_shown_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    mark = encode_json(DeadLetter(1, "uplink", 3, 8, SENT_AGAIN, "", AT_MS, b"", b""))
    consumer: Any = Coming([letter(gift("a")), letter(LIKE, "schema"), mark, letter(gift("b"), offset=8)])
    topic = DeadLetterTopic(consumer, {TP: 0}, {TP: 7})
    with pytest.raises(BrokenPipeError):
        await _follow(topic, Wanted(kinds=frozenset({"gift"})), as_json=True)
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["id"], each["is_sent_again"]) for each in shown] == [("a", False), ("b", True)]
    assert consumer.sought == [(TP, 7)]


async def run(settings: KafkaSettings, *words: str, given: str = "") -> Result:
    """Run the command; return its outcome."""
    where = ("--kafka", settings.bootstrap, "--prefix", settings.prefix)
    return await asyncio.to_thread(CliRunner().invoke, app, ["dead-letters", *words, *where], given)


async def uplink(settings: KafkaSettings) -> list[ConsumerRecord]:
    return await read_all(settings.bootstrap, f"{settings.prefix}uplink", range(settings.partitions))


@pytest.mark.kafka
async def test_letters_are_found_by_what_they_say_and_sent_again_once(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEROOM_RUNTIME_DIR", str(tmp_path / "run"))
    missing = await run(kafka_settings)
    assert (missing.exit_code, "there is no topic" in missing.stderr) == (2, True)
    await ensure_topics(AioKafka(kafka_settings))
    values = [
        letter(gift("a"), offset=1),
        letter(gift("a"), offset=1),  # after a take-over
        b"\x1b[2J nonsense",
        letter(gift("b", room="other", user="ann"), "wrong_key", offset=2, key=b"lobby"),
        letter(LIKE, "schema", offset=3),
    ]
    async with AIOKafkaProducer(bootstrap_servers=kafka_settings.bootstrap) as producer:
        for number, value in enumerate(values):
            await producer.send_and_wait(f"{kafka_settings.prefix}dead-letter", value, partition=number % 2)

    shown = await run(kafka_settings)
    assert (shown.exit_code, len(shown.stdout.splitlines())) == (0, 4), shown
    assert "\x1b" not in shown.stdout
    assert "-- 4 dead letters" in shown.stderr
    for words, ids in (
        (("--code", "wrong_key"), ["b"]),
        (("--room", "lobby"), ["a", "c"]),
        (("--user", "ann"), ["b"]),
        (("--kind", "gift", "--partition", "3"), ["a", "b"]),
        (("--kind", "danmaku"), []),
        (("--since", "1h", "--limit", "1", "--kind", "like"), ["c"]),
        (("--since", "2099-01-01"), []),
    ):
        lines = [json.loads(line) for line in (await run(kafka_settings, "--json", *words)).stdout.splitlines()]
        assert sorted(line["id"] for line in lines) == ids, words

    dry = await run(kafka_settings, "send-again", "--dry-run")
    assert (dry.exit_code, "2 records can be sent again, 1 cannot" in dry.stdout) == (1, True), dry
    assert "uplink-3@3  schema  like: Expected `int`" in dry.stderr
    refused = await run(kafka_settings, "send-again", given="n\n")
    assert (refused.exit_code, "Send 2 records again?" in refused.stdout) == (1, True), refused
    assert await uplink(kafka_settings) == []

    agreed = await run(kafka_settings, "send-again", "--code", "wrong_partition", "--code", "wrong_key", given="y\n")
    assert (agreed.exit_code, "2 of 2 records sent again" in agreed.stdout) == (0, True), agreed
    sent = await uplink(kafka_settings)
    assert sorted((each.key, each.value) for each in sent) == [
        (b"lobby", gift("a")),
        (b"other", gift("b", room="other", user="ann")),
    ]
    assert all(each.partition == partition_of(each.key.decode(), kafka_settings.partitions) for each in sent)
    again = await run(kafka_settings, "send-again", "--yes")
    assert "passed over: they were sent again already" in again.stderr
    assert "0 records can be sent again, 1 cannot" in again.stdout

    listed = await run(kafka_settings, "--json", "--code", "schema")
    file = tmp_path / "letters.jsonl"
    file.write_text(listed.stdout.replace('"many"', "3"))
    mended = await run(kafka_settings, "send-again", "--mended", str(file), "--yes")
    assert (mended.exit_code, "1 of 1 records sent again" in mended.stdout) == (0, True), mended
    assert {json.loads(each.value)["id"] for each in await uplink(kafka_settings)} == {"a", "b", "c"}
    assert "it was sent again already" in (await run(kafka_settings, "send-again", "--mended", str(file), "--yes")).stderr
    assert "3 of them sent again" in (await run(kafka_settings)).stderr
    marks = await read_all(kafka_settings.bootstrap, f"{kafka_settings.prefix}dead-letter", range(kafka_settings.partitions))
    assert [each.value.count(SENT_AGAIN.encode()) for each in marks].count(1) == 3


@pytest.mark.kafka
@pytest.mark.timeout(120)
async def test_a_gift_that_was_written_to_a_wrong_place_reaches_viewers_once_it_is_sent_again(
    kafka_bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEROOM_RUNTIME_DIR", str(tmp_path / "run"))
    prefix = f"d{secrets.token_hex(4)}."
    settings = KafkaSettings(bootstrap=kafka_bootstrap, prefix=prefix, partitions=2)
    async with (
        System(kafka_bootstrap, prefix=prefix, partitions=2, edges=1) as system,
        aiohttp.ClientSession() as http,
        AsyncExitStack() as stay,
    ):
        audience = Audience(system, "lobby", http, Ledger())
        await system.knows_gateways(1)
        await audience.join(stay, 1)
        wrong = 1 - partition_of("lobby", 2)
        async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
            await producer.send_and_wait(f"{prefix}uplink", gift(), key=b"lobby", partition=wrong)
            await producer.send_and_wait(f"{prefix}uplink", b"nonsense", key=b"lobby", partition=wrong)
        async with asyncio.timeout(30):
            while "-- 2 dead letters" not in (shown := await run(settings)).stderr:  # noqa: ASYNC110 - a broadcaster writes them
                await asyncio.sleep(0.2)
        assert {line.split("  ")[2] for line in shown.stdout.splitlines()} == {"wrong_partition", "undecodable"}
        for _ in range(2):
            done = await run(settings, "send-again", "--yes", "--code", "wrong_partition")
            assert done.exit_code == 0, done
        await settled(lambda: len(audience.seen[0]) >= 1)
        assert [each.message.id for each in audience.seen[0]] == ["order-1"]
