"""What the Kubernetes driver decides by itself: which pods would go first, which kind an error has,
which address a node has. `make kube` tests the rest.
"""

import asyncio
import re
from typing import Any, Final

import pytest
from kubernetes.aio.client.exceptions import ApiException

from autoscaler.drivers.kubernetes.__main__ import resolve
from autoscaler.drivers.kubernetes.addresses import address_of
from autoscaler.drivers.kubernetes.api import failure_of
from autoscaler.drivers.kubernetes.pods import COST, LEAVING, Condition, Meta, Pod, PodSpec, PodStatus, why_not
from autoscaler.pool import Failure
from liveroom import clock
from tests.manual_clock import ManualClock


def pod(name: str, *, ready: bool = True, phase: str = "Running", cost: str = "0", node: str = "n", version: str = "1") -> Pod:
    annotations = {COST: cost} if cost == "0" else {COST: cost, LEAVING: "a test"}
    return Pod(
        Meta(name, name, labels={"pod-template-hash": version}, annotations=annotations),
        PodSpec(node),
        PodStatus(phase, [Condition("Ready", str(ready))]),
    )


CHEAP = "-100000"


@pytest.mark.parametrize(
    ("others", "due", "replicas", "why"),
    [
        pytest.param([pod("a"), pod("b")], [pod("x", cost=CHEAP)], 3, "", id="the cheapest"),
        pytest.param([pod("a", ready=False)], [pod("x", cost=CHEAP)], 2, "a would go first", id="one that is not ready"),
        pytest.param([pod("a", ready=False)], [pod("x", cost=CHEAP, ready=False)], 2, "", id="both are not ready"),
        pytest.param([pod("a", phase="Pending", node="")], [pod("x", cost=CHEAP)], 2, "", id="one that never served"),
        pytest.param(
            [pod("a", ready=False), pod("b", phase="Pending", ready=False)],
            [pod("x", cost=CHEAP)],
            3,
            "",
            id="of one, the pending goes, and it is looked at anew",
        ),
        pytest.param([pod("a")], [pod("x", cost=CHEAP)], 3, "2 pods of 3 are there", id="one is ordered and not there"),
        pytest.param([pod("a"), pod("b")], [pod("x", cost=CHEAP)], 2, "3 pods of 2 are there", id="one is to go already"),
        pytest.param([pod("a", version="2")], [pod("x", cost=CHEAP)], 2, "a new version is being rolled out", id="a rollout"),
        pytest.param([pod("a"), pod("b", cost="odd")], [pod("x", cost=CHEAP)], 3, "", id="a cost that is no number"),
        pytest.param([pod("w", cost=CHEAP)], [pod("x", cost=CHEAP)], 2, "w would go first", id="of equals it may be any"),
        pytest.param([pod("w", cost=CHEAP)], [pod("a", cost="-200000")], 2, "", id="one that is still being emptied stays"),
        pytest.param(
            [pod("a", cost="-300000")], [pod("x", cost="-200000")], 2, "a would go first", id="one that is cheaper still"
        ),
    ],
)
def test_the_scale_is_lowered_only_where_nothing_that_serves_would_go(
    others: list[Pod], due: list[Pod], replicas: int, why: str
) -> None:
    assert why_not([*others, *due], due, replicas) == why


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        pytest.param(TimeoutError(), Failure.SILENT, id="no answer"),
        pytest.param(ConnectionRefusedError(), Failure.SILENT, id="nobody there"),
        *(
            pytest.param(ApiException(status=status), failure, id=str(status))
            for status, failure in (
                (401, Failure.REFUSED),
                (403, Failure.REFUSED),
                (404, Failure.OTHER),
                (409, Failure.CONFLICT),
                (410, Failure.CONFLICT),
                (422, Failure.OTHER),
                (429, Failure.THROTTLED),
                (500, Failure.SERVER),
                (503, Failure.SERVER),
            )
        ),
    ],
)
def test_what_went_wrong_has_a_name(error: Exception, failure: Failure) -> None:
    assert failure_of(error) is failure


def node(*addresses: tuple[str, str], **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "n", **metadata},
        "status": {"addresses": [{"type": kind, "address": at} for kind, at in addresses]},
    }


