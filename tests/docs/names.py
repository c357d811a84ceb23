"""Resolves the back-ticked names in docstrings and documents against the code.

A docstring may name what its own module mentions in code (a parameter, a local name, a library's
name), and what any module defines: modules, classes, functions, fields, and texts that are whole
constants (enum values, error codes, events, settings). A local name of another module vouches for
nothing. A document may name what any module defines, and words of the files that are not Python.
Paths, commands, options, HTTP routes, metrics and dotted names are looked up as what they are.
Literal values (numbers, JSON, quoted text, patterns) are not names. Code blocks are looked at by
`references`.

What a docstring says of its callers is held to the code: a module that is named after "Called by",
or before "calls it", imports this one, or calls a method that no other module of the package has.

Called by the tests of documents.
"""

import builtins
import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

import typer

from cli.commands import app
from liveroom import metric_catalog, settings
from tests.docs.source import WORD, Module, read_module

ROOT: Final = Path(__file__).resolve().parents[2]
SERVICES: Final = ("ingress", "broadcaster", "edge", "scheduler", "autoscaler")
PRODUCT: Final = ("liveroom", *SERVICES, "viewer", "dashboards", "cli", "devstack")
# Names of other programs' interfaces, which no code here mentions: whose they are.
FOREIGN: Final = {
    "python3-venv": "a package of Debian",
    "externalTrafficPolicy": "a field of a Kubernetes Service",
    "resourceVersion": "a field of every Kubernetes object",
    "autoscaling.keda.sh/paused": "an annotation of a KEDA ScaledObject",
    "CLUSTER-cluster-ca-cert": "a Secret of Strimzi",
    "$ConnectionString": "the user name of Azure Event Hubs",
    "ignoreNullValues": "a field of KEDA's Prometheus trigger",
    "--property": "an option of Kafka's console tools",
    "--formatter-property": "an option of Kafka's console tools",
    "--reader-property": "an option of Kafka's console tools",
    "partitioner": "a setting of librdkafka",
    "script-src": "a directive of a Content-Security-Policy",
    "moduleResolution": "an option of TypeScript",
    "LegacyPartitioner": "a class of KafkaJS",
    "DefaultPartitioner": "a class of KafkaJS",
    "kafka.Murmur2Balancer": "a class of kafka-go",
    "sarama.NewCustomHashPartitioner": "a function of Sarama",
}
_SAMPLES: Final = "tests.docs.test_names"  # its texts name what is not there
_OTHER_TEXTS: Final = frozenset(
    {"js", "ts", "html", "css", "yaml", "yml", "toml", "json", "env", "properties", "proto", "txt", ""}
)
_NO_WORDS: Final = ("tests/data/", "viewer/web/vendor/", "docs/", ".")

_SPAN: Final = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_FENCE: Final = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_ROUTE: Final = re.compile(r"(?P<verb>(?:GET|POST|PUT|PATCH|DELETE) )?(?P<path>/[\w./{}*-]*)(?:\?.*)?")
_METRIC: Final = re.compile(r"liveroom_\w+\{(.*)\}")
_NAME: Final = re.compile(r"\.?[A-Za-z_$][\w$]*(?:[.:-][\w$]+)*")
_NAME_IN_TEXT: Final = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+|[A-Za-z_]*_\w+|[A-Z][a-z0-9]+[A-Z]\w*")
_CALLERS: Final = re.compile(r"\bCalled\s+by\b.*?(?:;|\.(?:\s|$)|\Z)|`[\w.]+`(?:,? and `[\w.]+`)? calls? it\b", re.DOTALL)
_LITERAL: Final = re.compile(r"[\d.,:+-]+ ?(?:[a-zA-Z]{1,3}|[KMG]iB)|\d[\w.:^-]*")


