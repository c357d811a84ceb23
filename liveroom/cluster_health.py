"""The health of the brokers, as they tell it: replicas that lag, partitions that nobody leads,
brokers that are away.

Every service that runs this asks about the topics of its own row in `liveroom.access`, so no user
needs another right. Together the services that run it have all topics. Whatever answers is believed
for a minute; after that the metrics show NaN, since missing is not zero.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from liveroom import clock, metric_catalog
from liveroom.kafka_port import Cluster, Kafka
from liveroom.metric_catalog import Metric
from liveroom.registry import Metrics
from liveroom.topics import Topic

INTERVAL_S: Final = 5.0
KNOWN_S: Final = 60.0  # how long an answer counts: one that fails in between, with a broker, changes nothing
log = structlog.get_logger()


class TopicHealth(NamedTuple):
    """How many partitions of a topic lack a replica in sync, and how many have no leader."""

    under_replicated: int
    offline: int


class ClusterHealth(NamedTuple):
    """The brokers of a cluster, those that have replicas and are not in it, and the topics by name.

    A topic that the brokers do not describe is not in `topics`.
    """

    brokers: int
    away: frozenset[int]
    topics: Mapping[str, TopicHealth]


def health_of(cluster: Cluster) -> ClusterHealth:
    """Return what an answer of a broker means. Pure."""
    partitions = [each for topic in cluster.topics for each in topic.partitions]
    return ClusterHealth(
        len(cluster.brokers),
        frozenset[int]().union(*(each.replicas for each in partitions)) - cluster.brokers,
        {
            topic.name: TopicHealth(
                sum(each.in_sync < each.replicas for each in topic.partitions),
                sum(each.leader is None for each in topic.partitions),
            )
            for topic in cluster.topics
            if topic.partitions
        },
    )


class HealthGauges:
    """The metrics of the newest answer. They show NaN before the first one, and once it is old."""

    def __init__(self, kafka: Kafka, wanted: Iterable[Topic], metrics: Metrics) -> None:
        self._health: ClusterHealth | None = None
        self._until_s = -math.inf
        self._has_failed = False
        self._follow(metrics, metric_catalog.KAFKA_BROKERS, lambda health: health.brokers)
        self._follow(metrics, metric_catalog.KAFKA_BROKERS_AWAY, lambda health: len(health.away))
        for topic in wanted:
            self._follow_topic(metrics, topic.name, kafka.topic_name(topic))

    def _follow_topic(self, metrics: Metrics, name: str, name_there: str) -> None:
        self._follow(
            metrics, metric_catalog.KAFKA_UNDER_REPLICATED, lambda health: health.topics[name_there].under_replicated, name
        )
        self._follow(metrics, metric_catalog.KAFKA_OFFLINE, lambda health: health.topics[name_there].offline, name)

    def show(self, health: ClusterHealth) -> None:
        """Show an answer that has just come."""
        if self._health is not None and health.away != self._health.away:
            log.warning("brokers_away", brokers=sorted(health.away), in_cluster=health.brokers)
        self._health, self._until_s, self._has_failed = health, clock.monotonic_s() + KNOWN_S, False

    def fail(self, error: Exception) -> None:
        """Log why no answer came, once until one comes."""
        if not self._has_failed:
            log.info("cluster_not_described", error=repr(error))
        self._has_failed = True

    def _follow(self, metrics: Metrics, metric: Metric, value: Callable[[ClusterHealth], int], *labels: str) -> None:
        def shown() -> float:
            if self._health is None or clock.monotonic_s() > self._until_s:
                return math.nan
            try:
                return value(self._health)
            except KeyError:  # the brokers did not describe that topic
                return math.nan

        metrics.follow(metric, shown, *labels)


async def follow_cluster_health(kafka: Kafka, wanted: Sequence[Topic], metrics: Metrics) -> None:
    """Ask the brokers about these topics every few seconds, and show it, until cancelled."""
    gauges = HealthGauges(kafka, wanted, metrics)
    names = [kafka.topic_name(topic) for topic in wanted]
    while True:
        try:
            await _ask(kafka, names, gauges)
        except Exception as error:  # noqa: BLE001 - whatever it is, the service goes on without these metrics
            gauges.fail(error)
        await clock.sleep(INTERVAL_S)


async def _ask(kafka: Kafka, names: Sequence[str], gauges: HealthGauges) -> None:
    """Ask with one client until that fails: then a broker that is away may be the one it asks."""
    admin = kafka.admin()
    try:
        await admin.start()
        while True:
            gauges.show(health_of(await admin.describe_cluster(names)))
            await clock.sleep(INTERVAL_S)
    finally:
        await admin.close()
