"""The sender of a load test: so many danmaku a second, and a gift in a hundred, in batches.

Owns what is sent. Every answer goes into the ledger.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

import aiohttp
import msgspec

from cli.loadtest.load import GatewayLoad
from devstack.system import System
from liveroom import clock
from liveroom.bodies import Danmaku, Gift
from liveroom.chance import Chance
from liveroom.kinds import Kind, Role
from viewer.ledger import Ledger

SEND_EVERY_S: Final = 0.1
MOST_AT_ONCE: Final = 900
SEND_TIMEOUT_S: Final = 5.0
LONGEST_TEXT: Final = 200
ONE_GIFT_IN: Final = 101  # no multiple of a round number of rooms: each room gets its share
USERS: Final = 500
TOKEN_TTL_S: Final = 86_400


class LoadSender:
    """Sends the messages of `load`, evenly. The ledger judges the rooms in `checked` alone."""

    def __init__(
        self,
        system: System,
        ledger: Ledger,
        rooms: Sequence[str],
        checked: Collection[str],
        texts: Sequence[Danmaku],
        chance: Chance,
    ) -> None:
        self.load = GatewayLoad()
        self.accepted = 0
        self._url = f"{system.ingress_url}/v1/interactions"
        token = system.token("loadtest", Role.SERVICE, ttl_s=TOKEN_TTL_S)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._ledger = ledger
        self._rooms = rooms
        self._checked = checked
        self._texts = texts
        self._chance = chance

    async def run(self, http: aiohttp.ClientSession) -> None:
        """Send until cancelled."""
        due, number, before_s = 0.0, 0, clock.monotonic_s()
        async with asyncio.TaskGroup() as posts:
            while True:
                await clock.sleep(SEND_EVERY_S)
                now_s = clock.monotonic_s()
                due, before_s = due + (now_s - before_s) * self.load.messages_per_s, now_s
                while due >= 1:
                    count = min(int(due), MOST_AT_ONCE)
                    posts.create_task(self._post(http, [self._item(number + each) for each in range(count)]))
                    due, number = due - count, number + count

    def _item(self, number: int) -> dict[str, object]:
        danmaku = self._texts[number % len(self._texts)]
        if self.load.is_plain:  # the load is bytes, not messages that viewers count
            danmaku = Danmaku((danmaku.text * LONGEST_TEXT)[:LONGEST_TEXT])
        is_gift = number % ONE_GIFT_IN == 0
        return {
            "room": self._rooms[number % len(self._rooms)],
            "user": f"sender-{number % USERS}",
            "kind": (Kind.GIFT if is_gift else Kind.DANMAKU).value,
            "id": f"load-{self._chance.token_hex(8)}",
            "data": Gift("rose") if is_gift else danmaku,
        }

    async def _post(self, http: aiohttp.ClientSession, items: Sequence[dict[str, object]]) -> None:
        body, timeout = msgspec.json.encode({"items": items}), aiohttp.ClientTimeout(SEND_TIMEOUT_S)
        try:
            async with http.post(self._url, data=body, headers=self._headers, timeout=timeout) as answer:
                results = msgspec.json.decode(await answer.read())["items"]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError):
            for item in items:
                self._ledger.unknown(str(item["room"]))
            return
        now_s = clock.monotonic_s()
        for item, result in zip(items, results, strict=True):
            if "code" in result:
                self._ledger.refused()
                continue
            self.accepted += 1
            if item["room"] in self._checked:
                is_reliable = item["kind"] == Kind.GIFT.value
                self._ledger.accepted(str(item["room"]), str(item["id"]), now_s, reliable=is_reliable, user=str(item["user"]))
