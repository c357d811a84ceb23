"""A module that says it is pure is: it takes values and the time, and reaches no clock, chance,
socket or file by itself.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("liveroom", "autoscaler", "ingress", "broadcaster", "edge", "scheduler", "viewer", "dashboards", "devstack", "cli")
REACHES = {
    "aiohttp",
    "aiokafka",
    "asyncio",
    "os",
    "prometheus_client",
    "pydantic_settings",
    "random",
    "secrets",
    "socket",
    "structlog",
    "subprocess",
    "threading",
    "time",
    "uvloop",
}


SEEDED = {"from random import Random"}  # chance that the caller has in hand


def imported(tree: ast.Module) -> set[str]:
    """The packages that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and ast.unparse(node) not in SEEDED:
            names.add(node.module.partition(".")[0])
    return names


MODULES = {path: ast.parse(path.read_text()) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
PURE = {path: tree for path, tree in MODULES.items() if re.search(r"\b[Pp]ure\b", ast.get_docstring(tree) or "")}


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in sorted(PURE)])
def test_a_pure_module_reaches_nothing_by_itself(path: Path) -> None:
    assert not imported(PURE[path]) & REACHES


def test_the_cores_of_the_system_are_among_them() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PURE}
    assert names >= {
        "liveroom.fencing",
        "liveroom.records.broadcast",
        "liveroom.records.snapshot",
        "liveroom.records.uplink",
        "liveroom.wire",
        "ingress.offences",
        "ingress.permissions",
        "ingress.rate_limits",
        "ingress.requests",
        "ingress.room_policy",
        "ingress.slow_mode",
        "ingress.words",
        "broadcaster.dedupe",
        "broadcaster.items",
        "broadcaster.lines",
        "broadcaster.ownership",
        "broadcaster.room",
        "broadcaster.rooms",
        "broadcaster.waiting_records",
        "edge.hub",
        "edge.receiver",
        "edge.room",
        "autoscaler.decide",
        "scheduler.placement",
        "scheduler.weights",
        "viewer.ledger",
        "viewer.session",
    }
