"""Lets a command see a number below zero, so that it can say what is wrong with it."""

import re
from typing import Any, Final

from typer.core import TyperCommand

_BELOW_ZERO: Final = re.compile(r"-\d+")


class Numbers(TyperCommand):
    """A command to which `-3` is an argument: its parser would say that there is no such option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; every other unknown option is refused as ever."""
        ctx.ignore_unknown_options = any(_BELOW_ZERO.fullmatch(arg) for arg in args)
        return super().parse_args(ctx, args)
