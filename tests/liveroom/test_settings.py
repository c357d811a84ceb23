"""Settings: where they come from, which source wins, and what is said when they are not usable."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import SettingsError

from liveroom.records.codec import GATEWAY_PATTERN
from liveroom.settings import (
    SERVICES,
    BroadcasterSettings,
    CanarySettings,
    EdgeSettings,
    HttpSettings,
    IngressSettings,
    KafkaSettings,
    SchedulerSettings,
    ServiceSettings,
    fields,
)
from liveroom.tickets import HMAC_VERSION, VERSION
from tests.tickets import PRIVATE_KEYS, PUBLIC_KEYS

KEY = "0123456789abcdef0123456789abcdef"
ALL = [IngressSettings, BroadcasterSettings, EdgeSettings, SchedulerSettings]


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("LIVEROOM_") or name == "KAFKA_BOOTSTRAP":
            monkeypatch.delenv(name)


@pytest.fixture
def toml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that LIVEROOM_CONFIG names."""
    file = tmp_path / "liveroom.toml"
    monkeypatch.setenv("LIVEROOM_CONFIG", str(file))
    return file


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that LIVEROOM_SECRETS names."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("LIVEROOM_SECRETS", str(folder))
    return folder


def test_without_anything_set_the_defaults_hold() -> None:
    settings = BroadcasterSettings()
    assert (settings.flush_interval_ms, settings.kafka.bootstrap, settings.kafka.partitions) == (100, "127.0.0.1:9092", 16)


def test_the_environment_sets_fields_and_nested_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_LINGER_MS", "7")
    monkeypatch.setenv("LIVEROOM_KAFKA__BOOTSTRAP", "a:1,b:2")
    monkeypatch.setenv("LIVEROOM_KAFKA__PARTITIONS", "8")
    monkeypatch.setenv("LIVEROOM_ORIGINS", '["https://a.example"]')
    settings = BroadcasterSettings()
    assert (settings.linger_ms, settings.kafka.bootstrap, settings.kafka.partitions) == (7, "a:1,b:2", 8)
    assert settings.origins == ("https://a.example",)


def test_kafka_bootstrap_is_the_default_of_the_bootstrap_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "k:9")
    assert BroadcasterSettings().kafka.bootstrap == "k:9"
    monkeypatch.setenv("LIVEROOM_KAFKA__BOOTSTRAP", "own:1")
    assert BroadcasterSettings().kafka.bootstrap == "own:1"


def test_a_toml_file_sets_fields_and_what_other_services_have_is_passed_over(toml: Path) -> None:
    toml.write_text('linger_ms = 9\nstale_s = 2.0\n[kafka]\nbootstrap = "f:1"\nprefix = "x."\n')
    settings = BroadcasterSettings()
    assert (settings.linger_ms, settings.kafka.bootstrap, settings.kafka.prefix) == (9, "f:1", "x.")


def test_a_folder_of_secrets_sets_fields_and_nested_fields(secrets: Path) -> None:
    (secrets / "liveroom_token_key").write_text(KEY + "\n")
    (secrets / "liveroom_kafka__password").write_text("hush\n")
    settings = IngressSettings()
    assert settings.token_key.get_secret_value() == KEY
    assert settings.kafka.password.get_secret_value() == "hush"


def test_secrets_as_kubernetes_mounts_them_are_read_once(secrets: Path) -> None:
    data = secrets / "..2026_01_01"
    data.mkdir()
    (data / "liveroom_ticket_keys").write_text(json.dumps({"k1": KEY}))
    (secrets / "..data").symlink_to(data)
    (secrets / "liveroom_ticket_keys").symlink_to(secrets / "..data" / "liveroom_ticket_keys")
    assert EdgeSettings().read_ticket_keys().keys() == {(HMAC_VERSION, "k1")}


