"""Dashboards and rules as files: up to date, well formed, with metrics that exist."""

import json
import re
import subprocess
from itertools import combinations
from typing import Any

import pytest

from dashboards import show
from dashboards.alerts import RUNBOOKS, Windows, alerts, records
from dashboards.board import WIDTH, Board
from dashboards.boards import ALL
from dashboards.cases import CASES
from dashboards.generate import HERE, files
from dashboards.queries import quantile, rate, total
from devstack.programs import PROMTOOL, need
from liveroom import metric_catalog
from liveroom.metric_catalog import BY_SERVICE, Shape

BOARDS = [pytest.param(board, id=board.uid) for board in ALL]
KINDS = {"row", "timeseries", "stat", "heatmap", "state-timeline"}


def told_names() -> set[str]:
    """All series' names that our services tell."""
    found = {"up"}
    for metric in {metric for made in BY_SERVICE.values() for metric in made}:
        ends = ("_bucket", "_count", "_sum") if metric.shape is Shape.HISTOGRAM else ("",)
        found |= {metric.name + end for end in ends}
    return found


def panels(board: Board) -> list[dict[str, Any]]:
    return [panel for panel in board.json()["panels"] if panel["type"] != "row"]


def test_the_files_are_up_to_date() -> None:
    stale = [path for path, text in files().items() if (HERE / path).read_text() != text]
    assert stale == [], "python -m dashboards.generate"
    kept = {str(file.relative_to(HERE)) for kind in ("grafana", "prometheus") for file in (HERE / kind).iterdir()}
    assert kept | {"kustomization.yaml"} == set(files()), "files that nothing makes"


@pytest.mark.parametrize("board", BOARDS)
def test_a_dashboard_is_what_grafana_takes(board: Board) -> None:
    made = json.loads(json.dumps(board.json()))
    ids = [panel["id"] for panel in made["panels"]]
    assert len(set(ids)) == len(ids)
    assert re.fullmatch(r"[a-z-]{1,40}", made["uid"])
    assert {variable["name"] for variable in made["templating"]["list"]} == {"source", "cluster", "service", "instance"}
    for panel in made["panels"]:
        grid = panel["gridPos"]
        assert panel["type"] in KINDS
        assert grid["x"] + grid["w"] <= WIDTH
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["targets"]
            assert [target["refId"] for target in panel["targets"]] == [*"ABCDEFG"][: len(panel["targets"])]
    for one, other in combinations((panel["gridPos"] for panel in made["panels"]), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], "panels overlap"


def test_uids_and_titles_are_each_one_s_own() -> None:
    for names in ([board.uid for board in ALL], [board.title for board in ALL]):
        assert len(set(names)) == len(names)


def test_only_what_services_tell_is_asked_for() -> None:
    asked = [target["expr"] for board in ALL for panel in panels(board) for target in panel["targets"]]
    asked += [expr for board in ALL for _, expr in board.annotations]
    asked += [alert.expr for alert in alerts(Windows())] + [expr for _, expr in records(Windows())]
    recorded = {name for name, _ in records(Windows())}
    used = {found for expr in asked for found in re.findall(r"liveroom[a-z0-9_:]*", expr)}
    assert used <= told_names() | recorded
    assert recorded <= used | {
        "liveroom:delay_seconds:p99",
        "liveroom:viewers:sum",
        "liveroom:accepted:rate",
        "liveroom:delivered:rate",
    }


def test_every_metric_is_on_a_dashboard_or_in_a_rule() -> None:
    text = "".join(files().values())
    unused = {metric.name for made in BY_SERVICE.values() for metric in made if metric.name not in text}
    assert unused <= {metric.name for metric in (metric_catalog.WORD_HITS, metric_catalog.REVIEWS, metric_catalog.ACTS)}, (
        "what nobody looks at need not be told"
    )


def test_a_query_says_when_it_is_asked_for_the_wrong_shape() -> None:
    for make in (rate, lambda metric: quantile(0.5, metric)):
        with pytest.raises(ValueError, match="is no"):
            make(metric_catalog.CONNECTIONS)
    with pytest.raises(ValueError, match="is no gauge"):
        total(metric_catalog.JOINS)


def test_every_alert_has_a_runbook_and_cases() -> None:
    names = {alert.name for alert in alerts(Windows())}
    assert names == set(CASES)
    runbooks = (HERE.parent / "docs" / "runbooks.md").read_text()
    headings = set(re.findall(r"^## (\w+)$", runbooks, re.MULTILINE))
    assert headings == names
    assert RUNBOOKS.endswith("docs/runbooks.md")


def test_promtool_takes_the_rules_and_each_alert_fires_and_is_quiet() -> None:
    promtool = need(PROMTOOL)
    folder = HERE / "prometheus"
    for arguments in (
        ["check", "rules", "rules.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "rules_test.yml"],
    ):
        done = subprocess.run([promtool, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_says_its_value_by_labels_that_it_keeps() -> None:
    for alert in alerts(Windows()):
        named = set(re.findall(r"\$labels\.(\w+)", alert.value))
        assert named <= {*alert.labels, *(["instance"] if alert.name == "ClockSkewed" else [])}, alert.name
        assert "$value" in alert.value or alert.name in {"ServiceSilent", "AutoscalerPaused", "StalledConsumer"}, alert.name


def test_a_panel_is_shown_without_grafana(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["show", "late, by stage"])
    assert show.main() == 0
    shown = capsys.readouterr().out
    assert shown.startswith("What took more than 10 s")
    assert 'liveroom_broadcaster_uplink_age_seconds_count{cluster=~".*",instance=~".*"}[5m]' in shown
    assert "$" not in shown
    monkeypatch.setattr("sys.argv", ["show", "nothing"])
    assert show.main() == 1
    assert "Late, by stage" in capsys.readouterr().err
