"""Resolves what documents name by its kind: commands, settings, metrics, log events, routes, error
codes, alerts, panels, paths and links.

`names` takes any word of the code for a back-ticked name. Here each kind has a form by which it is
known wherever it stands, also in code blocks and comments, and must be one of that kind: an option
of that command, a method of that route, an event of a log call. Called by the tests of documents.
"""

import ast
import json
import re
import shlex
import subprocess
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Final

import typer

from cli.commands import app
from dashboards.alerts import Windows, alerts, records
from dashboards.boards import ALL as BOARDS
from edge.upgrade import EVENTS_PATH, WEBSOCKET_PATH
from liveroom import metric_catalog
from liveroom.errors import TABLE
from tests.docs import names

# What code blocks run beside our own programs: whose it is, or what it is.
TOOLS: Final = frozenset(
    {
        *(
            "alias",
            "cd",
            "cp",
            "echo",
            "eval",
            "export",
            "for",
            "do",
            "done",
            "cat",
            "printf",
            "mkdir",
            "tr",
            "grep",
            "sh",
            "source",
        ),
        *("curl", "git", "openssl", "pip", "npm", "npx", "node", "apt", "sudo", "podman", "docker", "kubectl", "nice"),
        *("kafka-acls.sh", "kafka-configs.sh", "kafka-topics.sh", "kafka-console-consumer.sh", "kafka-console-producer.sh"),
        *("java", "javac", "promtool", "prometheus", "helm", "kcat", "kubectl-debug", "dig", "chmod", "rm", "jq"),
        *("ruff", "mypy", "lint-imports"),
    }
)
PICTURES: Final = {"viewer/streamer": "two kinds of people, in the picture of the system"}
_TOP: Final = "|".join(sorted({*names.PRODUCT, "docs", "deploy", "tests"}))
_PATH: Final = re.compile(rf"(?<![\w./:$@*-])(?:\./)?((?:{_TOP})/[\w./*-]*[\w*/])")
_SETTING: Final = re.compile(r"(?<![\w-])LIVEROOM_[A-Z0-9_]*(?:\*|[A-Z0-9](?![\w*]))")
_SERIES: Final = re.compile(r"(?<![\w./:-])liveroom(?:_[a-z0-9_]*[a-z0-9]|:[a-z_]+:[a-z0-9_]+)(?![\w/.-]*[/=]|-)")
_CALL: Final = re.compile(r"\b(GET|POST|PUT|PATCH|DELETE)\s+(?:https?://[^/\s`]+)?(/[^\s`?,)|\"]*)")
_ROUTE: Final = re.compile(r"(?<![\w.}])/v1/[\w{}<>$./:*-]+")
_EVENTS: Final = re.compile(
    r"\blog(?:s|ged)?\b[^.|`:;]{0,40}?\b(?:has|have|says|say|shows|line|lines|logs|logged|as|warning|error)\s+"
    r"((?:`[a-z][a-z0-9_]+`(?:,? (?:and|or|then) |, |\s+)?)+)"
    r"|\blogs\s+((?:`[a-z][a-z0-9_]+`(?:,? (?:and|or) |, )?)+)"
)
_CODE: Final = re.compile(r"`([a-z_]+)`,? \(?([1-5]\d\d)\b")
_ITALIC_ALERT: Final = re.compile(r"(?<![*\w])\*([A-Z][a-z]+(?:[A-Z][a-z]+)+)\*(?![*\w])")
_PANEL: Final = re.compile(r"\bpanels?\s+\*([^*]+)\*")
_BOARD: Final = re.compile(r"\b(?:dashboard|board)s?\s+\*([^*]+)\*")
_FENCE: Final = re.compile(r"^ *```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^ *```", re.MULTILINE | re.DOTALL)
_ENDS: Final = ("", "_bucket", "_count", "_sum")


