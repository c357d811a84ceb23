"""Settings: one frozen model per service, parsed once in `__main__` and passed in. No globals.

Sources, the first wins: environment (`LIVEROOM_...`, nested with `__`:
`LIVEROOM_KAFKA__BOOTSTRAP`), the TOML file named by `LIVEROOM_CONFIG`, for gateways the limits file
of the load test named by `LIVEROOM_LIMITS` (JSON), the folder of secrets named by
`LIVEROOM_SECRETS` (one file a setting, named like its variable), the default. `KAFKA_BOOTSTRAP` is
the default of `kafka.bootstrap`. Every field says its unit and why its default is what it is;
`python -m ingress --help` prints them.
"""

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from liveroom.networks import Networks
from liveroom.records.control import Limits
from liveroom.tokens import MIN_SECRET_BYTES, Key, read_keys, secret
from liveroom.topics import DEFAULT_PARTITIONS

LIMITS = "LIVEROOM_LIMITS"
_LIMIT_NAMES = {"max_connections", "max_joins_per_s", "max_cpu", "max_loop_lag_ms", "max_bytes_per_s", "max_packets_per_s"}
_usual = Limits()
LEAST: Final = 0.001  # of a limit: others divide by it
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,16}\Z")


class KafkaSettings(BaseModel):
    """How to reach the cluster.

    Time-outs are far below the client's defaults, which break the failure budget of 10 s.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap: str = Field(
        default_factory=lambda: os.environ.get("KAFKA_BOOTSTRAP", "127.0.0.1:9092"), description="host:port list of the cluster"
    )
    prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]{0,64}$", description="put before every topic and group: several systems on one cluster"
    )
    partitions: int = Field(
        DEFAULT_PARTITIONS, ge=1, le=1024, description="partitions rooms are spread over; fixed for a cluster's life"
    )
    replication: int = Field(1, ge=1, le=9, description="replication factor of new topics; 1 for one broker, 3 in production")
    min_insync: int = Field(1, ge=1, le=9, description="min.insync.replicas of new topics; 2 with a replication of 3")
    request_timeout_s: float = Field(3.0, gt=0, description="one request to a broker; the client's 40 s would break the budget")
    session_timeout_s: float = Field(
        6.0, gt=0, description="until a dead member's partitions move; brokers refuse less than 6 s unless lowered"
    )
    metadata_max_age_s: float = Field(
        5.0, gt=0, description="how old the view of leaders may get; the client's 5 min is too old"
    )
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="protocol to the brokers"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field("SCRAM-SHA-512", description="with SASL_*")
    username: str = Field("", description="with SASL_*")
    password: SecretStr = Field(SecretStr(""), description="with SASL_*")
    ca_file: Path | None = Field(None, description="certificate authority of the brokers; the system's when not set")
    cert_file: Path | None = Field(None, description="client certificate, for mutual TLS")
    key_file: Path | None = Field(None, description="key of the client certificate")


class ServiceSettings(BaseSettings):
    """What every service has."""

    model_config = SettingsConfigDict(env_prefix="LIVEROOM_", env_nested_delimiter="__", frozen=True, extra="ignore")

    instance: str = Field(
        default_factory=lambda: f"{socket.gethostname()[:40]}-{os.getpid()}",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="this process among its like, in logs, claims and reports",
    )
    host: str = Field("127.0.0.1", description="address of the public port; 0.0.0.0 in a container")
    port: int = Field(0, ge=0, le=65_535, description="public port")
    internal_host: str = Field("127.0.0.1", description="address of the internal port; never reachable from outside")
    internal_port: int = Field(0, ge=0, le=65_535, description="internal port: /livez /readyz /metrics")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log line that is written")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: colours on a terminal, JSON lines elsewhere"
    )
    debug_key: SecretStr = Field(
        SecretStr(""), description="key that operators show at /debug of the internal port; none: there is no /debug"
    )
    trace_ratio: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of interactions that are traced (OpenTelemetry; needs liveroom[tracing]); the same for all services",
    )
    origins: tuple[str, ...] = Field((), description="pages of these origins may call (CORS) and connect; '*': all")
    kafka: KafkaSettings = Field(default_factory=KafkaSettings, description="the cluster")

    @classmethod
    def settings_customise_sources(  # noqa: D102 - the base class says it
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        if config := _file_named_by("LIVEROOM_CONFIG"):
            sources.append(TomlConfigSettingsSource(settings_cls, config))
        if issubclass(settings_cls, EdgeSettings) and (limits := _file_named_by(LIMITS)):
            sources.append(InitSettingsSource(settings_cls, _limits_in(limits)))
        if folder := os.environ.get("LIVEROOM_SECRETS"):
            source = NestedSecretsSettingsSource(settings_cls, folder, secrets_dir_missing="error")  # type: ignore[arg-type]
            sources.append(source)
        return tuple(sources)


def _file_named_by(variable: str) -> Path | None:
    """Return the file that a variable of the environment names, None where it names none."""
    name = os.environ.get(variable)
    if not name:
        return None
    if not Path(name).is_file():
        raise FileNotFoundError(f"{variable} names {name}, which is not a file")
    return Path(name)


def _limits_in(file: Path) -> dict[str, Any]:
    """Return the limits of a limits file; it may say nothing else, but how they were measured."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{LIMITS} names {file}, which is no JSON object that can be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{LIMITS} names {file}, which is no JSON object")  # noqa: TRY004 - as all that is wrong with settings
    found.pop("measured", None)
    if unknown := set(found) - _LIMIT_NAMES:
        raise ValueError(f"{LIMITS} names {file}, where {', '.join(sorted(unknown))} is no limit of a gateway")
    return found


