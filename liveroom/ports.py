"""Ports for processes of this machine.

Below those that outgoing connections take, so that none gets the port of a process that is down for a moment. Used by
`liveroom demo` and by the autoscaler's local driver.
"""

import random
import socket
from typing import Final

HOST: Final = "127.0.0.1"
_PORTS: Final = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Say whether nobody listens at a port right now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are just ending take no port
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Return ports that are free right now, at random, so that systems started at once seldom meet."""
    ports: set[int] = set()
    chance = random.SystemRandom()
    while len(ports) < count:
        port = chance.choice(_PORTS)
        if is_free(port):
            ports.add(port)
    return list(ports)
