"""What each service reads and writes in Kafka: the one table of topics, groups and rights. Pure.

Owns the table, and the access rules (ACLs) that follow from it. Services create and check the
topics of their own row and no others. Programs of others that write to the uplink have rules of
their own (`writer_rules`). `liveroom acls` prints the rules as commands, docs/kafka.md shows the
table, and tests/e2e/test_access.py runs every service with its own user on a Kafka that allows it
these rules and nothing else.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Final, NamedTuple

from liveroom.topics import (
    ALL,
    AUDIT,
    BROADCAST,
    CONNECTION_ORDERS,
    CONNECTION_REPORTS,
    CONTROL,
    DEAD_LETTER,
    GATEWAYS,
    MODERATION,
    PRESENCE,
    REVOCATIONS,
    UPLINK,
    Topic,
)

USER_PREFIX: Final = "liveroom-"


class Access(NamedTuple):
    """The rights of one service. `groups`: the consumer groups that it joins.

    `creates`: whether it may create the topics that it reads or writes. All services do: they start
    in any order, and none waits for another one.
    """

    reads: tuple[Topic, ...]
    writes: tuple[Topic, ...]
    groups: tuple[str, ...] = ()
    creates: bool = True

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics that the service uses, in the order of `topics.ALL`."""
        return tuple(topic for topic in ALL if topic in self.reads or topic in self.writes)


OPERATOR: Final = "operator"
SERVICES: Final[Mapping[str, Access]] = {
    "ingress": Access(
        reads=(BROADCAST, MODERATION, PRESENCE, GATEWAYS, REVOCATIONS, CONNECTION_REPORTS),
        writes=(UPLINK, MODERATION, AUDIT, PRESENCE, REVOCATIONS, CONNECTION_ORDERS),
    ),
    "broadcaster": Access(
        reads=(UPLINK, BROADCAST, PRESENCE, GATEWAYS),
        writes=(BROADCAST, DEAD_LETTER),
        groups=("broadcaster",),
    ),
    "edge": Access(
        reads=(BROADCAST, MODERATION, CONTROL, REVOCATIONS, CONNECTION_ORDERS),
        writes=(PRESENCE, GATEWAYS, CONNECTION_REPORTS),
    ),
    "scheduler": Access(reads=(GATEWAYS, REVOCATIONS), writes=()),
    "autoscaler": Access(
        reads=(GATEWAYS, CONTROL, REVOCATIONS), writes=(CONTROL,), groups=("autoscaler", "autoscaler-dry-run")
    ),
}
# Operators read, with `liveroom topics`, and back up with Kafka's own tools; `liveroom dead-letters
# send-again` writes records again, and marks their letters.
USERS: Final[Mapping[str, Access]] = {**SERVICES, OPERATOR: Access(reads=ALL, writes=(UPLINK, DEAD_LETTER), creates=False)}


class Operation(Enum):
    """An operation of Kafka's access rules, by the name that its tools use."""

    READ = "Read"
    WRITE = "Write"
    DESCRIBE = "Describe"
    CREATE = "Create"


class Rule(NamedTuple):
    """What one user may do with some topics or, where `topics` is empty, with a group."""

    user: str
    operations: tuple[Operation, ...]
    topics: tuple[str, ...]
    group: str = ""


def user_of(service: str, user_prefix: str = USER_PREFIX) -> str:
    """Return the Kafka user of a service."""
    return f"{user_prefix}{service}"


def rules(prefix: str = "", user_prefix: str = USER_PREFIX) -> Iterator[Rule]:
    """Yield the access rules of all users. `prefix`: that of topics and groups.

    Nobody may change or delete a topic, or do anything with the cluster.
    """
    for name, access in USERS.items():
        user = user_of(name, user_prefix)
        more = (Operation.DESCRIBE, Operation.CREATE) if access.creates else (Operation.DESCRIBE,)
        for operation, some in ((Operation.WRITE, access.writes), (Operation.READ, access.reads)):
            if some:
                yield Rule(user, (operation, *more), tuple(prefix + topic.name for topic in some))
        for group in access.groups:
            yield Rule(user, (Operation.READ,), (), prefix + group)


def writer_rules(users: Iterable[str], prefix: str = "") -> Iterator[Rule]:
    """Yield the access rule of each of these Kafka users, who write to the uplink and do nothing
    else.

    That suffices for an idempotent producer, since Kafka 3.0. `prefix`: that of the topic.
    """
    for user in users:
        yield Rule(user, (Operation.WRITE, Operation.DESCRIBE), (prefix + UPLINK.name,))


def commands(rules: Iterable[Rule]) -> Iterator[str]:
    """Yield a shell command of Kafka's own tools for each rule.

    They expect the brokers in `$KAFKA`, and the settings of an administrator in
    `admin.properties`.
    """
    for rule in rules:
        words = [f"--allow-principal {shlex.quote(f'User:{rule.user}')}"]  # a user of mutual TLS has spaces in its name
        words += [f"--operation {operation.value}" for operation in rule.operations]
        words += [f"--topic {topic}" for topic in rule.topics] or [f"--group {rule.group}"]
        yield f'kafka-acls.sh --bootstrap-server "$KAFKA" --command-config admin.properties --add {" ".join(words)}'
