"""`liveroom send`: sends one danmaku and prints the answer."""

import aiohttp
import msgspec

from cli.endpoints import Endpoints, UsageError, make_user, need_ingress
from cli.refusals import words_of
from liveroom.bodies import Danmaku
from viewer.problem import ServiceError
from viewer.sender import Refused, Sender, check


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
    try:
        print(f"accepted: {check(answer).id}")
    except ServiceError as error:
        print(f"{'refused' if isinstance(answer, Refused) else 'unknown, it may have been accepted'}: {words_of(error)}")
        return 1
    return 0
