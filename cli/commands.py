"""The commands and their options: what a person types.

Owns names, options, environment variables and help, all pinned: scripts rely on them. What a
command does stands in the module of its noun and is imported only when it runs, so that `liveroom
--help` is quick.
"""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Final

import typer

from cli.choices import PoolAct, Ramp, RoleName
from liveroom import __version__
from liveroom.errors import ExplainedError
from liveroom.extras import explained

app: Final = typer.Typer(
    name="liveroom",
    help="A live room on the real Kafka: danmaku, gifts and likes to every viewer. Begin with: liveroom demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Ingress = Annotated[
    str, typer.Option(envvar="LIVEROOM_INGRESS_URL", metavar="URL", help="ingress to send to; default: your running demo or up")
]
Scheduler = Annotated[
    str, typer.Option(envvar="LIVEROOM_SCHEDULER_URL", metavar="URL", help="scheduler to ask; default: your running demo or up")
]
Autoscaler = Annotated[
    str,
    typer.Option(
        envvar="LIVEROOM_AUTOSCALER_URL", metavar="URL", help="autoscaler to ask; default: that of your running demo or up"
    ),
]
TokenKey = Annotated[
    str,
    typer.Option(
        envvar="LIVEROOM_TOKEN_KEY", metavar="KEY", help="key to sign user tokens with; default: that of your demo or up"
    ),
]
Token = Annotated[str, typer.Option(envvar="LIVEROOM_TOKEN", metavar="JWT", help="a ready-made user token, used as it is")]
Kafka = Annotated[
    str,
    typer.Option(envvar="KAFKA_BOOTSTRAP", metavar="HOST:PORT", help="the cluster; default: that of your running demo or up"),
]
Prefix = Annotated[
    str | None, typer.Option(metavar="TEXT", help="put before every topic's name; default: LIVEROOM_KAFKA__PREFIX")
]
Partitions = Annotated[int, typer.Option(min=1, max=1024, help="partitions rooms are spread over")]
Edges = Annotated[int, typer.Option(min=1, max=64, help="gateways")]
PagePort = Annotated[int, typer.Option(min=0, max=65_535, help="port of the page; a free one if it is taken, 0: any")]
OpenPage = Annotated[bool, typer.Option("--open", help="show the page in your browser")]
KeepLogs = Annotated[bool, typer.Option("--keep-logs", help="keep the folder with the services' logs")]
Room = Annotated[str, typer.Option("--room", "-r", metavar="ID", help="1 to 64 of A-Z a-z 0-9 _ -")]
RoomArgument = Annotated[str, typer.Argument(metavar="ROOM", help="1 to 64 of A-Z a-z 0-9 _ -")]


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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version and end")
    ] = False,
) -> None:
    """Show a live room on the real Kafka: danmaku, gifts and likes to every viewer."""
    del version


@app.command()
def demo(
    viewers: Annotated[
        int | None,
        typer.Option(min=1, max=20_000, help="viewers that join through the scheduler; default: 50, with --surge 400 at most"),
    ] = None,
    rooms: Annotated[int, typer.Option(min=1, max=1000, help="rooms, each with the same danmaku and its share of viewers")] = 1,
    speed: Annotated[float, typer.Option(min=0.1, max=1000, help="times the danmaku's own timing")] = 1.0,
    edges: Edges = 2,
    partitions: Partitions = 16,
    seed: Annotated[
        int | None, typer.Option(help="of the gifts and likes mixed in; printed, so that a run can be repeated")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="danmaku XML to play; default: the 1,111 that come with us")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="end by itself; exit code 0 only if all viewers joined, danmaku and gifts were seen,"
            " nothing was lost or doubled and no process died",
        ),
    ] = None,
    surge: Annotated[
        bool,
        typer.Option(
            "--surge",
            help="viewers pour in, the pool of gateways grows, they even out, the crowd leaves, gateways are emptied and stop;"
            " ends by itself, exit code as with --duration",
        ),
    ] = False,
    page_port: PagePort = 8700,
    open_page: OpenPage = False,
    keep_logs: KeepLogs = False,
) -> None:
    """Run everything on this machine and show it: Kafka, services, viewers, real danmaku with gifts
    and likes.

    Keys: k kills a gateway (its viewers come back, it is started again after 3 s), q ends.
    KAFKA_BOOTSTRAP=host:port uses that cluster instead of a local one.
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
    _run(run_demo(options))


@app.command()
def up(
    edges: Edges = 2,
    partitions: Partitions = 16,
    data: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="keep Kafka's data in this folder, and go on from them at the next start"),
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="put before every topic's name")] = "",
    policy: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, metavar="FILE", help="have an autoscaler start and stop gateways by this policy, TOML"
        ),
    ] = None,
    with_prometheus: Annotated[
        bool,
        typer.Option(
            "--with-prometheus", help="start a Prometheus that scrapes all services (apt install prometheus), with our alerts"
        ),
    ] = False,
    page_port: PagePort = 8700,
    open_page: OpenPage = False,
    keep_logs: KeepLogs = False,
) -> None:
    """Run Kafka and the services, without danmaku and viewers, until Ctrl-C.

    While it runs, `liveroom send`, `watch`, `replay` and `topics` find it by themselves.
    KAFKA_BOOTSTRAP=host:port uses that cluster instead of a local one.
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
    _run(run_up(options))


