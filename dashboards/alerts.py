"""Recording rules and alerts. Pure.

Owns what is worth waking somebody for, and the table of windows, which live tests shorten. Every
alert has a runbook in docs/runbooks.md, and in `dashboards.cases` a series that fires it and one
that does not. Each keeps the labels that one needs to act, and says its value in words.
"""

from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

from dashboards.scrape import SERVICES
from liveroom import metric_catalog
from liveroom.far_times import SKEW_S
from liveroom.metric_catalog import Metric

RUNBOOKS: Final = "docs/runbooks.md"  # where the project keeps them; `python -m dashboards.generate --runbooks` sets another
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
    """One alert. `severity`: page (somebody is woken) or ticket.

    `value` says in words what was found, as a template of Prometheus. `labels` are those that the
    expression keeps beside `cluster`: where to look.
    """

    name: str
    expr: str
    hold: str
    severity: str
    summary: str
    value: str
    labels: tuple[str, ...] = ()


def slow_share(limit_s: str, window: str) -> str:
    """Return the share of pushes later than `limit_s` seconds after acceptance, as PromQL."""
    counted = f"sum by(cluster)(rate({metric_catalog.FANOUT_DELAY.name}_count[{window}]))"
    in_time = f'sum by(cluster)(rate({metric_catalog.FANOUT_DELAY.name}_bucket{{le="{limit_s}"}}[{window}]))'
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
            f"histogram_quantile(0.99, sum by(le,cluster)(rate({metric_catalog.FANOUT_DELAY.name}_bucket[{windows.rate}])))",
        ),
        ("liveroom:viewers:sum", f"sum by(cluster)({metric_catalog.CONNECTIONS.name})"),
        (
            "liveroom:accepted:rate",
            f'sum by(cluster)(rate({metric_catalog.INTERACTIONS.name}{{outcome="accepted"}}[{windows.rate}]))',
        ),
        ("liveroom:delivered:rate", f"sum by(cluster)(rate({metric_catalog.DELIVERED_MESSAGES.name}[{windows.rate}]))"),
    ]


def alerts(windows: Windows) -> list[Alert]:
    """Return all alerts."""
    return [*_delivery(windows), *_kafka(windows), *_pool(windows), *_processes(windows), *_callers(windows)]


def _grew(metric: Metric, matchers: str, window: str) -> str:
    return f"increase({metric.name}{matchers}[{window}]) > 0"


def _most(metric: Metric, matchers: str = "", by: str = "cluster") -> str:
    return f"max by({by})({metric.name}{matchers})"


def _rate(metric: Metric, matchers: str, window: str, by: str = "cluster") -> str:
    return f"sum by({by})(rate({metric.name}{matchers}[{window}]))"


