# ruff: noqa: INP001, SLF001, T201 - a script beside the documents, which describe the layouts that readers must not touch
"""Generates the parts of docs/ that come from the code: `python docs/generate.py`.

With `--check` it writes nothing, names the files that are out of date, and exits with 1. In the
Markdown files, a generated table stands between `<!-- generated: NAME -->` and `<!-- end -->`. The
files in docs/schemas are generated whole. tests/liveroom/test_docs.py runs the check.
"""

import argparse
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Any, Final, Union, get_args, get_origin

import msgspec

WIDTH: Final = 100  # columns of prose
FOLDER: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from autoscaler import policy  # noqa: E402
from docs import javascript  # noqa: E402
from docs.log_calls import LogCall, log_calls  # noqa: E402
from ingress import openapi, permissions  # noqa: E402
from liveroom import (  # noqa: E402
    access,
    bodies,
    closecodes,
    errors,
    kinds,
    log_catalog,
    metric_catalog,
    settings,
    topics,
    variables,
    wire,
)
from liveroom.dead_letter_reasons import DEAD_LETTER_REASONS  # noqa: E402
from liveroom.records import balance, broadcast, codec, control, revocations, sections, snapshot, uplink  # noqa: E402

_BLOCK: Final = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |\n" for line in lines
    )


_PLAIN_NAMES: Final = {
    "str": "text",
    "int": "integer",
    "float": "number",
    "bool": "true or false",
    "bytes": "bytes",
    "datetime": "time with its zone",
}


# ---- what a type is called in a table
def _named(of: Any) -> str:
    origin, inner = get_origin(of), get_args(of)
    if origin is not None and hasattr(of, "__metadata__"):
        if inner[0] is msgspec.Raw:
            return "object"
        return _named(inner[0]) + _limits(of.__metadata__)
    if inner:
        return _named_generic(origin, inner)
    if of is type(None):
        return "null"
    if of is msgspec.Raw:
        return "any"
    if isinstance(of, type) and issubclass(of, msgspec.Struct | Enum):
        return f"`{of.__name__}`"
    return _PLAIN_NAMES.get(str(of.__name__), str(of.__name__))


def _named_generic(origin: Any, inner: tuple[Any, ...]) -> str:
    """Return the name of a list, a tuple, a dictionary or a union. `inner`: its type arguments."""
    if origin is list:
        return f"list of {_named(inner[0])}"
    if origin is tuple:
        return f"list of {_named(inner[0])}" if inner[-1] is Ellipsis else f"[{', '.join(map(_named, inner))}]"
    if origin is dict:
        return f"{{{_named(inner[0])}: {_named(inner[1])}}}"
    return " or ".join(_named(each) for each in inner if each is not msgspec.UnsetType)


