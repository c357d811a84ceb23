"""Commands about gateways and their pool: simulate, loadtest, top, pool."""

from pathlib import Path
from typing import Annotated

import typer

from cli.choices import PoolAct, RampKind
from cli.options import (
    Autoscaler,
    Scheduler,
    Token,
    TokenKey,
)
from cli.running import run as run_command
from liveroom.extras import explained


def simulate(
    scenarios: Annotated[
        list[str] | None, typer.Argument(metavar="[SCENARIO]...", help="names of scenarios; default: all")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="policy of the pool (TOML); default: each scenario's own")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed; the same seed gives the same run")] = 1,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="draw each scenario into a .svg, .png or .pdf file (needs liveroom[plots])"),
    ] = None,
) -> None:
    """Simulate the pool of gateways.

    Plays scenarios (a star's room that fills in a minute, a slow evening, failures) through the
    autoscaler's and the scheduler's own decisions, and prints what they do. Starts nothing and
    needs no Kafka.
    """
    from cli.simulate.command import simulate as run  # noqa: PLC0415 - see the package

    raise typer.Exit(run(scenarios or [], policy, seed, plot))


def loadtest(
    ramp: Annotated[
        list[RampKind] | None, typer.Option(help="what to raise, repeatable; default: all three, one after the other")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=20, help="runs of each ramp, of which the median counts")] = 3,
    first: Annotated[int, typer.Option(min=10, help="viewers at the first step")] = 1000,
    most: Annotated[
        int, typer.Option(min=10, max=1_000_000, help="viewers at the last step, if nothing breaks before")
    ] = 100_000,
    messages_per_s: Annotated[
        float, typer.Option(min=0.1, max=100_000, help="danmaku a second in all rooms together; one in a hundred is a gift")
    ] = 100.0,
    rooms: Annotated[int, typer.Option(min=1, max=1000, help="number of rooms for viewers and danmaku")] = 1,
    factor: Annotated[float, typer.Option(min=1.01, max=10, help="growth of the load from step to step, as a multiple")] = 1.25,
    step: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="time that each step is measured")] = 6.0,
    cpu: Annotated[
        float, typer.Option(min=0.01, max=1, help="objective: share of the gateway's core that is busy, at most")
    ] = 0.9,
    loop_lag_ms: Annotated[
        float, typer.Option(min=0.1, help="objective: mean lag of the gateway's event loop in ms, at most")
    ] = 50.0,
    delay_ms: Annotated[
        float, typer.Option(min=1, help="objective: 99th percentile of the delay from acceptance to a viewer in ms, at most")
    ] = 1000.0,
    skipped: Annotated[
        float, typer.Option(min=0, max=1, help="objective: share of pushes that slow viewers miss, at most")
    ] = 0.001,
    missing: Annotated[
        float, typer.Option(min=0, max=1, help="objective: share of viewers that should be in a room and are not, at most")
    ] = 0.01,
    client: Annotated[
        float,
        typer.Option(min=0, max=1, help="busy share of the load's own cores and processes, above which a step proves nothing"),
    ] = 0.85,
    applied: Annotated[
        float, typer.Option(min=0, max=1, help="share of messages that must be accepted; below it a step proves nothing")
    ] = 0.9,
    limits: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="FILE", help="write the limits found to this JSON file, for LIVEROOM_LIMITS"),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="FILE", help="write an HTML report to this file; its plots need liveroom[plots]"),
    ] = None,
) -> None:
    """Measure how much one gateway carries.

    Runs a system of its own, with the gateway alone on one processor core and the load on the
    others, and raises the load until an objective breaks. Needs two cores and many minutes.

    Exit code 1 if the result is inconclusive (nothing broke, or the load was not what --client and
    --applied demand), or if a viewer that checks everything found an error.
    """
    with explained("liveroom", "demo"):
        from cli.loadtest.command import LoadOptions, run_loadtest  # noqa: PLC0415
        from cli.loadtest.knee import Objectives, Trust  # noqa: PLC0415 - see the package

    options = LoadOptions(
        ramps=ramp or list(RampKind),
        runs=runs,
        first=first,
        most=most,
        messages_per_s=messages_per_s,
        rooms=rooms,
        factor=factor,
        step_s=step,
        objectives=Objectives(cpu, loop_lag_ms, delay_ms, skipped, missing),
        trust=Trust(client=client, applied=applied),
        limits_file=limits,
        report_file=report,
    )
    run_command(run_loadtest(options))


def top(
    once: Annotated[bool, typer.Option("--once", help="print it once and exit, as happens without a terminal")] = False,
    duration: Annotated[float | None, typer.Option(min=1, metavar="SECONDS", help="end after this time")] = None,
    user: Annotated[str, typer.Option(metavar="TEXT", help="operator, as an identity service names it")] = "operator",
    scheduler: Scheduler = "",
    autoscaler: Autoscaler = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Show gateways, hot rooms and delays, live.

    Also shows the pool's last decision, where there is an autoscaler. Runs until Ctrl-C.
    """
    from cli.endpoints import find_endpoints  # noqa: PLC0415 - see the package
    from cli.top import run_top  # noqa: PLC0415

    async def run() -> int:
        endpoints = find_endpoints(scheduler=scheduler, autoscaler=autoscaler, token_key=token_key, token=token)
        return await run_top(endpoints, user, once=once, duration_s=duration)

    run_command(run())


def pool(
    act: Annotated[
        PoolAct, typer.Argument(metavar="[show|decisions|pause|resume|drain|add]", help="default: show")
    ] = PoolAct.SHOW,
    what: Annotated[
        str, typer.Argument(metavar="[GATEWAY|N]", help="the gateway to drain, or how many to add; default: add 1")
    ] = "",
    lasting: Annotated[
        str, typer.Option("--for", metavar="TIME", help="add: how long they stay at least: 30m, 2h; default: 1h")
    ] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="add: until when they stay at least: 2026-11-24T23:00+08:00")] = "",
    why: Annotated[str, typer.Option(help="drain: the reason, for the logs")] = "",
    user: Annotated[
        str, typer.Option(metavar="TEXT", help="operator, as an identity service names it; orders show the user id")
    ] = "operator",
    autoscaler: Autoscaler = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Show the pool of gateways; pause or resume it, drain a gateway, add some.

    While the pool is paused, the autoscaler still decides and shows its decisions, but starts,
    drains and stops no gateway. It still restarts a gateway that crashed.

    drain: the gateway takes nobody more and moves its viewers; the pool starts another one in its
    place and stops it once it is empty. add: so many more gateways start at once, and the pool does
    not shrink below that until the time is over; add 0 ends it.

    Any autoscaler answers, and takes an order for the one that leads. Orders hold for every
    autoscaler that leads later.
    """
    from cli.endpoints import find_endpoints  # noqa: PLC0415
    from cli.pool import PoolOrder, run_pool  # noqa: PLC0415 - see the package

    async def run() -> int:
        order = PoolOrder(act, what, lasting, until, why)
        return await run_pool(order, find_endpoints(autoscaler=autoscaler, token_key=token_key, token=token), user)

    run_command(run())
