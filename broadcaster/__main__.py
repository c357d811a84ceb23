"""`python -m broadcaster`."""

import asyncio

from broadcaster.kafka import Broadcaster
from liveroom import service, topics
from liveroom.kafka import Producer, ensure_topics
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings


async def run(settings: BroadcasterSettings, runtime: Runtime) -> None:
    """Serve until told to stop."""
    await ensure_topics(settings.kafka)
    producer = Producer(settings.kafka, runtime.metrics, [topics.BROADCAST, topics.DEAD_LETTER])
    await producer.start()
    runtime.ready("kafka")
    try:
        async with asyncio.TaskGroup() as tasks:
            await Broadcaster(settings, producer, runtime, tasks).run()
    finally:
        await producer.stop()


if __name__ == "__main__":
    service.main("broadcaster", BroadcasterSettings, run, "kafka", "assigned")
