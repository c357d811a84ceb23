"""Recording rules and alerts. Pure.

Owns what is worth waking somebody for, and the table of windows, which live tests shorten. Every
alert has a runbook in docs/runbooks.md, and in `dashboards.cases` a series that fires it and one
that does not.
"""

from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

from dashboards.scrape import SERVICES
from liveroom import metric_catalog
from liveroom.far_times import SKEW_S

RUNBOOKS: Final = "https://github.com/liveroom/liveroom/blob/main/docs/runbooks.md"
RELIABLE_S: Final = "3.0"
GIFT_S: Final = "10.0"
OBJECTIVE: Final = 0.999
FAST_BURN: Final = 14.4  # of a 30-day budget, 2% in an hour
SLOW_BURN: Final = 6.0  # 5% in six hours
BEHIND_RECORDS: Final = 500
REFUSED_SHARE: Final = 0.1  # of requests; a single abusive address is seldom as much of all traffic
ENDED_PER_S: Final = 1  # connections by one reason; probes and strays are fewer
AT_A_BOUND: Final = "pending|pending_address|open|open_address|proxy_header|proxy_untrusted"  # not those of slow callers
EXPIRES_S: Final = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Windows:
    """The time spans of rules and alerts, in Prometheus' notation."""

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
        """Return windows that all have the same duration, for tests on a running system."""
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
    """Return the share of pushes later than `limit_s` seconds after acceptance, as PromQL."""
    counted = f"sum(rate({metric_catalog.FANOUT_DELAY.name}_count[{window}]))"
    in_time = f'sum(rate({metric_catalog.FANOUT_DELAY.name}_bucket{{le="{limit_s}"}}[{window}]))'
    return f"1 - {in_time} / ({counted} > 0)"


