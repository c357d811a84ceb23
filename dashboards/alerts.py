"""Recording rules and alerts. Pure. Owns what is worth waking somebody for, and one table of
windows that live tests shorten.

Every alert has a runbook in docs/runbooks.md, and a series that fires it and one that does not in
`dashboards.cases`.
"""

from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

from dashboards.scrape import SERVICES
from liveroom import metric_catalog

RUNBOOKS: Final = "https://github.com/liveroom/liveroom/blob/main/docs/runbooks.md"
RELIABLE_S: Final = "3.0"
GIFT_S: Final = "10.0"
OBJECTIVE: Final = 0.999
FAST_BURN: Final = 14.4  # of a 30-day budget, 2% in an hour
SLOW_BURN: Final = 6.0  # 5% in six hours
BEHIND_RECORDS: Final = 500


@dataclass(frozen=True, slots=True)
class Windows:
    """How long things are looked at, in Prometheus' durations."""

    rate: str = "1m"
    recent: str = "5m"
    fast_short: str = "5m"
    fast_long: str = "1h"
    slow_short: str = "30m"
    slow_long: str = "6h"
    blink: str = "15s"
    hold: str = "1m"
    long_hold: str = "5m"
    evaluation: str = "15s"

    @classmethod
    def all(cls, duration: str, evaluation: str) -> "Windows":
        """Return windows that are all alike, for tests on a running system."""
        return cls(
            **dict.fromkeys((field.name for field in fields(cls)), duration)
            | {"evaluation": evaluation, "blink": "1s", "hold": "1s"}
        )


class Alert(NamedTuple):
    """One alert. `severity`: page (somebody is woken) or ticket."""

    name: str
    expr: str
    hold: str
    severity: str
    summary: str


def slow_share(limit_s: str, window: str) -> str:
    """Return the share of pushes that came later than `limit_s` after acceptance."""
    counted = f"sum(rate({metric_catalog.FANOUT_DELAY.name}_count[{window}]))"
    in_time = f'sum(rate({metric_catalog.FANOUT_DELAY.name}_bucket{{le="{limit_s}"}}[{window}]))'
    return f"1 - {in_time} / ({counted} > 0)"


def records(windows: Windows) -> list[tuple[str, str]]:
    """Return recording rules: (name, expression). What several alerts and dashboards ask for."""
    spans = {
        "fast_short": windows.fast_short,
        "fast_long": windows.fast_long,
        "slow_short": windows.slow_short,
        "slow_long": windows.slow_long,
    }
    return [
        *((f"liveroom:late_share:{name}", slow_share(RELIABLE_S, window)) for name, window in spans.items()),
        (
            "liveroom:delay_seconds:p99",
            f"histogram_quantile(0.99, sum by(le)(rate({metric_catalog.FANOUT_DELAY.name}_bucket[{windows.rate}])))",
        ),
        ("liveroom:viewers:sum", f"sum({metric_catalog.CONNECTIONS.name})"),
        ("liveroom:accepted:rate", f'sum(rate({metric_catalog.INTERACTIONS.name}{{outcome="accepted"}}[{windows.rate}]))'),
        ("liveroom:delivered:rate", f"sum(rate({metric_catalog.DELIVERED_MESSAGES.name}[{windows.rate}]))"),
    ]


