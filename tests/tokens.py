"""Reading user tokens back."""

import time

from liveroom.tickets import User
from liveroom.tokens import Verifier, secret


def verify_user(token: str, key: bytes, leeway_s: float = 30) -> User:
    return Verifier([secret(key)], leeway_s).verify(token, time.time())
