"""A viewer at every gateway that sees whether gifts arrive: `python -m viewer.canary`, `liveroom
canary`.

Sends marked gifts into a hidden room and measures at each gateway how long they take, whether they
come at all, and in order. What it finds lost, real viewers of that gateway lose too. Needs an
operator's token. Owns nothing; its metrics are its word.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from liveroom.extras import explained

with explained("canary"):
    import aiohttp
    import orjson
    import structlog

    from liveroom import metric_catalog, service
    from liveroom.kinds import Role
    from liveroom.registry import Metrics
    from liveroom.service import Runtime, StartError
    from liveroom.settings import CanarySettings
    from liveroom.tickets import User
    from liveroom.tokens import sign_user
    from liveroom.waiting import in_words
    from viewer.client import Accepted, Sender, Viewer
    from viewer.session import Delivered, Effect, Entered

LOOK_S: Final = 2.0
SWEEP_S: Final = 0.2
ANSWER_S: Final = 5.0
TOKEN_TTL_S: Final = 86_400
KEPT: Final = 600
PROBED: Final = frozenset({"open", "full"})
GIFT: Final = "canary"
ENTERED: Final = "entered"
log = structlog.get_logger()


class Standing(NamedTuple):
    """What one gateway's canary has seen so far.

    Delays in milliseconds over the last minutes, None before the first.
    """

    gateway: str
    is_in: bool
    is_gone: bool
    received: int
    lost: int
    disordered: int
    p50_ms: float | None
    p99_ms: float | None


class Probe:
    """The canary at one gateway: what it waits for, what came."""

    def __init__(self, gateway: str, metrics: Metrics) -> None:
        self.gateway = gateway
        self.is_in = self.is_gone = False
        self.received = self.lost = self.disordered = 0
        self.delays_ms: deque[float] = deque(maxlen=KEPT)
        self._waiting: dict[str, float] = {}
        self._early: dict[str, float] = {}
        self._place = (0, 0)
        metrics.exist(metric_catalog.CANARY_LOST, [gateway])
        self._delay = metrics.histogram(metric_catalog.CANARY_DELAY, gateway)
        self._lost = metrics.counter(metric_catalog.CANARY_LOST, gateway)
        self._disordered = metrics.counter(metric_catalog.CANARY_DISORDERED, gateway)

    def sent(self, id_: str, now_s: float) -> None:
        """A gift got its 202: it is due here, if we are in."""
        if (came_s := self._early.pop(id_, None)) is not None:
            self._took(max(0.0, came_s - now_s))
        elif self.is_in:
            self._waiting[id_] = now_s

    def on_effect(self, effect: Effect) -> None:
        """Take what the session says."""
        match effect:
            case Entered():
                self.is_in = True
            case Delivered(message=message, epoch=epoch):
                self._deliver(message.id, (epoch, message.seq), is_late=effect.late)
            case _:
                pass

    def gone(self) -> None:
        """Take note of a lost connection. What was due stays due: it is to be pulled."""
        self.is_in = False

    def sweep(self, now_s: float, lost_s: float) -> None:
        """Count as lost what is too late."""
        for id_, sent_s in list(self._waiting.items()):
            if now_s - sent_s > lost_s:
                del self._waiting[id_]
                self.lost += 1
                self._lost.inc()
                log.error("canary_lost", gateway=self.gateway, id=id_)
        for id_, came_s in list(self._early.items()):
            if now_s - came_s > lost_s:
                del self._early[id_]  # of another canary in the same room

    def standing(self) -> Standing:
        """Return what was seen so far."""
        ordered = sorted(self.delays_ms)
        p50, p99 = (ordered[int((len(ordered) - 1) * share)] if ordered else None for share in (0.5, 0.99))
        return Standing(self.gateway, self.is_in, self.is_gone, self.received, self.lost, self.disordered, p50, p99)

    def _deliver(self, id_: str, place: tuple[int, int], *, is_late: bool) -> None:
        now_s = time.monotonic()
        if not is_late:
            if place <= self._place:
                self.disordered += 1
                self._disordered.inc()
                log.error("canary_disordered", gateway=self.gateway, id=id_, place=place, after=self._place)
            self._place = max(self._place, place)
        if (sent_s := self._waiting.pop(id_, None)) is not None:
            self._took(now_s - sent_s)
        else:
            self._early[id_] = now_s  # before its 202, or not ours

    def _took(self, seconds: float) -> None:
        self.received += 1
        self._delay.observe(seconds)
        self.delays_ms.append(seconds * 1000)


class Canary:
    """All probes, and the sender. `http`: for everything."""

    def __init__(self, settings: CanarySettings, metrics: Metrics, http: aiohttp.ClientSession) -> None:
        self.probes: dict[str, Probe] = {}
        self._settings = settings
        self._made = metrics
        self._http = http
        self._made_token, self._renew_s = "", 0.0
        self._sender = Sender(settings.ingress_url.rstrip("/"), self.token, http)
        self._sent = {
            outcome: metrics.counter(metric_catalog.CANARY_SENT, outcome) for outcome in ("accepted", "refused", "unknown")
        }
        self._stays: dict[str, AsyncExitStack] = {}
        self._former: deque[Probe] = deque(maxlen=KEPT)
        self._knows_gateways = self._is_hidden = False
        self._failing: dict[str, str] = {}  # what was asked and not answered the last time, and why

    async def run(self, on_look: Callable[[], None] = lambda: None) -> None:
        """Watch for ever. `on_look` is called after every look at the gateways; the first waits for
        a scheduler.

        Raises StartError where that does not take the token.
        """
        try:
            while True:
                await self._look()
                on_look()
                if self._knows_gateways:
                    break
                await asyncio.sleep(LOOK_S)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send())
                tasks.create_task(self._sweep())
                while True:
                    if not self._is_hidden:
                        await self._hide()
                    await self._look()
                    on_look()
                    await asyncio.sleep(LOOK_S)
        finally:
            for gateway in list(self._stays):
                await self._leave(gateway)

    def seen(self) -> list[Standing]:
        """Return what was seen at each gateway, those that are gone too."""
        return [probe.standing() for probe in (*self._former, *self.probes.values())]

    async def _hide(self) -> None:
        """Have the room listed nowhere; without that the canary works all the same, and asks
        again.
        """
        answer = await self._ask(
            "PATCH", f"{self._settings.ingress_url}/v1/rooms/{self._settings.room}/modes", {"hidden": True}
        )
        self._is_hidden = answer is not None

    async def _look(self) -> None:
        """Be at all gateways that take viewers, and at no other."""
        url = f"{self._settings.scheduler_url.partition(',')[0]}/v1/gateways"
        told = await self._ask("GET", url)
        if told is None:
            return  # nobody to ask: stay where we are
        self._knows_gateways = True
        wanted = {each["gateway"] for each in told["gateways"] if each["standing"] in PROBED}
        for gateway in self.probes.keys() - wanted:
            await self._leave(gateway)
        for gateway in sorted(wanted - self.probes.keys()):
            probe = self.probes[gateway] = Probe(gateway, self._made)
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
            await asyncio.sleep(self._settings.interval_s)
            if not any(probe.is_in for probe in self.probes.values()):
                continue
            outcome = await self._sender.gift(self._settings.room, GIFT)
            self._sent[type(outcome).__name__.lower()].inc()
            if isinstance(outcome, Accepted):
                now_s = time.monotonic()
                for probe in self.probes.values():
                    probe.sent(outcome.id, now_s)
            else:
                log.warning("canary_not_sent", outcome=repr(outcome))

    def token(self) -> str:
        """Return an operator's token: the one it was given, or one of its own making, renewed in
        time.
        """
        if given := self._settings.token.get_secret_value():
            return given
        now_s = time.time()
        if now_s >= self._renew_s:
            key = self._settings.token_key.get_secret_value().encode()
            self._made_token = sign_user(User(self._settings.user, Role.OPERATOR), key, int(now_s), TOKEN_TTL_S)
            self._renew_s = now_s + TOKEN_TTL_S / 2
        return self._made_token

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for probe in self.probes.values():
                probe.sweep(time.monotonic(), self._settings.lost_s)

    async def _ask(self, method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the answer; None where there is none, which is told once for each reason."""
        headers, limit = {"Authorization": f"Bearer {self.token()}"}, aiohttp.ClientTimeout(total=ANSWER_S)
        try:
            async with self._http.request(method, url, json=body, headers=headers, timeout=limit) as answer:
                text = await answer.read()
                if answer.status in {HTTPStatus.OK, HTTPStatus.ACCEPTED}:
                    told: dict[str, Any] = orjson.loads(text)
                    self._failing.pop(url, None)
                    return told
                why = f"{answer.status}: {text[:200].decode(errors='replace')}"
                if not self._knows_gateways and answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                    raise StartError(f"{url} does not take the token: {why}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = in_words(error)
        if self._failing.get(url) != why:
            self._failing[url] = why
            log.warning("no_answer", url=url, why=why)
        return None

    @property
    def waits_for(self) -> str:
        """Say why it is at no gateway yet."""
        return "; ".join(f"{url}: {why}" for url, why in self._failing.items()) or "no gateway takes viewers yet"


async def run(settings: CanarySettings, runtime: Runtime) -> None:
    """Watch until told to stop."""
    async with aiohttp.ClientSession() as http:
        canary = Canary(settings, runtime.metrics, http)

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
