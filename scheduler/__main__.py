"""Starts the scheduler: `python -m scheduler` (settings: `--help`). Owns the order of its start."""

import asyncio
from functools import partial
from typing import Final

from liveroom.extras import answer_version, explained

answer_version(__name__)
with explained("scheduler"):
    import structlog

    from liveroom import service
    from liveroom.access import SERVICES
    from liveroom.connections import allow_connections
    from liveroom.consumers import REVOCATIONS_READ, follow_revocations
    from liveroom.files import Watched
    from liveroom.given_file import read_given_file
    from liveroom.kafka import TOPICS_S, ensure_topics, waiting, with_kafka
    from liveroom.kafka_port import Kafka
    from liveroom.networks import Networks, read_networks
    from liveroom.revocations import Revocations
    from liveroom.service import Runtime, public_connections
    from liveroom.settings import SchedulerSettings
    from liveroom.tokens import Verifier
    from liveroom.web import serve
    from scheduler.app import App
    from scheduler.load_reports import READY, follow_load_reports
    from scheduler.placement import Placement

ACCESS: Final = SERVICES["scheduler"]
log = structlog.get_logger()


def read_zones(settings: SchedulerSettings) -> Networks:
    """Return the zones of viewers' networks; without a file there are none.

    Raises OSError or GivenFileError where the file cannot be used.
    """
    return read_given_file(settings.zones_file, read_networks) if settings.zones_file is not None else Networks()


async def run(settings: SchedulerSettings, runtime: Runtime, kafka: Kafka) -> None:
    """Serve until `runtime.stopping` is set.

    While Kafka is away, answers come from the known reports until those are stale, then with 503.
    """
    allow_connections(settings.http.max_open)
    placement = Placement(settings.stale_s, settings.replicas)
    revocations = Revocations()
    token_keys = Watched([settings.token_keys_file], settings.read_token_keys)
    signers = Watched([settings.ticket_signing_keys_file, settings.ticket_keys_file], settings.read_ticket_signers)
    zones = Watched([settings.zones_file], partial(read_zones, settings))
    verifier = Verifier(await token_keys.first(), settings.token_leeway_s, settings.token_life_s, revocations)
    app = App(settings, placement, verifier, runtime)
    app.use_signers(await signers.first())
    if settings.honours_hmac_tickets:
        log.warning("hmac_tickets_honoured", then="remove LIVEROOM_TICKET_KEYS once all gateways verify Ed25519")
    app.use_zones(await zones.first())
    async with asyncio.TaskGroup() as tasks:
        working = [
            tasks.create_task(_follow(kafka, placement, revocations, runtime, app)),
            tasks.create_task(token_keys.watch(verifier.use)),
            tasks.create_task(signers.watch(app.use_signers)),
            tasks.create_task(zones.watch(app.use_zones)),
        ]
        connections = public_connections(settings, runtime)
        async with serve(app.web, settings.host, settings.port, loopback=settings.loopback, connections=connections) as (
            _,
            port,
        ):
            log.info("listening", host=settings.host, port=port)
            await runtime.stopping.wait()
        for task in working:
            task.cancel()


async def _follow(kafka: Kafka, placement: Placement, revocations: Revocations, runtime: Runtime, app: App) -> None:
    """Wait for Kafka, then follow load reports and revocations until cancelled."""
    await waiting(kafka, runtime, READY).until(partial(ensure_topics, kafka, ACCESS.topics, TOPICS_S))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow_load_reports(kafka, placement, runtime, app.refresh_gauges))
        tasks.create_task(follow_revocations(kafka, revocations, runtime))


if __name__ == "__main__":
    service.main("scheduler", SchedulerSettings, with_kafka(run), READY, REVOCATIONS_READ)
