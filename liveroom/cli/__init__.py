"""The command line: `liveroom demo | up | doctor | replay | watch | send | token | topics`.

Kept light: the tether that guards child processes lives here and must start fast.
"""


def main() -> None:
    """Run the command line."""
    from liveroom.cli.commands import app  # noqa: PLC0415 - children start faster without it

    app()
