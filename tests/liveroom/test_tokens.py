"""Key sets, and which tokens they let through."""

import base64
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from liveroom import tokens
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.records.revocations import Revocation
from liveroom.revocations import Revocations
from liveroom.tickets import User
from liveroom.tokens import KeysError, Verifier, read_keys, secret, sign_user
from liveroom.web import problem_response

SECRET = b"s" * 32
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ed25519.Ed25519PrivateKey.generate()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(key: Any, kid: str = "", **more: Any) -> dict[str, Any]:
    if isinstance(key, bytes):
        described: dict[str, Any] = {"kty": "oct", "k": b64(key)}
    elif isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        described = json.loads(RSAAlgorithm.to_jwk(key))
    elif isinstance(key, ec.EllipticCurvePublicKey):
        described = json.loads(ECAlgorithm.to_jwk(key))
    else:
        described = json.loads(OKPAlgorithm.to_jwk(key))
    return described | ({"kid": kid} if kid else {}) | more


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


KEYS = read_keys(key_set(jwk(SECRET, "h"), jwk(RSA_KEY.public_key(), "r"), jwk(ED_KEY.public_key(), "e")))


def token(key: Any, algorithm: str, kid: str | None, **claims: Any) -> str:
    known: dict[str, Any] = {"sub": "ann", "aud": "liveroom", "exp": time.time() + 3600, "role": "moderator"}
    return jwt.encode(known | claims, key, algorithm, headers={"kid": kid} if kid is not None else None)


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(SECRET, "HS256", "h"), (RSA_KEY, "RS256", "r"), (ED_KEY, "EdDSA", "e")])
@pytest.mark.parametrize("is_named", [True, False])
def test_each_algorithm_lets_its_own_through(key: Any, algorithm: str, kid: str, is_named: bool) -> None:
    user = Verifier(KEYS).verify(token(key, algorithm, kid if is_named else None), time.time())
    assert user == User("ann", Role.MODERATOR)


PUBLIC = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def forged(kid: str | None) -> str:
    """A token signed with the public key as if it were a secret; PyJWT would not make one."""
    head = {"alg": "HS256", "typ": "JWT"} | ({"kid": kid} if kid else {})
    claims = {"sub": "ann", "aud": "liveroom", "exp": 9_999_999_999, "role": "operator"}
    body = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{body}.{b64(hmac.digest(PUBLIC, body.encode(), 'sha256'))}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(token(OTHER, "EdDSA", "e"), id="another key under a known name"),
        pytest.param(token(ED_KEY, "EdDSA", "h"), id="a good key under another's name"),
        pytest.param(token(ED_KEY, "EdDSA", "x"), id="a name that is not known"),
        pytest.param(token(OTHER, "EdDSA", None), id="another key, no name"),
        pytest.param(forged("r"), id="the public key as a secret"),
        pytest.param(forged(None), id="the public key as a secret, no name"),
        pytest.param(token(RSA_KEY, "RS512", "r"), id="another hash"),
        pytest.param(token(RSA_KEY, "PS256", "r"), id="another padding"),
        pytest.param(token(SECRET * 2, "HS512", "h"), id="HS512"),
        pytest.param(token(None, "none", "e"), id="none"),
        pytest.param(token(None, "none", None), id="none, no name"),
        pytest.param(token(ED_KEY, "EdDSA", "e", aud="other"), id="another audience"),
        pytest.param(token(ED_KEY, "EdDSA", "e", nbf=time.time() + 3000), id="not yet"),
        pytest.param("x" * 9000, id="too long"),
    ],
)
def test_what_our_keys_have_not_signed_is_refused(text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        Verifier(KEYS).verify(text, time.time())
    assert caught.value.code is Code.TOKEN_INVALID


def test_a_tampered_part_is_refused() -> None:
    head, body, signature = token(ED_KEY, "EdDSA", "e").split(".")
    changed = b64(json.dumps({"sub": "ann", "aud": "liveroom", "exp": 9_999_999_999, "role": "operator"}).encode())
    for parts in ((head, changed, signature), (head, body, signature[:-4] + "AAAA"), (b64(b'{"alg":"none"}'), body, "")):
        with pytest.raises(ProblemError) as caught:
            Verifier(KEYS).verify(".".join(parts), time.time())
        assert caught.value.code is Code.TOKEN_INVALID


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param(b"", "not a JWK Set", id="empty"),
        pytest.param(b"\xff", "not a JWK Set", id="no text"),
        pytest.param(b'{"keys":{}}', "not a JWK Set", id="no list"),
        pytest.param(key_set(), "no key", id="no key"),
        pytest.param(key_set(jwk(SECRET, "h", use="enc")), "no key", id="keys for something else"),
        pytest.param(key_set(jwk(SECRET)), "no kid", id="no name"),
        pytest.param(key_set(jwk(SECRET, "a"), jwk(SECRET, "a")), "one kid", id="one name twice"),
        pytest.param(key_set(jwk(b"short", "h")), "32 bytes", id="a short secret"),
        pytest.param(key_set(jwk(EC_KEY.public_key(), "c")), "is not for", id="a curve we do not take"),
        pytest.param(key_set(jwk(RSA_KEY.public_key(), "r", alg="RS512")), "is not for", id="another algorithm"),
        pytest.param(key_set(jwk(ED_KEY, "e")), "private", id="a private key"),
        pytest.param(key_set(jwk(RSA_KEY, "r")), "private", id="a private RSA key"),
        pytest.param(
            key_set(jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key(), "r")),
            "2048 bits",
            id="a weak RSA key",
        ),
        pytest.param(key_set(jwk(ED_KEY.public_key(), "e", x="!")), "key e", id="a broken key"),
    ],
)
def test_a_key_set_that_cannot_be_used_says_why(text: bytes, why: str) -> None:
    with pytest.raises(KeysError, match=why):
        read_keys(text)


