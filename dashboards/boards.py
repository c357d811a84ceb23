"""The dashboards: what an SRE looks at when a star goes live.

Owns which panels there are; names are the contract's.
"""

from typing import Final

from dashboards.board import Board, Panel, Query, Row
from dashboards.queries import RATE, SHOWN, buckets, name, quantile, rate, total
from liveroom import metric_catalog

SLOW_S: Final = 3.0


def _quantiles(metric: metric_catalog.Metric, *matchers: str) -> list[Query]:
    return [Query(quantile(share, metric, *matchers), f"p{share * 100:g}") for share in (0.5, 0.99, 0.999)]


def _process(service: str) -> list[Panel]:
    """How the processes of a service are."""
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


OVERVIEW: Final = Board(
    "liveroom-overview",
    "liveroom / Overview",
    "Is it well? Viewers, what they send, how late they get it, what is refused; a row for each service.",
    [
        Row(
            "Golden signals",
            [
                Panel(
                    "Viewers", "Connections of all gateways.", [Query(total(metric_catalog.CONNECTIONS))], kind="stat", width=4
                ),
                Panel(
                    "Users", "Distinct users, gateway by gateway.", [Query(total(metric_catalog.USERS))], kind="stat", width=4
                ),
                Panel(
                    "Accepted/s",
                    "Interactions that got their 202.",
                    [Query(rate(metric_catalog.INTERACTIONS, 'outcome="accepted"'))],
                    "ops",
                    "stat",
                    4,
                ),
                Panel(
                    "Delivered/s",
                    "Messages pushed, times viewers.",
                    [Query(rate(metric_catalog.DELIVERED_MESSAGES))],
                    "ops",
                    "stat",
                    4,
                ),
                Panel(
                    "Delay p99",
                    "From acceptance until the push to viewers.",
                    [Query(quantile(0.99, metric_catalog.FANOUT_DELAY))],
                    "s",
                    "stat",
                    4,
                    red_above=SLOW_S,
                ),
                Panel(
                    "Balance off",
                    "Items taken less items accounted for: anything but 0 is a defect.",
                    [Query(total(metric_catalog.BALANCE_OFF))],
                    kind="stat",
                    width=4,
                    red_above=0.5,
                ),
                Panel(
                    "Delay",
                    "From acceptance until the push to viewers.",
                    _quantiles(metric_catalog.FANOUT_DELAY),
                    "s",
                    red_above=SLOW_S,
                ),
                Panel(
                    "Interactions/s",
                    "By what became of them.",
                    [Query(rate(metric_catalog.INTERACTIONS, by="outcome"), "{{outcome}}")],
                    "ops",
                ),
                Panel(
                    "Refused/s",
                    "Requests refused, by code.",
                    [Query(rate(metric_catalog.REFUSALS, by="code") + " > 0 or vector(0)", "{{code}}")],
                    "ops",
                ),
            ],
        ),
        Row(
            "Canaries",
            [
                Panel(
                    "Delay p99",
                    "From a marked gift's 202 to its receipt, by gateway.",
                    [Query(quantile(0.99, metric_catalog.CANARY_DELAY, by="gateway"), "{{gateway}}")],
                    "s",
                    red_above=SLOW_S,
                ),
                Panel(
                    "Lost and out of order",
                    "Marked gifts, by gateway.",
                    [
                        Query(f"sum by(gateway)({name(metric_catalog.CANARY_LOST)})", "lost {{gateway}}"),
                        Query(f"sum by(gateway)({name(metric_catalog.CANARY_DISORDERED)})", "out of order {{gateway}}"),
                    ],
                    red_above=0.5,
                ),
                Panel("Sent/s", "By outcome.", [Query(rate(metric_catalog.CANARY_SENT, by="outcome"), "{{outcome}}")], "ops"),
            ],
        ),
        Row(
            "Ingress",
            [
                Panel(
                    "By kind",
                    "Accepted interactions.",
                    [Query(rate(metric_catalog.INTERACTIONS, 'outcome="accepted"', by="kind"), "{{kind}}")],
                    "ops",
                ),
                Panel("Answer time", "From a request's head to its answer.", _quantiles(metric_catalog.INGRESS_SECONDS), "s"),
                Panel(
                    "Brokers' ack",
                    "From handing a record over until the ack, by topic.",
                    [Query(quantile(0.99, metric_catalog.PRODUCE_SECONDS, by="topic"), "p99 {{topic}}")],
                    "s",
                ),
                *_process("ingress"),
            ],
        ),
        Row(
            "Broadcaster",
            [
                Panel("Items/s", "By outcome.", [Query(rate(metric_catalog.ITEMS, by="outcome"), "{{outcome}}")], "ops"),
                Panel("Uplink to packed", "From acceptance until packed.", _quantiles(metric_catalog.UPLINK_DELAY), "s"),
                Panel("Rooms", "Held in memory.", [Query(total(metric_catalog.ROOMS_LIVE, by="instance"), "{{instance}}")]),
                *_process("broadcaster"),
            ],
        ),
        Row(
            "Gateways",
            [
                Panel("Viewers", "By gateway.", [Query(total(metric_catalog.CONNECTIONS, by="instance"), "{{instance}}")]),
                Panel("Joins/s", "By outcome.", [Query(rate(metric_catalog.JOINS, by="outcome"), "{{outcome}}")], "ops"),
                Panel(
                    "Closes/s",
                    "By close code.",
                    [Query(rate(metric_catalog.CLOSES, by="code") + " > 0 or vector(0)", "{{code}}")],
                    "ops",
                ),
                *_process("edge"),
            ],
        ),
        Row(
            "Scheduler",
            [
                Panel(
                    "Entries/s",
                    "By outcome.",
                    [Query(rate(metric_catalog.ENTRIES, by="outcome") + " > 0 or vector(0)", "{{outcome}}")],
                    "ops",
                ),
                Panel("Answer time", "Of an entry request.", _quantiles(metric_catalog.ENTRY_SECONDS), "s"),
                Panel(
                    "Gateways",
                    "As the schedulers see them.",
                    [Query(f"max by(state)({name(metric_catalog.GATEWAYS_KNOWN)})", "{{state}}")],
                ),
                *_process("scheduler"),
            ],
        ),
    ],
)

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
                    "Each holds a batch of messages.",
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
                    "And of that, for rooms without a viewer at the gateway.",
                    [Query(rate(metric_catalog.READ_BYTES), "read"), Query(rate(metric_catalog.WASTED_BYTES), "wasted")],
                    "Bps",
                ),
                Panel(
                    "Deflate",
                    "Payload before and after.",
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
                    "With unsent bytes.",
                    [Query(total(metric_catalog.SLOW_MEMBERS, by="instance"), "{{instance}}")],
                ),
                Panel(
                    "Left out/s",
                    "Pushes left out for slow viewers.",
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
                    "Holes/s",
                    "In a room's numbers, as gateways see them.",
                    [Query(rate(metric_catalog.GAPS, by="reason"), "{{reason}}")],
                    "ops",
                ),
            ],
        ),
    ],
)

