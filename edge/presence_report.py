"""Reports the audience of each local room to the room's owner, and asks the owner for snapshots.

Owns the records of `presence`: who came and left, and each minute the list of all users.
`edge.presence_pace` decides which room is due.
"""

from collections.abc import Iterable
from itertools import islice
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
from liveroom.tasks import BackgroundTasks
from liveroom.topics import partition_of
from liveroom.turns import TurnBudget
from liveroom.user_lists import PART_USERS, pack, parting

CHECK_S: Final = 0.05
TIMEOUT_S: Final = 2.0
LANE_ROOMS: Final = 100
ROOM_COST: Final = 50
QUEUE_COST: Final = 5
log = structlog.get_logger()


async def report_presence(gateway: Gateway, producer: Producer) -> None:
    """Report the audiences of local rooms, for ever."""
    reports = PresenceReports(gateway, producer)
    try:
        while True:
            await clock.sleep(CHECK_S)
            await reports.send_due()
    finally:
        await reports.cancel()


class _Lane:
    """The rooms of one partition of the topic: those that are due, and those of which a report is
    under way.

    Rooms of a partition without a leader so delay no others. While reports fail there, one at a
    time is tried.
    """

    __slots__ = ("due", "fails", "under_way")

    def __init__(self) -> None:
        self.due: dict[str, None] = {}
        self.under_way: set[str] = set()
        self.fails = False

    def take(self) -> list[str]:
        """Take out the rooms that may be reported now."""
        free = (1 if self.fails else LANE_ROOMS) - len(self.under_way)
        if free <= 0:
            return []
        found = list(islice((room for room in self.due if room not in self.under_way), free))
        for room in found:
            del self.due[room]
        return found


class PresenceReports:
    """The reports of one gateway's rooms.

    A record that may not have arrived is followed by the list of the room's users.
    """

    def __init__(self, gateway: Gateway, producer: Producer) -> None:
        self._gateway = gateway
        self._producer = producer
        self._partitions = gateway.settings.kafka.partitions
        self._pace = Pace()
        self._lanes: dict[int, _Lane] = {}
        self._cards: set[str] = set()
        self._serials: dict[str, int] = {}
        self._sent = 0
        self._turns = TurnBudget()
        self._sending = BackgroundTasks("reporting an audience")

    async def send_due(self) -> None:
        """Begin the reports that are due. At most one of each room is under way."""
        if self._sending.failure is not None:
            raise self._sending.failure
        gateway = self._gateway
        if gateway.was_silent:
            gateway.was_silent = False
            self._pace.list_again()
        self._pace.changed(gateway.hub.changed)
        wanted, gateway.joins.snapshots_wanted = gateway.joins.snapshots_wanted, {}
        self._cards.update(wanted)
        await self._queue(wanted)
        await self._queue(self._pace.due(clock.monotonic_s()))
        for lane in list(self._lanes.values()):
            for room in lane.take():
                await self._report(room, lane)

    async def answered(self) -> None:
        """Return when no report is under way."""
        await self._sending.wait()

    async def cancel(self) -> None:
        """Give up the reports that are under way."""
        await self._sending.cancel()

    async def _queue(self, rooms: Iterable[str]) -> None:
        for room in rooms:
            await self._turns.spend(QUEUE_COST)
            number = partition_of(room, self._partitions)
            if (lane := self._lanes.get(number)) is None:
                lane = self._lanes[number] = _Lane()
            lane.due[room] = None

    async def _report(self, room: str, lane: _Lane) -> None:
        """Begin the report of a room, if it needs one."""
        hub, pace, now_s = self._gateway.hub, self._pace, clock.monotonic_s()
        changes, users = hub.take_changes(room), set[int]()
        is_list = pace.needs_list(room, now_s) or len(changes) > PART_USERS
        if is_list:
            users = hub.users_of(room)
            await self._turns.spend(len(users))
        audience = hub.audience(room)  # a later change follows in a record of its own
        await self._turns.spend(ROOM_COST + audience.connections)
        with_card = room in self._cards
        self._cards.discard(room)
        is_due = pace.wants(room, audience, now_s, has_changes=bool(changes))
        if not is_due and not (with_card and audience.connections):
            return
        is_list = is_list and audience.connections > 0
        records = await self._listed(room, audience, users) if is_list else [self._changed(room, audience, changes)]
        if with_card:
            records[-1] = msgspec.structs.replace(records[-1], card=True)
        pace.reported(room, audience, now_s, is_list=is_list)
        lane.under_way.add(room)
        self._sending.start(self._send(room, lane, records, now_s))

    async def _send(self, room: str, lane: _Lane, records: list[Presence], now_s: float) -> None:
        """Send the records of a room, one behind the other."""
        try:
            for record in records:
                value = encode_json(record)
                await self._producer.send(topics.PRESENCE, value, key=room.encode(), timeout_s=TIMEOUT_S)
        except UnsentError as error:
            log.warning("presence_unreported", room=room, error=str(error))
            lane.fails = True
            self._pace.failed(room, now_s)
            if records[-1].card:
                self._cards.add(room)
        else:
            lane.fails = False
            if not records[-1].connections:
                del self._serials[room]
        finally:
            lane.under_way.discard(room)

    async def _listed(self, room: str, audience: Audience, users: set[int]) -> list[Presence]:
        """Return the list of a room's users."""
        parts = await self._turns.run(parting(users))
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
