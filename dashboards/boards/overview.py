"""The overview: the state of the system at a glance. Pure."""

from typing import Final

from dashboards.board import Board, Panel, Query, Row
from dashboards.panels import SLOW_S, processes, quantiles
from dashboards.queries import name, quantile, rate, total
from liveroom import metric_catalog

OVERVIEW: Final = Board(
    "liveroom-overview",
    "liveroom / Overview",
    "The state of the system: viewers, interactions, delays, refusals, and a row for each service.",
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
                    "Interactions that were answered with 202.",
                    [Query(rate(metric_catalog.INTERACTIONS, 'outcome="accepted"'))],
                    "ops",
                    "stat",
                    4,
                ),
                Panel(
                    "Delivered/s",
                    "Messages pushed, counted once for each viewer.",
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
                    "Consumed items less items accounted for; any value but 0 is a defect.",
                    [Query(total(metric_catalog.BALANCE_OFF))],
                    kind="stat",
                    width=4,
                    red_above=0.5,
                ),
                Panel(
                    "Delay",
                    "From acceptance until the push to viewers.",
                    quantiles(metric_catalog.FANOUT_DELAY),
                    "s",
                    red_above=SLOW_S,
                ),
                Panel(
                    "Interactions/s",
                    "Interactions, by outcome.",
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
                Panel("Answer time", "From a request's head to its answer.", quantiles(metric_catalog.INGRESS_SECONDS), "s"),
                Panel(
                    "Brokers' ack",
                    "From the call of the producer to the brokers' ack, by topic.",
                    [Query(quantile(0.99, metric_catalog.PRODUCE_SECONDS, by="topic"), "p99 {{topic}}")],
                    "s",
                ),
                *processes("ingress"),
            ],
        ),
        Row(
            "Broadcaster",
            [
                Panel("Items/s", "By outcome.", [Query(rate(metric_catalog.ITEMS, by="outcome"), "{{outcome}}")], "ops"),
                Panel("Uplink to packed", "From acceptance until packed.", quantiles(metric_catalog.UPLINK_DELAY), "s"),
                Panel("Rooms", "Held in memory.", [Query(total(metric_catalog.ROOMS_LIVE, by="instance"), "{{instance}}")]),
                *processes("broadcaster"),
            ],
        ),
        Row(
            "Gateways",
            [
                Panel("Viewers", "By gateway.", [Query(total(metric_catalog.CONNECTIONS, by="instance"), "{{instance}}")]),
                Panel("Joins/s", "By outcome.", [Query(rate(metric_catalog.JOINS, by="outcome"), "{{outcome}}")], "ops"),
                Panel(
                    "Closes/s",
                    "Connections that ended, by close code.",
                    [Query(rate(metric_catalog.CLOSES, by="code") + " > 0 or vector(0)", "{{code}}")],
                    "ops",
                ),
                *processes("edge"),
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
                Panel("Answer time", "Of an entry request.", quantiles(metric_catalog.ENTRY_SECONDS), "s"),
                Panel(
                    "Gateways",
                    "Gateways by state, as the schedulers know them.",
                    [Query(f"max by(state)({name(metric_catalog.GATEWAYS_KNOWN)})", "{{state}}")],
                ),
                *processes("scheduler"),
            ],
        ),
    ],
)
