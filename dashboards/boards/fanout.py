"""How a message gets from ingress to the viewers, and where time is lost. Pure."""

from typing import Final

from dashboards.board import Board, Panel, Query, Row
from dashboards.queries import buckets, later, quantile, rate, total
from liveroom import metric_catalog

FANOUT: Final = Board(
    "liveroom-fanout",
    "liveroom / Room fan-out",
    "From the log to viewers: where the time goes, what slow viewers miss, what the global queue costs.",
    [
        Row(
            "Time",
            [
                Panel(
                    "Delay to viewers",
                    "From acceptance until the push.",
                    [Query(buckets(metric_catalog.FANOUT_DELAY), "{{le}}")],
                    "s",
                    "heatmap",
                    12,
                    9,
                ),
                Panel(
                    "Where it goes, p99",
                    "Packing, reading, pushing.",
                    [
                        Query(quantile(0.99, metric_catalog.UPLINK_DELAY), "until packed"),
                        Query(quantile(0.99, metric_catalog.QUEUE_DELAY), "until a gateway read it"),
                        Query(quantile(0.99, metric_catalog.FANOUT_SECONDS), "one room's fan-out"),
                    ],
                    "s",
                    width=12,
                    height=9,
                ),
            ],
        ),
        Row(
            "Later than 10 s",
            [
                Panel(
                    "Late, by stage",
                    "What took more than 10 s up to each stage: the first one that shows it is where the time went.",
                    [
                        Query(later(metric_catalog.LOOP_LAG, by="instance"), "stood still, {{instance}}"),
                        Query(later(metric_catalog.UPLINK_AGE, by="instance"), "before Kafka had it, {{instance}}"),
                        Query(later(metric_catalog.UPLINK_DELAY, by="instance"), "until packed, {{instance}}"),
                        Query(later(metric_catalog.QUEUE_DELAY, by="instance"), "from the queue to {{instance}}"),
                        Query(later(metric_catalog.FANOUT_DELAY, by="instance"), "in all, at {{instance}}"),
                    ],
                    width=24,
                ),
            ],
        ),
        Row(
            "Volume",
            [
                Panel(
                    "Messages/s to viewers",
                    "By gateway.",
                    [Query(rate(metric_catalog.DELIVERED_MESSAGES, by="instance"), "{{instance}}")],
                    "ops",
                ),
                Panel(
                    "Frames/s to viewers",
                    "WebSocket frames; each has a batch of messages.",
                    [Query(rate(metric_catalog.DELIVERED_BATCHES, by="instance"), "{{instance}}")],
                    "pps",
                ),
                Panel(
                    "Bytes/s to viewers",
                    "By gateway.",
                    [Query(rate(metric_catalog.SENT_BYTES, by="instance"), "{{instance}}")],
                    "Bps",
                ),
                Panel(
                    "Read from the log",
                    "Bytes read, and the part for rooms without a viewer at the gateway.",
                    [Query(rate(metric_catalog.READ_BYTES), "read"), Query(rate(metric_catalog.WASTED_BYTES), "wasted")],
                    "Bps",
                ),
                Panel(
                    "Deflate",
                    "Payload before and after compression.",
                    [Query(rate(metric_catalog.PACKED_BYTES, by="stage"), "{{stage}}")],
                    "Bps",
                ),
                Panel(
                    "Batch size",
                    "BATCH records.",
                    [
                        Query(quantile(0.99, metric_catalog.BATCH_BYTES), "p99"),
                        Query(quantile(0.5, metric_catalog.BATCH_BYTES), "p50"),
                    ],
                    "bytes",
                ),
            ],
        ),
        Row(
            "Who misses something",
            [
                Panel(
                    "Slow viewers",
                    "Connections with unsent bytes.",
                    [Query(total(metric_catalog.SLOW_MEMBERS, by="instance"), "{{instance}}")],
                ),
                Panel(
                    "Left out/s",
                    "Pushes that slow viewers missed.",
                    [Query(rate(metric_catalog.SKIPPED, by="reason"), "{{reason}}")],
                    "ops",
                ),
                Panel(
                    "Caught up/s",
                    "Joins with positions, and pulls, by outcome.",
                    [
                        Query(rate(metric_catalog.RESUMES, by="outcome"), "resume {{outcome}}"),
                        Query(rate(metric_catalog.PULLS, by="outcome"), "pull {{outcome}}"),
                    ],
                    "ops",
                ),
                Panel(
                    "Pulls refused/s",
                    "By the limit that they exceeded, or the error code.",
                    [Query(rate(metric_catalog.PULLS_REFUSED, by="reason"), "{{reason}}")],
                    "ops",
                ),
                Panel(
                    "Holes/s",
                    "Gaps in a room's numbers, as gateways see them.",
                    [Query(rate(metric_catalog.GAPS, by="reason"), "{{reason}}")],
                    "ops",
                ),
            ],
        ),
    ],
)
