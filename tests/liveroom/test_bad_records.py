"""Refusals: each thing that a service does not know is logged once, and everything is counted."""

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from liveroom import metric_catalog
from liveroom.bad_records import BadRecords, Refusals
from liveroom.dead_letter_reasons import DEAD_LETTER_REASONS
from liveroom.records.codec import BadRecord, BadRecordError
from liveroom.records.uplink import decode_uplink
from liveroom.registry import Metrics
from liveroom.topics import UPLINK

GIFT = {"kind": "gift", "data": {}}


def unknown(position: int = 0, kind: str = "vote", **more: Any) -> BadRecordError:
    """The refusal of a record of `uplink` with an item of this kind at this position."""
    items = [GIFT] * position + [{"kind": kind, "data": {}}]
    record = {"v": 1, "room": "r", "id": "i", "user": "u", "at_ms": 1, "items": items} | more
    with pytest.raises(BadRecordError) as caught:
        decode_uplink(b"r", json.dumps(record).encode())
    return caught.value


def logged(*errors: BadRecordError) -> list[bool]:
    refusals = Refusals(UPLINK)
    return [refusals.is_logged(error.reason, error.detail) for error in errors]


def test_what_another_version_wrote_is_logged_once_and_every_other_refusal_always() -> None:
    version_2, version_3 = (BadRecordError(BadRecord.VERSION, f"version {each}") for each in (2, 3))
    section, field = BadRecordError(BadRecord.UNKNOWN_SECTION, "section 0x8063"), BadRecordError(BadRecord.SCHEMA, "a field")
    assert logged(version_2, version_2, version_3, section, section) == [True, False, True, True, False]
    assert logged(field, field) == [True, True]


@pytest.mark.parametrize("kind", [pytest.param("vote", id="short"), pytest.param("v" * 175, id="one that cuts the detail")])
def test_an_unknown_kind_is_logged_once_wherever_it_stands_and_hides_no_other(kind: str) -> None:
    everywhere = [unknown(position, kind) for position in range(64)]
    others = unknown(7, "poll"), unknown(0, "gift", role="bot"), unknown(63, "poll")
    found = logged(*everywhere, *others)
    assert found[0]
    assert sum(found[:64]) <= 2, "a detail is cut at its end, so a longer position may cut it elsewhere"
    assert found[64:] == [True, True, False]


def test_a_value_is_not_taken_for_a_position() -> None:
    assert logged(unknown(0, "a[1]"), unknown(0, "a[2]"), unknown(5, "a[2]")) == [True, True, False]


def test_a_full_memory_is_named_once_and_what_it_holds_stays_silent() -> None:
    refusals = Refusals(UPLINK)
    with capture_logs() as logs:
        found = [refusals.is_logged(BadRecord.VERSION, f"version {each}") for each in (*range(1000), 3)]
        assert refusals.is_logged(BadRecord.SCHEMA, "a field")
    assert sum(found) == 20
    assert logs == [{"event": "more_refusals_not_logged", "log_level": "warning", "topic": "uplink", "logged": 20}]


def test_records_that_are_not_logged_are_counted() -> None:
    metrics = Metrics("broadcaster")
    bad = BadRecords(metrics, UPLINK)
    with capture_logs() as logs:
        for position in range(30):
            bad.note(position, unknown(position), 7)
    assert [(line["topic"], line["partition"], line["offset"]) for line in logs] == [("uplink", 7, 0)]
    assert metrics.counter(metric_catalog.BAD_RECORDS, UPLINK.name, BadRecord.UNKNOWN.value)._value.get() == 30


def test_every_code_of_a_dead_letter_has_its_meaning_and_its_remedy() -> None:
    binary = {BadRecord.TRUNCATED, BadRecord.UNKNOWN_SECTION}
    assert set(BadRecord) - DEAD_LETTER_REASONS.keys() == binary, "records of uplink are JSON"
    assert all(each.meaning and each.remedy for each in DEAD_LETTER_REASONS.values())
