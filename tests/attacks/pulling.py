"""An attacker in a process of its own: one user, many connections, as many pulls as they may send.

`python -m tests.attacks.pulling ROOM CONNECTIONS SCHEDULER TOKEN`. It connects, writes `ready`, and
obeys lines on its standard input: `pull SECONDS` sends pulls from all connections, `burn SECONDS`
takes as much of the processor as the last attack did, without the network. It answers each with the
statuses and codes that it got, as JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack

import aiohttp

from liveroom.wire import SUBPROTOCOL

EVERY_S = 0.04  # a connection sends a pull so often, or when the one before is answered
QUERIES = ({"before_seq": "1"}, {"before_seq": "100000000"}, {"after_seq": "0"}, {"after_rseq": "0"}, {"after_seq": "100"})


async def connect(http: aiohttp.ClientSession, stack: AsyncExitStack, scheduler: str, token: str, room: str) -> tuple[str, str]:
    """Return where a new connection pulls, and its token for pulls."""
    head = {"Authorization": f"Bearer {token}"}
    async with http.get(f"{scheduler}/v1/entry", params={"room": room}, headers=head) as answer:
        entry = await answer.json()
    url = entry["gateways"][0]["url"]
    socket = await stack.enter_async_context(http.ws_connect(f"{url}?ticket={entry['ticket']}", protocols=[SUBPROTOCOL]))
    hello = json.loads(await socket.receive_str())
    await socket.send_str(json.dumps({"t": "join", "room": room}))
    return url.replace("ws://", "http://").replace("/v1/live", f"/v1/rooms/{room}/messages"), hello["pull"]


async def pull(http: aiohttp.ClientSession, url: str, token: str, end_s: float, seen: Counter[str]) -> None:
    number = 0
    while time.monotonic() < end_s:
        due_s = time.monotonic() + EVERY_S
        number += 1
        head = {"Authorization": f"Bearer {token}"}
        async with http.get(url, params=QUERIES[number % len(QUERIES)], headers=head) as answer:
            body = await answer.read()
            code = json.loads(body)["code"] if answer.status != 200 else ""
            seen[f"{answer.status} {code} {'Retry-After' in answer.headers}"] += 1
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))


def burn(seconds: float, share: float) -> None:
    end_s = time.monotonic() + seconds
    while (now_s := time.monotonic()) < end_s:
        while time.monotonic() < now_s + 0.02 * share:
            pass
        time.sleep(0.02 * (1 - share))


async def main(room: str, connections: str, scheduler: str, token: str) -> None:
    share = 0.0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, AsyncExitStack() as stack:
        pullers = [await connect(http, stack, scheduler, token, room) for _ in range(int(connections))]
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, seconds = line.split()
            seen: Counter[str] = Counter()
            if what == "pull":
                before_s, began_s = time.process_time(), time.monotonic()
                end_s = began_s + float(seconds)
                await asyncio.gather(*(pull(http, url, token, end_s, seen) for url, token in pullers))
                share = min(1.0, (time.process_time() - before_s) / (time.monotonic() - began_s))
            else:
                await asyncio.to_thread(burn, float(seconds), share)
            print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
