"""A service's metrics: the counters, gauges and histograms that the catalog lists for it."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import prometheus_client as prometheus

from liveroom import __version__, metric_catalog
from liveroom.metric_catalog import Metric, Shape


class Metrics:
    """The metrics of one service. Resolve labels once, outside loops."""

    def __init__(self, service: str) -> None:
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        prometheus.GCCollector(registry=self.registry)
        self._made: dict[str, Any] = {m.name: self._make(m) for m in metric_catalog.BY_SERVICE[service]}
        self.gauge(metric_catalog.BUILD_INFO, service, __version__).set(1)

    def _make(self, metric: Metric) -> Any:
        match metric.shape:
            case Shape.COUNTER:
                return prometheus.Counter(metric.name, metric.about, metric.labels, registry=self.registry)
            case Shape.GAUGE:
                return prometheus.Gauge(metric.name, metric.about, metric.labels, registry=self.registry)
            case Shape.HISTOGRAM:
                return prometheus.Histogram(
                    metric.name, metric.about, metric.labels, buckets=metric.buckets, registry=self.registry
                )

    def _get(self, metric: Metric, labels: Sequence[str]) -> Any:
        made = self._made[metric.name]
        return made.labels(*labels) if labels else made

    def exist(self, metric: Metric, *values: Iterable[str]) -> None:
        """Have the series of all these label values exist, at 0: what first appears at 1 is no
        increase to Prometheus.
        """
        for labels in itertools.product(*values):
            self._get(metric, labels)

    def counter(self, metric: Metric, *labels: str) -> prometheus.Counter:
        """Return a counter of the contract, resolved to these label values."""
        counter: prometheus.Counter = self._get(metric, labels)
        return counter

    def gauge(self, metric: Metric, *labels: str) -> prometheus.Gauge:
        """Return a gauge of the contract, resolved to these label values."""
        gauge: prometheus.Gauge = self._get(metric, labels)
        return gauge

    def follow(self, metric: Metric, value: Callable[[], float], *labels: str) -> None:
        """Let a gauge show what `value` returns at each scrape."""
        self._get(metric, labels).set_function(value)

    def histogram(self, metric: Metric, *labels: str) -> prometheus.Histogram:
        """Return a histogram of the contract, resolved to these label values."""
        histogram: prometheus.Histogram = self._get(metric, labels)
        return histogram
