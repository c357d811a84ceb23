"""The command line: `liveroom demo | up | doctor | replay | watch | send | simulate | pool | top |
canary | token | topics`.

Kept light: `liveroom --help` is to be quick.
"""


def main() -> None:
    """Run the command line."""
    from cli.commands import app  # noqa: PLC0415 - whoever imports a part of this needs no commands
    from liveroom.extras import explained  # noqa: PLC0415

    with explained("liveroom"):
        app()
