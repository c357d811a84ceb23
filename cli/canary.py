"""`liveroom canary`: a viewer at every gateway checks that gifts arrive; a table shows it."""

import asyncio
from contextlib import suppress
from typing import Final

import aiohttp
from pydantic import SecretStr
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from cli.consoles import plain_console
from cli.endpoints import Endpoints, UsageError, make_user, need_ingress, need_scheduler
from cli.figures import in_ms
from liveroom import clock
from liveroom.addresses import url_of
from liveroom.kinds import Role
from liveroom.ports import HOST
from liveroom.service import Runtime
from liveroom.settings import CanarySettings
from liveroom.tasks import beside
from liveroom.web import serve
from viewer.canary import Canary
from viewer.probe import Standing

REFRESH_S: Final = 1.0
LINE_S: Final = 5.0
TOKEN_TTL_S: Final = 7 * 86_400


async def run_canary(endpoints: Endpoints, *, interval_s: float, duration_s: float | None, metrics_port: int) -> int:
    """Run until Ctrl-C, or for `duration_s`, and return the exit code.

    It is 1 if a gift was lost or came out of order, or if none came. Raises UsageError where no
    scheduler answers.
    """
    settings = CanarySettings(
        ingress_url=need_ingress(endpoints),
        scheduler_url=need_scheduler(endpoints),
        token=SecretStr(endpoints.token_for(make_user("canary", Role.OPERATOR.value), TOKEN_TTL_S)),
        interval_s=interval_s,
    )
    runtime, console = Runtime("canary"), plain_console()
    deadline = clock.monotonic_s() + duration_s if duration_s is not None else None
    async with aiohttp.ClientSession() as http, serve(runtime.internal_app(), HOST, metrics_port) as (_, port):
        console.print(f"metrics: {url_of('http', HOST, port, '/metrics')}")
        canary = Canary(settings, runtime.metrics, http)
        async with beside(canary.run(lambda: _need_gateways(canary))):
            with suppress(asyncio.CancelledError):  # Ctrl-C ends it in order
                await _show(canary, console, deadline)
            found = canary.seen()
    console.print(_table(found))
    return 0 if any(one.received for one in found) and not any(one.lost or one.disordered for one in found) else 1


def _need_gateways(canary: Canary) -> None:
    """Raise UsageError where the first request for the gateways had no answer."""
    if not canary.knows_gateways:
        raise UsageError(f"no gateways to watch: {canary.waits_for}")


async def _show(canary: Canary, console: Console, deadline: float | None) -> None:
    if console.is_terminal:
        with Live(_table(canary.seen()), console=console, auto_refresh=False, transient=True) as live:
            while deadline is None or clock.monotonic_s() < deadline:
                await clock.sleep(REFRESH_S)
                live.update(_table(canary.seen()), refresh=True)
        return
    while deadline is None or clock.monotonic_s() < deadline:
        left_s = LINE_S if deadline is None else max(0.0, min(LINE_S, deadline - clock.monotonic_s()))
        await clock.sleep(left_s)
        console.print("; ".join(_line(one) for one in canary.seen()) or "no gateway yet", soft_wrap=True)


def _line(one: Standing) -> str:
    return f"{one.gateway} {one.received} received, {one.lost} lost, p50 {in_ms(one.p50_ms)} p99 {in_ms(one.p99_ms)}"


def _table(found: list[Standing]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False)
    table.add_column("gateway", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("received", "lost", "out of order", "p50", "p99"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        state = "gone" if one.is_gone else "in the room" if one.is_in else "joining"
        style = "red" if one.lost or one.disordered else ""
        numbers = (f"{one.received:,}", f"{one.lost:,}", f"{one.disordered:,}")
        table.add_row(one.gateway, state, *numbers, in_ms(one.p50_ms), in_ms(one.p99_ms), style=style)
    return table
