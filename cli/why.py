"""`liveroom why`: what happened to a request or to a user, by the lines of the services' logs.

Owns the search, and the words for people; what events and codes mean is `liveroom.log_catalog`'s.
Lines may come with anything before their JSON, such as the names of pods.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from cli.endpoints import UsageError
from cli.ingress_client import target
from cli.printable import printable
from devstack.running import Running, find_running
from liveroom import closecodes
from liveroom.errors import TABLE, Code, ExplainedError
from liveroom.log_catalog import EVENTS, TODO
from liveroom.refusals import user_mark
from liveroom.tokens import MIN_SECRET_BYTES

STDIN: Final = "-"
_SHOWN_APART: Final = frozenset({"event", "timestamp", "level", "service", "instance", "exception", "user", "request_id"})
_LINK: Final = re.compile(r"\[([^]]+)\]\(([^)]+)\)")


class LogsError(ExplainedError):
    """A log cannot be read; the message names it."""


class Found(NamedTuple):
    """A line. `fields`: None where it is no JSON; then `text` is all that there is."""

    at: str
    fields: dict[str, Any] | None
    text: str


def run_why(request_id: str, user: str, log_key: str, files: Sequence[str]) -> int:
    """Print the lines of a request, or of a user, or of both; return 1 where there is none.

    Without `files`, the logs are those of a running system of this user, and so is the key.
    """
    if not (request_id or user):
        raise UsageError("name a request's id, or a user with --user")
    running = next(iter(find_running()), None)
    needles = [request_id] if request_id else []
    if user:
        mark = user_mark(_key(log_key, running), target(user))
        print(f"log lines name this user {mark}")
        needles.append(mark)
    found = sorted(_search(files or _logs_of(running), needles), key=lambda line: line.at)
    for line in found:
        for text in _explained(line):
            print(text)
    if not found:
        print(
            "no line has it: the log may be gone, another service may have it, or too many refusals came at once"
            " (refusals_not_logged)",
            file=sys.stderr,
        )
    return 0 if found else 1


def _key(given: str, running: Running | None) -> bytes:
    key = (given or (running.log_key if running is not None else "")).encode()
    if len(key) < MIN_SECRET_BYTES:
        raise UsageError(f"--user needs the services' log key (LIVEROOM_LOG_KEY), at least {MIN_SECRET_BYTES} bytes")
    return key


def _logs_of(running: Running | None) -> list[str]:
    if running is None:
        raise UsageError("no logs: name some with --log, - for standard input, or start `liveroom up`")
    return sorted(map(str, Path(running.logs).rglob("*.log")))


def _search(files: Iterable[str], needles: Sequence[str]) -> Iterator[Found]:
    for name in files:
        if name == STDIN:
            yield from _matching(sys.stdin, needles)
            continue
        try:
            with Path(name).open(encoding="utf-8", errors="replace") as lines:
                yield from _matching(lines, needles)
        except OSError as error:
            raise LogsError(f"{name} cannot be read: {error.strerror or error}") from None


def _matching(lines: Iterable[str], needles: Sequence[str]) -> Iterator[Found]:
    for line in lines:
        if not any(needle in line for needle in needles):
            continue
        fields = _fields(line)
        if fields is None:
            yield Found("", None, line.rstrip("\n"))
        elif any(value in needles for value in fields.values() if isinstance(value, str)):
            yield Found(str(fields.get("timestamp", "")), fields, "")


def _fields(line: str) -> dict[str, Any] | None:
    """Return the JSON object that a line ends with, or None."""
    try:
        fields = json.loads(line[line.index("{") :])
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _explained(line: Found) -> Iterator[str]:
    """Yield what people read of a line."""
    if line.fields is None:
        yield printable(line.text)
        return
    fields = line.fields
    event = str(fields.get("event", ""))
    shown = " ".join(
        f"{name}={_value(value)}" for name, value in fields.items() if name not in _SHOWN_APART and value is not None
    )
    who = f"{fields.get('instance', '?')} ({fields.get('service', '?')})"
    yield printable(f"{line.at}  {who}  {event}  {shown}".rstrip())
    for text in _meaning(event, fields.get("code")):
        yield f"    {text}"
    for text in str(fields.get("exception", "")).splitlines():
        yield f"    {printable(text)}"


def _value(value: object) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False)


def _meaning(event: str, code: object) -> Iterator[str]:
    """Yield what an event and its code mean, and what to do."""
    known = EVENTS.get(event)
    if known is None:
        yield "This version does not know the event."
        return
    yield _plain(known.about)
    if isinstance(code, str) and code in {each.value for each in Code}:
        yield f"{code}: {TABLE[Code(code)].title}"
        yield f"To do: {_plain(TODO[Code(code)])}"
    elif isinstance(code, int) and code in closecodes.TABLE:
        rule = closecodes.TABLE[code]
        yield f"{code}: {rule.about} {'The viewer connects again.' if rule.reconnect else 'The viewer does not connect again.'}"
    elif known.todo:
        yield f"To do: {_plain(known.todo)}"


def _plain(markdown: str) -> str:
    """Return a text without the marks of Markdown; a link names its document."""
    return _LINK.sub(r"\1 (docs/\2)", markdown).replace("`", "")