def _limits(metadata: Iterable[Any]) -> str:
    limits = []
    for meta in metadata:
        low, high = meta.ge if meta.ge is not None else meta.min_length, meta.le if meta.le is not None else meta.max_length
        if pattern := meta.pattern or (meta.extra_json_schema or {}).get("pattern"):
            limits.append(f"`{pattern.replace(chr(92) + 'Z', '$')}`")
        elif low is not None and high is not None:
            limits.append(f"{low} to {high if high != 2**53 else '2^53'}")
        elif high is not None:
            limits.append(f"at most {high}")
    return f" ({', '.join(limits)})" if limits else ""


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if field.default is msgspec.UNSET:
        return "left out"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{_shown(field.default_factory())}`"
    return f"`{_shown(field.default)}`"


def _shown(value: Any) -> str:
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode()
    return msgspec.json.encode(value).decode()


def _struct(of: type[msgspec.Struct]) -> str:
    rows = [(f"`{f.encode_name}`", _named(f.type), _default(f)) for f in msgspec.structs.fields(of)]
    config = of.__struct_config__
    if config.tag is not None:
        rows.insert(0, (f"`{config.tag_field}`", f'`"{config.tag}"`', "required"))
    return f"{_prose(of)}\n{_table(('field', 'type', 'default'), rows)}"


def _filled(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) + "\n"


def _prose(of: Any) -> str:
    """Return a docstring as Markdown: its paragraphs and lists are kept, its lines are filled."""
    parts = []
    for paragraph in inspect.cleandoc(of.__doc__ or "").split("\n\n"):
        items = re.split(r"\n(?=- )", paragraph)
        parts.append("".join(_filled(" ".join(item.split())) for item in items))
    return "\n".join(parts)


def _values(of: type[Enum]) -> str:
    return _filled(", ".join(f"`{each.value}`" for each in of) + ".")


def _about(of: Any) -> str:
    return " ".join(inspect.cleandoc(of.__doc__ or "").split())


def _structs(*of: type[msgspec.Struct]) -> str:
    return "\n".join(f"### {struct.__name__}\n{_struct(struct)}" for struct in of)


# ---- tables
def _topics() -> str:
    def kept(topic: topics.Topic) -> str:
        hours = topic.retention_ms / 3_600_000
        units = ((hours / 24, "days"), (hours, "h"), (hours * 60, "min"))
        time = next((f"{count:g} {unit}" for count, unit in units if count > 1), "")
        return ", ".join(part for part in ("compacted" if topic.compacted else "", time) if part)

    rows = [(f"`{t.name}`", t.key, t.about, t.partitions or "P", kept(t)) for t in topics.ALL]
    return _table(("topic", "key", "content", "partitions", "retention"), rows)


def _access() -> str:
    def named(names: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in names) or "none"

    return _table(
        ("user", "reads", "writes", "groups"),
        (
            (
                f"`{access.user_of(name)}`",
                named(topic.name for topic in each.reads),
                named(topic.name for topic in each.writes),
                named(each.groups),
            )
            for name, each in access.USERS.items()
        ),
    )


def _kinds() -> str:
    made = {kind: f"`{body.__name__}`" for kind, body in bodies.BODY_OF.items()}
    made |= {kind: f"`{bodies.Sanction.__name__}`" for kind, of in kinds.CLASS_OF.items() if of is kinds.Class.NOTICE}
    rows = [(f"`{kind.value}`", of.value, made.get(kind, "any object")) for kind, of in kinds.CLASS_OF.items()]
    return _table(("kind", "class", "`data`"), rows)


def _close_codes() -> str:
    rows = [
        (
            int(rule.code),
            rule.reason,
            "yes" if rule.reconnect else "no",
            f"{rule.after_s:g}" if rule.reconnect else "",
            rule.about,
        )
        for rule in closecodes.TABLE.values()
    ]
    other = closecodes.ABNORMAL
    rows.append(("any other, or none", other.reason, "yes", f"{other.after_s:g}", other.about))  # type: ignore[arg-type]
    return _table(("code", "reason", "reconnect", "after about (s)", "when"), rows)


def _errors() -> str:
    rows = [(f"`{code.value}`", refusal.status, refusal.title) for code, refusal in errors.TABLE.items()]
    return _table(("code", "HTTP status", "meaning"), rows)


def _settings() -> str:
    parts = []
    common = {row[0] for row in settings.fields(settings.ServiceSettings)}
    shared = [row for row in settings.fields(settings.ServiceSettings) if not row[0].endswith("_PORT")]
    parts.append(("every service", shared))
    for service, model in settings.SERVICES.items():
        own = [row for row in settings.fields(model) if row[0] not in common or row[0].endswith("_PORT")]
        parts.append((service, own))
    texts = []
    for title, rows in parts:
        cells = [(f"`{name}`", _code(default), about) for name, default, about in rows]
        texts.append(f"### {title}\n{_table(('variable', 'default', 'meaning'), cells)}")
    return "\n".join(texts)


def _variables() -> str:
    kinds = (variables.SOURCES, variables.CLIENTS, variables.EXPORTED, variables.MACHINE)
    return _table(("variable", "meaning"), ((f"`{name}`", about) for kind in kinds for name, about in kind.items()))


def _code(default: str) -> str:
    """Return a default as code; notes in brackets are no code."""
    return default if not default or default.startswith("(") else f"`{default}`"


def _rates() -> str:
    def per_s(rate: float) -> str:
        return f"{rate:g}" if rate else "no limit"

    usual = [*settings.USUAL_RATES.items(), ("all others", settings.OTHER_RATE)]
    rows = [
        (name if name == "all others" else f"`{name}`", per_s(rate.user_per_s), f"{rate.user_burst:g}", per_s(rate.room_per_s))
        for name, rate in usual
    ]
    return _table(("kind", "one user, per second", "burst", "one room, per second"), rows)


def _metrics() -> str:
    groups = [
        ("every service", metric_catalog.EVERYWHERE),
        ("every service but the canary", metric_catalog.WITH_KAFKA),
        ("ingress, broadcaster and autoscaler", metric_catalog.CLUSTER_HEALTH),
        ("ingress", metric_catalog.INGRESS),
        ("broadcaster", metric_catalog.BROADCASTER),
        ("edge", metric_catalog.EDGE),
        ("scheduler", metric_catalog.SCHEDULER),
        ("autoscaler", metric_catalog.AUTOSCALER),
        ("canary", metric_catalog.CANARY),
    ]
    parts = []
    for title, made in groups:
        rows = [(f"`{m.name}`", m.shape.value, ", ".join(f"`{label}`" for label in m.labels), m.about) for m in made]
        parts.append(f"### {title}\n{_table(('name', 'type', 'labels', 'meaning'), rows)}")
    return "\n".join(parts)


LOGGING: Final = ("liveroom", "ingress", "broadcaster", "edge", "scheduler", "autoscaler", "viewer")


def _log_events() -> str:
    calls: dict[str, list[LogCall]] = {}
    for call in log_calls(FOLDER.parent, LOGGING):
        calls.setdefault(call.event or "", []).append(call)

    def row(name: str, event: log_catalog.Event) -> tuple[object, ...]:
        made = calls[name]
        fields = dict.fromkeys(field for call in made for field in call.fields or ())
        packages = dict.fromkeys(_LOGS_AS.get(call.package, call.package) for call in made)
        levels = dict.fromkeys("error" if call.level == "exception" else call.level for call in made)
        named = ", ".join(f"`{field}`" for field in fields)
        return f"`{name}`", ", ".join(levels), ", ".join(packages), named, event.about, event.todo

    head = ("event", "level", "logged by", "fields", "meaning", "what to do")
    return "\n".join(
        f"### {group.title}\n{_table(head, (row(name, event) for name, event in group.events.items()))}"
        for group in log_catalog.GROUPS
    )


_LOGS_AS: Final = {"liveroom": "all that have it", "viewer": "canary"}


def _log_codes() -> str:
    rows = [(f"`{code.value}`", refusal.title, log_catalog.TODO[code]) for code, refusal in errors.TABLE.items()]
    return _table(("code", "meaning", "what to look at"), rows)


def _layouts() -> str:
    def fields(layout: str, names: tuple[str, ...], size: int) -> str:
        widths = {"Q": "unsigned 64", "q": "signed 64", "I": "unsigned 32", "H": "unsigned 16", "B": "unsigned 8"}
        parts = re.findall(r"\d+s|[A-Za-z]", layout.removeprefix("<"))
        rows = [(f"`{name}`", widths.get(part, f"{part[:-1]} bytes")) for name, part in zip(names, parts, strict=True)]
        return f"{_table(('field', 'type'), rows)}\n{size} bytes.\n"

    parts = []
    for title, of, layout, names in (
        ("head of every record", broadcast.Stamp, broadcast._STAMP, ("magic", "version", "type", "epoch", "owner", "serial")),
        ("anchor, after the head of BATCH and SNAPSHOT", broadcast.Anchor, broadcast._ANCHOR, broadcast.Anchor._fields),
        ("CLAIM, after the head", broadcast.Claim, broadcast._CLAIM, ("at_ms",)),
        (
            "BATCH, after the anchor",
            broadcast.Batch,
            broadcast._BATCH,
            ("pos", "at_ms", "oldest_ms", "clock_ms"),
        ),
        ("room entry", broadcast.RoomEntry, broadcast.ROOM_ENTRY, broadcast.RoomEntry._fields),
        ("notice entry", broadcast.NoticeEntry, broadcast.NOTICE_ENTRY, broadcast.NoticeEntry._fields),
        ("card entry", broadcast.CardEntry, broadcast.CARD_ENTRY, broadcast.CardEntry._fields),
        (
            "SNAPSHOT, after the anchor",
            broadcast.SnapshotChunk,
            broadcast._SNAPSHOT,
            ("at_ms", "snapshot_id", "part", "parts"),
        ),
    ):
        parts.append(f"### {title}\n{_prose(of)}\n{fields(layout.format, names, layout.size)}")
    return "\n".join(parts)


def _sections() -> str:
    rows = (
        (
            f"`{type_:#06x}`",
            f"`{type_.name}`",
            "yes" if type_ & sections.MUST else "",
            "yes" if type_ & sections.OWNER else "",
        )
        for type_ in sections.SectionType
    )
    return f"{_prose(sections.SectionType)}\n{_table(('type', 'name', 'must be understood', 'for owners'), rows)}"


