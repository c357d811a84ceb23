"""Names the variables LIVEROOM_... that nothing reads, at the start of every command.

Owns what that costs: a shell without any such variable, or with those of commands alone, pays
nothing. The names of the services' settings are known where `liveroom[server]` is installed.
"""

import os
import sys

from liveroom.variables import BESIDE_SETTINGS, CLIENTS, CONFIG, SECRETS, nearest, set_variables


def tell_unknown() -> None:
    """Print a line on the error stream for each name that is no setting, with the nearest one."""
    for line in _unknown():
        print(f"liveroom: {line}", file=sys.stderr)


def _unknown() -> list[str]:
    others = [name for name in set_variables(os.environ) if name.upper() not in BESIDE_SETTINGS]
    if not others and not {CONFIG, SECRETS} & os.environ.keys():
        return []
    try:
        from liveroom.setting_sources import unknown  # noqa: PLC0415 - slow, and an extra
    except ModuleNotFoundError:  # a client's installation knows no settings of services
        near = {name: nearest(name.upper(), CLIENTS) for name in others}
        return [f"{name} is no variable of a command; is it {like}?" for name, like in near.items() if like]
    return [str(one) for one in unknown()]
