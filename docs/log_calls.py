# ruff: noqa: INP001 - beside the documents, for their generator and their tests
"""Finds all log calls of a tree by its code: `log.warning("event", field=...)`.

Called by `docs.generate`, and by the test that compares the calls with the catalogue of events.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

LEVELS: Final = ("debug", "info", "warning", "error", "exception", "critical")
_LOGGER: Final = "log"


class LogCall(NamedTuple):
    """One call. `event`: its name, None where the code does not state it as a text.

    `level`: that of the line (an exception is an error). `fields`: the names of its arguments, in
    order; None where some are handed over as a dictionary.
    """

    event: str | None
    level: str
    fields: tuple[str, ...] | None
    path: str
    line: int

    @property
    def package(self) -> str:
        """The package that logs."""
        return self.path.partition("/")[0]


def log_calls(root: Path, packages: tuple[str, ...]) -> Iterator[LogCall]:
    """Yield the log calls in the packages below `root`, one for each event that a call may log."""
    for package in packages:
        for file in sorted((root / package).rglob("*.py")):
            path = file.relative_to(root).as_posix()
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and (level := _level(node)) is not None:
                    for event in _events(node):
                        yield LogCall(event, level, _fields(node, level), path, node.lineno)


def _level(call: ast.Call) -> str | None:
    match call.func:
        case ast.Attribute(value=ast.Name(id="log"), attr=level) if level in LEVELS:
            return level
    return None


def _events(call: ast.Call) -> Iterator[str | None]:
    first = call.args[0] if len(call.args) == 1 else None
    for node in (first.body, first.orelse) if isinstance(first, ast.IfExp) else (first,):
        yield node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _fields(call: ast.Call, level: str) -> tuple[str, ...] | None:
    names = [keyword.arg for keyword in call.keywords if keyword.arg != "exc_info"]
    if None in names:
        return None
    has_trace = level == "exception" or any(keyword.arg == "exc_info" for keyword in call.keywords)
    return (*(name for name in names if name is not None), *(("exception",) if has_trace else ()))
