"""`liveroom pool`: shows the gateways and the decisions about them; pauses and resumes the pool,
drains a gateway, adds some.
"""

from datetime import UTC, datetime
from typing import Final, NamedTuple

import aiohttp
from rich import box
from rich.table import Table

from cli.choices import PoolAct
from cli.consoles import plain_console
from cli.endpoints import Endpoints, UsageError, make_user, need_autoscaler
from cli.figures import shown
from cli.pool_client import PoolClient, PoolDecision, PoolState
from cli.printable import printable, printable_user
from cli.times import moment_s, span_s
from liveroom import clock
from liveroom.kinds import Role

SHOWN: Final = 12
WIDTH: Final = 160  # in a file or pipe
USUAL_S: Final = 3600
SILENT_S: Final = 60.0  # the leader is heard from every 30 s


class PoolOrder(NamedTuple):
    """What an operator wants, as typed. `what`: the gateway to drain, or the number to add."""

    act: PoolAct
    what: str = ""
    lasting: str = ""
    until: str = ""
    why: str = ""

    def added(self, now_s: float) -> tuple[int, int]:
        """Return how many gateways to add, and for how many seconds; raise UsageError."""
        if self.lasting and self.until:
            raise UsageError("--for and --until exclude each other")
        if self.what.startswith("-"):
            raise UsageError(f"the number of gateways must not be negative, as {self.what} is")
        if self.what and not (self.what.isascii() and self.what.isdigit()):
            raise UsageError(f"{self.what!r} is no number of gateways")
        lasting_s = round(moment_s(self.until, now_s, ahead=True) - now_s) if self.until else USUAL_S
        return int(self.what or "1"), span_s(self.lasting) if self.lasting else lasting_s

    def check(self) -> None:
        """Raise UsageError where an argument or option is not for this act, or is missing."""
        is_drain, is_add = self.act is PoolAct.DRAIN, self.act is PoolAct.ADD
        if is_drain and not self.what:
            raise UsageError("which gateway? liveroom pool drain GATEWAY; liveroom pool shows their names")
        if (
            (self.what and not (is_drain or is_add))
            or ((self.lasting or self.until) and not is_add)
            or (self.why and not is_drain)
        ):
            raise UsageError(f"liveroom pool {self.act.value} takes no such argument or option; see liveroom pool --help")


async def run_pool(order: PoolOrder, endpoints: Endpoints, user: str) -> int:
    """Do what `order` says and print the pool; return the exit code."""
    order.check()
    act = order.act
    added, for_s = order.added(clock.unix_s()) if act is PoolAct.ADD else (0, 0)
    url = need_autoscaler(endpoints)
    token = endpoints.token_for(make_user(user, Role.OPERATOR.value))
    console = plain_console(piped_width=WIDTH)
    async with aiohttp.ClientSession() as http:
        client = PoolClient(http, url, token)
        if act is PoolAct.DECISIONS:
            console.print(_decisions(await client.decisions()))
            return 0
        match act:
            case PoolAct.PAUSE:
                state = await client.pause()
            case PoolAct.RESUME:
                state = await client.resume()
            case PoolAct.DRAIN:
                state = await client.drain(order.what, order.why)
            case PoolAct.ADD:
                state = await client.keep((await client.state()).with_more(added) if added else 0, for_s)
            case PoolAct.SHOW:
                state = await client.state()
        for line in _summary(state):
            console.print(line)
        console.print(_gateways(state))
        if act is PoolAct.SHOW:
            console.print(_decisions((await client.decisions())[:SHOWN]))
    return 0


def _summary(state: PoolState) -> list[str]:
    if state.leading:
        lines = [f"{state.instance} leads"]
    elif state.leader:
        silent = f", and has not been heard for {state.heard_s:,.0f} s" if (state.heard_s or 0) > SILENT_S else ""
        lines = [f"{printable(state.leader)} leads{silent}; {state.instance} answers"]
    else:
        lines = [f"{state.instance} follows, and has heard of no autoscaler that leads"]
    if state.paused_by:
        by = printable_user(state.paused_by)
        lines.append(f"PAUSED by {by}: no gateway starts or stops until liveroom pool resume")
    if (floor := state.floor) is not None:
        until = f"{datetime.fromtimestamp(floor.until_ms / 1000, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
        lines.append(
            f"at least {floor.least} gateways until {until}, by {printable_user(floor.by)}; liveroom pool add 0 ends it"
        )
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