def test_a_good_token_is_remembered_until_it_expires_or_the_keys_change(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = 0
    real = jwt.decode

    def counting(*args: Any, **more: Any) -> Any:
        nonlocal checked
        checked += 1
        return real(*args, **more)

    monkeypatch.setattr("jwt.decode", counting)
    verifier = Verifier(KEYS, leeway_s=5)
    text, now_s = token(ED_KEY, "EdDSA", "e"), time.time()
    assert [verifier.verify(text, now_s).id for _ in range(5)] == ["ann"] * 5
    assert checked == 1
    verifier.verify(text, now_s + 3604)
    assert checked == 1
    with pytest.raises(ProblemError) as caught:
        verifier.verify(text, now_s + 3606)
    assert (checked, caught.value.code) == (2, Code.TOKEN_EXPIRED)
    verifier.use([secret(SECRET)])
    with pytest.raises(ProblemError):
        verifier.verify(text, now_s)


def test_an_expired_token_is_refused_though_it_was_good() -> None:
    verifier = Verifier([secret(SECRET)], leeway_s=0)
    text = sign_user(User("u"), SECRET, 1000, ttl_s=60)
    assert verifier.verify(text, 1059).id == "u"
    with pytest.raises(ProblemError) as caught:
        verifier.verify(text, 1060)
    assert caught.value.code is Code.TOKEN_EXPIRED


@pytest.mark.parametrize("name", ["iat", "nbf"])
def test_a_token_counts_from_its_time_on_by_the_clock_that_is_handed_in(name: str) -> None:
    text = jwt.encode({"sub": "u", "aud": "liveroom", "exp": 5000, name: 2000}, SECRET, "HS256")
    verifier = Verifier([secret(SECRET)], leeway_s=5)
    with pytest.raises(ProblemError) as caught:
        verifier.verify(text, 1994)
    assert (caught.value.code, caught.value.detail) == (Code.TOKEN_INVALID, f"the token is not valid yet ({name})")
    assert verifier.verify(text, 1995).id == "u"


@pytest.mark.parametrize("name", ["iat", "nbf", "exp"])
@pytest.mark.parametrize("value", ["soon", [], 1e400, float("nan")])
def test_a_time_that_is_none_is_refused(name: str, value: Any) -> None:
    text = jwt.encode({"sub": "u", "aud": "liveroom", "exp": 5000, name: value}, SECRET, "HS256")
    with pytest.raises(ProblemError) as caught:
        Verifier([secret(SECRET)]).verify(text, 1000)
    assert caught.value.code is Code.TOKEN_INVALID


@pytest.mark.parametrize(
    ("claims", "is_good"),
    [
        pytest.param({"iat": 1000, "exp": 1600}, True, id="as long as may be"),
        pytest.param({"iat": 1000, "exp": 1601}, False, id="too long"),
        pytest.param({"iat": 500, "exp": 1101}, False, id="too long, most of it over"),
        pytest.param({"exp": 1600}, True, id="without a time of issue"),
        pytest.param({"exp": 1601}, False, id="too long from now, without a time of issue"),
    ],
)
def test_a_token_that_would_outlive_the_revocations_of_its_time_is_refused(claims: dict[str, Any], is_good: bool) -> None:
    text = jwt.encode({"sub": "u", "aud": "liveroom"} | claims, SECRET, "HS256")
    verifier = Verifier([secret(SECRET)], life_s=600)
    if is_good:
        assert verifier.verify(text, 1000).issued_s == claims.get("iat")
        return
    with pytest.raises(ProblemError, match="LIVEROOM_TOKEN_LIFE_S") as caught:
        verifier.verify(text, 1000)
    assert caught.value.code is Code.TOKEN_INVALID


def test_a_token_that_is_remembered_is_refused_once_it_is_revoked_and_good_again_when_that_is_lifted() -> None:
    revocations = Revocations()
    revocations.are_read = True
    verifier, text = Verifier([secret(SECRET)], revocations=revocations), sign_user(User("u"), SECRET, 1000)
    assert verifier.verify(text, 1000).id == "u"
    revocations.apply(Revocation(1, "r", 0, 1001, 0, "u"))
    with pytest.raises(ProblemError) as caught:
        verifier.verify(text, 1000)
    assert caught.value.code is Code.REVOKED
    assert verifier.verify(sign_user(User("u"), SECRET, 1001), 1001).id == "u"
    revocations.withdraw("r")
    assert verifier.verify(text, 1000).id == "u"


def test_only_so_many_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_CACHED", 10)
    verifier = Verifier([secret(SECRET)])
    for number in range(50):
        verifier.verify(sign_user(User(f"u{number}"), SECRET, int(time.time())), time.time())
    assert len(verifier._known) == 10


def test_a_new_token_costs_no_more_when_as_many_are_remembered_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_CACHED", 100)
    verifier, rebuilt, now_s = Verifier([secret(SECRET)]), 0, time.time()
    for number in range(1000):
        before = verifier._known
        verifier.verify(sign_user(User(f"u{number}"), SECRET, int(now_s)), now_s)
        rebuilt += verifier._known is not before
    assert len(verifier._known) >= 50
    assert rebuilt <= 1000 / 50


def test_tokens_that_are_over_are_let_go_of_though_nobody_shows_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "FEW_CACHED", 100)
    verifier = Verifier([secret(SECRET)], leeway_s=0)
    now_s = time.time()
    verifier.verify(sign_user(User("long"), SECRET, int(now_s), ttl_s=86_400), now_s)
    for number in range(99):
        verifier.verify(sign_user(User(f"u{number}"), SECRET, int(now_s), ttl_s=60), now_s)
    verifier.verify(sign_user(User("v"), SECRET, int(now_s), ttl_s=3600), now_s + 61)
    assert len(verifier._known) == 2


