"""Commands for a room of a running system: replay, watch, send, token, canary."""

from pathlib import Path
from typing import Annotated

import typer

from cli.choices import RoleName
from cli.options import (
    Ingress,
    Room,
    RoomArgument,
    Scheduler,
    Token,
    TokenKey,
)
from cli.running import run as run_command


def replay(
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="danmaku file: Bilibili's XML, its segments in protobuf, or JSON"),
    ],
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

    A line that cannot be used is skipped and counted. The encoding is found out; of a file that is
    cut off, what came is played.

    It ends at once where the token is refused, or no ingress answers, before anything is accepted.

    Exit code 1 if any was not accepted, or the file has none that can be used.
    """
    from cli.endpoints import check_room, find_endpoints  # noqa: PLC0415
    from cli.replay import run_replay  # noqa: PLC0415 - see the package

    async def run() -> int:
        endpoints = find_endpoints(ingress=ingress, token_key=token_key, token=token)
        return await run_replay(file, check_room(room), endpoints, speed=speed, seed=seed, plain=plain)

    run_command(run())


def watch(
    room: RoomArgument,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object a line, as viewers receive it")] = False,
    duration: Annotated[float | None, typer.Option(min=0.1, metavar="SECONDS", help="end after this time")] = None,
    user: Annotated[str, typer.Option(metavar="TEXT", help="user to watch as, as an identity service names it")] = "watcher",
    scheduler: Scheduler = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Print what a viewer of a room sees.

    Joins the room through the scheduler and runs until Ctrl-C. Without a key or token you watch as
    a guest.

    Exit code 1 if a service refused you or closed the connection for good, or you were in the room
    at no time; 2 if no service answered at first. A connection that is lost later is made again.
    """
    from cli.endpoints import check_room, find_endpoints  # noqa: PLC0415
    from cli.watch import run_watch  # noqa: PLC0415 - see the package

    async def run() -> int:
        endpoints = find_endpoints(scheduler=scheduler, token_key=token_key, token=token)
        return await run_watch(check_room(room), endpoints, user=user, as_json=as_json, duration_s=duration)

    run_command(run())


def send(
    room: RoomArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="the danmaku: 1 to 200 characters")],
    user: Annotated[str, typer.Option(metavar="TEXT", help="user to send as, as an identity service names it")] = "me",
    name: Annotated[str, typer.Option(help="name that viewers see")] = "",
    ingress: Ingress = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Send one danmaku and print the answer.

    Exit code 1 if it was refused, or if no answer came.
    """
    from cli.endpoints import check_room, find_endpoints  # noqa: PLC0415
    from cli.send import run_send  # noqa: PLC0415 - see the package

    async def run() -> int:
        endpoints = find_endpoints(ingress=ingress, token_key=token_key, token=token)
        return await run_send(check_room(room), text, endpoints, user=user, name=name)

    run_command(run())


def token(
    user: Annotated[str, typer.Option(metavar="TEXT", help="user as an identity service names it: 1 to 128 bytes of UTF-8")],
    role: Annotated[RoleName, typer.Option(help="what the user may do")] = RoleName.VIEWER,
    name: Annotated[str, typer.Option(help="name that viewers see")] = "",
    level: Annotated[int, typer.Option(min=0, max=255, help="user level; thinning drops lower levels first")] = 0,
    room: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID", help="room that the token is for, repeatable; streamers and moderators need it; default: every room"
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="ID", help="device that the token is for: 1 to 64 of A-Z a-z 0-9 _ . : -; default: none")
    ] = "",
    ttl: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="validity of the token")] = 3600,
    token_key: TokenKey = "",
) -> None:
    """Print a user token.

    For curl, scripts and tests. In production your identity service signs the tokens.
    """
    from msgspec.structs import replace  # noqa: PLC0415 - see the package

    from cli.endpoints import UsageError, check_device, check_room, find_endpoints, make_user  # noqa: PLC0415
    from liveroom.kinds import HOSTS_OF_ROOMS  # noqa: PLC0415

    async def run() -> int:
        rooms = tuple(check_room(one) for one in room) if room else None
        who = replace(make_user(user, role.value, name, level), rooms=rooms, device=check_device(device))
        if rooms is None and who.role in HOSTS_OF_ROOMS:
            raise UsageError(f"--role {who.role.value} needs --room: a host's token is for the rooms that it names")
        print(find_endpoints(token_key=token_key).token_for(who, ttl))
        return 0

    run_command(run())


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
    from cli.canary import run_canary  # noqa: PLC0415 - see the package
    from cli.endpoints import find_endpoints  # noqa: PLC0415

    async def run() -> int:
        endpoints = find_endpoints(ingress=ingress, scheduler=scheduler, token_key=token_key, token=token)
        return await run_canary(endpoints, interval_s=interval, duration_s=duration, metrics_port=metrics_port)

    run_command(run())
