"""Writes down where viewers reach a gateway: the address of its node.

`python -m autoscaler.drivers.kubernetes address`, in an init container of the gateway's pod. Owns
the choice among a node's addresses.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from kubernetes.aio import client

from autoscaler.drivers.kubernetes.addresses import address_of, check_rule
from autoscaler.drivers.kubernetes.api import FAILURES, connect, in_words, read
from liveroom import clock
from liveroom.addresses import url_host

ATTEMPTS: Final = 10
RECORD_S: Final = 120.0  # until the record of a new node is in the DNS: whatever writes it looks about once a minute


async def resolve(host: str, patience_s: float = 0) -> str:
    """Return the IP of a host name; empty where it does not resolve for so long."""
    end = clock.monotonic_s() + patience_s
    while True:
        try:
            async with asyncio.timeout(5):
                found = await asyncio.get_running_loop().getaddrinfo(host, None)
            return str(found[0][4][0])
        except (OSError, UnicodeError) as error:  # TimeoutError too, and a name that can be none
            if clock.monotonic_s() >= end:
                print(f"{host} does not resolve: {in_words(error)}", file=sys.stderr)  # noqa: T201 - the pod's log
                return ""
        await clock.sleep(2)


async def _find_address(node: str, url: str, rule: str, write: Path) -> int:
    """Write the settings of a gateway on `node`; return the exit code.

    A name that a rule made is waited for: viewers that look it up too early remember for a while
    that there is none. Where it does not come the gateway starts all the same, as this cluster may
    not see the names that viewers see.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with asyncio.timeout(5), await connect() as api:
                answer = client.CoreV1Api(api).read_node_without_preload_content(node)
                found = await read(answer, dict[str, Any])
            address = address_of(found, rule)
        except (*FAILURES, ValueError) as error:
            print(f"node {node}, attempt {attempt}: {in_words(error)}", file=sys.stderr)  # noqa: T201 - the pod's log
            await clock.sleep(min(attempt, 5))
            continue
        host, ip = address.host, address.ip
        if address.by_rule or not ip:
            resolved = await resolve(host, RECORD_S if address.by_rule else 0)
            ip = ip or resolved or host
        settings = {"public_url": url.replace("{host}", url_host(host)), "public_ip": ip, "zone": address.zone}
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items() if value)
        await asyncio.to_thread(write.write_text, text, "utf-8")
        print(text, end="")  # noqa: T201 - the pod's log
        return 0
    return 1


def main() -> int:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(prog="python -m autoscaler.drivers.kubernetes")
    commands = parser.add_subparsers(required=True)
    address = commands.add_parser("address", help="write the settings with the address of this node's gateway")
    address.add_argument("--node", default=os.environ.get("LIVEROOM_NODE"), help="default: LIVEROOM_NODE")
    address.add_argument(
        "--url", required=True, help="address for browsers; {host} becomes the node's: wss://{host}:8010/v1/live"
    )
    address.add_argument(
        "--rule",
        type=check_rule,
        default=os.environ.get("LIVEROOM_ADDRESS_RULE", ""),
        help="host of a node without the annotation, of {node}, {ip} and {zone}: {node}.edge.example.com; default: "
        "LIVEROOM_ADDRESS_RULE, or else the node's own addresses",
    )
    address.add_argument("--write", type=Path, required=True, help="settings file (TOML) to write, for LIVEROOM_CONFIG")
    given = parser.parse_args()
    if not given.node:
        parser.error("no node: give --node or set LIVEROOM_NODE")
    return asyncio.run(_find_address(given.node, given.url, given.rule, given.write))


if __name__ == "__main__":
    sys.exit(main())
