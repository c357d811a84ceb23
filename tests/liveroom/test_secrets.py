"""No secret is in an error about settings or key files, in a help text, or in a refused token."""

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest

from liveroom import service
from liveroom.bad_records import without_content
from liveroom.errors import Code, ProblemError
from liveroom.records.codec import BadRecord, BadRecordError
from liveroom.records.uplink import decode_uplink
from liveroom.setting_sources import UnusableSettingsError, read_settings
from liveroom.settings import SERVICES, EdgeSettings, IngressSettings, SchedulerSettings, ServiceSettings, fields
from liveroom.tokens import Verifier, secret
from liveroom.users import why_not

MARK = "Marked5ecret"
LONG = MARK * 4
JWK = {"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": "x", "d": LONG}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_TOKEN_KEY", "k" * 32)


async def _nothing(_: ServiceSettings, __: service.Runtime) -> None:
    raise AssertionError("the settings are not usable")


@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        pytest.param(IngressSettings, {"TOKEN_KEY": MARK}, id="a short key"),
        pytest.param(IngressSettings, {"DEBUG_KEY": MARK}, id="another short key"),
        pytest.param(IngressSettings, {"LOG_KEY": MARK}, id="a short key of logs"),
        pytest.param(
            IngressSettings, {"KAFKA__PASSWORD": MARK, "KAFKA__PARTITIONS": "x"}, id="a password beside what is wrong"
        ),
        pytest.param(IngressSettings, {"KAFKA": f'{{"password": ["{MARK}"]}}'}, id="a password that is a list"),
        pytest.param(EdgeSettings, {"TICKET_KEYS": f'{{"k1": "{MARK}"}}'}, id="a short ticket key"),
        pytest.param(EdgeSettings, {"TICKET_KEYS": f'{{"{LONG}": "k1"}}'}, id="a ticket key in the place of its id"),
        pytest.param(EdgeSettings, {"TICKET_KEYS": f'{{"{LONG}": 5}}'}, id="a ticket key whose id is a number"),
        pytest.param(EdgeSettings, {"TICKET_KEYS": f'{{"k1": "{LONG}"'}, id="ticket keys that are cut off"),
        pytest.param(EdgeSettings, {"TICKET_KEYS": LONG}, id="ticket keys that are no JSON"),
        pytest.param(EdgeSettings, {"TICKET_PUBLIC_KEYS": json.dumps({"keys": [JWK]})}, id="a private key at a gateway"),
        pytest.param(SchedulerSettings, {"TICKET_SIGNING_KEYS": LONG}, id="signing keys that are no JSON"),
        pytest.param(SchedulerSettings, {"TICKET_SIGNING_KEYS": json.dumps({"keys": [JWK]})}, id="a signing key of no length"),
        pytest.param(SchedulerSettings, {"TICKET_SIGNING_KEYS": json.dumps({"keys": {LONG: 1}})}, id="keys of another form"),
    ],
)
def test_settings_that_are_not_usable_are_told_without_their_secrets(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], settings: type[Any], environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"LIVEROOM_{name}", value)
    with pytest.raises(SystemExit) as ended:
        service.main("any", settings, _nothing, argv=[])
    told = "".join(capfd.readouterr())
    assert ended.value.code == 2
    assert "settings are not usable" in told
    assert MARK not in told
    assert MARK.lower() not in told.lower()


ANYWHERE = (
    MARK,
    f'["{MARK}"]',
    f'["https://me:{MARK}@x/", "{MARK}.x", "https://me:{MARK}", "app://me:{MARK}@x", "https://[{MARK}]"]',
    f'{{"k1": "{MARK}"}}',
    json.dumps({"keys": [JWK]}),
    f'{{"keys": ["{MARK}"]}}',
    f'{{"{MARK}',
    f"{MARK}\x01",
    f"me:{MARK}@x:9092",
    f"{MARK}@x:port",
    f"http//me:{MARK}@x",
    f"htps://me:{MARK}@x/path",
    f"https://me:{MARK}",
    f"https://[{MARK}]",
)


def test_no_setting_that_is_refused_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_TOKEN", "t")
    monkeypatch.setenv("LIVEROOM_TICKET_KEYS", json.dumps({"k1": "x" * 32}))
    models = {name: model for model in SERVICES.values() for name, _, _ in fields(model)}
    told: dict[str, str] = {}
    for name, model in models.items():
        for value in ANYWHERE:
            with monkeypatch.context() as one:
                one.setenv(name, value)
                try:
                    read_settings(model)
                except UnusableSettingsError as error:
                    told[name] = told.get(name, "") + str(error)
    assert {"LIVEROOM_PORT", "LIVEROOM_ORIGINS", "LIVEROOM_PROXIES", "LIVEROOM_KAFKA__BOOTSTRAP"} <= set(told)
    assert [name for name, text in told.items() if MARK.lower() in text.lower()] == []


