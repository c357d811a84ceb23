"""A system: each service gets its own keys and none of the others', and viewers can wait for the
gateways.
"""

import json
from pathlib import Path

import pytest

from devstack.builds import ROOT, Build
from devstack.processes import Service
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


class SchedulerWithReports(Service):
    """A scheduler that has one report more at each look."""

    async def metrics(self) -> dict[str, float]:
        self.looks = getattr(self, "looks", -1) + 1
        return {'liveroom_scheduler_gateways{state="open"}': self.looks} if self.looks else {}


async def test_viewers_wait_until_every_scheduler_knows_all_gateways_and_not_only_the_first(tmp_path: Path) -> None:
    system = System("127.0.0.1:1", schedulers=2)
    schedulers = [SchedulerWithReports(f"scheduler-{number}", "scheduler", tmp_path) for number in range(2)]
    system.schedulers = [*schedulers]
    await system.knows_gateways(2)
    assert [each.looks for each in schedulers] == [2, 2]
    with pytest.raises(TimeoutError):
        await system.knows_gateways(1_000_000, timeout_s=0.2)
