"""The Python SDK with services of a later version: it passes over what it does not know, and loses
nothing by it.
"""

import asyncio
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from liveroom.wire import Error, Notice
from tests.browser.cases import BY_HAND, Case, extended, run
from tests.later import MESSAGES, later
from viewer.client import Viewer
from viewer.effects import Delivered, Effect, Entered, Progress, Told
from viewer.problem import read_problem, read_retry_after
from viewer.sender import Accepted, Refused, Sender

DEADLINE_S = 30.0


@pytest.mark.parametrize("case", [pytest.param(one, id=one["name"]) for one in BY_HAND])
def test_more_fields_and_frames_of_unknown_types_change_nothing(case: Case) -> None:
    more, are_own = extended(case)
    *outcomes, counters = run(more)
    *expected, expected_counters = run(case)
    assert [outcome for outcome, is_own in zip(outcomes, are_own, strict=True) if is_own] == expected
    assert [outcome[0] for outcome, is_own in zip(outcomes, are_own, strict=True) if not is_own and outcome[0]] == []
    assert counters == expected_counters


async def test_a_viewer_lives_with_a_later_gateway_and_sees_every_message_once() -> None:
    effects: list[Effect] = []
    failures: list[str] = []
    is_back, has_all = asyncio.Event(), asyncio.Event()

    def delivered() -> list[tuple[int, str, str, bool]]:
        told = [effect for effect in effects if isinstance(effect, Delivered)]
        return [(effect.message.seq, effect.message.kind, effect.message.role, effect.late) for effect in told]

    def note(effect: Effect) -> None:
        effects.append(effect)
        entered = sum(isinstance(each, Entered) for each in effects)
        if entered == 2 and isinstance(effect, Progress) and effect.rseq == 3:
            is_back.set()
        if is_back.is_set() and len(delivered()) == len(MESSAGES):
            has_all.set()

    async with (
        later(refuses=3) as services,
        aiohttp.ClientSession() as http,
        Viewer(services.url, ["r"], http=http, on_effect=note, on_failed=failures.append) as viewer,
        asyncio.timeout(DEADLINE_S),
    ):
        await has_all.wait()
        assert viewer.is_open
        assert (viewer.session.bad_frames, viewer.session.reconnects) == (0, 1)
    assert sorted(delivered()) == [
        (1, "gift", "viewer", False),
        (2, "danmaku", "bot", False),
        (3, "vote", "bot", True),
        (4, "vote", "viewer", False),
        (5, "sticker", "viewer", False),
    ]
    assert {name.split(": ")[1] for name in failures} == {"waiting_room", "503"}
    told = [effect.what for effect in effects if isinstance(effect, Told)]
    assert {what.kind for what in told if isinstance(what, Notice)} == {"shadow"}
    assert {what.code for what in told if isinstance(what, Error)} == {"out_of_tickets"}


async def test_a_sender_takes_the_answers_of_a_later_ingress() -> None:
    async with later() as services, aiohttp.ClientSession() as http:
        sender = Sender(services.url, "token", http)
        accepted, refused = await sender.danmaku("r", "accepted"), await sender.danmaku("r", "refused")
    assert isinstance(accepted, Accepted)
    assert accepted.at_ms == 5
    assert isinstance(refused, Refused)
    assert refused.code == "no_coins"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        pytest.param(b'{"code":"later","retry_after_s":2,"x":[]}', ("later", 2.0), id="unknown code"),
        pytest.param(b'{"code":7,"retry_after_s":"soon"}', ("503", None), id="other types"),
        pytest.param(b'{"retry_after_s":true}', ("503", None), id="no code"),
        pytest.param(b"[]", ("503", None), id="a list"),
        pytest.param(b"null", ("503", None), id="null"),
        pytest.param(b"<html>", ("503", None), id="a proxy's page"),
        pytest.param(b"\xff", ("503", None), id="no text"),
        pytest.param(b"", ("503", None), id="nothing"),
    ],
)
def test_any_refusal_has_a_code_and_maybe_a_delay(body: bytes, problem: tuple[Any, ...]) -> None:
    found = read_problem(503, {}, body)
    assert (found.code, found.retry_after_s) == problem


@pytest.mark.parametrize(
    ("header", "body", "delay_s"),
    [
        pytest.param("20", b"<html>busy</html>", 20.0, id="a proxy's page"),
        pytest.param("20", b'{"code":"full"}', 20.0, id="a problem without a delay"),
        pytest.param("3", b'{"retry_after_s":2.5}', 2.5, id="a problem with a delay of its own"),
        pytest.param("0", b"", 0.0, id="at once"),
        pytest.param("30", b'{"retry_after_s":0}', 30.0, id="a body at once before a header"),
        pytest.param("", b'{"retry_after_s":0}', 0.0, id="a body at once"),
        pytest.param("999999999", b"", 3600.0, id="years"),
        pytest.param("2", b'{"retry_after_s":1e308}', 3600.0, id="ages"),
        pytest.param("2", b'{"retry_after_s":-5}', 2.0, id="a body before now"),
        pytest.param("-5", b"", None, id="a number below 0"),
        pytest.param("Wed, 21 Oct 2026 07:28:00 GMT", b"", None, id="a date"),
        pytest.param("\u00b2", b"", None, id="a digit that is no number"),
    ],
)
def test_a_refusals_delay_is_bounded_and_comes_from_the_header_where_the_body_has_none(
    header: str, body: bytes, delay_s: float | None
) -> None:
    assert read_problem(503, CIMultiDict({"retry-after": header}), body).retry_after_s == delay_s


@pytest.mark.parametrize(
    ("until", "now", "delay_s"),
    [
        pytest.param("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 30.0, id="later"),
        pytest.param("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:30 GMT", 0.0, id="before now"),
        pytest.param("Fri, 21 Oct 2050 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 3600.0, id="years"),
        pytest.param("Wed, 21 Oct 2026 07:28:00 GMT", "soon", None, id="no date of its own"),
        pytest.param("Wed, 99 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", None, id="no day"),
        pytest.param("soon", "Wed, 21 Oct 2026 07:28:00 GMT", None, id="no date"),
    ],
)
def test_a_date_of_a_proxy_counts_from_the_answers_own(until: str, now: str, delay_s: float | None) -> None:
    assert read_retry_after(CIMultiDict({"retry-after": until, "date": now})) == delay_s
