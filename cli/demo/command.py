"""`liveroom demo`: everything on one machine, with real danmaku, and the books open.

Owns the play (danmaku in a loop, gifts and likes by a seed), the crowd that watches, the ledger
that judges, the key that kills a gateway, and what `--duration` demands. Kafka and services come
from `stack`, the look from `show`.
"""

import asyncio
import math
import os
import sys
import webbrowser
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import aiohttp
from rich.console import Console
from rich.live import Live

from cli.danmaku import DanmakuFileError, Line, default_file, read_file
from cli.demo.screen import KEYS, KEYS_OF_SURGE, Gateway, Screen, quantile, status_line, table
from cli.demo.surge import LEAST, POLICY, plan, surge
from cli.pool_client import PoolError, PoolEye
from cli.replay import CONNECTIONS, Answer, Player, send_cue
from cli.script import SEEDS, Cue, loop, write
from cli.watch import line_of
from devstack.processes import Service, ServiceError
from devstack.stack import INTERRUPTED, Stack, Steps, curl_line, run_stack, until_signalled
from devstack.system import START_TIMEOUT_S
from liveroom import clock, metric_catalog
from liveroom.bodies import Like
from liveroom.chance import Chance, SystemChance
from liveroom.kinds import CLASS_OF, Class, Kind, Role
from viewer.client import Accepted, Refused, Sender, Unknown
from viewer.ledger import Ledger, Verdict
from viewer.load import Crowd
from viewer.session import Delivered, Effect

COME_BACK_S: Final = 3.0
JOIN_TIMEOUT_S: Final = 15.0
SETTLE_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 8.0
CHECKED_VIEWERS: Final = 200  # of a larger crowd so many check everything, the others count
LOOK_S: Final = 0.5
LINE_S: Final = 5.0
SILENT_S: Final = 3.0
WINDOW: Final = 10  # looks that rates and delays are taken over
TOKEN_TTL_S: Final = 7 * 86_400
NOTICED: Final = 6
_MAX_SAMPLES: Final = 20_000
_FEW_JOINS_PER_S: Final = 500.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The command's options; the command line says what they mean."""

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


@dataclass(slots=True)
class _Look:
    """One look at the counters."""

    at_s: float
    sent: int
    delivered: int
    delays_ms: list[float]
    edges: dict[str, tuple[int, float]]


@dataclass(slots=True)
class Watching:
    """What the crowd's checked viewers saw, and the books."""

    ledger: Ledger = field(default_factory=Ledger)
    seen: Counter[Kind] = field(default_factory=Counter)
    delays_ms: list[float] = field(default_factory=list)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=NOTICED))
    first_danmaku: asyncio.Event = field(default_factory=asyncio.Event)

    def on_effect(self, viewer: str, effect: Effect) -> None:
        """Take what a viewer's session says."""
        self.ledger.observe(viewer, effect)
        if isinstance(effect, Delivered):
            message = effect.message
            self.seen[message.kind] += 1
            if len(self.delays_ms) < _MAX_SAMPLES:
                self.delays_ms.append(max(0.0, clock.unix_s() * 1000 - message.at))
            if viewer == "crowd-0":
                self.last.append(f"{effect.room} {line_of(message)}")
            if message.kind is Kind.DANMAKU:
                self.first_danmaku.set()


