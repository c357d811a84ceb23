"""A dashboard, as rows of panels, and its JSON for Grafana. Pure.

Owns the layout (24 columns) and the variables that all dashboards have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

WIDTH: Final = 24
SCHEMA_VERSION: Final = 39  # Grafana 10 and later
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
TAG: Final = "liveroom"


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel; `legend` in Grafana's form: `{{instance}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    `unit` in Grafana's names: s, Bps, ops, pps, percentunit, short. `kind`: timeseries, stat,
    heatmap, state-timeline.
    """

    title: str
    about: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    red_above: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of panels under a heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard. `annotations`: (name, query) of events drawn into every panel."""

    uid: str
    title: str
    about: str
    rows: Sequence[Row]
    annotations: Sequence[tuple[str, str]] = ()

    def json(self) -> dict[str, Any]:
        """Return the JSON that Grafana imports."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "10s",
            "time": {"from": "now-30m", "to": "now"},
            "timezone": "browser",
            "links": [{"type": "dashboards", "tags": [TAG], "title": "liveroom", "asDropdown": True, "keepTime": True}],
            "templating": {"list": [_source(), *(_variable(name, label) for name, label in VARIABLES)]},
            "annotations": {"list": [_annotation(name, expr) for name, expr in self.annotations]},
            "panels": _laid_out(self.rows),
        }


VARIABLES: Final = (("cluster", "cluster"), ("service", "job"), ("instance", "instance"))


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1}


def _variable(name: str, label: str) -> dict[str, Any]:
    within = {"cluster": "", "service": '{cluster=~"$cluster"}', "instance": '{cluster=~"$cluster",job=~"$service"}'}[name]
    query = f"label_values(liveroom_build_info{within}, {label})"
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def _annotation(name: str, expr: str) -> dict[str, Any]:
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": expr,
        "titleFormat": name,
        "textFormat": "{{reason}}",
        "step": "10s",
    }


def _laid_out(rows: Sequence[Row]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        made.append(
            {
                "id": len(made) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": _grid(0, y, WIDTH, 1),
                "panels": [],
            }
        )
        y += 1
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            made.append(_panel(len(made) + 1, panel, _grid(x, y, panel.width, panel.height)))
            x += panel.width
            tallest = max(tallest, panel.height)
        y += tallest
    return made


def _grid(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(number: int, panel: Panel, grid: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_above is not None:
        steps.append({"color": "red", "value": panel.red_above})
    made: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": grid,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "format": "heatmap" if "_bucket" in query.expr and panel.kind == "heatmap" else "time_series",
                "instant": panel.kind == "stat",
            }
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {},
    }
    if panel.kind == "timeseries":
        made["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
        if panel.red_above is not None:
            made["fieldConfig"]["defaults"]["custom"] = {"thresholdsStyle": {"mode": "line"}}
    elif panel.kind == "heatmap":
        made["options"] = {"calculate": False, "yAxis": {"unit": panel.unit}, "color": {"mode": "scheme", "scheme": "Oranges"}}
    elif panel.kind == "stat":
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return made
