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

from autoscaler.drivers.kubernetes.addresses import address_of
from autoscaler.drivers.kubernetes.api import FAILURES, connect, in_words, read
from liveroom import clock
from liveroom.addresses import url_host

ATTEMPTS: Final = 10


async def _resolved(host: str) -> str:
    """Return the IP of a host name; the name itself where it does not resolve."""
    try:
        async with asyncio.timeout(5):
            found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError:  # TimeoutError too
        return host
    return str(found[0][4][0])


async def _find_address(node: str, url: str, write: Path) -> int:
    """Write the settings of a gateway on `node`; return the exit code."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with asyncio.timeout(5), await connect() as api:
                answer = client.CoreV1Api(api).read_node_without_preload_content(node)
                found = await read(answer, dict[str, Any])
            host, ip, zone = address_of(found)
        except (*FAILURES, ValueError) as error:
            print(f"node {node}, attempt {attempt}: {in_words(error)}", file=sys.stderr)  # noqa: T201 - the pod's log
            await clock.sleep(min(attempt, 5))
            continue
        ip = ip or await _resolved(host)
        settings = {"public_url": url.replace("{host}", url_host(host)), "public_ip": ip, "zone": zone}
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
    address.add_argument("--write", type=Path, required=True, help="settings file (TOML) to write, for LIVEROOM_CONFIG")
    given = parser.parse_args()
    if not given.node:
        parser.error("no node: give --node or set LIVEROOM_NODE")
    return asyncio.run(_find_address(given.node, given.url, given.write))


if __name__ == "__main__":
    sys.exit(main())
