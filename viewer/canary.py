"""A viewer at every gateway that checks whether gifts arrive: `python -m viewer.canary`, `liveroom
canary`.

The canary sends marked gifts into a hidden room and measures at each gateway how long they take,
whether they arrive at all, and in which order. What it finds lost, real viewers of that gateway
lose too. It needs an operator's token and writes nothing but metrics and logs.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Any, Final

from liveroom.extras import answer_version, explained

answer_version(__name__)
with explained("canary"):
    import aiohttp
    import orjson
    import structlog

    from liveroom import clock, metric_catalog, service
    from liveroom.chance import Chance, SystemChance
    from liveroom.errors import in_words
    from liveroom.kinds import Role
    from liveroom.registry import Metrics
    from liveroom.service import Runtime, StartError
    from liveroom.settings import CanarySettings
    from liveroom.texts import shown
    from liveroom.tickets import User
    from liveroom.tokens import sign_user
    from viewer.client import Viewer
    from viewer.probe import KEPT, Probe, Standing
    from viewer.problem import read_problem
    from viewer.sender import Accepted, Sender

LOOK_S: Final = 2.0
SWEEP_S: Final = 0.2
ANSWER_S: Final = 5.0
TOKEN_TTL_S: Final = 86_400
PROBED: Final = frozenset({"open", "full", "skewed"})
GIFT: Final = "canary"
ENTERED: Final = "entered"
log = structlog.get_logger()


class Canary:
    """A probe at every gateway, and the sender of the gifts.

    `knows_gateways`: a scheduler has answered. `http` is the caller's. `chance` is for ids and
    jitter, by default the system's.
    """

    def __init__(
        self, settings: CanarySettings, metrics: Metrics, http: aiohttp.ClientSession, chance: Chance | None = None
    ) -> None:
        self.probes: dict[str, Probe] = {}
        self._settings = settings
        self._metrics = metrics
        self._chance = chance if chance is not None else SystemChance()
        self._http = http
        self._own_token, self._renew_s = "", 0.0
        self._sender = Sender(settings.ingress_url.rstrip("/"), self.token, http, chance=self._chance)
        self._sent = {
            outcome: metrics.counter(metric_catalog.CANARY_SENT, outcome) for outcome in ("accepted", "refused", "unknown")
        }
        self._stays: dict[str, AsyncExitStack] = {}
        self._former: deque[Probe] = deque(maxlen=KEPT)
        self.knows_gateways = self._is_hidden = False
        self._failing: dict[str, str] = {}  # by address: why its last request failed

    async def run(self, on_look: Callable[[], None] = lambda: None) -> None:
        """Watch until cancelled.

        `on_look` is called after every request for the gateways, the first of which waits for a
        scheduler. Raises StartError where the scheduler does not take the token.
        """
        try:
            while True:
                await self._look()
                on_look()
                if self.knows_gateways:
                    break
                await clock.sleep(LOOK_S)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send())
                tasks.create_task(self._sweep())
                while True:
                    if not self._is_hidden:
                        await self._hide()
                    await self._look()
                    on_look()
                    await clock.sleep(LOOK_S)
        finally:
            for gateway in list(self._stays):
                await self._leave(gateway)

    def seen(self) -> list[Standing]:
        """Return the findings at each gateway, including those that are gone."""
        return [probe.standing() for probe in (*self._former, *self.probes.values())]

    async def _hide(self) -> None:
        """Hide the room from lists. The canary works without that too, and asks again."""
        answer = await self._ask(
            "PATCH", f"{self._settings.ingress_url}/v1/rooms/{self._settings.room}/modes", {"hidden": True}
        )
        self._is_hidden = answer is not None

    async def _look(self) -> None:
        """Put a probe at every gateway that takes viewers, and at no other."""
        url = f"{self._settings.scheduler_url.partition(',')[0]}/v1/gateways"
        answered = await self._ask("GET", url)
        if answered is None:
            return  # no scheduler answers: keep the probes
        self.knows_gateways = True
        wanted = {each["gateway"] for each in answered["gateways"] if each["standing"] in PROBED}
        for gateway in self.probes.keys() - wanted:
            await self._leave(gateway)
        for gateway in sorted(wanted - self.probes.keys()):
            probe = self.probes[gateway] = Probe(gateway, self._metrics)
            stay = self._stays[gateway] = AsyncExitStack()
            await stay.enter_async_context(
                Viewer(
                    self._settings.scheduler_url,
                    [self._settings.room],
                    http=self._http,
                    token=self.token,
                    on_effect=probe.on_effect,
                    on_gone=probe.gone,
                    gateway=gateway,
                    chance=self._chance,
                )
            )
            log.info("canary_at", gateway=gateway)

    async def _leave(self, gateway: str) -> None:
        if (probe := self.probes.pop(gateway, None)) is not None:
            probe.is_in, probe.is_gone = False, True
            self._former.append(probe)
        if (stay := self._stays.pop(gateway, None)) is not None:
            await stay.aclose()

    async def _send(self) -> None:
        while True:
            await clock.sleep(self._settings.interval_s)
            if not any(probe.is_in for probe in self.probes.values()):
                continue
            outcome = await self._sender.gift(self._settings.room, GIFT)
            self._sent[type(outcome).__name__.lower()].inc()
            if isinstance(outcome, Accepted):
                now_s = clock.monotonic_s()
                for probe in self.probes.values():
                    probe.sent(outcome.id, now_s)
            else:
                log.warning("canary_not_sent", outcome=repr(outcome))

    def token(self) -> str:
        """Return an operator's token: the given one, or one that it signs and renews in time."""
        if given := self._settings.token.get_secret_value():
            return given
        now_s = clock.monotonic_s()  # Unix time may be set back
        if now_s >= self._renew_s:
            key = self._settings.token_key.get_secret_value().encode()
            self._own_token = sign_user(User(self._settings.user, Role.OPERATOR), key, int(clock.unix_s()), TOKEN_TTL_S)
            self._renew_s = now_s + TOKEN_TTL_S / 2
        return self._own_token

    async def _sweep(self) -> None:
        while True:
            await clock.sleep(SWEEP_S)
            for probe in self.probes.values():
                probe.sweep(clock.monotonic_s(), self._settings.lost_s)

    async def _ask(self, method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the answer, None where there is none; each reason is logged once."""
        headers, limit = {"Authorization": f"Bearer {self.token()}"}, aiohttp.ClientTimeout(total=ANSWER_S)
        try:
            async with self._http.request(method, url, json=body, headers=headers, timeout=limit) as answer:
                text = await answer.read()
                if answer.status in {HTTPStatus.OK, HTTPStatus.ACCEPTED}:
                    answered: dict[str, Any] = orjson.loads(text)
                    self._failing.pop(url, None)
                    return answered
                why = f"{answer.status}: {shown(str(read_problem(answer.status, answer.headers, text)))}"
                if not self.knows_gateways and answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                    raise StartError(f"{url} does not take the token: {why}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = in_words(error)
        if self._failing.get(url) != why:
            self._failing[url] = why
            log.warning("no_answer", url=url, why=why)
        return None

    @property
    def waits_for(self) -> str:
        """The reason why no probe is at a gateway yet."""
        return "; ".join(f"{url}: {why}" for url, why in self._failing.items()) or "no gateway takes viewers yet"


async def run(settings: CanarySettings, runtime: Runtime) -> None:
    """Watch until the service stops."""
    async with aiohttp.ClientSession() as http:
        canary = Canary(settings, runtime.metrics, http, runtime.chance)

        def on_look() -> None:
            if any(probe.is_in for probe in canary.probes.values()):
                runtime.ready(ENTERED)
            elif not runtime.was_ready:
                runtime.waits(ENTERED, canary.waits_for)

        working = asyncio.create_task(canary.run(on_look))
        stopping = asyncio.create_task(runtime.stopping.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        stopping.cancel()
        await asyncio.wait({working, stopping})
        if not working.cancelled() and (error := working.exception()) is not None:
            raise error


if __name__ == "__main__":
    service.main("canary", CanarySettings, run, ENTERED)
