"""`liveroom connections`: lists the connections of a user at all gateways, or ends them."""

import sys
from urllib.parse import quote

from rich import box
from rich.table import Table

from cli.consoles import plain_console
from cli.endpoints import Endpoints
from cli.ingress_client import command, target
from cli.printable import printable, printable_user

WIDTH = 160  # in a file or pipe


async def run_connections(endpoints: Endpoints, operator: str, user: str, *, end: bool) -> int:
    """List or end the connections of a user; return the exit code.

    It is 1 where a gateway did not answer, which may have more of them.
    """
    id_ = target(user)
    found = await command(endpoints, operator, "DELETE" if end else "GET", f"users/{quote(id_, safe='')}/connections")
    table = Table(box=box.SIMPLE)
    for name in ("gateway", "transport", "device", "role", "rooms"):
        table.add_column(name)
    for each in found["connections"]:
        cells = each["gateway"], each["transport"], each.get("device", ""), each["role"], ", ".join(each["rooms"])
        table.add_row(*map(printable, cells))
    console = plain_console(piped_width=WIDTH)
    if found["connections"]:
        console.print(table)
    print(f"{found['total']} connections of {printable_user(id_)}{' ended' if end else ''}")
    if missing := found["missing"]:
        print(f"liveroom: no answer from {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0
