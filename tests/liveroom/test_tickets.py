"""Tickets and tokens: who holds a good one is let in, every other is refused with a problem and
nothing else.
"""

import base64
import contextlib
import hmac
import json
import string
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.ticket_keys import make_private_key, read_public_keys, write_public_keys
from liveroom.tickets import (
    ENTRY,
    HMAC_VERSION,
    MAX_TICKET_CHARS,
    VERSION,
    Signer,
    Ticket,
    User,
    hmac_keys,
    hmac_signer,
    sign,
    verify,
)
from liveroom.tokens import sign_user
from liveroom.users import MAX_USER_ID_CHARS, UserIdError, user_id
from liveroom.wire import MAX_ROOMS_PER_CONNECTION
from tests.tokens import verify_user

KEY, OLD_KEY = b"k" * 32, b"o" * 32
PRIVATE = {"k1": make_private_key("k1", KEY), "k0": make_private_key("k0", OLD_KEY)}
KEYS = {**hmac_keys({"k1": KEY, "k0": OLD_KEY}), **read_public_keys(write_public_keys([*PRIVATE.values()]))}


def signers(version: int) -> dict[str, Signer]:
    """The signers of a version: two of known keys, and one of an unknown key of each kind."""
    if version == HMAC_VERSION:
        made = {name: hmac_signer(name, key) for name, key in {"k1": KEY, "k0": OLD_KEY, "k9": KEY}.items()}
        return made | {"other": hmac_signer("k1", OLD_KEY)}
    made = {name: key.signer() for name, key in PRIVATE.items()}
    return made | {"k9": make_private_key("k9", KEY).signer(), "other": make_private_key("k1", OLD_KEY).signer()}


K1 = {version: signers(version)["k1"] for version in (HMAC_VERSION, VERSION)}
each_version = pytest.mark.parametrize("version", [HMAC_VERSION, VERSION])
NOW_MS = 1_700_000_000_000
ANN = User("ann@example", Role.MODERATOR, 7, "Ann 安", ("r1", "r2"), follower=True, subscriber=True, device="a.phone:1_-")
HERE = ("edge-2", 5)
TICKET = Ticket(ENTRY, ANN, NOW_MS + 60_000, "n0", (("edge-1", NOW_MS), ("edge-2", 5)))


def code_of(verified: Callable[[], object]) -> Code:
    with pytest.raises(ProblemError) as caught:
        verified()
    assert json.dumps(caught.value.body()).encode()
    return caught.value.code


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(payload: bytes, signer: Signer) -> str:
    body = f"v{signer.version}.{signer.key_id}.{b64(payload)}"
    return f"{body}.{b64(signer.sign(body.encode()))}"


# ---- tickets
def longest_ticket(gateways: int = 10) -> str:
    """A ticket whose fields are as long as their own limits allow, for as many gateways as the
    setting `addresses` permits.
    """
    rooms = tuple(f"{number}" * 64 for number in range(MAX_ROOMS_PER_CONNECTION))
    user = User(
        "~" + "u" * (MAX_USER_ID_CHARS - 1),
        Role.MODERATOR,
        255,
        "\x01" * 64,
        rooms,
        follower=True,
        subscriber=True,
        device="d" * 64,
    )
    names = tuple((f"{number:064}", 2**53) for number in range(gateways))
    return sign(Ticket(ENTRY, user, 2**53, "f" * 18, names), make_private_key("k" * 16, KEY).signer())


def test_the_longest_ticket_is_verified_and_fits_into_a_request_line() -> None:
    text = longest_ticket()
    assert verify(
        text, read_public_keys(write_public_keys([make_private_key("k" * 16, KEY)])), ENTRY, ("0" * 63 + "9", 2**53), NOW_MS
    ).user.id.startswith("~uu")
    assert 2_500 < len(text) < MAX_TICKET_CHARS * 0.8
    assert len(f"GET /v1/events?ticket={text} HTTP/1.1") < 8190 / 2


def test_a_ticket_that_no_gateway_would_verify_is_not_signed() -> None:
    with pytest.raises(ValueError, match="at most 4096"):
        longest_ticket(gateways=30)


@given(
    st.builds(
        Ticket,
        purpose=st.just(ENTRY),
        user=st.builds(
            User, id=st.text(string.ascii_letters, min_size=1), role=st.sampled_from(Role), level=st.integers(0, 255)
        ),
        expires_ms=st.integers(NOW_MS + 1, 2**53),
        nonce=st.text(max_size=10),
        gateways=st.lists(st.tuples(st.text(max_size=10), st.integers(0, 2**53)), max_size=3).map(
            lambda others: (*others, HERE)
        ),
    )
)
def test_a_ticket_comes_back_as_it_was(ticket: Ticket) -> None:
    for signer in K1.values():
        assert verify(sign(ticket, signer), KEYS, ENTRY, HERE, NOW_MS) == ticket


