"""`liveroom demo`: everything on one machine, with real danmaku, and a ledger that judges it.

Owns the order of a run, and what `--duration` demands. Kafka and services come from
`devstack.stack`; viewers, senders, the killer and the screen are this folder's other modules.
"""

import asyncio
import webbrowser
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import aiohttp
from rich.console import Console
from rich.live import Live

from cli.consoles import plain_console
from cli.danmaku import DanmakuFileError, Line, default_file, read_file
from cli.demo.audience import DemoAudience
from cli.demo.keys import keys
from cli.demo.killer import GatewayKiller
from cli.demo.monitor import Monitor
from cli.demo.screen import status_line, table
from cli.demo.senders import TOKEN_TTL_S, Senders
from cli.demo.surge import LEAST, POLICY, plan, surge
from cli.pool_client import PoolClient
from cli.script import SEEDS
from devstack.stack import INTERRUPTED, Stack, Steps, curl_line, run_stack, until_signalled
from liveroom import clock
from liveroom.chance import Chance, SystemChance
from liveroom.kinds import Kind, Role
from liveroom.tasks import end_tasks
from viewer.ledger import Ledger, Verdict

GATEWAYS_TIMEOUT_S: Final = 30.0
JOIN_TIMEOUT_S: Final = 15.0
SETTLE_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 8.0
LOOK_S: Final = 0.5
LINE_S: Final = 5.0
_SETTLE_LOOK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The command's options; `liveroom demo --help` describes them."""

    viewers: int = 50
    rooms: int = 1
    speed: float = 1.0
    edges: int = 2
    partitions: int = 16
    seed: int | None = None
    file: Path | None = None
    duration_s: float | None = None
    page_port: int = 8700
    open_page: bool = False
    keep_logs: bool = False
    surge: bool = False


class _Ending(NamedTuple):
    """`asked`: a key or a signal ended the run. `is_playing`: the run can then end in order."""

    asked: asyncio.Event
    is_playing: asyncio.Event


class _Outcome(NamedTuple):
    """How a run ended: the ledger's verdict, and what a surge should have done and did not."""

    verdict: Verdict
    wrong: list[str]
    was_interrupted: bool


async def run_demo(options: DemoOptions) -> int:
    """Run the demo until its duration is over, q is pressed, or a signal comes.

    Returns the exit code: 1 if a process died or `--duration`'s demands did not hold, 130 if a
    signal or q ended a run that had a duration, else 0.
    """
    ending = _Ending(asyncio.Event(), asyncio.Event())

    def ask_to_end() -> bool:
        ending.asked.set()
        return ending.is_playing.is_set()

    code = await until_signalled(_demo(options, Steps(plain_console()), ending), ask_to_end)
    return 0 if code == INTERRUPTED and options.duration_s is None else code


async def _demo(options: DemoOptions, steps: Steps, ending: _Ending) -> int:
    chance = SystemChance()
    found = await asyncio.to_thread(read_file, options.file or default_file())
    for remark in found.remarks():
        steps.print(remark)
    if not found.lines:
        raise DanmakuFileError(f"{options.file} has no danmaku that can be used")
    seed = options.seed if options.seed is not None else chance.randrange(SEEDS)
    steps.print(f"seed {seed} (--seed {seed} repeats this run)")
    async with AsyncExitStack() as context:
        stack = await _start(context, options, steps, chance)
        pool = await _pool_client(context, stack) if options.surge else None
        await _know_gateways(stack, LEAST if options.surge else options.edges, steps)
        run = _Run(options, stack, found.lines, seed, chance, pool)
        async with run.audience.present():
            outcome = await run.play(steps, ending)
        await run.killer.stop()
        system = stack.system
        deaths = [death.service for death in system.deaths]
        is_cut_short = outcome.was_interrupted and options.surge
        wrong = [] if is_cut_short else outcome.wrong + failures(run.audience, options.viewers, outcome.verdict, deaths)
        system.keep_logs = system.keep_logs or bool(wrong)
        _print_outcome(steps.console, outcome.verdict, wrong, system.folder if system.keep_logs else None)
    return _exit_code(options, outcome, wrong, deaths)


