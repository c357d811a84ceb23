"""Commands about a user of a running system: revoke, connections, why."""

from typing import Annotated

import typer

from cli.options import Ingress, Token, TokenKey
from cli.running import explained_exit
from cli.running import run as run_command

Operator = Annotated[str, typer.Option(metavar="TEXT", help="operator, as an identity service names it")]


def revoke(
    user: Annotated[str, typer.Argument(metavar="[USER]", help="user, as an identity service names it, or a user id")] = "",
    device: Annotated[str, typer.Option(metavar="ID", help="only tokens for this device of the user")] = "",
    issued_before: Annotated[
        int | None,
        typer.Option(min=0, metavar="SECONDS", help="only tokens issued before this Unix time; without USER: everybody's"),
    ] = None,
    why: Annotated[str, typer.Option(help="the reason, for the audit log")] = "",
    listed: Annotated[bool, typer.Option("--list", help="list the revocations in force")] = False,
    lift: Annotated[str, typer.Option(metavar="ID", help="lift the revocation with this id")] = "",
    operator: Operator = "operator",
    ingress: Ingress = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """Revoke tokens: of a user, of a device, of a time.

    Every service refuses them within a second, and gateways close their connections. A token that
    is issued later is valid.
    """
    from cli.endpoints import UsageError, find_endpoints  # noqa: PLC0415 - see the package
    from cli.revoke import run_lift, run_list, run_revoke  # noqa: PLC0415

    async def run() -> int:
        endpoints = find_endpoints(ingress=ingress, token_key=token_key, token=token)
        is_new = bool(user or device or issued_before is not None)
        if is_new + listed + bool(lift) > 1:
            raise UsageError("--list, --lift and what to revoke exclude each other")
        if listed:
            return await run_list(endpoints, operator)
        if lift:
            return await run_lift(endpoints, operator, lift)
        return await run_revoke(endpoints, operator, user, device=device, issued_before_s=issued_before, why=why)

    run_command(run())


def connections(
    user: Annotated[str, typer.Argument(metavar="USER", help="user, as an identity service names it, or a user id")],
    end: Annotated[bool, typer.Option("--end", help="end them; the user may come back, see `liveroom revoke`")] = False,
    operator: Operator = "operator",
    ingress: Ingress = "",
    token_key: TokenKey = "",
    token: Token = "",
) -> None:
    """List the connections of a user at all gateways.

    Exit code 1 if a gateway did not answer: the user may have more connections there.
    """
    from cli.connections import run_connections  # noqa: PLC0415 - see the package
    from cli.endpoints import find_endpoints  # noqa: PLC0415

    async def run() -> int:
        endpoints = find_endpoints(ingress=ingress, token_key=token_key, token=token)
        return await run_connections(endpoints, operator, user, end=end)

    run_command(run())


def why(
    request_id: Annotated[
        str,
        typer.Argument(metavar="[REQUEST_ID]", help="a request's id: `request_id` of a refusal, `X-Request-Id` of an answer"),
    ] = "",
    log: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="a log, - for standard input; may be repeated; default: your running demo's or up's"),
    ] = None,
    user: Annotated[
        str, typer.Option(metavar="USER", help="all lines about this user, as an identity service names it, or a user id")
    ] = "",
    log_key: Annotated[
        str,
        typer.Option(
            envvar="LIVEROOM_LOG_KEY",
            metavar="KEY",
            help="the services' key of users in logs; default: your running demo's or up's",
        ),
    ] = "",
) -> None:
    """Tell by the logs why a request was refused, or what happened to a user.

    Prints each log line with that id or user, what its event and code mean, and what to do.

    Exit code 1 if no line has it.
    """
    from cli.why import run_why  # noqa: PLC0415 - see the package

    with explained_exit():
        code = run_why(request_id, user, log_key, log or [])
    raise typer.Exit(code)