@pytest.mark.parametrize(
    ("found", "told"),
    [
        pytest.param(node(("InternalIP", "10.0.0.1"), ("Hostname", "n")), ("10.0.0.1", "10.0.0.1", ""), id="inside"),
        pytest.param(
            node(("InternalIP", "10.0.0.1"), ("ExternalIP", "1.2.3.4"), ("Hostname", "n")),
            ("1.2.3.4", "1.2.3.4", ""),
            id="outside",
        ),
        pytest.param(
            node(("ExternalIP", "1.2.3.4"), ("ExternalDNS", "n.example.com")),
            ("n.example.com", "1.2.3.4", ""),
            id="a name first",
        ),
        pytest.param(
            node(("ExternalDNS", "n.example.com"), ("InternalIP", "10.0.0.1")), ("n.example.com", "", ""), id="a name alone"
        ),
        pytest.param(node(("Hostname", "n")), ("n", "", ""), id="nothing else"),
        pytest.param(
            node(("ExternalIP", "1.2.3.4"), ("ExternalIP", "5.6.7.8")), ("1.2.3.4", "1.2.3.4", ""), id="the first of two"
        ),
        pytest.param(
            node(
                ("ExternalIP", "1.2.3.4"),
                annotations={"liveroom.dev/address": "e1.example.com"},
                labels={"topology.kubernetes.io/zone": "east"},
            ),
            ("e1.example.com", "", "east"),
            id="the annotation has the first word",
        ),
    ],
)
def test_where_a_node_is_reached(found: dict[str, Any], told: tuple[str, str, str]) -> None:
    assert address_of(found) == (*told, False)


OUTSIDE: Final = (("InternalIP", "10.0.0.1"), ("ExternalIP", "203.0.113.7"))
EAST: Final = {"topology.kubernetes.io/zone": "east"}


@pytest.mark.parametrize(
    ("rule", "found", "host", "ip"),
    [
        pytest.param("{node}.edge.example.com", node(*OUTSIDE), "n.edge.example.com", "203.0.113.7", id="its name"),
        pytest.param(
            "{node}.edge.example.com",
            node(("InternalIP", "10.0.0.1"), name="ip-10-0-0-1.eu.internal"),
            "ip-10-0-0-1-eu-internal.edge.example.com",
            "",
            id="a name of several labels, and no outer address",
        ),
        pytest.param("{ip}.edge.example.com", node(*OUTSIDE), "203-0-113-7.edge.example.com", "203.0.113.7", id="its address"),
        pytest.param(
            "{ip}.edge.example.com",
            node(("ExternalIP", "2001:db8::7")),
            "2001-db8--7.edge.example.com",
            "2001:db8::7",
            id="of IPv6",
        ),
        pytest.param("{node}.{zone}.a.example", node(*OUTSIDE, labels=EAST), "n.east.a.example", "203.0.113.7", id="its zone"),
    ],
)
def test_a_rule_names_nodes_that_nobody_annotated(rule: str, found: dict[str, Any], host: str, ip: str) -> None:
    made = address_of(found, rule)
    assert (made.host, made.ip, made.by_rule) == (host, ip, True)


def test_an_annotation_goes_before_the_rule() -> None:
    found = node(*OUTSIDE, annotations={"liveroom.dev/address": "e1.example.com"})
    assert address_of(found, "{node}.edge.example.com") == ("e1.example.com", "", "", False)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        pytest.param("{ip}.a.example", "node n has no ip for the rule", id="no outer address"),
        pytest.param("{zone}.a.example", "node n has no zone for the rule", id="no zone"),
        pytest.param("{name}.a.example", "may have {node}, {ip} and {zone}, not name", id="another place"),
    ],
)
def test_a_rule_that_a_node_cannot_meet_is_an_error(rule: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        address_of(node(("InternalIP", "10.0.0.1")), rule)


def test_a_node_without_an_address_is_an_error() -> None:
    with pytest.raises(ValueError, match="node n has no address"):
        address_of(node())


class Hurried(ManualClock):
    """A clock on which whoever sleeps has slept at once."""

    async def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("host", "patience_s", "ip"),
    [
        pytest.param("127.0.0.1", 0, "127.0.0.1", id="an address"),
        pytest.param("a..b", 0, "", id="no name, and nobody waits"),
        pytest.param("a..b", 60, "", id="no name after a minute"),
    ],
)
async def test_a_name_is_waited_for_no_longer_than_it_may_take(
    host: str, patience_s: float, ip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hurried = Hurried()
    with clock.running_on(hurried):
        began_s = hurried.now_s
        assert await resolve(host, patience_s) == ip
        assert hurried.now_s - began_s == (0 if ip else patience_s)
    assert (f"{host} does not resolve" in capsys.readouterr().err) is not bool(ip)