def _who(roles: frozenset[kinds.Role]) -> str:
    return ", ".join(role.value for role in kinds.Role if role in roles)


def _interactions() -> str:
    rows = (
        (
            f"`{each.path}`",
            f"`{each.kind.value}`",
            kinds.CLASS_OF[each.kind].value.replace("_", " "),
            each.about,
            _who(each.roles) + (f"; with the switch also {_who(each.claimed_by - each.roles)}" if each.claimed_by else ""),
            ", ".join(f"`{state.value}`" for state in permissions.Restriction if state in each.stopped_by),
        )
        for each in permissions.INTERACTIONS
    )
    return _table(("path", "kind", "class", "action", "roles", "stopped by"), rows)


def _acts() -> str:
    rows = (
        (f"`{each.method} {each.path.removeprefix('/v1')}`", each.about, _who(each.roles))
        for each in permissions.COMMAND_ROUTES
    )
    return _table(("call (below `/v1`)", "action", "roles"), rows)


def _sample(path: str, language: str) -> str:
    return f"```{language}\n{(FOLDER / path).read_text(encoding='utf-8')}```\n"


def _dead_letter_reasons() -> str:
    rows = ((f"`{reason.value}`", each.meaning, each.remedy) for reason, each in DEAD_LETTER_REASONS.items())
    return _table(("code", "what is wrong", "what to do"), rows)


