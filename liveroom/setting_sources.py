"""Where the settings of a process come from: what is set, what is wrong with it, what nobody knows.

Owns the words about settings. A message names the variable, or the file and its field, and says
what is expected; it shows no value, which may be secret. A name that no service of this version
knows ends nothing: it may be one of a later version, whose settings are rolled out first.
`liveroom.service` and the command line call it.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import InitSettingsSource, PydanticBaseSettingsSource, SettingsError, TomlConfigSettingsSource

from liveroom.errors import ExplainedError
from liveroom.settings import SERVICES, KafkaSettings, Secrets, ServiceSettings, fields, format_of
from liveroom.variables import BESIDE_SETTINGS, CONFIG, LIMITS, PREFIX, SECRETS, nearest, set_variables

S = TypeVar("S", bound=ServiceSettings)
_NESTED: Final = "__"
_BOOTSTRAP: Final = "LIVEROOM_KAFKA__BOOTSTRAP"
_FIELD: Final = re.compile(r'field "(\w+)" from source "(\w+)"')


class UnusableSettingsError(ExplainedError):
    """Settings that cannot be used. The message has a line for each problem."""


class Given(NamedTuple):
    """A setting that somebody set: its value, and where, in the words of a message."""

    value: Any
    where: str


class Unknown(NamedTuple):
    """A name that is no setting of this version.

    `file`: where it stands; empty: in the environment. `nearest`: the setting that is most like it;
    empty: none is.
    """

    name: str
    file: str
    nearest: str

    def __str__(self) -> str:
        place = f" in {self.file}" if self.file else ""
        return f"{self.name}{place} is no setting of this version" + (f"; is it {self.nearest}?" if self.nearest else "")


def read_settings(model: type[S], over: Mapping[str, str] | None = None) -> S:
    """Return the settings of a service, from all their sources.

    `over` goes before every source: values by variable, as the environment would have them. Raises
    UnusableSettingsError, which names beside the problems what nobody knows: a misspelt name is why
    another is missing.
    """
    try:
        return model(**_nested(model, over or {}))
    except (ValidationError, OSError, ValueError, RecursionError) as error:
        raise UnusableSettingsError("\n".join([*_in_words(model, error), *map(str, unknown(model))])) from None


def _nested(model: type[ServiceSettings], over: Mapping[str, str]) -> dict[str, Any]:
    """Return values by variable as a model takes them; those of other models are left out."""
    values: dict[str, Any] = {}
    for name, value in over.items():
        first, *inner = name.removeprefix(PREFIX).lower().split(_NESTED)
        if (field := model.model_fields.get(first)) is None:
            continue
        if inner:
            values.setdefault(first, {})[inner[0]] = value
        else:
            values[first] = json.loads(value) if field.examples and not isinstance(field.examples[0], str) else value
    return values


def given(model: type[ServiceSettings]) -> dict[str, Given]:
    """Return what the sources set of a service's settings, by variable and without a check.

    Raises UnusableSettingsError where a source cannot be read.
    """
    found: dict[str, Given] = {}
    try:
        for source in reversed(_sources(model)):
            for path, value in _leaves(model, source()):
                found[_variable(path)] = Given(value, _where(source, path))
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableSettingsError("\n".join(_in_words(model, error))) from None
    return found


def unknown(model: type[ServiceSettings] | None = None) -> list[Unknown]:
    """Return the names in all sources that are no settings of any service.

    `model`: a service's settings beside those of `SERVICES`. A source that cannot be read has none.
    """
    names = _Names(model)
    return [*names.unknown_variables(), *names.unknown_in_file(), *names.unknown_secrets()]


class _Names:
    """The names of all settings, and what else is named LIVEROOM_..."""

    def __init__(self, model: type[ServiceSettings] | None) -> None:
        models = [*SERVICES.values(), *([model] if model else ())]
        self._settings = {name for each in models for name, _, _ in fields(each)}
        whole = {_variable([name]) for each in models for name in each.model_fields}  # LIVEROOM_KAFKA is JSON
        self._all = self._settings | whole | BESIDE_SETTINGS
        self._maps = tuple(f"{name}{_NESTED}" for name in self._settings if _is_map(models, name))

    def _knows(self, variable: str) -> bool:
        return variable in self._all or variable.startswith(self._maps)

    def unknown_variables(self) -> Iterator[Unknown]:
        for name in set_variables(os.environ):
            if not self._knows(name.upper()):
                yield Unknown(name, "", nearest(name.upper(), self._all))

    def unknown_in_file(self) -> Iterator[Unknown]:
        file = os.environ.get(CONFIG, "")
        for path in _paths_in(Path(file)) if file else ():
            if not self._knows(_variable(path)):
                like = nearest(_variable(path), self._settings)
                yield Unknown(".".join(path), file, like.removeprefix(PREFIX).lower().replace(_NESTED, "."))

    def unknown_secrets(self) -> Iterator[Unknown]:
        folder = os.environ.get(SECRETS, "")
        for name in _files_in(Path(folder)) if folder else ():
            is_meant = name.lower().startswith(PREFIX.lower()) or self._knows(_whole(name))
            if is_meant and not self._knows(name.upper()):
                yield Unknown(name, folder, nearest(_whole(name), self._settings).lower())


def _whole(name: str) -> str:
    """Return the variable that a file of secrets stands for, with or without its prefix."""
    return name.upper() if name.upper().startswith(PREFIX) else f"{PREFIX}{name.upper()}"


def _paths_in(file: Path) -> Iterator[tuple[str, ...]]:
    try:
        yield from _paths(tomllib.loads(file.read_text("utf-8")))
    except (OSError, ValueError, RecursionError):
        return


def _paths(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _paths(value, (*above, name))
        else:
            yield (*above, name)


def _files_in(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError:
        return []


def _is_map(models: Sequence[type[ServiceSettings]], variable: str) -> bool:
    name = variable.removeprefix(PREFIX).lower()
    return any(get_origin(each.model_fields[name].annotation) is dict for each in models if name in each.model_fields)


def _sources(model: type[ServiceSettings]) -> Sequence[PydanticBaseSettingsSource]:
    none = InitSettingsSource(model, {})
    return model.settings_customise_sources(model, none, none, none, none)


def _leaves(
    model: type[BaseModel], values: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the value of each field that is set."""
    for name, value in values.items():
        field = model.model_fields.get(name)
        if field is None:
            continue
        if (inner := _model_of(field)) is not None and isinstance(value, Mapping):
            yield from _leaves(inner, value, (*above, name))
        else:
            yield (*above, name), value


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    of = field.annotation
    return of if isinstance(of, type) and issubclass(of, BaseModel) else None


