"""The services that a command talks to: from its options, else the environment, else a running
`demo` or `up` of this user.

Owns that order, and the message where nothing is found. Every command that talks to services calls
it.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devstack.running import Running, RuntimeFolderError, find_running
from liveroom import clock
from liveroom.addresses import bases, check_service_urls
from liveroom.errors import ExplainedError
from liveroom.kinds import Role
from liveroom.tickets import User
from liveroom.tokens import MIN_SECRET_BYTES, sign_user
from liveroom.topics import DEVICE_ID, ROOM_ID
from liveroom.users import UserIdError, user_id

if TYPE_CHECKING:
    from liveroom.settings import KafkaSettings

TOKEN_TTL_S = 3600
_OPTIONS = {"bootstrap": "kafka (KAFKA_BOOTSTRAP)"}


class UsageError(ExplainedError):
    """An option or argument is missing or cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The services of one system, and how to get its user tokens.

    `token_key` signs them; `token` is a ready-made one, which wins. Empty: not known.
    """

    ingress: str
    scheduler: str
    token_key: str
    token: str
    autoscaler: str = ""

    def token_for(self, user: User, ttl_s: int = TOKEN_TTL_S) -> str:
        """Return a token for `user`, valid for `ttl_s` seconds, or the ready-made one as it is.

        Raises UsageError where there is neither a key nor a token.
        """
        if self.token:
            return self.token
        if not self.token_key:
            raise UsageError(
                "no token: give --token, or --token-key (LIVEROOM_TOKEN_KEY) to sign one; while a demo or up of yours runs,"
                " its key is found by itself"
            )
        return sign_user(user, self.token_key.encode(), int(clock.unix_s()), ttl_s)


def find_endpoints(
    *, ingress: str = "", scheduler: str = "", autoscaler: str = "", token_key: str = "", token: str = ""
) -> Endpoints:
    """Return the given endpoints; what is not given comes from a running system of this user.

    That system's key is used for its own addresses only: a token that is sent to another ingress
    would be valid at this one too. Raises UsageError for a key that is too short, and
    for an address that is no URL of HTTP.
    """
    if token_key and len(token_key.encode()) < MIN_SECRET_BYTES:
        raise UsageError(f"--token-key (LIVEROOM_TOKEN_KEY) must be at least {MIN_SECRET_BYTES} bytes")
    ingress, scheduler, autoscaler = bases(ingress), bases(scheduler), bases(autoscaler)
    for name, urls in (("ingress", ingress), ("scheduler", scheduler), ("autoscaler", autoscaler)):
        _check_urls(name, urls)
    running = _newest()
    if running is not None:
        own = {"", running.ingress, running.scheduler, running.autoscaler}
        if {ingress, scheduler, autoscaler} <= own:
            key = token_key or running.token_key
            return Endpoints(running.ingress, running.scheduler, key, token, running.autoscaler)
    return Endpoints(ingress, scheduler, token_key, token, autoscaler)


def _check_urls(service: str, urls: str) -> None:
    try:
        check_service_urls(urls)
    except ValueError as error:
        raise UsageError(f"--{service} (LIVEROOM_{service.upper()}_URL): {error}") from None


def need_ingress(endpoints: Endpoints) -> str:
    """Return the ingress's address; raise UsageError where it is not known."""
    if not endpoints.ingress:
        raise UsageError("no ingress: start `liveroom demo` or `liveroom up`, or give --ingress URL (LIVEROOM_INGRESS_URL)")
    return endpoints.ingress


def need_scheduler(endpoints: Endpoints) -> str:
    """Return the scheduler's address; raise UsageError where it is not known."""
    if not endpoints.scheduler:
        raise UsageError(
            "no scheduler: start `liveroom demo` or `liveroom up`, or give --scheduler URL (LIVEROOM_SCHEDULER_URL)"
        )
    return endpoints.scheduler


def need_autoscaler(endpoints: Endpoints) -> str:
    """Return the autoscaler's address; raise UsageError where it is not known."""
    if not endpoints.autoscaler:
        raise UsageError("no autoscaler: start `liveroom up --policy FILE`, or give --autoscaler URL (LIVEROOM_AUTOSCALER_URL)")
    return endpoints.autoscaler


def find_kafka(bootstrap: str = "", prefix: str | None = None, partitions: int | None = None) -> "KafkaSettings | None":
    """Return the settings of the given cluster, the environment's, or a running system's.

    None: there is none of these.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - clients have no settings of services

    from liveroom.setting_sources import read_settings  # noqa: PLC0415
    from liveroom.settings import KafkaSettings, ServiceSettings  # noqa: PLC0415

    settings = read_settings(ServiceSettings).kafka
    changes: dict[str, object] = {"prefix": prefix, "partitions": partitions}
    if bootstrap:
        changes["bootstrap"] = bootstrap
    elif "bootstrap" not in settings.model_fields_set and not os.environ.get("KAFKA_BOOTSTRAP"):
        running = _newest()
        if running is None:
            return None
        changes = {"bootstrap": running.kafka, "prefix": running.prefix, "partitions": running.partitions}
    try:
        return KafkaSettings.model_validate(
            settings.model_dump() | {name: value for name, value in changes.items() if value is not None}
        )
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        raise UsageError(f"--{_OPTIONS.get(name, name)}: {problem['msg'].removeprefix('Value error, ')}") from None


def check_room(room: str) -> str:
    """Return the room; raise UsageError where it is no room id."""
    if not ROOM_ID.match(room):
        raise UsageError(f"{room!r} is no room id: 1 to 64 of A-Z a-z 0-9 _ -")
    return room


def check_device(device: str) -> str:
    """Return the device, empty for none; raise UsageError where it is no device id."""
    if device and not DEVICE_ID.match(device):
        raise UsageError(f"{device!r} is no device id: 1 to 64 of A-Z a-z 0-9 _ . : -")
    return device


def make_user(text: str, role: str = Role.VIEWER.value, name: str = "", level: int = 0) -> User:
    """Return the user of a token. `text` names the user as an identity service would (`sub`).

    Raises UsageError where the text has no user id.
    """
    try:
        return User(user_id(text), Role(role), level, name)
    except UserIdError as error:
        raise UsageError(f"--user: {error}") from None


def _newest() -> Running | None:
    try:
        return next(iter(find_running()), None)
    except RuntimeFolderError:
        return None
