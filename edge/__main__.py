"""`python -m edge`."""

import asyncio
import time

import structlog

from edge.hub import Hub
from edge.kafka import Reporter, fan_out, report_presence
from edge.server import Server
from liveroom import service
from liveroom.kafka import Producer, ensure_topics
from liveroom.queue import QueueReader
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings
from liveroom.web import serve

log = structlog.get_logger()


async def run(settings: EdgeSettings, runtime: Runtime) -> None:
    """Serve until told to stop, then move the viewers away."""
    hub = Hub()
    server = Server(settings, hub, runtime, generation=time.time_ns() // 1_000_000)
    await ensure_topics(settings.kafka)
    producer = Producer(settings.kafka, runtime.metrics)
    queue = QueueReader(settings.kafka, runtime.metrics)
    await asyncio.gather(producer.start(), queue.start())
    runtime.ready("kafka")
    try:
        async with serve(server.app, settings.host, settings.port) as (_, port), asyncio.TaskGroup() as tasks:
            reporter = Reporter(settings, server, runtime, port)
            working = [
                tasks.create_task(fan_out(queue, hub, runtime)),
                tasks.create_task(reporter.run(producer)),
                tasks.create_task(report_presence(hub, server, producer)),
                tasks.create_task(server.sweep()),
            ]
            log.info("listening", host=settings.host, port=port)
            runtime.ready("listening")
            await runtime.stopping.wait()
            server.draining = True
            await reporter.report(producer)
            await server.drain()
            for task in working:
                task.cancel()
    finally:
        await queue.stop()
        await producer.stop()


if __name__ == "__main__":
    service.main("edge", EdgeSettings, run, "kafka", "listening")
