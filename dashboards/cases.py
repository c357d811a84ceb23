"""A series that fires each alert and one that does not, for `promtool test rules`. Pure."""

from typing import Any, Final, NamedTuple

from dashboards.alerts import Windows, alerts
from liveroom import metric_catalog
from liveroom.metric_catalog import Metric

SCRAPE: Final = "15s"


class Case(NamedTuple):
    """Series in promtool's notation (`0+5x10`: 0, 5, ... 50), with a sample each `SCRAPE`.

    The alert is checked after `minutes`, and fires `alerts` times.
    """

    fires: dict[str, str]
    quiet: dict[str, str]
    minutes: int = 10
    alerts: int = 1


def _series(metric: Metric, labels: str = "", end: str = "") -> str:
    inside = ",".join(filter(None, ('instance="a"', 'job="j"', 'cluster="c"', labels)))
    return f"{metric.name}{end}{{{inside}}}"


def _delays(limit: str, late: str, all_: str) -> dict[str, str]:
    """Return the series of all pushes, and of those within a limit."""
    name = metric_catalog.FANOUT_DELAY
    return {_series(name, f'le="{limit}"', "_bucket"): late, _series(name, end="_count"): all_}


def _counter(metric: Metric, labels: str) -> Case:
    return Case({_series(metric, labels): "0x30 1x30"}, {_series(metric, labels): "5x2000"})


def _above(metric: Metric, over: str, under: str, labels: str = "") -> Case:
    return Case({_series(metric, labels): f"{over}x2000"}, {_series(metric, labels): f"{under}x2000"})


_LAG: Final = metric_catalog.LOOP_LAG
_REQUESTS: Final = _series(metric_catalog.INGRESS_SECONDS, end="_count")