def records(windows: Windows) -> list[tuple[str, str]]:
    """Return the recording rules, as name and expression, that alerts and dashboards share."""
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

    def refused_share(refused: metric_catalog.Metric, *all_of: str) -> str:
        by_address = f'sum(rate({refused.name}{{reason=~"address_.*"}}[{w.recent}]))'
        requests = " + ".join(f"sum(rate({series}[{w.recent}]))" for series in all_of)
        return f"{by_address} / ({requests} > 0)"

    shares = {
        "ingress": refused_share(metric_catalog.REQUESTS_LIMITED, f"{metric_catalog.INGRESS_SECONDS.name}_count"),
        "scheduler": refused_share(metric_catalog.ENTRIES_LIMITED, metric_catalog.ENTRIES.name),
        "edge": refused_share(metric_catalog.LIMITED, metric_catalog.JOINS.name, metric_catalog.UPGRADES_REFUSED.name),
    }
    over_share = " or ".join(
        f'label_replace({share} > {REFUSED_SHARE}, "service", "{service}", "", "")' for service, share in shares.items()
    )
    no_room = f'sum(rate({metric_catalog.LIMITED.name}{{reason="gateway_rooms"}}[{w.recent}])) > 0'
    over_cap = f"sum(rate({metric_catalog.ROOMS_LIMITED.name}[{w.recent}])) > 0"

    return [
        Alert(
            "ReliableLateFast",
            burns(FAST_BURN, "fast_short", "fast_long"),
            w.blink,
            "page",
            "Messages reach viewers more than 3 s late; at this rate a month's error budget lasts two days",
        ),
        Alert(
            "ReliableLateSlow",
            burns(SLOW_BURN, "slow_short", "slow_long"),
            w.hold,
            "ticket",
            "For hours a small share of messages has reached viewers more than 3 s late",
        ),
        Alert(
            "GiftDelay",
            f"{pushed} - {in_time} > 0.5",
            w.blink,
            "page",
            "An accepted message was pushed to viewers more than 10 s late",
        ),
        Alert(
            "BalanceOff",
            f"{metric_catalog.BALANCE_OFF.name} != 0",
            w.hold,
            "page",
            "A broadcaster cannot account for everything that it consumed: messages may be lost",
        ),
        Alert(
            "PartitionWithoutOwner",
            f"{ruled} < max({metric_catalog.PARTITIONS.name})",
            w.blink,
            "page",
            "A partition has no owner: its rooms stand still",
        ),
        Alert(
            "HistoryLost",
            grew(metric_catalog.HISTORY_LOST),
            "0s",
            "page",
            "A partition or a room lost its numbers and started again",
        ),
        Alert(
            "QueueReaderBehind",
            f'{metric_catalog.READER_LAG.name}{{topic="broadcast"}} > {BEHIND_RECORDS}',
            w.hold,
            "page",
            "A gateway falls behind the queue: its viewers get messages late",
        ),
        Alert(
            "UplinkBehind",
            f"max by(partition)({metric_catalog.UPLINK_LAG.name}) > {BEHIND_RECORDS}",
            w.hold,
            "page",
            "A broadcaster falls behind a partition's interactions",
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
            f'up{{job=~"{"|".join(SERVICES)}"}} == 0',  # Prometheus may scrape other jobs too
            w.blink,
            "page",
            "A process does not answer Prometheus: it is dead, stopped or overloaded",
        ),
        Alert(
            "GatewayLost",
            f'max({metric_catalog.GATEWAYS_KNOWN.name}{{state="stale"}}) > 0',
            w.blink,
            "page",
            "A gateway stopped reporting: its viewers reconnect elsewhere",
        ),
        Alert(
            "ClockSkewed",
            f"abs({metric_catalog.CLOCK_SKEW.name}) > {SKEW_S:g} "
            f'or max({metric_catalog.GATEWAYS_KNOWN.name}{{state="skewed"}}) > 0',
            w.hold,
            "ticket",
            "A machine's clock is more than 2 s off: its gateway gets no viewers",
        ),
        Alert(
            "NobodyHasRoom",
            grew(metric_catalog.ENTRIES, '{outcome="no_gateway"}', w.rate),
            w.blink,
            "page",
            "Viewers are refused because no gateway has room",
        ),
        Alert(
            "AutoscalerAtMax",
            f"max({metric_catalog.POOL_NEEDED.name}) >= max({metric_catalog.POOL_MAX.name})",
            w.hold,
            "page",
            "The pool has reached its maximum and needs more gateways",
        ),
        Alert(
            "AutoscalerLeaderless",
            f"sum({metric_catalog.LEADING.name}) != 1 and max({metric_catalog.POOL_ADVISES.name}) == 0",
            w.hold,
            "ticket",
            "There is not exactly one leading autoscaler",
        ),
        Alert(
            "AutoscalerPaused",
            f"max({metric_catalog.POOL_PAUSED.name}) == 1",
            w.long_hold,
            "ticket",
            "The pool is still paused by an operator",
        ),
        Alert(
            "AutoscalerBlind",
            f"sum by(instance)(rate({metric_catalog.POOL_API_FAILURES.name}[{w.rate}])) > 0.2",
            w.hold,
            "page",
            "The Kubernetes API fails for the autoscaler: the pool does not change",
        ),
        Alert(
            "WrongPodsWent",
            grew(metric_catalog.POOL_WRONG_PODS),
            "0s",
            "ticket",
            "A scale-in removed gateways that had not drained",
        ),
        Alert(
            "LoopLag",
            f"histogram_quantile(0.99, sum by(le,instance)(rate({metric_catalog.LOOP_LAG.name}_bucket[{w.rate}]))) > 0.25",
            w.hold,
            "ticket",
            "A process is too busy: its event loop is late",
        ),
        Alert(
            "UnacknowledgedRecords", grew(metric_catalog.PRODUCE_ERRORS), "0s", "ticket", "Kafka did not acknowledge records"
        ),
        Alert(
            "IngressRefusesForKafka",
            grew(metric_catalog.REFUSALS, '{code="queue_unavailable"}', w.rate),
            w.blink,
            "page",
            "Interactions are refused because Kafka does not answer",
        ),
        Alert(
            "AddressesRefused",
            over_share,
            w.long_hold,
            "page",
            "Limits by address refuse a large share of all requests: the addresses may be those of a proxy",
        ),
        Alert(
            "ConnectionsRefused",
            f'sum by(job,port,reason)(rate({metric_catalog.HTTP_ENDED.name}{{reason=~"{AT_A_BOUND}"}}[{w.recent}]))'
            f" > {ENDED_PER_S}",
            w.long_hold,
            "ticket",
            "An HTTP port refuses or ends connections at a bound, or for their PROXY header",
        ),
        Alert(
            "TooManyRooms",
            f"{no_room} or {over_cap}",
            w.long_hold,
            "ticket",
            "Gateways or broadcasters have as many rooms as they may: somebody may be inventing rooms",
        ),
        Alert(
            "CertificateExpires",
            f"({metric_catalog.TLS_EXPIRES.name} > 0) - time() < {EXPIRES_S}",  # 0: no TLS
            w.hold,
            "ticket",
            "A gateway's certificate expires within 7 days, or has expired",
        ),
        Alert(
            "DeadLetters",
            grew(metric_catalog.DEAD_LETTERS),
            "0s",
            "ticket",
            "Records in uplink cannot be used: another program may write there",
        ),
        Alert("UnreadableRecords", grew(metric_catalog.BAD_RECORDS), "0s", "ticket", "Records in our topics cannot be read"),
        Alert(
            "CanaryLoss",
            grew(metric_catalog.CANARY_LOST),
            "0s",
            "page",
            "A canary did not receive what it sent, so viewers do not either",
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