def _delivery(w: Windows) -> list[Alert]:
    """Return the alerts about messages that are late, or may be lost."""
    pushed = f"increase({metric_catalog.FANOUT_DELAY.name}_count[{w.recent}])"
    in_time = f'increase({metric_catalog.FANOUT_DELAY.name}_bucket{{le="{GIFT_S}"}}[{w.recent}])'
    there_are = _most(metric_catalog.PARTITIONS)
    owned = f"sum by(cluster)({metric_catalog.PARTITIONS_OWNED.name})"

    def burns(pace: float, short: str, long: str) -> str:
        limit = f"{pace * (1 - OBJECTIVE):g}"
        return f"liveroom:late_share:{short} > {limit} and liveroom:late_share:{long} > {limit}"

    return [
        Alert(
            "ReliableLateFast",
            burns(FAST_BURN, "fast_short", "fast_long"),
            w.blink,
            "page",
            "Messages reach viewers more than 3 s late; at this rate a month's error budget lasts two days",
            f"{{{{ $value | humanizePercentage }}}} of the pushes of the last {w.fast_short} were late",
        ),
        Alert(
            "ReliableLateSlow",
            burns(SLOW_BURN, "slow_short", "slow_long"),
            w.hold,
            "ticket",
            "For hours a small share of messages has reached viewers more than 3 s late",
            f"{{{{ $value | humanizePercentage }}}} of the pushes of the last {w.slow_short} were late",
        ),
        Alert(
            "GiftDelay",
            f"{pushed} - ignoring(le) {in_time} > 0.5",
            w.blink,
            "page",
            "An accepted message was pushed to viewers more than 10 s late",
            f'{{{{ $value | printf "%.0f" }}}} pushes of the gateway {{{{ $labels.instance }}}} in {w.recent}',
            ("instance",),
        ),
        Alert(
            "BalanceOff",
            f"{metric_catalog.BALANCE_OFF.name} != 0",
            w.hold,
            "page",
            "A broadcaster cannot account for everything that it consumed: messages may be lost",
            "{{ $value }} items at {{ $labels.instance }}",
            ("instance",),
        ),
        Alert(
            "PartitionWithoutOwner",
            # a broadcaster that is gone has no series any more
            f"{there_are} - ({owned} or 0 * {there_are}) > 0",
            w.blink,
            "page",
            "A partition has no owner: its rooms stand still",
            "{{ $value }} partitions",
        ),
        Alert(
            "HistoryLost",
            _grew(metric_catalog.HISTORY_LOST, "", w.recent),
            "0s",
            "page",
            "A partition or a room lost its numbers and started again",
            '{{ $value | printf "%.0f" }} times at {{ $labels.instance }}, reason {{ $labels.reason }}',
            ("instance", "reason"),
        ),
        Alert(
            "QueueReaderBehind",
            f'{metric_catalog.READER_LAG.name}{{topic="broadcast"}} > {BEHIND_RECORDS}',
            w.hold,
            "page",
            "A gateway falls behind the queue: its viewers get messages late",
            "{{ $labels.instance }} is {{ $value }} records behind",
            ("instance",),
        ),
        Alert(
            "UplinkBehind",
            f"{metric_catalog.UPLINK_LAG.name} > {BEHIND_RECORDS}",
            w.hold,
            "page",
            "A broadcaster falls behind a partition's interactions",
            "{{ $labels.instance }} is {{ $value }} records behind in partition {{ $labels.partition }}",
            ("instance", "partition"),
        ),
        Alert(
            "CanaryLoss",
            _grew(metric_catalog.CANARY_LOST, "", w.recent),
            "0s",
            "page",
            "A canary did not receive what it sent, so viewers do not either",
            '{{ $value | printf "%.0f" }} gifts at the gateway {{ $labels.gateway }}',
            ("gateway",),
        ),
    ]


def _kafka(w: Windows) -> list[Alert]:
    """Return the alerts about Kafka, and about what its clients and records do."""
    return [
        Alert(
            "KafkaPartitionsOffline",
            f"{_most(metric_catalog.KAFKA_OFFLINE, by='cluster,topic')} > 0",
            w.blink,
            "page",
            "No broker leads a partition of a topic: what is in it stands still",
            "{{ $value }} partitions of {{ $labels.topic }}",
            ("topic",),
        ),
        Alert(
            "KafkaUnderReplicated",
            f"{_most(metric_catalog.KAFKA_UNDER_REPLICATED, by='cluster,topic')} > 0",
            w.long_hold,
            "ticket",
            "Partitions of a topic lack a replica: if one more broker fails, nothing is accepted",
            "{{ $value }} partitions of {{ $labels.topic }}",
            ("topic",),
        ),
        Alert(
            "KafkaBrokersAway",
            f"{_most(metric_catalog.KAFKA_BROKERS_AWAY)} > 0",
            w.long_hold,
            "ticket",
            "A broker that has our data is not in the cluster",
            "{{ $value }} brokers",
        ),
        Alert(
            "StalledConsumer",
            _grew(metric_catalog.READER_RESTARTS, '{reason="stalled"}', w.recent),
            "0s",
            "ticket",
            "A Kafka client hung and was replaced",
            "{{ $labels.instance }}, topic {{ $labels.topic }}",
            ("instance", "topic"),
        ),
        Alert(
            "UnacknowledgedRecords",
            _grew(metric_catalog.PRODUCE_ERRORS, "", w.recent),
            "0s",
            "ticket",
            "Kafka did not acknowledge records",
            '{{ $value | printf "%.0f" }} records from {{ $labels.instance }} for {{ $labels.topic }}: {{ $labels.reason }}',
            ("instance", "topic", "reason"),
        ),
        Alert(
            "IngressRefusesForKafka",
            _grew(metric_catalog.REFUSALS, '{code="queue_unavailable"}', w.rate),
            w.blink,
            "page",
            "Interactions are refused because Kafka does not answer",
            f'{{{{ $value | printf "%.0f" }}}} requests at {{{{ $labels.instance }}}} in {w.rate}',
            ("instance",),
        ),
        Alert(
            "DeadLetters",
            _grew(metric_catalog.DEAD_LETTERS, "", w.recent),
            "0s",
            "ticket",
            "Records in uplink cannot be used: another program may write there",
            '{{ $value | printf "%.0f" }} records, reason {{ $labels.reason }}',
            ("instance", "reason"),
        ),
        Alert(
            "UnreadableRecords",
            _grew(metric_catalog.BAD_RECORDS, "", w.recent),
            "0s",
            "ticket",
            "Records in our topics cannot be read",
            '{{ $value | printf "%.0f" }} records of {{ $labels.topic }} at {{ $labels.instance }}: {{ $labels.reason }}',
            ("instance", "topic", "reason"),
        ),
    ]


