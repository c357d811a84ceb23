"""How the topics, their readers and their writers are. Pure."""

from typing import Final

from dashboards.board import Board, Panel, Query, Row
from dashboards.panels import quantiles
from dashboards.queries import RATE, name, rate, total
from liveroom import metric_catalog

KAFKA: Final = Board(
    "liveroom-kafka",
    "liveroom / Kafka",
    "The owner of each partition, the health of the brokers, the lag of each reader, and what fails at them.",
    [
        Row(
            "The queue",
            [
                Panel(
                    "Partitions ruled",
                    "Owned partitions by broadcaster; their sum must be the number of partitions.",
                    [
                        Query(total(metric_catalog.PARTITIONS_OWNED, by="instance"), "{{instance}}"),
                        Query(f"max({name(metric_catalog.PARTITIONS)})", "there are"),
                    ],
                ),
                Panel(
                    "Uplink lag",
                    "Records that are not consumed yet, by partition.",
                    [Query(f"max by(partition)({name(metric_catalog.UPLINK_LAG)})", "{{partition}}")],
                ),
                Panel(
                    "Epochs",
                    "Epochs of the claims, by partition; a step is a new owner.",
                    [Query(f"max by(partition)({name(metric_catalog.EPOCH)})", "{{partition}}")],
                ),
                Panel(
                    "Take-overs/s",
                    "Partitions that got a new owner, by reason.",
                    [Query(rate(metric_catalog.TAKEOVERS, by="reason"), "{{reason}}")],
                    "ops",
                ),
                Panel(
                    "Take-over time",
                    "From the assignment of a partition until its first interaction is consumed.",
                    quantiles(metric_catalog.TAKEOVER_SECONDS),
                    "s",
                ),
                Panel(
                    "Snapshots and batches/s",
                    "Records written to the queue.",
                    [Query(rate(metric_catalog.SNAPSHOTS), "snapshots"), Query(rate(metric_catalog.BATCHES), "batches")],
                    "ops",
                ),
            ],
        ),
        Row(
            "The brokers",
            [
                Panel(
                    "Brokers",
                    "Brokers in the cluster, and those that have our data and are not in it.",
                    [
                        Query(f"max({name(metric_catalog.KAFKA_BROKERS)})", "in the cluster"),
                        Query(f"max({name(metric_catalog.KAFKA_BROKERS_AWAY)})", "away"),
                    ],
                ),
                Panel(
                    "Partitions that lack a replica",
                    "Partitions with a replica that is not in sync, by topic.",
                    [Query(f"max by(topic)({name(metric_catalog.KAFKA_UNDER_REPLICATED)})", "{{topic}}")],
                    red_above=0.5,
                ),
                Panel(
                    "Partitions without a leader",
                    "Partitions that can be neither read nor written, by topic.",
                    [Query(f"max by(topic)({name(metric_catalog.KAFKA_OFFLINE)})", "{{topic}}")],
                    red_above=0.5,
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
                    "Readers that stalled, or whose offset left the log.",
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
                    "Replaced producers, by reason.",
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
                    "Uplink records moved to the dead-letter topic.",
                    [Query(rate(metric_catalog.DEAD_LETTERS, by="reason"), "{{reason}}")],
                    "ops",
                ),
                Panel(
                    "History lost",
                    "Partitions or rooms that lost their numbers and started again.",
                    [Query(f"sum by(reason)(increase({name(metric_catalog.HISTORY_LOST)}[{RATE}]))", "{{reason}}")],
                ),
                Panel(
                    "Void records/s",
                    "Records of deposed owners, which every reader skips.",
                    [Query(rate(metric_catalog.VOID_RECORDS), "void")],
                    "ops",
                ),
            ],
        ),
    ],
)