def _long_enough(key: SecretStr, name: str) -> None:
    if len(key.get_secret_value().encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"{name} must be at least {MIN_SECRET_BYTES} bytes (try: openssl rand -hex 32)")


class TokenSettings(ServiceSettings):
    """The keys of user tokens, for the services that check them."""

    token_key: SecretStr = Field(
        SecretStr(""), description="HS256 key of user tokens, shared with the identity service; at least 32 bytes"
    )
    token_keys_file: Path | None = Field(
        None,
        description="JWK Set of user tokens (HS256, RS256, EdDSA), read again when it changes; beside token_key or instead",
    )
    token_leeway_s: float = Field(30.0, ge=0, description="how far the clocks of token issuer and service may differ")

    @model_validator(mode="after")
    def _keys(self) -> "TokenSettings":
        if self.token_key.get_secret_value():
            _long_enough(self.token_key, "token_key")
        elif self.token_keys_file is None:
            raise ValueError("keys of user tokens are needed: LIVEROOM_TOKEN_KEY, or LIVEROOM_TOKEN_KEYS_FILE")
        return self

    def read_token_keys(self) -> list[Key]:
        """Return the keys as they are now; raise OSError or KeysError where the file cannot be
        used.
        """
        keys = read_keys(self.token_keys_file.read_bytes()) if self.token_keys_file is not None else []
        if one := self.token_key.get_secret_value():
            keys.append(secret(one.encode()))
        return keys


class TicketSettings(ServiceSettings):
    """What viewers meet, for scheduler and edge: the keys of entry tickets, and whose word about
    addresses is believed.
    """

    ticket_keys: dict[str, SecretStr] = Field(
        {}, description='key id -> key of tickets, as JSON: {"k1": "..."}; the first signs, all verify'
    )
    ticket_keys_file: Path | None = Field(
        None, description="the same as a file, read again when it changes, so that keys can be rotated; beside or instead"
    )
    proxies: tuple[str, ...] = Field(
        (), description="networks of proxies in front, whose X-Forwarded-For is believed, as JSON list"
    )

    @model_validator(mode="after")
    def _long_keys(self) -> "TicketSettings":
        if not self.ticket_keys and self.ticket_keys_file is None:
            raise ValueError("keys of tickets are needed: LIVEROOM_TICKET_KEYS, or LIVEROOM_TICKET_KEYS_FILE")
        _check_ticket_keys(self.ticket_keys)
        Networks((network, "") for network in self.proxies)
        return self

    def read_ticket_keys(self) -> dict[str, bytes]:
        """Return the keys as they are now, the signing one first; raise OSError or ValueError where
        the file cannot be used.
        """
        keys: dict[str, SecretStr] = {}
        if self.ticket_keys_file is not None:
            keys = TypeAdapter(dict[str, SecretStr]).validate_json(self.ticket_keys_file.read_bytes())
            if not keys:
                raise ValueError("there is no ticket key in the file")
            _check_ticket_keys(keys)
        return {name: key.get_secret_value().encode() for name, key in (keys | self.ticket_keys).items()}


