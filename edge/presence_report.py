"""Reports the audience of each local room to the room's owner, and asks the owner for snapshots.

Owns the records of `presence`. `edge.presence_pace` decides which room is due.
"""

import asyncio
from typing import Final

import structlog

from edge.gateway import Gateway
from edge.presence_pace import Pace
from liveroom import clock, topics
from liveroom.kafka import Producer, UnsentError
from liveroom.records.codec import encode_json
from liveroom.records.control import Presence

CHECK_S: Final = 0.05
TIMEOUT_S: Final = 2.0
log = structlog.get_logger()


async def report_presence(gateway: Gateway, producer: Producer) -> None:
    """Report the audiences of local rooms, for ever."""
    pace, hub = Pace(), gateway.hub

    async def report(room: str, now_s: float, *, with_snapshot: bool = False) -> None:
        audience = hub.audience(room)
        if not pace.wants(room, audience, now_s) and not (with_snapshot and audience.connections):
            return
        record = Presence(
            v=Presence.VERSION,
            room=room,
            gateway=gateway.settings.instance,
            generation=gateway.generation,
            users=audience.users,
            connections=audience.connections,
            at_ms=clock.unix_ms(),
            card=with_snapshot,
            devices=audience.devices,
        )
        try:
            await producer.send(topics.PRESENCE, encode_json(record), key=room.encode(), timeout_s=TIMEOUT_S)
        except UnsentError as error:
            log.warning("presence_unreported", room=room, error=str(error))
            pace.failed(room)
        else:
            pace.reported(room, audience, now_s)

    while True:
        await clock.sleep(CHECK_S)
        changed, hub.changed = hub.changed, {}
        pace.changed(changed)
        now_s = clock.monotonic_s()
        wanted, gateway.joins.snapshots_wanted = gateway.joins.snapshots_wanted, {}
        due = dict.fromkeys(pace.due(now_s)) | wanted
        await asyncio.gather(*(report(room, now_s, with_snapshot=room in wanted) for room in due))