class Demo:
    """One run on a running stack."""

    def __init__(
        self,
        options: DemoOptions,
        stack: Stack,
        lines: list[Line],
        seed: int,
        rooms: list[str],
        chance: Chance,
        eye: PoolEye | None = None,
    ) -> None:
        self.eye = eye
        self.watching = Watching()
        self.killed: dict[str, float] = {}
        self._options = options
        self._stack = stack
        self._lines = lines
        self._seed = seed
        self.rooms = rooms
        self._run = chance.token_hex(4)
        self._chance = chance
        sample = sample_of(options.viewers, len(rooms))
        self._checked = {rooms[viewer % len(rooms)] for viewer in range(0, options.viewers, sample)}
        self._crowd = Crowd(
            stack.system.scheduler_url,
            rooms,
            plan(options.viewers).calm if options.surge else options.viewers,
            joins_per_s=_FEW_JOINS_PER_S,
            sample=sample,
            on_effect=self.watching.on_effect,
        )
        self.most_joined = 0
        self._looks: deque[_Look] = deque(maxlen=WINDOW)
        self._sent = 0
        self._likes_sent = 0
        self._players: list[Player] = []
        self._began_s = clock.monotonic_s()
        self._revivals: set[asyncio.Task[None]] = set()

    # ---- viewers and senders
    async def come(self, viewers: int, joins_per_s: float) -> None:
        """Let more viewers come until there are so many."""
        await self._crowd.grow(viewers, joins_per_s)

    def go(self, viewers: int) -> None:
        """Send home all but so many."""
        for name in self._crowd.shrink(viewers):
            self.watching.ledger.left(name)

    @asynccontextmanager
    async def crowd(self) -> AsyncIterator[None]:
        """Have the viewers in their rooms while the block runs."""
        coming = asyncio.create_task(self._crowd.start())
        try:
            yield
        finally:
            coming.cancel()
            with suppress(asyncio.CancelledError):
                await coming
            await self._crowd.stop()

    async def all_joined(self, timeout_s: float) -> bool:
        """Wait until all viewers are in their rooms at once."""
        deadline = clock.monotonic_s() + timeout_s
        while self._count_joined() < self.wanted:
            if clock.monotonic_s() > deadline:
                return False
            await clock.sleep(0.05)
        return True

    @property
    def wanted(self) -> int:
        """How many viewers are to be there just now."""
        return self._crowd.figures().wanted

    def _count_joined(self) -> int:
        joined = self._crowd.figures().joined
        self.most_joined = max(self.most_joined, joined)
        return joined

    async def play(self) -> None:
        """Send the script into every room, over and over."""
        self._began_s = clock.monotonic_s()
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for number, room in enumerate(self.rooms):
                tasks.create_task(self._play_room(http, room, self._seed + number))

    async def _play_room(self, http: aiohttp.ClientSession, room: str, seed: int) -> None:
        system, ledger = self._stack.system, self.watching.ledger
        senders: dict[str, Sender] = {}

        async def send(cue: Cue) -> Answer:
            sender = senders.get(cue.user)
            if sender is None:
                token = system.token(cue.user, name=cue.user, ttl_s=TOKEN_TTL_S)
                sender = senders[cue.user] = Sender(system.ingress_url, token, http)
            self._sent += 1
            self._likes_sent += cue.kind is Kind.LIKE
            likes = cue.body.count if isinstance(cue.body, Like) and room in self._checked else 0
            answer = await send_cue(sender, room, cue, self._run)
            match answer:
                case Accepted(id=id_):
                    reliable = CLASS_OF[cue.kind] is Class.RELIABLE and room in self._checked
                    ledger.accepted(room, id_, clock.monotonic_s(), reliable=reliable, likes=likes)
                case Refused():
                    ledger.refused()
                case Unknown():
                    ledger.unknown(room, likes=likes)
            return answer

        player = Player(send, speed=self._options.speed)
        self._players.append(player)
        await player.play(loop(write(self._lines, Chance(seed))))

    def stop_playing(self) -> None:
        """Send nothing more; `play` returns when all that was sent has its answer."""
        for player in self._players:
            player.stop()

    # ---- the books
    def verdict(self) -> Verdict:
        """Return the books as they stand."""
        return self.watching.ledger.verdict(clock.monotonic_s())

    async def settled(self, timeout_s: float = SETTLE_S) -> Verdict:
        """Return the books once all that is on its way has arrived, or the time for it is over.

        Likes that were sent past us (by the page or a curl line) are not in our books, so totals
        then prove nothing.
        """
        foreign = await self._foreign_likes()
        deadline = clock.monotonic_s() + timeout_s
        while True:
            verdict = self.watching.ledger.verdict(clock.monotonic_s(), settled=True)
            if foreign:
                verdict = verdict._replace(wrong_likes=0)
            if verdict.is_clean or clock.monotonic_s() > deadline:
                return verdict
            await clock.sleep(0.1)

    async def _foreign_likes(self) -> bool:
        name = f'{metric_catalog.INTERACTIONS.name}{{kind="{Kind.LIKE.value}",outcome="accepted"}}'
        try:
            told = await self._stack.system.ingress.metrics()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        return told.get(name, 0.0) > self._likes_sent

    # ---- the killer
    def kill_gateway(self) -> str | None:
        """Kill a running gateway with SIGKILL and start it again after a while; return its name,
        None if none runs.
        """
        running = [edge for edge in self._stack.system.edges if edge.running and edge.name not in self.killed]
        if not running:
            return None
        edge = self._chance.choice(running)
        edge.kill()
        self.killed[edge.name] = clock.monotonic_s()
        task = asyncio.create_task(self._revive(edge))
        self._revivals.add(task)
        task.add_done_callback(self._revivals.discard)
        return edge.name

    async def _revive(self, edge: Service) -> None:
        try:
            await edge.ended()
            await clock.sleep(COME_BACK_S)
            await edge.start()
            with suppress(ServiceError):  # its death is noted, or it shows as not answering
                await edge.ready(START_TIMEOUT_S)
        finally:
            self.killed.pop(edge.name, None)

    async def end_revivals(self) -> None:
        """Start nothing more."""
        for task in list(self._revivals):
            task.cancel()
        await asyncio.gather(*self._revivals, return_exceptions=True)

    # ---- the look
    async def look(self) -> Screen:
        """Read all counters and return what there is to show."""
        edges = self._stack.system.edges
        told = await asyncio.gather(*(self._ask(edge) for edge in edges))
        gateways, pool = await self._look_at_pool()
        figures = self._crowd.figures()
        self._count_joined()
        delays, self.watching.delays_ms = self.watching.delays_ms, []
        answered = {edge.name: numbers for edge, numbers in zip(edges, told, strict=True) if numbers is not None}
        self._looks.append(_Look(clock.monotonic_s(), self._sent, figures.messages, delays, answered))
        first, last = self._looks[0], self._looks[-1]
        span_s = max(last.at_s - first.at_s, 1e-9)
        ordered = sorted(delay for look in self._looks for delay in look.delays_ms)
        return Screen(
            elapsed_s=last.at_s - self._began_s,
            rooms=len(self.rooms),
            viewers=figures.joined,
            wanted=figures.wanted,
            interactions_per_s=(last.sent - first.sent) / span_s,
            deliveries_per_s=(last.delivered - first.delivered) / span_s,
            delay_p50_ms=quantile(ordered, 0.5),
            delay_p99_ms=quantile(ordered, 0.99),
            gateways=gateways or [self._gateway(edge, first, last, span_s) for edge in edges],
            verdict=self.verdict(),
            deaths=[f"{death.service} {death.why}" for death in self._stack.system.deaths],
            last=list(self.watching.last),
            pool=pool,
            keys=KEYS if self.eye is None else KEYS_OF_SURGE,
        )

    async def _look_at_pool(self) -> tuple[list[Gateway], str]:
        """Return the gateways as the autoscaler sees them, and what it decided."""
        if self.eye is None:
            return [], ""
        try:
            pool = await self.eye.look()
        except PoolError as error:
            return [], str(error)
        gateways = [
            Gateway(
                seen.id,
                seen.state if seen.age_s < SILENT_S else f"silent for {seen.age_s:.0f} s",
                seen.connections,
                is_well=seen.state == "serving",
            )
            for seen in pool.gateways
        ]
        last = pool.last
        return gateways, f"pool {last.actual}, wanted {last.desired}: {last.reason} ({last.detail})" if last is not None else ""

    def _gateway(self, edge: Service, first: _Look, last: _Look, span_s: float) -> Gateway:
        state = self._state(edge, last)
        now = last.edges.get(edge.name)
        if now is None:
            return Gateway(edge.name, state, is_well=False)
        before = first.edges.get(edge.name)
        rate = (now[1] - before[1]) / span_s if before is not None and now[1] >= before[1] else None
        return Gateway(edge.name, state, now[0], rate, is_well=state == "serving")

    def _state(self, edge: Service, last: _Look) -> str:
        if (killed_s := self.killed.get(edge.name)) is not None:
            left_s = killed_s + COME_BACK_S - clock.monotonic_s()
            return f"killed, starts again in {left_s:.0f} s" if left_s > 0 else "starting again"
        if not edge.running:
            return f"died, exit code {edge.returncode}"
        return "serving" if edge.name in last.edges else "does not answer"

    async def _ask(self, edge: Service) -> tuple[int, float] | None:
        """Return a gateway's connections and deliveries so far; None if it does not answer."""
        if not edge.running or edge.name in self.killed:
            return None
        try:
            async with asyncio.timeout(1):
                told = await edge.metrics()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return int(told.get(metric_catalog.CONNECTIONS.name, 0)), told.get(metric_catalog.DELIVERED_MESSAGES.name, 0.0)


