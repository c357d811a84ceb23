"""The catalogue of log events: each log call is in it, and nothing else is."""

import ast
from pathlib import Path

import pytest

from docs.generate import LOGGING
from docs.log_calls import LogCall, log_calls
from liveroom import log_catalog
from liveroom.errors import Code
from tests.docs.names import PRODUCT, ROOT

CALLS = list(log_calls(ROOT, PRODUCT))


def test_every_log_call_states_its_event_and_its_fields() -> None:
    assert [f"{call.path}:{call.line}" for call in CALLS if call.event is None or call.fields is None] == []


def test_the_catalogue_has_every_event_and_no_other() -> None:
    assert {call.event for call in CALLS} == set(log_catalog.EVENTS)
    assert {call.package for call in CALLS} <= set(LOGGING)


def test_no_event_is_in_two_groups() -> None:
    assert sum(len(group.events) for group in log_catalog.GROUPS) == len(log_catalog.EVENTS)


def test_an_error_asks_for_something() -> None:
    severe = {call.event for call in CALLS if call.level in {"error", "exception", "critical"} and call.event}
    assert [event for event in sorted(severe) if not log_catalog.EVENTS[event].todo] == []


def test_every_code_says_what_to_look_at() -> None:
    assert set(log_catalog.TODO) == set(Code)


@pytest.mark.parametrize("package", PRODUCT)
def test_every_logger_has_the_name_that_is_searched_for(package: str) -> None:
    """A logger under another name would have events that nobody finds."""
    found = []
    for file in sorted((ROOT / package).rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.Call) and "get_logger" in ast.unparse(node):
                is_usual = isinstance(node, ast.Call) or ast.unparse(node) == "log = structlog.get_logger()"
                found += [] if is_usual else [f"{file.relative_to(ROOT)}:{node.lineno}"]
    assert found == []


@pytest.mark.parametrize(
    ("code", "calls"),
    [
        pytest.param("log.info('a', x=1)", [("a", "info", ("x",))], id="a call"),
        pytest.param("log.exception('a', x=1)", [("a", "exception", ("x", "exception"))], id="a traceback"),
        pytest.param("log.error('a', exc_info=e)", [("a", "error", ("exception",))], id="a traceback that is handed over"),
        pytest.param("log.info('a' if x else 'b')", [("a", "info", ()), ("b", "info", ())], id="one of two"),
        pytest.param("log.info(event)", [(None, "info", ())], id="a name that is made"),
        pytest.param("log.info('a', **more)", [("a", "info", None)], id="fields that are made"),
        pytest.param("other.info('a')", [], id="no log"),
    ],
)
def test_calls_are_found(tmp_path: Path, code: str, calls: list[tuple[object, ...]]) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "m.py").write_text(code)
    assert list(log_calls(tmp_path, ("p",))) == [LogCall(*call, "p/m.py", 1) for call in calls]  # type: ignore[call-arg, arg-type]
