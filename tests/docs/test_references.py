"""Every command, setting, metric, event, route, code, alert, panel, path and link that a document
names is there; the check itself is checked on texts that lead nowhere.
"""

from pathlib import Path

import pytest

from dashboards.alerts import Windows, alerts
from dashboards.boards import ALL
from tests.docs import names, references

DOCUMENTS = [path for path in references.tracked("*.md") if not path.is_relative_to(names.ROOT / "tests" / "data")]
HISTORY = names.ROOT / "CHANGELOG.md"  # tells of what is no more
MANIFESTS = [
    path
    for path in references.tracked("deploy/**")
    if path.suffix in {".yaml", ".env", ".toml", ".properties", ".txt", ""} and "locks" not in path.parts
]


def named(path: Path) -> str:
    return path.relative_to(names.ROOT).as_posix()


@pytest.fixture(scope="module")
def known() -> references.References:
    return references.read(names.read())


@pytest.mark.parametrize("document", [pytest.param(path, id=named(path)) for path in DOCUMENTS if path != HISTORY])
def test_what_a_document_refers_to_is_there(known: references.References, document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert [f"{named(document)}:{line}: {what}" for line, what in known.problems(text)] == []


@pytest.mark.parametrize("document", [pytest.param(path, id=named(path)) for path in DOCUMENTS])
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    assert list(references.broken_links(document)) == []


@pytest.mark.parametrize("manifest", [pytest.param(path, id=named(path)) for path in MANIFESTS])
def test_what_a_manifest_refers_to_is_there(known: references.References, manifest: Path) -> None:
    text = manifest.read_text(encoding="utf-8")
    comments = "\n".join(line.partition("#")[2] if "#" in line else "" for line in text.splitlines())
    found = [*known.problems(comments), *known.vocabulary.problems(comments, None)]
    assert [f"{named(manifest)}:{line}: {what}" for line, what in found] == []


def test_what_dashboards_and_alerts_refer_to_is_there(known: references.References) -> None:
    texts = [text for board in ALL for text in (board.about, *(panel.about for row in board.rows for panel in row.panels))]
    texts += [text for alert in alerts(Windows()) for text in (alert.summary, alert.value)]
    for text in texts:
        assert [*known.problems(text), *known.vocabulary.problems(text, None)] == [], text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("set LIVEROOM_PEOPLE", id="a setting in prose"),
        pytest.param("```\nLIVEROOM_PEOPLE=5\n```\n", id="a setting in a block"),
        pytest.param("`LIVEROOM_PEOPLE_*`", id="settings that begin so"),
        pytest.param("liveroom_edge_people in prose", id="a metric in prose"),
        pytest.param("```promql\nsum(liveroom_edge_people_count)\n```\n", id="a metric in a query"),
        pytest.param("the broadcaster's log has `partition_eaten`", id="an event"),
        pytest.param("the log has `taken_over`, and `partition_eaten` with the reason", id="the second of two events"),
        pytest.param("it logs `people_came`", id="what is logged"),
        pytest.param("*PeopleLost*", id="an alert"),
        pytest.param("the dashboard *People*", id="a dashboard"),
        pytest.param("panel *Where it\nstays*", id="a panel"),
        pytest.param("`token_missing` (403)", id="the status of a code"),
        pytest.param("see deploy/people.yaml", id="a path in prose"),
        pytest.param("`DELETE /v1/entry`", id="a method of a route"),
        pytest.param("send it to /v1/people", id="a route in prose"),
        pytest.param("```sh\ncurl -X PUT localhost:8001/v1/rooms/lobby/danmaku -d '{}'\n```\n", id="the method of curl"),
        pytest.param("```sh\ncurl localhost:8001/v1/rooms/lobby/people -d '{}'\n```\n", id="the route of curl"),
        pytest.param(
            '```sh\nROOM=$URL/v1/rooms/show\ncall() { curl -i "$@"; }\ncall "$ROOM/people" -d "{}"\n```\n',
            id="a route by a function and a variable",
        ),
        pytest.param("`liveroom pool dance`", id="an argument of a command"),
        pytest.param("```sh\nmake demo\nliveroom talk live-1   # speaks\n```\n", id="a command in a block"),
        pytest.param("```sh\nTOKEN=$(liveroom token --people 5)\n```\n", id="a command inside another"),
        pytest.param("```sh\nkubectl exec deploy/edge -- liveroom talk\n```\n", id="a command behind another"),
        pytest.param("```sh\nkubectl exec deploy/people -- liveroom topics\n```\n", id="a deployment"),
        pytest.param("```sh\nliveroom demo \\\n  --people 5\n```\n", id="an option on the next line"),
        pytest.param("```sh\npython -m tests.soak --people 1\n```\n", id="an option of a module"),
        pytest.param("```sh\npeople --help\n```\n", id="a program"),
    ],
)
def test_what_leads_nowhere_is_found(known: references.References, text: str) -> None:
    assert list(known.problems(text))


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One\n# One\n[a](b.md) [b](#one) [c](#one-1) [d](#two) [e](a.md#one) [f](a.md#three)\n")
    assert list(references.broken_links(tmp_path / "a.md")) == ["b.md", "#two", "a.md#three"]