@dataclass(frozen=True)
class References:
    """All that a document may refer to, by kind."""

    vocabulary: names.Vocabulary
    settings: frozenset[str]
    series: frozenset[str]
    events: frozenset[str]
    routes: frozenset[tuple[str, str]]
    alerts: frozenset[str]
    panels: frozenset[str]
    boards: frozenset[str]
    deployments: frozenset[str]
    aliases: set[str] = field(default_factory=set)

    def problems(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield the line of each reference that leads nowhere, and what it is."""
        for place, what in (*self._tokens(text), *self._prose(text), *self._blocks(text)):
            yield text.count("\n", 0, place) + 1, what

    def _tokens(self, text: str) -> Iterator[tuple[int, str]]:
        """Look at what has a form of its own, wherever it stands."""
        kinds: list[tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]]] = [
            ("setting", _SETTING, lambda found: self._is_setting(found[0])),
            ("metric", _SERIES, self._is_series),
            ("path", _PATH, lambda found: self._is_path(found[1])),
            ("route", _ROUTE, lambda found: self._is_route("", found[0])),
            ("route", _CALL, lambda found: self._is_route(found[1], found[2])),
        ]
        for kind, pattern, is_there in kinds:
            yield from ((found.start(), f"{kind} {found[0]}") for found in pattern.finditer(text) if not is_there(found))

    def _prose(self, text: str) -> Iterator[tuple[int, str]]:
        """Look at what only its sentence gives a kind."""
        for found in _EVENTS.finditer(text):
            for event in re.findall(r"`(\w+)`", found[0]):
                if event not in self.events:
                    yield found.start(), f"event {event}"
        for found in _CODE.finditer(text):
            if found[1] in _codes() and _codes()[found[1]] != int(found[2]):
                yield found.start(), f"status {found[0]}"
        for pattern, known, kind in (
            (_ITALIC_ALERT, self.alerts, "alert"),
            (_PANEL, self.panels, "panel"),
            (_BOARD, self.boards, "dashboard"),
        ):
            for found in pattern.finditer(text):
                if " ".join(found[1].split()) not in known:
                    yield found.start(), f"{kind} {found[1]}"

    def _blocks(self, text: str) -> Iterator[tuple[int, str]]:
        """Look at the commands of code blocks, and at those in back-ticks."""
        for block in _FENCE.finditer(text):
            if block["language"] == "sh":
                place = block.start("body")
                variables: dict[str, str] = {}
                for line in block["body"].replace("\\\n", "  ").splitlines(keepends=True):
                    yield from ((place, why) for why in self.line_problems(_filled(line, variables)))
                    place += len(line)
        prose = _FENCE.sub(lambda found: " " * len(found[0]), text)
        for found in re.finditer(r"(?<!`)`((?:liveroom|make|python -m) [^`]+)`(?!`)", prose):
            yield from ((found.start(), why) for why in self.line_problems(found[1]))

    def line_problems(self, line: str) -> Iterator[str]:
        """Yield what is wrong with the commands of a line of a shell."""
        for inner in re.findall(r"\$\(([^()]+)\)", line):
            yield from self.line_problems(inner)
        if function := re.match(r"\s*(\w+)\(\) *\{", line):  # of curl, as an alias
            self.aliases.add(function[1])
            line = line[function.end() :]
        try:
            words = shlex.split(re.sub(r"\$\([^()]*\)", "VALUE", line), comments=True)
        except ValueError:  # a text over several lines
            return
        command: list[str] = []
        is_file = False  # what follows is a file's name
        for word in [*words, ";"]:
            if word in {"|", "&&", "||", ";", "&", "--", ">", ">>", "<"}:
                is_file = word in {">", ">>", "<"}
                yield from self._command_problems(command)
                command = []
            elif is_file:
                is_file = False
            else:
                command.append(word.removesuffix(";"))

    def _command_problems(self, words: Sequence[str]) -> Iterator[str]:
        words = [word.strip("()") for word in words if word not in {"do", "sudo"}]
        while words and re.fullmatch(r"\w+=.*|nice|-n|\d+", words[0], re.DOTALL):
            words = words[1:]
        if not words or words[0].startswith(("HTTP/", "{", "-", "VALUE")):
            return
        program, *rest = words
        program = program.removeprefix(".venv/bin/")
        of_program = {
            "liveroom": _liveroom_problems,
            "make": self._make_problems,
            "python": self._python_problems,
            "python3": self._python_problems,
            "kubectl": self._kubectl_problems,
            "curl": self._curl_problems,
            **dict.fromkeys(self.aliases, self._curl_problems),
        }
        if program == "alias":
            self.aliases.update(word.partition("=")[0] for word in rest)
        elif program in of_program:
            yield from of_program[program](rest)
        elif program not in TOOLS:
            yield f"command {program}"

    def _make_problems(self, words: Sequence[str]) -> Iterator[str]:
        yield from (f"make {word}" for word in words if "=" not in word and word not in self.vocabulary.targets)

    def _python_problems(self, words: Sequence[str]) -> Iterator[str]:
        command = " ".join(["python", *words])
        if not self.vocabulary.resolves(command, None):
            yield command

    def _kubectl_problems(self, words: Sequence[str]) -> Iterator[str]:
        for name in re.findall(r"\b(?:deploy|deployment)/([a-z-]+)", " ".join(words)):
            if name not in self.deployments and not self._is_path(f"deploy/{name}"):
                yield f"deployment {name}"

    def _curl_problems(self, words: Sequence[str]) -> Iterator[str]:
        line = " ".join(words)
        has_body = any(word in {"-d", "--data", "--json", "--data-binary"} for word in words)
        method = words[words.index("-X") + 1] if "-X" in words[:-1] else "POST" if has_body else "GET"
        for path in re.findall(r"(?<=[\w}\]])(/v1/[^\s?]*)", line):
            if not self._is_route(method, path):
                yield f"route {method} {path}"

    # ---- is it there?
    def _is_setting(self, name: str) -> bool:
        if name.endswith("*"):
            return any(each.startswith(name[:-1]) for each in self.settings)
        return name in self.settings

    def _is_series(self, found: re.Match[str]) -> bool:
        """Return whether a name is a metric's, begins some (`liveroom_edge_*`), or is the key of a
        Secret, which is a setting's name in lower case.
        """
        name, behind = found[0], found.string[found.end() : found.end() + 2]
        starts = behind in {"_*", "*`"} and any(each.startswith(name) for each in self.series)
        return starts or name in self.series or name.upper() in self.settings

    def _is_path(self, path: str) -> bool:
        if re.fullmatch(r"deploy/[a-z]+", path) and path.partition("/")[2] in self.deployments:
            return True
        if path in PICTURES:
            return True
        wanted = path.removeprefix("liveroom/deploy").rstrip("/")  # a clone beside an overlay of one's own
        wanted = f"deploy{wanted}" if wanted.startswith("/") else wanted
        files = self.vocabulary.files
        return any(each.startswith(f"{wanted}/") or fnmatchcase(each, wanted) for each in files) or f"{wanted}.py" in files

    def _is_route(self, method: str, path: str) -> bool:
        """Return whether a route has a path, or ends in it; `/` or `*` at its end begins one."""
        path = re.sub(r"\$\{?\w+\}?|<\w+>|VALUE", "x", path).rstrip("*.:")
        segments = ["[^/]+" if "{" in part else re.escape(part) for part in path.split("/")]
        wanted = re.compile("/".join(segments))
        for verb, route in self.routes:
            if method and verb != method:
                continue
            plain = re.sub(r"\{(\w+)\}", "x", route)
            if wanted.match(plain) if path.endswith("/") else _matches(path, route):
                return True
        return path.count("/") == 1 and len(path) <= 1


def _filled(line: str, variables: dict[str, str]) -> str:
    """Return a line with variables of the lines before it filled in; note the one that it sets."""
    line = re.sub(r"\$\{?(\w+)\}?", lambda found: variables.get(found[1], found[0]), line)
    if found := re.fullmatch(r"\s*(\w+)=([^\s(\"']+)\s*", line):
        variables[found[1]] = found[2]
    return line


def _matches(path: str, route: str) -> bool:
    """Return whether a path is a route's or its end, with anything in place of its parameters."""
    given, known = path.strip("/").split("/"), route.strip("/").split("/")
    if len(given) > len(known):
        return False
    return all(
        part == there or there.startswith("{") or part.startswith("{")
        for part, there in zip(reversed(given), reversed(known), strict=False)
    )


@cache
def _codes() -> dict[str, int]:
    return {code.value: refusal.status for code, refusal in TABLE.items()}


@cache
def _group() -> Any:
    return typer.main.get_command(app)


def _liveroom_problems(words: Sequence[str]) -> Iterator[str]:
    """Yield what `liveroom` would refuse of its words, but for what stands for a value."""
    words = [bare for word in words if (bare := word.strip("[]")) not in {"...", "…", ""}]
    if not words or words[0].isupper() or words[0] in {"--help", "--version"}:
        return
    command = _group().commands.get(words[0])
    if command is None:
        yield f"liveroom {words[0]}"
        return
    context = typer.Context(command)
    try:
        values, rest, _ = command.make_parser(context).parse_args(list(words[1:]))
    except Exception as error:  # noqa: BLE001 - whatever click raises, it refuses that
        if "requires an argument" not in str(error):
            yield f"liveroom {' '.join(words)}: {error}"
        return
    if rest:
        yield f"liveroom {' '.join(words)}: {rest} is too much"
    for name, hint in typing.get_type_hints(command.callback).items():
        choices = [each.value for each in hint] if isinstance(hint, type) and issubclass(hint, Enum) else []
        value = values.get(name)
        if choices and isinstance(value, str) and not value.isupper() and value not in choices:
            yield f"liveroom {words[0]}: {value} is none of {', '.join(choices)}"


def _events() -> Iterator[str]:
    """Yield the events of all log calls."""
    levels = {"debug", "info", "warning", "error", "exception", "critical", "log"}
    for package in names.PRODUCT:
        for path in (names.ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(func=ast.Attribute(attr=level), args=[first, *_]) if level in levels:
                        yield from (
                            each.value
                            for each in ast.walk(first)
                            if isinstance(each, ast.Constant) and isinstance(each.value, str)
                        )


def _routes(vocabulary: names.Vocabulary) -> Iterator[tuple[str, str]]:
    for path, methods in json.loads((names.ROOT / "docs/openapi.json").read_bytes())["paths"].items():
        yield from ((method.upper(), path) for method in methods)
    yield from (("GET", WEBSOCKET_PATH), ("GET", EVENTS_PATH), ("POST", EVENTS_PATH), ("GET", "/v1/openapi.json"))
    added = re.compile(r"add_(get|post|put|patch|delete)\(\s*\"(/[^\"]*)\"")
    for path in vocabulary.modules.values():
        if path.path.split("/")[0] in names.PRODUCT:
            source = (names.ROOT / path.path).read_text(encoding="utf-8")
            yield from ((method.upper(), route) for method, route in added.findall(source))


def read(vocabulary: names.Vocabulary) -> References:
    """Return what documents may refer to."""
    told = {metric for made in metric_catalog.BY_SERVICE.values() for metric in made}
    manifests = "".join(path.read_text(encoding="utf-8") for path in (names.ROOT / "deploy").rglob("*.yaml"))
    return References(
        vocabulary,
        frozenset(each for each in vocabulary.defined if each.startswith("LIVEROOM_")).union(_variables()),
        frozenset(metric.name + end for metric in told for end in _ENDS) | {name for name, _ in records(Windows())},
        frozenset(_events()),
        frozenset(_routes(vocabulary)),
        frozenset(alert.name for alert in alerts(Windows())),
        frozenset(panel.title for board in BOARDS for row in board.rows for panel in row.panels),
        frozenset(board.title.removeprefix("liveroom / ") for board in BOARDS),
        frozenset(re.findall(r"kind: Deployment\nmetadata:\n  name: ([\w-]+)", manifests)),
    )


def _variables() -> Iterator[str]:
    """Yield the variables that tools and tests read, which are no settings of a service."""
    for package in (*names.PRODUCT, "tests"):
        for path in (names.ROOT / package).rglob("*.py"):
            if "tests/docs" not in path.as_posix():
                yield from re.findall(r"[\"'](LIVEROOM_[A-Z_]+)[\"']", path.read_text(encoding="utf-8"))


# ---- links
def anchors(document: Path) -> set[str]:
    """Return what a link may name behind `#`: the headings, as GitHub writes them."""
    found: dict[str, int] = {}
    text = _FENCE.sub("", document.read_text(encoding="utf-8"))
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found[name] = found.get(name, -1) + 1
    return {name if not number else f"{name}-{number}" for name, most in found.items() for number in range(most + 1)}


def broken_links(document: Path) -> Iterator[str]:
    """Yield the links of a document that lead to no file or heading of ours."""
    text = _FENCE.sub("", document.read_text(encoding="utf-8"))
    for found in re.finditer(r"\]\(\s*<?([^)\s#>]*)(?:#([^)\s>]*))?>?\s*\)", text):
        target, anchor = found[1], found[2]
        if "://" in target or target.startswith("mailto:"):
            continue
        file = document.parent / target if target else document
        if not file.exists() or (anchor and (file.suffix != ".md" or anchor not in anchors(file))):
            yield f"{target}#{anchor}" if anchor else target


def tracked(*patterns: str) -> list[Path]:
    """Return the files of the repository, also those that are not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=names.ROOT, capture_output=True, text=True, check=True).stdout
    return [path for line in sorted(set(listed.splitlines())) if (path := names.ROOT / line).is_file()]
