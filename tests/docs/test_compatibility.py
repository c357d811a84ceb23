"""What the page on compatibility says of services and types is what the code has."""

import inspect
import itertools
import re
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import pytest

from liveroom import users
from tests.docs import names
from viewer import client, effects, sender

PAGE: Final = (names.ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
PACKAGES: Final = {
    "ingresses": "ingress",
    "broadcasters": "broadcaster",
    "gateways": "edge",
    "schedulers": "scheduler",
    "autoscalers": "autoscaler",
}
ROW: Final = re.compile(
    r"^\| [^|]*\(`(?P<topic>[a-z]+)`\) \|(?P<writers>[^|]*)\|(?P<readers>[^|]*)\|(?P<late>[^|]*)\|$", re.MULTILINE
)
ROWS: Final = {row["topic"]: row for row in ROW.finditer(PAGE)}
MENTIONS: Final = {  # of a topic beside `topics.NAME`: the readers of it that `liveroom` has
    "broadcast": r"QueueReader|LogReader\(",
    "moderation": r"follow_rules",
}


def listed(cell: str) -> list[str]:
    return [name.strip() for name in cell.split(",") if name.strip()]


def mentioning(topic: str) -> set[str]:
    """The services whose code names a topic, to read or to write it."""
    mention = re.compile(rf"(?<!class )\b(topics\.{topic.upper()}\b|{topic.upper()}\b|{MENTIONS.get(topic, '(?!)')})")
    found = set()
    for service, package in PACKAGES.items():
        texts = (path.read_text(encoding="utf-8") for path in (names.ROOT / package).rglob("*.py"))
        if any(mention.search(text) for text in texts):
            found.add(service)
    return found


@pytest.mark.parametrize("topic", ["uplink", "broadcast", "moderation", "presence", "control", "gateways"])
def test_the_services_that_use_a_topic_are_those_in_its_row(topic: str) -> None:
    row = ROWS[topic]
    assert {*listed(row["writers"]), *listed(row["readers"])} == mentioning(topic)


@pytest.mark.parametrize("topic", ROWS)
def test_the_last_column_names_the_readers_that_are_not_replaced_before_every_writer(topic: str) -> None:
    order = re.findall(r"^\d\. (\w+)[,.]$", PAGE, re.MULTILINE)
    assert set(order) == set(PACKAGES)
    row = ROWS[topic]
    first = min(map(order.index, listed(row["writers"])))
    assert listed(row["late"]) == [reader for reader in listed(row["readers"]) if order.index(reader) >= first]


def own(hint: Any) -> Iterator[type]:
    """The project's own types in a type hint."""
    if isinstance(hint, list):
        yield from itertools.chain.from_iterable(map(own, hint))
    yield from itertools.chain.from_iterable(map(own, typing.get_args(hint)))
    if isinstance(hint, type) and hint.__module__.partition(".")[0] in {"liveroom", "viewer"}:
        yield hint


def hints_of(defined: Any) -> Iterator[Any]:
    """The type hints of a function, or of what a class shows."""
    if isinstance(defined, property):
        defined = defined.fget
    if inspect.isfunction(defined):
        yield from typing.get_type_hints(defined).values()
    elif isinstance(defined, type):
        yield from (hint for name, hint in typing.get_type_hints(defined).items() if not name.startswith("_"))
        shown = (member for name, member in vars(defined).items() if name == "__init__" or not name.startswith("_"))
        yield from itertools.chain.from_iterable(hints_of(member) for member in shown if not isinstance(member, type))
    else:
        yield defined


def types_in(modules: tuple[ModuleType, ...]) -> set[type]:
    """The project's own types that what these modules define consists of, takes and returns."""
    found: set[type] = set()
    waiting = [
        defined
        for module in modules
        for name, defined in vars(module).items()
        if not name.startswith("_") and getattr(defined, "__module__", None) == module.__name__
    ]
    while waiting:
        for hint in hints_of(waiting.pop()):
            new = set(own(hint)) - found
            found |= new
            waiting += new
    return found


def test_the_types_that_the_stable_modules_consist_of_are_stable_too() -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| Python: "))
    modules = (client, sender, effects, users)
    assert {f"`{module.__name__}`" for module in modules} <= set(row.replace(",", " ").replace(";", " ").split())
    others = {of for of in types_in(modules) if of.__module__ not in {module.__name__ for module in modules}}
    assert others, "viewers get messages"
    for of in others:
        assert re.search(rf"`{of.__name__}`[^;|]* of `{of.__module__}`", row), of
