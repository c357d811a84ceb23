"""The keys of a system: each service gets its own and none of the others'."""

import json

import pytest

from devstack.builds import ROOT, Build
from devstack.system import System
from liveroom.ticket_keys import read_private_keys, read_public_keys

OLD = Build("an older build", ROOT)
SERVICES = ("ingress", "broadcaster", "edge", "scheduler", "autoscaler", "viewer.canary")


def settings(system: System, service: str) -> dict[str, str]:
    return system._settings_for(service)


def test_the_private_ticket_key_is_the_scheduler_s_alone() -> None:
    system = System("127.0.0.1:1")
    (key,) = read_private_keys(settings(system, "scheduler")["LIVEROOM_TICKET_SIGNING_KEYS"])
    secret = json.loads(system.ticket_signing_keys)["keys"][0]["d"]
    having = {service for service in SERVICES if secret in json.dumps(settings(system, service))}
    assert having == {"scheduler"}
    public = read_public_keys(settings(system, "edge")["LIVEROOM_TICKET_PUBLIC_KEYS"])
    assert all(is_signature(key.key.sign(b"text"), b"text") for is_signature in public.values())


@pytest.mark.parametrize("service", SERVICES)
def test_the_debug_key_is_a_key_of_its_own(service: str) -> None:
    system = System("127.0.0.1:1")
    made = settings(system, service)
    assert made["LIVEROOM_DEBUG_KEY"] == system.debug_key
    assert [name for name, value in made.items() if system.debug_key in value] == ["LIVEROOM_DEBUG_KEY"]
    assert system.debug_key != system.token_key


def test_hmac_keys_are_there_for_an_upgrade_from_an_older_build_alone() -> None:
    assert not any("LIVEROOM_TICKET_KEYS" in settings(System("127.0.0.1:1"), service) for service in SERVICES)
    upgraded = System("127.0.0.1:1", build=OLD)
    assert [service for service in SERVICES if "LIVEROOM_TICKET_KEYS" in settings(upgraded, service)] == ["edge", "scheduler"]
