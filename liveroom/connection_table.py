"""Connections of callers in the order in which they came, in all and by caller, and how many of
them there may be. Pure.

`liveroom.connections` (HTTP connections) and `edge.tls_server` (handshakes) have them. What is
ended where there are too many is theirs to decide.
"""

from typing import Final, Generic, Protocol, TypeVar

END_AT_ONCE: Final = 256  # connections that one turn of the loop ends: each takes some 5 us, with TLS 20


class Counted(Protocol):
    """A connection. `key`: what it is counted for; None for one of a proxy of ours."""

    key: str | None


Connection = TypeVar("Connection", bound=Counted)
Reason = TypeVar("Reason")


class ConnectionTable(Generic[Connection, Reason]):
    """At most `most` connections, and `most_of_key` with the same key.

    `reason`, `reason_of_key`: the names of the two bounds. `all`: the connections, the oldest
    first. `of`: the same by key.
    """

    def __init__(self, most: int, most_of_key: int, reason: Reason, reason_of_key: Reason) -> None:
        self.all: dict[Connection, None] = {}
        self.of: dict[str, dict[Connection, None]] = {}
        self._most = most
        self._most_of_key = most_of_key
        self._reason = reason
        self._reason_of_key = reason_of_key

    def add(self, connection: Connection) -> None:
        """Take a connection in. Its key must stay the same until `remove`."""
        self.all[connection] = None
        if connection.key is not None:
            self.of.setdefault(connection.key, {})[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget a connection. Idempotent."""
        self.all.pop(connection, None)
        of_key = self.of.get(connection.key or "")
        if of_key is not None and connection in of_key:
            del of_key[connection]
            if not of_key:
                del self.of[connection.key or ""]

    def full(self, key: str | None) -> tuple[Reason, dict[Connection, None]] | None:
        """Return the bound that one more connection would exceed, and those that count for it."""
        of_key = self.of.get(key) if key is not None else None
        if of_key is not None and len(of_key) >= self._most_of_key:
            return self._reason_of_key, of_key
        return (self._reason, self.all) if len(self.all) >= self._most else None
