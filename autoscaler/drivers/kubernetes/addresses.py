"""Where viewers reach what listens on a node of the cluster. Pure.

Owns the choice among a node's addresses, and the rule that makes a host name of what a node has, so
that nobody need annotate the nodes of a pool that grows by itself. Called where a gateway's pod
starts (`__main__`).
"""

from collections.abc import Mapping
from string import Formatter
from typing import Any, Final, NamedTuple

ADDRESS: Final = "liveroom.dev/address"
ZONE: Final = "topology.kubernetes.io/zone"
ADDRESS_ORDER: Final = ("ExternalDNS", "ExternalIP", "InternalDNS", "InternalIP", "Hostname")  # Agones'


_PLACES: Final = ("node", "ip", "zone")


class Address(NamedTuple):
    """Where a node is reached. `ip` is empty where only a look-up of the host gives it.

    `by_rule`: whether a rule made the host, so that its record in the DNS may be yet to come.
    """

    host: str
    ip: str
    zone: str
    by_rule: bool = False


def check_rule(rule: str) -> str:
    """Return a rule; raise ValueError where it has other places than `{node}`, `{ip}`, `{zone}`."""
    unknown = {place for _, place, *_ in Formatter().parse(rule) if place is not None} - {*_PLACES}
    if unknown:
        raise ValueError(f"the rule {rule!r} may have {{node}}, {{ip}} and {{zone}}, not {', '.join(sorted(unknown))}")
    return rule


def address_of(node: Mapping[str, Any], rule: str = "") -> Address:
    """Return the address of a node, as the API has the node.

    The annotation `liveroom.dev/address` comes first, then the `rule`, then the kinds of addresses
    in Agones' order. In a rule `{node}` is the node's name and `{ip}` its outer address, both with
    dashes for dots and colons, so that one wildcard certificate covers all names; `{zone}` is its
    zone. Raises ValueError where the node has no address, or lacks what the rule asks for.
    """
    metadata, addresses = node.get("metadata", {}), node.get("status", {}).get("addresses", [])
    known = {kind: entry["address"] for kind in ADDRESS_ORDER for entry in reversed(addresses) if entry["type"] == kind}
    annotated = (metadata.get("annotations") or {}).get(ADDRESS, "")
    zone = (metadata.get("labels") or {}).get(ZONE, "")
    if annotated:
        return Address(annotated, "", zone)
    if rule:
        return _by_rule(rule, metadata.get("name", ""), known.get("ExternalIP", ""), zone)
    host = next((known[kind] for kind in ADDRESS_ORDER if kind in known), "")
    if not host:
        raise ValueError(f"node {metadata.get('name')} has no address")
    outside = "ExternalIP" if {"ExternalIP", "ExternalDNS"} & known.keys() else "InternalIP"
    return Address(host, known.get(outside, ""), zone)


def _by_rule(rule: str, name: str, ip: str, zone: str) -> Address:
    made = {"node": _label(name), "ip": _label(ip), "zone": zone}
    for _, place, *_ in Formatter().parse(check_rule(rule)):
        if place and not made[place]:
            raise ValueError(f"node {name} has no {place} for the rule {rule!r}")
    return Address(rule.format_map(made), ip, zone, by_rule=True)


def _label(text: str) -> str:
    """Return a text as one label of a host name."""
    return text.replace(".", "-").replace(":", "-")