@app.command()
def doctor(kafka: Kafka = "", prefix: Prefix = None) -> None:
    """Look at this machine and say what is missing, in plain words.

    Exit code 1 if something must be mended.
    """
    from cli.doctor import show_health  # noqa: PLC0415 - see the module's docstring

    _run(show_health(kafka, prefix))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="danmaku in Bilibili's XML format")],
    room: Room,
    speed: Annotated[float, typer.Option(min=0.1, max=10_000, help="times the file's own timing")] = 1.0,
    seed: Annotated[
        int | None, typer.Option(help="of the gifts and likes mixed in; printed, so that a run can be repeated")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="danmaku only, no gifts and likes")] = False,
    ingress: Ingress = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Send a danmaku file through ingress at its own timing times SPEED, with gifts and likes mixed
    in by a seed.

    Says how many were accepted, refused (by code) and unknown. Exit code 1 if any was not accepted.
    """
    from cli.endpoints import check_room, find_endpoints  # noqa: PLC0415
    from cli.replay import run_replay  # noqa: PLC0415 - see the module's docstring

    async def run() -> int:
        endpoints = find_endpoints(ingress=ingress, token_key=token_key, token=token)
        return await run_replay(file, check_room(room), endpoints, speed=speed, seed=seed, plain=plain)

    _run(run())


@app.command()
def watch(
    room: RoomArgument,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line, as viewers get them")] = False,
    duration: Annotated[float | None, typer.Option(min=0.1, metavar="SECONDS", help="end by itself")] = None,
    user: Annotated[str, typer.Option(metavar="ID", help="watch as this user")] = "watcher",
    scheduler: Scheduler = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Join a room through the scheduler and print what a viewer sees, until Ctrl-C."""
    from cli.endpoints import check_room, find_endpoints  # noqa: PLC0415
    from cli.watch import run_watch  # noqa: PLC0415 - see the module's docstring

    async def run() -> int:
        endpoints = find_endpoints(scheduler=scheduler, token_key=token_key, token=token)
        return await run_watch(check_room(room), endpoints, user=user, as_json=as_json, duration_s=duration)

    _run(run())