GATEWAYS: Final = Board(
    "liveroom-gateways",
    "liveroom / Gateways",
    "Each gateway and its machine.",
    [
        Row(
            "Business",
            [
                Panel(
                    "Viewers",
                    "By gateway: even colours are even gateways.",
                    [Query(total(metric_catalog.CONNECTIONS, by="instance"), "{{instance}}")],
                    kind="heatmap",
                    width=24,
                    height=9,
                ),
                Panel("Users", "Distinct, by gateway.", [Query(total(metric_catalog.USERS, by="instance"), "{{instance}}")]),
                Panel(
                    "Rooms", "With a viewer here.", [Query(total(metric_catalog.ROOMS_LOCAL, by="instance"), "{{instance}}")]
                ),
                Panel(
                    "Handshakes refused/s",
                    "By code.",
                    [Query(rate(metric_catalog.UPGRADES_REFUSED, by="code") + " > 0 or vector(0)", "{{code}}")],
                    "ops",
                ),
                Panel(
                    "Delay p99",
                    "From acceptance until the push, by gateway.",
                    [Query(quantile(0.99, metric_catalog.FANOUT_DELAY, by="instance"), "{{instance}}")],
                    "s",
                    red_above=SLOW_S,
                ),
                Panel(
                    "Messages/s",
                    "Pushed, by gateway.",
                    [Query(rate(metric_catalog.DELIVERED_MESSAGES, by="instance"), "{{instance}}")],
                    "ops",
                ),
                Panel("Joins/s", "By gateway.", [Query(rate(metric_catalog.JOINS, by="instance"), "{{instance}}")], "ops"),
            ],
        ),
        Row("Process", _process("edge")),
        Row(
            "Machine",
            [
                Panel(
                    "Load",
                    "Processes that run or wait, for each core.",
                    [Query(f"{name(metric_catalog.MACHINE_LOAD)} / {name(metric_catalog.MACHINE_CORES)}", "{{instance}}")],
                    red_above=1.0,
                ),
                Panel(
                    "Network",
                    "Bytes over all interfaces.",
                    [Query(rate(metric_catalog.MACHINE_BYTES, by="instance,direction"), "{{instance}} {{direction}}")],
                    "Bps",
                ),
                Panel(
                    "Packets",
                    "Over all interfaces.",
                    [Query(rate(metric_catalog.MACHINE_PACKETS, by="instance,direction"), "{{instance}} {{direction}}")],
                    "pps",
                ),
                Panel(
                    "Disk",
                    "Reads and writes.",
                    [Query(rate(metric_catalog.MACHINE_IO, by="instance,operation"), "{{instance}} {{operation}}")],
                    "iops",
                ),
                Panel(
                    "Memory left",
                    "That can be had without swapping.",
                    [Query(name(metric_catalog.MACHINE_MEMORY), "{{instance}}")],
                    "bytes",
                ),
                Panel(
                    "Garbage",
                    "Pauses, p99.",
                    [Query(quantile(0.99, metric_catalog.GC_PAUSE, by="instance"), "{{instance}}")],
                    "s",
                ),
            ],
        ),
    ],
)

