"""A client of the ingress's commands for operators, for `liveroom revoke` and `connections`."""

from http import HTTPStatus
from typing import Any, Final

import aiohttp
import orjson

from cli.endpoints import Endpoints, UsageError, make_user, need_ingress
from cli.refusals import words_of
from liveroom.errors import ExplainedError, in_words
from liveroom.kinds import Role
from liveroom.users import USER_ID, UserIdError, user_id
from viewer.problem import read_problem

TIMEOUT_S: Final = 10.0


class CommandError(ExplainedError):
    """The ingress does not answer, or refuses; the message says why."""


def target(text: str) -> str:
    """Return the user id of a user: `text` is one, or names the user as an identity service does.

    Raises UsageError where the text has no user id.
    """
    if USER_ID.match(text):
        return text
    try:
        return user_id(text)
    except UserIdError as error:
        raise UsageError(str(error)) from None


async def command(
    endpoints: Endpoints, operator: str, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Give a command to the ingress and return its answer.

    `operator` is the text that names the operator, as an identity service would; `path` is what
    follows `/v1/`. Raises CommandError where the ingress does not answer or refuses, and UsageError
    where the ingress or a token is not known.
    """
    url = f"{need_ingress(endpoints)}/v1/{path}"
    headers = {"Authorization": f"Bearer {endpoints.token_for(make_user(operator, Role.OPERATOR.value))}"}
    limit = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=limit) as http,
            http.request(method, url, json=body) as answer,
        ):
            text = await answer.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise CommandError(f"the ingress does not answer at {url}: {in_words(error)}") from None
    if answer.status >= HTTPStatus.BAD_REQUEST:
        raise CommandError(f"the ingress refuses: {words_of(read_problem(answer.status, answer.headers, text))}")
    try:
        found = orjson.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CommandError(f"no ingress answers at {url}, but another service: its answer is no JSON object")
    return found