@app.command()
def send(
    room: RoomArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="up to 200 characters")],
    user: Annotated[str, typer.Option(metavar="ID", help="send as this user")] = "me",
    name: Annotated[str, typer.Option(help="what viewers see as the name")] = "",
    ingress: Ingress = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Send one danmaku. Prints the answer; exit code 1 if it was refused."""
    from cli.endpoints import check_room, find_endpoints  # noqa: PLC0415
    from cli.send import run_send  # noqa: PLC0415 - see the module's docstring

    async def run() -> int:
        endpoints = find_endpoints(ingress=ingress, token_key=token_key, token=token)
        return await run_send(check_room(room), text, endpoints, user=user, name=name)

    _run(run())


@app.command()
def token(
    user: Annotated[str, typer.Option(metavar="ID", help="1 to 64 of A-Z a-z 0-9 _ . : @ -")],
    role: Annotated[RoleName, typer.Option(help="what the user may do")] = RoleName.VIEWER,
    name: Annotated[str, typer.Option(help="what viewers see as the name")] = "",
    level: Annotated[int, typer.Option(min=0, max=255, help="higher levels are thinned last")] = 0,
    room: Annotated[list[str] | None, typer.Option(metavar="ID", help="good for this room only; may be given again")] = None,
    ttl: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="how long it is good for")] = 3600,
    token_key: TokenKey = "",
) -> None:
    """Print a user token, for curl and programs. In production an identity service signs them."""
    from msgspec.structs import replace  # noqa: PLC0415 - see the module's docstring

    from cli.endpoints import check_room, find_endpoints, make_user  # noqa: PLC0415

    async def run() -> int:
        who = replace(make_user(user, role.value, name, level), rooms=tuple(check_room(one) for one in room or ()))
        print(find_endpoints(token_key=token_key).token_for(who, ttl))
        return 0

    _run(run())


@app.command()
def simulate(
    scenarios: Annotated[list[str] | None, typer.Argument(metavar="[SCENARIO]...", help="which; default: all")] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="policy of the pool, TOML; default: the scenario's")
    ] = None,
    seed: Annotated[int, typer.Option(help="the same seed gives the same")] = 1,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="draw it: .svg, .png or .pdf (needs liveroom[plots])")
    ] = None,
) -> None:
    """Show what the pool would do: a star's room filling in a minute, a slow evening, failures.

    No Kafka, nothing is started.
    """
    from cli.simulate.command import simulate as run  # noqa: PLC0415 - see the module's docstring

    raise typer.Exit(run(scenarios or [], policy, seed, plot))


@app.command()
def loadtest(
    ramp: Annotated[
        list[Ramp] | None, typer.Option(help="what is raised; may be given again; default: all three, in turn")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=20, help="of each ramp; the median counts")] = 3,
    first: Annotated[int, typer.Option(min=10, help="viewers to begin with")] = 1000,
    most: Annotated[int, typer.Option(min=10, max=1_000_000, help="viewers to end at, if nothing breaks")] = 100_000,
    messages_per_s: Annotated[
        float, typer.Option(min=0.1, max=100_000, help="danmaku (and a gift in a hundred) a second, in all rooms together")
    ] = 100.0,
    rooms: Annotated[int, typer.Option(min=1, max=1000, help="rooms that viewers and danmaku are spread over")] = 1,
    factor: Annotated[float, typer.Option(min=1.01, max=10, help="each step is so many times the one before")] = 1.25,
    step: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="how long each step is looked at")] = 6.0,
    cpu: Annotated[float, typer.Option(min=0.01, max=1, help="objective: busy share of the gateway's core")] = 0.9,
    loop_lag_ms: Annotated[float, typer.Option(min=0.1, help="objective: how late the gateway's event loop is, mean")] = 50.0,
    delay_ms: Annotated[float, typer.Option(min=1, help="objective: from acceptance to a viewer, 99th percentile")] = 1000.0,
    skipped: Annotated[
        float, typer.Option(min=0, max=1, help="objective: share of pushes left out, and viewers closed, for being slow")
    ] = 0.001,
    missing: Annotated[
        float, typer.Option(min=0, max=1, help="objective: share of viewers that should be there and are not")
    ] = 0.01,
    client: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="how busy the load's own cores, or a process of the load, may be: above it proves nothing"
        ),
    ] = 0.85,
    applied: Annotated[
        float, typer.Option(min=0, max=1, help="share of what was to be said that must be accepted: below it proves nothing")
    ] = 0.9,
    limits: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="write what follows for gateways, JSON: LIVEROOM_LIMITS")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="write a report, HTML; plots need liveroom[plots]")
    ] = None,
) -> None:
    """Find out how much one gateway carries on this machine, by loading it until an objective
    breaks.

    Runs a system of its own, with the gateway alone on a processor core and the load on the others.
    Takes two cores, and many minutes. Exit code 1 if it is inconclusive (nothing broke, or the load
    itself was not what --client and --applied ask for) or if a viewer that checks everything found
    something wrong.
    """
    with explained("liveroom", "demo"):
        from cli.loadtest.command import LoadOptions, run_loadtest  # noqa: PLC0415
        from cli.loadtest.knee import Kind, Objectives, Trust  # noqa: PLC0415 - see the module's docstring

    options = LoadOptions(
        ramps=[Kind(each.value) for each in ramp or Ramp],
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
    _run(run_loadtest(options))


@app.command()
def canary(
    interval: Annotated[float, typer.Option(min=0.05, metavar="SECONDS", help="how often a gift is sent")] = 1.0,
    duration: Annotated[float | None, typer.Option(min=1, metavar="SECONDS", help="end by itself")] = None,
    metrics_port: Annotated[int, typer.Option(min=0, max=65_535, help="port of /metrics; 0: any")] = 0,
    ingress: Ingress = "",
    scheduler: Scheduler = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Be a viewer at every gateway, send marked gifts into a hidden room, and see whether, when and
    in which order they come.

    Needs an operator's token. Exit code 1 if anything was lost or came out of order, or nothing
    came. As a service: python -m viewer.canary.
    """
    from cli.canary import run_canary  # noqa: PLC0415 - see the module's docstring
    from cli.endpoints import find_endpoints  # noqa: PLC0415

    async def run() -> int:
        endpoints = find_endpoints(ingress=ingress, scheduler=scheduler, token_key=token_key, token=token)
        return await run_canary(endpoints, interval_s=interval, duration_s=duration, metrics_port=metrics_port)

    _run(run())


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="show it once and end, as without a terminal")] = False,
    duration: Annotated[float | None, typer.Option(min=1, metavar="SECONDS", help="end by itself")] = None,
    user: Annotated[str, typer.Option(metavar="ID", help="look as this operator")] = "operator",
    scheduler: Scheduler = "",
    autoscaler: Autoscaler = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Show gateways, the rooms with most viewers, delays and the pool's decisions, live, until
    Ctrl-C.
    """
    from cli.endpoints import find_endpoints  # noqa: PLC0415 - see the module's docstring
    from cli.top import run_top  # noqa: PLC0415

    async def run() -> int:
        endpoints = find_endpoints(scheduler=scheduler, autoscaler=autoscaler, token_key=token_key, token=token)
        return await run_top(endpoints, user, once=once, duration_s=duration)

    _run(run())


@app.command()
def pool(
    act: Annotated[PoolAct, typer.Argument(metavar="[show|pause|resume|decisions]", help="default: show")] = PoolAct.SHOW,
    user: Annotated[str, typer.Option(metavar="ID", help="do it as this operator")] = "operator",
    autoscaler: Autoscaler = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Show the pool of gateways and what was decided about it, or pause and resume it.

    While it is paused, decisions are still made and shown, but no gateway is started, emptied or
    stopped; one that crashes is started again. A pause holds for whichever autoscaler leads, until
    it is resumed.
    """
    from cli.endpoints import find_endpoints  # noqa: PLC0415
    from cli.pool import run_pool  # noqa: PLC0415 - see the module's docstring

    async def run() -> int:
        return await run_pool(act, find_endpoints(autoscaler=autoscaler, token_key=token_key, token=token), user)

    _run(run())


@app.command()
def topics(
    kafka: Kafka = "",
    prefix: Prefix = None,
    partitions: Annotated[
        int | None, typer.Option(min=1, max=1024, help="expected; default: LIVEROOM_KAFKA__PARTITIONS")
    ] = None,
) -> None:
    """Show the topics, and who rules the queue.

    Of every topic how far it goes. Of every partition of the broadcast queue: who rules it and its
    epoch, how long ago it was claimed (or the claim renewed), how far it is behind the uplink, its
    newest snapshot, and whether its last record is void.
    """
    from cli.topics import show_topics  # noqa: PLC0415 - see the module's docstring

    _run(show_topics(kafka, prefix, partitions))


def _run(work: Coroutine[None, None, int]) -> None:
    """Run a command and exit with its code; an error that explains itself is one line."""
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        code = 130
    except ExplainedError as error:
        print(f"liveroom: {error}", file=sys.stderr)
        code = 2
    raise typer.Exit(code)
