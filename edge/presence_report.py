"""Reports the audience of each local room to the room's owner, and asks the owner for snapshots.

Owns the records of `presence`: who came and left, and each minute the list of all users.
`edge.presence_pace` decides which room is due.
"""

import asyncio
from typing import Final

import msgspec
import structlog

from edge.gateway import Gateway
from edge.presence_pace import Pace
from edge.room import Audience
from liveroom import clock, topics
from liveroom.kafka import Producer, UnsentError
from liveroom.records.codec import encode_json
from liveroom.records.control import Presence
from liveroom.user_lists import PART_USERS, in_parts, pack

CHECK_S: Final = 0.05
TIMEOUT_S: Final = 2.0
ROOMS_AT_ONCE: Final = 100  # 2 to 3 ms
log = structlog.get_logger()


async def report_presence(gateway: Gateway, producer: Producer) -> None:
    """Report the audiences of local rooms, for ever."""
    reports = PresenceReports(gateway, producer)
    while True:
        await clock.sleep(CHECK_S)
        await reports.send_due()


class PresenceReports:
    """The reports of one gateway's rooms.

    A record that may not have arrived is followed by the list of the room's users.
    """

    def __init__(self, gateway: Gateway, producer: Producer) -> None:
        self._gateway = gateway
        self._producer = producer
        self._pace = Pace()
        self._serials: dict[str, int] = {}
        self._sent = 0

    async def send_due(self) -> None:
        """Send the reports that are due."""
        gateway, now_s = self._gateway, clock.monotonic_s()
        if gateway.was_silent:
            gateway.was_silent = False
            self._pace.list_again(now_s)
        self._pace.changed(gateway.hub.changed)
        wanted, gateway.joins.snapshots_wanted = gateway.joins.snapshots_wanted, {}
        due = list(dict.fromkeys(self._pace.due(now_s)) | wanted)
        for begin in range(0, len(due), ROOMS_AT_ONCE):
            rooms = due[begin : begin + ROOMS_AT_ONCE]
            await asyncio.gather(*(self._report(room, now_s, with_snapshot=room in wanted) for room in rooms))

    async def _report(self, room: str, now_s: float, *, with_snapshot: bool) -> None:
        hub, pace = self._gateway.hub, self._pace
        audience, changes = hub.audience(room), hub.take_changes(room)
        is_due = pace.wants(room, audience, now_s, has_changes=bool(changes))
        if not is_due and not (with_snapshot and audience.connections):
            return
        is_list = bool(audience.connections) and (pace.needs_list(room, now_s) or len(changes) > PART_USERS)
        records = self._listed(room, audience) if is_list else [self._changed(room, audience, changes)]
        if with_snapshot:
            records[-1] = msgspec.structs.replace(records[-1], card=True)
        try:
            for record in records:
                value = encode_json(record)
                await self._producer.send(topics.PRESENCE, value, key=room.encode(), timeout_s=TIMEOUT_S)
        except UnsentError as error:
            log.warning("presence_unreported", room=room, error=str(error))
            pace.failed(room, now_s)
        else:
            pace.reported(room, audience, now_s, is_list=is_list)
            if not audience.connections:
                del self._serials[room]

    def _listed(self, room: str, audience: Audience) -> list[Presence]:
        """Return the list of a room's users."""
        parts = in_parts(self._gateway.hub.users_of(room))
        return [self._record(room, audience, came=part, part=at, parts=len(parts)) for at, part in enumerate(parts)]

    def _changed(self, room: str, audience: Audience, changes: dict[int, bool]) -> Presence:
        """Return a record of who came and left."""
        if len(changes) > PART_USERS:
            changes = {}  # nobody is left: the owner drops them all
        came, left = (pack(user for user in changes if changes[user] is is_here) for is_here in (True, False))
        return self._record(room, audience, came=came, left=left)

    def _record(
        self, room: str, audience: Audience, *, came: bytes, left: bytes = b"", part: int = 0, parts: int = 0
    ) -> Presence:
        """Return the next record of a room. Its serial is above all that the room had before."""
        self._sent += 1
        serial = self._serials[room] = self._serials.get(room, self._sent) + 1
        return Presence(
            v=Presence.VERSION,
            room=room,
            gateway=self._gateway.settings.instance,
            generation=self._gateway.generation,
            users=audience.users,
            connections=audience.connections,
            at_ms=clock.unix_ms(),
            devices=audience.devices,
            serial=serial,
            came=came,
            left=left,
            part=part,
            parts=parts,
        )
