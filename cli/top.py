"""`liveroom top`: gateways, rooms with most viewers, delays and the pool's last decision, live.

It asks the scheduler (`/v1/gateways`) and, where there is one, the autoscaler, as an operator. It
needs no access to Kafka or to internal ports.
"""

from collections import Counter
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import msgspec
from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.consoles import plain_console
from cli.endpoints import Endpoints, UsageError, make_user, need_scheduler
from cli.figures import in_ms, shown
from cli.pool_client import PoolClient, PoolError, PoolState
from cli.printable import printable_user
from cli.refusals import words_of
from liveroom import clock
from liveroom.errors import in_words
from liveroom.kinds import Role
from liveroom.records.control import HotRoom
from viewer.problem import read_problem

REFRESH_S: Final = 1.0
ROOMS: Final = 8
TIMEOUT_S: Final = 5.0
LATE_MS: Final = 3000.0
WIDTH: Final = 140  # in a file or pipe


class GatewayStanding(msgspec.Struct, frozen=True):
    """A gateway as the scheduler knows it; None: not known."""

    gateway: str
    standing: str
    weight: float
    age_s: float
    connections: int | None = None
    users: int | None = None
    rooms: int | None = None
    joins_per_s: float | None = None
    bytes_per_s: float | None = None
    packets_per_s: float | None = None
    cpu: float | None = None
    loop_lag_ms: float | None = None
    delay_ms: float | None = None
    slow: int | None = None
    hot: tuple[HotRoom, ...] = ()
    skew_s: float | None = None

    @property
    def state(self) -> str:
        """The standing, with the figure that explains it."""
        if self.standing == "skewed" and self.skew_s is not None:
            return f"skewed, {self.skew_s:+,.0f} s"
        return f"stale, {self.age_s:.0f} s" if self.standing == "stale" else self.standing


class _Answer(msgspec.Struct, frozen=True):
    gateways: list[GatewayStanding]


async def run_top(endpoints: Endpoints, user: str, *, once: bool, duration_s: float | None) -> int:
    """Show the system until Ctrl-C, for `duration_s`, or `once`; return the exit code."""
    url = need_scheduler(endpoints).partition(",")[0]
    token = endpoints.token_for(make_user(user, Role.OPERATOR.value))
    console = plain_console(piped_width=WIDTH)
    deadline = clock.monotonic_s() + duration_s if duration_s is not None else None
    async with aiohttp.ClientSession() as http:
        client = PoolClient(http, endpoints.autoscaler, token) if endpoints.autoscaler else None

        async def render() -> Group:
            return screen(await _gateways(http, url, token), await _pool(client))

        if once or not console.is_terminal:
            console.print(await render())
            return 0
        with Live(await render(), console=console, auto_refresh=False, screen=True) as live:
            while deadline is None or clock.monotonic_s() < deadline:
                await clock.sleep(REFRESH_S)
                live.update(await render(), refresh=True)
    return 0


async def _gateways(http: aiohttp.ClientSession, url: str, token: str) -> list[GatewayStanding]:
    headers, limit = {"Authorization": f"Bearer {token}"}, aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with http.get(f"{url}/v1/gateways", headers=headers, timeout=limit) as answer:
            body = await answer.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UsageError(f"the scheduler at {url} does not answer: {in_words(error)}") from None
    if answer.status != HTTPStatus.OK:
        raise UsageError(f"the scheduler refuses: {words_of(read_problem(answer.status, answer.headers, body))}")
    try:
        return msgspec.json.decode(body, type=_Answer).gateways
    except msgspec.DecodeError:
        raise UsageError(f"no scheduler answers at {url}, but another service") from None


async def _pool(client: PoolClient | None) -> PoolState | None:
    with suppress(PoolError):
        return await client.state() if client is not None else None
    return None


def screen(gateways: list[GatewayStanding], pool: PoolState | None) -> Group:
    """Return what the terminal shows."""
    live = [seen for seen in gateways if seen.standing != "stale"]
    delays = [seen.delay_ms for seen in live if seen.delay_ms is not None]
    head = (
        f"{sum(seen.connections or 0 for seen in live):,} connections, {sum(seen.users or 0 for seen in live):,} users,"
        f" {len(live)} of {len(gateways)} gateways report, worst delay {in_ms(max(delays, default=None))}"
    )
    parts: list[Any] = [Text(head, style="bold"), _table_of(gateways), _hottest(live)]
    if pool is not None and (last := pool.last) is not None:
        paused = f"PAUSED by {printable_user(pool.paused_by)}; " if pool.paused_by else ""
        parts.append(Text(f"pool: {paused}{last}"))
    return Group(*parts)


def _table_of(gateways: list[GatewayStanding]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False)
    table.add_column("gateway", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("connections", "joins/s", "rooms", "MB/s", "packets/s", "cpu", "loop lag", "delay", "slow"):
        table.add_column(name, justify="right", no_wrap=True)
    for seen in gateways:
        is_well = seen.standing == "open" and (seen.delay_ms or 0) < LATE_MS
        table.add_row(
            seen.gateway,
            seen.state,
            shown(seen.connections),
            shown(seen.joins_per_s, "{:,.0f}"),
            shown(seen.rooms),
            shown(None if seen.bytes_per_s is None else seen.bytes_per_s / 1e6, "{:,.2f}"),
            shown(seen.packets_per_s, "{:,.0f}"),
            shown(seen.cpu, "{:.0%}"),
            in_ms(seen.loop_lag_ms),
            in_ms(seen.delay_ms),
            shown(seen.slow),
            style="" if is_well else "yellow",
        )
    return table


def _hottest(gateways: list[GatewayStanding]) -> Table:
    """Return the rooms with most viewers.

    Each gateway reports its hottest rooms only, so a room that is spread thinly may be missing.
    """
    connections: Counter[str] = Counter()
    for seen in gateways:
        connections.update({hot.room: hot.connections for hot in seen.hot})
    table = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False)
    table.add_column("hottest rooms", no_wrap=True)
    table.add_column("connections", justify="right", no_wrap=True)
    for room, count in connections.most_common(ROOMS):
        table.add_row(room, f"{count:,}")
    return table
