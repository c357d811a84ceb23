"""`liveroom loadtest`: how much one gateway carries on this machine, and the limits file that
follows.

Owns the ramps: load is raised step by step until an objective breaks, several times over. What is
loaded and measured is `rig`'s, what a knee is `knee`'s, what is written `report`'s. Touches no
system that runs already.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console

from cli.loadtest.knee import Found, Inconclusive, Kind, Knee, Measures, Objectives, Ramp, Trust, find_knee, settle
from cli.loadtest.report import told, told_step, write_limits, write_report
from cli.loadtest.rig import CHECKING, Laboratory, Load, LoadError, laboratory, most_viewers
from devstack.stack import Steps, until_signalled
from liveroom import clock
from liveroom.chance import SystemChance
from viewer.client import end_tasks

AGAIN_FROM: Final = 0.6
FIRST_JOINS: Final = 50.0
FIRST_MESSAGES: Final = 100.0
JOINS_AT: Final = 0.5  # of the knee of viewers
BYTES_AT: Final = 0.25
SHOW_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The command's options; the command line says what they mean."""

    ramps: Sequence[Kind] = tuple(Kind)
    runs: int = 3
    first: int = 1000
    most: int = 100_000
    messages_per_s: float = 100.0
    rooms: int = 1
    factor: float = 1.25
    step_s: float = 6.0
    objectives: Objectives = field(default_factory=Objectives)
    trust: Trust = field(default_factory=Trust)
    limits_file: Path | None = None
    report_file: Path | None = None


async def run_loadtest(options: LoadOptions) -> int:
    """Run it; 1 if a ramp found no knee, or a viewer that checks everything found something
    wrong.
    """
    console = Console()

    async def run() -> int:
        for file in (options.limits_file, options.report_file):
            if file is not None and not await asyncio.to_thread(file.absolute().parent.is_dir):
                raise LoadError(f"there is no folder for {file}")
        steps = Steps(console)
        ramps, books = await find_limits(options, steps)
        found = [isinstance(ramp.result, Found) for ramp in ramps]
        if options.limits_file is not None and any(found) and not books:
            await asyncio.to_thread(write_limits, options.limits_file, options.objectives, ramps)
            steps.say(f"limits: {options.limits_file}; gateways take them with LIVEROOM_LIMITS={options.limits_file}")
        if options.report_file is not None:
            await asyncio.to_thread(write_report, options.report_file, options.objectives, ramps, books)
            steps.say(f"report: {options.report_file}")
        return 0 if all(found) and not books else 1

    return await until_signalled(run())


async def find_limits(options: LoadOptions, steps: Steps) -> tuple[list[Ramp], str]:
    """Run the ramps; return them, and what the viewers that check found wrong, in words."""
    ramps: list[Ramp] = []
    if Kind.VIEWERS in options.ramps and options.most > most_viewers():
        steps.say(f"this system allows {most_viewers():,} viewers: each is an open file (ulimit -Hn)")
    async with laboratory(steps, SystemChance(), rooms=options.rooms, most_viewers=options.most) as here, _shown(here, steps):
        viewers = float(options.first)
        for kind in options.ramps:
            ramp = await _ramp(here, kind, viewers, options, steps)
            ramps.append(ramp)
            steps.say(told(ramp))
            if kind is Kind.VIEWERS:
                found = ramp.result
                viewers = found.median.level if isinstance(found, Found) else found.held or viewers
        await here.bear(Load(messages_per_s=0))
        books = await here.books()
        steps.say(f"{CHECKING} viewers checked everything: {books}")
    return ramps, "" if books.is_clean else str(books)


@asynccontextmanager
async def _shown(here: Laboratory, steps: Steps) -> AsyncIterator[None]:
    """On a terminal, show the live figures below the lines while the block runs."""
    if not steps.console.is_terminal:
        yield
        return
    with steps.console.status("") as status:

        async def show() -> None:
            while True:
                status.update(here.now())
                await clock.sleep(SHOW_S)

        showing = asyncio.create_task(show())
        try:
            yield
        finally:
            await end_tasks(showing)


async def _ramp(here: Laboratory, kind: Kind, viewers: float, options: LoadOptions, steps: Steps) -> Ramp:
    """Raise one kind of load until something breaks, several times."""
    first = {Kind.VIEWERS: float(options.first), Kind.JOINS: FIRST_JOINS, Kind.BYTES: FIRST_MESSAGES}[kind]
    runs: list[tuple[Measures, ...]] = []
    results: list[Knee | Inconclusive] = []
    for number in range(1, options.runs + 1):
        steps.say(f"{kind.value}, run {number} of {options.runs}")
        run = await _run(here, kind, first, viewers, options, steps)
        result = find_knee(run, options.objectives, options.trust)
        runs.append(tuple(run))
        results.append(result)
        if isinstance(result, Inconclusive):
            break  # the others would find no more
        first = max(first, result.level * AGAIN_FROM)
    return Ramp(kind, tuple(runs), settle(results))


async def _run(
    here: Laboratory, kind: Kind, first: float, viewers: float, options: LoadOptions, steps: Steps
) -> list[Measures]:
    await here.bear(Load(messages_per_s=options.messages_per_s))  # all go home: each run fills the gateway anew
    run: list[Measures] = []
    level = first
    most = min(options.most, most_viewers()) if kind is Kind.VIEWERS else options.most
    while level <= most:
        await here.bear(_load(kind, level, viewers, options))
        step = await here.measure(level, options.step_s)
        if step.broken(options.objectives) and not step.doubt(options.trust):  # once is an accident
            steps.say(f"{told_step(kind, step, options.objectives)}; once more")
            step = await here.measure(level, options.step_s)
        steps.say(told_step(kind, step, options.objectives))
        run.append(step)
        if step.broken(options.objectives) or step.doubt(options.trust):
            break
        level *= options.factor
    return run


def _load(kind: Kind, level: float, viewers: float, options: LoadOptions) -> Load:
    match kind:
        case Kind.VIEWERS:
            return Load(int(level), messages_per_s=options.messages_per_s)
        case Kind.JOINS:
            return Load(int(viewers * JOINS_AT), turnover_per_s=level, messages_per_s=options.messages_per_s)
        case Kind.BYTES:
            return Load(int(viewers * BYTES_AT), messages_per_s=level, plain=True)