BLOCKS: Final[dict[str, Callable[[], str]]] = {
    "topics": _topics,
    "access": _access,
    "kinds": _kinds,
    "roles": lambda: _values(kinds.Role),
    "bad-record-reasons": lambda: _values(codec.BadRecord),
    "uplink-aiokafka": lambda: _sample("uplink/gift_aiokafka.py", "python"),
    "uplink-kafka-python": lambda: _sample("uplink/gift_kafka_python.py", "python"),
    "uplink-confluent": lambda: _sample("uplink/gift_confluent.py", "python"),
    "uplink-java": lambda: _sample("uplink/Gift.java", "java"),
    "token-python": lambda: _sample("tokens/sign_token.py", "python"),
    "token-node": lambda: _sample("tokens/sign_token.mjs", "javascript"),
    "token-java": lambda: _sample("tokens/SignToken.java", "java"),
    "token-go": lambda: _sample("tokens/sign_token.go", "go"),
    "dead-letter-reasons": _dead_letter_reasons,
    "uplink-fields": lambda: _structs(uplink.Uplink, uplink.Item),
    "bodies": lambda: _structs(*dict.fromkeys(bodies.BODY_OF.values()), bodies.Clear, bodies.Sanction),
    "broadcast-layouts": _layouts,
    "sections": _sections,
    "balance-codes": lambda: _table(("code", "count"), ((str(code), f"`{name}`") for code, name in balance.CODES.items())),
    "state-fields": lambda: _structs(
        snapshot.PartitionState,
        balance.Balance,
        snapshot.RoomFields,
        snapshot.RoomSettings,
        snapshot.RoomChange,
        snapshot.Tombstone,
        snapshot.Seen,
    ),
    "json-records": lambda: _structs(
        control.Presence,
        control.LoadReport,
        control.Limits,
        control.Order,
        control.Moderation,
        uplink.DeadLetter,
        control.Audit,
        revocations.Revocation,
        revocations.ConnectionOrder,
        revocations.ConnectionReport,
        revocations.UserConnection,
    ),
    "server-frames": lambda: _structs(
        wire.Hello,
        wire.Joined,
        wire.Card,
        wire.Carded,
        wire.BatchHeader,
        wire.Message,
        wire.Notice,
        wire.Move,
        wire.Left,
        wire.Beat,
        wire.Error,
    ),
    "pulled": lambda: _structs(wire.Pulled),
    "client-frames": lambda: _structs(wire.Join, wire.Leave, wire.Heartbeat),
    "interactions": _interactions,
    "acts": _acts,
    "close-codes": _close_codes,
    "errors": _errors,
    "settings": _settings,
    "variables": _variables,
    "rates": _rates,
    "policy": lambda: _structs(policy.Policy, policy.Targets, policy.Event),
    "metrics": _metrics,
    "log-events": _log_events,
    "log-codes": _log_codes,
}


