"""A broker of the local Kafka with another port, at which it asks for a user and a password, and
access rules for its users.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from aiokafka.conn import create_conn
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int8, Int16, Int32, Schema, String

from devstack.broker import Broker, Launch
from devstack.local_kafka import LocalKafka
from liveroom.access import Operation, Rule
from liveroom.ports import HOST, free_ports

_LISTENER: Final = """
listeners={listeners},LOCKED://{host}:{port}
advertised.listeners={advertised},LOCKED://{host}:{port}
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOCKED:SASL_PLAINTEXT
"""
PLAIN: Final = """
listener.name.locked.sasl.enabled.mechanisms=PLAIN
listener.name.locked.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
  user_liveroom="right";
"""
# Whoever comes to the port without passwords is nobody and may do everything, like an
# administrator. Whoever comes to the locked one may do what the access rules allow.
SCRAM_WITH_RULES: Final = """
listener.name.locked.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.locked.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""


class LockedKafka(LocalKafka):
    """A cluster of one broker. `locked` is the address of its port with passwords.

    `properties` are added to the broker's settings; `users`: names and passwords for SCRAM.
    """

    locked = ""

    def __init__(self, properties: str, users: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._properties = properties
        self._users = dict(users or {})

    def _lay_out(self, folder: Path, launch: Launch) -> list[Broker]:
        brokers = super()._lay_out(folder, launch)
        for broker in brokers:
            (port,) = free_ports(1)
            self.locked = f"{HOST}:{port}"
            broker.scram_users = self._users
            file = broker.folder / "server.properties"
            said = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
            more = _LISTENER.format(listeners=said["listeners"], advertised=said["advertised.listeners"], host=HOST, port=port)
            file.write_text(file.read_text() + more + self._properties)
        return brokers


class _CreateAclsResponse(Response):  # type: ignore[misc]
    API_KEY = 30
    API_VERSION = 1
    SCHEMA = Schema(("throttle_time_ms", Int32), ("results", Array(("error_code", Int16), ("error_message", String("utf-8")))))


class _CreateAclsV1(RequestStruct):  # type: ignore[misc]
    API_KEY = 30
    API_VERSION = 1
    RESPONSE_TYPE = _CreateAclsResponse
    SCHEMA = Schema(
        (
            "creations",
            Array(
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
                ("resource_pattern_type", Int8),
                ("principal", String("utf-8")),
                ("host", String("utf-8")),
                ("operation", Int8),
                ("permission_type", Int8),
            ),
        )
    )


class _CreateAcls(Request[_CreateAclsV1]):  # type: ignore[misc]
    API_KEY = 30

    def __init__(self, creations: Sequence[tuple[int, str, int, str, str, int, int]]) -> None:
        self._creations = list(creations)

    def build(self, request_struct_class: type[_CreateAclsV1]) -> _CreateAclsV1:
        return request_struct_class(self._creations)


_TOPIC, _GROUP, _LITERAL, _ALLOW = 2, 3, 3, 3
_OPERATIONS: Final = {Operation.READ: 3, Operation.WRITE: 4, Operation.CREATE: 5, Operation.DESCRIBE: 8}


async def allow(bootstrap: str, rules: Iterable[Rule]) -> None:
    """Do what the commands of `liveroom acls` do: the local Kafka comes without Kafka's tools."""
    creations = [
        (kind, name, _LITERAL, f"User:{rule.user}", "*", _OPERATIONS[operation], _ALLOW)
        for rule in rules
        for kind, name in [*((_TOPIC, topic) for topic in rule.topics), *([(_GROUP, rule.group)] if rule.group else [])]
        for operation in rule.operations
    ]
    host, _, port = bootstrap.partition(":")
    connection = await create_conn(host, int(port), client_id="tests")
    try:
        answer = await connection.send(_CreateAcls(creations))
    finally:
        connection.close()
    assert [result for result in answer.results if result[0]] == []
