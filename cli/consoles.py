"""The consoles that commands print tables and lines on."""

import sys

from rich.console import Console


def plain_console(*, piped_width: int | None = None, soft_wrap: bool = False) -> Console:
    """Return a console that prints every text as it is: no markup, no names of emoji.

    Texts of others stand in the tables, and `[/b]` in one would end the command. `piped_width`: in
    characters, where the output is no terminal; None: rich's own.
    """
    width = None if sys.stdout.isatty() else piped_width
    return Console(width=width, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)