@each_version
def test_a_ticket_of_an_older_key_still_verifies(version: int) -> None:
    assert verify(sign(TICKET, signers(version)["k0"]), KEYS, ENTRY, HERE, NOW_MS) == TICKET


def test_a_public_key_is_no_secret_of_the_older_version() -> None:
    """What a gateway knows of its keys signs nothing that it takes."""
    public = PRIVATE["k1"].key.public_key().public_bytes_raw()
    forger = hmac_signer("k1", public)
    assert code_of(lambda: verify(sign(TICKET, forger), KEYS, ENTRY, HERE, NOW_MS)) is Code.TICKET_INVALID
    as_new = Signer("k1", VERSION, forger.sign)
    assert code_of(lambda: verify(sign(TICKET, as_new), KEYS, ENTRY, HERE, NOW_MS)) is Code.TICKET_INVALID
    only_new = read_public_keys(write_public_keys([PRIVATE["k1"]]))
    assert code_of(lambda: verify(sign(TICKET, K1[HMAC_VERSION]), only_new, ENTRY, HERE, NOW_MS)) is Code.TICKET_INVALID


@each_version
def test_a_ticket_with_any_character_changed_is_refused(version: int) -> None:
    text = sign(TICKET, K1[version])
    for place, was in enumerate(text):
        for other in "A_-.=":
            if other == was:
                continue
            changed = text[:place] + other + text[place + 1 :]
            assert code_of(lambda changed=changed: verify(changed, KEYS, ENTRY, HERE, NOW_MS)) is Code.TICKET_INVALID  # type: ignore[misc]


@each_version
def test_a_ticket_cut_anywhere_or_with_something_behind_it_is_refused(version: int) -> None:
    text = sign(TICKET, K1[version])
    for changed in [*(text[:size] for size in range(len(text))), text + "A", text + "=", text + "\n", " " + text]:
        assert code_of(lambda changed=changed: verify(changed, KEYS, ENTRY, HERE, NOW_MS)) is Code.TICKET_INVALID  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("...", id="dots"),
        pytest.param("v1.k1..", id="nothing in it"),
        pytest.param("v2.k1..", id="nothing in it, signed with Ed25519"),
        pytest.param("v2.k1.é.é", id="not ASCII behind a good beginning"),
        pytest.param("é.é.é.é", id="not ASCII"),
        pytest.param("v1.k1.\ud800.x", id="lone surrogate"),
        pytest.param("x" * 100_000, id="long"),
        pytest.param("v3" + sign(TICKET, K1[VERSION])[2:], id="another version"),
        pytest.param("v1" + sign(TICKET, K1[VERSION])[2:], id="the older version over a newer signature"),
        pytest.param("v2" + sign(TICKET, K1[HMAC_VERSION])[2:], id="the newer version over an older signature"),
    ],
)
def test_what_is_no_ticket_is_refused(text: str) -> None:
    assert code_of(lambda: verify(text, KEYS, ENTRY, HERE, NOW_MS)) is Code.TICKET_INVALID


@each_version
@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda by: sign(TICKET, by["other"]), id="another key under this id"),
        pytest.param(lambda by: sign(TICKET, by["k9"]), id="unknown key id"),
        pytest.param(lambda by: signed(b"", by["k1"]), id="signed, empty"),
        pytest.param(lambda by: signed(b"[]", by["k1"]), id="signed, a list"),
        pytest.param(lambda by: signed(b'{"purpose":"entry"}', by["k1"]), id="signed, fields missing"),
        pytest.param(lambda by: signed(b"\xff", by["k1"]), id="signed, not UTF-8"),
        pytest.param(lambda by: signed(b'{"a":' * 250, by["k1"]), id="signed, deep"),
        pytest.param(
            lambda by: signed(b"{" + b" " * MAX_TICKET_CHARS + msgspec.json.encode(TICKET)[1:], by["k1"]),
            id="over 4,096 characters",
        ),
        pytest.param(lambda by: sign(Ticket("other", ANN, NOW_MS + 1, "", (HERE,)), by["k1"]), id="for another purpose"),
        pytest.param(lambda by: sign(Ticket(ENTRY, ANN, NOW_MS + 1, "", (("edge-1", 5),)), by["k1"]), id="for another gateway"),
        pytest.param(
            lambda by: sign(Ticket(ENTRY, ANN, NOW_MS + 1, "", (("edge-2", 4),)), by["k1"]), id="from before a restart"
        ),
    ],
)
def test_what_is_no_ticket_for_this_gateway_is_refused(made: Callable[[dict[str, Signer]], str], version: int) -> None:
    text = made(signers(version))
    assert code_of(lambda: verify(text, KEYS, ENTRY, HERE, NOW_MS)) is Code.TICKET_INVALID