def test_a_config_file_that_is_broken_is_told_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for number, text in enumerate((f'token_key = "{LONG}', f"token_key = {LONG}", f'[kafka]\npassword = ["{LONG}"]')):
        (file := tmp_path / f"{number}.toml").write_text(text)
        monkeypatch.setenv("LIVEROOM_CONFIG", str(file))
        with pytest.raises(SystemExit):
            service.main("any", IngressSettings, _nothing, argv=[])
        told = "".join(capfd.readouterr())
        assert "settings are not usable" in told
        assert MARK not in told


@pytest.mark.parametrize("settings", [IngressSettings, EdgeSettings, SchedulerSettings])
def test_the_help_shows_no_value_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], settings: type[Any]
) -> None:
    for name in ("TOKEN_KEY", "DEBUG_KEY", "LOG_KEY", "KAFKA__PASSWORD", "TICKET_SIGNING_KEYS", "TICKET_KEYS"):
        monkeypatch.setenv(f"LIVEROOM_{name}", LONG)
    with pytest.raises(SystemExit) as ended:
        service.main("any", settings, _nothing, argv=["--help"])
    told = "".join(capfd.readouterr())
    assert ended.value.code == 0
    assert "LIVEROOM_LOG_KEY" in told
    assert MARK not in told


KEY_FILES = {
    "no JSON": LONG,
    "cut off": f'{{"keys": [{{"kty": "oct", "kid": "a", "k": "{LONG}',
    "a short secret": json.dumps({"keys": [{"kty": "oct", "kid": "a", "k": MARK}]}),
    "a secret of the wrong type": json.dumps({"keys": [{"kty": "oct", "kid": "a", "k": [LONG]}]}),
    "a private key": json.dumps({"keys": [JWK]}),
    "a key without a kid": json.dumps({"keys": [{"kty": "oct", "k": LONG}]}),
    "a key of no kind": json.dumps({"keys": [{"kty": LONG, "kid": "a", "k": LONG}]}),
    "a broken RSA key": json.dumps({"keys": [{"kty": "RSA", "kid": "a", "n": LONG, "e": "!"}]}),
    "a curve that is none": json.dumps({"keys": [{"kty": "OKP", "kid": "a", "crv": LONG, "x": LONG}]}),
    "no set": json.dumps({LONG: LONG}),
}


@pytest.mark.parametrize("text", KEY_FILES.values(), ids=KEY_FILES)
def test_a_key_file_that_is_not_usable_is_told_without_its_content(tmp_path: Path, text: str) -> None:
    (file := tmp_path / "keys.json").write_text(text)
    readers = (
        IngressSettings(token_keys_file=file).read_token_keys,
        EdgeSettings(ticket_public_keys_file=file).read_ticket_keys,
        EdgeSettings(ticket_keys_file=file).read_ticket_keys,
        SchedulerSettings(ticket_signing_keys_file=file).read_ticket_signers,
    )
    for read in readers:
        with pytest.raises(ValueError, match=r"keys\.json") as caught:
            read()
        assert MARK not in str(caught.value)


def _part(of: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(of).encode()).rstrip(b"=").decode()


TOKENS = {
    "no token": MARK,
    "three texts": f"{MARK}.{MARK}.{MARK}",
    "a head that is no JSON": f"{base64.urlsafe_b64encode(MARK.encode()).decode()}.e30.AAAA",
    "an unknown extension": f"{_part({'alg': 'HS256', 'crit': [MARK]})}.e30.AAAA",
    "an extension that is missing": f"{_part({'alg': 'HS256', 'crit': ['b64'], MARK: 1})}.e30.AAAA",
    "an algorithm that is none": f"{_part({'alg': MARK})}.e30.AAAA",
    "a key that is none": f"{_part({'alg': 'HS256', 'kid': MARK})}.e30.AAAA",
    "a payload that is no object": jwt.api_jws.encode(json.dumps([MARK]).encode(), "k" * 32),
    "another audience": jwt.encode({"sub": MARK, "aud": MARK, "exp": 2e9}, "k" * 32),
    "a subject of another type": jwt.encode({"sub": "a", "aud": "liveroom", "exp": 2e9, "name": [MARK]}, "k" * 32),
    "a role that is none": jwt.encode({"sub": "a", "aud": "liveroom", "exp": 1e9, "role": MARK}, "k" * 32),
    "a user that is too long": jwt.encode({"sub": MARK * 20, "aud": "liveroom", "exp": 1e9 + 100}, "k" * 32),
    "expired": jwt.encode({"sub": MARK, "aud": "liveroom", "exp": 10}, "k" * 32),
}


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_a_token_that_is_refused_is_not_quoted(token: str) -> None:
    with pytest.raises(ProblemError) as caught:
        Verifier([secret(b"k" * 32)]).verify(token, 1e9)
    assert MARK not in json.dumps(caught.value.body())