def _print_outcome(console: Console, verdict: Verdict, wrong: Sequence[str], logs: Path | None) -> None:
    """Print how the run ended. `logs`: the folder of the logs if they are kept."""
    console.print(str(verdict))
    for line in wrong:
        console.print(f"FAILED: {line}")
    if logs is not None:
        console.print(f"logs: {logs}")


def _exit_code(options: DemoOptions, outcome: _Outcome, wrong: Sequence[str], deaths: Sequence[str]) -> int:
    """Return the exit code by the rules of `run_demo`.

    Without a duration only a surge that ran to its end has demands.
    """
    has_demands = options.duration_s is not None or (options.surge and not outcome.was_interrupted)
    if not has_demands:
        return 1 if deaths else 0
    if wrong:
        return 1
    return INTERRUPTED if outcome.was_interrupted else 0


async def _start(context: AsyncExitStack, options: DemoOptions, steps: Steps, chance: Chance) -> Stack:
    """Start Kafka, services and page; for a surge an autoscaler in the gateways' place."""
    settings: dict[str, str] = {}
    if options.surge:
        policy = Path(context.enter_context(TemporaryDirectory())) / "policy.toml"
        await asyncio.to_thread(policy.write_text, POLICY, "utf-8")
        settings = {"POLICY_FILE": str(policy), "MAX_CONNECTIONS": str(plan(options.viewers).max_connections)}
    stack = await context.enter_async_context(
        run_stack(
            "demo",
            steps,
            chance,
            rooms=[f"live-{number + 1}" for number in range(options.rooms)],
            edges=0 if options.surge else options.edges,
            partitions=options.partitions,
            page_port=options.page_port,
            throwaway=True,
            keep_logs=options.keep_logs,
            autoscalers=int(options.surge),
            settings=settings,
        )
    )
    if options.surge:
        steps.print(f"the autoscaler starts the first {LEAST} gateways")
    return stack


async def _know_gateways(stack: Stack, count: int, steps: Steps) -> None:
    """Wait for the load reports of all gateways, so that the viewers spread over them."""
    try:
        await stack.system.knows_gateways(count, GATEWAYS_TIMEOUT_S)
    except (TimeoutError, aiohttp.ClientError, OSError):
        steps.print(f"the scheduler does not have the reports of {count} gateways; going on without")


async def _pool_client(context: AsyncExitStack, stack: Stack) -> PoolClient:
    http = await context.enter_async_context(aiohttp.ClientSession())
    token = stack.system.token("demo", Role.OPERATOR, ttl_s=TOKEN_TTL_S)
    return PoolClient(http, stack.system.autoscalers[0].url, token)


