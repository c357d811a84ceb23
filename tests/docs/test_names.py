"""Back-ticked names in docstrings and documents stand for something; the check itself is checked on
texts that were untrue once.
"""

import re

import pytest

from tests.docs import names
from tests.docs.source import stray_comments

DOCUMENTS = sorted(
    path.relative_to(names.ROOT).as_posix()
    for path in (
        *names.ROOT.glob("*.md"),
        *(path for folder in ("docs", "deploy", "tests") for path in (names.ROOT / folder).rglob("*.md")),
    )
)


@pytest.fixture(scope="module")
def vocabulary() -> names.Vocabulary:
    return names.read()


def processes_without_a_row(text: str) -> set[str]:
    """The services that the table of processes leaves out."""
    services = {path.parent.name for path in names.ROOT.glob("*/__main__.py")}
    return services - set(re.findall(r"^\| (\w+) \|", text, re.MULTILINE))


@pytest.mark.parametrize("package", [*names.PRODUCT, "docs", "tests"])
def test_every_name_in_a_docstring_stands_for_something(vocabulary: names.Vocabulary, package: str) -> None:
    found = [
        f"{module.path}:{first + line - 1}: {name}"
        for module in vocabulary.modules.values()
        if module.path.startswith(f"{package}/")
        for first, docstring in module.docstrings
        for line, name in vocabulary.problems(docstring, module)
    ]
    assert found == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_name_in_a_document_stands_for_something(vocabulary: names.Vocabulary, document: str) -> None:
    text = (names.ROOT / document).read_text(encoding="utf-8")
    assert [f"{document}:{line}: {name}" for line, name in vocabulary.problems(text, None)] == []


@pytest.mark.parametrize("package", names.PRODUCT)
def test_a_comment_above_a_constant_names_what_it_is_about(package: str) -> None:
    found = [
        f"{path.relative_to(names.ROOT)}:{line}: {comment}"
        for path in sorted((names.ROOT / package).rglob("*.py"))
        for line, comment in stray_comments(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_the_table_of_processes_has_every_service() -> None:
    assert processes_without_a_row((names.ROOT / "docs/architecture.md").read_text(encoding="utf-8")) == set()


def test_every_name_of_another_program_is_used() -> None:
    texts = "".join((names.ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS)
    assert [name for name in names.FOREIGN if name not in texts] == []


@pytest.mark.parametrize(
    ("text", "path", "found"),
    [
        pytest.param(
            "Refuses a duplicate (`Met`), thins what is above the room's limit.",
            "broadcaster/room.py",
            "Met",
            id="no such class",
        ),
        pytest.param(
            "`new_ticket`: ask the scheduler again (else give up when `reconnect` is False). `after_s`: the jitter's base.",
            "liveroom/closecodes.py",
            "new_ticket",
            id="no such field",
        ),
        pytest.param(
            "Refuses with `review`. Called by `app` after the words.",
            "ingress/review.py",
            "Called by app",
            id="no caller of a hook",
        ),
        pytest.param(
            "Called by `app` (`put`) and `__main__` (`watch`, `stop`).",
            "ingress/kafka.py",
            "Called by app",
            id="no caller of a log",
        ),
    ],
)
def test_what_was_untrue_in_a_docstring_is_found(vocabulary: names.Vocabulary, text: str, path: str, found: str) -> None:
    (module,) = (module for module in vocabulary.modules.values() if module.path == path)
    assert list(vocabulary.problems(text, module)) == [(1, found)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("Called by `edge.gateway`, and by `edge.keepalive` as time passes.", [], id="imports, or calls a method"),
        pytest.param("Called by `hub`; what `handshake` does is another thing.", ["Called by hub"], id="neither"),
        pytest.param("Owns joins. `hub` calls it.", ["Called by hub"], id="the caller first"),
        pytest.param("Called\nby `Hub`.", [], id="a class is no module"),
    ],
)
def test_the_callers_that_a_docstring_names_call_it(vocabulary: names.Vocabulary, text: str, found: list[str]) -> None:
    assert [problem for _, problem in vocabulary.problems(text, vocabulary.modules["edge.joins"])] == found


def test_a_comment_that_was_left_behind_is_found() -> None:
    comment = "In a wheel the file lies beside this module, in a checkout with the test data."
    assert list(stray_comments(f"NOTICED: Final = 6\n# {comment}\n_MAX_SAMPLES: Final = 20_000\n")) == [(2, comment)]


def test_a_service_that_the_table_left_out_is_found() -> None:
    rows = "".join(
        f"| {process} | takes | gives | owns |\n" for process in ("process", "ingress", "broadcaster", "edge", "scheduler")
    )
    assert processes_without_a_row(rows) == {"autoscaler"}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("the class `Entrance`", id="a class"),
        pytest.param("`Hub.knock`", id="a method"),
        pytest.param("`liveroom.records.judge` is that rule", id="a function of a module"),
        pytest.param("`room_epoch` is a second", id="a field"),
        pytest.param("the log says `partition_taken`", id="an event"),
        pytest.param("`edge/server.py`", id="a file"),
        pytest.param("`LIVEROOM_RULES`", id="a setting"),
        pytest.param("`LIVEROOM_KAFKA__TIMEOUT_S`", id="a nested setting"),
        pytest.param("`liveroom_edge_people`", id="a metric"),
        pytest.param("`liveroom_ingress_interactions_total{person}`", id="a label"),
        pytest.param("`liveroom talk`", id="a command"),
        pytest.param("`liveroom demo --people 5`", id="an option of a command"),
        pytest.param("`up --prometheus`", id="an option of a command without its program"),
        pytest.param("`python -m tests.soak --hours 1`", id="an option of a module"),
        pytest.param("`make everything`", id="a target"),
        pytest.param("`python -m edge.server`", id="a module that runs"),
        pytest.param("`liveroom[everything]`", id="an extra"),
        pytest.param("`GET /v1/people`", id="a route"),
        pytest.param("`asyncio.slumber`", id="a library's name"),
    ],
)
def test_what_is_not_there_is_found_in_a_document(vocabulary: names.Vocabulary, text: str) -> None:
    assert len(list(vocabulary.problems(text, None))) == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("`Hub`, `ingress/words.py`, `hub.py`, `edge.hub`, `asyncio.sleep`", id="names and files"),
        pytest.param("`LIVEROOM_KAFKA__BOOTSTRAP`, `KAFKA_BOOTSTRAP`, `kafka.bootstrap`", id="settings"),
        pytest.param("`make demo ARGS=--surge`, `liveroom demo --surge`, `python -m ingress`, `--surge`", id="commands"),
        pytest.param("`GET /v1/rooms/{room}/messages`, `/livez`, `Retry-After`", id="HTTP"),
        pytest.param('`null`, `202`, `"pull"`, `{"t":"hb"}`, `127.0.0.1:8700`, `2^53`', id="literal values"),
        pytest.param("```python\nnothing = `here`\n```\n", id="other code"),
    ],
)
def test_what_is_there_is_not_found(vocabulary: names.Vocabulary, text: str) -> None:
    assert list(vocabulary.problems(text, None)) == []
