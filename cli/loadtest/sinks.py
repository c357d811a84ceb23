"""The processes with the many viewers of a load test (`python -m viewer.sink`).

Owns them, and the sockets over which they get their share of the load and report their counts.
"""

import asyncio
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

import aiohttp
import msgspec
import psutil

from cli.loadtest.load import GatewayLoad, LoadError
from devstack.builds import THIS
from devstack.system import System
from liveroom import clock
from liveroom.child_process import spawn_tethered, stop_process
from liveroom.kinds import Role
from liveroom.ports import HOST
from viewer.sink import Setup, SinkState, Wish

JOINS_PER_S: Final = 1000.0
GATEWAY_TIMEOUT_S: Final = 15.0
_LOOK_S: Final = 0.1


class Sinks:
    """The processes with the many viewers."""

    def __init__(self, controls: Sequence[socket.socket], pids: Sequence[int]) -> None:
        self.processes = [psutil.Process(pid) for pid in pids]
        self.states = [SinkState(0, 0, 0, 0, 0, 0) for _ in controls]
        self._controls = controls

    async def share(self, load: GatewayLoad) -> None:
        """Share the viewers of a load out among the processes."""
        many = len(self._controls)
        for index, control in enumerate(self._controls):
            mine = load.viewers // many + (index < load.viewers % many)
            wish = Wish(mine, JOINS_PER_S / many, load.turnover_per_s / many, not load.is_plain)
            await asyncio.get_running_loop().sock_sendall(control, msgspec.json.encode(wish) + b"\n")

    async def follow(self, index: int) -> None:
        """Read the reports of one process until cancelled; raise LoadError when it ends."""
        rest = b""
        while data := await asyncio.get_running_loop().sock_recv(self._controls[index], 65_536):
            *lines, rest = (rest + data).split(b"\n")
            if lines:
                self.states[index] = msgspec.json.decode(lines[-1], type=SinkState)
        raise LoadError("a process of viewers has ended")

    @property
    def joined(self) -> int:
        """Viewers that are in a room."""
        return sum(state.joined for state in self.states)

    @property
    def came(self) -> int:
        """Viewers that came into a room so far."""
        return sum(state.came for state in self.states)

    @property
    def failed(self) -> int:
        """Viewers that came late, were cut or were refused so far."""
        return sum(state.late + state.cut + state.refused for state in self.states)


async def start_sinks(context: AsyncExitStack, system: System, rooms: Sequence[str], many: int) -> Sinks:
    """Start `many` processes of viewers, which end with `context`."""
    edge, generation = system.edges[0], await _generation(system)
    controls, pids = [], []
    for index in range(many):
        ours, theirs = socket.socketpair()
        context.enter_context(ours)
        with theirs:
            command = [sys.executable, "-P", "-m", "viewer.sink", str(theirs.fileno())]
            process = await spawn_tethered(command, pass_fds=[theirs.fileno()], env=THIS.environment())
        context.push_async_callback(stop_process, process, grace_s=2.0)
        ours.setblocking(False)
        keys = system.ticket_signing_keys
        setup = Setup(HOST, edge.port, edge.name, generation, keys, tuple(rooms), f"viewer-{index}", f"127.0.0.{index + 2}")
        await asyncio.get_running_loop().sock_sendall(ours, msgspec.json.encode(setup) + b"\n")
        controls.append(ours)
        pids.append(process.pid)
    return Sinks(controls, pids)


async def _generation(system: System) -> int:
    """Return the start generation of the gateway, as the scheduler knows it."""
    headers = {"Authorization": f"Bearer {system.token('operator', Role.OPERATOR)}"}
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as http, asyncio.timeout(GATEWAY_TIMEOUT_S):
        while True:
            async with http.get(f"{system.scheduler.url}/v1/gateways") as answer:
                gateways = msgspec.json.decode(await answer.read())["gateways"]
            if gateways and gateways[0]["standing"] == "open":
                return int(gateways[0]["generation"])
            await clock.sleep(_LOOK_S)
