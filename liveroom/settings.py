"""Settings: one frozen model per service, parsed once in `__main__` and passed in. No globals.

A value comes from the first of these sources that has it:

1. the environment (`LIVEROOM_...`, nested with `__`: `LIVEROOM_KAFKA__BOOTSTRAP`),
2. the TOML file that `LIVEROOM_CONFIG` names,
3. for gateways the limits file of the load test, which `LIVEROOM_LIMITS` names (JSON),
4. the folder of secrets that `LIVEROOM_SECRETS` names (one file per setting, named like its
   variable),
5. the default. `KAFKA_BOOTSTRAP` is the default of `kafka.bootstrap`.

The description of a field states its unit and, where it is not obvious, why the default is what it
is; a value with a structure has an example (`examples`), by which its format is told. `python -m
ingress --help` prints both, and docs/settings.md is made from them. `liveroom.setting_sources`
reads the settings for a process and says what is wrong with them.
"""

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from liveroom.addresses import check_brokers, check_gateway_url, check_origin, check_service_url, check_service_urls
from liveroom.budgets import Rate
from liveroom.given_file import read_given_file
from liveroom.nesting import MAX_DEPTH, UNDECODABLE, nests_deeper
from liveroom.networks import Networks
from liveroom.records.codec import GATEWAY_PATTERN
from liveroom.records.control import Limits
from liveroom.refusals import USUAL_PER_S
from liveroom.texts import without_mark
from liveroom.ticket_keys import KEY_ID, read_private_keys, read_public_keys
from liveroom.tickets import Keys, Signer, hmac_keys, hmac_signer
from liveroom.tokens import LIFE_S, MIN_SECRET_BYTES, Key, read_keys, secret
from liveroom.topics import DEFAULT_PARTITIONS
from liveroom.users import user_id
from liveroom.variables import CONFIG, LIMITS, PREFIX, SECRETS

_LIMIT_NAMES = {"max_connections", "max_joins_per_s", "max_cpu", "max_loop_lag_ms", "max_bytes_per_s", "max_packets_per_s"}
_usual = Limits()
LEAST: Final = 0.001  # of a limit: others divide by it
_JSON_PLACE = re.compile(r": line \d+ column \d+ \(char (\d+)\)")
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]")  # what a host name may have and the name of a process may not


# An overlay can set a value that its base sets back to none, and cannot take it out.
_OptionalFile = Annotated[Path | None, BeforeValidator(lambda given: given or None)]


def _no_key_or_long(key: SecretStr) -> SecretStr:
    if key.get_secret_value() and len(key.get_secret_value().encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"must be at least {MIN_SECRET_BYTES} bytes (try: openssl rand -hex 32)")
    return key


def _network(text: str) -> str:
    try:
        Networks([(text, "")])
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError("it has host bits set: write the first address of the network, as in 10.0.0.0/8") from None
        raise ValueError("it is no network: write an address and a number of bits, as in 10.0.0.0/8") from None
    return text


def _public_ticket_keys(text: str) -> str:
    if text:
        read_public_keys(text)
    return text


def _private_ticket_keys(keys: SecretStr) -> SecretStr:
    if keys.get_secret_value():
        read_private_keys(keys.get_secret_value())
    return keys


_Key = Annotated[SecretStr, AfterValidator(_no_key_or_long)]


class KafkaSettings(BaseModel):
    """How to reach the Kafka cluster.

    The time-outs are far below the client's defaults: those exceed the 10 s within which a gift
    must arrive whatever fails.
    """

    model_config = ConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True
    )  # a later version's setting ends no service

    bootstrap: Annotated[str, AfterValidator(check_brokers)] = Field(
        default_factory=lambda: os.environ.get("KAFKA_BOOTSTRAP") or "127.0.0.1:9092",
        validate_default=True,
        description="Brokers to start from: host:port, several separated by commas.",
        examples=["kafka-0:9092,kafka-1:9092"],
    )
    prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="Prefix of every topic and consumer group, so that several systems can share a cluster.",
    )
    partitions: int = Field(
        DEFAULT_PARTITIONS,
        ge=1,
        le=1024,
        description="Number of partitions that rooms are spread over. It cannot change later: a room's partition is "
        "a hash of its id.",
    )
    replication: int = Field(
        1,
        ge=1,
        le=9,
        description="Replication factor of topics that a service creates: 1 for a single broker, 3 in production.",
    )
    min_insync: int = Field(
        1, ge=1, le=9, description="min.insync.replicas of topics that a service creates: 2 with a replication factor of 3."
    )
    request_timeout_s: float = Field(
        3.0,
        gt=0,
        description="Seconds one request to a broker may take. The client's own default, 40 s, is longer than a gift "
        "may take (10 s).",
    )
    session_timeout_s: float = Field(
        6.0,
        gt=0,
        description="Seconds until the partitions of a dead group member move. Brokers refuse less than 6 s unless "
        "group.min.session.timeout.ms is lowered; production uses 3 s.",
    )
    metadata_max_age_s: float = Field(
        5.0,
        gt=0,
        description="Seconds until the client asks again which broker leads which partition. The client's own "
        "default, 5 minutes, hides a failover for too long.",
    )
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Protocol to the brokers."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism; used with SASL_PLAINTEXT and SASL_SSL."
    )
    username: str = Field("", description="SASL user.")
    password: SecretStr = Field(SecretStr(""), description="SASL password.")
    ca_file: _OptionalFile = Field(
        None,
        description="Certificate authority that signs the brokers' certificates, PEM. Empty: the system's authorities.",
    )
    cert_file: _OptionalFile = Field(None, description="Client certificate for mutual TLS, PEM.")
    key_file: _OptionalFile = Field(None, description="Private key of the client certificate, PEM.")

    @property
    def lacking(self) -> str:
        """What a connection lacks, in words; empty where it lacks nothing.

        No rule of the settings: the canary is told the protocol and connects to no broker.
        """
        if self.security.startswith("SASL"):
            given = {"USERNAME": self.username, "PASSWORD": self.password.get_secret_value()}
            if empty := [f"LIVEROOM_KAFKA__{name}" for name, value in given.items() if not value]:
                return f"{self.security} needs a user and a password: {' and '.join(empty)} must not be empty"
        return ""


