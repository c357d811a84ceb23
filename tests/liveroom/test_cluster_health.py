"""What the brokers' answers mean for their health, and that the metrics say what is not known."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from liveroom import access, clock, cluster_health, metric_catalog, topics
from liveroom.cluster_health import KNOWN_S, HealthGauges, TopicHealth, follow_cluster_health, health_of
from liveroom.kafka_port import Cluster, PartitionReplicas, TopicDescription, TopicPartition
from liveroom.registry import Metrics
from tests.manual_clock import ManualClock
from tests.memory_kafka import MemoryKafka

THREE = frozenset({1, 2, 3})
UPLINK, BROADCAST = topics.UPLINK, topics.BROADCAST


def partition(number: int, leader: int | None = 1, in_sync: frozenset[int] = THREE) -> PartitionReplicas:
    return PartitionReplicas(number, leader, THREE, in_sync)


def topic(name: str, *partitions: PartitionReplicas) -> TopicDescription:
    return TopicDescription(name, partitions, is_forbidden=False)


def test_a_cluster_that_has_all_its_brokers_lacks_nothing() -> None:
    health = health_of(Cluster(THREE, 1, [topic("uplink", partition(0), partition(1, leader=2))]))
    assert health == (3, frozenset(), {"uplink": TopicHealth(0, 0)})


def test_a_dead_broker_is_away_and_its_replicas_lag_and_one_without_a_leader_is_offline() -> None:
    described = [
        topic("uplink", partition(0, in_sync=frozenset({1, 2})), partition(1), partition(2, None, frozenset({3}))),
        topic("broadcast", partition(0)),
    ]
    health = health_of(Cluster(frozenset({1, 2}), 1, described))
    assert health == (2, frozenset({3}), {"uplink": TopicHealth(2, 1), "broadcast": TopicHealth(0, 0)})


def test_a_topic_that_the_brokers_do_not_describe_is_not_called_healthy() -> None:
    assert health_of(Cluster(THREE, 1, [topic("uplink")])).topics == {}


def shown(metrics: Metrics, metric: metric_catalog.Metric, **labels: str) -> float | None:
    value = metrics.registry.get_sample_value(metric.name, labels)
    return None if value is None or math.isnan(value) else value


@contextmanager
def manual() -> Iterator[ManualClock]:
    with clock.running_on(manual := ManualClock()):
        yield manual


def test_an_answer_is_shown_until_it_is_old() -> None:
    with manual() as now:
        metrics = Metrics("broadcaster")
        gauges = HealthGauges(MemoryKafka(), [UPLINK, BROADCAST], metrics)
        assert shown(metrics, metric_catalog.KAFKA_BROKERS) is None
        gauges.show(health_of(Cluster(frozenset({1, 2}), 1, [topic("uplink", partition(0, None))])))
        assert shown(metrics, metric_catalog.KAFKA_BROKERS) == 2
        assert shown(metrics, metric_catalog.KAFKA_BROKERS_AWAY) == 1
        assert shown(metrics, metric_catalog.KAFKA_OFFLINE, topic="uplink") == 1
        assert shown(metrics, metric_catalog.KAFKA_OFFLINE, topic="broadcast") is None
        now.now_s += KNOWN_S + 1
        assert shown(metrics, metric_catalog.KAFKA_BROKERS) is None
        assert shown(metrics, metric_catalog.KAFKA_OFFLINE, topic="uplink") is None


async def test_a_service_asks_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_health, "INTERVAL_S", 0.001)
    kafka, metrics = MemoryKafka(), Metrics("ingress")
    following = asyncio.create_task(follow_cluster_health(kafka, [UPLINK], metrics))
    while shown(metrics, metric_catalog.KAFKA_BROKERS) is None:  # noqa: ASYNC110 - a metric is asked
        await asyncio.sleep(0)
    assert shown(metrics, metric_catalog.KAFKA_OFFLINE, topic="uplink") is None
    kafka.logs[TopicPartition("uplink", 0)] = []
    while shown(metrics, metric_catalog.KAFKA_OFFLINE, topic="uplink") is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    following.cancel()


class FailingKafka(MemoryKafka):
    """Its brokers answer with errors that no reader of them has foreseen."""

    asked = 0

    def admin(self, **_: float | None) -> Any:
        self.asked += 1
        if self.asked % 5:
            raise KeyError("leader")
        return super().admin()


async def test_an_error_of_any_kind_ends_no_service_and_is_told_once_until_an_answer_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster_health, "INTERVAL_S", 0.001)
    kafka, metrics = FailingKafka(), Metrics("ingress")
    with structlog.testing.capture_logs() as told:
        following = asyncio.create_task(follow_cluster_health(kafka, [UPLINK], metrics))
        while kafka.asked < 4:  # noqa: ASYNC110 - a count is asked
            await asyncio.sleep(0)
        assert shown(metrics, metric_catalog.KAFKA_BROKERS) is None
        while shown(metrics, metric_catalog.KAFKA_BROKERS) is None:  # noqa: ASYNC110 - a metric is asked
            await asyncio.sleep(0)
        following.cancel()
    assert [(line["event"], line["error"]) for line in told] == [("cluster_not_described", "KeyError('leader')")]


def test_the_services_that_ask_use_every_topic_between_them() -> None:
    asking = [service for service, made in metric_catalog.BY_SERVICE.items() if metric_catalog.KAFKA_OFFLINE in made]
    assert {topic for service in asking for topic in access.SERVICES[service].topics} == set(topics.ALL)
