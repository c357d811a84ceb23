"""The canary's findings at one gateway: which gifts arrived, how late, in which order.

Called by `viewer.canary`, which sends the gifts.
"""

from collections import deque
from typing import Final, NamedTuple

import structlog

from liveroom import clock, metric_catalog
from liveroom.registry import Metrics
from viewer.effects import Delivered, Effect, Entered

KEPT: Final = 600
log = structlog.get_logger()


class Standing(NamedTuple):
    """The findings at one gateway; delays over the last gifts, None before the first."""

    gateway: str
    is_in: bool
    is_gone: bool
    received: int
    lost: int
    disordered: int
    p50_ms: float | None
    p99_ms: float | None


class Probe:
    """The canary at one gateway: the gifts that are due there, and what has arrived."""

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
        """Take note of an accepted gift: it is due here if this probe is in the room."""
        if (came_s := self._early.pop(id_, None)) is not None:
            self._count(max(0.0, came_s - now_s))
        elif self.is_in:
            self._waiting[id_] = now_s

    def on_effect(self, effect: Effect) -> None:
        """Take an effect of the session."""
        match effect:
            case Entered():
                self.is_in = True
            case Delivered(message=message, epoch=epoch):
                self._deliver(message.id, (epoch, message.seq), is_late=effect.late)
            case _:
                pass

    def gone(self) -> None:
        """Take note of a lost connection. Gifts that are due stay due: the session pulls them."""
        self.is_in = False

    def sweep(self, now_s: float, lost_s: float) -> None:
        """Count gifts that are later than `lost_s` as lost."""
        for id_, sent_s in list(self._waiting.items()):
            if now_s - sent_s > lost_s:
                del self._waiting[id_]
                self.lost += 1
                self._lost.inc()
                log.error("canary_lost", gateway=self.gateway, id=id_)
        for id_, came_s in list(self._early.items()):
            if now_s - came_s > lost_s:
                del self._early[id_]  # another canary's, in the same room

    def standing(self) -> Standing:
        """Return the findings."""
        ordered = sorted(self.delays_ms)
        p50, p99 = (ordered[int((len(ordered) - 1) * share)] if ordered else None for share in (0.5, 0.99))
        return Standing(self.gateway, self.is_in, self.is_gone, self.received, self.lost, self.disordered, p50, p99)

    def _deliver(self, id_: str, place: tuple[int, int], *, is_late: bool) -> None:
        now_s = clock.monotonic_s()
        if not is_late:
            if place <= self._place:
                self.disordered += 1
                self._disordered.inc()
                log.error("canary_disordered", gateway=self.gateway, id=id_, place=place, after=self._place)
            self._place = max(self._place, place)
        if (sent_s := self._waiting.pop(id_, None)) is not None:
            self._count(now_s - sent_s)
        else:
            self._early[id_] = now_s  # before its 202, or another canary's

    def _count(self, seconds: float) -> None:
        self.received += 1
        self._delay.observe(seconds)
        self.delays_ms.append(seconds * 1000)
