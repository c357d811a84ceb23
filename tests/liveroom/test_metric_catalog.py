"""Metrics: names as Prometheus wants them, no unbounded labels, and every service can make its
own.
"""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from liveroom import metric_catalog
from liveroom.metric_catalog import BY_SERVICE, Metric, Shape
from liveroom.registry import Metrics

ALL = {metric.name: metric for metrics in BY_SERVICE.values() for metric in metrics}
EVERY = [pytest.param(metric, id=metric.name) for metric in ALL.values()]
UNITS = ("_seconds", "_bytes", "_records")
UNBOUNDED = {"room", "user", "id", "connection", "address", "ip", "path"}


@pytest.mark.parametrize("metric", EVERY)
def test_a_name_has_our_prefix_and_its_shape_s_ending(metric: Metric) -> None:
    assert metric.name.startswith("liveroom_")
    assert metric.name.replace("_", "").isalnum()
    assert metric.name == metric.name.lower()
    assert (metric.shape is Shape.COUNTER) is metric.name.endswith("_total")
    if metric.shape is Shape.HISTOGRAM:
        assert metric.name.endswith(UNITS)
    for wrong in ("_ms", "_milliseconds", "_kb", "_minutes", "_percent"):
        assert wrong not in metric.name


@pytest.mark.parametrize("metric", EVERY)
def test_a_metric_says_what_it_counts_in_a_sentence(metric: Metric) -> None:
    assert metric.about.endswith(".")
    assert "\n" not in metric.about


@pytest.mark.parametrize("metric", EVERY)
def test_no_label_is_unbounded(metric: Metric) -> None:
    assert not set(metric.labels) & UNBOUNDED
    assert len(set(metric.labels)) == len(metric.labels) <= 2


@pytest.mark.parametrize("metric", EVERY)
def test_only_histograms_have_buckets_and_they_rise(metric: Metric) -> None:
    assert bool(metric.buckets) is (metric.shape is Shape.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_one_name_is_one_metric() -> None:
    constants = [value for value in vars(metric_catalog).values() if isinstance(value, Metric)]
    assert len({metric.name for metric in constants}) == len(constants)


def test_every_metric_belongs_to_a_service() -> None:
    constants = {value.name for value in vars(metric_catalog).values() if isinstance(value, Metric)}
    assert constants == set(ALL)


@pytest.mark.parametrize("service", BY_SERVICE)
def test_a_service_s_metrics_can_be_made_and_read(service: str) -> None:
    from prometheus_client import generate_latest

    metrics = Metrics(service)
    for metric in BY_SERVICE[service]:
        labels = tuple("x" for _ in metric.labels)
        match metric.shape:
            case Shape.COUNTER:
                metrics.counter(metric, *labels).inc()
            case Shape.GAUGE:
                metrics.gauge(metric, *labels).set(1)
            case Shape.HISTOGRAM:
                metrics.histogram(metric, *labels).observe(0.1)
    families = {family.name: family for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())}
    for metric in BY_SERVICE[service]:
        family = families[metric.name.removesuffix("_total")]
        assert family.type == metric.shape.value
        assert family.documentation == metric.about


def test_a_service_does_not_have_the_metrics_of_another() -> None:
    with pytest.raises(KeyError):
        Metrics("ingress").gauge(metric_catalog.CONNECTIONS)


def test_two_services_in_one_process_do_not_share_metrics() -> None:
    first, second = Metrics("edge"), Metrics("edge")
    first.gauge(metric_catalog.CONNECTIONS).set(5)
    assert second.registry.get_sample_value("liveroom_edge_connections") == 0
