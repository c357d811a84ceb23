"""What a system takes from its user's settings and options, and what it refuses aloud."""

import os
from pathlib import Path

import pytest

from devstack.system import System
from devstack.wishes import Options, Wishes, WishesError, read_wishes
from liveroom.setting_sources import UnusableSettingsError

SERVICES = ("ingress", "broadcaster", "edge", "scheduler")
KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LIVEROOM_") or name == "KAFKA_BOOTSTRAP":
            monkeypatch.delenv(name)


def wishes(options: Options | None = None, **own: str) -> Wishes:
    return read_wishes(options or Options(), SERVICES, own, 16)


def test_who_wants_nothing_gets_what_the_command_has() -> None:
    assert wishes() == Wishes("", "", 16, (), "", "", "", {}, frozenset(), [])


def test_settings_and_options_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "liveroom.toml"
    config.write_text(f'token_key = "{KEY}"\ndrain_s = 3\n[kafka]\npartitions = 4\n')
    monkeypatch.setenv("LIVEROOM_CONFIG", str(config))
    monkeypatch.setenv("LIVEROOM_ORIGINS", '["http://a"]')
    monkeypatch.setenv("LIVEROOM_KAFKA__BOOTSTRAP", "own:1")
    monkeypatch.setenv("LIVEROOM_KAFKA__SECURITY", "SSL")
    found = wishes(Options(prefix="p.", origins=["http://b", "http://a"]))
    assert (found.bootstrap, found.prefix, found.partitions, found.token_key) == ("own:1", "p.", 4, KEY)
    assert found.origins == ("http://b", "http://a")
    system = System("own:1", token_key=found.token_key, taken=found.taken)
    assert "LIVEROOM_DRAIN_S" not in system._settings_for("edge")
    assert system._settings_for("ingress")["LIVEROOM_TOKEN_KEY"] == KEY


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIVEROOM_INSTANCE", "mine"),
        ("LIVEROOM_HOST", "0.0.0.0"),
        ("LIVEROOM_INTERNAL_HOST", "::1"),
        ("LIVEROOM_PORT", "8001"),
        ("LIVEROOM_INTERNAL_PORT", "9001"),
        ("LIVEROOM_REPLICAS", "2"),
        ("LIVEROOM_TICKET_SIGNING_KEYS", "{}"),
        ("LIVEROOM_TICKET_SIGNING_KEYS_FILE", "/keys"),
        ("LIVEROOM_TICKET_PUBLIC_KEYS", "{}"),
        ("LIVEROOM_TICKET_PUBLIC_KEYS_FILE", "/keys"),
        ("LIVEROOM_TICKET_KEYS", '{"k1": "a"}'),
        ("LIVEROOM_TICKET_KEYS_FILE", "/keys"),
        ("LIVEROOM_KAFKA__SECURITY", "SASL_SSL"),
        ("LIVEROOM_KAFKA__PASSWORD", "hush"),
        ("LIVEROOM_KAFKA__REPLICATION", "3"),
    ],
)
def test_what_a_system_sets_itself_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(WishesError, match=f"^{name} cannot be used here: ") as caught:
        wishes()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [("LIVEROOM_HOST", "127.0.0.1"), ("LIVEROOM_REPLICAS", "1"), ("LIVEROOM_KAFKA__REPLICATION", "1")]
)
def test_what_a_system_would_set_anyway_contradicts_nothing(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert name.removeprefix("LIVEROOM_") in wishes().taken


def test_settings_of_a_kafka_are_for_a_kafka_of_one_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_KAFKA__REPLICATION", "3")
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "own:1")
    assert wishes().bootstrap == "own:1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(Options(prefix="b."), "LIVEROOM_KAFKA__PREFIX and --prefix say different things", id="another prefix"),
        pytest.param(Options(origins=["http://x/"]), "--origin: it ends in a slash", id="an origin"),
        pytest.param(Options(token_key="short"), "--token-key must be at least 32 bytes", id="a short key"),
        pytest.param(Options(token_keys_file=Path(__file__)), "--token-keys-file: a JWK Set is expected", id="no keys"),
    ],
)
def test_options_that_cannot_be_used_are_refused(monkeypatch: pytest.MonkeyPatch, options: Options, words: str) -> None:
    monkeypatch.setenv("LIVEROOM_KAFKA__PREFIX", "a.")
    with pytest.raises(WishesError, match=words):
        wishes(options)


def test_every_contradiction_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_PORT", "1")
    monkeypatch.setenv("LIVEROOM_REPLICAS", "2")
    with pytest.raises(WishesError) as caught:
        wishes(Options(token_key="short"))
    assert len(str(caught.value).splitlines()) == 3


def test_what_has_no_effect_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_EMPTY_S", "3")
    monkeypatch.setenv("LIVEROOM_MAX_CONNECTIONS", "3")
    monkeypatch.setenv("LIVEROOM_TOKEN", "of a client")
    assert wishes(MAX_CONNECTIONS="7").remarks == [
        "LIVEROOM_MAX_CONNECTIONS is not used: this command sets it",
        "LIVEROOM_EMPTY_S is not used: it is a setting of the autoscaler, which does not run",
    ]


def test_the_kafka_of_an_earlier_system_is_forgotten_and_one_of_one_s_own_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for kafka, forgotten in (("127.0.0.1:9092", True), ("own:1", False)):
        monkeypatch.setenv("LIVEROOM_UP_KAFKA", "127.0.0.1:9092")
        monkeypatch.setenv("KAFKA_BOOTSTRAP", kafka)
        found = wishes()
        assert (found.bootstrap, bool(found.remarks)) == (("", True) if forgotten else (kafka, False))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIVEROOM_ORIGINS", '"http://x"'),
        ("LIVEROOM_ORIGINS", '["http://x/"]'),
        ("LIVEROOM_ORIGINS", "http://x"),
        ("LIVEROOM_KAFKA__PARTITIONS", "many"),
        ("LIVEROOM_KAFKA__PREFIX", "a b"),
        ("LIVEROOM_KAFKA__BOOTSTRAP", "kafka:port"),
        ("KAFKA_BOOTSTRAP", "kafka:port"),
        ("LIVEROOM_DEBUG_KEY", "short"),
    ],
)
def test_what_a_system_joins_with_its_own_settings_is_refused_as_it_was_set(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UnusableSettingsError, match=rf"^{name}(, number 1)?: "):
        wishes()


def test_a_value_that_a_service_would_refuse_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    System("127.0.0.1:1", autoscalers=1, canaries=1).check_settings()
    monkeypatch.setenv("LIVEROOM_FLUSH_INTERVAL_MS", "soon")
    with pytest.raises(UnusableSettingsError, match=r"^LIVEROOM_FLUSH_INTERVAL_MS: Input should be a valid integer"):
        System("127.0.0.1:1").check_settings()


def test_fixed_ports_are_those_of_the_services_own_defaults_and_each_is_another() -> None:
    ports = System("127.0.0.1:1", edges=64, autoscalers=1, first_port=8000).ports()
    assert (ports["ingress-1"], ports["scheduler-1"], ports["edge-1"]) == ((8001, 9001), (8002, 9003), (8010, 9010))
    every = [port for each in ports.values() for port in set(each)]
    assert len(every) == len(set(every))
    assert System("127.0.0.1:1", first_port=8300).ports()["edge-2"] == (8311, 9311)
    assert System("127.0.0.1:1").ports() == {}
