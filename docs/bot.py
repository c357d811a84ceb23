import asyncio
import os

import aiohttp
from viewer.client import Viewer
from viewer.effects import Delivered, Effect
from viewer.sender import Refused, Sender


async def main(room: str, scheduler: str, ingress: str, token: str) -> None:
    async with asyncio.TaskGroup() as tasks, aiohttp.ClientSession() as http:
        sender = Sender(ingress, token, http, patience_s=10)

        async def answer(name: str) -> None:
            outcome = await sender.danmaku(room, f"pong, {name}")
            if isinstance(outcome, Refused):
                print("not sent:", outcome.code, outcome.detail, flush=True)

        def on_effect(effect: Effect) -> None:
            match effect:
                case Delivered(message=message) if message.kind == "danmaku" and message.body.get("text") == "ping":
                    tasks.create_task(answer(message.name))

        async with Viewer(scheduler, [room], http=http, token=token, on_effect=on_effect) as viewer:
            await viewer.until_ended()
        print("ended:", viewer.error, flush=True)


SETTINGS = ("LIVEROOM_SCHEDULER_URL", "LIVEROOM_INGRESS_URL", "LIVEROOM_TOKEN")
asyncio.run(main("live-1", *(os.environ[name] for name in SETTINGS)))
