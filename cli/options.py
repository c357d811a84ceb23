"""The options that several commands have.

Owns their names, environment variables and help, all pinned: scripts rely on them. It is imported
at every start, so it imports nothing that is slow.
"""

from typing import Annotated

import typer

Ingress = Annotated[
    str,
    typer.Option(
        envvar="LIVEROOM_INGRESS_URL", metavar="URL", help="address of the ingress; default: your running demo's or up's"
    ),
]
Scheduler = Annotated[
    str,
    typer.Option(
        envvar="LIVEROOM_SCHEDULER_URL", metavar="URL", help="address of the scheduler; default: your running demo's or up's"
    ),
]
Autoscaler = Annotated[
    str,
    typer.Option(
        envvar="LIVEROOM_AUTOSCALER_URL", metavar="URL", help="address of the autoscaler; default: your running demo's or up's"
    ),
]
TokenKey = Annotated[
    str,
    typer.Option(
        envvar="LIVEROOM_TOKEN_KEY", metavar="KEY", help="key that signs user tokens; default: your running demo's or up's"
    ),
]
Token = Annotated[
    str, typer.Option(envvar="LIVEROOM_TOKEN", metavar="JWT", help="a user token, sent as it is instead of a signed one")
]
Kafka = Annotated[
    str,
    typer.Option(
        envvar="KAFKA_BOOTSTRAP", metavar="HOST:PORT", help="a broker of the cluster; default: your running demo's or up's"
    ),
]
Prefix = Annotated[
    str | None, typer.Option(metavar="TEXT", help="prefix of the topics' names; default: LIVEROOM_KAFKA__PREFIX")
]
Partitions = Annotated[int, typer.Option(min=1, max=1024, help="partitions of the topics that hold rooms")]
Edges = Annotated[int, typer.Option(min=1, max=64, help="number of gateways")]
PagePort = Annotated[
    int, typer.Option(min=0, max=65_535, help="port of the page, 0 for any; if it is taken, a free one serves")
]
OpenPage = Annotated[bool, typer.Option("--open", help="open the page in your browser")]
KeepLogs = Annotated[bool, typer.Option("--keep-logs", help="keep the services' logs after the end")]
Room = Annotated[str, typer.Option("--room", "-r", metavar="ID", help="room id: 1 to 64 of A-Z a-z 0-9 _ -")]
RoomArgument = Annotated[str, typer.Argument(metavar="ROOM", help="room id: 1 to 64 of A-Z a-z 0-9 _ -")]
