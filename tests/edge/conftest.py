"""The gateway that tests of this folder share, plain and over TLS."""

import ssl
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import trustme

from tests.edge.harness import Edge, running, settings_of


class Secured(NamedTuple):
    """The settings of a gateway with a certificate, and the context of viewers that trust it."""

    settings: dict[str, Any]
    trusting: ssl.SSLContext | None


PLAIN = Secured({}, None)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Secured:
    """A certificate for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    made.private_key_pem.write_to_path(folder / "key.pem")
    for blob in made.cert_chain_pems:
        blob.write_to_path(folder / "cert.pem", append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return Secured({"tls_cert_file": folder / "cert.pem", "tls_key_file": folder / "key.pem"}, trusting)


@pytest.fixture(params=["plain", "tls"])
def secured(request: pytest.FixtureRequest) -> Secured:
    """Nothing, and then a certificate: tests that take it run plain and over TLS."""
    return PLAIN if request.param == "plain" else request.getfixturevalue("certificate")


@pytest.fixture
async def edge(request: pytest.FixtureRequest, secured: Secured, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Edge]:
    """A gateway with the settings of the test's parameter, plain and over TLS; rooms have no cards,
    and nobody waits for one.
    """
    monkeypatch.setattr("edge.joins.SNAPSHOT_WAIT_S", 0.0)
    async with running(settings_of(**getattr(request, "param", {}), **secured.settings), secured.trusting) as made:
        yield made
