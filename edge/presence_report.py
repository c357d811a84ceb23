"""How many watch which room here, told to the rooms' owners; and that a room's snapshot is wanted.

Owns the records of `presence`. When which room is due is `edge.presence`'s.
"""

import asyncio
from typing import Final

import structlog

from edge.gateway import Gateway
from edge.presence import Pace
from liveroom import clock, topics
from liveroom.kafka import Producer, UnsentError
from liveroom.records.codec import encode_json
from liveroom.records.control import Presence

LOOK_S: Final = 0.05
TIMEOUT_S: Final = 2.0
log = structlog.get_logger()


async def report_presence(gateway: Gateway, producer: Producer) -> None:
    """Tell the owners of rooms how many watch them here, for ever."""
    pace, hub = Pace(), gateway.hub

    async def tell(room: str, now_s: float, *, with_snapshot: bool = False) -> None:
        users, connections = hub.audience(room)
        if not pace.wants(room, users, connections, now_s) and not (with_snapshot and connections):
            return
        record = Presence(
            1, room, gateway.settings.instance, gateway.generation, users, connections, clock.unix_ms(), card=with_snapshot
        )
        try:
            await producer.send(topics.PRESENCE, encode_json(record), key=room.encode(), timeout_s=TIMEOUT_S)
        except UnsentError as error:
            log.warning("presence_unreported", room=room, error=str(error))
            pace.failed(room)
        else:
            pace.told(room, users, connections, now_s)

    while True:
        await clock.sleep(LOOK_S)
        changed, hub.changed = hub.changed, {}
        pace.changed(changed)
        now_s = clock.monotonic_s()
        wanted, gateway.joins.snapshots_wanted = gateway.joins.snapshots_wanted, {}
        due = dict.fromkeys(pace.due(now_s)) | wanted
        await asyncio.gather(*(tell(room, now_s, with_snapshot=room in wanted) for room in due))