@dataclass(frozen=True)
class Vocabulary:
    """All that a back-ticked name may stand for.

    `defined` counts everywhere, `words` in documents alone.
    """

    modules: dict[str, Module]
    files: frozenset[str]
    defined: frozenset[str]
    words: frozenset[str]
    targets: frozenset[str]
    extras: frozenset[str]

    @cached_property
    def routes(self) -> frozenset[str]:
        """The paths of HTTP."""
        texts = (text.partition("?")[0] for module in self.modules.values() for text in module.texts if text.startswith("/"))
        return frozenset(texts).union(json.loads((ROOT / "docs/openapi.json").read_bytes())["paths"])

    @cached_property
    def patterns(self) -> frozenset[str]:
        """Formatted texts."""
        return frozenset(pattern for module in self.modules.values() for pattern in module.patterns)

    def problems(self, text: str, where: Module | None) -> Iterator[tuple[int, str]]:
        """Yield the line and the text of each name that stands for nothing.

        `where` is the module whose docstring the text is; None for a document.
        """
        prose = text
        if where is None:
            prose = _FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)
        for found in _SPAN.finditer(prose):
            span = " ".join(found[1].split())
            if not self.resolves(span, where):
                yield prose.count("\n", 0, found.start()) + 1, span
        if where is not None:
            for line, caller in self._wrong_callers(text, where):
                yield line, f"Called by {caller}"

    def resolves(self, span: str, where: Module | None) -> bool:
        """Return whether what stands between two back-ticks stands for something."""
        span = span.removeprefix(".venv/bin/")
        first, _, rest = span.partition(" ")
        if _is_literal(span) or re.split(r"[=: {]", span)[0] in FOREIGN or "://" in span:
            return True
        if rest and first in ("make", "liveroom", "python"):
            return self._is_command(span)
        if (route := _ROUTE.fullmatch(span)) and (route["verb"] or self._is_route(route["path"])):
            return self._is_route(route["path"])
        if rest:
            is_command = first not in _commands() or _options_in(span) <= _commands()[first]
            return is_command and all(self._is_name(name, where) for name in _NAME_IN_TEXT.findall(span))
        if span.startswith("--"):
            return span.partition("=")[0] in _options() | self.defined
        if "/" in span:
            return self._is_path(span, where)
        return self._is_name(span, where)

    def _is_name(self, span: str, where: Module | None) -> bool:
        if (labels := _METRIC.fullmatch(span)) and not set(re.findall(r"(\w+)(?:=|,|$)", labels[1])) <= self.defined:
            return False
        span = re.sub(r"\(.*\)$|\{.*\}$|[=:?#].*$", "", span).lstrip("~$#?").replace("...", "*")
        if extra := re.fullmatch(r"(\w+)\[(.+)\]", span):
            return extra[2] in self.extras if extra[1] == "liveroom" else self._is_name(extra[1], where)
        if "*" in span:
            return span in (where.patterns if where else self.patterns) or any(fnmatchcase(name, span) for name in self.defined)
        if not _NAME.fullmatch(span):
            return not re.search(r"[A-Za-z_]{2}", span)
        if self._is_known(span, where):
            return True
        if span.startswith("_"):  # a suffix of names
            return any(name.endswith(span) for name in self.defined)
        parts = span.strip(".").split(".")
        return len(parts) > 1 and self._is_dotted(parts, where)

    def _is_known(self, name: str, where: Module | None) -> bool:
        if name in self.defined or name in FOREIGN or name in sys.stdlib_module_names or ("." in name and self._is_file(name)):
            return True
        if any(fnmatchcase(name, pattern) for pattern in (where.patterns if where else self.patterns)):
            return True
        if where:
            return name in where.own
        return name.lstrip(".") in self.words

    def _is_dotted(self, parts: list[str], where: Module | None) -> bool:
        """Return whether names lead from a module, a class, a field or a library to something."""
        for length in range(len(parts), 0, -1):
            prefix, rest = ".".join(parts[:length]), parts[length:]
            for module in self.modules.values():
                if module.name == prefix or module.name.endswith(f".{prefix}"):
                    if not rest or (len(rest) == 1 and rest[0] in module.top):
                        return True
                    if len(rest) > 1 and self._is_member(rest[-2], rest[-1]):
                        return True
        return (
            self._is_member(parts[-2], parts[-1])
            or (where is not None and all(part in where.own for part in parts))
            or (where is None and parts[0] not in self.defined and all(part in self.words for part in parts))
            or _in_library(".".join(parts))
        )

    def _is_member(self, owner: str, name: str) -> bool:
        """Return whether a class, or the class of a field, has a member."""
        modules = self.modules.values()
        classes = {owner}.union(*(module.types.get(owner, ()) for module in modules))
        return any(name in module.members.get(each, ()) for module in modules for each in classes)

    def _is_file(self, end: str) -> bool:
        return end in self.files or any(file.endswith(f"/{end}") for file in self.files)

    def _is_path(self, span: str, where: Module | None) -> bool:
        span = span.removeprefix("./").rstrip("/")
        if span.startswith("~/"):
            return all(part.lstrip(".") in self.words for part in span.split("/")[1:])
        folders = ("", "docs", *(map(str, PurePosixPath(where.path).parents) if where else ()))
        for folder in folders:
            wanted = str(PurePosixPath(folder, span))
            if any(file.startswith(f"{wanted}/") or fnmatchcase(file, wanted) for file in self.files):
                return True
        if self._is_file(span) or any(f"/{span}/" in file for file in self.files):
            return True
        if span in self.defined or (where is None and span in self.words):
            return True
        return all(self._is_name(part, where) for part in span.split("/"))

    def _is_route(self, path: str) -> bool:
        """Return whether a path is the end of a route, or one that ends in a slash begins one."""
        segments = (r"[^/]+" if part.startswith("{") else re.escape(part) for part in path.rstrip("*").split("/"))
        wanted = re.compile("/".join(segments))
        if path.endswith("/"):
            return any(wanted.match(route) for route in self.routes)
        return any(wanted.fullmatch(route[start.start() :]) for route in self.routes for start in re.finditer("/", route))

    def _is_command(self, command: str) -> bool:
        program, first, *_ = words = command.split(" ")
        if program == "make":
            return first in self.targets
        if program == "python":
            if "-m" in words[:-1]:
                module = words[words.index("-m") + 1]
                if ours := self.modules.get(f"{module}.__main__") or self.modules.get(module):
                    return _options_in(command) <= ours.texts | {"--help"}
                return module.isupper() or _in_library(module)
            return any(self._is_file(word) for word in words)
        if first in {"...", "--help", *_own_options()} or first.isupper():
            return True
        return first in _commands() and _options_in(command) <= _commands()[first] | {"--help"}

    def _own_methods(self, module: Module) -> set[str]:
        """Return the methods that no other module of its package has."""
        package = module.name.partition(".")[0]
        others = (each.methods for each in self.modules.values() if each is not module and each.path.startswith(f"{package}/"))
        return module.methods.difference(*others)

    def _wrong_callers(self, text: str, where: Module) -> Iterator[tuple[int, str]]:
        for sentence in _CALLERS.finditer(text):
            for span in re.findall(r"`([^`]+)`", sentence[0]):
                caller = self.modules.get(f"{where.package}.{span}") or self.modules.get(span)
                if caller and where.name not in caller.imports and not caller.called & self._own_methods(where):
                    yield text.count("\n", 0, sentence.start()) + 1, span