def _pool(w: Windows) -> list[Alert]:
    """Return the alerts about gateways and their number."""
    stale = _most(metric_catalog.GATEWAYS_KNOWN, '{state="stale"}')
    return [
        Alert(
            "GatewayLost",
            f"{stale} > 0",
            w.blink,
            "page",
            "A gateway stopped reporting: its viewers reconnect elsewhere",
            "{{ $value }} gateways",
        ),
        Alert(
            "NobodyHasRoom",
            _grew(metric_catalog.ENTRIES, '{outcome="no_gateway"}', w.rate),
            w.blink,
            "page",
            "Viewers are refused because no gateway has room",
            f'{{{{ $value | printf "%.0f" }}}} entries at {{{{ $labels.instance }}}} in {w.rate}',
            ("instance",),
        ),
        Alert(
            "AutoscalerAtMax",
            f"{_most(metric_catalog.POOL_NEEDED)} >= {_most(metric_catalog.POOL_MAX)}",
            w.hold,
            "page",
            "The pool has reached its maximum and needs more gateways",
            "{{ $value }} gateways are needed",
        ),
        Alert(
            "AutoscalerLeaderless",
            f"sum by(cluster)({metric_catalog.LEADING.name}) != 1 and {_most(metric_catalog.POOL_ADVISES)} == 0",
            w.hold,
            "ticket",
            "There is not exactly one leading autoscaler",
            "{{ $value }} lead",
        ),
        Alert(
            "AutoscalerPaused",
            f"{_most(metric_catalog.POOL_PAUSED)} == 1",
            w.long_hold,
            "ticket",
            "The pool is still paused by an operator",
            "no gateway starts or stops",
        ),
        Alert(
            "AutoscalerBlind",
            f"{_rate(metric_catalog.POOL_API_FAILURES, '', w.rate, by='cluster,instance,reason')} > 0.2",
            w.hold,
            "page",
            "The Kubernetes API fails for the autoscaler: the pool does not change",
            "{{ $value | humanize }} calls a second fail for {{ $labels.instance }}, reason {{ $labels.reason }}",
            ("instance", "reason"),
        ),
        Alert(
            "WrongPodsWent",
            _grew(metric_catalog.POOL_WRONG_PODS, "", w.recent),
            "0s",
            "ticket",
            "A scale-in removed gateways that had not drained",
            '{{ $value | printf "%.0f" }} gateways',
        ),
    ]


