"""The rule of versions: a reader reads the version that it knows and the one before, no other."""

import base64
import hmac
import json
from hashlib import sha256
from typing import Any, ClassVar

import msgspec
import pytest
from aiokafka import ConsumerRecord
from structlog.testing import capture_logs

from liveroom import metric_catalog, tickets
from liveroom.broadcast_log import QueueReader
from liveroom.errors import Code, ProblemError
from liveroom.fencing import Ruling
from liveroom.kafka_port import AioKafka
from liveroom.kinds import Role
from liveroom.records import broadcast
from liveroom.records.broadcast import BatchParts, encode_batch
from liveroom.records.codec import (
    BadRecord,
    BadRecordError,
    JsonReader,
    JsonRecord,
    Older,
    read_versions,
)
from liveroom.registry import Metrics
from liveroom.settings import KafkaSettings
from liveroom.tickets import ENTRY, Ticket, User, hmac_keys, hmac_signer, sign, verify
from tests.liveroom import golden
from tests.liveroom.golden import Golden

JSON_RECORDS = [pytest.param(sample, id=sample.file) for sample in golden.ALL if isinstance(sample.record, JsonRecord)]


def with_version(value: bytes, version: Any) -> bytes:
    """A JSON record with another version."""
    return msgspec.json.encode(json.loads(value) | {"v": version})


def refusal_of(sample: Golden, value: bytes) -> BadRecordError:
    with pytest.raises(BadRecordError) as caught:
        sample.read(value)
    return caught.value


@pytest.mark.parametrize(("known", "read"), [(1, [1]), (2, [1, 2]), (3, [2, 3]), (10, [9, 10])])
def test_the_version_before_is_read_down_to_the_first(known: int, read: list[int]) -> None:
    assert list(read_versions(known)) == read


def test_every_json_topic_has_a_sample() -> None:
    assert {type(case.values[0].record) for case in JSON_RECORDS} == set(JsonRecord.__subclasses__()) - {Now}  # type: ignore[union-attr]


@pytest.mark.parametrize("sample", JSON_RECORDS)
def test_the_first_version_reads_no_other(sample: Golden) -> None:
    for version in (0, 2, 3, -1):
        refusal = refusal_of(sample, with_version(sample.value, version))
        assert refusal.reason is BadRecord.VERSION
        assert refusal.detail == f"version {version}, this reader knows 1"


@pytest.mark.parametrize("sample", JSON_RECORDS)
def test_a_raised_version_reads_the_one_before_and_no_other(sample: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(sample.record), "VERSION", 3)
    for version in (2, 3):
        assert sample.read(with_version(sample.value, version)) == msgspec.structs.replace(sample.record, v=version)
    for version in (0, 1, 4, 2**40):
        refusal = refusal_of(sample, with_version(sample.value, version))
        assert refusal.reason is BadRecord.VERSION
        assert refusal.detail == f"version {version}, this reader knows 2 and 3"


@pytest.mark.parametrize("sample", JSON_RECORDS)
def test_a_later_version_with_other_fields_is_refused_for_its_version(sample: Golden) -> None:
    assert refusal_of(sample, b'{"v":2,"other":[1]}').reason is BadRecord.VERSION
    assert refusal_of(sample, b'{"v":1,"other":[1]}').reason is BadRecord.SCHEMA
    assert refusal_of(sample, b'{"v":"2"}').reason is BadRecord.SCHEMA


BINARY = [pytest.param(golden.SAMPLES[name], id=name) for name in ("claim.bin", "batch.bin", "snapshot.bin")]


@pytest.mark.parametrize("sample", BINARY)
@pytest.mark.parametrize(("known", "read"), [(1, {1}), (2, {1, 2}), (3, {2, 3})])
def test_a_binary_record_of_the_version_before_is_read_and_no_other(
    sample: Golden, known: int, read: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "VERSION", known)
    for version in (0, 1, 2, 3, 4, 255):
        value = sample.value[:2] + bytes([version]) + sample.value[3:]
        if version in read:
            assert golden.meaning(sample.read(value)) == golden.meaning(sample.record)
            continue
        assert refusal_of(sample, value).reason is BadRecord.VERSION