def _check_ticket_keys(keys: Mapping[str, SecretStr]) -> None:
    for name, key in keys.items():
        if not _KEY_ID.match(name):  # it stands between a ticket's dots
            raise ValueError(f"ticket key id {name!r} is not 1 to 16 of A-Z a-z 0-9 _ -")
        _long_enough(key, f"ticket key {name}")


class RateSettings(BaseModel):
    """How fast one kind of interaction may be sent, at one ingress. 0: as fast as one likes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_per_s: float = Field(1.0, ge=0, le=1e6, description="by one user, on average")
    user_burst: float = Field(5.0, ge=1, le=1e6, description="by one user at once")
    room_per_s: float = Field(0.0, ge=0, le=1e6, description="in one room, by all")


USUAL_RATES = {
    "danmaku": RateSettings(user_per_s=3, user_burst=10, room_per_s=5000),
    "gift": RateSettings(user_per_s=20, user_burst=100),
    "like": RateSettings(user_per_s=5, user_burst=20),
    "custom": RateSettings(user_per_s=3, user_burst=10, room_per_s=500),
    "package": RateSettings(user_per_s=5, user_burst=20),
    "act": RateSettings(user_per_s=20, user_burst=100),
}
OTHER_RATE = RateSettings(user_per_s=5, user_burst=20)


class IngressSettings(TokenSettings):
    """The entrance for interactions."""

    port: int = Field(8001, ge=0, le=65_535, description="public port")
    internal_port: int = Field(9001, ge=0, le=65_535, description="internal port: /livez /readyz /metrics")
    max_body_bytes: int = Field(32 * 1024, ge=1024, le=65_536, description="largest request; an uplink record holds 64 KiB")
    body_timeout_s: float = Field(5.0, gt=0, description="time to send a request's body; slow senders are cut")
    ack_timeout_s: float = Field(
        2.5, gt=0, description="time for the brokers' ack; then 503 and Retry-After, in all within 3 s"
    )
    max_waiting: int = Field(10_000, ge=1, description="interactions waiting for an ack at once; more get 503 at once")
    rates: dict[str, RateSettings] = Field(
        {},
        description='rates that differ from the usual ones, as JSON: {"danmaku": {"user_per_s": 1, "user_burst": 3}}; '
        "names are kinds, `package` and `act` (what hosts do)",
    )
    word_files: tuple[Path, ...] = Field((), description="word libraries, as JSON list; read again when they change")
    word_mute_hits: int = Field(5, ge=0, description="texts with words after which a user is muted; 0: never")
    word_media_hits: int = Field(0, ge=0, description="refused texts of a room after which it takes no media; 0: never")
    word_window_s: float = Field(300.0, gt=0, description="time within which these count")
    word_mute_s: int = Field(600, ge=1, description="how long such a mute holds")
    review_url: str = Field("", description="HTTP hook that is asked about every danmaku; none: nobody is asked")
    review_timeout_s: float = Field(0.2, gt=0, le=2, description="time for its answer")
    review_fallback: Literal["allow", "refuse"] = Field("allow", description="what is done while it does not answer")
    announce_rooms_per_s: float = Field(200.0, gt=0, description="pace of an announcement to all rooms")


class BroadcasterSettings(ServiceSettings):
    """The numbering and packing of rooms."""

    internal_port: int = Field(9002, ge=0, le=65_535, description="internal port: /livez /readyz /metrics")
    flush_interval_ms: int = Field(100, ge=5, le=1000, description="a busy partition leaves one BATCH every so often")
    linger_ms: int = Field(3, ge=0, le=100, description="how long the first interaction after quiet waits for company")
    room_limit_per_s: int = Field(1000, ge=1, description="best-effort messages a second of one room; more are thinned")
    snapshot_interval_s: float = Field(30.0, gt=0, description="how often a changed partition's state is written")
    dedupe_s: float = Field(600.0, gt=0, description="how long ids of reliable interactions are remembered")


class EdgeSettings(TicketSettings):
    """The gateway."""

    port: int = Field(8010, ge=0, le=65_535, description="public port")
    internal_port: int = Field(9010, ge=0, le=65_535, description="internal port: /livez /readyz /metrics")
    public_url: str = Field("", description="what browsers connect to, wss://name/v1/live; default: ws://host:port/v1/live")
    public_ip: str = Field("", description="address handed out beside the name, so that no DNS is needed; default: host")
    zone: str = Field("", description="where this gateway stands, for viewers near it")
    report_interval_s: float = Field(1.0, gt=0, description="how often load is reported; readers forget after 3 s")
    handshake_timeout_s: float = Field(5.0, gt=0, description="time to send the upgrade and to join the first room")
    heartbeat_s: float = Field(20.0, gt=0, description="how often viewers are asked to beat")
    drain_s: float = Field(20.0, ge=0, description="time over which viewers are moved away at the end")
    max_connections: int = Field(_usual.connections, ge=1, description="viewers this gateway takes; the load test finds it")
    max_joins_per_s: float = Field(
        _usual.joins_per_s,
        ge=LEAST,
        allow_inf_nan=False,
        description="joins a second this gateway takes; the load test finds it",
    )
    max_cpu: float = Field(
        _usual.cpu,
        ge=LEAST,
        le=1,
        description="share of a core from which on it gets next to no new viewers; so the next three",
    )
    max_loop_lag_ms: float = Field(
        _usual.loop_lag_ms, ge=LEAST, allow_inf_nan=False, description="how late its event loop may run"
    )
    max_bytes_per_s: float = Field(
        _usual.bytes_per_s, ge=LEAST, allow_inf_nan=False, description="bytes a second to viewers; the load test finds it"
    )
    max_packets_per_s: float = Field(
        _usual.packets_per_s, ge=LEAST, allow_inf_nan=False, description="pushes a second; the load test finds it"
    )
    max_per_address: int = Field(0, ge=0, description="viewers from one address; 0: any number (a whole campus may share one)")
    max_unsent_bytes: int = Field(256 * 1024, ge=4096, description="unsent bytes at which a viewer is closed as too slow")
    slow_unsent_bytes: int = Field(
        64 * 1024, ge=1024, description="unsent bytes from which a viewer gets reliable messages only"
    )
    max_unsent_s: float = Field(10.0, gt=0, description="age of the oldest unsent byte at which a viewer is closed as too slow")
    max_unsent_total_bytes: int = Field(
        256 * 1024 * 1024, ge=65_536, description="unsent bytes of all viewers; over it the slowest are closed first"
    )
    pull_for_s: float = Field(300.0, ge=0, le=3600, description="how long after its connection ended a viewer may still pull")
    pull_back_s: float = Field(600.0, gt=0, description="how far back viewers may pull messages from the log")
    tls_cert_file: Path | None = Field(
        None, description="certificate chain, PEM; with it the public port speaks TLS (wss, https)"
    )
    tls_key_file: Path | None = Field(None, description="key of the certificate, PEM")

    @property
    def limits(self) -> Limits:
        """What this gateway can carry, as it tells scheduler and autoscaler."""
        return Limits(
            connections=self.max_connections,
            joins_per_s=self.max_joins_per_s,
            cpu=self.max_cpu,
            loop_lag_ms=self.max_loop_lag_ms,
            bytes_per_s=self.max_bytes_per_s,
            packets_per_s=self.max_packets_per_s,
        )


class SchedulerSettings(TokenSettings, TicketSettings):
    """The entry."""

    port: int = Field(8002, ge=0, le=65_535, description="public port")
    internal_port: int = Field(9003, ge=0, le=65_535, description="internal port: /livez /readyz /metrics")
    stale_s: float = Field(3.0, gt=0, description="a gateway that did not report for so long gets nobody")
    addresses: int = Field(3, ge=1, le=10, description="most gateways named in one answer")
    replicas: int = Field(1, ge=1, le=100, description="schedulers behind the balancer; none sees the tickets of the others")
    guests: bool = Field(default=True, description="answer without a token, as a guest who can only watch")
    zones_file: Path | None = Field(
        None, description="a line a network: 10.0.0.0/8 east; viewers go to gateways of their zone; read again when it changes"
    )
    address_per_s: float = Field(
        50.0, ge=0, le=1e6, description="entries for one address on average (a /64 of IPv6); 0: any number"
    )
    address_burst: float = Field(500.0, ge=1, le=1e6, description="entries for one address at once")


class AutoscalerSettings(TokenSettings):
    """The size of the pool.

    With the local driver it starts gateways with its own environment: their settings too.
    """

    port: int = Field(8003, ge=0, le=65_535, description="public port, for operators")
    internal_port: int = Field(9004, ge=0, le=65_535, description="internal port: /livez /readyz /metrics")
    policy_file: Path | None = Field(None, description="policy, TOML; read again when it changes (docs/pool.md)")
    interval_s: float = Field(1.0, gt=0, le=60, description="how often it looks and decides")
    empty_s: float = Field(60.0, gt=0, description="time for a gateway to be emptied; then it is stopped all the same")
    dry_run: bool = Field(default=False, description="decide and say so, but do nothing")
    driver: Literal["local", "kubernetes", "advisory"] = Field(
        "local",
        description="what starts and stops gateways: this process, as processes of this machine; Kubernetes, as pods of a "
        "Deployment; advisory: nothing, it only says what it takes (to KEDA), so without drain order and shedding",
    )
    kubernetes_namespace: str = Field("default", min_length=1, description="namespace of the gateways' Deployment")
    kubernetes_deployment: str = Field("edge", min_length=1, description="the gateways' Deployment")
    kubernetes_timeout_s: float = Field(
        2.0, gt=0, le=3, description="time for one thing asked of the Kubernetes API; then it is asked anew at the next look"
    )
    advisory_host: str = Field("127.0.0.1", description="address of the advisory port; 0.0.0.0 in a container")
    advisory_port: int = Field(8004, ge=0, le=65_535, description="gRPC port that KEDA asks how many gateways it takes")
    local_folder: Path = Field(Path("pool"), description="the local driver's files: a log and a state for each gateway")
    local_settings: dict[str, str] = Field(
        {}, description='settings of the gateways that differ: {"LIVEROOM_MAX_CONNECTIONS": "500"}'
    )
    local_nice: int | None = Field(None, ge=0, le=19, description="how much a gateway gives way on a busy processor")
    local_memory_bytes: int | None = Field(
        None, ge=256 * 1024 * 1024, description="address space of a gateway; one that wants more is started again"
    )
    local_files: int | None = Field(
        None, ge=256, description="open files of a gateway, so its viewers too; default: the system's"
    )
    local_tether: int | None = Field(None, description="descriptor of a pipe; the gateways end when its other end is closed")


class CanarySettings(ServiceSettings):
    """A viewer at every gateway that sees whether what is sent arrives."""

    internal_port: int = Field(9005, ge=0, le=65_535, description="internal port: /livez /readyz /metrics")
    ingress_url: str = Field("http://127.0.0.1:8001", description="ingress to send to")
    scheduler_url: str = Field("http://127.0.0.1:8002", description="scheduler to ask; several with commas between")
    token: SecretStr = Field(SecretStr(""), description="an operator's user token")
    token_key: SecretStr = Field(SecretStr(""), description="HS256 key to make an operator's token with, where there is none")
    user: str = Field("canary", pattern=r"^[A-Za-z0-9_.:@-]{1,64}$", description="the user it is")
    room: str = Field("canary", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="its room, which it hides")
    interval_s: float = Field(1.0, gt=0, description="how often it sends a gift")
    lost_s: float = Field(10.0, gt=0, description="time after which a gift counts as lost")

    @model_validator(mode="after")
    def _some_token(self) -> "CanarySettings":
        if not self.token.get_secret_value():
            if not self.token_key.get_secret_value():
                raise ValueError("an operator's token is needed: LIVEROOM_TOKEN, or LIVEROOM_TOKEN_KEY to make one")
            _long_enough(self.token_key, "token_key")
        return self


def fields(model: type[BaseModel], prefix: str = "LIVEROOM_") -> Iterator[tuple[str, str, str]]:
    """Give (environment variable, default, description) of every setting, nested ones with their
    path.
    """
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from fields(inner, f"{prefix}{name.upper()}__")
            continue
        default: Any = "(made at start)" if field.default_factory else field.default
        shown = "(needed)" if field.is_required() else "" if isinstance(default, SecretStr) else str(default)
        yield f"{prefix}{name.upper()}", shown, field.description or ""
