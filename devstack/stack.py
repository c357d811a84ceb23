"""Kafka, the services and the page of one run, started together and stopped in order.

Owns what `liveroom up`, `demo` and `loadtest` have in common: the order of a start (page, Kafka,
all services at once), the announcement to other commands, the removal of topics from a Kafka that
is not ours, and the end by a signal.
"""

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from devstack.local_kafka import kafka_cluster
from devstack.page_server import PageState, make_page
from devstack.processes import ServiceDiedError
from devstack.running import Running, announced, start_of_this_process_s
from devstack.system import System
from liveroom import clock, topics
from liveroom.addresses import url_of
from liveroom.chance import Chance
from liveroom.kafka_port import AioKafka, KafkaError
from liveroom.ports import HOST
from liveroom.settings import KafkaSettings
from liveroom.web import serve

INTERRUPTED: Final = 130
# The local Kafka lowers the least session to 3 s, so that a dead broadcaster's partitions move
# sooner.
_LOCAL_SETTINGS: Final = {"KAFKA__SESSION_TIMEOUT_S": "3"}


class Steps:
    """Prints the steps of a run, a line each, with the seconds since the beginning."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began_s = clock.monotonic_s()

    def print(self, text: str) -> None:
        """Print one step."""
        self.console.print(
            f"{clock.monotonic_s() - self._began_s:5.1f} s  {text}", highlight=False, soft_wrap=True, markup=False
        )

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return clock.monotonic_s() - self._began_s


@dataclass(frozen=True, slots=True)
class Stack:
    """A running system and its page."""

    system: System
    page_url: str
    page: PageState


@asynccontextmanager
async def run_stack(
    what: str,
    steps: Steps,
    chance: Chance,
    *,
    rooms: Sequence[str],
    edges: int,
    partitions: int,
    page_port: int,
    data: Path | None = None,
    prefix: str = "",
    throwaway: bool = False,
    keep_logs: bool = False,
    autoscalers: int = 0,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Stack]:
    """Run Kafka, services and page while the block runs.

    `what` is the command's name, for the announcement to other commands, and `rooms` are those that
    the page offers. `data` is the folder of Kafka's data; None: a temporary one. `throwaway`: on a
    Kafka that is not ours, use topics of this run's own and remove them at the end. `settings` go
    to every service, by their names in the environment without LIVEROOM_. Raises ExplainedError
    where something does not start.
    """
    raise_file_limit()
    external = bool(os.environ.get("KAFKA_BOOTSTRAP", "").strip())
    if throwaway and external:
        prefix = f"{prefix or 'liveroom'}-{chance.token_hex(4)}."
    port = _page_port(page_port)
    state = PageState("", list(rooms))
    async with serve(make_page(state, chance), HOST, port, shutdown_timeout_s=1.0):
        steps.print("using the Kafka of KAFKA_BOOTSTRAP" if external else "starting Kafka (the first run downloads 43 MB)")
        async with kafka_cluster(data, chance=chance) as bootstrap:
            steps.print("starting the services" if external else f"Kafka answers at {bootstrap}; starting the services")
            system = System(
                bootstrap,
                prefix=prefix,
                partitions=partitions,
                edges=edges,
                autoscalers=autoscalers,
                origins=(url_of("http", HOST, port), url_of("http", "localhost", port)),
                settings=({} if external else _LOCAL_SETTINGS) | dict(settings or {}),
                keep_logs=keep_logs,
                on_step=steps.print,
                chance=chance,
            )
            try:
                async with system:
                    stack = Stack(system, url_of("http", HOST, port), state)
                    state.token_key, state.ingress, state.scheduler = system.token_key, system.ingress_url, system.scheduler_url
                    state.autoscaler = system.autoscalers[0].url if system.autoscalers else None
                    with announced(_running(what, stack, rooms)):
                        yield stack
            finally:
                if throwaway and external:
                    await remove_topics(bootstrap, prefix)


def _running(what: str, stack: Stack, rooms: Sequence[str]) -> Running:
    system = stack.system
    return Running(
        what=what,
        pid=os.getpid(),
        started_s=start_of_this_process_s(),
        ingress=system.ingress_url,
        scheduler=system.scheduler_url,
        page=stack.page_url,
        token_key=system.token_key,
        kafka=system.kafka_bootstrap,
        prefix=system.prefix,
        autoscaler=system.autoscalers[0].url if system.autoscalers else "",
        partitions=system.partitions,
        rooms=list(rooms),
        logs=str(system.folder),
        debug_key=system.debug_key,
    )


def curl_line(stack: Stack, room: str) -> str:
    """Return a curl command that sends one danmaku, with a token that is valid for an hour."""
    token = stack.system.token("curl", name="curl")
    return (
        f"curl -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json'"
        f' -d \'{{"text":"hello"}}\' {stack.system.ingress_url}/v1/rooms/{room}/danmaku'
    )


def raise_file_limit() -> None:
    """Raise the limit of open files, for this process and its children, to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS reports "unlimited" and refuses it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _page_port(wanted: int) -> int:
    """Return the wanted port if it is free, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port for the page")


async def remove_topics(bootstrap: str, prefix: str) -> None:
    """Remove the topics of one prefix; where that fails, print that they stay."""
    admin = AioKafka(KafkaSettings(bootstrap=bootstrap, prefix=prefix)).admin()
    try:
        await admin.start()
        existing = set(await admin.list_topics())
        ours = [prefix + topic.name for topic in topics.ALL if prefix + topic.name in existing]
        if ours:
            await admin.delete_topics(ours)
    except (KafkaError, OSError) as error:
        print(f"liveroom: the topics {prefix}* could not be removed from {bootstrap}: {error!r}", file=sys.stderr)
    finally:
        await admin.close()


async def until_signalled(work: Coroutine[None, None, int], ask_to_end: Callable[[], bool] = lambda: False) -> int:
    """Run `work` and return its exit code; 130 where SIGINT, SIGTERM or SIGHUP ended it.

    The first signal cancels `work`, unless `ask_to_end` returns True: then that ends it in order. A
    second signal ends the process at once.
    """
    task = asyncio.ensure_future(work)
    signals = 0

    def end() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            if not ask_to_end():
                task.cancel()
        else:
            os._exit(INTERRUPTED)  # the children end by their tethers

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    try:
        return await task
    except asyncio.CancelledError:
        return INTERRUPTED
    except ServiceDiedError as error:
        print(f"liveroom: {error}", file=sys.stderr)
        return 1
