"""Key sets of entry tickets: what is written is read, and nothing else is taken for a key."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from liveroom.ticket_keys import (
    PrivateKey,
    TicketKeysError,
    make_private_key,
    read_private_keys,
    read_public_keys,
    write_private_keys,
    write_public_keys,
)
from liveroom.tickets import VERSION
from tests.tickets import FOREIGN, NEW, OLD, PRIVATE_KEYS, PUBLIC_KEYS

# RFC 8037, appendix A.1
RFC = {
    "kty": "OKP",
    "crv": "Ed25519",
    "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}


def raw(keys: list[PrivateKey]) -> list[tuple[str, bytes]]:
    return [(key.id, key.key.private_bytes_raw()) for key in keys]


def test_private_keys_come_back_in_their_order() -> None:
    assert raw(read_private_keys(PRIVATE_KEYS)) == raw([NEW, OLD])


def test_public_keys_verify_what_the_private_keys_of_their_ids_sign() -> None:
    keys = read_public_keys(PUBLIC_KEYS)
    assert keys.keys() == {(VERSION, "k1"), (VERSION, "k2")}
    assert keys[VERSION, "k2"](NEW.key.sign(b"text"), b"text")
    for signature, text in ((OLD.key.sign(b"text"), b"text"), (NEW.key.sign(b"text"), b"other"), (b"", b"text")):
        assert not keys[VERSION, "k2"](signature, text)


def test_the_public_set_holds_nothing_private() -> None:
    assert '"d"' not in PUBLIC_KEYS
    assert all(set(key) == {"kty", "crv", "kid", "x"} for key in json.loads(PUBLIC_KEYS)["keys"])


def test_keys_of_other_programs_are_read() -> None:
    (key,) = read_private_keys(json.dumps({"keys": [RFC | {"kid": "rfc", "use": "sig", "alg": "EdDSA"}]}))
    assert key.signer()[:2] == ("rfc", VERSION)
    made = PrivateKey("k1", Ed25519PrivateKey.generate())
    assert raw(read_private_keys(write_private_keys([made]))) == raw([made])


def changed(**changes: Any) -> str:
    return json.dumps({"keys": [{name: value for name, value in (RFC | {"kid": "k1"} | changes).items() if value is not None}]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("nonsense", "not a JWK Set", id="no JSON"),
        pytest.param("\xff", "not a JWK Set", id="no JSON at all"),
        pytest.param('{"k1": "' + "k" * 32 + '"}', "not a JWK Set", id="HMAC keys"),
        pytest.param('{"keys": []}', "no ticket key", id="empty"),
        pytest.param(changed(kid=None), "not a JWK Set", id="no id"),
        pytest.param(changed(kid="a.b"), "ticket key id is not", id="id with a dot, which parts a ticket"),
        pytest.param(changed(kid="k" * 17), "ticket key id", id="id of 17"),
        pytest.param(changed(crv="Ed448"), "not an Ed25519 key", id="another curve"),
        pytest.param(changed(kty="oct"), "not an Ed25519 key", id="another kind"),
        pytest.param(changed(x="AAAA"), "not 32 bytes", id="short public key"),
        pytest.param(changed(d="AAAA"), "not 32 bytes", id="short private key"),
        pytest.param(changed(d="é"), "not 32 bytes", id="not base64"),
        pytest.param(changed(d=None), "is a public key", id="no private part"),
        pytest.param(changed(d="A" * 43), "do not belong together", id="the parts of two keys"),
        pytest.param(write_private_keys([NEW, NEW]), "one kid", id="one id twice"),
    ],
)
def test_what_is_no_set_of_private_keys_is_refused(text: str, said: str) -> None:
    with pytest.raises(TicketKeysError, match=said):
        read_private_keys(text)


def test_a_private_key_among_the_public_ones_is_refused_by_name() -> None:
    with pytest.raises(TicketKeysError, match="ticket key k2 is a private key"):
        read_public_keys(PRIVATE_KEYS)


def test_an_id_that_stands_in_no_ticket_names_no_key() -> None:
    with pytest.raises(TicketKeysError, match="ticket key id"):
        make_private_key("a b", b"k" * 32)


def test_a_foreign_key_of_a_known_id_is_no_key() -> None:
    keys = read_public_keys(write_public_keys([PrivateKey("k1", FOREIGN.key)]))
    assert not keys[VERSION, "k1"](OLD.key.sign(b"text"), b"text")
