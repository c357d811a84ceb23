"""How the pool of gateways is sized, and why. Pure."""

from typing import Final

from dashboards.board import Board, Panel, Query, Row
from dashboards.queries import SHOWN, name, rate
from liveroom import metric_catalog

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
                    "Gateways that report, that were decided on, and that the load needs, with the pool's limits.",
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
                    "The instance that leads.",
                    [Query(name(metric_catalog.LEADING), "{{instance}}")],
                    kind="state-timeline",
                    height=9,
                ),
                Panel(
                    "Decisions/min",
                    "Decisions that changed the pool, by reason.",
                    [Query(f"60 * {rate(metric_catalog.DECISIONS, by='reason')} > 0 or vector(0)", "{{reason}}")],
                ),
                Panel(
                    "Kubernetes failures/min",
                    "Failed calls of the Kubernetes API, by reason, and pods that went without draining.",
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
                    "Connections of the fullest and the emptiest gateway, and the mean.",
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
                    "Gateways, by state.",
                    [Query(f"max by(state)({name(metric_catalog.GATEWAYS_KNOWN)})", "{{state}}")],
                ),
                Panel(
                    "Nobody had room/s",
                    "Entries that were refused because no gateway had room.",
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
