"""Ports for processes of this machine.

Below those that outgoing connections take, so that none gets the port of a process that is down for
a moment (and a client that keeps trying such a port could end up connected to itself). Used by
`liveroom demo`, its Kafka and the autoscaler's local driver.
"""

import random
import socket
from collections import deque
from typing import Final

HOST: Final = "127.0.0.1"
_PORTS: Final = range(20_000, 32_000)
_GIVEN: Final[deque[int]] = deque(maxlen=1000)  # to processes that may not listen yet


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
    """Return ports that are free right now and not given before, at random, so that systems started
    at once seldom meet.
    """
    ports: set[int] = set()
    chance = random.SystemRandom()
    while len(ports) < count:
        port = chance.choice(_PORTS)
        if port not in _GIVEN and is_free(port):
            _GIVEN.append(port)
            ports.add(port)
    return list(ports)
