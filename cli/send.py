"""`liveroom send`: sends one danmaku and prints the answer."""

import aiohttp
import msgspec

from cli.endpoints import Endpoints, UsageError, make_user, need_ingress
from cli.printable import printable
from liveroom.bodies import Danmaku
from liveroom.errors import TABLE, Code
from viewer.sender import Accepted, Refused, Sender, Unknown


async def run_send(room: str, text: str, endpoints: Endpoints, *, user: str, name: str) -> int:
    """Send one danmaku and return the exit code: 1 if it was not accepted."""
    try:
        for given in (text, name):
            given.encode()
        body = msgspec.convert({"text": text}, Danmaku)
    except UnicodeEncodeError:
        raise UsageError("the text is not in the encoding of this terminal") from None
    except msgspec.ValidationError:
        raise UsageError(f"a danmaku has 1 to 200 characters; this one has {len(text)}") from None
    ingress, token = need_ingress(endpoints), endpoints.token_for(make_user(user, name=name))
    async with aiohttp.ClientSession() as http:
        answer = await Sender(ingress, token, http).send(room, "danmaku", msgspec.to_builtins(body))
    match answer:
        case Accepted():
            print(f"accepted: {answer.id}")
            return 0
        case Refused():
            print(printable(f"refused: {answer.code}{_title(answer.code)}"))
        case Unknown():
            print(printable(f"unknown, it may have been accepted: {answer.why}"))
    return 1


def _title(code: str) -> str:
    try:
        return f" ({TABLE[Code(code)].title})"
    except ValueError:
        return ""
