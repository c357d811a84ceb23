"""The commands and their options, as a person types them.

Owns names, options, environment variables and help, all pinned: scripts rely on them. A command's
work is in the module of its name, which is imported only when the command runs, so that `liveroom
--help` is quick.
"""

from typing import Annotated, Final

import typer

from cli.commands import pool, records, room, system, user
from cli.numbers import Numbers
from cli.unknown import tell_unknown
from liveroom import __version__

app: Final = typer.Typer(
    name="liveroom",
    help="A live room on the real Kafka: danmaku, gifts and likes to every viewer. Start with: liveroom demo",
    epilog="Exit codes: 0 success; 1 the command ran and found something wrong, as its help defines, or nobody reads its"
    " output; 2 a wrong option, or something that it needs is missing, which one line names; 130 Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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
    tell_unknown()


for command in (
    system.demo,
    system.up,
    system.doctor,
    room.watch,
    room.send,
    room.replay,
    room.token,
    room.canary,
    user.revoke,
    user.connections,
    user.why,
    system.topics,
    records.dead_letters,
    system.keys,
    system.acls,
    system.manifests,
    pool.top,
    pool.pool,
    pool.simulate,
    pool.loadtest,
):
    app.command(cls=Numbers if command is pool.pool else None)(command)
