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

from devstack.local_kafka import LocalKafka
from devstack.page_server import PageState, make_page
from devstack.processes import ServiceDiedError
from devstack.running import Running, announced, make_runtime_dir, start_of_this_process_s
from devstack.system import USUAL_FIRST_PORT, System
from devstack.wishes import Options, Wishes, read_wishes
from liveroom import clock, topics
from liveroom.addresses import authority, url_of
from liveroom.chance import Chance
from liveroom.errors import ExplainedError
from liveroom.kafka_port import AioKafka, KafkaError
from liveroom.ports import HOST, is_free
from liveroom.setting_sources import read_settings
from liveroom.settings import ServiceSettings
from liveroom.web import serve

INTERRUPTED: Final = 130
NO_OPTIONS: Final = Options()
# The local Kafka lowers the least session to 3 s, so that a dead broadcaster's partitions move
# sooner.
_LOCAL_SETTINGS: Final = {"KAFKA__SESSION_TIMEOUT_S": "3"}


_SERVICES: Final = ("ingress", "broadcaster", "edge", "scheduler")  # that every system has
_KAFKA_PORT: Final = 9092


class PortsTakenError(ExplainedError):
    """Ports that a system is to have are taken; the message names them."""


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
    throwaway: bool = False,
    keep_logs: bool = False,
    autoscalers: int = 0,
    settings: Mapping[str, str] | None = None,
    options: Options = NO_OPTIONS,
    first_port: int = 0,
) -> AsyncIterator[Stack]:
    """Run Kafka, services and page while the block runs.

    `what` is the command's name, for the announcement to other commands, and `rooms` are those that
    the page offers. `partitions` is how many there are where the user's settings do not say. `data`
    is the folder of Kafka's data; None: a temporary one. `throwaway`: on a Kafka that is not ours,
    use topics of this run's own and remove them at the end. `settings` go to every service, by
    their names in the environment without LIVEROOM_. `options` go with the settings of the user
    (`devstack.wishes`). `first_port`: the processes and Kafka get the ports that they have by
    default, moved by as much as it differs from 8000; 0: any free ones. Raises ExplainedError where
    something does not start, or the user's settings cannot be used here.
    """
    raise_file_limit()
    make_runtime_dir()  # fail before anything starts
    own = settings or {}
    services = [*_SERVICES, *(["autoscaler"] if autoscalers else [])]
    wishes = read_wishes(options, services, own, partitions)
    for remark in wishes.remarks:
        steps.print(remark)
    external = bool(wishes.bootstrap)
    port = _page_port(page_port)
    kafka_port = first_port and first_port + _KAFKA_PORT - USUAL_FIRST_PORT
    prefix = f"{wishes.prefix or 'liveroom'}-{chance.token_hex(4)}." if throwaway and external else wishes.prefix
    system = System(
        wishes.bootstrap or authority(HOST, kafka_port or _KAFKA_PORT),
        prefix=prefix,
        partitions=wishes.partitions,
        edges=edges,
        autoscalers=autoscalers,
        origins=(url_of("http", HOST, port), url_of("http", "localhost", port), *wishes.origins),
        settings=_local_settings(wishes) | dict(own) | dict(wishes.settings),
        keep_logs=keep_logs,
        on_step=steps.print,
        chance=chance,
        token_key=wishes.token_key,
        debug_key=wishes.debug_key,
        log_key=wishes.log_key,
        first_port=first_port,
        taken=wishes.taken,
    )
    system.check_settings()
    _check_ports(system, kafka_port, first_port, external)
    state = PageState("", list(rooms))
    async with serve(make_page(state, chance), HOST, port, shutdown_timeout_s=1.0):
        steps.print(f"using the Kafka at {wishes.bootstrap}" if external else "starting Kafka (the first run downloads 43 MB)")
        async with _kafka(wishes.bootstrap, data, chance, kafka_port) as bootstrap:
            steps.print("starting the services" if external else f"Kafka answers at {bootstrap}; starting the services")
            system.kafka_bootstrap = bootstrap
            try:
                async with system:
                    stack = Stack(system, url_of("http", HOST, port), state)
                    state.token_key, state.ingress, state.scheduler = system.token_key, system.ingress_url, system.scheduler_url
                    state.autoscaler = system.autoscalers[0].url if system.autoscalers else None
                    with announced(_running(what, stack, rooms, owns_kafka=not external)):
                        yield stack
            finally:
                if throwaway and external:
                    await remove_topics(bootstrap, prefix)


@asynccontextmanager
async def _kafka(own: str, data: Path | None, chance: Chance, port: int) -> AsyncIterator[str]:
    """Yield the address of the user's own Kafka, else of one that runs as long as the block."""
    if own:
        yield own
    else:
        async with LocalKafka(data, chance=chance, port=port) as kafka:
            yield kafka.bootstrap


def _local_settings(wishes: Wishes) -> dict[str, str]:
    """Return the settings that suit a Kafka that we start."""
    return {name: value for name, value in _LOCAL_SETTINGS.items() if not wishes.bootstrap and name not in wishes.taken}


def _check_ports(system: System, kafka_port: int, first: int, external: bool) -> None:
    """Raise PortsTakenError where others listen at some of the ports that the system is to have."""
    named = {port: name for name, ports in system.ports().items() for port in ports}
    if kafka_port and not external:
        named[kafka_port] = "Kafka"
    taken = [f"{port} ({named[port]})" for port in sorted(named) if not is_free(port)]
    if taken:
        raise PortsTakenError(
            f"these ports are taken, perhaps by another `liveroom up`: {', '.join(taken)}; choose others by"
            f" --ports {first + 100}, or any free ones by --ports 0"
        )


def _running(what: str, stack: Stack, rooms: Sequence[str], *, owns_kafka: bool) -> Running:
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
        edge=system.edges[0].url if system.edges else "",
        internal={service.name: service.internal_url for service in system.services},
        owns_kafka=owns_kafka,
        log_key=system.log_key,
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
    settings = read_settings(ServiceSettings).kafka.model_copy(update={"bootstrap": bootstrap, "prefix": prefix})
    admin = AioKafka(settings).admin()
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