def _variable(path: Sequence[str]) -> str:
    return PREFIX + _NESTED.join(path).upper()


def _where(source: PydanticBaseSettingsSource, path: Sequence[str]) -> str:
    if isinstance(source, Secrets):
        return f"{source.secrets_dir}/{_variable(path).lower()}"
    if isinstance(source, TomlConfigSettingsSource):
        return f"{'.'.join(path)} in {os.environ[CONFIG]}"
    if isinstance(source, InitSettingsSource):
        return f"{'.'.join(path)} in {os.environ.get(LIMITS, '')}"
    return _variable(path)


# ---- what is wrong
def _in_words(model: type[ServiceSettings], error: Exception) -> list[str]:
    """Return a line for each problem: where the value stands, what is wrong, what is expected."""
    if isinstance(error, ValidationError):
        places = given(model)
        above = ("kafka",) if error.title == KafkaSettings.__name__ else ()  # the failure of its default
        return [_problem(model, (*above, *item["loc"]), item["msg"], places) for item in error.errors(include_input=False)]
    if isinstance(error, SettingsError) and (named := _FIELD.search(str(error))):
        name, source = named.groups()
        where = f"{os.environ.get(SECRETS)}/{_variable([name]).lower()}" if source == Secrets.__name__ else _variable([name])
        return [f"{where}: {error.__cause__ or error}{_expected(model.model_fields[name])}"]
    return [str(error)]


def _problem(model: type[BaseModel], place: tuple[int | str, ...], text: str, places: Mapping[str, Given]) -> str:
    text = text.removeprefix("Value error, ")
    path: list[str] = []
    field: FieldInfo | None = None
    inner: type[BaseModel] | None = model
    rest = list(place)
    while rest and inner is not None and (found := inner.model_fields.get(str(rest[0]))) is not None:
        field = found
        path.append(str(rest.pop(0)))
        inner = _model_of(field)
    if field is None:
        return text
    where = _variable(path)
    if (known := places.get(where)) is not None:
        where = known.where
    elif where == _BOOTSTRAP:
        where = "KAFKA_BOOTSTRAP"  # whose value is the default
    if not _holds_secrets(field.annotation):  # whose names may be the secrets, where the two are swapped
        where += "".join(f", number {part + 1}" if isinstance(part, int) else f", {part}" for part in rest)
    is_told = not rest or get_origin(field.annotation) is dict  # of a list that is one, the item's own words do
    return f"{where}: {text}{_expected(field) if is_told else ''}"


def _holds_secrets(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_holds_secrets, get_args(annotation)))


def _expected(field: FieldInfo) -> str:
    return f". {told}" if (told := format_of(field)) else ""
