"""The command line: `liveroom demo | up | doctor | replay | watch | send | token | simulate |
loadtest | canary | top | pool | topics`.

It imports nothing at the top, so that `liveroom --help` is quick.
"""


def main() -> None:
    """Run the command line."""
    from cli.commands import app  # noqa: PLC0415 - an importer of one module needs no commands
    from liveroom.extras import explained  # noqa: PLC0415

    with explained("liveroom"):
        app()
