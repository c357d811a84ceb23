"""Starts the ingress: `python -m ingress` (settings: `--help`). Owns the order of start and end."""

import asyncio

import structlog

from ingress.app import make_app
from ingress.kafka import UplinkQueue
from liveroom import service
from liveroom.service import Runtime
from liveroom.settings import IngressSettings
from liveroom.web import serve

_ANSWER_S = 0.5  # to write the answers after the last ack
log = structlog.get_logger()


async def run(settings: IngressSettings, runtime: Runtime) -> None:
    """Serve until told to stop; then stop accepting, answer what is under way (an ack takes its time-out at most), close.

    The port is open at once: while Kafka is away requests get 503, `/readyz` says why, and nothing crashes.
    """
    queue = UplinkQueue(settings, runtime)
    async with asyncio.TaskGroup() as tasks:
        watcher = tasks.create_task(queue.watch())
        drain_s = settings.ack_timeout_s + _ANSWER_S
        async with serve(
            make_app(settings, queue, runtime.metrics), settings.host, settings.port, shutdown_timeout_s=drain_s
        ) as (
            _,
            port,
        ):
            log.info("listening", port=port)
            await runtime.stopping.wait()
            log.info("stopping", waiting=queue.waiting)
        watcher.cancel()
    await queue.stop()


if __name__ == "__main__":
    service.main("ingress", IngressSettings, run, "kafka")
