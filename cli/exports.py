"""`liveroom up --env`: what a running system has, as exports of a shell.

Owns the names. They are those that commands and services read, so that what a shell starts after
`eval "$(liveroom up --env)"` finds the system, and the examples of the documents run as they stand.
"""

import shlex
from typing import Final

from cli.endpoints import UsageError
from devstack.running import Running, find_running
from liveroom.variables import UP_KAFKA

_SERVICES: Final = ("ingress", "broadcaster", "edge", "scheduler", "autoscaler")


def exports_of(running: Running) -> dict[str, str]:
    """Return the variables of a running system; empty ones for what it does not have."""
    return {
        "LIVEROOM_INGRESS_URL": running.ingress,
        "LIVEROOM_SCHEDULER_URL": running.scheduler,
        "LIVEROOM_AUTOSCALER_URL": running.autoscaler,
        "LIVEROOM_EDGE_URL": running.edge,
        "LIVEROOM_PAGE_URL": running.page,
        "LIVEROOM_TOKEN": "",  # one of another system would go before the key
        "LIVEROOM_TOKEN_KEY": running.token_key,
        "LIVEROOM_DEBUG_KEY": running.debug_key,
        "LIVEROOM_LOG_KEY": running.log_key,
        **{f"LIVEROOM_{name.upper()}_INTERNAL_URL": running.internal.get(f"{name}-1", "") for name in _SERVICES},
        "KAFKA_BOOTSTRAP": running.kafka,
        "LIVEROOM_KAFKA__PREFIX": running.prefix,
        "LIVEROOM_KAFKA__PARTITIONS": str(running.partitions),
        UP_KAFKA: running.kafka if running.owns_kafka else "",
    }


def show_exports() -> None:
    """Print the exports of this user's newest running system, and take back what it does not have.

    Raises UsageError where none runs.
    """
    running = next(iter(find_running()), None)
    if running is None:
        raise UsageError("nothing of yours runs: start `liveroom up` in another terminal")
    for name, value in exports_of(running).items():
        print(f"export {name}={shlex.quote(value)}" if value else f"unset {name}")
