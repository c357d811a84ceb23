"""Commands that run a system on this machine, check it, or make its keys and rights.

They are demo, up, doctor, topics, keys, acls and manifests.
"""

from pathlib import Path
from typing import Annotated, Final

import typer

from cli.options import (
    Edges,
    Kafka,
    KeepLogs,
    OpenPage,
    PagePort,
    Partitions,
    Prefix,
)
from cli.running import explained_exit
from cli.running import run as run_command
from liveroom.extras import explained

VIEWERS: Final = 50
SURGE_VIEWERS: Final = 400


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
            help="danmaku file to play (Bilibili's XML, its segments, JSON); default: 1,111 danmaku that come with liveroom",
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
        from cli.demo.command import DemoOptions, run_demo  # noqa: PLC0415 - see the package

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


def up(
    edges: Edges = 2,
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="partitions of the topics that hold rooms; default: LIVEROOM_KAFKA__PARTITIONS, else 16"
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="keep Kafka's data in this folder, for the next start; default: a temporary folder"),
    ] = None,
    prefix: Prefix = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="let pages of this origin enter, connect and send, as in http://localhost:5173; repeatable, beside"
            " LIVEROOM_ORIGINS",
        ),
    ] = None,
    token_key: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            help="HS256 key of user tokens, at least 32 bytes, as your identity service has it; default: LIVEROOM_TOKEN_KEY,"
            " which other users of this machine do not see, else a new one",
        ),
    ] = "",
    token_keys_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JWK Set with the keys of your identity service; user tokens that the pages and commands sign count too",
        ),
    ] = None,
    ports: Annotated[
        int,
        typer.Option(
            metavar="FIRST",
            min=0,
            max=60_000,
            help="ports by the same rule at each start: ingress FIRST+1, scheduler +2, autoscaler +3, gateways from +10,"
            " internal ports 1000 above these, Kafka +1092; 0: any free ones",
        ),
    ] = 8000,
    show_env: Annotated[
        bool,
        typer.Option(
            "--env",
            help="start nothing: print the addresses and the key of your running up or demo as exports of a shell, for"
            ' eval "$(liveroom up --env)"',
        ),
    ] = False,
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

    The services take every LIVEROOM_ setting, from the environment and the files. Where one
    contradicts what this command sets, it says so and starts nothing.

    Exit code 1 if a process died.
    """
    if show_env:
        from cli.exports import show_exports  # noqa: PLC0415 - see the package

        with explained_exit():
            show_exports()
        return
    with explained("liveroom", "demo"):
        from cli.up import UpOptions, run_up  # noqa: PLC0415 - see the package
        from devstack.wishes import Options  # noqa: PLC0415

    options = UpOptions(
        edges=edges,
        data=data,
        page_port=page_port,
        open_page=open_page,
        keep_logs=keep_logs,
        first_port=ports,
        wanted=Options(prefix, partitions, origin or (), token_key, token_keys_file),
        policy=policy,
        with_prometheus=with_prometheus,
    )
    run_command(run_up(options))


def doctor(kafka: Kafka = "", prefix: Prefix = None) -> None:
    """Check what this machine has and lacks.

    Checks Python, packages, Java, Kafka's jars, limits, memory, ports, and a Kafka where one is
    given. Changes nothing. Each problem comes with what to do.

    Exit code 1 if demo and up cannot run.
    """
    from cli.doctor import show_health  # noqa: PLC0415 - see the package

    run_command(show_health(kafka, prefix))


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
    from cli.topics import show_topics  # noqa: PLC0415 - see the package

    run_command(show_topics(kafka, prefix, partitions))


def keys(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="folder of the key files")],
    *,
    add: Annotated[bool, typer.Option("--add", help="add a key that does not sign yet")] = False,
    first: Annotated[str, typer.Option(metavar="ID", help="let this key sign")] = "",
    remove: Annotated[str, typer.Option(metavar="ID", help="remove this key, which no longer signs")] = "",
    tokens: Annotated[bool, typer.Option("--tokens", help="make a key of user tokens instead")] = False,
) -> None:
    """Make or rotate the keys of entry tickets (Ed25519), or make a key of user tokens (RS256).

    Writes ticket_signing_keys.json, the private keys for the scheduler, and
    ticket_public_keys.json, the public keys for the gateways. A rotation takes --add, --first and
    --remove, and between them the time until all services have read the files.

    With --tokens writes token_signing_key.pem, the private key for your identity service, and
    token_keys.json, the JWK Set for LIVEROOM_TOKEN_KEYS_FILE.
    """
    if add + bool(first) + bool(remove) + tokens > 1:
        raise typer.BadParameter("use one of --add, --first, --remove and --tokens at a time")
    with explained("liveroom", "server"):
        from cli import keys as files  # noqa: PLC0415 - see the package
    from liveroom.chance import SystemChance  # noqa: PLC0415

    with explained_exit():
        if add:
            print(files.add_key(folder, SystemChance()))
        elif first:
            print(files.put_first(folder, first))
        elif remove:
            print(files.remove_key(folder, remove))
        elif tokens:
            print(files.make_token_key(folder))
        else:
            print(files.make_keys(folder, SystemChance()))


def acls(
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="prefix of the topics' and groups' names")] = "",
    user_prefix: Annotated[str, typer.Option(metavar="TEXT", help="prefix of the Kafka users' names")] = "liveroom-",
    writer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="USER",
            help="print the rules of this Kafka user alone, who writes to the uplink; may be given several times",
        ),
    ] = None,
) -> None:
    """Print the access rules of Kafka, as commands of Kafka's tools.

    Each service has a Kafka user of its own, which may do what the service does and nothing else.
    So has each service of yours that writes to the uplink (--writer). The commands expect the
    brokers in $KAFKA and an administrator's settings in admin.properties. They connect to nothing
    by themselves: liveroom acls | sh
    """
    from liveroom.access import commands, rules, writer_rules  # noqa: PLC0415 - see the package

    for line in commands(writer_rules(writer, prefix) if writer else rules(prefix, user_prefix)):
        print(line)


def manifests(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="YAML of manifests and Secrets; - or none: standard input")
    ] = None,
) -> None:
    """Check manifests and Secrets before they are applied.

    Reads what `kubectl kustomize` renders and what `kubectl get secret --output yaml` prints, and
    gives each service its settings, files and Secrets as its pod would. What is missing, malformed
    or misspelt is one line, with the Secret and the key. Connects to nothing, and prints no value
    of a Secret.

    Exit code 1 if a service would not start.
    """
    with explained("liveroom", "kubernetes"):
        from cli.manifests import STDIN, show_problems  # noqa: PLC0415 - see the package

    with explained_exit():
        raise typer.Exit(show_problems(files or [STDIN]))
