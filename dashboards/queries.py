"""PromQL for the metrics of the catalog: selectors, rates, quantiles. Pure.

Every function takes a metric's constant of `liveroom.metric_catalog`, never a name. It raises
ValueError for a metric of the wrong shape.
"""

from typing import Final

from liveroom.metric_catalog import Metric, Shape

# Every target has the labels `job` (the service), `instance` and `cluster`:
# dashboards/prometheus/prometheus.yml sets them.
SHOWN: Final = 'cluster=~"$cluster",instance=~"$instance"'
LATE_WINDOW: Final = "5m"  # as of the alert GiftDelay
RATE: Final = "$__rate_interval"


def name(metric: Metric, *matchers: str) -> str:
    """Return a metric as shown on a dashboard, with more matchers."""
    return f"{metric.name}{{{','.join((SHOWN, *matchers))}}}"


def rate(metric: Metric, *matchers: str, by: str = "") -> str:
    """Return the sum of a counter's rates, by some labels."""
    if metric.shape is not Shape.COUNTER:
        raise ValueError(f"{metric.name} is no counter")
    return f"sum{_by(by)}(rate({name(metric, *matchers)}[{RATE}]))"


def total(metric: Metric, *matchers: str, by: str = "") -> str:
    """Return the sum of a gauge, by some labels."""
    if metric.shape is not Shape.GAUGE:
        raise ValueError(f"{metric.name} is no gauge")
    return f"sum{_by(by)}({name(metric, *matchers)})"


def quantile(share: float, metric: Metric, *matchers: str, by: str = "") -> str:
    """Return a quantile of a histogram."""
    return f"histogram_quantile({share}, {buckets(metric, *matchers, by=by)})"


def later(metric: Metric, *, by: str) -> str:
    """Return how many observations of a histogram were above 10 s within 5 minutes, by a label."""
    if metric.shape is not Shape.HISTOGRAM:
        raise ValueError(f"{metric.name} is no histogram")
    counted = f"sum by({by})(increase({metric.name}_count{{{SHOWN}}}[{LATE_WINDOW}]))"
    in_time = f'sum by({by})(increase({metric.name}_bucket{{{SHOWN},le="10.0"}}[{LATE_WINDOW}]))'
    return f"{counted} - {in_time}"


def buckets(metric: Metric, *matchers: str, by: str = "") -> str:
    """Return the rates of a histogram's buckets, for quantiles and heat maps."""
    if metric.shape is not Shape.HISTOGRAM:
        raise ValueError(f"{metric.name} is no histogram")
    labels = ",".join(filter(None, ("le", by)))
    return f"sum by({labels})(rate({metric.name}_bucket{{{','.join((SHOWN, *matchers))}}}[{RATE}]))"


def _by(labels: str) -> str:
    return f" by({labels})" if labels else ""
