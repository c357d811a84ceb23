"""Kills gateways of the demo at a key press, and starts them again.

Owns which gateways are dead on purpose.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from devstack.processes import Service, ServiceError
from devstack.system import START_TIMEOUT_S
from liveroom import clock
from liveroom.chance import Chance
from liveroom.tasks import BackgroundTasks

COME_BACK_S: Final = 3.0


class GatewayKiller:
    """Kills one of `edges` at a time; `chance` draws which."""

    def __init__(self, edges: Sequence[Service], chance: Chance) -> None:
        self._edges = edges
        self._chance = chance
        self._killed_s: dict[str, float] = {}
        self._revivals = BackgroundTasks("starting a killed gateway")

    def kill(self) -> str | None:
        """Kill a running gateway with SIGKILL and return its name; None where none runs.

        It starts again after 3 seconds.
        """
        running = [edge for edge in self._edges if edge.running and edge.name not in self._killed_s]
        if not running:
            return None
        edge = self._chance.choice(running)
        edge.kill()
        self._killed_s[edge.name] = clock.monotonic_s()
        self._revivals.start(self._revive(edge))
        return edge.name

    def left_s(self, name: str) -> float | None:
        """Return in how many seconds a killed gateway starts again; None where it was not killed.

        0 or less: it is starting.
        """
        killed_s = self._killed_s.get(name)
        return None if killed_s is None else killed_s + COME_BACK_S - clock.monotonic_s()

    async def stop(self) -> None:
        """Start nothing more."""
        await self._revivals.cancel()

    async def _revive(self, edge: Service) -> None:
        try:
            await edge.ended()
            await clock.sleep(COME_BACK_S)
            await edge.start()
            with suppress(ServiceError):  # its death is noted, or the screen shows that it does not answer
                await edge.ready(START_TIMEOUT_S)
        finally:
            self._killed_s.pop(edge.name, None)