# ---- JSON Schemas
def _plain(of: Any, seen: dict[Any, Any]) -> Any:
    """Return the type without the defaults that are raw JSON (`Raw`): msgspec's schemas cannot
    write them.
    """
    if isinstance(of, type) and issubclass(of, msgspec.Struct):
        if of not in seen:
            fields: list[Any] = []
            for field in msgspec.structs.fields(of):
                if isinstance(field.default, msgspec.Raw):
                    fields.append((field.name, field.type | msgspec.UnsetType, msgspec.UNSET))
                elif field.required:
                    fields.append((field.name, _plain(field.type, seen)))
                else:
                    default = field.default
                    if default is msgspec.NODEFAULT:
                        default = msgspec.field(default_factory=field.default_factory)
                    fields.append((field.name, _plain(field.type, seen), default))
            config = of.__struct_config__
            seen[of] = msgspec.defstruct(
                of.__name__, fields, tag=config.tag, tag_field=config.tag_field, kw_only=True, namespace={"__doc__": _about(of)}
            )
        return seen[of]
    if get_origin(of) is not None and type(None) in get_args(of):
        return Union[tuple(_plain(part, seen) for part in get_args(of))]  # noqa: UP007
    return of


def _tidy(schema: Any) -> Any:
    """Replace Python's end-of-text in patterns by ECMA's, and join the lines of docstrings."""
    if isinstance(schema, dict):
        return {key: _tidy(value) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_tidy(value) for value in schema]
    return re.sub(r" - (?=`)", " ", " ".join(schema.replace(r"\Z", "$").split())) if isinstance(schema, str) else schema


def _schema(title: str, *of: Any) -> str:
    seen: dict[Any, Any] = {}
    union: Any = Union[tuple(_plain(one, seen) for one in of)]  # noqa: UP007 - a tuple made here
    (schema,), parts = msgspec.json.schema_components([union], ref_template="#/$defs/{name}")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return json.dumps(_tidy(head | schema | {"$defs": parts}), indent=2, ensure_ascii=False) + "\n"


def _uplink_schema() -> str:
    schema = uplink.schemas()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "a record of the topic uplink"}
    return json.dumps(_tidy(head | schema), indent=2, ensure_ascii=False) + "\n"


SCHEMAS: Final[dict[str, Callable[[], str]]] = {
    "uplink.json": _uplink_schema,
    "client-frame.json": lambda: _schema("a frame from viewer to edge", wire.Join, wire.Leave, wire.Heartbeat),
    "server-frame.json": lambda: _schema(
        "a frame from edge to viewer, or the first line of a batch",
        wire.Hello,
        wire.Joined,
        wire.Carded,
        wire.Left,
        wire.Notice,
        wire.Move,
        wire.Error,
        wire.Beat,
        wire.BatchHeader,
    ),
    "pulled.json": lambda: _schema("the answer to a pull", wire.Pulled),
    "message.json": lambda: _schema("a line of a batch after the first", wire.Message),
}


def wanted() -> dict[Path, str]:
    """Return the right content of every file that is generated or has a generated part."""
    files = {FOLDER / "schemas" / name: made() for name, made in SCHEMAS.items()}
    sdk = FOLDER.parent / "viewer" / "web" / "sdk"
    files |= {
        sdk / "closecodes.js": javascript.close_codes(),
        sdk / "bodies.js": javascript.body_defaults(),
        sdk / "bodies.d.ts": javascript.body_types(),
        sdk / "package.json": javascript.package(sdk / "package.json"),
        sdk / "LICENSE": (FOLDER.parent / "LICENSE").read_text(encoding="utf-8"),
    }
    files[FOLDER / "openapi.json"] = openapi.encoded().decode() + "\n"
    used: set[str] = set()

    def block(found: re.Match[str]) -> str:
        used.add(found["name"])
        return f"{found[1]}\n{BLOCKS[found['name']]()}\n{found[3]}"

    for path in sorted(FOLDER.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if _BLOCK.search(text):
            files[path] = _BLOCK.sub(block, text)
    if unused := set(BLOCKS) - used:
        raise SystemExit(f"no file in docs/ has a place for {', '.join(sorted(unused))}")
    return files


def main() -> None:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only list what is out of date")
    check = parser.parse_args().check
    stale = []
    for path, text in wanted().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{'out of date' if check else 'wrote'}: {path.relative_to(FOLDER.parent)}")
    if check and stale:
        sys.exit("run: python docs/generate.py")


if __name__ == "__main__":
    main()