CASES: Final[dict[str, Case]] = {
    "ReliableLateFast": Case(_delays("3.0", "0+50x2000", "0+100x2000"), _delays("3.0", "0+100x2000", "0+100x2000"), 80),
    "ReliableLateSlow": Case(_delays("3.0", "0+99x2000", "0+100x2000"), _delays("3.0", "0+9999x2000", "0+10000x2000"), 390),
    "GiftDelay": Case(_delays("10.0", "0+99x2000", "0+100x2000"), _delays("10.0", "0+100x2000", "0+100x2000")),
    "BalanceOff": _above(metric_catalog.BALANCE_OFF, "1", "0"),
    "PartitionWithoutOwner": Case(
        {_series(metric_catalog.PARTITIONS_OWNED): "15x2000", _series(metric_catalog.PARTITIONS): "16x2000"},
        {_series(metric_catalog.PARTITIONS_OWNED): "16x2000", _series(metric_catalog.PARTITIONS): "16x2000"},
    ),
    "HistoryLost": _counter(metric_catalog.HISTORY_LOST, 'reason="room"'),
    "QueueReaderBehind": _above(metric_catalog.READER_LAG, "501", "500", 'topic="broadcast"'),
    "UplinkBehind": _above(metric_catalog.UPLINK_LAG, "501", "500", 'partition="3"'),
    "KafkaPartitionsOffline": _above(metric_catalog.KAFKA_OFFLINE, "1", "0", 'topic="uplink"'),
    "KafkaUnderReplicated": _above(metric_catalog.KAFKA_UNDER_REPLICATED, "16", "0", 'topic="uplink"'),
    "KafkaBrokersAway": _above(metric_catalog.KAFKA_BROKERS_AWAY, "1", "0"),
    "StalledConsumer": _counter(metric_catalog.READER_RESTARTS, 'topic="broadcast",reason="stalled"'),
    "ServiceSilent": Case(
        {'up{instance="a",job="edge",cluster="c"}': "0x2000"}, {'up{instance="a",job="edge",cluster="c"}': "1x2000"}
    ),
    "GatewayLost": _above(metric_catalog.GATEWAYS_KNOWN, "1", "0", 'state="stale"'),
    "ClockSkewed": Case(
        {_series(metric_catalog.CLOCK_SKEW): "-90x2000", _series(metric_catalog.GATEWAYS_KNOWN, 'state="skewed"'): "0x2000"},
        {_series(metric_catalog.CLOCK_SKEW): "1.5x2000", _series(metric_catalog.GATEWAYS_KNOWN, 'state="skewed"'): "0x2000"},
    ),
    "NobodyHasRoom": Case(
        {_series(metric_catalog.ENTRIES, 'outcome="no_gateway"'): "0+1x2000"},
        {_series(metric_catalog.ENTRIES, 'outcome="no_gateway"'): "7x2000"},
    ),
    "AutoscalerAtMax": Case(
        {_series(metric_catalog.POOL_NEEDED): "6x2000", _series(metric_catalog.POOL_MAX): "6x2000"},
        {_series(metric_catalog.POOL_NEEDED): "5x2000", _series(metric_catalog.POOL_MAX): "6x2000"},
    ),
    "AutoscalerLeaderless": Case(
        {_series(metric_catalog.LEADING): "0x2000", _series(metric_catalog.POOL_ADVISES): "0x2000"},
        {_series(metric_catalog.LEADING): "0x2000", _series(metric_catalog.POOL_ADVISES): "1x2000"},
    ),
    "AutoscalerPaused": _above(metric_catalog.POOL_PAUSED, "1", "0"),
    "AutoscalerBlind": Case(
        {_series(metric_catalog.POOL_API_FAILURES, 'reason="silent"'): "0+6x2000"},
        {_series(metric_catalog.POOL_API_FAILURES, 'reason="conflict"'): "0+1x2000"},
    ),
    "WrongPodsWent": _counter(metric_catalog.POOL_WRONG_PODS, ""),
    "LoopLag": Case(
        {
            _series(_LAG, 'le="0.2"', "_bucket"): "0+10x2000",
            _series(_LAG, 'le="0.5"', "_bucket"): "0+100x2000",
            _series(_LAG, 'le="+Inf"', "_bucket"): "0+100x2000",
        },
        {_series(_LAG, 'le="0.01"', "_bucket"): "0+100x2000", _series(_LAG, 'le="+Inf"', "_bucket"): "0+100x2000"},
    ),
    "UnacknowledgedRecords": _counter(metric_catalog.PRODUCE_ERRORS, 'topic="uplink",reason="timeout"'),
    "IngressRefusesForKafka": Case(
        {_series(metric_catalog.REFUSALS, 'code="queue_unavailable"'): "0+1x2000"},
        {_series(metric_catalog.REFUSALS, 'code="queue_unavailable"'): "7x2000"},
    ),
    "AddressesRefused": Case(
        {
            _series(metric_catalog.REQUESTS_LIMITED, 'reason="address_requests"'): "0+11x2000",
            _REQUESTS: "0+100x2000",
            _series(metric_catalog.ENTRIES_LIMITED, 'reason="address_guests"'): "0+11x2000",
            _series(metric_catalog.ENTRIES, 'outcome="rate_address"'): "0+100x2000",
            _series(metric_catalog.LIMITED, 'reason="address_joins"'): "0+11x2000",
            _series(metric_catalog.JOINS, 'outcome="refused"'): "0+60x2000",
            _series(metric_catalog.UPGRADES_REFUSED, 'code="rate_address"'): "0+40x2000",
        },
        {
            _series(metric_catalog.REQUESTS_LIMITED, 'reason="address_requests"'): "0+9x2000",
            _series(metric_catalog.REQUESTS_LIMITED, 'reason="user_requests"'): "0+50x2000",
            _REQUESTS: "0+100x2000",
            _series(metric_catalog.ENTRIES_LIMITED, 'reason="address_guests"'): "0x2000",
            _series(metric_catalog.ENTRIES, 'outcome="entered"'): "0x2000",
        },
        20,
        3,
    ),
    "ConnectionsRefused": Case(
        {_series(metric_catalog.HTTP_ENDED, 'port="public",reason="open_address"'): "0+20x2000"},
        {
            _series(metric_catalog.HTTP_ENDED, 'port="public",reason="open_address"'): "0+10x2000",
            _series(metric_catalog.HTTP_ENDED, 'port="public",reason="head_late"'): "0+100x2000",
        },
        20,
    ),
    "TooManyRooms": Case(
        {_series(metric_catalog.ROOMS_LIMITED, 'reason="silent_refused"'): "0+1x2000"},
        {
            _series(metric_catalog.LIMITED, 'reason="user_rooms"'): "0+1x2000",
            _series(metric_catalog.ROOMS_LIMITED, 'reason="silent_refused"'): "7x2000",
        },
        20,
    ),
    "CertificateExpires": Case(
        {_series(metric_catalog.TLS_EXPIRES): "604800x2000"},
        {_series(metric_catalog.TLS_EXPIRES): "606000x2000", _series(metric_catalog.TLS_EXPIRES, 'pod="b"'): "0x2000"},
    ),
    "DeadLetters": _counter(metric_catalog.DEAD_LETTERS, 'reason="schema"'),
    "UnreadableRecords": _counter(metric_catalog.BAD_RECORDS, 'topic="gateways",reason="schema"'),
    "CanaryLoss": _counter(metric_catalog.CANARY_LOST, 'gateway="e1"'),
}


def rule_tests(rules: str) -> dict[str, Any]:
    """Return the tests of the file `rules`, as `promtool test rules` reads them."""
    known = {alert.name: alert for alert in alerts(Windows())}
    tests = []
    for name, case in CASES.items():
        kept = "".join(f',{label}!=""' for label in ("cluster", *known[name].labels))
        firing = f'alertname="{name}",alertstate="firing",severity="{known[name].severity}"{kept}'
        for series, fires in ((case.fires, True), (case.quiet, False)):
            tests.append(
                {
                    "name": f"{name} {'fires' if fires else 'is quiet'}",
                    "interval": SCRAPE,
                    "input_series": [{"series": one, "values": values} for one, values in series.items()],
                    "promql_expr_test": [
                        {
                            "expr": f"count(ALERTS{{{firing}}}) or vector(0)",
                            "eval_time": f"{case.minutes}m",
                            "exp_samples": [{"labels": "{}", "value": case.alerts if fires else 0}],
                        }
                    ],
                }
            )
    return {"rule_files": [rules], "evaluation_interval": "15s", "tests": tests}