def test_a_version_that_a_gateway_does_not_read_is_counted_for_each_batch_and_logged_once() -> None:
    metrics = Metrics("edge")
    reader = QueueReader(AioKafka(KafkaSettings()), metrics)
    reader._rulings[0] = Ruling(3, golden.OWNER, 0)
    with capture_logs() as logs:
        for offset, version in enumerate((2, 2, 3, 2)):
            value = encode_batch(BatchParts(3, golden.OWNER, offset + 1, golden.ANCHOR, offset, 1, 0, []))
            newer = value[:2] + bytes([version]) + value[3:]
            record = ConsumerRecord("broadcast", 0, offset, 1, 1, None, newer, None, 0, len(newer), ())
            assert reader._valid_batch(0, record) is None
    assert [(line["event"], line["offset"]) for line in logs] == [("bad_record", 0), ("bad_record", 2)]
    assert metrics.counter(metric_catalog.BAD_RECORDS, "broadcast", BadRecord.VERSION.value)._value.get() == 4


FRAMES = [pytest.param(sample, id=sample.file) for sample in golden.OF_VIEWERS if sample.file.endswith(".json")]


def with_additions(value: Any) -> Any:
    """The same JSON with a field that no version knows in every object, but for what a sender
    wrote.
    """
    if isinstance(value, dict):
        return {name: each if name == "data" else with_additions(each) for name, each in value.items()} | {"later": {"a": [1]}}
    return [with_additions(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("sample", [*JSON_RECORDS, *FRAMES])
def test_fields_that_a_later_version_adds_are_passed_over(sample: Golden) -> None:
    read = sample.read(msgspec.json.encode(with_additions(json.loads(sample.value))))
    assert without_additions(golden.meaning(read)) == golden.meaning(sample.record)


def without_additions(value: Any) -> Any:
    """What was read without those additions that pass through as JSON."""
    if isinstance(value, dict):
        return {name: without_additions(each) for name, each in value.items() if name != "later"}
    return [without_additions(each) for each in value] if isinstance(value, list) else value


def test_fields_that_a_later_version_adds_to_a_ticket_are_passed_over() -> None:
    payload = with_additions(json.loads(msgspec.json.encode(TICKET)))
    body = f"v1.k1.{b64(msgspec.json.encode(payload))}"
    text = f"{body}.{b64(hmac.digest(KEY, body.encode(), sha256))}"
    assert verify(text, KEYS, ENTRY, HERE, NOW_MS) == TICKET


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Before(msgspec.Struct):
    """A record as version 2 of the sample below had it: seconds instead of milliseconds."""

    v: int
    at: int


class Now(JsonRecord, frozen=True):
    """A record whose version 3 renamed a field."""

    VERSION: ClassVar[int] = 3
    OLDER: ClassVar = {2: Older(Before, lambda before: Now(Now.VERSION, before.at * 1000))}

    at: int


@pytest.mark.parametrize(
    ("value", "read"),
    [
        pytest.param(b'{"v":3,"at":7000}', 7000, id="today's"),
        pytest.param(b'{"v":2,"at":7}', 7000, id="the one before"),
        pytest.param(b'{"v":1,"at":7}', BadRecord.VERSION, id="two before"),
        pytest.param(b'{"v":4,"at":7}', BadRecord.VERSION, id="the next"),
        pytest.param(b'{"v":2,"at":"7"}', BadRecord.SCHEMA, id="the one before, not fitting"),
        pytest.param(b'{"v":2}', BadRecord.SCHEMA, id="the one before, fields missing"),
        pytest.param(b'{"v":2,"at":7', BadRecord.UNDECODABLE, id="the one before, cut"),
        pytest.param(b'{"v":3,"at":"7"}', BadRecord.SCHEMA, id="today's, not fitting"),
    ],
)
def test_an_older_form_is_read_by_its_own_reader(value: bytes, read: int | BadRecord) -> None:
    if isinstance(read, int):
        assert JsonReader(Now).read(value) == Now(3, read)
        return
    with pytest.raises(BadRecordError) as caught:
        JsonReader(Now).read(value)
    assert caught.value.reason is read


KEY = b"k" * 32
KEYS = {(version, "k1"): key for version in (1, 2, 3) for key in hmac_keys({"k1": KEY}).values()}
NOW_MS = 1_700_000_000_000
HERE = ("edge-1", 5)
TICKET = Ticket(ENTRY, User("u1", Role.VIEWER), NOW_MS + 1, "n0", (HERE,))


@pytest.mark.parametrize(("version", "good"), [(0, False), (1, True), (2, True), (3, False)])
def test_a_ticket_of_the_version_before_is_accepted_and_of_another_refused(version: int, good: bool) -> None:
    assert tickets.VERSION == 2
    text = sign(TICKET, hmac_signer("k1", KEY)._replace(version=version))
    if good:
        assert verify(text, KEYS, ENTRY, HERE, NOW_MS) == TICKET
        return
    with pytest.raises(ProblemError) as caught:
        verify(text, KEYS, ENTRY, HERE, NOW_MS)
    assert caught.value.code is Code.TICKET_INVALID