def sample_of(viewers: int, rooms: int) -> int:
    """Return n, so that every n-th viewer checks everything: some 200, in every room, since n and
    `rooms` share no factor.
    """
    sample = -(-viewers // CHECKED_VIEWERS)
    while math.gcd(sample, rooms) != 1:
        sample += 1
    return sample


def failures(demo: Demo, options: DemoOptions, verdict: Verdict, deaths: list[str]) -> list[str]:
    """Return what `--duration` demands and did not hold, in words."""
    seen = demo.watching.seen
    found = []
    if demo.most_joined < options.viewers:
        found.append(f"only {demo.most_joined:,} of {options.viewers:,} viewers joined")
    if not verdict.accepted:
        found.append("nothing was accepted")
    found += [f"no {kind.value} was seen" for kind in (Kind.DANMAKU, Kind.GIFT) if not seen[kind]]
    if not verdict.is_clean:
        found.append(f"the ledger is not clean: {verdict}")
    if deaths:
        found.append(f"processes died unasked: {', '.join(deaths)}")
    return found


async def run_demo(options: DemoOptions) -> int:
    """Run the demo until its duration is over, q, or a signal."""
    ending = asyncio.Event()
    playing = asyncio.Event()

    def ask_to_end() -> bool:
        ending.set()
        return playing.is_set()

    code = await until_signalled(_demo(options, Console(highlight=False), ending, playing), ask_to_end)
    return 0 if code == INTERRUPTED and options.duration_s is None else code


async def _demo(options: DemoOptions, console: Console, ending: asyncio.Event, playing: asyncio.Event) -> int:
    steps, chance = Steps(console), SystemChance()
    found = await asyncio.to_thread(read_file, options.file or default_file())
    if not found.lines:
        raise DanmakuFileError(f"{options.file}: there is no danmaku in it")
    seed = options.seed if options.seed is not None else chance.randrange(SEEDS)
    rooms = [f"live-{number + 1}" for number in range(options.rooms)]
    steps.say(f"seed {seed} (repeat this run with --seed {seed})")
    async with AsyncExitStack() as context:
        settings: dict[str, str] = {}
        if options.surge:
            folder = Path(context.enter_context(TemporaryDirectory()))
            await asyncio.to_thread((folder / "policy.toml").write_text, POLICY)
            most = plan(options.viewers).max_connections
            settings = {"POLICY_FILE": str(folder / "policy.toml"), "MAX_CONNECTIONS": str(most)}
        stack = await context.enter_async_context(
            run_stack(
                "demo",
                steps,
                chance,
                rooms=rooms,
                edges=0 if options.surge else options.edges,
                partitions=options.partitions,
                page_port=options.page_port,
                throwaway=True,
                keep_logs=options.keep_logs,
                autoscalers=int(options.surge),
                settings=settings,
            )
        )
        eye = None
        if options.surge:
            http = await context.enter_async_context(aiohttp.ClientSession())
            token = stack.system.token("demo", Role.OPERATOR, ttl_s=TOKEN_TTL_S)
            eye = PoolEye(http, stack.system.autoscalers[0].url, token)
            steps.say(f"the autoscaler starts the first {LEAST} gateways")
        demo = Demo(options, stack, found.lines, seed, rooms, chance, eye)
        async with demo.crowd():
            verdict, wrong, interrupted = await _play(demo, options, stack, steps, ending, playing)
        await demo.end_revivals()
        deaths = [death.service for death in stack.system.deaths]
        wrong = [] if interrupted and options.surge else wrong + failures(demo, options, verdict, deaths)
        console.print(str(verdict), markup=False)
        for line in wrong:
            console.print(f"FAILED: {line}", markup=False)
        if wrong:
            stack.system.keep_logs = True
        if stack.system.keep_logs:
            console.print(f"logs: {stack.system.folder}", markup=False)
    if options.duration_s is None and (interrupted or not options.surge):
        return 1 if deaths else 0
    return 1 if wrong else INTERRUPTED if interrupted else 0


async def _play(
    demo: Demo, options: DemoOptions, stack: Stack, steps: Steps, ending: asyncio.Event, playing: asyncio.Event
) -> tuple[Verdict, list[str], bool]:
    """Let the viewers come, play, show it, and settle the books.

    Also say what of a surge did not come about, and whether it was ended before its time.
    """
    console = steps.console
    everybody = await demo.all_joined(JOIN_TIMEOUT_S)
    steps.say(f"{demo.most_joined:,} of {demo.wanted:,} viewers joined" + ("" if everybody else ", playing all the same"))
    lines = [
        f"page  {stack.page_url} (hosts: /host.html, operators: /ops.html)",
        f"logs  {stack.system.folder}",
        f"Kafka {stack.system.kafka_bootstrap}",
    ]
    for line in (*lines, "send by hand:", curl_line(stack, demo.rooms[0]), ""):
        console.print(line, markup=False, soft_wrap=True)
    if options.open_page:
        await asyncio.to_thread(webbrowser.open, f"{stack.page_url}?room={demo.rooms[0]}")
    play = asyncio.create_task(demo.play())
    playing.set()
    first = asyncio.create_task(_tell_first(demo, steps))
    try:
        with keys(ending, demo):
            show = _show_table(demo, console, lines) if console.is_terminal else _show_lines(demo, console)
            shown = asyncio.create_task(show)
            ended = asyncio.create_task(ending.wait())
            surging = [asyncio.create_task(surge(demo, demo.eye, steps, plan(options.viewers)))] if demo.eye is not None else []
            await asyncio.wait({ended, shown, play, *surging}, timeout=options.duration_s, return_when=asyncio.FIRST_COMPLETED)
            for task in (ended, shown, first, *surging):
                task.cancel()
            await asyncio.wait({ended, shown, first, *surging})
        demo.stop_playing()
        await asyncio.wait({play}, timeout=ANSWER_TIMEOUT_S)
    finally:
        playing.clear()
        for task in (play, first):
            task.cancel()
    for task in (play, shown, *surging):
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
    wrong = [line for task in surging if not task.cancelled() for line in task.result()]
    return await demo.settled(), wrong, ending.is_set()


async def _tell_first(demo: Demo, steps: Steps) -> None:
    await demo.watching.first_danmaku.wait()
    steps.say("the first danmaku reached a viewer")


async def _show_table(demo: Demo, console: Console, lines: list[str]) -> None:
    with Live(table(await demo.look(), lines), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            await clock.sleep(LOOK_S)
            live.update(table(await demo.look(), lines), refresh=True)


async def _show_lines(demo: Demo, console: Console) -> None:
    due_s = clock.monotonic_s() + LINE_S
    while True:
        await clock.sleep(LOOK_S)
        screen = await demo.look()
        if clock.monotonic_s() >= due_s:
            due_s += LINE_S
            console.print(status_line(screen), markup=False, soft_wrap=True)


@contextmanager
def keys(ending: asyncio.Event, demo: Demo) -> Iterator[None]:
    """Read single keys from the terminal while the block runs, if there is one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield
        return
    import termios  # noqa: PLC0415 - not to be had on every system
    import tty  # noqa: PLC0415

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop_ = asyncio.get_running_loop()

    def on_key() -> None:
        for key in os.read(descriptor, 16):
            if key in b"qQ":
                ending.set()
            elif key in b"kK":
                demo.kill_gateway()

    tty.setcbreak(descriptor, termios.TCSANOW)
    loop_.add_reader(descriptor, on_key)
    try:
        yield
    finally:
        loop_.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