def test_environment_goes_before_file_before_secrets_before_default(
    monkeypatch: pytest.MonkeyPatch, toml: Path, secrets: Path
) -> None:
    toml.write_text("")
    (secrets / "liveroom_linger_ms").write_text("1")
    assert BroadcasterSettings().linger_ms == 1
    toml.write_text('linger_ms = 2\n[kafka]\nprefix = "file."\nbootstrap = "file:1"\n')
    assert BroadcasterSettings().linger_ms == 2
    monkeypatch.setenv("LIVEROOM_LINGER_MS", "3")
    monkeypatch.setenv("LIVEROOM_KAFKA__BOOTSTRAP", "env:1")
    settings = BroadcasterSettings()
    assert settings.linger_ms == 3
    assert (settings.kafka.bootstrap, settings.kafka.prefix) == ("env:1", "file."), "nested ones go field by field"
    assert BroadcasterSettings(linger_ms=4).linger_ms == 4


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        pytest.param({"LIVEROOM_LINGER_MS": "soon"}, "linger_ms", id="not a number"),
        pytest.param({"LIVEROOM_LINGER_MS": "101"}, "linger_ms", id="out of range"),
        pytest.param({"LIVEROOM_KAFKA__PARTITIONS": "0"}, "partitions", id="nested, out of range"),
        pytest.param({"LIVEROOM_KAFKA__PREFIX": "a b"}, "prefix", id="prefix Kafka does not take"),
        pytest.param({"LIVEROOM_INSTANCE": "a b"}, "instance", id="instance with a space"),
        pytest.param({"LIVEROOM_INSTANCE": "e" * 65}, "instance", id="instance longer than a gateway's id"),
        pytest.param({"LIVEROOM_INSTANCE": "edge-1\n"}, "instance", id="instance with a line break"),
        pytest.param({"LIVEROOM_LOG_LEVEL": "loud"}, "log_level", id="unknown level"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=said):
        BroadcasterSettings()


