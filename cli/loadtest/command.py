"""`liveroom loadtest`: measures how much one gateway carries, and writes the limits that follow.

Owns the ramps: the load rises step by step until an objective breaks, several times. `rig` runs and
measures, `knee` finds the limit, `report` writes. It touches no system that runs already.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cli.choices import RampKind
from cli.consoles import plain_console
from cli.loadtest.cores import most_viewers
from cli.loadtest.knee import Found, Inconclusive, Knee, Measures, Objectives, Ramp, Trust, find_knee, settle
from cli.loadtest.load import GatewayLoad, LoadError
from cli.loadtest.report import ramp_line, step_line, write_limits, write_report
from cli.loadtest.rig import CHECKING, Rig, run_rig
from devstack.stack import Steps, until_signalled
from liveroom import clock
from liveroom.chance import SystemChance
from liveroom.tasks import beside

AGAIN_FROM: Final = 0.6
FIRST_JOINS: Final = 50.0
FIRST_MESSAGES: Final = 100.0
JOINS_AT: Final = 0.5  # of the knee of viewers
BYTES_AT: Final = 0.25
SHOW_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The command's options; `liveroom loadtest --help` describes them."""

    ramps: Sequence[RampKind] = tuple(RampKind)
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
    """Run the load test and return the exit code.

    It is 1 if a ramp found no knee, or if a viewer that checks everything found an error.
    """
    console = plain_console()

    async def run() -> int:
        for file in (options.limits_file, options.report_file):
            if file is not None and not await asyncio.to_thread(file.absolute().parent.is_dir):
                raise LoadError(f"there is no folder for {file}")
        steps = Steps(console)
        ramps, verdict = await find_limits(options, steps)
        found = [isinstance(ramp.result, Found) for ramp in ramps]
        if options.limits_file is not None and any(found) and not verdict:
            await asyncio.to_thread(write_limits, options.limits_file, options.objectives, ramps)
            steps.print(f"limits: {options.limits_file}; gateways take them with LIVEROOM_LIMITS={options.limits_file}")
        if options.report_file is not None:
            await asyncio.to_thread(write_report, options.report_file, options.objectives, ramps, verdict)
            steps.print(f"report: {options.report_file}")
        return 0 if all(found) and not verdict else 1

    return await until_signalled(run())


async def find_limits(options: LoadOptions, steps: Steps) -> tuple[list[Ramp], str]:
    """Run the ramps; return them, and the errors that checking viewers found (empty: none)."""
    ramps: list[Ramp] = []
    if RampKind.VIEWERS in options.ramps and options.most > most_viewers():
        steps.print(f"this machine allows {most_viewers():,} viewers, since each is an open file (ulimit -Hn)")
    async with run_rig(steps, SystemChance(), rooms=options.rooms, most_viewers=options.most) as rig, _shown(rig, steps):
        viewers = float(options.first)
        for kind in options.ramps:
            ramp = await _ramp(rig, kind, viewers, options, steps)
            ramps.append(ramp)
            steps.print(ramp_line(ramp))
            if kind is RampKind.VIEWERS:
                found = ramp.result
                viewers = found.median.level if isinstance(found, Found) else found.held or viewers
        await rig.apply(GatewayLoad(messages_per_s=0))
        verdict = await rig.settled()
        steps.print(f"{CHECKING} viewers checked everything: {verdict}")
    return ramps, "" if verdict.is_clean else str(verdict)


@asynccontextmanager
async def _shown(rig: Rig, steps: Steps) -> AsyncIterator[None]:
    """On a terminal, show the live figures below the lines while the block runs."""
    if not steps.console.is_terminal:
        yield
        return
    with steps.console.status("") as status:

        async def show() -> None:
            while True:
                status.update(rig.status())
                await clock.sleep(SHOW_S)

        async with beside(show()):
            yield


async def _ramp(rig: Rig, kind: RampKind, viewers: float, options: LoadOptions, steps: Steps) -> Ramp:
    """Raise one kind of load until something breaks, several times."""
    first = {RampKind.VIEWERS: float(options.first), RampKind.JOINS: FIRST_JOINS, RampKind.BYTES: FIRST_MESSAGES}[kind]
    runs: list[tuple[Measures, ...]] = []
    results: list[Knee | Inconclusive] = []
    for number in range(1, options.runs + 1):
        steps.print(f"{kind.value}, run {number} of {options.runs}")
        run = await _run(rig, kind, first, viewers, options, steps)
        result = find_knee(run, options.objectives, options.trust)
        runs.append(tuple(run))
        results.append(result)
        if isinstance(result, Inconclusive):
            break  # further runs would find no more
        first = max(first, result.level * AGAIN_FROM)
    return Ramp(kind, tuple(runs), settle(results))


async def _run(rig: Rig, kind: RampKind, first: float, viewers: float, options: LoadOptions, steps: Steps) -> list[Measures]:
    await rig.apply(GatewayLoad(messages_per_s=options.messages_per_s))  # all viewers leave: each run fills an empty gateway
    run: list[Measures] = []
    level = first
    most = min(options.most, most_viewers()) if kind is RampKind.VIEWERS else options.most
    while level <= most:
        await rig.apply(_load(kind, level, viewers, options))
        step = await rig.measure(level, options.step_s)
        if step.broken(options.objectives) and not step.doubt(options.trust):  # once may be chance
            steps.print(f"{step_line(kind, step, options.objectives)}; measuring it again")
            step = await rig.measure(level, options.step_s)
        steps.print(step_line(kind, step, options.objectives))
        run.append(step)
        if step.broken(options.objectives) or step.doubt(options.trust):
            break
        level *= options.factor
    return run


def _load(kind: RampKind, level: float, viewers: float, options: LoadOptions) -> GatewayLoad:
    match kind:
        case RampKind.VIEWERS:
            return GatewayLoad(int(level), messages_per_s=options.messages_per_s)
        case RampKind.JOINS:
            return GatewayLoad(int(viewers * JOINS_AT), turnover_per_s=level, messages_per_s=options.messages_per_s)
        case RampKind.BYTES:
            return GatewayLoad(int(viewers * BYTES_AT), messages_per_s=level, is_plain=True)
