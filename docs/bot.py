import asyncio
import os

import aiohttp
import msgspec
from viewer.client import Viewer
from viewer.effects import Delivered, Effect
from viewer.sender import Sender


async def main(room: str, scheduler: str, ingress: str, token: str) -> None:
    async with asyncio.TaskGroup() as tasks, aiohttp.ClientSession() as http:
        sender = Sender(ingress, token, http)

        def answer(effect: Effect) -> None:
            if isinstance(effect, Delivered) and msgspec.json.decode(effect.message.data).get("text") == "ping":
                tasks.create_task(sender.danmaku(room, f"pong, {effect.message.name}"))

        async with Viewer(scheduler, [room], http=http, on_effect=answer) as viewer:
            await viewer.until_ended()


SETTINGS = ("LIVEROOM_SCHEDULER_URL", "LIVEROOM_INGRESS_URL", "LIVEROOM_TOKEN")
asyncio.run(main("live-1", *(os.environ[name] for name in SETTINGS)))
