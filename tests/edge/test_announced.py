"""Gateways with TLS of their own behind HAProxy, which announces its callers by the PROXY protocol:
TLS is passed on, or ended and begun again.
"""

import asyncio
import ssl
from collections import Counter
from pathlib import Path

import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from liveroom.ports import HOST, free_ports
from liveroom.settings import HttpSettings
from liveroom.wire import SUBPROTOCOL
from tests.edge.harness import ask, next_frame, running, settings_of
from tests.proxies import haproxy_announcing

VIEWERS = 8


def write(authority: trustme.CA, folder: Path) -> None:
    made = authority.issue_cert(HOST)
    made.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    authority.cert_pem.write_to_path(folder / "authority.pem")


@pytest.mark.parametrize("header", ["send-proxy", "send-proxy-v2"])
@pytest.mark.parametrize("ends_tls", [False, True], ids=["passed on", "ended and begun again"])
async def test_replicas_behind_a_proxy_count_the_callers_that_it_announces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str, *, ends_tls: bool
) -> None:
    monkeypatch.setattr("edge.joins.SNAPSHOT_WAIT_S", 0.0)
    authority, trusting = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trusting)
    await asyncio.to_thread(write, authority, tmp_path)
    both = tmp_path / "both.pem"
    settings = settings_of(
        http=HttpSettings(proxy_protocol=True), proxies=(f"{HOST}/32",), tls_cert_file=both, tls_key_file=both
    )
    (port,) = free_ports(1)
    async with running(settings, trusting) as first, running(settings, trusting) as second:
        replicas = (first, second)
        proxy = haproxy_announcing(
            port,
            [replica.port for replica in replicas],
            tmp_path,
            header,
            ends=both if ends_tls else None,
            trusting=tmp_path / "authority.pem",
        )
        seen, of_replica = Counter[str](), Counter[int]()
        async with asyncio.timeout(60), proxy:
            for number in range(VIEWERS):
                async with connect(
                    f"wss://{HOST}:{port}/v1/live?ticket={first.ticket(f'u{number}')}",
                    ssl=trusting,
                    subprotocols=[Subprotocol(SUBPROTOCOL)],
                    local_addr=(f"127.0.0.{50 + number}", 0),
                ) as watching:
                    assert (await next_frame(watching))["t"] == "hello"
                    assert (await ask(watching, t="join", room="r"))["t"] == "joined"
                    for replica in replicas:
                        mine = [member.address for member in replica.gateway.members if member.user == f"u{number}"]
                        seen.update(mine)
                        of_replica[replica.port] += len(mine)
        assert seen == Counter(f"127.0.0.{50 + number}" for number in range(VIEWERS))
        assert all(of_replica[replica.port] for replica in replicas)
