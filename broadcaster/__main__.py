"""`python -m broadcaster`."""

import asyncio
from functools import partial
from typing import Final

from liveroom.extras import answer_version, explained

answer_version(__name__)
with explained("broadcaster"):
    from broadcaster.kafka import READY, Broadcaster
    from liveroom import service
    from liveroom.access import SERVICES
    from liveroom.cluster_health import follow_cluster_health
    from liveroom.kafka import TOPICS_S, Producer, ensure_topics, waiting, with_kafka
    from liveroom.kafka_port import Kafka
    from liveroom.service import Runtime
    from liveroom.settings import BroadcasterSettings

KAFKA: Final = "kafka"
ACCESS: Final = SERVICES["broadcaster"]


async def run(settings: BroadcasterSettings, runtime: Runtime, kafka: Kafka) -> None:
    """Serve until `runtime.stopping` is set."""
    wait = waiting(kafka, runtime, KAFKA)
    await wait.until(partial(ensure_topics, kafka, ACCESS.topics, TOPICS_S))
    producer = Producer(kafka, runtime.metrics, ACCESS.writes)
    await wait.until(producer.start)
    runtime.ready(KAFKA)
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(follow_cluster_health(kafka, ACCESS.topics, runtime.metrics))
            await Broadcaster(settings, kafka, producer, runtime, tasks).run()
            watching.cancel()
    finally:
        await producer.stop()


if __name__ == "__main__":
    service.main(
        "broadcaster",
        BroadcasterSettings,
        with_kafka(run),
        KAFKA,
        READY,
    )
