"""What this user wants of a system that a command starts: from the environment, files and options.

Owns which settings such a system takes as they are, which it makes itself, and the message where
both contradict each other: nothing that a user sets is passed over in silence. `devstack.stack`
calls it before anything starts.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from liveroom.addresses import check_origin
from liveroom.errors import ExplainedError
from liveroom.given_file import read_given_file
from liveroom.ports import HOST
from liveroom.setting_sources import Given, given, read_settings
from liveroom.settings import SERVICES, ServiceSettings
from liveroom.tokens import MIN_SECRET_BYTES, read_keys
from liveroom.variables import CLIENTS, PREFIX, UP_KAFKA, set_variables

_KEYS: Final = "the ticket keys of a system are made anew at each start"
_PORTS: Final = "each process gets ports of its own: --ports says which"
_HOSTS: Final = f"all processes listen at {HOST} alone"
# What a system sets itself, the value that does not contradict it, and why.
_OURS: Final[Mapping[str, tuple[str, str]]] = {
    "INSTANCE": ("", "each process has a name of its own"),
    "HOST": (HOST, _HOSTS),
    "INTERNAL_HOST": (HOST, _HOSTS),
    "PORT": ("", _PORTS),
    "INTERNAL_PORT": ("", _PORTS),
    "REPLICAS": ("1", "there is one scheduler"),
    "TICKET_SIGNING_KEYS": ("", _KEYS),
    "TICKET_SIGNING_KEYS_FILE": ("", _KEYS),
    "TICKET_PUBLIC_KEYS": ("", _KEYS),
    "TICKET_PUBLIC_KEYS_FILE": ("", _KEYS),
    "TICKET_KEYS": ("", _KEYS),
    "TICKET_KEYS_FILE": ("", _KEYS),
    "DRIVER": ("local", "the gateways are processes of this machine"),
    "LOCAL_FOLDER": ("", "the gateways' files are in the folder of the logs"),
    "LOCAL_TETHER": ("", "the gateways end with the system"),
}
_OWN_KAFKA: Final = "that is for a Kafka of your own: name it in KAFKA_BOOTSTRAP, or leave this out"
_OF_OWN_KAFKA: Final[Mapping[str, tuple[str, str]]] = {
    "KAFKA__SECURITY": ("PLAINTEXT", _OWN_KAFKA),
    "KAFKA__USERNAME": ("", _OWN_KAFKA),
    "KAFKA__PASSWORD": ("", _OWN_KAFKA),
    "KAFKA__CA_FILE": ("", _OWN_KAFKA),
    "KAFKA__CERT_FILE": ("", _OWN_KAFKA),
    "KAFKA__KEY_FILE": ("", _OWN_KAFKA),
    "KAFKA__REPLICATION": ("1", "the Kafka that is started here has one broker; " + _OWN_KAFKA),
    "KAFKA__MIN_INSYNC": ("1", "the Kafka that is started here has one broker; " + _OWN_KAFKA),
}
_OPTIONS: Final[Mapping[str, str]] = {
    "--prefix": "KAFKA__PREFIX",
    "--partitions": "KAFKA__PARTITIONS",
    "--token-key": "TOKEN_KEY",
    "--token-keys-file": "TOKEN_KEYS_FILE",
}
_OF_AN_EARLIER_UP: Final = ("KAFKA_BOOTSTRAP", "LIVEROOM_KAFKA__PREFIX", "LIVEROOM_KAFKA__PARTITIONS")


class WishesError(ExplainedError):
    """Settings that contradict what a command does or each other; a line for each."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a command's options say; None or empty: nothing."""

    prefix: str | None = None
    partitions: int | None = None
    origins: Sequence[str] = ()
    token_key: str = ""
    token_keys_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a system takes from its user.

    `bootstrap`: the user's own Kafka; empty: one is to be started. `taken`: the settings, without
    LIVEROOM_, whose values come from the user's own sources. `remarks`: lines for people.
    """

    bootstrap: str
    prefix: str
    partitions: int
    origins: tuple[str, ...]
    token_key: str
    debug_key: str
    log_key: str
    settings: Mapping[str, str]
    taken: frozenset[str]
    remarks: Sequence[str]


def read_wishes(options: Options, services: Collection[str], own: Mapping[str, str], partitions: int) -> Wishes:
    """Return what the user wants of a system of these services.

    `own`: settings that the command makes itself, which a remark names where the user set them too.
    `partitions`: how many there are where nobody says. Raises WishesError where the user's settings
    contradict the command or its options, and UnusableSettingsError for those that cannot be read.
    """
    remarks = _forget_an_earlier_up()
    found: dict[str, Given] = {}
    for service in services:
        found |= {name.removeprefix(PREFIX): one for name, one in given(SERVICES[service]).items() if one.value != ""}
    common = read_settings(ServiceSettings)
    has_kafka = "KAFKA__BOOTSTRAP" in found or bool(os.environ.get("KAFKA_BOOTSTRAP"))
    wrong = list(_contradictions(found, _OURS if has_kafka else {**_OURS, **_OF_OWN_KAFKA}))
    settings = _settings_of(options)
    wrong += [
        f"{found[name].where} and {option} say different things: leave one out"
        for option, name in _OPTIONS.items()
        if name in settings and name in found and str(found[name].value) != settings[name]
    ]
    wrong += _unusable(options, settings)
    if wrong:
        raise WishesError("\n".join(wrong))
    remarks += [f"{found[name].where} is not used: this command sets it" for name in sorted(own.keys() & found)]
    remarks += _unused(services)
    if "KAFKA__PARTITIONS" in found:
        partitions = common.kafka.partitions
    return Wishes(
        bootstrap=common.kafka.bootstrap if has_kafka else "",
        prefix=settings.pop("KAFKA__PREFIX", common.kafka.prefix),
        partitions=int(settings.pop("KAFKA__PARTITIONS", partitions)),
        origins=tuple(dict.fromkeys([*options.origins, *common.origins])),
        token_key=settings.pop("TOKEN_KEY", _text(found, "TOKEN_KEY")),
        debug_key=common.debug_key.get_secret_value(),
        log_key=common.log_key.get_secret_value(),
        settings=settings,
        taken=frozenset(found),
        remarks=remarks,
    )


def _settings_of(options: Options) -> dict[str, str]:
    """Return the settings that options stand for."""
    file = options.token_keys_file
    values = {
        "KAFKA__PREFIX": options.prefix,
        "KAFKA__PARTITIONS": options.partitions,
        "TOKEN_KEY": options.token_key or None,
        "TOKEN_KEYS_FILE": None if file is None else file.absolute(),
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _forget_an_earlier_up() -> list[str]:
    """Take the Kafka of an earlier start out of the environment, where `liveroom up --env` put it.

    That one ends with its system.
    """
    earlier = os.environ.pop(UP_KAFKA, "")
    if not earlier or os.environ.get("KAFKA_BOOTSTRAP") != earlier:
        return []
    for name in _OF_AN_EARLIER_UP:
        os.environ.pop(name, None)
    return [f"{', '.join(_OF_AN_EARLIER_UP)}: not used, they are from `liveroom up --env`: each start has a Kafka of its own"]


def _contradictions(found: Mapping[str, Given], ours: Mapping[str, tuple[str, str]]) -> Sequence[str]:
    return [
        f"{found[name].where} cannot be used here: {why}"
        for name, (same, why) in ours.items()
        if name in found and str(found[name].value) not in {same, ""}
    ]


def _unusable(options: Options, settings: Mapping[str, str]) -> list[str]:
    wrong = []
    for origin in options.origins:
        try:
            check_origin(origin)
        except ValueError as error:
            wrong.append(f"--origin: {error}")
    if options.token_key and len(options.token_key.encode()) < MIN_SECRET_BYTES:
        wrong.append(f"--token-key must be at least {MIN_SECRET_BYTES} bytes (try: openssl rand -hex 32)")
    if file := settings.get("TOKEN_KEYS_FILE"):
        try:
            read_given_file(Path(file), read_keys)
        except (OSError, ValueError) as error:
            wrong.append(f"--token-keys-file: a JWK Set is expected: {error}")
    return wrong


def _unused(services: Collection[str]) -> list[str]:
    """Return a line for each variable of a service that is not started."""
    started = {name for service in services for name in _names(service)}
    others = {name: service for service in SERVICES if service not in services for name in _names(service)}
    unused = [name for name in set_variables(os.environ) if name in others and name not in started and name not in CLIENTS]
    return [f"{name} is not used: it is a setting of the {others[name]}, which does not run" for name in unused]


def _names(service: str) -> set[str]:
    return {f"{PREFIX}{name.upper()}" for name in SERVICES[service].model_fields}


def _text(found: Mapping[str, Given], name: str) -> str:
    return str(found[name].value) if name in found else ""
