"""What is said of settings: of those that cannot be used, and of names that nobody knows."""

import json
import os
import re
from pathlib import Path
from typing import get_origin

import pytest
from pydantic import TypeAdapter

from devstack.builds import ROOT
from liveroom.setting_sources import Unknown, UnusableSettingsError, given, read_settings, unknown
from liveroom.settings import (
    SERVICES,
    BroadcasterSettings,
    EdgeSettings,
    IngressSettings,
    SchedulerSettings,
    ServiceSettings,
    fields,
)
from liveroom.variables import BESIDE_SETTINGS, set_variables
from tests.tickets import PUBLIC_KEYS

KEY = "0123456789abcdef0123456789abcdef"
PRODUCT = ("liveroom", "ingress", "broadcaster", "edge", "scheduler", "autoscaler", "viewer", "cli", "devstack", "dashboards")


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LIVEROOM_") or name == "KAFKA_BOOTSTRAP":
            monkeypatch.delenv(name)


def said(model: type[ServiceSettings]) -> list[str]:
    with pytest.raises(UnusableSettingsError) as caught:
        read_settings(model)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        pytest.param({"LIVEROOM_LINGER_MS": "soon"}, "LIVEROOM_LINGER_MS: Input should be a valid integer, ", id="a number"),
        pytest.param({"LIVEROOM_LOG_LEVEL": "loud"}, "LIVEROOM_LOG_LEVEL: Input should be 'debug', 'info', ", id="a word"),
        pytest.param(
            {"LIVEROOM_KAFKA__PARTITIONS": "0"},
            "LIVEROOM_KAFKA__PARTITIONS: Input should be greater than or equal to 1",
            id="nested",
        ),
        pytest.param(
            {"LIVEROOM_KAFKA__BOOTSTRAP": "kafka:port"},
            "LIVEROOM_KAFKA__BOOTSTRAP: number 1 is no address of a broker: write host:port",
            id="a list with commas",
        ),
        pytest.param({"KAFKA_BOOTSTRAP": "kafka:port"}, "KAFKA_BOOTSTRAP: number 1 is no address of a broker", id="a default"),
        pytest.param(
            {"KAFKA_BOOTSTRAP": "kafka:port", "LIVEROOM_KAFKA__PREFIX": "a."},
            "KAFKA_BOOTSTRAP: number 1 is no address of a broker",
            id="a default beside a setting",
        ),
        pytest.param({"LIVEROOM_ORIGINS": "http://x"}, "LIVEROOM_ORIGINS: Expecting value at character 0. ", id="no JSON"),
        pytest.param(
            {"LIVEROOM_ORIGINS": '{"a": 1}'},
            'LIVEROOM_ORIGINS: Input should be a valid tuple. Written as JSON, such as: ["https://live.example.org"',
            id="no list",
        ),
        pytest.param({"LIVEROOM_ORIGINS": "[" * 5000}, "LIVEROOM_ORIGINS: it nests too deep. Written as JSON", id="too deep"),
        pytest.param(
            {"LIVEROOM_ORIGINS": '["http://a", "http://x/"]'},
            "LIVEROOM_ORIGINS, number 2: it ends in a slash",
            id="an item of a list",
        ),
        pytest.param(
            {"LIVEROOM_PROXIES": '["10.0.0.1/8"]'}, "LIVEROOM_PROXIES, number 1: it has host bits set", id="a network"
        ),
        pytest.param({"LIVEROOM_DEBUG_KEY": "short"}, "LIVEROOM_DEBUG_KEY: must be at least 32 bytes", id="a key"),
        pytest.param(
            {"LIVEROOM_HTTP__PROXY_PROTOCOL": "true"},
            "LIVEROOM_HTTP__PROXY_PROTOCOL is believed from trusted proxies only: set LIVEROOM_PROXIES",
            id="two that belong together",
        ),
        pytest.param({"LIVEROOM_CONFIG": "/nowhere"}, "LIVEROOM_CONFIG names /nowhere, which is not a file", id="no file"),
        pytest.param({"LIVEROOM_SECRETS": "/nowhere"}, "LIVEROOM_SECRETS names /nowhere, which is no folder", id="no folder"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_is_expected(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], line: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (found,) = said(BroadcasterSettings)
    assert found.startswith(line), found


def test_a_value_of_a_file_is_named_by_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config, secrets = tmp_path / "liveroom.toml", tmp_path / "secrets"
    config.write_text('[kafka]\npartitions = 0\n[rates]\ndanmaku = {user_per_s = "x"}\n')
    secrets.mkdir()
    (secrets / "liveroom_token_key").write_text("hush")
    monkeypatch.setenv("LIVEROOM_CONFIG", str(config))
    monkeypatch.setenv("LIVEROOM_SECRETS", str(secrets))
    lines = said(IngressSettings)
    assert [line.partition(":")[0] for line in lines] == [
        f"kafka.partitions in {config}",
        f"{secrets}/liveroom_token_key",
        f"rates in {config}, danmaku, user_per_s",
    ]
    assert "hush" not in "".join(lines)


@pytest.mark.parametrize("content", ["linger_ms = = 2", "\xff"], ids=["no TOML", "no UTF-8"])
def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    config = tmp_path / "liveroom.toml"
    config.write_text(content, "latin-1")
    monkeypatch.setenv("LIVEROOM_CONFIG", str(config))
    (line,) = said(BroadcasterSettings)
    assert line.startswith(f"LIVEROOM_CONFIG names {config}, which cannot be read as TOML: ")


def test_a_secret_that_stands_in_a_name_s_place_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_TICKET_PUBLIC_KEYS", PUBLIC_KEYS)
    for value in (json.dumps({KEY: 5}), json.dumps({KEY: "k1"}), f'{{"k1": "{KEY}"'):
        monkeypatch.setenv("LIVEROOM_TICKET_KEYS", value)
        (line,) = said(EdgeSettings)
        assert line.startswith("LIVEROOM_TICKET_KEYS: ")
        assert KEY not in line


def test_a_misspelt_name_stands_below_what_is_missing_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_TOKN_KEY", KEY)
    assert said(IngressSettings) == [
        "a key of user tokens is required: set LIVEROOM_TOKEN_KEY or LIVEROOM_TOKEN_KEYS_FILE",
        "LIVEROOM_TOKN_KEY is no setting of this version; is it LIVEROOM_TOKEN_KEY?",
    ]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("LIVEROOM_ORIGIN", "LIVEROOM_ORIGINS"),
        ("LIVEROOM_KAFKA_BOOTSTRAP", "LIVEROOM_KAFKA__BOOTSTRAP"),
        ("LIVEROOM_KAFKA__PARTITION", "LIVEROOM_KAFKA__PARTITIONS"),
        ("liveroom_token_kye", "LIVEROOM_TOKEN_KEY"),
        ("LIVEROOM_PORT__X", "LIVEROOM_PORT"),
        ("LIVEROOM_INGRES_URL", "LIVEROOM_INGRESS_URL"),
        ("LIVEROOM_WHAT_A_LATER_VERSION_HAS", ""),
    ],
)
def test_a_name_that_nobody_knows_is_named_with_the_nearest_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, nearest: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert unknown() == [Unknown(name, "", nearest)]
    read_settings(BroadcasterSettings)


