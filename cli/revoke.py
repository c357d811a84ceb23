"""`liveroom revoke`: revokes tokens, lists the revocations in force, or lifts one."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from rich import box
from rich.table import Table

from cli.consoles import plain_console
from cli.endpoints import Endpoints, UsageError, check_device
from cli.ingress_client import command, target
from cli.printable import printable, printable_user

WIDTH = 160  # in a file or pipe


async def run_revoke(
    endpoints: Endpoints, operator: str, user: str, *, device: str, issued_before_s: int | None, why: str
) -> int:
    """Revoke the tokens of a user or of a time; return the exit code.

    Raises UsageError where the options name no tokens.
    """
    if not user and (device or issued_before_s is None):
        raise UsageError("name a user, or --issued-before; a device is one of a user")
    body: dict[str, Any] = {"why": why}
    if user:
        body["user"] = target(user)
    if check_device(device):
        body["device"] = device
    if issued_before_s is not None:
        body["issued_before_s"] = issued_before_s
    entry = await command(endpoints, operator, "POST", "revocations", body)
    print(f"revoked: {_about(entry)}; id {entry['id']}, until {_time(entry['until_ms'] / 1000)}")
    return 0


async def run_lift(endpoints: Endpoints, operator: str, id_: str) -> int:
    """Lift a revocation; return the exit code."""
    await command(endpoints, operator, "DELETE", f"revocations/{quote(id_, safe='')}")
    print(f"lifted: {printable(id_)}")
    return 0


async def run_list(endpoints: Endpoints, operator: str) -> int:
    """Print the revocations in force, the newest first; return the exit code."""
    entries: list[dict[str, Any]] = []
    after = ""
    while True:
        found = await command(endpoints, operator, "GET", f"revocations?{urlencode({'limit': 1000, 'after': after})}")
        entries += found["revocations"]
        after = found["after"]
        if not after:
            break
    table = Table(box=box.SIMPLE)
    for name in ("id", "revokes", "until", "by", "why"):
        table.add_column(name)
    for entry in sorted(entries, key=lambda each: -each["at_ms"]):
        by, why = printable_user(entry.get("by", "")), printable(entry.get("why", ""))
        table.add_row(printable(entry["id"]), _about(entry), _time(entry["until_ms"] / 1000), by, why)
    plain_console(piped_width=WIDTH).print(table)
    return 0


def _about(entry: dict[str, Any]) -> str:
    user, device = entry.get("user", ""), entry.get("device", "")
    whose = printable_user(user) if user else "everybody"
    return f"tokens of {whose}{f' on {printable(device)}' if device else ''} issued before {_time(entry['issued_before_s'])}"


def _time(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
