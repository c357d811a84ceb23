"""Ports for processes on this machine.

They lie below the range of outgoing connections. Otherwise an outgoing connection could take the
port of a process that is down for a moment, and a client that retries such a port could end up
connected to itself. Used by `devstack` and by the autoscaler's local driver, so it is shared.
No simulation asks for a port of the real machine, so the chance here is the system's.
"""

import socket
from collections import deque
from typing import Final

from liveroom.chance import SystemChance

HOST: Final = "127.0.0.1"
_PORTS: Final = range(20_000, 32_000)
_GIVEN: Final[deque[int]] = deque(maxlen=1000)  # to processes that may not listen yet


def is_free(port: int) -> bool:
    """Return whether nobody listens at a port right now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are just ending take no port
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Return `count` ports that are free right now and that this process did not return before.

    They are random, so that two systems that start at once seldom choose the same.
    """
    ports: set[int] = set()
    chance = SystemChance()
    while len(ports) < count:
        port = chance.choice(_PORTS)
        if port not in _GIVEN and is_free(port):
            _GIVEN.append(port)
            ports.add(port)
    return list(ports)