AUTOSCALING: Final = Board(
    "liveroom-autoscaling",
    "liveroom / Autoscaling",
    "How many gateways there are, how many there should be, and why.",
    [
        Row(
            "The pool",
            [
                Panel(
                    "Gateways",
                    "There are, wanted, needed; between the least and the most.",
                    [
                        Query(f"max({name(metric_catalog.POOL_ACTUAL)})", "report"),
                        Query(
                            f"max({name(metric_catalog.POOL_DESIRED)} and on(instance) ({name(metric_catalog.LEADING)} == 1))",
                            "wanted",
                        ),
                        Query(
                            f"max({name(metric_catalog.POOL_NEEDED)} and on(instance) ({name(metric_catalog.LEADING)} == 1))",
                            "needed",
                        ),
                        Query(f"max({name(metric_catalog.POOL_DEMAND)})", "demand, not rounded"),
                        Query(f"max({name(metric_catalog.POOL_MIN)})", "least"),
                        Query(f"max({name(metric_catalog.POOL_MAX)})", "most"),
                    ],
                    width=16,
                    height=9,
                ),
                Panel(
                    "Leader",
                    "Which instance decides.",
                    [Query(name(metric_catalog.LEADING), "{{instance}}")],
                    kind="state-timeline",
                    height=9,
                ),
                Panel(
                    "Decisions/min",
                    "That changed something, by reason.",
                    [Query(f"60 * {rate(metric_catalog.DECISIONS, by='reason')} > 0 or vector(0)", "{{reason}}")],
                ),
                Panel(
                    "Kubernetes failures/min",
                    "What the API did not answer, or not as asked, by reason; pods that went unasked.",
                    [
                        Query(f"60 * {rate(metric_catalog.POOL_API_FAILURES, by='reason')}", "{{reason}}"),
                        Query(f"60 * {rate(metric_catalog.POOL_WRONG_PODS)}", "wrong pods"),
                    ],
                ),
                Panel(
                    "Paused", "By an operator.", [Query(f"max({name(metric_catalog.POOL_PAUSED)})")], kind="stat", red_above=0.5
                ),
                Panel(
                    "Viewers a gateway",
                    "The fullest, the mean, the emptiest.",
                    [
                        Query(f"max({name(metric_catalog.CONNECTIONS)})", "fullest"),
                        Query(f"avg({name(metric_catalog.CONNECTIONS)})", "mean"),
                        Query(f"min({name(metric_catalog.CONNECTIONS)})", "emptiest"),
                    ],
                ),
            ],
        ),
        Row(
            "The entry",
            [
                Panel(
                    "Gateways as schedulers see them",
                    "By state.",
                    [Query(f"max by(state)({name(metric_catalog.GATEWAYS_KNOWN)})", "{{state}}")],
                ),
                Panel(
                    "Nobody had room/s",
                    "Entries refused since no gateway had room.",
                    [Query(rate(metric_catalog.ENTRIES, 'outcome="no_gateway"'), "no gateway")],
                    "ops",
                ),
                Panel(
                    "Entries/s",
                    "Viewers sent to a gateway.",
                    [Query(rate(metric_catalog.ENTRIES, 'outcome="entered"'), "entered")],
                    "ops",
                ),
            ],
        ),
    ],
    annotations=[("decision", f"sum by(reason)(increase({metric_catalog.DECISIONS.name}{{{SHOWN}}}[10s])) > 0")],
)

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
                    _quantiles(metric_catalog.TAKEOVER_SECONDS),
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

ALL: Final = (OVERVIEW, FANOUT, GATEWAYS, AUTOSCALING, KAFKA)
