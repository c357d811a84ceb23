"""Panels and queries that several dashboards have. Pure."""

from typing import Final

from dashboards.board import Panel, Query
from dashboards.queries import RATE, SHOWN, quantile
from liveroom import metric_catalog

SLOW_S: Final = 3.0


def quantiles(metric: metric_catalog.Metric, *matchers: str) -> list[Query]:
    """Return the 50th, 99th and 99.9th percentile of a histogram."""
    return [Query(quantile(share, metric, *matchers), f"p{share * 100:g}") for share in (0.5, 0.99, 0.999)]


def processes(service: str) -> list[Panel]:
    """Return the panels of a service's processes."""
    job = f'job="{service}"'
    return [
        Panel(
            f"{service}: processor",
            "Busy share of one core, by process.",
            [Query(f"rate(process_cpu_seconds_total{{{SHOWN},{job}}}[{RATE}])", "{{instance}}")],
            "percentunit",
            width=6,
            red_above=0.8,
        ),
        Panel(
            f"{service}: loop lag p99",
            "How late timers run: what every viewer waits in addition.",
            [Query(quantile(0.99, metric_catalog.LOOP_LAG, job, by="instance"), "{{instance}}")],
            "s",
            width=6,
            red_above=0.1,
        ),
        Panel(
            f"{service}: memory",
            "Resident memory, by process.",
            [Query(f"process_resident_memory_bytes{{{SHOWN},{job}}}", "{{instance}}")],
            "bytes",
            width=6,
        ),
        Panel(
            f"{service}: open files",
            "Sockets and files, by process.",
            [Query(f"process_open_fds{{{SHOWN},{job}}}", "{{instance}}")],
            width=6,
        ),
    ]