class _Run:
    """One run on a running stack."""

    def __init__(
        self, options: DemoOptions, stack: Stack, lines: Sequence[Line], seed: int, chance: Chance, pool: PoolClient | None
    ) -> None:
        system, rooms = stack.system, stack.page.rooms
        viewers = plan(options.viewers).calm if options.surge else options.viewers
        self._options = options
        self._stack = stack
        self._seed = seed
        self._pool = pool
        self._ledger = Ledger()
        self.audience = DemoAudience(system.scheduler_url, rooms, viewers, options.viewers, self._ledger)
        self.senders = Senders(system, self._ledger, lines, self.audience.checked, chance.token_hex(4))
        self.killer = GatewayKiller(system.edges, chance)
        self._monitor = Monitor(system, rooms, self.audience, self.senders, self.killer, self._ledger, pool)

    async def play(self, steps: Steps, ending: _Ending) -> _Outcome:
        """Wait for the viewers, send and show until the end, and settle the ledger."""
        everybody = await self.audience.all_joined(JOIN_TIMEOUT_S)
        wanted = self.audience.figures().wanted
        steps.print(f"{self.audience.most_joined:,} of {wanted:,} viewers joined" + ("" if everybody else "; going on without"))
        rooms, lines = self._stack.page.rooms, self._addresses()
        for line in (*lines, "send by hand:", curl_line(self._stack, rooms[0]), ""):
            steps.console.print(line, soft_wrap=True)
        if self._options.open_page:
            await asyncio.to_thread(webbrowser.open, f"{self._stack.page_url}?room={rooms[0]}")
        sending = asyncio.create_task(self.senders.play(rooms, self._seed, self._options.speed))
        ending.is_playing.set()
        try:
            wrong = await self._watch(sending, lines, steps, ending)
            self.senders.stop()
            await asyncio.wait({sending}, timeout=ANSWER_TIMEOUT_S)
        finally:
            ending.is_playing.clear()
            sending.cancel()
        _raise_failure_of(sending)
        return _Outcome(await self._settled(), wrong, ending.asked.is_set())

    async def _watch(self, sending: asyncio.Task[None], lines: list[str], steps: Steps, ending: _Ending) -> list[str]:
        """Show the run until q, a signal, its duration or its surge ends it.

        Returns what the surge should have done and did not, in words.
        """
        console, monitor = steps.console, self._monitor
        first = asyncio.create_task(_say_first(self.audience, steps))
        ended = asyncio.create_task(ending.asked.wait())
        showing = asyncio.create_task(
            _show_table(monitor, console, lines) if console.is_terminal else _show_lines(monitor, console)
        )
        surging = [
            asyncio.create_task(surge(self.audience, pool, steps, plan(self._options.viewers)))
            for pool in (self._pool,)
            if pool is not None
        ]
        try:
            with keys({"q": ending.asked.set, "k": self.killer.kill}):
                parts = {sending, ended, showing, *surging}
                await asyncio.wait(parts, timeout=self._options.duration_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(first, ended, showing, *surging)
        _raise_failure_of(first, showing, *surging)
        return [line for task in surging if not task.cancelled() for line in task.result()]

    def _addresses(self) -> list[str]:
        return [
            f"page  {self._stack.page_url} (hosts: /host.html, operators: /ops.html)",
            f"logs  {self._stack.system.folder}",
            f"Kafka {self._stack.system.kafka_bootstrap}",
        ]

    async def _settled(self) -> Verdict:
        """Return the verdict once all that is under way has arrived, or after 5 seconds."""
        others_liked = await self.senders.others_liked()
        deadline = clock.monotonic_s() + SETTLE_S
        while True:
            verdict = self._ledger.verdict(clock.monotonic_s(), settled=True)
            if others_liked:
                verdict = verdict._replace(wrong_likes=0)
            if verdict.is_clean or clock.monotonic_s() > deadline:
                return verdict
            await clock.sleep(_SETTLE_LOOK_S)


def failures(audience: DemoAudience, viewers: int, verdict: Verdict, deaths: Sequence[str]) -> list[str]:
    """Return which of `--duration`'s demands did not hold, in words."""
    seen = audience.observations.seen
    found = []
    if audience.most_joined < viewers:
        found.append(f"only {audience.most_joined:,} of {viewers:,} viewers joined")
    if not verdict.accepted:
        found.append("nothing was accepted")
    found += [f"no {kind.value} was seen" for kind in (Kind.DANMAKU, Kind.GIFT) if not seen[kind]]
    if not verdict.is_clean:
        found.append(f"the ledger is not clean: {verdict}")
    if deaths:
        found.append(f"processes died: {', '.join(deaths)}")
    return found


def _raise_failure_of(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()


async def _say_first(audience: DemoAudience, steps: Steps) -> None:
    await audience.observations.first_danmaku.wait()
    steps.print("the first danmaku reached a viewer")


async def _show_table(monitor: Monitor, console: Console, lines: Sequence[str]) -> None:
    with Live(table(await monitor.read(), lines), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            await clock.sleep(LOOK_S)
            live.update(table(await monitor.read(), lines), refresh=True)


async def _show_lines(monitor: Monitor, console: Console) -> None:
    due_s = clock.monotonic_s() + LINE_S
    while True:
        await clock.sleep(LOOK_S)
        screen = await monitor.read()
        if clock.monotonic_s() >= due_s:
            due_s += LINE_S
            console.print(status_line(screen), soft_wrap=True)