def alerts(windows: Windows) -> list[Alert]:
    """Return all alerts."""
    w = windows
    budget = 1 - OBJECTIVE

    pushed = f"sum(increase({metric_catalog.FANOUT_DELAY.name}_count[{w.recent}]))"
    in_time = f'sum(increase({metric_catalog.FANOUT_DELAY.name}_bucket{{le="{GIFT_S}"}}[{w.recent}]))'
    ruled = f"(sum({metric_catalog.PARTITIONS_OWNED.name}) or vector(0))"  # a broadcaster that is gone has no series any more

    def burns(pace: float, short: str, long: str) -> str:
        limit = f"{pace * budget:g}"
        return f"liveroom:late_share:{short} > {limit} and liveroom:late_share:{long} > {limit}"

    def grew(metric: metric_catalog.Metric, matchers: str = "", window: str = w.recent) -> str:
        return f"increase({metric.name}{matchers}[{window}]) > 0"

    return [
        Alert(
            "ReliableLateFast",
            burns(FAST_BURN, "fast_short", "fast_long"),
            w.blink,
            "page",
            "Viewers get messages later than 3 s; a month's budget is gone in two days",
        ),
        Alert(
            "ReliableLateSlow",
            burns(SLOW_BURN, "slow_short", "slow_long"),
            w.hold,
            "ticket",
            "Viewers get messages later than 3 s, a little, for hours",
        ),
        Alert(
            "GiftDelay",
            f"{pushed} - {in_time} > 0.5",
            w.blink,
            "page",
            "Something accepted was pushed to viewers later than 10 s",
        ),
        Alert(
            "BalanceOff",
            f"{metric_catalog.BALANCE_OFF.name} != 0",
            w.hold,
            "page",
            "A broadcaster cannot account for what it took: something may be lost",
        ),
        Alert(
            "PartitionWithoutOwner",
            f"{ruled} < max({metric_catalog.PARTITIONS.name})",
            w.blink,
            "page",
            "Rooms of a partition stand still: no broadcaster rules it",
        ),
        Alert(
            "HistoryLost",
            grew(metric_catalog.HISTORY_LOST),
            "0s",
            "page",
            "A partition or a room began again: its numbers were lost",
        ),
        Alert(
            "QueueReaderBehind",
            f'{metric_catalog.READER_LAG.name}{{topic="broadcast"}} > {BEHIND_RECORDS}',
            w.hold,
            "page",
            "A gateway reads the queue slower than it is written: its viewers are late",
        ),
        Alert(
            "UplinkBehind",
            f"max by(partition)({metric_catalog.UPLINK_LAG.name}) > {BEHIND_RECORDS}",
            w.hold,
            "page",
            "A broadcaster takes a partition's interactions slower than they come",
        ),
        Alert(
            "StalledConsumer",
            grew(metric_catalog.READER_RESTARTS, '{reason="stalled"}'),
            "0s",
            "ticket",
            "A Kafka client hung and was replaced",
        ),
        Alert(
            "ServiceSilent",
            f'up{{job=~"{"|".join(SERVICES)}"}} == 0',  # Prometheus may look after others too
            w.blink,
            "page",
            "A process does not answer Prometheus: dead, stopped or drowned",
        ),
        Alert(
            "GatewayLost",
            f'max({metric_catalog.GATEWAYS_KNOWN.name}{{state="stale"}}) > 0',
            w.blink,
            "page",
            "A gateway reports no more: its viewers are coming back elsewhere",
        ),
        Alert(
            "NobodyHasRoom",
            grew(metric_catalog.ENTRIES, '{outcome="no_gateway"}', w.rate),
            w.blink,
            "page",
            "Viewers are refused since no gateway has room",
        ),
        Alert(
            "AutoscalerAtMax",
            f"max({metric_catalog.POOL_NEEDED.name}) >= max({metric_catalog.POOL_MAX.name})",
            w.hold,
            "page",
            "The pool may not grow any more, and needs to",
        ),
        Alert(
            "AutoscalerLeaderless",
            f"sum({metric_catalog.LEADING.name}) != 1 and max({metric_catalog.POOL_ADVISES.name}) == 0",
            w.hold,
            "ticket",
            "Not exactly one autoscaler decides",
        ),
        Alert(
            "AutoscalerPaused",
            f"max({metric_catalog.POOL_PAUSED.name}) == 1",
            w.long_hold,
            "ticket",
            "An operator has paused the pool and not resumed it",
        ),
        Alert(
            "AutoscalerBlind",
            f"sum by(instance)(rate({metric_catalog.POOL_API_FAILURES.name}[{w.rate}])) > 0.2",
            w.hold,
            "page",
            "The Kubernetes API does not answer the autoscaler: the pool stays as it is",
        ),
        Alert(
            "WrongPodsWent",
            grew(metric_catalog.POOL_WRONG_PODS),
            "0s",
            "ticket",
            "A scale-in took gateways that had not been emptied before",
        ),
        Alert(
            "LoopLag",
            f"histogram_quantile(0.99, sum by(le,instance)(rate({metric_catalog.LOOP_LAG.name}_bucket[{w.rate}]))) > 0.25",
            w.hold,
            "ticket",
            "A process is too busy to be in time",
        ),
        Alert(
            "UnacknowledgedRecords", grew(metric_catalog.PRODUCE_ERRORS), "0s", "ticket", "Kafka did not acknowledge records"
        ),
        Alert(
            "IngressRefusesForKafka",
            grew(metric_catalog.REFUSALS, '{code="queue_unavailable"}', w.rate),
            w.blink,
            "page",
            "Interactions are refused since Kafka does not answer",
        ),
        Alert(
            "DeadLetters",
            grew(metric_catalog.DEAD_LETTERS),
            "0s",
            "ticket",
            "Somebody writes records to uplink that cannot be used",
        ),
        Alert("UnreadableRecords", grew(metric_catalog.BAD_RECORDS), "0s", "ticket", "Records in our topics cannot be read"),
        Alert(
            "CanaryLoss",
            grew(metric_catalog.CANARY_LOST),
            "0s",
            "page",
            "A canary did not get what it sent: viewers do not either",
        ),
    ]


def rule_file(windows: Windows) -> dict[str, Any]:
    """Return what Prometheus reads as `rule_files`."""
    return {
        "groups": [
            {
                "name": "liveroom-records",
                "interval": windows.evaluation,
                "rules": [{"record": name, "expr": expr} for name, expr in records(windows)],
            },
            {
                "name": "liveroom-alerts",
                "interval": windows.evaluation,
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": alert.expr,
                        "for": alert.hold,
                        "labels": {"severity": alert.severity},
                        "annotations": {"summary": alert.summary, "runbook_url": f"{RUNBOOKS}#{alert.name.lower()}"},
                    }
                    for alert in alerts(windows)
                ],
            },
        ]
    }
