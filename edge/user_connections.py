"""The connections of a user at this gateway: found, listed and closed.

Owns what follows from a revocation, and the answers to orders about a user's connections. Finding a
user walks all members once for all that came together; closing many members leaves the loop to the
fan-out in between. Called by the readers of `revocations` and `connection-orders`.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from edge.gateway import Gateway
from edge.member import Member
from edge.sse_connection import SseConnection
from liveroom import clock, topics
from liveroom.closecodes import Close
from liveroom.consumers import records
from liveroom.kafka import Producer, TopicReader, UnsentError
from liveroom.records.codec import encode_json
from liveroom.records.revocations import (
    ConnectionOrder,
    ConnectionOrderKind,
    ConnectionReport,
    Revocation,
    UserConnection,
)
from liveroom.revocations import EVERYBODY
from liveroom.service import Runtime
from liveroom.topics import room_hash

CLOSES_A_SLICE: Final = 50  # 2 to 5 ms
MAX_LISTED: Final = 100
SEND_TIMEOUT_S: Final = 2.0
log = structlog.get_logger()


class UserConnections:
    """Finds the members of one gateway by their users."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def on_revoked(self, revoked: Sequence[Revocation]) -> None:
        """Close the members whose tokens the new revocations are about."""
        if any(revocation.user == EVERYBODY for revocation in revoked):
            found = list(self._gateway.members)
        else:
            found = self._members_of(revocation.user for revocation in revoked)
        revokes, closed = self._gateway.revocations.revokes, 0
        for number, member in enumerate(found, 1):
            if revokes(member.user, member.device, member.issued_s):
                member.close(Close.REVOKED)
                closed += 1
            if number % CLOSES_A_SLICE == 0:
                await clock.sleep(0)
        if closed:
            log.info("revoked", closed=closed, ids=[revocation.id for revocation in revoked[:10]])

    def obey(self, orders: Sequence[ConnectionOrder]) -> list[ConnectionReport]:
        """Carry out orders that came together; return the answer to each."""
        by_user: dict[str, list[Member]] = {}
        for member in self._members_of(order.user for order in orders):
            by_user.setdefault(member.user, []).append(member)
        return [self._obey(order, by_user.get(order.user, [])) for order in orders]

    def _obey(self, order: ConnectionOrder, members: Sequence[Member]) -> ConnectionReport:
        gateway = self._gateway
        report = ConnectionReport(
            ConnectionReport.VERSION,
            order.id,
            gateway.settings.instance,
            gateway.generation,
            clock.unix_ms(),
            len(members),
            tuple(_described(member) for member in members[:MAX_LISTED]),
        )
        if order.kind is ConnectionOrderKind.END:
            for member in members:
                member.close(Close.KICKED, "ended by an operator")
            log.info("connections_ended", order=order.id, closed=len(members))
        return report

    def _members_of(self, users: Iterable[str]) -> list[Member]:
        """Return the members of these users that are not closing."""
        hashes = {room_hash(user) for user in users}
        return [member for member in self._gateway.members if member.user_hash in hashes and not member.close_code]


def _described(member: Member) -> UserConnection:
    return UserConnection(
        member.role,
        "events" if isinstance(member, SseConnection) else "websocket",
        tuple(room.name for room in member.rooms.values()),
        member.device,
        member.issued_s,
    )


async def follow_connection_orders(
    reader: TopicReader, connections: UserConnections, producer: Producer, runtime: Runtime
) -> None:
    """Obey the orders about users' connections, and report the answers, until cancelled."""
    async for found in records(reader, topics.CONNECTION_ORDERS, ConnectionOrder, runtime):
        if found:
            reports = connections.obey([order for _, order in found])
            await asyncio.gather(*(_report(producer, report) for report in reports))


async def _report(producer: Producer, report: ConnectionReport) -> None:
    try:
        key, value = report.id.encode(), encode_json(report)
        await producer.send(topics.CONNECTION_REPORTS, value, key=key, partition=0, timeout_s=SEND_TIMEOUT_S)
    except UnsentError as error:
        log.warning("connections_not_reported", order=report.id, error=str(error))
