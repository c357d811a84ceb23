"""How the topics, their readers and their writers are. Pure."""

from typing import Final

from dashboards.board import Board, Panel, Query, Row
from dashboards.panels import quantiles
from dashboards.queries import RATE, name, rate, total
from liveroom import metric_catalog

KAFKA: Final = Board(
    "liveroom-kafka",
    "liveroom / Kafka",
    "Who rules which partition, how far everybody is behind, what the brokers do to us.",
    [
        Row(
            "The queue",
            [
                Panel(
                    "Partitions ruled",
                    "By broadcaster; all together there must be as many as there are.",
                    [
                        Query(total(metric_catalog.PARTITIONS_OWNED, by="instance"), "{{instance}}"),
                        Query(f"max({name(metric_catalog.PARTITIONS)})", "there are"),
                    ],
                ),
                Panel(
                    "Uplink lag",
                    "Records not yet taken, by partition.",
                    [Query(f"max by(partition)({name(metric_catalog.UPLINK_LAG)})", "{{partition}}")],
                ),
                Panel(
                    "Epochs",
                    "Of the claims, by partition: a step is a new owner.",
                    [Query(f"max by(partition)({name(metric_catalog.EPOCH)})", "{{partition}}")],
                ),
                Panel("Take-overs/s", "By reason.", [Query(rate(metric_catalog.TAKEOVERS, by="reason"), "{{reason}}")], "ops"),
                Panel(
                    "Take-over time",
                    "From assignment until the first interaction is taken.",
                    quantiles(metric_catalog.TAKEOVER_SECONDS),
                    "s",
                ),
                Panel(
                    "Snapshots and batches/s",
                    "Written.",
                    [Query(rate(metric_catalog.SNAPSHOTS), "snapshots"), Query(rate(metric_catalog.BATCHES), "batches")],
                    "ops",
                ),
            ],
        ),
        Row(
            "Readers and writers",
            [
                Panel(
                    "Reader lag",
                    "Records between readers and the end, by topic and instance.",
                    [Query(name(metric_catalog.READER_LAG), "{{topic}} {{instance}}")],
                ),
                Panel(
                    "Readers restarted/s",
                    "They stalled, or fell out of the log.",
                    [Query(rate(metric_catalog.READER_RESTARTS, by="topic,reason"), "{{topic}} {{reason}}")],
                    "ops",
                ),
                Panel(
                    "Records without ack/s",
                    "By topic and reason.",
                    [Query(rate(metric_catalog.PRODUCE_ERRORS, by="topic,reason"), "{{topic}} {{reason}}")],
                    "ops",
                ),
                Panel(
                    "Producers replaced/s",
                    "By reason.",
                    [Query(rate(metric_catalog.PRODUCER_REPLACED, by="reason"), "{{reason}}")],
                    "ops",
                ),
            ],
        ),
        Row(
            "What must not be",
            [
                Panel(
                    "Unreadable records/s",
                    "By topic and reason.",
                    [Query(rate(metric_catalog.BAD_RECORDS, by="topic,reason"), "{{topic}} {{reason}}")],
                    "ops",
                ),
                Panel(
                    "Dead letters/s",
                    "Uplink records put aside.",
                    [Query(rate(metric_catalog.DEAD_LETTERS, by="reason"), "{{reason}}")],
                    "ops",
                ),
                Panel(
                    "History lost",
                    "Partitions or rooms that began again.",
                    [Query(f"sum by(reason)(increase({name(metric_catalog.HISTORY_LOST)}[{RATE}]))", "{{reason}}")],
                ),
                Panel(
                    "Void records/s",
                    "Of deposed owners, passed over.",
                    [Query(rate(metric_catalog.VOID_RECORDS), "void")],
                    "ops",
                ),
            ],
        ),
    ],
)