class HttpSettings(BaseModel):
    """Bounds on the connections of an HTTP port before, between and after requests.

    They hold for the public and the internal port, each for itself. At a gateway they hold until a
    connection has become a viewer's.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)  # as for KafkaSettings

    head_timeout_s: float = Field(
        5.0, gt=0, description="Seconds within which the head of a request must arrive; slower connections are closed."
    )
    idle_timeout_s: float = Field(
        75.0,
        gt=0,
        description="Seconds that a connection may stay open between two requests. Proxies commonly keep one for 60 s, and "
        "they must be the first to close it.",
    )
    unread_timeout_s: float = Field(
        30.0, gt=0, description="Seconds within which a caller must have read an answer; then its connection is cut."
    )
    max_pending: int = Field(
        8192, ge=1, description="Most connections that have sent no whole head of a request. Beyond it the oldest are closed."
    )
    max_pending_per_address: int = Field(
        4096,
        ge=1,
        description="Most such connections from one IP address (for IPv6 a /64). It is as high as the listen backlog: all "
        "viewers of a school may come back at once.",
    )
    max_open: int = Field(
        16_384,
        ge=1,
        description="Most open connections. Beyond it those that wait for a next request are closed, and new ones where "
        "none waits. The limit of open files may be lower, and then counts.",
    )
    max_open_per_address: int = Field(
        4096, ge=1, description="Most open connections from one IP address (for IPv6 a /64), likewise."
    )
    proxy_protocol: bool = Field(
        default=False,
        description="Whether each connection of the public port begins with a PROXY header (version 1 or 2), which tells the "
        "caller's address. Only `proxies` may then connect. At a gateway with TLS it comes in the clear, before the handshake.",
    )


class ServiceSettings(BaseSettings):
    """Settings that every service has."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    instance: str = Field(
        default_factory=lambda: f"{_NO_NAME.sub('-', socket.gethostname())[:40]}-{os.getpid()}",
        pattern=GATEWAY_PATTERN[0].replace(r"\Z", "$"),  # pydantic's `$` matches at the end only, as `\Z` does here
        description="Name of this process in logs, claims and load reports. Default: host name and process id.",
    )
    host: str = Field("127.0.0.1", description="Address that the public port listens on; 0.0.0.0 in a container.")
    port: int = Field(0, ge=0, le=65_535, description="Public port.")
    internal_host: str = Field(
        "127.0.0.1", description="Address that the internal port listens on. It must never be reachable from outside."
    )
    internal_port: int = Field(0, ge=0, le=65_535, description="Internal port: /livez, /readyz, /metrics, /debug.")
    loopback: bool = Field(
        default=False,
        description="Whether both ports listen at 127.0.0.1 too. For a pod that listens at its own address: `kubectl "
        "port-forward` connects from inside the pod.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level that is logged.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="Form of log lines. auto: coloured text on a terminal, JSON elsewhere."
    )
    log_key: _Key = Field(
        SecretStr(""),
        description="Key of the hashes by which log lines name users, at least 32 bytes and a key of its own. Set it alike for "
        "all services, so that one can follow a user (`liveroom why --user`). Empty: log lines name no users.",
    )
    log_refusals_per_s: int = Field(
        USUAL_PER_S,
        ge=0,
        le=1000,
        description="Most log lines per second for refusals of one code; 0: none. What is left out is counted.",
    )
    debug_key: _Key = Field(
        SecretStr(""),
        description="Bearer token for /debug on the internal port, at least 32 bytes and a key of its own. Empty: /debug does "
        "not exist.",
    )
    trace_ratio: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of interactions that are traced with OpenTelemetry, 0 to 1. Set it alike for all "
        "services; needs liveroom[tracing].",
    )
    origins: tuple[Annotated[str, AfterValidator(check_origin)], ...] = Field(
        (),
        description="Origins whose pages may call the service (CORS) and connect, beside pages of the service's own "
        "origin; '*' allows every origin, and 'null' every page in a sandboxed frame. An origin is written as browsers send "
        "it: scheme, host and port in lower case, without a path, a slash at the end, or the scheme's own port.",
        examples=[["https://live.example.org", "http://localhost:5173"]],
    )
    proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (),
        description="Networks of trusted proxies. Only these are believed when they report a caller's "
        "address, and they are no callers: a request for which they report none is not counted by address.",
        examples=[["10.0.0.0/8", "fd00::/8"]],
    )
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = Field(
        "x-forwarded-for",
        description="Header in which the trusted proxies report the caller's address; `forwarded` is that of RFC 7239. "
        "The other one is not read: a proxy passes it on as the caller sent it.",
    )
    http: HttpSettings = Field(default_factory=HttpSettings, description="Bounds on HTTP connections.")
    kafka: KafkaSettings = Field(default_factory=KafkaSettings, description="The Kafka cluster.")

    @model_validator(mode="after")
    def _proxy_header_of_proxies(self) -> Self:
        if self.http.proxy_protocol and not self.proxies:
            raise ValueError("LIVEROOM_HTTP__PROXY_PROTOCOL is believed from trusted proxies only: set LIVEROOM_PROXIES")
        return self

    @classmethod
    def settings_customise_sources(  # noqa: D102 - the base class says it
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del env_settings, dotenv_settings, file_secret_settings
        sources: list[PydanticBaseSettingsSource] = [init_settings, Environment(settings_cls)]
        if config := _file_named_by(CONFIG):
            sources.append(_toml(settings_cls, config))
        if issubclass(settings_cls, EdgeSettings) and (limits := _file_named_by(LIMITS)):
            sources.append(InitSettingsSource(settings_cls, _limits_in(limits)))
        if folder := os.environ.get(SECRETS):
            sources.append(_secrets(settings_cls, folder))
        return tuple(sources)


class _Decoding(EnvSettingsSource):
    """Decodes values with a structure; what is not JSON is refused with the place and without the
    text.
    """

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        if isinstance(value, str) and nests_deeper(value.encode(errors="surrogateescape"), MAX_DEPTH):
            raise ValueError("it nests too deep")  # how deep Python's decoder goes depends on the version
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError as error:
            raise ValueError(_JSON_PLACE.sub(r" at character \1", str(error))) from None


class Environment(_Decoding):
    """Settings from the environment."""


class Secrets(_Decoding, NestedSecretsSettingsSource):
    """Settings from the folder of secrets."""


def _toml(settings_cls: type[BaseSettings], file: Path) -> TomlConfigSettingsSource:
    try:
        return TomlConfigSettingsSource(settings_cls, file)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{CONFIG} names {file}, which cannot be read as TOML: {error}") from None


def _secrets(settings_cls: type[BaseSettings], folder: str) -> Secrets:
    try:
        return Secrets(settings_cls, folder, secrets_dir_missing="error")  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise SettingsError(f"{SECRETS} names {folder}, which is no folder of secrets: {error}") from None


def _file_named_by(variable: str) -> Path | None:
    """Return the file that an environment variable names, or None if it is not set.

    Raises FileNotFoundError if there is no such file.
    """
    name = os.environ.get(variable)
    if not name:
        return None
    if not Path(name).is_file():
        raise FileNotFoundError(f"{variable} names {name}, which is not a file")
    return Path(name)


def _limits_in(file: Path) -> dict[str, Any]:
    """Return the limits in a limits file.

    Besides limits the file may contain only `measured`, how they were measured. Raises ValueError
    for anything else.
    """
    try:
        found = json.loads(without_mark(file.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{LIMITS} names {file}, which cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{LIMITS} names {file}, which is not a JSON object")  # noqa: TRY004 - as for all bad settings
    found.pop("measured", None)
    if unknown := set(found) - _LIMIT_NAMES:
        raise ValueError(f"{LIMITS} names {file}, which has unknown limits: {', '.join(sorted(unknown))}")
    return found


class TokenSettings(ServiceSettings):
    """Keys of user tokens, for the services that check them."""

    token_key: _Key = Field(
        SecretStr(""), description="HS256 key of user tokens, shared with the identity service; at least 32 bytes."
    )
    token_keys_file: _OptionalFile = Field(
        None,
        description="JWK Set with the keys of user tokens (HS256, RS256, EdDSA), beside token_key or instead of it. "
        "Reloaded when the file changes.",
    )
    token_leeway_s: float = Field(
        30.0, ge=0, description="Seconds by which the clocks of the token's issuer and this service may differ."
    )
    token_life_s: int = Field(
        LIFE_S,
        ge=60,
        le=10 * 365 * 86_400,
        description="Longest life of a user token, in seconds from `iat` to `exp`; longer ones are refused. A revocation is "
        "kept for as long, so set it alike for all services.",
    )

    @model_validator(mode="after")
    def _keys(self) -> "TokenSettings":
        if not self.token_key.get_secret_value() and self.token_keys_file is None:
            raise ValueError("a key of user tokens is required: set LIVEROOM_TOKEN_KEY or LIVEROOM_TOKEN_KEYS_FILE")
        return self

    def read_token_keys(self) -> list[Key]:
        """Return the current keys, read from the file if one is set.

        Raises OSError or GivenFileError if the file cannot be used.
        """
        keys = read_given_file(self.token_keys_file, read_keys) if self.token_keys_file is not None else []
        if one := self.token_key.get_secret_value():
            keys.append(secret(one.encode()))
        return keys


def _check_ticket_keys(keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for number, (name, key) in enumerate(keys.items(), 1):  # by number: where the two are swapped, the id is the key
        if not KEY_ID.match(name):
            raise ValueError(f"the id of ticket key number {number} is not 1 to 16 of A-Z a-z 0-9 _ -")
        if len(key.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"ticket key number {number} must be at least {MIN_SECRET_BYTES} bytes")
    return keys


class TicketSettings(ServiceSettings):
    """HMAC keys of entry tickets, for scheduler and edge during an upgrade from liveroom 0.1."""

    ticket_keys: Annotated[dict[str, SecretStr], AfterValidator(_check_ticket_keys)] = Field(
        {},
        description="Deprecated: HMAC keys of entry tickets by key id, as liveroom 0.1 has them. Set them only while an "
        "upgrade from there goes on: a service that has them honours such tickets, and logs "
        "hmac_tickets_honoured.",
        examples=[{"k1": "a random text of at least 32 bytes"}],
    )
    ticket_keys_file: _OptionalFile = Field(
        None, description="Deprecated: file with the same JSON, beside ticket_keys or instead of it. Reloaded when it changes."
    )

    @property
    def honours_hmac_tickets(self) -> bool:
        """Whether there may be HMAC keys of tickets."""
        return bool(self.ticket_keys) or self.ticket_keys_file is not None

    def _read_hmac_keys(self) -> dict[str, bytes]:
        """Return the HMAC keys by key id, the signing key first."""
        keys: dict[str, SecretStr] = {}
        if self.ticket_keys_file is not None:
            keys = read_given_file(self.ticket_keys_file, _hmac_keys_in)
        return {name: key.get_secret_value().encode() for name, key in (keys | self.ticket_keys).items()}


def _hmac_keys_in(text: str) -> dict[str, SecretStr]:
    """Return the HMAC keys in a file's text; raise ValueError, which shows none of them, if not."""
    try:
        keys = {name: SecretStr(key) for name, key in msgspec.json.decode(text, type=dict[str, str]).items()}
    except UNDECODABLE as error:
        raise ValueError(f"not JSON with ticket keys by key id: {error}") from None
    return _check_ticket_keys(keys)


class FailureSettings(ServiceSettings):
    """How many bad tokens and tickets may come from one address, for the services that check them
    at a public port.
    """

    address_failures_per_s: float = Field(
        100.0,
        ge=0,
        le=1e6,
        description="Average number of requests per second with a bad token or ticket from one IP address (for IPv6 a /64); 0: "
        "no limit. Beyond it, an ingress and a scheduler refuse the tokens that they have not verified yet, and a gateway "
        "refuses all tickets of that address, good ones too, until fewer bad ones come.",
    )
    address_failures_burst: float = Field(1000.0, ge=1, le=1e6, description="Burst of such requests from one IP address.")

    @property
    def failures(self) -> Rate:
        """The budget of an address."""
        return Rate(self.address_failures_per_s, self.address_failures_burst)


class RateSettings(BaseModel):
    """How fast one kind of interaction may be sent to one ingress; a rate of 0 means no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    user_per_s: float = Field(1.0, ge=0, le=1e6, description="Average rate of one user, per second.")
    user_burst: float = Field(5.0, ge=1, le=1e6, description="Burst of one user.")
    room_per_s: float = Field(
        0.0, ge=0, le=1e6, description="Rate of one room, of all users together, per second; 0: no limit."
    )


USUAL_RATES = {
    "danmaku": RateSettings(user_per_s=3, user_burst=10, room_per_s=5000),
    "gift": RateSettings(user_per_s=20, user_burst=100),
    "like": RateSettings(user_per_s=5, user_burst=20),
    "custom": RateSettings(user_per_s=3, user_burst=10, room_per_s=500),
    "package": RateSettings(user_per_s=5, user_burst=20),
    "act": RateSettings(user_per_s=20, user_burst=100, room_per_s=50),
}
OTHER_RATE = RateSettings(user_per_s=5, user_burst=20)


class IngressSettings(TokenSettings, FailureSettings):
    """Settings of the ingress, which accepts interactions."""

    port: int = Field(8001, ge=0, le=65_535, description="Public port.")
    internal_port: int = Field(9001, ge=0, le=65_535, description="Internal port: /livez, /readyz, /metrics, /debug.")
    max_body_bytes: int = Field(
        32 * 1024,
        ge=1024,
        le=65_536,
        description="Largest body of an interaction, in bytes. It must fit into an uplink record, which holds 64 KiB. "
        "Commands may have 64 KiB, bulk requests 1 MiB.",
    )
    body_timeout_s: float = Field(
        5.0, gt=0, description="Seconds within which a request's body must arrive; slower senders get 408."
    )
    ack_timeout_s: float = Field(
        2.5,
        gt=0,
        description="Seconds to wait for the brokers' ack. Then the sender gets 503 with Retry-After, so within 3 s in all.",
    )
    max_waiting: int = Field(
        10_000,
        ge=1,
        description="Most interactions that may wait for an ack at the same time; further ones get 503 immediately, "
        "so memory is bounded.",
    )
    rates: dict[str, RateSettings] = Field(
        {},
        description="Rates that differ from the defaults, by name. Names are kinds, `package` and `act` (commands of hosts "
        "and operators).",
        examples=[{"danmaku": {"user_per_s": 1, "user_burst": 3}}],
    )
    user_requests_per_s: float = Field(
        50.0,
        ge=0,
        le=1e6,
        description="Average number of requests per second of one user, of all kinds and on all its devices, refused ones "
        "included; 0: no limit. Services have none.",
    )
    user_requests_burst: float = Field(300.0, ge=1, le=1e6, description="Burst of requests of one user.")
    address_requests_per_s: float = Field(
        500.0,
        ge=0,
        le=1e6,
        description="Average number of requests per second from one IP address (for IPv6 a /64), likewise; 0: no limit. It is "
        "high, since a school or a mobile network may share an address. Behind a proxy set `proxies`, or all have its address.",
    )
    address_requests_burst: float = Field(5000.0, ge=1, le=1e6, description="Burst of requests from one IP address.")
    viewers_may_claim_payment: bool = Field(
        default=False,
        description="Whether viewers and hosts may send gifts, and streamers red packets and coupons, by themselves. For "
        "demos: nobody then checks that they were paid for. Otherwise only services and operators may.",
    )
    word_files: tuple[Path, ...] = Field(
        (), description="Word libraries. Reloaded when a file changes.", examples=[["/etc/liveroom/words.txt"]]
    )
    word_mute_hits: int = Field(5, ge=0, description="Number of texts with listed words after which a user is muted; 0: never.")
    word_media_hits: int = Field(
        0, ge=0, description="Number of refused texts in a room after which the room accepts no media; 0: never."
    )
    word_window_s: float = Field(300.0, gt=0, description="Seconds within which such texts are counted together.")
    word_mute_s: int = Field(600, ge=1, description="Seconds that such a mute lasts.")
    review_url: Annotated[str, AfterValidator(check_service_url)] = Field(
        "", description="HTTP review hook that is called for every danmaku. Empty: no review."
    )
    review_timeout_s: float = Field(0.2, gt=0, le=2, description="Seconds to wait for the review hook's answer.")
    review_fallback: Literal["allow", "refuse"] = Field(
        "allow", description="What happens to a danmaku when the review hook gives no usable answer."
    )
    announce_rooms_per_s: float = Field(
        200.0,
        gt=0,
        description="Rooms per second that an announcement to all rooms reaches; the pace keeps it from flooding the queue.",
    )


class BroadcasterSettings(ServiceSettings):
    """Settings of the broadcaster, which numbers and packs the messages of rooms."""

    internal_port: int = Field(9002, ge=0, le=65_535, description="Internal port: /livez, /readyz, /metrics, /debug.")
    flush_interval_ms: int = Field(
        100,
        ge=5,
        le=1000,
        description="Milliseconds between two BATCH records of a busy partition. Shorter: less delay, but more "
        "records for every gateway to read.",
    )
    linger_ms: int = Field(
        3,
        ge=0,
        le=100,
        description="Milliseconds that the first interaction after a quiet time waits for others to share its batch.",
    )
    room_limit_per_s: int = Field(
        1000, ge=1, description="Best-effort messages per second in one room; beyond that the broadcaster thins them."
    )
    snapshot_interval_s: float = Field(
        30.0,
        gt=0,
        description="Seconds between two snapshots of a partition that changed. Shorter: a take-over replays less of the log.",
    )
    max_partition_rooms: int = Field(
        5000,
        ge=1,
        description="Open rooms in one partition's memory. Beyond that, rooms without a recent message are packed, at most "
        "20 times as many; then the smallest ones are forgotten. As many more are kept that have viewers and in which nobody "
        "ever spoke.",
    )
    dedupe_s: float = Field(
        600.0, gt=0, description="Seconds that ids of reliable interactions are remembered, so that a repeated one is dropped."
    )


class EdgeSettings(TicketSettings, FailureSettings):
    """Settings of the edge, the gateway that viewers connect to."""

    port: int = Field(8010, ge=0, le=65_535, description="Public port.")
    internal_port: int = Field(9010, ge=0, le=65_535, description="Internal port: /livez, /readyz, /metrics, /debug.")
    public_url: Annotated[str, AfterValidator(check_gateway_url)] = Field(
        "", description="URL that browsers connect to, wss://name/v1/live. Default: ws://host:port/v1/live."
    )
    public_ip: str = Field(
        "", description="IP address that the scheduler hands out beside the URL, so that apps need no DNS. Default: host."
    )
    zone: str = Field(
        "", description="Zone of this gateway. The scheduler prefers it for viewers of the same zone (zones_file)."
    )
    report_interval_s: float = Field(
        1.0,
        gt=0,
        le=1.5,
        description="Seconds between two load reports. Counts of viewers leave out a gateway that is silent for 2 s "
        "while others report, and readers treat it as stale after 3 s.",
    )
    handshake_timeout_s: float = Field(
        5.0, gt=0, description="Seconds for the upgrade request, and again as many for the first join."
    )
    heartbeat_s: float = Field(20.0, gt=0, description="Seconds between two heartbeats that a viewer is asked to send.")
    drain_s: float = Field(20.0, ge=0, description="Seconds that a drain takes: viewers move during the first half.")
    max_connections: int = Field(
        _usual.connections, ge=1, description="Most viewers that this gateway accepts, measured by the load test."
    )
    max_joins_per_s: float = Field(
        _usual.joins_per_s,
        ge=LEAST,
        allow_inf_nan=False,
        description="Most joins per second that this gateway accepts, measured by the load test.",
    )
    max_cpu: float = Field(
        _usual.cpu,
        ge=LEAST,
        le=1,
        description="Busy share of one core, 0 to 1, above which the scheduler sends almost no new viewers. The next "
        "three limits work alike.",
    )
    max_loop_lag_ms: float = Field(
        _usual.loop_lag_ms, ge=LEAST, allow_inf_nan=False, description="Milliseconds that the event loop may run late."
    )
    max_bytes_per_s: float = Field(
        _usual.bytes_per_s, ge=LEAST, allow_inf_nan=False, description="Bytes per second to viewers, measured by the load test."
    )
    max_packets_per_s: float = Field(
        _usual.packets_per_s, ge=LEAST, allow_inf_nan=False, description="Pushes per second, measured by the load test."
    )
    max_per_address: int = Field(
        2000,
        ge=0,
        description="Most connections from one IP address (for IPv6 a /64) at the same time; 0: no limit. It is high, since a "
        "school or a mobile network may share an address.",
    )
    max_user_connections: int = Field(
        32, ge=0, description="Most connections of one user at the same time, on all its devices; 0: no limit."
    )
    user_connections_per_s: float = Field(
        1.0, ge=0, le=1e6, description="Average number of new connections per second of one user; 0: no limit."
    )
    user_connections_burst: float = Field(32.0, ge=1, le=1e6, description="Burst of new connections of one user.")
    address_connections_per_s: float = Field(
        50.0,
        ge=0,
        le=1e6,
        description="Average number of new connections per second from one IP address (for IPv6 a /64); 0: no limit. As many "
        "as the scheduler lets enter (address_per_s).",
    )
    address_connections_burst: float = Field(500.0, ge=1, le=1e6, description="Burst of new connections from one IP address.")
    connection_joins_per_s: float = Field(
        1.0,
        ge=0,
        le=1e6,
        description="Average number of joins per second of one connection; 0: no limit. To join a room again in which the "
        "connection is already costs four.",
    )
    connection_joins_burst: float = Field(
        24.0, ge=8, le=1e6, description="Burst of joins of one connection: it joins 8 rooms, and changes them."
    )
    user_joins_per_s: float = Field(
        4.0, ge=0, le=1e6, description="Average number of joins per second of one user, on all its devices; 0: no limit."
    )
    user_joins_burst: float = Field(
        64.0, ge=8, le=1e6, description="Burst of joins of one user: it comes back to 8 rooms on several devices at once."
    )
    address_joins_per_s: float = Field(
        400.0,
        ge=0,
        le=1e6,
        description="Average number of joins per second from one IP address (for IPv6 a /64); 0: no limit. As many as its new "
        "connections may make with 8 rooms each.",
    )
    address_joins_burst: float = Field(4000.0, ge=8, le=1e6, description="Burst of joins from one IP address.")
    max_local_rooms: int = Field(
        20_000,
        ge=1,
        description="Most rooms that this gateway has at the same time, since viewers may invent rooms. For a further one it "
        "forgets a room without viewers, or else puts the viewers out of the emptiest room in which nobody ever spoke. Where "
        "there is none, the join is refused (full).",
    )
    max_address_quiet_rooms: int = Field(
        1000,
        ge=0,
        description="Most rooms in which nobody ever spoke that viewers of one IP address (for IPv6 a /64) may open at this "
        "gateway; 0: no limit. For a further one the emptiest of them is closed.",
    )
    max_user_rooms: int = Field(
        256,
        ge=1,
        description="Most different rooms that one user may be in at this gateway, over all its connections: by default 8 "
        "on each of its 32 connections. Beyond it a join is refused for now (too_many_rooms, with retry_after_s).",
    )
    max_unsent_bytes: int = Field(
        256 * 1024, ge=4096, description="Unsent bytes at which a viewer is closed as too slow (4008)."
    )
    slow_unsent_bytes: int = Field(
        64 * 1024, ge=1024, description="Unsent bytes above which a viewer gets reliable messages only."
    )
    max_unsent_s: float = Field(
        10.0, gt=0, description="Age of the oldest unsent byte, in seconds, at which a viewer is closed as too slow (4008)."
    )
    max_unsent_total_bytes: int = Field(
        256 * 1024 * 1024,
        ge=65_536,
        description="Unsent bytes of all viewers together. Above it the viewers with the most unsent bytes are closed first.",
    )
    pull_for_s: float = Field(
        300.0, ge=0, le=3600, description="Seconds that a viewer may still pull after its connection has ended."
    )
    pull_back_s: float = Field(
        600.0, gt=0, description="Seconds that viewers may go back when they pull messages from the log."
    )
    user_pulls_per_s: float = Field(
        2.0, gt=0, le=1e6, description="Average number of pulls per second for one user, on all its devices."
    )
    user_pulls_burst: float = Field(
        20.0, ge=1, le=1e6, description="Burst of pulls for one user: it comes back to 8 rooms on two devices at once."
    )
    user_pull_bytes_per_min: int = Field(
        8 * 1024 * 1024,
        ge=1024,
        description="Bytes per minute of answers to one user's pulls, on all its devices. One answer has at most 512 KiB.",
    )
    address_pulls_per_s: float = Field(
        200.0,
        ge=0,
        le=1e6,
        description="Average number of pulls per second for one IP address (for IPv6 a /64); 0: no limit. It is high, since "
        "a school or a mobile network may share an address.",
    )
    address_pulls_burst: float = Field(2000.0, ge=1, le=1e6, description="Burst of pulls for one IP address.")
    address_pull_bytes_per_min: int = Field(
        128 * 1024 * 1024,
        ge=0,
        description="Bytes per minute of answers to pulls from one IP address (for IPv6 a /64); 0: no limit.",
    )
    tls_cert_file: _OptionalFile = Field(
        None,
        description="Certificate chain, PEM. With it the public port speaks TLS (wss, https). All files of TLS are reloaded "
        "when they change.",
    )
    tls_key_file: _OptionalFile = Field(
        None, description="Private key of the certificate, PEM. Default: in the file of the certificate."
    )
    tls_cert_dirs: tuple[Path, ...] = Field(
        (),
        description="Folders with further certificates, each with tls.crt and tls.key. A viewer gets the certificate for the "
        "name that it asks for (SNI), or else that of tls_cert_file.",
        examples=[["/tls/live.example.org"]],
    )
    ticket_public_keys: Annotated[str, AfterValidator(_public_ticket_keys)] = Field(
        "",
        description="Public keys of entry tickets, a JWK Set with Ed25519 keys as `liveroom keys` makes it. All of them count.",
    )
    ticket_public_keys_file: _OptionalFile = Field(
        None,
        description="File with such a set, instead of ticket_public_keys. Reloaded when it changes, so that keys can rotate.",
    )

    @model_validator(mode="after")
    def _some_key(self) -> Self:
        if not self.verifies_signed_tickets and not self.honours_hmac_tickets:
            raise ValueError(
                "a public key of tickets is required: set LIVEROOM_TICKET_PUBLIC_KEYS or LIVEROOM_TICKET_PUBLIC_KEYS_FILE"
            )
        return self

    @property
    def ticket_files(self) -> list[Path | None]:
        """The files that `read_ticket_keys` reads, for `liveroom.files.watch`."""
        return [self.ticket_public_keys_file, self.ticket_keys_file]

    @property
    def verifies_signed_tickets(self) -> bool:
        """Whether there are Ed25519 keys of tickets."""
        return bool(self.ticket_public_keys) or self.ticket_public_keys_file is not None

    def read_ticket_keys(self) -> Keys:
        """Return the keys that tickets may be signed with now.

        Raises OSError or ValueError if a file cannot be used, or there is no key.
        """
        keys = dict(hmac_keys(self._read_hmac_keys()))
        if self.ticket_public_keys_file is not None:
            keys |= read_given_file(self.ticket_public_keys_file, read_public_keys)
        elif self.ticket_public_keys:
            keys |= read_public_keys(self.ticket_public_keys)
        if not keys:
            raise ValueError("there is no ticket key")
        return keys

    @model_validator(mode="after")
    def _a_certificate_for_each_key(self) -> "EdgeSettings":
        if self.tls_cert_file is None and (self.tls_key_file is not None or self.tls_cert_dirs):
            raise ValueError(
                "LIVEROOM_TLS_KEY_FILE and LIVEROOM_TLS_CERT_DIRS need LIVEROOM_TLS_CERT_FILE, without which there is no TLS"
            )
        return self

    @property
    def limits(self) -> Limits:
        """What this gateway can carry, as its load reports state it."""
        return Limits(
            connections=self.max_connections,
            joins_per_s=self.max_joins_per_s,
            cpu=self.max_cpu,
            loop_lag_ms=self.max_loop_lag_ms,
            bytes_per_s=self.max_bytes_per_s,
            packets_per_s=self.max_packets_per_s,
        )


class SchedulerSettings(TokenSettings, TicketSettings, FailureSettings):
    """Settings of the scheduler, which assigns viewers to gateways."""

    port: int = Field(8002, ge=0, le=65_535, description="Public port.")
    internal_port: int = Field(9003, ge=0, le=65_535, description="Internal port: /livez, /readyz, /metrics, /debug.")
    stale_s: float = Field(3.0, gt=0, description="Seconds without a load report after which a gateway gets no viewers.")
    addresses: int = Field(3, ge=1, le=10, description="Most gateways in one answer; the viewer tries them in order.")
    replicas: int = Field(
        1,
        ge=1,
        le=100,
        description="Number of schedulers behind the balancer. Each counts its own tickets this many times, since it "
        "cannot see those of the others.",
    )
    guests: bool = Field(default=True, description="Whether viewers without a token may enter as guests, who can only watch.")
    zones_file: _OptionalFile = Field(
        None,
        description="File that maps networks to zones, one per line: 10.0.0.0/8 east. Viewers go to gateways of "
        "their zone. Reloaded when it changes.",
    )
    address_per_s: float = Field(
        50.0, ge=0, le=1e6, description="Average number of entries with a token per second for one IP address; 0: no limit."
    )
    address_burst: float = Field(500.0, ge=1, le=1e6, description="Burst of entries for one IP address.")
    address_guests_per_s: float = Field(
        100.0,
        ge=0,
        le=1e6,
        description="Average number of guests per second that enter from one IP address (for IPv6 a /64); 0: no limit. A guest "
        "that enters again is a new one. Guests count here only, and not as entries with a token.",
    )
    address_guests_burst: float = Field(
        1000.0,
        ge=1,
        le=1e6,
        description="Burst of guests from one IP address. It is high: a school comes back at once when a gateway ends.",
    )
    user_entries_per_s: float = Field(
        1.0,
        ge=0,
        le=1e6,
        description="Average number of entries per second for one user, on all its devices; 0: no limit. Services and "
        "operators have none.",
    )
    user_entries_burst: float = Field(30.0, ge=1, le=1e6, description="Burst of entries for one user.")
    ticket_signing_keys: Annotated[SecretStr, AfterValidator(_private_ticket_keys)] = Field(
        SecretStr(""),
        description="Private keys of entry tickets, a JWK Set with Ed25519 keys as `liveroom keys` makes it. The first one "
        "signs.",
    )
    ticket_signing_keys_file: _OptionalFile = Field(
        None,
        description="File with such a set, instead of ticket_signing_keys. Reloaded when it changes, so that keys can rotate.",
    )

    @model_validator(mode="after")
    def _some_key(self) -> Self:
        has_signing_keys = bool(self.ticket_signing_keys.get_secret_value()) or self.ticket_signing_keys_file is not None
        if not has_signing_keys and not self.honours_hmac_tickets:
            raise ValueError(
                "a private key of tickets is required: set LIVEROOM_TICKET_SIGNING_KEYS or LIVEROOM_TICKET_SIGNING_KEYS_FILE"
            )
        return self

    def read_ticket_signers(self) -> Sequence[Signer]:
        """Return what signs tickets now, by descending version: at most one of each version.

        Raises OSError or ValueError if a file cannot be used, or there is no key.
        """
        signers: list[Signer] = []
        if self.ticket_signing_keys_file is not None:
            signers.append(read_given_file(self.ticket_signing_keys_file, read_private_keys)[0].signer())
        elif keys := self.ticket_signing_keys.get_secret_value():
            signers.append(read_private_keys(keys)[0].signer())
        signers += [hmac_signer(key_id, key) for key_id, key in list(self._read_hmac_keys().items())[:1]]
        if not signers:
            raise ValueError("there is no ticket key")
        return signers


class AutoscalerSettings(TokenSettings):
    """Settings of the autoscaler, which sets the size of the pool.

    With the local driver it starts gateways with its own environment, so theirs comes from there.
    """

    port: int = Field(8003, ge=0, le=65_535, description="Public port, for operators.")
    internal_port: int = Field(9004, ge=0, le=65_535, description="Internal port: /livez, /readyz, /metrics, /debug.")
    policy_file: _OptionalFile = Field(None, description="Policy of the pool, TOML (docs/pool.md). Reloaded when it changes.")
    interval_s: float = Field(1.0, gt=0, le=60, description="Seconds between two decisions.")
    empty_s: float = Field(60.0, gt=0, description="Seconds that a gateway may take to drain; then it is stopped in any case.")
    dry_run: bool = Field(default=False, description="Log the decisions without carrying them out.")
    driver: Literal["local", "kubernetes", "advisory"] = Field(
        "local",
        description="How gateways are started and stopped. local: as processes on this machine. kubernetes: as pods of a "
        "Deployment. advisory: not at all; the autoscaler only publishes the demand (for KEDA), so there is no drain order "
        "and no shedding.",
    )
    kubernetes_namespace: str = Field("default", min_length=1, description="Namespace of the gateways' Deployment.")
    kubernetes_deployment: str = Field("edge", min_length=1, description="Name of the gateways' Deployment.")
    kubernetes_timeout_s: float = Field(
        2.0,
        gt=0,
        le=3,
        description="Seconds that one call of the Kubernetes API may take. A failed call is not repeated; the next "
        "round begins from the cluster's state.",
    )
    advisory_host: str = Field("127.0.0.1", description="Address that the advisory port listens on; 0.0.0.0 in a container.")
    advisory_port: int = Field(8004, ge=0, le=65_535, description="gRPC port where KEDA asks how many gateways are needed.")
    local_folder: Path = Field(Path("pool"), description="Folder of the local driver: a log and a state file for each gateway.")
    local_settings: dict[str, str] = Field(
        {},
        description="Environment variables for the gateways, on top of the autoscaler's own.",
        examples=[{"LIVEROOM_MAX_CONNECTIONS": "500"}],
    )
    local_nice: int | None = Field(
        None,
        ge=0,
        le=19,
        description="Nice value of a gateway, 0 to 19; higher gives way to other processes on a busy machine.",
    )
    local_memory_bytes: int | None = Field(
        None,
        ge=256 * 1024 * 1024,
        description="Most address space of a gateway, in bytes. One that needs more crashes and is restarted.",
    )
    local_files: int | None = Field(
        None, ge=256, description="Most open files of a gateway, which also bounds its viewers. Default: the system's limit."
    )
    local_tether: int | None = Field(
        None, description="File descriptor of a pipe. The gateways end when its other end is closed."
    )


class CanarySettings(ServiceSettings):
    """Settings of the canary, a viewer at every gateway that checks that messages arrive."""

    internal_port: int = Field(9005, ge=0, le=65_535, description="Internal port: /livez, /readyz, /metrics, /debug.")
    ingress_url: Annotated[str, AfterValidator(check_service_url)] = Field(
        "http://127.0.0.1:8001", description="Ingress to send to."
    )
    scheduler_url: Annotated[str, AfterValidator(check_service_urls)] = Field(
        "http://127.0.0.1:8002",
        description="Scheduler to ask; several are separated by commas.",
        examples=["https://entry-1.example.org,https://entry-2.example.org"],
    )
    token: SecretStr = Field(SecretStr(""), description="User token of an operator.")
    token_key: SecretStr = Field(
        SecretStr(""), description="HS256 key with which the canary signs its own operator's token, when token is empty."
    )
    user: Annotated[str, AfterValidator(user_id)] = Field(
        "canary", description="User of the canary, as an identity service writes it into `sub`."
    )
    room: str = Field("canary", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Room of the canary, which it hides.")
    interval_s: float = Field(1.0, gt=0, description="Seconds between two gifts.")
    lost_s: float = Field(10.0, gt=0, description="Seconds after which a gift counts as lost.")

    @field_validator("token_key")
    @classmethod
    def _long_where_it_signs(cls, key: SecretStr, others: ValidationInfo) -> SecretStr:
        token = others.data.get("token")
        return key if token is not None and token.get_secret_value() else _no_key_or_long(key)

    @model_validator(mode="after")
    def _some_token(self) -> "CanarySettings":
        if not self.token.get_secret_value() and not self.token_key.get_secret_value():
            raise ValueError("an operator's token is required: set LIVEROOM_TOKEN, or LIVEROOM_TOKEN_KEY to sign one")
        return self


SERVICES: Final[Mapping[str, type[ServiceSettings]]] = {
    "ingress": IngressSettings,
    "broadcaster": BroadcasterSettings,
    "edge": EdgeSettings,
    "scheduler": SchedulerSettings,
    "autoscaler": AutoscalerSettings,
    "canary": CanarySettings,
}


def fields(model: type[BaseModel], prefix: str = PREFIX) -> Iterator[tuple[str, str, str]]:
    """Yield (environment variable, default, description) of every setting, nested ones included."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from fields(inner, f"{prefix}{name.upper()}__")
            continue
        shown = (
            "(required)" if field.is_required() else "(computed at start)" if field.default_factory else _written(field.default)
        )
        yield f"{prefix}{name.upper()}", shown, " ".join(filter(None, (field.description, format_of(field))))


def format_of(field: FieldInfo) -> str:
    """Return how a setting with a structure is written, as a sentence; empty for a plain value."""
    if not field.examples:
        return ""
    example = field.examples[0]
    return f"Such as: {example}" if isinstance(example, str) else f"Written as JSON, such as: {json.dumps(example)}"


def _written(default: Any) -> str:
    """Return a default as the environment would have it, an empty text for none."""
    if default is None or isinstance(default, SecretStr):
        return ""
    return json.dumps(default) if isinstance(default, bool | tuple | dict) else str(default)