def test_what_is_set_for_another_service_or_for_a_command_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name for model in SERVICES.values() for name, _, _ in fields(model)} | BESIDE_SETTINGS
    for name in (*names, "LIVEROOM_KAFKA", "LIVEROOM_RATES__DANMAKU__USER_PER_S", "liveroom_linger_ms"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("LIVEROOM_CONFIG")
    assert unknown() == []


def test_what_kubernetes_gives_for_a_service_of_that_name_is_passed_over() -> None:
    linked = {"LIVEROOM_INGRESS_SERVICE_HOST": "10.0.0.1", "LIVEROOM_INGRESS_SERVICE_PORT_HTTP": "1"}
    linked |= {"LIVEROOM_INGRESS_PORT": "tcp://10.0.0.1:1", "LIVEROOM_INGRESS_PORT_1_TCP_ADDR": "10.0.0.1"}
    assert set_variables(linked) == []
    assert set_variables({"LIVEROOM_INGRESS_PORT": "1", "PATH": ""}) == ["LIVEROOM_INGRESS_PORT"]


def test_names_in_files_that_nobody_knows_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config, secrets = tmp_path / "liveroom.toml", tmp_path / "secrets"
    config.write_text("linger_mss = 1\nstale_s = 2\n[kafka]\nprefx = ''\n[rates.danmaku]\nuser_per_s = 1\n")
    secrets.mkdir()
    for name in ("liveroom_token_ky", "debug_key", "tls.crt", ".hidden"):
        (secrets / name).write_text(KEY)
    monkeypatch.setenv("LIVEROOM_CONFIG", str(config))
    monkeypatch.setenv("LIVEROOM_SECRETS", str(secrets))
    assert unknown() == [
        Unknown("linger_mss", str(config), "linger_ms"),
        Unknown("kafka.prefx", str(config), "kafka.prefix"),
        Unknown("debug_key", str(secrets), "liveroom_debug_key"),
        Unknown("liveroom_token_ky", str(secrets), "liveroom_token_key"),
    ]


def test_all_sources_say_what_is_set_and_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config, limits = tmp_path / "liveroom.toml", tmp_path / "limits.json"
    config.write_text('max_cpu = 0.5\nlinger_ms = 3\n[kafka]\nprefix = "file."\npartitions = 4\n')
    limits.write_text('{"max_connections": 7, "max_cpu": 0.25}')
    monkeypatch.setenv("LIVEROOM_CONFIG", str(config))
    monkeypatch.setenv("LIVEROOM_LIMITS", str(limits))
    monkeypatch.setenv("LIVEROOM_KAFKA__PREFIX", "env.")
    assert given(EdgeSettings) == {
        "LIVEROOM_KAFKA__PREFIX": ("env.", "LIVEROOM_KAFKA__PREFIX"),
        "LIVEROOM_KAFKA__PARTITIONS": (4, f"kafka.partitions in {config}"),
        "LIVEROOM_MAX_CPU": (0.5, f"max_cpu in {config}"),
        "LIVEROOM_MAX_CONNECTIONS": (7, f"max_connections in {limits}"),
    }


def test_what_a_caller_gives_goes_before_all_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_TOKEN_KEY", "short")
    monkeypatch.setenv("LIVEROOM_KAFKA__PREFIX", "env.")
    over = {
        "LIVEROOM_TOKEN_KEY": KEY,
        "LIVEROOM_KAFKA__PARTITIONS": "3",
        "LIVEROOM_ORIGINS": '["http://a"]',
        "LIVEROOM_ZONE": "z",
    }
    settings = read_settings(IngressSettings, over)
    assert (settings.kafka.partitions, settings.kafka.prefix, settings.origins) == (3, "env.", ("http://a",))


@pytest.mark.parametrize("model", SERVICES.values())
def test_every_setting_with_a_structure_has_an_example_that_can_be_used(model: type[ServiceSettings]) -> None:
    for name, field in model.model_fields.items():
        if get_origin(field.annotation) in {tuple, dict}:
            assert field.examples, name
            adapter: TypeAdapter[object] = TypeAdapter(field.rebuild_annotation())
            adapter.validate_python(field.examples[0])
            about = {variable: told for variable, _, told in fields(model)}[f"LIVEROOM_{name.upper()}"]
            assert about.endswith(f"Written as JSON, such as: {json.dumps(field.examples[0])}")


def test_every_variable_that_the_code_names_is_known() -> None:
    known = {name for model in SERVICES.values() for name, _, _ in fields(model)} | BESIDE_SETTINGS
    texts = (path.read_text("utf-8") for package in PRODUCT for path in (ROOT / package).rglob("*.py"))
    named = {name for text in texts for name in re.findall(r"\bLIVEROOM_[A-Z_]*[A-Z]\b", text)}
    assert named - known == {"LIVEROOM_KAFKA", "LIVEROOM_ORIGIN", "LIVEROOM_X", "LIVEROOM_X__Y"} & named


def test_settings_of_a_later_version_end_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_TOKEN_KEY", KEY)
    monkeypatch.setenv("LIVEROOM_TICKET_SIGNING_KEYS_FILE", "/keys.json")
    for name in ("LIVEROOM_NEW", "LIVEROOM_KAFKA__NEW", "LIVEROOM_HTTP__NEW", "LIVEROOM_NEW__NEW"):
        monkeypatch.setenv(name, "1")
    read_settings(SchedulerSettings)
    assert {one.name for one in unknown()} == {
        "LIVEROOM_NEW",
        "LIVEROOM_KAFKA__NEW",
        "LIVEROOM_HTTP__NEW",
        "LIVEROOM_NEW__NEW",
    }
