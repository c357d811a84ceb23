"""Starts the autoscaler: `python -m autoscaler` (settings: `--help`).

Owns the order of start and end.
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from liveroom.extras import answer_version, explained

answer_version(__name__)
with explained("autoscaler"):
    import structlog

    from autoscaler.app import App
    from autoscaler.drivers.local import LocalDriver, Share
    from autoscaler.kafka import DRY_GROUP, GROUP, follow_orders, follow_reports, lead, send_order
    from autoscaler.policy import USUAL, Policy, read_policy
    from autoscaler.pool import Pool
    from liveroom import clock, service
    from liveroom.access import SERVICES
    from liveroom.cluster_health import follow_cluster_health
    from liveroom.consumers import REVOCATIONS_READ, follow_revocations
    from liveroom.files import Watched
    from liveroom.given_file import read_given_file
    from liveroom.kafka import TOPICS_S, Producer, ensure_topics, waiting, with_kafka
    from liveroom.kafka_port import Kafka
    from liveroom.revocations import Revocations
    from liveroom.service import Runtime, public_connections
    from liveroom.settings import AutoscalerSettings
    from liveroom.tokens import Verifier
    from liveroom.web import serve

if TYPE_CHECKING:
    from autoscaler.drivers.kubernetes.driver import KubernetesDriver

KAFKA: Final = "kafka"
ACCESS: Final = SERVICES["autoscaler"]
log = structlog.get_logger()


def read_policy_file(settings: AutoscalerSettings) -> Policy:
    """Return the policy in the settings' file, or the default one.

    Raises OSError or GivenFileError where the file cannot be used.
    """
    return read_given_file(settings.policy_file, read_policy) if settings.policy_file is not None else USUAL


def make_driver(settings: AutoscalerSettings, runtime: Runtime) -> "LocalDriver | KubernetesDriver":
    """Return the driver that the settings name: it starts and stops gateways."""
    if settings.driver == "kubernetes":
        from autoscaler.drivers.kubernetes.driver import KubernetesDriver  # noqa: PLC0415 - a large package that few need

        return KubernetesDriver(
            settings.kubernetes_namespace, settings.kubernetes_deployment, settings.kubernetes_timeout_s, runtime.metrics
        )
    share = Share(settings.local_nice, settings.local_memory_bytes, settings.local_files)
    return LocalDriver(settings.local_folder, settings.local_settings, settings.local_tether, share)


async def run(settings: AutoscalerSettings, runtime: Runtime, kafka: Kafka) -> None:
    """Run the autoscaler until it is stopped. Gateways keep running without it."""
    revocations = Revocations()
    token_keys = Watched([settings.token_keys_file], settings.read_token_keys)
    policies = Watched([settings.policy_file], partial(read_policy_file, settings))
    verifier = Verifier(await token_keys.first(), settings.token_leeway_s, settings.token_life_s, revocations)
    policy = await policies.first()
    wait = waiting(kafka, runtime, KAFKA)
    await wait.until(partial(ensure_topics, kafka, ACCESS.topics, TOPICS_S))
    producer = Producer(kafka, runtime.metrics, ACCESS.writes)
    await wait.until(producer.start)
    driver = make_driver(settings, runtime)
    send = partial(send_order, producer)
    pool = Pool(
        policy, driver, send, runtime.metrics, empty_s=settings.empty_s, dry_run=settings.dry_run, instance=settings.instance
    )

    def use(policy: Policy) -> None:
        pool.policy = policy

    try:
        async with (
            serve(
                App(settings, verifier, pool, send, runtime).web,
                settings.host,
                settings.port,
                loopback=settings.loopback,
                connections=public_connections(settings, runtime),
            ) as (_, port),
            asyncio.TaskGroup() as tasks,
        ):
            working = [
                tasks.create_task(follow_reports(kafka, pool, runtime)),
                tasks.create_task(follow_orders(kafka, pool, runtime)),
                tasks.create_task(follow_revocations(kafka, revocations, runtime)),
                tasks.create_task(
                    advise(settings, runtime, pool) if settings.driver == "advisory" else rule(settings, kafka, pool)
                ),
                tasks.create_task(follow_cluster_health(kafka, ACCESS.topics, runtime.metrics)),
                tasks.create_task(driver.watch()),
                tasks.create_task(policies.watch(use)),
                tasks.create_task(token_keys.watch(verifier.use)),
            ]
            log.info("listening", port=port, driver=settings.driver)
            runtime.ready(KAFKA)
            await runtime.stopping.wait()
            for task in working:
                task.cancel()
    finally:
        driver.release()
        await producer.stop()


async def rule(settings: AutoscalerSettings, kafka: Kafka, pool: Pool) -> None:
    """Take part in the election and, while leading, decide once a second. Never returns."""

    def on_change(is_leading: bool) -> None:
        if is_leading != pool.is_leading:
            log.info("leading" if is_leading else "following")
        pool.is_leading = is_leading

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(lead(kafka, on_change, DRY_GROUP if settings.dry_run else GROUP))
        while True:
            await pool.tick(clock.monotonic_s())
            await clock.sleep(settings.interval_s)


async def advise(settings: AutoscalerSettings, runtime: Runtime, pool: Pool) -> None:
    """Compute the advice for whatever scales the pool, once a second. Never returns."""
    from autoscaler.advisory import Advisor, run_advisor, serve_scaler  # noqa: PLC0415 - as with Kubernetes

    advisor = Advisor(pool, runtime.metrics)
    async with serve_scaler(lambda: advisor.advice, settings.advisory_host, settings.advisory_port) as port:
        log.info("advising", port=port)
        await run_advisor(advisor, settings.interval_s)


if __name__ == "__main__":
    service.main("autoscaler", AutoscalerSettings, with_kafka(run), KAFKA, REVOCATIONS_READ)
