"""Serves the pages of the demo: the files, the addresses they need, and tokens.

Owns the pages' HTTP headers and `POST /demo/token`, which stands in for an identity service: it
signs a token for any name and role. So it listens on 127.0.0.1 only, and refuses requests that
other pages or rebound names send. `up` and `demo` call it.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from devstack.builds import ROOT
from liveroom import clock
from liveroom.chance import Chance, SystemChance
from liveroom.errors import Code, ProblemError
from liveroom.kinds import HOSTS_OF_ROOMS, Role
from liveroom.nesting import UNDECODABLE
from liveroom.ports import HOST
from liveroom.texts import is_visible
from liveroom.tickets import User
from liveroom.tokens import sign_user
from liveroom.topics import ROOM_ID
from liveroom.web import is_own_origin, json_response, problems, request_ids

FOLDER: Final = ROOT / "viewer" / "web"
TYPES: Final = {".html", ".js", ".css", ".svg", ".txt"}
HEADERS: Final = {
    # Services start after the page, and gateways come and go: connections to any port of this
    # machine.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    f" connect-src 'self' http://{HOST}:* ws://{HOST}:*; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
TOKEN_TTL_S: Final = 3600
ROLES: Final = {Role.VIEWER: "guest", Role.STREAMER: "streamer", Role.MODERATOR: "moderator", Role.OPERATOR: "operator"}
RETRY_AFTER_S: Final = 1.0
_MAX_BODY_BYTES: Final = 1024
_MAX_NAME_CHARS: Final = 32

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class PageState:
    """What the page shows; the addresses are None until the services are ready."""

    token_key: str
    rooms: list[str]
    ingress: str | None = None
    scheduler: str | None = None
    autoscaler: str | None = None
    issued: int = field(default=0)


class _TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    user: str = ""
    role: Role = Role.VIEWER
    room: str = ""


def make_page(state: PageState, chance: Chance | None = None) -> web.Application:
    """Return the app that serves the pages. `chance` draws user ids; None: the system's."""
    source = chance or SystemChance()
    layers = [request_ids(source), _headers, problems(), _own_pages_only]
    app = web.Application(middlewares=layers, client_max_size=_MAX_BODY_BYTES)

    async def config(_: web.Request) -> web.Response:
        if state.ingress is None or state.scheduler is None:
            raise ProblemError(Code.NOT_READY, retry_after_s=RETRY_AFTER_S)
        about = {"ingress": state.ingress, "scheduler": state.scheduler, "autoscaler": state.autoscaler, "rooms": state.rooms}
        return json_response(msgspec.json.encode(about))

    async def token(request: web.Request) -> web.Response:
        if state.ingress is None:
            raise ProblemError(Code.NOT_READY, retry_after_s=RETRY_AFTER_S)
        asked = await _asked(request)
        name = " ".join(asked.name.split())[:_MAX_NAME_CHARS]
        if not is_visible(name):
            raise ProblemError(Code.SCHEMA, "a name is needed - at `$.name`")
        user = _user(asked, name, source)
        state.issued += 1
        signed = sign_user(user, state.token_key.encode(), int(clock.unix_s()), TOKEN_TTL_S)
        return json_response(msgspec.json.encode({"user": user.id, "name": name, "token": signed, "ttl_s": TOKEN_TTL_S}))

    for file in sorted(FOLDER.rglob("*")):
        if file.suffix in TYPES:
            app.router.add_get(f"/{file.relative_to(FOLDER).as_posix()}", _file(file))
    app.router.add_get("/", _file(FOLDER / "index.html"))
    app.router.add_get("/demo/config", config)
    app.router.add_post("/demo/token", token)
    return app


async def _asked(request: web.Request) -> _TokenRequest:
    if request.content_type != "application/json":  # what a foreign page could send without asking (CORS)
        raise ProblemError(Code.UNSUPPORTED_MEDIA_TYPE)
    try:
        return msgspec.json.decode(await request.read(), type=_TokenRequest)
    except msgspec.ValidationError as error:
        raise ProblemError(Code.SCHEMA, str(error)) from None
    except UNDECODABLE as error:
        raise ProblemError(Code.BAD_JSON, str(error)) from None


def _user(asked: _TokenRequest, name: str, chance: Chance) -> User:
    """Return the user of a token: the same as before, or a new one, but no user of the demo's play.

    A host gets a token for its room only.
    """
    if asked.role not in ROLES:
        raise ProblemError(Code.SCHEMA, f"one of {', '.join(ROLES.values())} - at `$.role`")
    if asked.role in HOSTS_OF_ROOMS and not ROOM_ID.match(asked.room):
        raise ProblemError(Code.SCHEMA, "a host needs a room - at `$.room`")
    kind = ROLES[asked.role]
    own = re.fullmatch(rf"{kind}-[0-9a-f]{{1,64}}", asked.user)
    rooms = (asked.room,) if asked.role in HOSTS_OF_ROOMS else None
    return User(asked.user if own else f"{kind}-{chance.token_hex(4)}", asked.role, name=name, rooms=rooms)


def _file(path: Path) -> Handler:
    async def serve_file(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(path)

    return serve_file


@web.middleware
async def _own_pages_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse requests of foreign pages, and those to a rebound name (DNS rebinding)."""
    name = request.host.rpartition(":")[0] or request.host
    if name not in {HOST, "localhost"}:
        raise ProblemError(Code.ORIGIN, "the page is served as 127.0.0.1 and localhost only")
    origin = request.headers.get("Origin")
    if origin is not None and not is_own_origin(origin, request.host):
        raise ProblemError(Code.ORIGIN)
    return await handler(request)


@web.middleware
async def _headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.headers.update(HEADERS)
    return response
