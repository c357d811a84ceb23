"""The commands and their options, as a person types them.

Owns names, options, environment variables and help, all pinned: scripts rely on them. A command's
work is in the module of its name, which is imported only when the command runs, so that `liveroom
--help` is quick.
"""

from pathlib import Path
from typing import Annotated, Final

import typer

from cli.choices import PoolAct, RampKind, RoleName
from cli.options import (
    Autoscaler,
    Edges,
    Ingress,
    Kafka,
    KeepLogs,
    OpenPage,
    PagePort,
    Partitions,
    Prefix,
    Room,
    RoomArgument,
    Scheduler,
    Token,
    TokenKey,
)
from cli.running import run as run_command
from liveroom import __version__
from liveroom.extras import explained

app: Final = typer.Typer(
    name="liveroom",
    help="A live room on the real Kafka: danmaku, gifts and likes to every viewer. Start with: liveroom demo",
    epilog="Exit codes: 0 success; 1 the command ran and found something wrong, as its help defines; 2 a wrong option,"
    " or something that it needs is missing, which one line names; 130 Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

VIEWERS: Final = 50
SURGE_VIEWERS: Final = 400


def _version(wanted: bool) -> None:
    if wanted:
        print(f"liveroom {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Run a live room on the real Kafka: danmaku, gifts and likes to every viewer."""
    del version


@app.command()
def demo(
    viewers: Annotated[
        int | None,
        typer.Option(
            min=1, max=20_000, help="viewers that join through the scheduler; default: 50, or 400 at the peak of --surge"
        ),
    ] = None,
    rooms: Annotated[
        int, typer.Option(min=1, max=1000, help="number of rooms; each gets the same danmaku and its share of the viewers")
    ] = 1,
    speed: Annotated[float, typer.Option(min=0.1, max=1000, help="playback speed, as a multiple of the danmaku's own")] = 1.0,
    edges: Edges = 2,
    partitions: Partitions = 16,
    seed: Annotated[
        int | None, typer.Option(help="seed of the gifts and likes that are mixed in; default: a random one, which is printed")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="danmaku file (Bilibili's XML) to play; default: 1,111 danmaku that come with liveroom",
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="end after this time, with exit code 0 only if all viewers joined, danmaku and gifts reached them,"
            " nothing was lost or doubled, and no process died",
        ),
    ] = None,
    surge: Annotated[
        bool,
        typer.Option(
            "--surge",
            help="play a crowd that comes and leaves, with an autoscaler: gateways start, viewers even out, gateways drain and"
            " stop; ends by itself, with exit codes as for --duration",
        ),
    ] = False,
    page_port: PagePort = 8700,
    open_page: OpenPage = False,
    keep_logs: KeepLogs = False,
) -> None:
    """Run and show everything on this machine.

    Starts Kafka, the services and viewers, and plays real danmaku with gifts and likes. The first
    run downloads Kafka (43 MB). KAFKA_BOOTSTRAP=host:port uses that cluster instead.

    Keys: k kills a gateway, whose viewers reconnect elsewhere, and which starts again after 3
    seconds; q ends the demo.

    Exit code 1 if a process died, or if what --duration or --surge demands did not hold.
    """
    with explained("liveroom", "demo"):
        from cli.demo.command import DemoOptions, run_demo  # noqa: PLC0415 - see the module's docstring

    options = DemoOptions(
        viewers=viewers or (SURGE_VIEWERS if surge else VIEWERS),
        rooms=rooms,
        speed=speed,
        edges=edges,
        partitions=partitions,
        seed=seed,
        file=file,
        duration_s=duration,
        page_port=page_port,
        open_page=open_page,
        keep_logs=keep_logs,
        surge=surge,
    )
    run_command(run_demo(options))


@app.command()
def up(
    edges: Edges = 2,
    partitions: Partitions = 16,
    data: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="keep Kafka's data in this folder, for the next start; default: a temporary folder"),
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="prefix of the topics' names")] = "",
    policy: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="let an autoscaler start and stop gateways by this policy (TOML), instead of --edges",
        ),
    ] = None,
    with_prometheus: Annotated[
        bool,
        typer.Option(
            "--with-prometheus", help="start a Prometheus (apt install prometheus) that scrapes all services and has the alerts"
        ),
    ] = False,
    page_port: PagePort = 8700,
    open_page: OpenPage = False,
    keep_logs: KeepLogs = False,
) -> None:
    """Run Kafka and the services until Ctrl-C.

    There are no viewers and no danmaku: add them with `liveroom watch`, `send` and `replay`, which
    find the running system by themselves. The first run downloads Kafka (43 MB).
    KAFKA_BOOTSTRAP=host:port uses that cluster instead.

    Exit code 1 if a process died.
    """
    with explained("liveroom", "demo"):
        from cli.up import UpOptions, run_up  # noqa: PLC0415 - see the module's docstring

    options = UpOptions(
        edges=edges,
        partitions=partitions,
        data=data,
        prefix=prefix,
        page_port=page_port,
        open_page=open_page,
        keep_logs=keep_logs,
        policy=policy,
        with_prometheus=with_prometheus,
    )
    run_command(run_up(options))


