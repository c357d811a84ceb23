"""The demo's demands and its screen; tests/e2e runs the demo itself."""

import asyncio
import io
import re
from dataclasses import replace

import msgspec
import pytest
from rich.console import Console

from cli.demo.audience import CHECKED_VIEWERS, DemoAudience, Observations, sample_of
from cli.demo.command import failures
from cli.demo.screen import GatewayRow, Screen, status_line, table
from cli.figures import quantile
from liveroom.kinds import Kind
from liveroom.wire import Message
from viewer.effects import Delivered
from viewer.ledger import Ledger, Verdict

CLEAN = Verdict(1204, 3, 0, 50_000, 0, 0, 0, 0, 0, 0, 0)
SCREEN = Screen(
    elapsed_s=61.2,
    rooms=2,
    viewers=49,
    wanted=50,
    interactions_per_s=5.25,
    deliveries_per_s=1234.4,
    delay_p50_ms=14.3,
    delay_p99_ms=None,
    gateways=[GatewayRow("edge-1", "serving", 25, 617.2), GatewayRow("edge-2", "killed, starts again in 2 s", is_well=False)],
    verdict=CLEAN,
    last=["live-1 7 ann: [bold]hi[/bold]"],
)


def message(kind: Kind, at: int = 0) -> Message:
    return Message(1, kind, "i", "u", at, data=msgspec.Raw(b'{"text":"hi"}'))


def audience_that_saw(*kinds: Kind, joined: int = 50) -> DemoAudience:
    audience = DemoAudience("http://127.0.0.1:9", ["r"], 50, 50, Ledger())
    audience.most_joined = joined
    for kind in kinds:
        audience.observations.on_effect("crowd-1", Delivered("r", 1, message(kind)))
    return audience


def test_a_good_run_has_no_failures() -> None:
    assert failures(audience_that_saw(Kind.DANMAKU, Kind.GIFT), 50, CLEAN, []) == []


@pytest.mark.parametrize(
    ("audience", "verdict", "deaths", "words"),
    [
        pytest.param(
            audience_that_saw(Kind.DANMAKU, Kind.GIFT, joined=49), CLEAN, [], "only 49 of 50 viewers joined", id="joined"
        ),
        pytest.param(audience_that_saw(Kind.GIFT), CLEAN, [], "no danmaku was seen", id="no danmaku"),
        pytest.param(audience_that_saw(Kind.DANMAKU), CLEAN, [], "no gift was seen", id="no gifts"),
        pytest.param(
            audience_that_saw(Kind.DANMAKU, Kind.GIFT),
            CLEAN._replace(accepted=0),
            [],
            "nothing was accepted",
            id="nothing accepted",
        ),
        pytest.param(
            audience_that_saw(Kind.DANMAKU, Kind.GIFT), CLEAN._replace(lost=2), [], "ledger is not clean: .* lost 2", id="lost"
        ),
        pytest.param(audience_that_saw(Kind.DANMAKU, Kind.GIFT), CLEAN, ["edge-1"], "processes died: edge-1", id="a death"),
    ],
)
def test_what_did_not_hold_is_said(audience: DemoAudience, verdict: Verdict, deaths: list[str], words: str) -> None:
    (found,) = failures(audience, 50, verdict, deaths)
    assert re.search(words, found)


@pytest.mark.parametrize("viewers", [1, 50, 200, 201, 2000, 20_000])
@pytest.mark.parametrize("rooms", [1, 2, 4, 10, 64])
def test_checked_viewers_are_in_every_room_that_has_enough(viewers: int, rooms: int) -> None:
    sample = sample_of(viewers, rooms)
    checked = range(0, viewers, sample)
    assert 1 <= len(checked) <= CHECKED_VIEWERS
    assert len({viewer % rooms for viewer in checked}) == min(rooms, len(checked))


async def test_the_first_danmaku_and_the_lines_of_one_viewer_are_kept() -> None:
    seen = Observations(Ledger())
    seen.on_effect("crowd-1", Delivered("r", 1, message(Kind.GIFT)))
    assert not seen.first_danmaku.is_set()
    assert not seen.last
    seen.on_effect("crowd-0", Delivered("r", 1, message(Kind.DANMAKU)))
    await asyncio.wait_for(seen.first_danmaku.wait(), 10)
    assert len(seen.last) == 1
    assert seen.seen == {Kind.GIFT: 1, Kind.DANMAKU: 1}


def test_the_status_line_has_the_figures() -> None:
    assert status_line(SCREEN) == (
        "    61 s  viewers 49 of 50, 5.2 interactions/s, 1,234 deliveries/s, delay p50 14 ms p99 -;"
        " edge-1 25 serving, edge-2 - killed, starts again in 2 s; accepted 1,204, lost 0, doubled 0"
    )
    assert status_line(replace(SCREEN, deaths=["edge-1 died"])).endswith("; edge-1 died")


def test_the_table_has_the_books_the_gateways_and_strangers_words_as_they_are() -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(table(SCREEN, ["page http://127.0.0.1:1"]))
    text = out.getvalue()
    for words in (
        "accepted 1,204, lost 0, doubled 0",
        "edge-1",
        "killed, starts again in 2 s",
        "page http://127.0.0.1:1",
        "[bold]hi[/bold]",
    ):
        assert words in text


def test_a_quantile_of_nothing_is_not_known() -> None:
    assert quantile([], 0.5) is None
    assert quantile([1.0], 0.99) == 1.0
    assert quantile([float(i) for i in range(100)], 0.99) == 99.0