def _options_in(command: str) -> set[str]:
    return set(re.findall(r"(?:^|[\s\[])(--[a-z][a-z-]*)", command))


@cache
def _commands() -> dict[str, frozenset[str]]:
    """Return the subcommands of `liveroom`, each with its options."""
    group: Any = typer.main.get_command(app)
    return {
        name: frozenset(option for each in command.params for option in (*each.opts, *each.secondary_opts))
        for name, command in group.commands.items()
    }


@cache
def _own_options() -> frozenset[str]:
    """Return the options of `liveroom` itself."""
    return frozenset(option for each in typer.main.get_command(app).params for option in each.opts)


@cache
def _options() -> frozenset[str]:
    return _own_options().union({"--help"}, *_commands().values())


@cache
def _in_library(name: str) -> bool:
    """Return whether a library has the name: the path of a module, and of attributes."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            value = getattr(value, part, None)
        return value is not None
    return False


def _is_literal(span: str) -> bool:
    if not re.search(r"[A-Za-z_]", span) or span[0] in "\"'{[<^\\|":
        return True
    try:
        json.loads(span)
    except ValueError:
        return _LITERAL.fullmatch(span) is not None
    return True


def read(root: Path = ROOT) -> Vocabulary:
    """Return the vocabulary of a tree of files."""
    paths = [path for path in root.iterdir() if path.is_file()]
    for folder in (*PRODUCT, "docs", "deploy", "tests"):
        paths += (path for path in (root / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    files = {path.relative_to(root).as_posix(): path for path in paths}
    modules, words = {}, set()
    for name, path in files.items():
        if path.suffix == ".py" and not name.endswith("_pb2.py"):
            module = read_module(name, path.read_text(encoding="utf-8"))
            modules[module.name] = module
        elif path.suffix.removeprefix(".") in _OTHER_TEXTS and not name.startswith(_NO_WORDS):
            words.update(WORD.findall(path.read_text(encoding="utf-8")))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return Vocabulary(
        modules=modules,
        files=frozenset(files),
        defined=frozenset(_defined(modules.values(), project)),
        words=frozenset(words.union(*map(_mentioned, modules.values()))),
        targets=frozenset(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)),
        extras=frozenset(project["optional-dependencies"]),
    )


def _defined(modules: Iterable[Module], project: dict[str, Any]) -> Iterator[str]:
    yield from dir(builtins)
    for module in modules:
        yield from (module.name, *module.name.split("."))
        if module.path.split("/")[0] in PRODUCT:
            yield from module.top
            yield from (member for members in module.members.values() for member in members)
            yield from (text for text in module.texts if re.fullmatch(r"[\w.:/+-]+", text))
    yield from (row[0] for model in settings.SERVICES.values() for row in settings.fields(model))
    metrics = (each for each in vars(metric_catalog).values() if isinstance(each, metric_catalog.Metric))
    yield from (name for metric in metrics for name in (metric.name, *metric.labels))
    needed = (project["dependencies"], *project["optional-dependencies"].values())
    yield from (re.split(r"[\[<>=;]", each)[0] for some in needed for each in some)


def _mentioned(module: Module) -> set[str]:
    """Return what documents may name of a module beside what is defined for all."""
    if module.name == _SAMPLES:
        return set()
    return module.top | module.passed | module.imported | {text for text in module.texts if _NAME.fullmatch(text)}
