"""The environment variables named LIVEROOM_... that are no settings of a service.

Owns their names and what each is for, so that a name nobody knows can be told from one of these.
Commands, programs and tests read them where they need them. Pure, and imported at every start of a
command, so it imports nothing that is slow.
"""

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Final

PREFIX: Final = "LIVEROOM_"
CONFIG: Final = "LIVEROOM_CONFIG"
LIMITS: Final = "LIVEROOM_LIMITS"
SECRETS: Final = "LIVEROOM_SECRETS"
UP_KAFKA: Final = "LIVEROOM_UP_KAFKA"

SOURCES: Final = {
    CONFIG: "TOML file with settings.",
    LIMITS: "JSON file with the limits of a gateway, as `liveroom loadtest --limits` writes it.",
    SECRETS: "Folder with one file per secret setting, named like its variable in lower case.",
}
# What commands take, and `liveroom up --env` gives.
CLIENTS: Final = {
    "LIVEROOM_INGRESS_URL": "Address of the ingress.",
    "LIVEROOM_SCHEDULER_URL": "Address of the scheduler.",
    "LIVEROOM_AUTOSCALER_URL": "Address of the autoscaler.",
    "LIVEROOM_TOKEN_KEY": "HS256 key that signs user tokens.",
    "LIVEROOM_TOKEN": "A user token, used as it is.",
}
EXPORTED: Final = {
    "LIVEROOM_PAGE_URL": "Address of the pages for viewers, hosts and operators.",
    "LIVEROOM_EDGE_URL": "Public address of the first gateway.",
    "LIVEROOM_INGRESS_INTERNAL_URL": "Internal address of the ingress: /livez, /readyz, /metrics, /debug.",
    "LIVEROOM_BROADCASTER_INTERNAL_URL": "Likewise of the broadcaster.",
    "LIVEROOM_EDGE_INTERNAL_URL": "Likewise of the first gateway.",
    "LIVEROOM_SCHEDULER_INTERNAL_URL": "Likewise of the scheduler.",
    "LIVEROOM_AUTOSCALER_INTERNAL_URL": "Likewise of the autoscaler.",
    UP_KAFKA: "Address of the Kafka that `liveroom up` started; the next start knows by it that it is to start one anew.",
}
MACHINE: Final = {
    "LIVEROOM_RUNTIME_DIR": "Folder by which commands find the running systems of this user.",
    "LIVEROOM_CACHE_DIR": "Folder of downloads; default: the platform's cache folder.",
    "LIVEROOM_MAVEN_URL": "Maven repository from which Kafka's jars come.",
    "LIVEROOM_NODE": "Node of this pod, for the program that writes a gateway's address down on Kubernetes.",
    "LIVEROOM_ADDRESS_RULE": "Rule by which that program makes the address of a node.",
    "LIVEROOM_PROMETHEUS": "Program of Prometheus, for `liveroom up --with-prometheus`.",
}
# Of this project's own tests, which start services with their environment.
TESTS: Final = (
    *("LIVEROOM_CHROMIUM", "LIVEROOM_PROMTOOL", "LIVEROOM_KUBECTL", "LIVEROOM_CURL", "LIVEROOM_NPM", "LIVEROOM_GO"),
    *("LIVEROOM_HAPROXY", "LIVEROOM_NGINX", "LIVEROOM_HITCH"),
    *("LIVEROOM_FAULT_ROUNDS", "LIVEROOM_FAULT_SEED", "LIVEROOM_SCREENSHOTS", "LIVEROOM_BARE"),
)
BESIDE_SETTINGS: Final = frozenset({*SOURCES, *CLIENTS, *EXPORTED, *MACHINE, *TESTS})

_ALIKE: Final = 0.7  # of 1; ORIGIN and ORIGINS have 0.92
_SERVICE_LINK: Final = re.compile(r"(LIVEROOM_\w*?)_(?:SERVICE_(?:HOST|PORT\w*)|PORT\w*)")


def set_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the names LIVEROOM_... in an environment, in any case, sorted.

    Kubernetes gives pods variables for every Service of their namespace. Those of one that is named
    `liveroom-...` are left out.
    """
    names = sorted(name for name in environment if name.upper().startswith(PREFIX))
    return [name for name in names if not _is_of_a_service_link(name, environment)]


def _is_of_a_service_link(name: str, environment: Mapping[str, str]) -> bool:
    link = _SERVICE_LINK.fullmatch(name)
    return link is not None and f"{link[1]}_SERVICE_HOST" in environment


def nearest(name: str, known: Collection[str]) -> str:
    """Return the known name that is most like `name`; empty where none is.

    The prefix that all of them have makes no two alike.
    """
    bare = {one.removeprefix(PREFIX): one for one in known}
    return next((bare[like] for like in difflib.get_close_matches(name.removeprefix(PREFIX), bare, 1, _ALIKE)), "")