@app.command()
def doctor(kafka: Kafka = "", prefix: Prefix = None) -> None:
    """Check what this machine has and lacks.

    Checks Python, packages, Java, Kafka's jars, limits, memory, ports, and a Kafka where one is
    given. Changes nothing. Each problem comes with what to do.

    Exit code 1 if demo and up cannot run.
    """
    from cli.doctor import show_health  # noqa: PLC0415 - see the module's docstring

    run_command(show_health(kafka, prefix))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="danmaku file in Bilibili's XML format")],
    room: Room,
    speed: Annotated[float, typer.Option(min=0.1, max=10_000, help="playback speed, as a multiple of the file's own")] = 1.0,
    seed: Annotated[
        int | None, typer.Option(help="seed of the gifts and likes that are mixed in; default: a random one, which is printed")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="send the danmaku only, without gifts and likes")] = False,
    ingress: Ingress = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Play a danmaku file into a room.

    Sends every danmaku when it is due, with gifts and likes mixed in, and prints how many were
    accepted, refused (by code) and unknown.

    Exit code 1 if any was not accepted, or the file has none that can be used.
    """
    from cli.endpoints import check_room, find_endpoints  # noqa: PLC0415
    from cli.replay import run_replay  # noqa: PLC0415 - see the module's docstring

    async def run() -> int:
        endpoints = find_endpoints(ingress=ingress, token_key=token_key, token=token)
        return await run_replay(file, check_room(room), endpoints, speed=speed, seed=seed, plain=plain)

    run_command(run())


@app.command()
def watch(
    room: RoomArgument,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object a line, as viewers receive it")] = False,
    duration: Annotated[float | None, typer.Option(min=0.1, metavar="SECONDS", help="end after this time")] = None,
    user: Annotated[str, typer.Option(metavar="ID", help="user id to watch as")] = "watcher",
    scheduler: Scheduler = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Print what a viewer of a room sees.

    Joins the room through the scheduler and runs until Ctrl-C. Without a key or token you watch as
    a guest.

    Exit code 1 if the gateway closed the connection for good.
    """
    from cli.endpoints import check_room, find_endpoints  # noqa: PLC0415
    from cli.watch import run_watch  # noqa: PLC0415 - see the module's docstring

    async def run() -> int:
        endpoints = find_endpoints(scheduler=scheduler, token_key=token_key, token=token)
        return await run_watch(check_room(room), endpoints, user=user, as_json=as_json, duration_s=duration)

    run_command(run())


