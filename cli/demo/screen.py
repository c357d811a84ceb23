"""What the demo shows: a screen on a terminal, a line every few seconds elsewhere. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.figures import in_ms, shown
from viewer.ledger import Verdict

KEYS: Final = "k kills a gateway (its viewers reconnect), q ends the demo"
KEYS_OF_SURGE: Final = "q ends the demo"


@dataclass(frozen=True, slots=True)
class GatewayRow:
    """One gateway. `connections` None: it does not answer. `state`: in words."""

    name: str
    state: str
    connections: int | None = None
    deliveries_per_s: float | None = None
    is_well: bool = True


@dataclass(frozen=True, slots=True)
class Screen:
    """Everything that the demo shows.

    Delays are from acceptance to a viewer's receipt, over the last seconds; None: nothing arrived.
    `pool`: the autoscaler's last decision, where there is one.
    """

    elapsed_s: float
    rooms: int
    viewers: int
    wanted: int
    interactions_per_s: float
    deliveries_per_s: float
    delay_p50_ms: float | None
    delay_p99_ms: float | None
    gateways: Sequence[GatewayRow]
    verdict: Verdict
    deaths: Sequence[str] = ()
    last: Sequence[str] = ()
    pool: str = ""
    keys: str = KEYS


def status_line(screen: Screen) -> str:
    """Return one line for logs."""
    gateways = ", ".join(f"{gateway.name} {shown(gateway.connections)} {gateway.state}" for gateway in screen.gateways)
    line = (
        f"{screen.elapsed_s:6.0f} s  viewers {screen.viewers:,} of {screen.wanted:,},"
        f" {screen.interactions_per_s:,.1f} interactions/s,"
        f" {screen.deliveries_per_s:,.0f} deliveries/s,"
        f" delay p50 {in_ms(screen.delay_p50_ms)} p99 {in_ms(screen.delay_p99_ms)};"
        f" {gateways}; {f'{screen.pool}; ' if screen.pool else ''}{screen.verdict}"
    )
    return line + "".join(f"; {death}" for death in screen.deaths)


def table(screen: Screen, lines: Sequence[str]) -> Group:
    """Return the screen for a terminal; `lines` stand under the figures (addresses, keys)."""
    figures = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False)
    for name in ("rooms", "viewers", "interactions/s", "deliveries/s", "delay p50", "delay p99"):
        figures.add_column(name, justify="right", no_wrap=True)
    figures.add_row(
        f"{screen.rooms:,}",
        f"{screen.viewers:,} of {screen.wanted:,}",
        f"{screen.interactions_per_s:,.1f}",
        f"{screen.deliveries_per_s:,.0f}",
        in_ms(screen.delay_p50_ms),
        in_ms(screen.delay_p99_ms),
    )
    gateways = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False)
    gateways.add_column("gateway", no_wrap=True)
    gateways.add_column("connections", justify="right", no_wrap=True)
    gateways.add_column("deliveries/s", justify="right", no_wrap=True)
    gateways.add_column("state", no_wrap=True)
    for gateway in screen.gateways:
        style = "" if gateway.is_well else "yellow"
        rate = "" if gateway.deliveries_per_s is None else f"{gateway.deliveries_per_s:,.0f}"
        gateways.add_row(gateway.name, shown(gateway.connections), rate, gateway.state, style=style)
    clean = screen.verdict.is_clean and not screen.deaths
    parts: list[RenderableType] = [
        Text(f"liveroom demo, {screen.elapsed_s:,.0f} s", style="bold"),
        figures,
        gateways,
        *([Text(screen.pool)] if screen.pool else []),
        Text(str(screen.verdict), style="green" if clean else "bold red"),
        *(Text(death, style="bold red") for death in screen.deaths),
        Text(""),
        *(Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in screen.last),
        Text(""),
        *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines),
        Text(screen.keys, style="dim"),
    ]
    return Group(*parts)
