import asyncio
import os
import sys

import aiohttp
from viewer.client import Viewer
from viewer.effects import Delivered, Effect
from viewer.sender import Refused, Sender, Unknown


async def main(room: str, scheduler: str, ingress: str, token: str) -> None:
    async with asyncio.TaskGroup() as tasks, aiohttp.ClientSession() as http:
        sender = Sender(ingress, token, http, patience_s=10)

        async def answer(name: str) -> None:
            match await sender.danmaku(room, f"pong, {name}"):
                case Refused(code=code, detail=detail):
                    print("not sent:", code, detail, flush=True)
                case Unknown(code=code, why=why):
                    print("perhaps not sent:", code, why, flush=True)

        def on_effect(effect: Effect) -> None:
            match effect:
                case Delivered(message=message) if message.kind == "danmaku" and message.body.get("text") == "ping":
                    tasks.create_task(answer(message.name))

        async with Viewer(scheduler, [room], http=http, token=token, on_effect=on_effect) as viewer:
            await viewer.until_ended()
        print("ended:", viewer.error, flush=True)


SETTINGS = ("LIVEROOM_SCHEDULER_URL", "LIVEROOM_INGRESS_URL", "LIVEROOM_TOKEN")
asyncio.run(main("live-1", *(os.environ[name] for name in SETTINGS)))
sys.exit(1)  # it cannot come back