@pytest.mark.parametrize("host", ["edge-1", "Ann's Büro.local", "h" * 200])
def test_the_name_of_a_process_is_one_that_readers_of_its_records_take(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert re.match(GATEWAY_PATTERN[0], BroadcasterSettings().instance)


def test_a_config_that_is_no_file_or_no_toml_is_refused(toml: Path) -> None:
    with pytest.raises(FileNotFoundError, match="LIVEROOM_CONFIG names"):
        BroadcasterSettings()
    toml.write_text("linger_ms = = 2")
    with pytest.raises(ValueError, match="line 1"):
        BroadcasterSettings()


def test_a_folder_of_secrets_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_SECRETS", "/nowhere/at-all")
    with pytest.raises(SettingsError, match="does not exist"):
        BroadcasterSettings()


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({}, id="none"),
        pytest.param({"k1": "short"}, id="short key"),
        pytest.param({"k1": KEY, "k2": "é" * 15}, id="30 bytes"),
        pytest.param({"a.b": KEY}, id="id with a dot, which parts a ticket"),
        pytest.param({"": KEY}, id="empty id"),
        pytest.param({"k" * 17: KEY}, id="id of 17"),
    ],
)
def test_ticket_keys_that_cannot_sign_are_refused(keys: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        EdgeSettings(ticket_keys=keys)


@pytest.mark.parametrize("model", [IngressSettings, EdgeSettings, SchedulerSettings])
def test_keys_have_no_default(model: type[ServiceSettings]) -> None:
    with pytest.raises(ValidationError, match=r"Field required|is required"):
        model()


def test_the_first_ticket_key_of_each_version_signs_and_the_newest_version_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIVEROOM_TOKEN_KEY", KEY)
    monkeypatch.setenv("LIVEROOM_TICKET_KEYS", json.dumps({"new": KEY, "old": KEY}))
    assert [signer[:2] for signer in SchedulerSettings().read_ticket_signers()] == [("new", HMAC_VERSION)]
    monkeypatch.setenv("LIVEROOM_TICKET_SIGNING_KEYS", PRIVATE_KEYS)
    signers = SchedulerSettings().read_ticket_signers()
    assert [signer[:2] for signer in signers] == [("k2", VERSION), ("new", HMAC_VERSION)]


def test_a_gateway_with_both_kinds_of_keys_honours_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_TICKET_PUBLIC_KEYS", PUBLIC_KEYS)
    settings = EdgeSettings()
    assert settings.read_ticket_keys().keys() == {(VERSION, "k1"), (VERSION, "k2")}
    assert not settings.honours_hmac_tickets
    monkeypatch.setenv("LIVEROOM_TICKET_KEYS", json.dumps({"k1": KEY}))
    settings = EdgeSettings()
    assert settings.read_ticket_keys().keys() == {(VERSION, "k1"), (VERSION, "k2"), (HMAC_VERSION, "k1")}
    assert settings.honours_hmac_tickets


def test_a_gateway_that_is_given_the_private_keys_refuses_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_TICKET_PUBLIC_KEYS", PRIVATE_KEYS)
    with pytest.raises(ValidationError, match="a private key: a gateway must have the public key only"):
        EdgeSettings()


def test_a_scheduler_that_is_given_the_public_keys_refuses_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_TOKEN_KEY", KEY)
    monkeypatch.setenv("LIVEROOM_TICKET_SIGNING_KEYS", PUBLIC_KEYS)
    with pytest.raises(ValidationError, match="signing needs the private one"):
        SchedulerSettings()


@pytest.mark.parametrize("service", [BroadcasterSettings, CanarySettings])
def test_a_debug_key_has_the_length_of_a_key(service: type[ServiceSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_TOKEN_KEY", KEY)
    monkeypatch.setenv("LIVEROOM_DEBUG_KEY", "k" * 31)
    with pytest.raises(ValidationError, match=r"debug_key\n  Value error, must be at least 32 bytes"):
        service()
    monkeypatch.setenv("LIVEROOM_DEBUG_KEY", "k" * 32)
    assert service().debug_key.get_secret_value() == "k" * 32


def test_settings_are_frozen() -> None:
    settings = BroadcasterSettings()
    for model, name in ((settings, "linger_ms"), (settings.kafka, "bootstrap")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, name, 1)


def test_secrets_never_show() -> None:
    kafka = KafkaSettings(password=KEY)
    settings = SchedulerSettings(token_key=KEY, ticket_keys={"k1": KEY}, kafka=kafka)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.kafka)):
        assert KEY not in shown


def test_a_refused_secret_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_TOKEN_KEY", "hush-hush")
    with pytest.raises(ValidationError) as caught:
        IngressSettings()
    assert all("hush-hush" not in item["msg"] for item in caught.value.errors())


def names_of(model: type[BaseModel]) -> set[str]:
    return {name for name, _, _ in fields(model)}


@pytest.mark.parametrize("model", ALL)
def test_every_setting_is_listed_with_what_it_does(model: type[ServiceSettings]) -> None:
    rows = list(fields(model))
    assert len(rows) == len(names_of(model))
    assert all(about for _, _, about in rows)
    kafka = {f"LIVEROOM_KAFKA__{name.upper()}" for name in KafkaSettings.model_fields}
    http = {f"LIVEROOM_HTTP__{name.upper()}" for name in HttpSettings.model_fields}
    own = {f"LIVEROOM_{name.upper()}" for name in model.model_fields} - {"LIVEROOM_KAFKA", "LIVEROOM_HTTP"}
    assert names_of(model) == kafka | http | own


def test_a_list_of_settings_shows_no_secret_and_nothing_of_this_machine() -> None:
    rows = {name: default for name, default, _ in fields(SchedulerSettings)}
    assert rows["LIVEROOM_TOKEN_KEY"] == ""
    assert rows["LIVEROOM_TICKET_KEYS"] == "{}"
    assert rows["LIVEROOM_KAFKA__PASSWORD"] == ""
    assert rows["LIVEROOM_INSTANCE"] == "(computed at start)"
    assert rows["LIVEROOM_STALE_S"] == "3.0"


def test_a_proxy_header_is_believed_from_trusted_proxies_only() -> None:
    keys: dict[str, Any] = {"ticket_keys": {"k1": KEY}, "http": HttpSettings(proxy_protocol=True)}
    with pytest.raises(ValidationError, match="set LIVEROOM_PROXIES"):
        EdgeSettings(**keys)
    assert EdgeSettings(**keys, proxies=("10.0.0.0/8",)).http.proxy_protocol
    assert EdgeSettings(**keys, proxies=("10.0.0.0/8",), tls_cert_file="cert.pem").http.proxy_protocol


def test_every_service_refuses_proxies_that_are_no_networks() -> None:
    with pytest.raises(ValidationError, match="has host bits set"):
        BroadcasterSettings(proxies=("10.0.0.1/8",))


FILES = [
    (model, name)
    for model in SERVICES.values()
    for name, field in model.model_fields.items()
    if name.endswith("_file") and field.default is None
]


@pytest.mark.parametrize(("model", "name"), FILES, ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_every_optional_file_is_set_back_to_none_by_an_empty_text(
    monkeypatch: pytest.MonkeyPatch, model: type[ServiceSettings], name: str
) -> None:
    monkeypatch.setenv("LIVEROOM_TOKEN_KEY", KEY)
    monkeypatch.setenv("LIVEROOM_TICKET_KEYS", json.dumps({"k1": KEY}))
    monkeypatch.setenv(f"LIVEROOM_{name.upper()}", "")
    assert getattr(model(), name) is None


def test_a_canary_with_a_token_does_not_care_about_the_key_that_it_does_not_use() -> None:
    assert CanarySettings(token=SecretStr("a.b.c"), token_key=SecretStr("short")).token.get_secret_value() == "a.b.c"
    with pytest.raises(ValidationError, match="at least 32 bytes"):
        CanarySettings(token_key=SecretStr("short"))
