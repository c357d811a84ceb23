# ruff: noqa: INP001 - beside the documents, like generate.py, which calls it
"""Makes the parts of the JavaScript SDK that come from the code: close codes, the bodies of each
kind with their defaults, their TypeScript types, and the version of the package. Pure, but for the
package's own file.
"""

import inspect
import json
import re
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Final, Union, get_args, get_origin

import msgspec

from ingress import permissions
from liveroom import __version__, bodies, closecodes
from liveroom.kinds import Kind
from liveroom.records.snapshot import RoomChange, RoomSettings

_MADE: Final = "Made from liveroom/bodies.py and liveroom/records/snapshot.py by docs/generate.py."
_NUMBERED: Final = {  # bodies of messages: a viewer sees no likes one by one
    **{kind: body for kind, body in bodies.BODY_OF.items() if kind is not Kind.LIKE},
    Kind.CLEAR: bodies.Clear,
}
_ANYTHING: Final = (Kind.DISSOLVE, Kind.REOPEN)
_WIDTH: Final = 120
_CHECKS: Final = {"string": "text", "number": "number", "boolean": "truth", "unknown": "any"}


def close_codes() -> str:
    """Return the table of close codes."""

    def rule(each: closecodes.CloseRule) -> str:
        about = {"code": int(each.code), "reason": each.reason, "reconnect": each.reconnect, "afterS": each.after_s}
        return "{ " + ", ".join(f"{name}: {json.dumps(value)}" for name, value in about.items()) + " }"

    rows = "".join(f"  {code}: {rule(each)},\n" for code, each in closecodes.TABLE.items())
    return (
        "// What a client does when a connection ended. Made from liveroom/closecodes.py by docs/generate.py.\n"
        f"export const CLOSES = {{\n{rows}}};\nexport const ABNORMAL = {rule(closecodes.ABNORMAL)};\n"
    )


