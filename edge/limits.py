"""The limits of a gateway that refuse connections and joins, by name. Pure.

Owns the names, which are the reasons in the metric `edge_limited_total`, and the texts for people.
`edge.admission` and `edge.joins` refuse; `edge.pull_limits` has those of pulls.
"""

from enum import StrEnum
from typing import Final


class Limit(StrEnum):
    """The limit that refused a connection or a join."""

    USER_CONNECTIONS = "user_connections"
    ADDRESS_CONNECTIONS = "address_connections"
    GATEWAY_CONNECTIONS = "gateway_connections"
    USER_CONNECTS = "user_connects"
    ADDRESS_CONNECTS = "address_connects"
    GATEWAY_CONNECTS = "gateway_connects"
    ADDRESS_BAD_TICKETS = "address_bad_tickets"
    CONNECTION_JOINS = "connection_joins"
    USER_JOINS = "user_joins"
    ADDRESS_JOINS = "address_joins"
    CONNECTION_ROOMS = "connection_rooms"
    USER_ROOMS = "user_rooms"
    ADDRESS_ROOMS = "address_rooms"
    GATEWAY_ROOMS = "gateway_rooms"


DETAILS: Final = {
    Limit.USER_CONNECTIONS: "this user has too many connections, on all its devices",
    Limit.ADDRESS_CONNECTIONS: "too many connections from this address",
    Limit.GATEWAY_CONNECTIONS: "this gateway has as many connections as it can carry",
    Limit.USER_CONNECTS: "this user connects too often, on all its devices",
    Limit.ADDRESS_CONNECTS: "too many new connections from this address",
    Limit.GATEWAY_CONNECTS: "too many connections arrive at once",
    Limit.CONNECTION_JOINS: "this connection joins too often",
    Limit.USER_JOINS: "this user joins too often, on all its devices",
    Limit.ADDRESS_JOINS: "too many joins from this address",
    Limit.CONNECTION_ROOMS: "this connection is in too many rooms",
    Limit.USER_ROOMS: "this user is in too many rooms, on all its devices",
    Limit.ADDRESS_ROOMS: "too many new rooms from this address",
    Limit.GATEWAY_ROOMS: "this gateway has as many rooms as it can carry",
}