def _processes(w: Windows) -> list[Alert]:
    """Return the alerts about single processes and machines."""
    skewed = _most(metric_catalog.GATEWAYS_KNOWN, '{state="skewed"}')
    slow = f"sum by(le,cluster,job,instance)(rate({metric_catalog.LOOP_LAG.name}_bucket[{w.rate}]))"
    return [
        Alert(
            "ServiceSilent",
            f'up{{job=~"{"|".join(SERVICES)}"}} == 0',  # Prometheus may scrape other jobs too
            w.blink,
            "page",
            "A process does not answer Prometheus: it is dead, stopped or overloaded",
            "the {{ $labels.job }} {{ $labels.instance }}",
            ("job", "instance"),
        ),
        Alert(
            "ClockSkewed",
            f"abs({metric_catalog.CLOCK_SKEW.name}) > {SKEW_S:g} or {skewed} > 0",
            w.hold,
            "ticket",
            "A machine's clock is more than 2 s off: its gateway gets no viewers",
            "{{ with $labels.instance }}{{ . }}: {{ $value }} s{{ else }}{{ $value }} gateways{{ end }}",
        ),
        Alert(
            "LoopLag",
            f"histogram_quantile(0.99, {slow}) > 0.25",
            w.hold,
            "ticket",
            "A process is too busy: its event loop is late",
            "the {{ $labels.job }} {{ $labels.instance }} by {{ $value | humanizeDuration }}",
            ("job", "instance"),
        ),
        Alert(
            "CertificateExpires",
            f"({metric_catalog.TLS_EXPIRES.name} > 0) - time() < {EXPIRES_S}",  # 0: no TLS
            w.hold,
            "ticket",
            "A gateway's certificate expires within 7 days, or has expired",
            "that of {{ $labels.instance }} in {{ $value | humanizeDuration }}",
            ("instance",),
        ),
    ]


def _callers(w: Windows) -> list[Alert]:
    """Return the alerts about callers that are refused, or who invent rooms."""

    def over_share(service: str, refused: Metric, *all_of: str) -> str:
        by_address = _rate(refused, '{reason=~"address_.*"}', w.recent)
        requests = " + ".join(f"sum by(cluster)(rate({series}[{w.recent}]))" for series in all_of)
        return f'label_replace({by_address} / ({requests} > 0) > {REFUSED_SHARE}, "job", "{service}", "", "")'

    shares = (
        over_share("ingress", metric_catalog.REQUESTS_LIMITED, f"{metric_catalog.INGRESS_SECONDS.name}_count"),
        over_share("scheduler", metric_catalog.ENTRIES_LIMITED, metric_catalog.ENTRIES.name),
        over_share("edge", metric_catalog.LIMITED, metric_catalog.JOINS.name, metric_catalog.UPGRADES_REFUSED.name),
    )
    ended = _rate(metric_catalog.HTTP_ENDED, f'{{reason=~"{AT_A_BOUND}"}}', w.recent, by="cluster,job,port,reason")
    no_room = _rate(metric_catalog.LIMITED, '{reason="gateway_rooms"}', w.recent, by="cluster,job,reason")
    over_cap = _rate(metric_catalog.ROOMS_LIMITED, "", w.recent, by="cluster,job,reason")
    return [
        Alert(
            "AddressesRefused",
            " or ".join(shares),
            w.long_hold,
            "page",
            "Limits by address refuse a large share of all requests: the addresses may be those of a proxy",
            "{{ $value | humanizePercentage }} of the requests to the {{ $labels.job }}",
            ("job",),
        ),
        Alert(
            "ConnectionsRefused",
            f"{ended} > {ENDED_PER_S}",
            w.long_hold,
            "ticket",
            "An HTTP port refuses or ends connections at a bound, or for their PROXY header",
            "{{ $value | humanize }} a second at the {{ $labels.port }} port of the {{ $labels.job }}: {{ $labels.reason }}",
            ("job", "port", "reason"),
        ),
        Alert(
            "TooManyRooms",
            f"{no_room} > 0 or {over_cap} > 0",
            w.long_hold,
            "ticket",
            "Gateways or broadcasters have as many rooms as they may: somebody may be inventing rooms",
            "{{ $value | humanize }} rooms a second at the {{ $labels.job }}, reason {{ $labels.reason }}",
            ("job", "reason"),
        ),
    ]


def rule_file(windows: Windows, runbooks: str = RUNBOOKS) -> dict[str, Any]:
    """Return what Prometheus reads as `rule_files`. `runbooks`: the address of their page."""
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
                        "annotations": {
                            "summary": alert.summary,
                            "description": alert.value,
                            "runbook_url": f"{runbooks}#{alert.name.lower()}",
                        },
                    }
                    for alert in alerts(windows)
                ],
            },
        ]
    }
