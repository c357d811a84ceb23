"""`liveroom pool`: shows the gateways and the decisions about them; pauses and resumes the pool."""

from datetime import UTC, datetime
from typing import Final

import aiohttp
from rich import box
from rich.table import Table

from cli.choices import PoolAct
from cli.consoles import plain_console
from cli.endpoints import Endpoints, make_user, need_autoscaler
from cli.figures import shown
from cli.pool_client import PoolClient, PoolDecision, PoolState
from cli.printable import printable_user
from liveroom.kinds import Role

SHOWN: Final = 12


async def run_pool(act: PoolAct, endpoints: Endpoints, user: str) -> int:
    """Do `act` and print the pool; return the exit code."""
    url = need_autoscaler(endpoints)
    token = endpoints.token_for(make_user(user, Role.OPERATOR.value))
    console = plain_console()
    async with aiohttp.ClientSession() as http:
        client = PoolClient(http, url, token)
        if act is PoolAct.DECISIONS:
            console.print(_decisions(await client.decisions()))
            return 0
        state = await {PoolAct.SHOW: client.state, PoolAct.PAUSE: client.pause, PoolAct.RESUME: client.resume}[act]()
        for line in _summary(state):
            console.print(line)
        console.print(_gateways(state))
        if act is PoolAct.SHOW and state.leading:
            console.print(_decisions((await client.decisions())[:SHOWN]))
    return 0


def _summary(state: PoolState) -> list[str]:
    lines = [f"{state.instance} {'leads' if state.leading else 'follows: another autoscaler leads'}"]
    if state.paused_by:
        by = printable_user(state.paused_by)
        lines.append(f"PAUSED by {by}: no gateway starts or stops until liveroom pool resume")
    if (last := state.last) is not None:
        lines.append(str(last))
    return lines


def _gateways(state: PoolState) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False)
    table.add_column("gateway", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("viewers", "joins/s", "cpu", "loop lag", "report"):
        table.add_column(name, justify="right", no_wrap=True)
    for seen in state.gateways:
        table.add_row(
            seen.id,
            seen.state,
            shown(seen.connections, "{:,}"),
            shown(seen.joins_per_s, "{:,.0f}"),
            shown(seen.cpu, "{:.0%}"),
            shown(seen.loop_lag_ms, "{:,.0f} ms"),
            f"{seen.age_s:.0f} s ago",
        )
    return table


def _decisions(decisions: list[PoolDecision]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False)
    for name in ("when", "from", "to", "reason", "why", "done"):
        table.add_column(name, no_wrap=True, justify="right" if name in {"from", "to"} else "left")
    for noted in decisions:
        at = f"{datetime.fromtimestamp(noted.at_ms / 1000, UTC).astimezone():%H:%M:%S}"
        why = noted.detail + (f"; drains {', '.join(noted.drain)}" if noted.drain else "")
        table.add_row(at, str(noted.actual), str(noted.desired), noted.reason, why, "yes" if noted.done else "no")
    return table
