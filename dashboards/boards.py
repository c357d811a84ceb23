"""The dashboards: what an SRE looks at when a star goes live. Owns which panels there are; names are the contract's."""

from typing import Final

from dashboards.board import Board, Panel, Query, Row
from dashboards.queries import RATE, SHOWN, buckets, name, quantile, rate, total
from liveroom import metrics

SLOW_S: Final = 3.0


def _quantiles(metric: metrics.Metric, *matchers: str) -> list[Query]:
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
            [Query(quantile(0.99, metrics.LOOP_LAG, job, by="instance"), "{{instance}}")],
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
                Panel("Viewers", "Connections of all gateways.", [Query(total(metrics.CONNECTIONS))], kind="stat", width=4),
                Panel("Users", "Distinct users, gateway by gateway.", [Query(total(metrics.USERS))], kind="stat", width=4),
                Panel(
                    "Accepted/s",
                    "Interactions that got their 202.",
                    [Query(rate(metrics.INTERACTIONS, 'outcome="accepted"'))],
                    "ops",
                    "stat",
                    4,
                ),
                Panel(
                    "Delivered/s",
                    "Messages pushed, times viewers.",
                    [Query(rate(metrics.DELIVERED_MESSAGES))],
                    "ops",
                    "stat",
                    4,
                ),
                Panel(
                    "Delay p99",
                    "From acceptance until the push to viewers.",
                    [Query(quantile(0.99, metrics.FANOUT_DELAY))],
                    "s",
                    "stat",
                    4,
                    red_above=SLOW_S,
                ),
                Panel(
                    "Balance off",
                    "Items taken less items accounted for: anything but 0 is a defect.",
                    [Query(total(metrics.BALANCE_OFF))],
                    kind="stat",
                    width=4,
                    red_above=0.5,
                ),
                Panel(
                    "Delay",
                    "From acceptance until the push to viewers.",
                    _quantiles(metrics.FANOUT_DELAY),
                    "s",
                    red_above=SLOW_S,
                ),
                Panel(
                    "Interactions/s",
                    "By what became of them.",
                    [Query(rate(metrics.INTERACTIONS, by="outcome"), "{{outcome}}")],
                    "ops",
                ),
                Panel(
                    "Refused/s",
                    "Requests refused, by code.",
                    [Query(rate(metrics.REFUSALS, by="code") + " > 0 or vector(0)", "{{code}}")],
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
                    [Query(quantile(0.99, metrics.CANARY_DELAY, by="gateway"), "{{gateway}}")],
                    "s",
                    red_above=SLOW_S,
                ),
                Panel(
                    "Lost and out of order",
                    "Marked gifts, by gateway.",
                    [
                        Query(f"sum by(gateway)({name(metrics.CANARY_LOST)})", "lost {{gateway}}"),
                        Query(f"sum by(gateway)({name(metrics.CANARY_DISORDERED)})", "out of order {{gateway}}"),
                    ],
                    red_above=0.5,
                ),
                Panel("Sent/s", "By outcome.", [Query(rate(metrics.CANARY_SENT, by="outcome"), "{{outcome}}")], "ops"),
            ],
        ),
        Row(
            "Ingress",
            [
                Panel(
                    "By kind",
                    "Accepted interactions.",
                    [Query(rate(metrics.INTERACTIONS, 'outcome="accepted"', by="kind"), "{{kind}}")],
                    "ops",
                ),
                Panel("Answer time", "From a request's head to its answer.", _quantiles(metrics.INGRESS_SECONDS), "s"),
                Panel(
                    "Brokers' ack",
                    "From handing a record over until the ack, by topic.",
                    [Query(quantile(0.99, metrics.PRODUCE_SECONDS, by="topic"), "p99 {{topic}}")],
                    "s",
                ),
                *_process("ingress"),
            ],
        ),
        Row(
            "Broadcaster",
            [
                Panel("Items/s", "By outcome.", [Query(rate(metrics.ITEMS, by="outcome"), "{{outcome}}")], "ops"),
                Panel("Uplink to packed", "From acceptance until packed.", _quantiles(metrics.UPLINK_DELAY), "s"),
                Panel("Rooms", "Held in memory.", [Query(total(metrics.ROOMS_LIVE, by="instance"), "{{instance}}")]),
                *_process("broadcaster"),
            ],
        ),
        Row(
            "Gateways",
            [
                Panel("Viewers", "By gateway.", [Query(total(metrics.CONNECTIONS, by="instance"), "{{instance}}")]),
                Panel("Joins/s", "By outcome.", [Query(rate(metrics.JOINS, by="outcome"), "{{outcome}}")], "ops"),
                Panel(
                    "Closes/s",
                    "By close code.",
                    [Query(rate(metrics.CLOSES, by="code") + " > 0 or vector(0)", "{{code}}")],
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
                    [Query(rate(metrics.ENTRIES, by="outcome") + " > 0 or vector(0)", "{{outcome}}")],
                    "ops",
                ),
                Panel("Answer time", "Of an entry request.", _quantiles(metrics.ENTRY_SECONDS), "s"),
                Panel(
                    "Gateways",
                    "As the schedulers see them.",
                    [Query(f"max by(state)({name(metrics.GATEWAYS_KNOWN)})", "{{state}}")],
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
                    [Query(buckets(metrics.FANOUT_DELAY), "{{le}}")],
                    "s",
                    "heatmap",
                    12,
                    9,
                ),
                Panel(
                    "Where it goes, p99",
                    "Packing, reading, pushing.",
                    [
                        Query(quantile(0.99, metrics.UPLINK_DELAY), "until packed"),
                        Query(quantile(0.99, metrics.QUEUE_DELAY), "until a gateway read it"),
                        Query(quantile(0.99, metrics.FANOUT_SECONDS), "one room's fan-out"),
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
                    [Query(rate(metrics.DELIVERED_MESSAGES, by="instance"), "{{instance}}")],
                    "ops",
                ),
                Panel(
                    "Frames/s to viewers",
                    "Each holds a batch of messages.",
                    [Query(rate(metrics.DELIVERED_BATCHES, by="instance"), "{{instance}}")],
                    "pps",
                ),
                Panel(
                    "Bytes/s to viewers", "By gateway.", [Query(rate(metrics.SENT_BYTES, by="instance"), "{{instance}}")], "Bps"
                ),
                Panel(
                    "Read from the log",
                    "And of that, for rooms without a viewer at the gateway.",
                    [Query(rate(metrics.READ_BYTES), "read"), Query(rate(metrics.WASTED_BYTES), "wasted")],
                    "Bps",
                ),
                Panel(
                    "Deflate", "Payload before and after.", [Query(rate(metrics.PACKED_BYTES, by="stage"), "{{stage}}")], "Bps"
                ),
                Panel(
                    "Batch size",
                    "BATCH records.",
                    [Query(quantile(0.99, metrics.BATCH_BYTES), "p99"), Query(quantile(0.5, metrics.BATCH_BYTES), "p50")],
                    "bytes",
                ),
            ],
        ),
        Row(
            "Who misses something",
            [
                Panel(
                    "Slow viewers", "With unsent bytes.", [Query(total(metrics.SLOW_MEMBERS, by="instance"), "{{instance}}")]
                ),
                Panel(
                    "Left out/s",
                    "Pushes left out for slow viewers.",
                    [Query(rate(metrics.SKIPPED, by="reason"), "{{reason}}")],
                    "ops",
                ),
                Panel(
                    "Caught up/s",
                    "Joins with positions, and pulls, by outcome.",
                    [
                        Query(rate(metrics.RESUMES, by="outcome"), "resume {{outcome}}"),
                        Query(rate(metrics.PULLS, by="outcome"), "pull {{outcome}}"),
                    ],
                    "ops",
                ),
                Panel(
                    "Holes/s",
                    "In a room's numbers, as gateways see them.",
                    [Query(rate(metrics.GAPS, by="reason"), "{{reason}}")],
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
                    [Query(total(metrics.CONNECTIONS, by="instance"), "{{instance}}")],
                    kind="heatmap",
                    width=24,
                    height=9,
                ),
                Panel("Users", "Distinct, by gateway.", [Query(total(metrics.USERS, by="instance"), "{{instance}}")]),
                Panel("Rooms", "With a viewer here.", [Query(total(metrics.ROOMS_LOCAL, by="instance"), "{{instance}}")]),
                Panel(
                    "Handshakes refused/s",
                    "By code.",
                    [Query(rate(metrics.UPGRADES_REFUSED, by="code") + " > 0 or vector(0)", "{{code}}")],
                    "ops",
                ),
                Panel(
                    "Delay p99",
                    "From acceptance until the push, by gateway.",
                    [Query(quantile(0.99, metrics.FANOUT_DELAY, by="instance"), "{{instance}}")],
                    "s",
                    red_above=SLOW_S,
                ),
                Panel(
                    "Messages/s",
                    "Pushed, by gateway.",
                    [Query(rate(metrics.DELIVERED_MESSAGES, by="instance"), "{{instance}}")],
                    "ops",
                ),
                Panel("Joins/s", "By gateway.", [Query(rate(metrics.JOINS, by="instance"), "{{instance}}")], "ops"),
            ],
        ),
        Row("Process", _process("edge")),
        Row(
            "Machine",
            [
                Panel(
                    "Load",
                    "Processes that run or wait, for each core.",
                    [Query(f"{name(metrics.MACHINE_LOAD)} / {name(metrics.MACHINE_CORES)}", "{{instance}}")],
                    red_above=1.0,
                ),
                Panel(
                    "Network",
                    "Bytes over all interfaces.",
                    [Query(rate(metrics.MACHINE_BYTES, by="instance,direction"), "{{instance}} {{direction}}")],
                    "Bps",
                ),
                Panel(
                    "Packets",
                    "Over all interfaces.",
                    [Query(rate(metrics.MACHINE_PACKETS, by="instance,direction"), "{{instance}} {{direction}}")],
                    "pps",
                ),
                Panel(
                    "Disk",
                    "Reads and writes.",
                    [Query(rate(metrics.MACHINE_IO, by="instance,operation"), "{{instance}} {{operation}}")],
                    "iops",
                ),
                Panel(
                    "Memory left",
                    "That can be had without swapping.",
                    [Query(name(metrics.MACHINE_MEMORY), "{{instance}}")],
                    "bytes",
                ),
                Panel("Garbage", "Pauses, p99.", [Query(quantile(0.99, metrics.GC_PAUSE, by="instance"), "{{instance}}")], "s"),
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
                        Query(f"max({name(metrics.POOL_ACTUAL)})", "report"),
                        Query(f"max({name(metrics.POOL_DESIRED)} and on(instance) ({name(metrics.LEADING)} == 1))", "wanted"),
                        Query(f"max({name(metrics.POOL_NEEDED)} and on(instance) ({name(metrics.LEADING)} == 1))", "needed"),
                        Query(f"max({name(metrics.POOL_DEMAND)})", "demand, not rounded"),
                        Query(f"max({name(metrics.POOL_MIN)})", "least"),
                        Query(f"max({name(metrics.POOL_MAX)})", "most"),
                    ],
                    width=16,
                    height=9,
                ),
                Panel(
                    "Leader",
                    "Which instance decides.",
                    [Query(name(metrics.LEADING), "{{instance}}")],
                    kind="state-timeline",
                    height=9,
                ),
                Panel(
                    "Decisions/min",
                    "That changed something, by reason.",
                    [Query(f"60 * {rate(metrics.DECISIONS, by='reason')} > 0 or vector(0)", "{{reason}}")],
                ),
                Panel(
                    "Kubernetes failures/min",
                    "What the API did not answer, or not as asked, by reason; pods that went unasked.",
                    [
                        Query(f"60 * {rate(metrics.POOL_API_FAILURES, by='reason')}", "{{reason}}"),
                        Query(f"60 * {rate(metrics.POOL_WRONG_PODS)}", "wrong pods"),
                    ],
                ),
                Panel("Paused", "By an operator.", [Query(f"max({name(metrics.POOL_PAUSED)})")], kind="stat", red_above=0.5),
                Panel(
                    "Viewers a gateway",
                    "The fullest, the mean, the emptiest.",
                    [
                        Query(f"max({name(metrics.CONNECTIONS)})", "fullest"),
                        Query(f"avg({name(metrics.CONNECTIONS)})", "mean"),
                        Query(f"min({name(metrics.CONNECTIONS)})", "emptiest"),
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
                    [Query(f"max by(state)({name(metrics.GATEWAYS_KNOWN)})", "{{state}}")],
                ),
                Panel(
                    "Nobody had room/s",
                    "Entries refused since no gateway had room.",
                    [Query(rate(metrics.ENTRIES, 'outcome="no_gateway"'), "no gateway")],
                    "ops",
                ),
                Panel(
                    "Entries/s",
                    "Viewers sent to a gateway.",
                    [Query(rate(metrics.ENTRIES, 'outcome="entered"'), "entered")],
                    "ops",
                ),
            ],
        ),
    ],
    annotations=[("decision", f"sum by(reason)(increase({metrics.DECISIONS.name}{{{SHOWN}}}[10s])) > 0")],
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
                        Query(total(metrics.PARTITIONS_OWNED, by="instance"), "{{instance}}"),
                        Query(f"max({name(metrics.PARTITIONS)})", "there are"),
                    ],
                ),
                Panel(
                    "Uplink lag",
                    "Records not yet taken, by partition.",
                    [Query(f"max by(partition)({name(metrics.UPLINK_LAG)})", "{{partition}}")],
                ),
                Panel(
                    "Epochs",
                    "Of the claims, by partition: a step is a new owner.",
                    [Query(f"max by(partition)({name(metrics.EPOCH)})", "{{partition}}")],
                ),
                Panel("Take-overs/s", "By reason.", [Query(rate(metrics.TAKEOVERS, by="reason"), "{{reason}}")], "ops"),
                Panel(
                    "Take-over time",
                    "From assignment until the first interaction is taken.",
                    _quantiles(metrics.TAKEOVER_SECONDS),
                    "s",
                ),
                Panel(
                    "Snapshots and batches/s",
                    "Written.",
                    [Query(rate(metrics.SNAPSHOTS), "snapshots"), Query(rate(metrics.BATCHES), "batches")],
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
                    [Query(name(metrics.READER_LAG), "{{topic}} {{instance}}")],
                ),
                Panel(
                    "Readers restarted/s",
                    "They stalled, or fell out of the log.",
                    [Query(rate(metrics.READER_RESTARTS, by="topic,reason"), "{{topic}} {{reason}}")],
                    "ops",
                ),
                Panel(
                    "Records without ack/s",
                    "By topic and reason.",
                    [Query(rate(metrics.PRODUCE_ERRORS, by="topic,reason"), "{{topic}} {{reason}}")],
                    "ops",
                ),
                Panel(
                    "Producers replaced/s",
                    "By reason.",
                    [Query(rate(metrics.PRODUCER_REPLACED, by="reason"), "{{reason}}")],
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
                    [Query(rate(metrics.BAD_RECORDS, by="topic,reason"), "{{topic}} {{reason}}")],
                    "ops",
                ),
                Panel(
                    "Dead letters/s",
                    "Uplink records put aside.",
                    [Query(rate(metrics.DEAD_LETTERS, by="reason"), "{{reason}}")],
                    "ops",
                ),
                Panel(
                    "History lost",
                    "Partitions or rooms that began again.",
                    [Query(f"sum by(reason)(increase({name(metrics.HISTORY_LOST)}[{RATE}]))", "{{reason}}")],
                ),
                Panel("Void records/s", "Of deposed owners, passed over.", [Query(rate(metrics.VOID_RECORDS), "void")], "ops"),
            ],
        ),
    ],
)

ALL: Final = (OVERVIEW, FANOUT, GATEWAYS, AUTOSCALING, KAFKA)