def package(file: Path) -> str:
    """Return the package's description with this version."""
    if not re.fullmatch(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", __version__):
        raise SystemExit(f"{__version__} is no version that npm takes")
    about = json.loads(file.read_text(encoding="utf-8"))
    return json.dumps(about | {"version": __version__}, indent=2, ensure_ascii=False) + "\n"


# ---- types
def _bare(of: Any) -> Any:
    """Return a type without its limits, and without "left out"."""
    if hasattr(of, "__metadata__"):
        return _bare(get_args(of)[0])
    if get_origin(of) in {Union, types.UnionType}:
        (inner,) = (part for part in get_args(of) if part is not msgspec.UnsetType)
        return _bare(inner)
    return of


def _type(of: Any) -> str:
    """Return a type's name in TypeScript."""
    of = _bare(of)
    if get_origin(of) is list:
        return f"{_type(get_args(of)[0])}[]"
    if isinstance(of, type) and issubclass(of, Enum):
        return " | ".join(json.dumps(each.value) for each in of)
    return {str: "string", int: "number", float: "number", bool: "boolean", Any: "unknown"}[of]


def _check(of: Any) -> Any:
    """Return what tells a value of a type: a check's name, or the values that there are."""
    of = _bare(of)
    if isinstance(of, type) and issubclass(of, Enum):
        return [each.value for each in of]
    return "texts" if get_origin(of) is list else "whole" if of is int else _CHECKS[_type(of)]


def _usual(field: msgspec.structs.FieldInfo) -> Any:
    """Return what stands for a value that is missing or of another type."""
    if field.required:
        return {"string": "", "number": 0, "boolean": False}[_type(field.type)]
    default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
    return msgspec.to_builtins(default)


def _about(of: type[msgspec.Struct]) -> tuple[str, dict[str, str]]:
    """Return what the docstring of a body says of it, and of its fields."""
    whole, _, rest = inspect.cleandoc(of.__doc__ or "").partition("\n- ")
    fields: dict[str, str] = {}
    for item in re.split(r"\n- ", rest) if rest else ():
        names, _, about = " ".join(item.split()).partition(": ")
        fields |= dict.fromkeys(re.findall(r"`(\w+)`", names), about[:1].upper() + about[1:])
    return " ".join(whole.split()), fields


def _comment(text: str, indent: str = "") -> str:
    """Return a comment; on several lines where it is long."""
    one = f"{indent}/** {text} */\n"
    if len(one) <= _WIDTH:
        return one
    lines, line = [], ""
    for word in text.split():
        if len(indent) + 3 + len(line) + len(word) > _WIDTH:
            lines.append(line)
            line = ""
        line += f" {word}"
    return "".join((f"{indent}/**\n", *(f"{indent} *{each}\n" for each in (*lines, line)), f"{indent} */\n"))


def _interface(of: type[msgspec.Struct]) -> str:
    about, fields = _about(of)
    rows = "".join(
        f"{_comment(fields[f.encode_name], '  ') if f.encode_name in fields else ''}  {f.encode_name}: {_type(f.type)};\n"
        for f in msgspec.structs.fields(of)
    )
    return f"{_comment(about)}export interface {of.__name__} {{\n{rows}}}\n"


def _draft(of: type[msgspec.Struct]) -> str:
    needed = " | ".join(json.dumps(f.encode_name) for f in msgspec.structs.fields(of) if f.required) or "never"
    return f"Draft<{of.__name__}, {needed}>"


def _lines() -> Iterator[str]:
    yield f"// {_MADE}\n"
    for of in dict.fromkeys((*bodies.BODY_OF.values(), bodies.Clear, RoomSettings)):
        yield _interface(of)
    yield (
        f"{_comment('Modes of a room that change; absent ones stay as they are.')}"
        f"export type {RoomChange.__name__} = Partial<{RoomSettings.__name__}>;\n"
    )
    rows = "".join(f"  {kind.value}: {of.__name__};\n" for kind, of in _NUMBERED.items())
    rows += f"  {Kind.ROOM.value}: {RoomChange.__name__};\n"
    rows += "".join(f"  {kind.value}: Record<string, unknown>;\n" for kind in _ANYTHING)
    yield f"{_comment('The body of each kind of message.')}export interface Bodies {{\n{rows}}}\n"
    yield (
        f"{_comment('A body as one sends it: what has a default may be left out.')}"
        "export type Draft<Body, Needed extends keyof Body> = Pick<Body, Needed> & Partial<Omit<Body, Needed>>;\n"
    )
    rows = "".join(
        f"  {json.dumps(each.path) if '-' in each.path else each.path}: {_draft(bodies.BODY_OF[each.kind])} & Identified;\n"
        for each in permissions.INTERACTIONS
    )
    yield (
        f"{_comment('The id of an interaction: the same id again is the same one. The SDK makes one where it is absent.')}"
        "export interface Identified {\n  id?: string;\n}\n"
    )
    yield (
        f"{_comment('What a `Sender` sends, by its path below `/v1/rooms/{room}/`.')}export interface Sendable {{\n{rows}"
        "  packages: { package: string; items: Item[] } & Identified;\n}\n"
    )
    items = "".join(
        f'\n  | {{ kind: "{each.kind.value}"; data: {_draft(bodies.BODY_OF[each.kind])} }}' for each in permissions.INTERACTIONS
    )
    yield f"{_comment('One interaction of a package.')}export type Item ={items};\n"


def body_types() -> str:
    """Return the TypeScript types of bodies, of the modes of rooms, and of what may be sent."""
    return "\n".join(_lines())


def body_defaults() -> str:
    """Return the table by which the SDK fills in bodies and the modes of rooms."""

    def fields(of: type[msgspec.Struct], indent: str) -> str:
        return "".join(
            f"{indent}{f.encode_name}: [{json.dumps(_check(f.type))}, {json.dumps(_usual(f))}],\n"
            for f in msgspec.structs.fields(of)
        )

    rows = "".join(f"  {kind.value}: {{\n{fields(of, '    ')}  }},\n" for kind, of in _NUMBERED.items())
    return (
        f"// What stands for a value that is left out or of another type: [its type, the default]. {_MADE}\n"
        f"export const BODIES = {{\n{rows}}};\n"
        f"export const MODES = {{\n{fields(RoomSettings, '  ')}}};\n"
    )
