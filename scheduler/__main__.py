"""Starts the scheduler: `python -m scheduler` (settings: `--help`).

Owns the reading of load reports.
"""

import asyncio
import time
from functools import partial
from typing import Final

import structlog

from liveroom import metric_catalog, service, topics
from liveroom.files import watch
from liveroom.kafka import TOPICS_S, TopicReader, ensure_topics, waiting
from liveroom.networks import Networks, read_networks
from liveroom.records.codec import BadRecordError, JsonReader
from liveroom.records.control import LoadReport
from liveroom.service import Runtime, read_first
from liveroom.settings import SchedulerSettings
from liveroom.tokens import Verifier
from liveroom.web import serve
from scheduler.app import Entry
from scheduler.placement import Placement

KAFKA: Final = "kafka"
log = structlog.get_logger()


def read_zones(settings: SchedulerSettings) -> Networks:
    """Return the zones of viewers' networks as they are now; raise OSError or NetworksError where
    the file cannot be used.
    """
    return read_networks(settings.zones_file.read_text()) if settings.zones_file is not None else Networks()


async def follow(settings: SchedulerSettings, placement: Placement, entry: Entry, runtime: Runtime) -> None:
    """Keep `placement` as the newest reports tell, for ever.

    Starts at the end of the topic: what lies before it is older than a second and would only have
    to be distrusted.
    """
    reader = TopicReader(settings.kafka, topics.GATEWAYS, runtime.metrics)
    await waiting(settings.kafka, runtime, KAFKA).until(partial(ensure_topics, settings.kafka, topics.ALL, TOPICS_S))
    await reader.start_at_last(runtime, KAFKA)
    runtime.ready(KAFKA)
    reports = JsonReader(LoadReport)
    bad = runtime.metrics
    try:
        async for _, records in reader.read():
            now_s = time.monotonic()
            for record in records:
                if record.value is None:
                    placement.forget((record.key or b"").decode(errors="replace"))
                    continue
                try:
                    placement.update(reports.read(record.value), now_s)
                except BadRecordError as error:
                    bad.counter(metric_catalog.BAD_RECORDS, topics.GATEWAYS.name, error.reason.value).inc()
                    log.warning("bad_report", offset=record.offset, error=str(error))
            entry.report(now_s)
    finally:
        await reader.stop()


async def run(settings: SchedulerSettings, runtime: Runtime) -> None:
    """Serve until told to stop.

    While Kafka is away, answers come from what is known until it is stale, then 503.
    """
    placement = Placement(settings.stale_s, settings.replicas)
    verifier = Verifier(await read_first(settings.read_token_keys), settings.token_leeway_s)
    entry = Entry(settings, placement, verifier, runtime.metrics)
    entry.use_keys(await read_first(settings.read_ticket_keys))
    entry.use_zones(await read_first(partial(read_zones, settings)))
    async with asyncio.TaskGroup() as tasks:
        working = [
            tasks.create_task(follow(settings, placement, entry, runtime)),
            tasks.create_task(watch([settings.token_keys_file], settings.read_token_keys, verifier.use)),
            tasks.create_task(watch([settings.ticket_keys_file], settings.read_ticket_keys, entry.use_keys)),
            tasks.create_task(watch([settings.zones_file], partial(read_zones, settings), entry.use_zones)),
        ]
        async with serve(entry.app(), settings.host, settings.port) as (_, port):
            log.info("listening", host=settings.host, port=port)
            await runtime.stopping.wait()
        for task in working:
            task.cancel()


if __name__ == "__main__":
    service.main("scheduler", SchedulerSettings, run, KAFKA)
