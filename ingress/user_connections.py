"""Asks all gateways for the connections of a user, over `connection-orders`.

Owns which gateways live, by their load reports, and the orders that wait for answers. Every gateway
answers an order, also where the user has no connection. So the caller knows whether the answer is
whole: it names the gateways that did not answer within `ANSWER_S`. Called by `revocation_api`.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from ingress.log import LogWriter, write
from ingress.responses import GatewayConnection, UserConnectionList
from liveroom import clock, topics
from liveroom.audience import GATEWAY_SILENCE_S
from liveroom.consumers import records
from liveroom.errors import Code, ProblemError
from liveroom.kafka import TopicReader
from liveroom.kafka_port import Kafka
from liveroom.records.codec import encode_json
from liveroom.records.control import LoadReport
from liveroom.records.revocations import ConnectionOrder, ConnectionOrderKind, ConnectionReport
from liveroom.service import Runtime

ANSWER_S: Final = 2.0
LEARN_S: Final = 2.0  # until every gateway has reported: each does once a second
MAX_WAITING: Final = 50
ID_BYTES: Final = 12


class _Waiting(NamedTuple):
    """An order that waits: the gateways that have not answered, and the answers."""

    missing: set[str]
    reports: list[ConnectionReport]
    is_whole: asyncio.Event


class UserConnectionService:
    """The gateways that live, and the orders under way."""

    def __init__(self, kafka: Kafka, writer: LogWriter, runtime: Runtime) -> None:
        self._writer = writer
        self._runtime = runtime
        self._reader = TopicReader(kafka, topics.CONNECTION_REPORTS, runtime.metrics)
        self._gateways: dict[str, float] = {}
        self._since_s: float | None = None
        self._waiting: dict[str, _Waiting] = {}

    def gateways_reported(self, reports: Sequence[LoadReport], now_s: float) -> None:
        """Note the gateways that are alive; forget those that have been silent for too long.

        Called at least once a second, also without reports.
        """
        self._since_s = now_s if self._since_s is None else self._since_s
        for report in reports:
            self._gateways[report.gateway] = now_s
        for name in [name for name, at_s in self._gateways.items() if now_s - at_s > GATEWAY_SILENCE_S]:
            del self._gateways[name]

    async def follow_reports(self) -> None:
        """Take the gateways' answers until cancelled."""
        async for found in records(self._reader, topics.CONNECTION_REPORTS, ConnectionReport, self._runtime):
            for _, report in found:
                waiting = self._waiting.get(report.id)
                if waiting is not None and report.gateway in waiting.missing:
                    waiting.missing.discard(report.gateway)
                    waiting.reports.append(report)
                    if not waiting.missing:
                        waiting.is_whole.set()

    async def order(self, user: str, kind: ConnectionOrderKind) -> UserConnectionList:
        """List or end the connections of a user at all gateways.

        Raises `ProblemError`: not_ready while the gateways are not known yet or too many orders
        wait, queue_unavailable where the log does not take the order.
        """
        if self._since_s is None or clock.monotonic_s() - self._since_s < LEARN_S or not self._reader.caught_up:
            raise ProblemError(Code.NOT_READY, "the gateways are not known yet", retry_after_s=1)
        if len(self._waiting) >= MAX_WAITING:
            raise ProblemError(Code.NOT_READY, "too many requests wait for the gateways", retry_after_s=1)
        id_ = self._runtime.chance.token_hex(ID_BYTES)
        waiting = self._waiting[id_] = _Waiting(set(self._gateways), [], asyncio.Event())
        try:
            order = ConnectionOrder(ConnectionOrder.VERSION, id_, clock.unix_ms(), user, kind)
            await write(self._writer, topics.CONNECTION_ORDERS, id_.encode(), encode_json(order))
            if waiting.missing:
                async with asyncio.timeout(ANSWER_S):
                    await waiting.is_whole.wait()
        except TimeoutError:
            pass  # the answer names the gateways that are missing
        finally:
            del self._waiting[id_]
        return _listed(user, waiting)


def _listed(user: str, waiting: _Waiting) -> UserConnectionList:
    reports = sorted(waiting.reports, key=lambda report: report.gateway)
    connections = [
        GatewayConnection(report.gateway, each.role, each.transport, list(each.rooms), each.device, each.issued_s)
        for report in reports
        for each in report.connections
    ]
    return UserConnectionList(user, sum(report.total for report in reports), connections, sorted(waiting.missing))
