"""Commands about records in Kafka: dead-letters."""

from pathlib import Path
from typing import Annotated

import typer

from cli.choices import LetterAct
from cli.options import Kafka, Prefix
from cli.running import run as run_command


def dead_letters(
    act: Annotated[LetterAct, typer.Argument(metavar="[show|send-again]", help="default: show")] = LetterAct.SHOW,
    *,
    code: Annotated[list[str] | None, typer.Option(metavar="CODE", help="only those with this reason, repeatable")] = None,
    room: Annotated[list[str] | None, typer.Option("--room", "-r", metavar="ID", help="only of this room, repeatable")] = None,
    kind: Annotated[list[str] | None, typer.Option(metavar="KIND", help="only with an item of this kind, repeatable")] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="only of this user, as an identity service names it, or a user id; repeatable"),
    ] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="only of this partition of uplink")] = None,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="only those since then: 10m, 2h, 2026-11-24T20:00+08:00; default: all, 7 days")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="at most so many, the newest")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="show: one JSON object a line, with the whole record")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="show: go on with those that come, until Ctrl-C")] = False,
    mended: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="send-again: send the records of these lines of --json, which you have corrected, instead of the letters' own",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="send-again: show what would be sent, and send nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="send-again: do not ask")] = False,
    kafka: Kafka = "",
    prefix: Prefix = None,
) -> None:
    """Show records of uplink that could not be used, or send them again.

    A line for each: when, where it is in uplink, code, room, kinds, user, id, size, and the reason.
    The settings of services reach a Kafka with passwords and TLS: LIVEROOM_KAFKA__USERNAME and so
    on, with the user liveroom-operator.

    send-again checks each record as a broadcaster of this version does, writes it to uplink under
    its room's key, in the right partition and with the same id, and marks its letter, so that the
    next run passes over it. It asks first.

    Exit code 1 if a record could not be sent, or if you did not agree.
    """
    from cli.dead_letters.command import options_of, run_send_again, run_show  # noqa: PLC0415 - see the package

    async def run() -> int:
        options = options_of(kafka, prefix, code, room, kind, user, partition, since, limit)
        if act is LetterAct.SHOW:
            options.refuse(act, {"--mended": mended, "--dry-run": dry_run, "--yes": yes})
            return await run_show(options, as_json=as_json, follow=follow)
        options.refuse(act, {"--json": as_json, "--follow": follow})
        return await run_send_again(options, mended, dry_run=dry_run, yes=yes)

    run_command(run())
