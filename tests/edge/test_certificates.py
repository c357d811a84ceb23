"""The certificates of a gateway: which one a viewer gets, what is refused, what is read again."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key
from pydantic import ValidationError

from edge import certificates
from edge.__main__ import use_certificates
from edge.certificates import CERT_NAME, KEY_NAME, CertificateError, Certificates
from edge.tls_server import TlsServer
from liveroom import metric_catalog
from liveroom.files import Watched
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings
from tests.edge.harness import settings_of
from tests.edge.test_tls import until
from tests.tickets import PUBLIC_KEYS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def write(authority: trustme.CA, cert: Path, key: Path, *names: str) -> None:
    """Write a certificate for `names`, and its key."""
    cert.parent.mkdir(exist_ok=True)
    made = authority.issue_cert(*names)
    made.private_key_pem.write_to_path(key)
    cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))


def settings(folder: Path, *names: str, authority: trustme.CA, dirs: tuple[Path, ...] = ()) -> EdgeSettings:
    write(authority, folder / "c.pem", folder / "k.pem", *names)
    return settings_of(tls_cert_file=folder / "c.pem", tls_key_file=folder / "k.pem", tls_cert_dirs=dirs)


def names_for(read: Certificates, authority: trustme.CA, asked: str | None) -> set[str]:
    """Return the names of the certificate that a client gets which asks for `asked`."""
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=asked)
    theirs = read.context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    about: Any = ours.getpeercert()
    return {name for _, name in about["subjectAltName"]}


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        pytest.param("one.example", {"one.example"}, id="the default's name"),
        pytest.param("two.example", {"two.example", "*.two.example"}, id="another"),
        pytest.param("TWO.example", {"two.example", "*.two.example"}, id="in capitals"),
        pytest.param("a.two.example", {"two.example", "*.two.example"}, id="a wildcard"),
        pytest.param("a.b.two.example", {"one.example"}, id="below a wildcard's one label"),
        pytest.param("three.example", {"three.example"}, id="a third"),
        pytest.param("four.example", {"one.example"}, id="an unknown name"),
        pytest.param(None, {"one.example"}, id="no name"),
    ],
)
def test_a_viewer_gets_the_certificate_for_the_name_it_asks_for(
    tmp_path: Path, authority: trustme.CA, asked: str | None, given: set[str]
) -> None:
    dirs = []
    for folder, names in (("two", ("two.example", "*.two.example")), ("three", ("three.example",))):
        write(authority, tmp_path / folder / CERT_NAME, tmp_path / folder / KEY_NAME, *names)
        dirs.append(tmp_path / folder)
    used = settings(tmp_path, "one.example", authority=authority, dirs=tuple(dirs))
    read = certificates.load(used)
    assert read is not None
    assert names_for(read, authority, asked) == given
    assert len(certificates.files_of(used)) == 6


def test_a_certificate_and_its_key_may_be_in_one_file(tmp_path: Path, authority: trustme.CA) -> None:
    authority.issue_cert("one.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    read = certificates.load(settings_of(tls_cert_file=tmp_path / "both.pem"))
    assert read is not None
    assert names_for(read, authority, "one.example") == {"one.example"}


def _other_key(cert: Path, key: Path, authority: trustme.CA) -> None:
    authority.issue_cert("other.example").private_key_pem.write_to_path(key)
    del cert


def _encrypted(cert: Path, key: Path, authority: trustme.CA) -> None:
    plain = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    del cert, authority


BAD: dict[str, tuple[Callable[[Path, Path, trustme.CA], object], str]] = {
    "the key of another": (_other_key, r"k\.pem is not the private key of the certificate in .*c\.pem"),
    "an encrypted key": (_encrypted, r"k\.pem is encrypted"),
    "no certificate": (lambda cert, _key, _ca: cert.write_text("hello"), r"c\.pem does not contain a certificate in PEM"),
    "a key as certificate": (
        lambda cert, key, _ca: cert.write_bytes(key.read_bytes()),
        r"c\.pem does not contain a certificate in PEM",
    ),
    "no key": (lambda _cert, key, _ca: key.write_text(""), r"k\.pem does not contain a private key in PEM"),
    "a damaged certificate": (
        lambda cert, _key, _ca: cert.write_text(cert.read_text().replace("MII", "XXX", 1)),
        r"c\.pem with .*k\.pem cannot be used",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, authority: trustme.CA, spoil: Callable[[Path, Path, trustme.CA], object], message: str
) -> None:
    used = settings(tmp_path, "one.example", authority=authority)
    spoil(tmp_path / "c.pem", tmp_path / "k.pem", authority)
    with pytest.raises(CertificateError, match=message):
        certificates.load(used)


def test_a_gateway_with_a_wrong_key_does_not_start_and_names_the_file(tmp_path: Path, authority: trustme.CA) -> None:
    settings(tmp_path, "one.example", authority=authority)
    _other_key(tmp_path / "c.pem", tmp_path / "k.pem", authority)
    environment = {
        "LIVEROOM_TICKET_PUBLIC_KEYS": PUBLIC_KEYS,
        "LIVEROOM_TLS_CERT_FILE": str(tmp_path / "c.pem"),
        "LIVEROOM_TLS_KEY_FILE": str(tmp_path / "k.pem"),
        "LIVEROOM_INTERNAL_PORT": "0",
        "LIVEROOM_LOG_FORMAT": "json",
    }
    done = subprocess.run(
        [sys.executable, "-m", "edge"], env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )
    last = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, last["event"]) == (1, "cannot_start")
    assert last["error"].endswith(f"k.pem is not the private key of the certificate in {tmp_path / 'c.pem'}")


def test_a_missing_file_is_named(tmp_path: Path, authority: trustme.CA) -> None:
    used = settings(tmp_path, "one.example", authority=authority, dirs=(tmp_path / "nowhere",))
    with pytest.raises(FileNotFoundError, match=r"nowhere/tls\.crt"):
        certificates.load(used)


@pytest.mark.parametrize("changes", [{"tls_key_file": "k.pem"}, {"tls_cert_dirs": ("two",)}], ids=["key", "folders"])
def test_settings_that_would_leave_the_port_without_tls_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="without which there is no TLS"):
        settings_of(**changes)


def test_without_a_certificate_there_is_no_tls() -> None:
    assert certificates.load(settings_of()) is None
    assert certificates.files_of(settings_of()) == []


async def test_files_that_change_are_read_again_and_bad_ones_leave_the_old_in_use(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liveroom.files.POLL_S", 0.02)
    used = await asyncio.to_thread(lambda: settings(tmp_path, "old.example", authority=authority))
    runtime = Runtime("edge")
    tries = 0

    def load() -> Certificates | None:
        nonlocal tries
        tries += 1
        return certificates.load(used)

    files = Watched(certificates.files_of(used), load)
    read = await files.first()
    assert read is not None
    tls = TlsServer(read.context, runtime.metrics, 5)
    use_certificates(read, tls, runtime)
    await asyncio.to_thread(_other_key, tmp_path / "c.pem", tmp_path / "k.pem", authority)
    # Only now: a gateway waits for Kafka between the first read and this.
    watching = asyncio.create_task(files.watch(lambda now: use_certificates(now, tls, runtime)))
    await until(lambda: tries > 1)
    assert tls.context is read.context
    await asyncio.to_thread(write, authority, tmp_path / "c.pem", tmp_path / "k.pem", "new.example")
    await until(lambda: tls.context is not read.context)
    assert names_for(Certificates(tls.context, 0), authority, "new.example") == {"new.example"}
    assert runtime.metrics.gauge(metric_catalog.TLS_EXPIRES)._value.get() > 1e9
    watching.cancel()