def test_a_token_that_has_expired_names_its_user_to_the_log_alone() -> None:
    with pytest.raises(ProblemError) as caught:
        Verifier([secret(b"k" * 32)]).verify(TOKENS["expired"], 1e9)
    assert caught.value.user == MARK


@pytest.mark.parametrize("claim", [{"role": "king"}, {"name": 1}, {"level": -1}, {"rooms": "r"}, {"device": " "}], ids=str)
def test_a_token_that_is_signed_and_says_what_it_may_not_names_its_user_to_the_log_alone(claim: dict[str, Any]) -> None:
    token = jwt.encode({"sub": "ann", "aud": "liveroom", "exp": 1e9 + 100} | claim, "k" * 32)
    with pytest.raises(ProblemError) as caught:
        Verifier([secret(b"k" * 32)]).verify(token, 1e9)
    assert (caught.value.code, caught.value.user) == (Code.TOKEN_INVALID, "ann")
    assert "ann" not in json.dumps(caught.value.body())


RECORDS = {
    "no user": {"user": f"{MARK} ann"},
    "a user in no form": {"user": f"~{MARK}!"},
    "a user in another form": {"user": "~" + base64.urlsafe_b64encode(MARK.encode()).decode().rstrip("=")},
    "a room that is none": {"room": f"{MARK}!"},
    "a text where a number belongs": {"at_ms": MARK},
}


@pytest.mark.parametrize("fields", RECORDS.values(), ids=RECORDS)
def test_what_a_bad_record_holds_is_not_in_the_log(fields: dict[str, Any]) -> None:
    record = {"v": 1, "room": "r", "id": "i", "user": "u", "at_ms": 1, "items": [], "name": MARK} | fields
    with pytest.raises(BadRecordError) as caught:
        decode_uplink(b"r", json.dumps(record).encode())
    assert MARK not in without_content(caught.value.reason, caught.value.detail)


def test_every_word_about_a_user_id_is_left_out() -> None:
    for user in (f"{MARK} ann", f"~{MARK}", "~" + base64.urlsafe_b64encode(MARK.encode()).decode(), f"\"{MARK}' "):
        assert MARK not in without_content(BadRecord.SCHEMA, why_not(user))
        assert MARK not in without_content(BadRecord.SCHEMA, f"{why_not(user)} - at `$.user`"[:60])


def log_of(fields: dict[str, Any]) -> str:
    items = [{"kind": "gift", "data": {"gift": "rose"}}]
    record = {"v": 1, "room": "r", "id": "i", "user": "u", "at_ms": 1, "items": items} | fields
    with pytest.raises(BadRecordError) as caught:
        decode_uplink(b"r", json.dumps(record).encode())
    return without_content(caught.value.reason, caught.value.detail)


@pytest.mark.parametrize(
    "text", [f"it's {MARK}", f"\"it's\" '{MARK}' \"", f"x' - at `{MARK}", MARK.lower() + " " * 300, f"{MARK}'"]
)
def test_a_log_names_only_what_looks_like_a_name_whatever_marks_are_in_the_text(text: str) -> None:
    for record in ({"role": text}, {"user": text}, {"items": [{"kind": text, "data": {}}]}):
        assert MARK.lower() not in log_of(record).lower()
    assert log_of({"role": text}).startswith("Invalid enum value '...'")


def test_a_log_says_which_name_is_unknown_and_where() -> None:
    assert log_of({"role": "king"}) == "Invalid enum value 'king' - at `$.role`"
    assert log_of({"user": "it's ann"}) == "not a user id - at `$.user`"
    assert without_content(BadRecord.UNKNOWN, "mode 'slow_s'") == "mode 'slow_s'"
    assert without_content(BadRecord.UNKNOWN, "mode 'My words'") == "mode '...'"
