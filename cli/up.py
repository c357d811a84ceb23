"""`liveroom up`: Kafka, the services and the page, until a signal."""

import asyncio
import webbrowser
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from cli.consoles import plain_console
from devstack.prometheus import find_prometheus, run_prometheus
from devstack.stack import INTERRUPTED, Stack, Steps, curl_line, run_stack, until_signalled
from devstack.wishes import Options
from liveroom.chance import SystemChance
from liveroom.topics import DEFAULT_PARTITIONS

ROOM: Final = "lobby"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The command's options; `liveroom up --help` describes them."""

    edges: int
    data: Path | None
    page_port: int
    keep_logs: bool
    first_port: int
    wanted: Options
    policy: Path | None = None
    with_prometheus: bool = False
    open_page: bool = False


async def run_up(options: UpOptions) -> int:
    """Run until a signal and return the exit code: 1 if a process died."""
    code = await until_signalled(_up(options, plain_console()))
    return 0 if code == INTERRUPTED else code  # a signal is the usual end


async def _up(options: UpOptions, console: Console) -> int:
    steps = Steps(console)
    if options.with_prometheus:
        find_prometheus()  # fail before anything starts
    async with AsyncExitStack() as context:
        stack = await context.enter_async_context(_stack(options, steps))
        prometheus = await context.enter_async_context(run_prometheus(stack.system)) if options.with_prometheus else ""
        steps.print("ready")
        _show(stack, console, prometheus)
        if options.open_page:
            await asyncio.to_thread(webbrowser.open, stack.page_url)
        try:
            await stack.system.watch()
        finally:
            console.print("stopping")
    return 0


def _stack(options: UpOptions, steps: Steps) -> AbstractAsyncContextManager[Stack]:
    return run_stack(
        "up",
        steps,
        SystemChance(),
        rooms=[ROOM],
        edges=options.edges if options.policy is None else 0,
        autoscalers=int(options.policy is not None),
        settings={} if options.policy is None else {"POLICY_FILE": str(options.policy.absolute())},
        partitions=DEFAULT_PARTITIONS,
        data=options.data,
        options=options.wanted,
        first_port=options.first_port,
        page_port=options.page_port,
        keep_logs=options.keep_logs,
    )


def _show(stack: Stack, console: Console, prometheus: str) -> None:
    system = stack.system
    lines = [
        f"page       {stack.page_url} (hosts: /host.html, operators: /ops.html)",
        f"ingress    {system.ingress_url}",
        f"scheduler  {system.scheduler_url}",
        *(f"autoscaler {one.url} (show the pool: liveroom pool)" for one in system.autoscalers),
        *(f"{edge.name:<10} {edge.url} (metrics: {edge.internal_url}/metrics)" for edge in system.edges),
        *([f"Prometheus {prometheus} (dashboards for it: dashboards/grafana)"] if prometheus else []),
        f"Kafka      {system.kafka_bootstrap}",
        f"logs       {system.folder}",
        "",
        'In another terminal:  eval "$(liveroom up --env)"   for the addresses and the key, as variables,',
        "liveroom watch lobby   and   liveroom send lobby hello",
        curl_line(stack, ROOM),
        "",
        "Ctrl-C ends.",
    ]
    for line in lines:
        console.print(line, soft_wrap=True)