@each_version
@pytest.mark.parametrize(("now_ms", "good"), [(NOW_MS, True), (NOW_MS + 59_999, True), (NOW_MS + 60_000, False)])
def test_a_ticket_is_good_until_its_millisecond(now_ms: int, good: bool, version: int) -> None:
    text = sign(TICKET, K1[version])
    if good:
        assert verify(text, KEYS, ENTRY, HERE, now_ms) == TICKET
    else:
        assert code_of(lambda: verify(text, KEYS, ENTRY, HERE, now_ms)) is Code.TICKET_EXPIRED


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_text_is_no_ticket(text: str) -> None:
    assert code_of(lambda: verify(text, KEYS, ENTRY, HERE, NOW_MS)) is Code.TICKET_INVALID


# ---- user tokens
def token(*, headers: dict[str, Any] | None = None, key: bytes = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    """A token of an identity service; a claim that is None is left out."""
    all_claims = {"sub": "u1", "aud": "liveroom", "exp": int(time.time()) + 3600} | claims
    left = {name: value for name, value in all_claims.items() if value is not None}
    return jwt.encode(left, key, algorithm=algorithm, headers=headers)


def raw_token(payload: bytes, header: bytes = b'{"alg":"HS256","typ":"JWT"}') -> str:
    body = f"{b64(header)}.{b64(payload)}"
    return f"{body}.{b64(hmac.digest(KEY, body.encode(), sha256))}"


@pytest.mark.parametrize("user", [User("u1"), ANN])
def test_a_user_comes_back_as_signed(user: User) -> None:
    now_s = int(time.time())
    assert verify_user(sign_user(user, KEY, now_s, key_id="k1"), KEY) == replace(user, issued_s=now_s)


@pytest.mark.parametrize("text", ["auth0|1", "名前 with space", "~YW5uYQ", "u\n", "\0", "\N{PARTY POPPER}" * 32, "u" * 128])
def test_any_text_of_an_identity_service_becomes_a_user_id_and_comes_back_in_a_token(text: str) -> None:
    user = verify_user(token(sub=text), KEY)
    assert user.id == user_id(text)
    now_s = int(time.time())
    again = sign_user(user, KEY, now_s)
    assert jwt.decode(again, options={"verify_signature": False})["sub"] == text
    assert verify_user(again, KEY) == replace(user, issued_s=now_s)


def test_a_user_id_that_stands_for_no_text_is_not_signed() -> None:
    with pytest.raises(UserIdError, match="its user id is ~YXV0aDB8MQ"):
        sign_user(User("auth0|1"), KEY, int(time.time()))


def test_a_token_of_an_identity_service_needs_only_sub_aud_exp() -> None:
    assert verify_user(token(), KEY) == User("u1")


@pytest.mark.parametrize(("age_s", "good"), [(0, True), (20, True), (90, False)])
def test_a_token_is_good_for_half_a_minute_more_than_it_says(age_s: int, good: bool) -> None:
    text = sign_user(User("u1"), KEY, int(time.time()) - 3600 - age_s)
    if good:
        assert verify_user(text, KEY, leeway_s=60).id == "u1"
    else:
        assert code_of(lambda: verify_user(text, KEY, leeway_s=60)) is Code.TOKEN_EXPIRED


def test_a_token_with_any_character_changed_is_refused() -> None:
    text = token()
    for place, was in enumerate(text):
        if (place + 1 == len(text)) or text[place + 1] == ".":
            continue  # the last character of a part has bits that base64 does not use
        for other in "A_-.=":
            if other != was:
                changed = text[:place] + other + text[place + 1 :]
                assert code_of(lambda changed=changed: verify_user(changed, KEY)) is Code.TOKEN_INVALID  # type: ignore[misc]


PAYLOAD = b'{"sub":"u1","aud":"liveroom","exp":99999999999}'


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("a.b", id="two parts"),
        pytest.param("\ud800.a.b", id="lone surrogate"),
        pytest.param("é.é.é", id="not ASCII"),
        pytest.param(raw_token(PAYLOAD, b'{"alg":"none"}').rpartition(".")[0] + ".", id="alg none"),
        pytest.param(raw_token(PAYLOAD, b'{"alg":"None"}'), id="alg None with a signature"),
        pytest.param(raw_token(PAYLOAD, b'{"alg":"HS512"}'), id="alg HS512 over an HS256 signature"),
        pytest.param(token(algorithm="HS512", key=b"k" * 64), id="HS512"),
        pytest.param(raw_token(PAYLOAD, b"[]"), id="header is a list"),
        pytest.param(raw_token(PAYLOAD, b'{"alg":["HS256"]}'), id="alg is a list"),
        pytest.param(raw_token(PAYLOAD, b"{}"), id="no alg"),
        pytest.param(raw_token(PAYLOAD, b'{"alg":"HS256","crit":["x"]}'), id="unknown critical header"),
        pytest.param(raw_token(PAYLOAD, b'{"alg":"HS256","b64":false,"crit":["b64"]}'), id="payload not in base64"),
        pytest.param(raw_token(PAYLOAD, b'{"a":' + b"[" * 3000), id="deep header"),
        pytest.param(raw_token(b'{"a":' + b"[" * 3000), id="deep payload"),
        pytest.param(raw_token(b"[]"), id="payload is a list"),
        pytest.param(raw_token(b"\xff"), id="payload not UTF-8"),
        pytest.param(raw_token(b'{"sub":"u1","aud":"liveroom","exp":1e999}'), id="exp is infinite"),
        pytest.param(raw_token(b'{"sub":"u1","aud":"liveroom","exp":NaN}'), id="exp is NaN"),
        pytest.param(raw_token(b'{"sub":"u1","aud":"liveroom","exp":' + b"9" * 5000 + b"}"), id="exp of 5,000 digits"),
        pytest.param(token(key=OLD_KEY), id="another key"),
        pytest.param(token(aud="other"), id="another audience"),
        pytest.param(token(aud=["other"]), id="other audiences"),
        pytest.param(token(aud=[1]), id="audience of numbers"),
        pytest.param(token(aud=None), id="no audience"),
        pytest.param(token(exp=None), id="no exp"),
        pytest.param(token(exp="soon"), id="exp is a text"),
        pytest.param(token(exp=[1]), id="exp is a list"),
        pytest.param(token(nbf=time.time() + 86_400), id="not yet"),
        pytest.param(token(iat=time.time() + 86_400), id="from the future"),
        pytest.param(token(iat={}), id="iat is an object"),
        pytest.param(token(sub=None), id="no sub"),
        pytest.param(raw_token(PAYLOAD.replace(b'"u1"', b"1")), id="sub is a number"),
        pytest.param(token(sub=""), id="sub is empty"),
        pytest.param(token(sub="u" * 129), id="sub of 129 bytes"),
        pytest.param(token(sub="\N{PARTY POPPER}" * 33), id="sub of 33 characters with 132 bytes"),
        pytest.param(raw_token(PAYLOAD.replace(b'"u1"', b'"\\ud800"')), id="sub with a lone surrogate"),
        pytest.param(token(role="king"), id="unknown role"),
        pytest.param(token(device=""), id="device is empty"),
        pytest.param(token(device="d" * 65), id="device of 65"),
        pytest.param(token(device="a b"), id="device with a space"),
        pytest.param(token(device="d\n"), id="device with a line break behind it"),
        pytest.param(token(device=7), id="device is a number"),
        pytest.param(token(role=["operator"]), id="role is a list"),
        pytest.param(token(role={}), id="role is an object"),
        pytest.param(token(level=-1), id="level below 0"),
        pytest.param(token(level=256), id="level over 255"),
        pytest.param(token(level=True), id="level is true"),
        pytest.param(token(level=1.0), id="level is 1.0"),
        pytest.param(token(name="n" * 65), id="name of 65"),
        pytest.param(token(name=1), id="name is a number"),
        pytest.param(token(name="\ud800"), id="name with a lone surrogate"),
        pytest.param(token(rooms="r1"), id="rooms is a text"),
        pytest.param(token(rooms=[1]), id="rooms of numbers"),
        pytest.param(token(rooms=["a b"]), id="rooms that are none"),
    ],
)
def test_what_is_no_token_of_ours_is_refused(text: str) -> None:
    assert code_of(lambda: verify_user(text, KEY)) is Code.TOKEN_INVALID


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["sub", "aud", "exp", "nbf", "iat", "iss", "jti", "role", "level", "name", "rooms", "follower", "subscriber"]
        ),
        JSON_VALUES,
    )
)
def test_signed_claims_of_any_type_make_a_user_or_a_refusal(claims: dict[str, Any]) -> None:
    payload = {"sub": "u1", "aud": "liveroom", "exp": 99_999_999_999} | claims
    with contextlib.suppress(ProblemError):
        user = verify_user(raw_token(json.dumps(payload).encode()), KEY)
        assert sign(Ticket(ENTRY, user, NOW_MS, ""), K1[VERSION])


def test_follower_and_subscriber_must_be_true_itself() -> None:
    user = verify_user(token(follower=1, subscriber="yes"), KEY)
    assert (user.follower, user.subscriber) == (False, False)