def _signed(ttl_s: int = 86_400, key: bytes = SECRET, **more: Any) -> str:
    return "Bearer " + sign_user(User("u", **more), key, int(time.time()), ttl_s)


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        pytest.param(None, Code.TOKEN_MISSING, id="none"),
        pytest.param("", Code.TOKEN_MISSING, id="empty"),
        pytest.param("Bearer", Code.TOKEN_MISSING, id="scheme-alone"),
        pytest.param("Bearer  ", Code.TOKEN_MISSING, id="scheme-and-spaces"),
        pytest.param("Basic dTpw", Code.TOKEN_MISSING, id="basic"),
        pytest.param("Bearer x", Code.TOKEN_INVALID, id="no-jwt"),
        pytest.param("Bearer " + "W1tb" * 1900 + ".e30.AAAA", Code.TOKEN_INVALID, id="deep-head"),
        pytest.param("Bearer eyJhbGciOiJub25lIn0.e30.", Code.TOKEN_INVALID, id="alg-none"),
        pytest.param(
            "Bearer eyJhbGciOiJIUzI1NiIsImNyaXQiOlsiXHVkODAwIl19.e30.AAAA", Code.TOKEN_INVALID, id="surrogate-in-head"
        ),
        pytest.param(_signed(key=b"x" * 32), Code.TOKEN_INVALID, id="another-key"),
        pytest.param(_signed(ttl_s=-60), Code.TOKEN_EXPIRED, id="expired"),
        pytest.param(_signed(name="\ud800"), Code.TOKEN_INVALID, id="name-no-record-can-hold"),
    ],
)
def test_a_missing_or_bad_token_is_refused(authorization: str | None, code: Code) -> None:
    with pytest.raises(ProblemError) as caught:
        Verifier([secret(SECRET)]).bearer(authorization, time.time())
    assert caught.value.code is code
    assert problem_response(caught.value).status == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_good_token_names_its_user(scheme: str) -> None:
    token = _signed(role=Role.MODERATOR, level=9, name="Bo", rooms=("r",)).removeprefix("Bearer ")
    user = Verifier([secret(SECRET)]).bearer(f"{scheme} {token}", time.time())
    assert user == User("u", Role.MODERATOR, 9, "Bo", ("r",), issued_s=user.issued_s)
