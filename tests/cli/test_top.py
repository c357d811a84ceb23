"""`liveroom top` on a table of gateways."""

import io

from rich.console import Console

from cli.pool_client import PoolDecision, PoolState
from cli.top import GatewayStanding, screen
from liveroom.records.control import HotRoom
from liveroom.users import user_id


def shown(gateways: list[GatewayStanding], pool: PoolState | None = None) -> str:
    console = Console(width=160, file=io.StringIO())
    console.print(screen(gateways, pool))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_gateways_rooms_delays_and_the_pool_are_shown() -> None:
    gateways = [
        GatewayStanding(
            "e1", "open", 1, 0.5, 7, 6, 2, 1.0, 2_500_000, 99, 0.25, 3, 12, 1, (HotRoom("star", 5), HotRoom("quiet", 2))
        ),
        GatewayStanding("e2", "draining", 0, 0.5, 3, 3, 1, delay_ms=4000, hot=(HotRoom("star", 3),)),
        GatewayStanding("e3", "stale", 0, 9.0, 100),
    ]
    last = PoolDecision(0, 3, 2, 3, "connections", "10 viewers", [], done=True)
    text = shown(gateways, PoolState("a1", True, user_id("auth0|op"), last, []))
    assert "10 connections, 9 users, 2 of 3 gateways report, worst delay 4,000 ms" in text
    assert [line.split() for line in text.splitlines() if line.lstrip().startswith(("star", "quiet"))] == [
        ["star", "8"],
        ["quiet", "2"],
    ]
    (first,) = [line for line in text.splitlines() if line.lstrip().startswith("e1")]
    assert first.split() == ["e1", "open", "7", "1", "2", "2.50", "99", "25%", "3", "ms", "12", "ms", "1"]
    assert "stale, 9 s" in text
    assert "skewed, +90 s" in shown([GatewayStanding("e1", "skewed", 0, 0.5, 7, skew_s=90.1)])
    assert "skewed, -1,800,000,000 s" in shown([GatewayStanding("e1", "skewed", 0, 0.5, 7, skew_s=-1.8e9)])
    assert "pool: PAUSED by auth0|op; 2 gateways, 3 wanted: connections (10 viewers)" in text


def test_nothing_known_is_a_dash_and_no_gateways_no_failure() -> None:
    assert " - " in shown([GatewayStanding("e1", "unknown", 0, 0.1)])
    assert "0 of 0 gateways report, worst delay -" in shown([])