@app.command()
def send(
    room: RoomArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="the danmaku: 1 to 200 characters")],
    user: Annotated[str, typer.Option(metavar="ID", help="user id to send as")] = "me",
    name: Annotated[str, typer.Option(help="name that viewers see")] = "",
    ingress: Ingress = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Send one danmaku and print the answer.

    Exit code 1 if it was refused, or if no answer came.
    """
    from cli.endpoints import check_room, find_endpoints  # noqa: PLC0415
    from cli.send import run_send  # noqa: PLC0415 - see the module's docstring

    async def run() -> int:
        endpoints = find_endpoints(ingress=ingress, token_key=token_key, token=token)
        return await run_send(check_room(room), text, endpoints, user=user, name=name)

    run_command(run())


@app.command()
def token(
    user: Annotated[str, typer.Option(metavar="ID", help="user id: 1 to 64 of A-Z a-z 0-9 _ . : @ -")],
    role: Annotated[RoleName, typer.Option(help="what the user may do")] = RoleName.VIEWER,
    name: Annotated[str, typer.Option(help="name that viewers see")] = "",
    level: Annotated[int, typer.Option(min=0, max=255, help="user level; thinning drops lower levels first")] = 0,
    room: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="room that the token is for, repeatable; default: every room")
    ] = None,
    ttl: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="validity of the token")] = 3600,
    token_key: TokenKey = "",
) -> None:
    """Print a user token.

    For curl, scripts and tests. In production your identity service signs the tokens.
    """
    from msgspec.structs import replace  # noqa: PLC0415 - see the module's docstring

    from cli.endpoints import check_room, find_endpoints, make_user  # noqa: PLC0415

    async def run() -> int:
        who = replace(make_user(user, role.value, name, level), rooms=tuple(check_room(one) for one in room or ()))
        print(find_endpoints(token_key=token_key).token_for(who, ttl))
        return 0

    run_command(run())


@app.command()
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
    from cli.simulate.command import simulate as run  # noqa: PLC0415 - see the module's docstring

    raise typer.Exit(run(scenarios or [], policy, seed, plot))


@app.command()
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
        from cli.loadtest.knee import Objectives, Trust  # noqa: PLC0415 - see the module's docstring

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


@app.command()
def canary(
    interval: Annotated[float, typer.Option(min=0.05, metavar="SECONDS", help="time between two gifts")] = 1.0,
    duration: Annotated[float | None, typer.Option(min=1, metavar="SECONDS", help="end after this time")] = None,
    metrics_port: Annotated[int, typer.Option(min=0, max=65_535, help="port of /metrics, 0 for any")] = 0,
    ingress: Ingress = "",
    scheduler: Scheduler = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Watch every gateway from a viewer's side.

    Joins a room of its own at every gateway, sends marked gifts into it, and shows for each gateway
    which ones were lost or out of order, and the delays. Signs, or needs, an operator's token. As
    a service: python -m viewer.canary.

    Exit code 1 if a gift was lost or came out of order, or if none came.
    """
    from cli.canary import run_canary  # noqa: PLC0415 - see the module's docstring
    from cli.endpoints import find_endpoints  # noqa: PLC0415

    async def run() -> int:
        endpoints = find_endpoints(ingress=ingress, scheduler=scheduler, token_key=token_key, token=token)
        return await run_canary(endpoints, interval_s=interval, duration_s=duration, metrics_port=metrics_port)

    run_command(run())


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="print it once and exit, as happens without a terminal")] = False,
    duration: Annotated[float | None, typer.Option(min=1, metavar="SECONDS", help="end after this time")] = None,
    user: Annotated[str, typer.Option(metavar="ID", help="operator's user id")] = "operator",
    scheduler: Scheduler = "",
    autoscaler: Autoscaler = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Show gateways, hot rooms and delays, live.

    Also shows the pool's last decision, where there is an autoscaler. Runs until Ctrl-C.
    """
    from cli.endpoints import find_endpoints  # noqa: PLC0415 - see the module's docstring
    from cli.top import run_top  # noqa: PLC0415

    async def run() -> int:
        endpoints = find_endpoints(scheduler=scheduler, autoscaler=autoscaler, token_key=token_key, token=token)
        return await run_top(endpoints, user, once=once, duration_s=duration)

    run_command(run())


@app.command()
def pool(
    act: Annotated[PoolAct, typer.Argument(metavar="[show|pause|resume|decisions]", help="default: show")] = PoolAct.SHOW,
    user: Annotated[str, typer.Option(metavar="ID", help="operator's user id; a pause shows it")] = "operator",
    autoscaler: Autoscaler = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Show, pause or resume the pool of gateways.

    While the pool is paused, the autoscaler still decides and shows its decisions, but starts,
    drains and stops no gateway. It still restarts a gateway that crashed. A pause holds for every
    autoscaler that leads, until somebody resumes the pool.
    """
    from cli.endpoints import find_endpoints  # noqa: PLC0415
    from cli.pool import run_pool  # noqa: PLC0415 - see the module's docstring

    async def run() -> int:
        return await run_pool(act, find_endpoints(autoscaler=autoscaler, token_key=token_key, token=token), user)

    run_command(run())


@app.command()
def topics(
    kafka: Kafka = "",
    prefix: Prefix = None,
    partitions: Annotated[
        int | None, typer.Option(min=1, max=1024, help="expected number of partitions; default: LIVEROOM_KAFKA__PARTITIONS")
    ] = None,
) -> None:
    """Show the topics and the partitions' owners.

    For each topic: its partitions and offsets. For each partition of the broadcast queue: its owner
    and epoch, the age of the claim, the lag behind the uplink, the newest snapshot, and whether the
    last record is void.
    """
    from cli.topics import show_topics  # noqa: PLC0415 - see the module's docstring

    run_command(show_topics(kafka, prefix, partitions))
