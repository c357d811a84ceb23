"""The smallest service: `python -m tests.liveroom.tiny`.

TINY says what its body does: wait, ready, fail, refuse, group.
"""

import asyncio
import logging
import os

import structlog
from pydantic import Field

from liveroom import service
from liveroom.service import Runtime, StartError
from liveroom.settings import ServiceSettings

log = structlog.get_logger()


class TinySettings(ServiceSettings):
    """Settings of a test service."""

    must: int = Field(ge=1, description="something that is needed")


async def run(settings: TinySettings, runtime: Runtime) -> None:
    """Do as TINY says."""
    log.info("tiny", must=settings.must)
    logging.getLogger("foreign").warning("said by a %s", "library")
    runtime.ready("first")
    match os.environ["TINY"]:
        case "wait":
            await runtime.stopping.wait()
        case "ready":
            runtime.ready("second")
            runtime.unready("third", "not\ntoday")
            runtime.ready("third")
            await runtime.stopping.wait()
        case "fail":
            raise RuntimeError('broke "here"')
        case "refuse":
            raise StartError("the password is wrong")
        case "group":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_break())


async def _break() -> None:
    raise OSError("deep inside")


if __name__ == "__main__":
    service.main("edge", TinySettings, run, "first", "second")
