"""Where viewers reach what listens on a node of the cluster. Pure.

Owns the choice among a node's addresses. Called where a gateway's pod starts (`__main__`).
"""

from collections.abc import Mapping
from typing import Any, Final

ADDRESS: Final = "liveroom.dev/address"
ZONE: Final = "topology.kubernetes.io/zone"
ADDRESS_ORDER: Final = ("ExternalDNS", "ExternalIP", "InternalDNS", "InternalIP", "Hostname")  # Agones'


def address_of(node: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return host, IP and zone of a node, as the API has it.

    The annotation `liveroom.dev/address` comes first, then the kinds of addresses in Agones' order.
    The IP is empty where only a look-up of the host gives it. Raises ValueError where the node has
    no address.
    """
    metadata, addresses = node.get("metadata", {}), node.get("status", {}).get("addresses", [])
    known = {kind: entry["address"] for kind in ADDRESS_ORDER for entry in reversed(addresses) if entry["type"] == kind}
    annotated = (metadata.get("annotations") or {}).get(ADDRESS, "")
    host = annotated or next((known[kind] for kind in ADDRESS_ORDER if kind in known), "")
    if not host:
        raise ValueError(f"node {metadata.get('name')} has no address")
    outside = "ExternalIP" if {"ExternalIP", "ExternalDNS"} & known.keys() else "InternalIP"
    return host, "" if annotated else known.get(outside, ""), (metadata.get("labels") or {}).get(ZONE, "")
