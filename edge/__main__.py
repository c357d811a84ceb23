"""`python -m edge`: builds the parts of a gateway, runs them, and ends them in order."""

import asyncio
from functools import partial
from typing import Final

from liveroom.extras import answer_version, explained

answer_version(__name__)
with explained("edge"):
    import structlog

    from edge import certificates
    from edge.admission import Admission
    from edge.certificates import Certificates
    from edge.drain import drain
    from edge.fanout import FanOut
    from edge.gateway import Gateway
    from edge.hub import Hub
    from edge.keepalive import KeepAlive
    from edge.load_report import LoadReporter, begin_generation
    from edge.orders import Orders, follow_orders
    from edge.presence_report import report_presence
    from edge.pulls import Pulls
    from edge.tls_server import MAX_PENDING, TlsServer
    from edge.upgrade import Upgrades
    from edge.user_connections import UserConnections, follow_connection_orders
    from liveroom import clock, metric_catalog, service, topics
    from liveroom.access import SERVICES
    from liveroom.broadcast_log import QueueReader
    from liveroom.connections import allow_connections
    from liveroom.consumers import REVOCATIONS_READ, RULES_READ, follow_revocations, follow_rules
    from liveroom.files import Watched
    from liveroom.kafka import TOPICS_S, Producer, TopicReader, ensure_topics, waiting, with_kafka
    from liveroom.kafka_port import Kafka
    from liveroom.moderation import Rules
    from liveroom.service import Runtime
    from liveroom.settings import EdgeSettings
    from liveroom.web import serve

KAFKA: Final = "kafka"
ACCESS: Final = SERVICES["edge"]
log = structlog.get_logger()


def use_certificates(read: Certificates | None, tls: TlsServer | None, runtime: Runtime) -> None:
    """Use these certificates for connections that come from now on; log where one has expired."""
    if read is None or tls is None:
        return
    tls.use(read.context)
    runtime.metrics.gauge(metric_catalog.TLS_EXPIRES).set(read.expire_s)
    if read.expire_s <= clock.unix_s():
        log.error("certificate_expired", expired_s=round(clock.unix_s() - read.expire_s))


async def run(settings: EdgeSettings, runtime: Runtime, kafka: Kafka) -> None:
    """Serve until the process must stop, then drain."""
    allow_connections(
        settings.max_connections + settings.http.max_open + (MAX_PENDING if settings.tls_cert_file is not None else 0)
    )
    rules = Rules()
    gateway = Gateway(
        settings,
        Hub(settings.max_local_rooms, settings.max_address_quiet_rooms),
        rules,
        runtime.metrics,
        generation=clock.unix_ms(),
        refusals=runtime.refusals,
    )
    admission = Admission(gateway, runtime)
    upgrades = Upgrades(gateway, admission, runtime)
    keepalive, fan_out = KeepAlive(gateway), FanOut(gateway, runtime)
    connections = UserConnections(gateway)
    ticket_keys = Watched(settings.ticket_files, settings.read_ticket_keys)
    admission.use(await ticket_keys.first())
    if settings.honours_hmac_tickets:
        log.warning("hmac_tickets_honoured", then="remove LIVEROOM_TICKET_KEYS once all schedulers sign with Ed25519")
    certificate_files = Watched(certificates.files_of(settings), partial(certificates.load, settings))
    read = await certificate_files.first()
    tls = None
    if read is not None:
        tls = TlsServer(
            read.context,
            runtime.metrics,
            settings.handshake_timeout_s,
            key_of=upgrades.connections.key_of,
            takes_header=settings.http.proxy_protocol,
            on_refused=upgrades.connections.count,
        )
    use_certificates(read, tls, runtime)
    wait = waiting(kafka, runtime, KAFKA)
    await wait.until(partial(ensure_topics, kafka, ACCESS.topics, TOPICS_S))
    producer = Producer(kafka, runtime.metrics, ACCESS.writes)
    queue = QueueReader(kafka, runtime.metrics)
    control = TopicReader(kafka, topics.CONTROL, runtime.metrics, from_beginning=True)
    connection_orders = TopicReader(kafka, topics.CONNECTION_ORDERS, runtime.metrics)
    try:
        await wait.until(producer.start)
        await begin_generation(gateway, producer)
        await wait.until(queue.start)
        runtime.ready(KAFKA)
        pulls = Pulls(kafka, gateway, upgrades, runtime, queue.next_offset)
        async with (
            serve(
                upgrades.app,
                settings.host,
                settings.port,
                loopback=settings.loopback,
                accepting=tls,
                connections=upgrades.connections,
            ) as (_, port),
            asyncio.TaskGroup() as tasks,
        ):
            reporter = LoadReporter(gateway, fan_out, runtime, port, lag_records=queue.lag_records)
            orders = Orders(gateway, runtime.chance, tasks.create_task)
            working = [
                tasks.create_task(fan_out.follow(queue)),
                tasks.create_task(follow_orders(control, orders, runtime)),
                tasks.create_task(follow_rules(kafka, rules, runtime, gateway.bans.on_rule)),
                tasks.create_task(gateway.bans.run()),
                tasks.create_task(follow_revocations(kafka, gateway.revocations, runtime, connections.on_revoked)),
                tasks.create_task(follow_connection_orders(connection_orders, connections, producer, runtime)),
                tasks.create_task(ticket_keys.watch(admission.use)),
                tasks.create_task(certificate_files.watch(lambda read: use_certificates(read, tls, runtime))),
                tasks.create_task(reporter.run(producer)),
                tasks.create_task(report_presence(gateway, producer)),
                tasks.create_task(keepalive.run()),
            ]
            log.info("listening", host=settings.host, port=port)
            runtime.ready("listening")
            await runtime.stopping.wait()
            orders.end()
            gateway.draining = True
            await reporter.report(producer)
            await drain(gateway)
            await pulls.close()
            for task in working:
                task.cancel()
    finally:
        await queue.stop()
        await producer.stop()


if __name__ == "__main__":
    service.main(
        "edge",
        EdgeSettings,
        with_kafka(run),
        KAFKA,
        "listening",
        RULES_READ,
        REVOCATIONS_READ,
    )
