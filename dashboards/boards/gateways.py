"""Which gateway carries what, and what it drops. Pure."""

from typing import Final

from dashboards.board import Board, Panel, Query, Row
from dashboards.panels import SLOW_S, processes
from dashboards.queries import name, quantile, rate, total
from liveroom import metric_catalog

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
                    "Connections by gateway; equal colours are equally full gateways.",
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
                    "Upgrades and pulls that were refused, by error code.",
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
        Row(
            "What comes in",
            [
                Panel(
                    "HTTP connections",
                    "Of all services, by port: pending ones have sent no whole head.",
                    [Query(total(metric_catalog.HTTP_CONNECTIONS, by="job,port,state"), "{{job}} {{port}} {{state}}")],
                ),
                Panel(
                    "HTTP connections ended/s",
                    "Refused or ended early, by reason.",
                    [Query(rate(metric_catalog.HTTP_ENDED, by="job,reason") + " > 0 or vector(0)", "{{job}} {{reason}}")],
                    "ops",
                ),
                Panel(
                    "Requests limited/s",
                    "Requests and entries that a limit refused, by the limit.",
                    [
                        Query(rate(metric_catalog.REQUESTS_LIMITED, by="reason") + " > 0 or vector(0)", "ingress {{reason}}"),
                        Query(rate(metric_catalog.ENTRIES_LIMITED, by="reason") + " > 0 or vector(0)", "scheduler {{reason}}"),
                    ],
                    "ops",
                ),
                Panel(
                    "TLS handshakes/s",
                    "At gateways, by outcome; and connections ended for floods of records that bring nothing.",
                    [
                        Query(rate(metric_catalog.TLS_HANDSHAKES, by="outcome") + " or vector(0)", "{{outcome}}"),
                        Query(rate(metric_catalog.TLS_FLOODS) + " or vector(0)", "floods ended"),
                    ],
                    "ops",
                ),
                Panel(
                    "TLS handshakes under way",
                    "By gateway.",
                    [Query(total(metric_catalog.TLS_PENDING, by="instance"), "{{instance}}")],
                ),
                Panel(
                    "Certificates expire in",
                    "The one that ends first at any gateway; 0: no gateway has TLS.",
                    [Query(f"min({name(metric_catalog.TLS_EXPIRES)} > 0) - time() or vector(0)", "first")],
                    "s",
                ),
            ],
        ),
        Row(
            "What callers invent",
            [
                Panel(
                    "Joins refused/s",
                    "By error code.",
                    [Query(rate(metric_catalog.JOINS_REFUSED, by="code"), "{{code}}")],
                    "ops",
                ),
                Panel(
                    "Limited/s",
                    "Connections and joins that a limit refused, by the limit.",
                    [Query(rate(metric_catalog.LIMITED, by="reason") + " > 0 or vector(0)", "{{reason}}")],
                    "ops",
                ),
                Panel(
                    "Rooms evicted/s",
                    "Rooms at gateways that made space for another one.",
                    [Query(rate(metric_catalog.ROOMS_EVICTED, by="reason"), "{{reason}}")],
                    "ops",
                ),
                Panel(
                    "Idle rooms",
                    "Rooms without a viewer at gateways, and rooms in which nobody ever spoke.",
                    [
                        Query(total(metric_catalog.ROOMS_VACANT), "vacant"),
                        Query(total(metric_catalog.ROOMS_SILENT), "silent"),
                        Query(total(metric_catalog.ROOMS_QUIET), "quiet at gateways"),
                    ],
                ),
                Panel(
                    "Rooms over the cap/s",
                    "Forgotten early, or not opened, at broadcasters.",
                    [Query(rate(metric_catalog.ROOMS_LIMITED, by="reason"), "{{reason}}")],
                    "ops",
                ),
                Panel(
                    "Names kept",
                    "The largest table of each kind.",
                    [Query(f"max by(table)({name(metric_catalog.NAMES)})", "{{table}}")],
                ),
                Panel(
                    "Rules kept",
                    "Moderation rules in one process, and those whose records will be withdrawn.",
                    [
                        Query(f"max by(kind)({name(metric_catalog.RULES)})", "{{kind}}"),
                        Query(f"max({name(metric_catalog.RULES_ENDED)})", "ended"),
                    ],
                ),
                Panel(
                    "Rules withdrawn/s",
                    "Records of rules that are over, and rules that had to be written again.",
                    [
                        Query(rate(metric_catalog.RULES_WITHDRAWN), "withdrawn"),
                        Query(rate(metric_catalog.RULES_REPEATED), "repeated"),
                        Query(rate(metric_catalog.RULES_NOT_WITHDRAWN), "failed"),
                    ],
                    "ops",
                ),
            ],
        ),
        Row("Process", processes("edge")),
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
                    "Clock",
                    "A machine's clock less Kafka's. A gateway that is off by more than 2 s gets no viewers.",
                    [Query(name(metric_catalog.CLOCK_SKEW), "{{instance}}")],
                    unit="s",
                ),
                Panel(
                    "Far times",
                    "Times in records that were too far from Kafka's time, which was taken.",
                    [Query(rate(metric_catalog.FAR_TIMES, by="instance,topic"), "{{instance}} {{topic}}")],
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
                    "Bytes read and written.",
                    [Query(rate(metric_catalog.MACHINE_IO, by="instance,operation"), "{{instance}} {{operation}}")],
                    "iops",
                ),
                Panel(
                    "Memory left",
                    "Memory that is available without swapping.",
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
